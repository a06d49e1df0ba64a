import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets as tv

from jellyplus._errors import InputError
from jellyplus.datasets import budget, load
from jellyplus.datasets import mnist as mnist_module

REAL = Path(__file__).parents[3] / "shared" / "data"  # beside the checkout, where there is one
EXAMPLES = {"train": 12, "t10k": 10}
IMAGES = "train-images-idx3-ubyte"
LABELS = "train-labels-idx1-ubyte"


def idx(array, magic=None):
    """The published format: magic number, sizes, bytes in C order."""
    magic = 0x800 + array.ndim if magic is None else magic
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.astype(np.uint8).tobytes()


def write(root, suffix=""):
    """Four files of random pixels; returns what was written: {"train" or "t10k": (pixels [n, 28, 28], labels [n])}."""
    draw, written = np.random.default_rng(0), {}
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split, n in EXAMPLES.items():
        written[split] = draw.integers(0, 256, (n, 28, 28), dtype=np.uint8), np.arange(n) % 10
        for name, array in zip(("images-idx3", "labels-idx1"), written[split], strict=True):
            put(raw / f"{split}-{name}-ubyte{suffix}", idx(array))
    return written


def put(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def refusal(root):
    with pytest.raises(InputError) as caught:
        load("mnist", None if root is None else str(root))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("root", ["", "MNIST", "MNIST/raw"])
def test_idx_files(tmp_path, root, suffix):
    written = write(tmp_path, suffix)
    data = load("mnist", str(tmp_path / root))
    for split, (pixels, labels) in ((data.train, written["train"]), (data.test, written["t10k"])):
        assert (split.inputs.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
        assert split.inputs.shape == (len(labels), 1, 28, 28)
        assert split.inputs[:, 0].tolist() == pixels.tolist()
        assert split.labels.tolist() == labels.tolist()
    assert (data.name, data.kind, data.stand_in, data.classes) == ("mnist", "images", False, 10)
    assert (data.mean, data.std) == ((0.1307,), (0.3081,))
    assert data.counts()["train"] == {"examples": 12, "per_class_min": 1, "per_class_max": 2}
    assert data.counts()["source"] == "IDX files MNIST/raw"


def test_unpacked_and_gzipped_files_may_be_mixed(tmp_path):
    written = write(tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    put(raw / f"{LABELS}.gz", (raw / LABELS).read_bytes())
    (raw / LABELS).unlink()
    assert load("mnist", str(tmp_path)).train.labels.tolist() == written["train"][1].tolist()


def test_it_is_what_torchvision_reads(tmp_path):
    write(tmp_path)
    data = load("mnist", str(tmp_path))
    for train, split in ((True, data.train), (False, data.test)):
        reference = tv.MNIST(tmp_path, train=train, download=False)
        assert torch.equal(split.inputs[:, 0], reference.data)
        assert torch.equal(split.labels, reference.targets)


@pytest.mark.skipif(not (REAL / "MNIST" / "raw").is_dir(), reason=f"{REAL} holds no MNIST")
def test_the_real_files():
    """60,000 and 10,000 images; the smallest and the largest class, mean and deviation are MNIST's published ones."""
    data = load("mnist", str(REAL))
    assert data.counts()["train"] == {"examples": 60_000, "per_class_min": 5421, "per_class_max": 6742}
    assert data.counts()["test"] == {"examples": 10_000, "per_class_min": 892, "per_class_max": 1135}
    assert data.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    std, mean = torch.std_mean(data.train.inputs / 255.0)
    assert (mean.item(), std.item()) == pytest.approx((*data.mean, *data.std), abs=5e-5)


@pytest.mark.parametrize("root", [None, ""])
def test_no_root(root):
    assert "--data-root" in refusal(root)


def test_missing_root(tmp_path):
    assert f"{tmp_path / 'absent'} is not a readable folder" in refusal(tmp_path / "absent")


def test_empty_root(tmp_path):
    assert f"{tmp_path} is empty" in refusal(tmp_path)


def test_root_with_something_else(tmp_path):
    """FashionMNIST's files have the same names, so that the folder's name decides."""
    write(tmp_path)
    (tmp_path / "MNIST").rename(tmp_path / "FashionMNIST")
    for root in ("", "FashionMNIST", "FashionMNIST/raw"):
        message = refusal(tmp_path / root)
        assert "mnist needs MNIST/raw/*-ubyte or MNIST/raw/*-ubyte.gz" in message
        assert "holds neither" in message


def test_root_with_another_data_set(tmp_path):
    (tmp_path / "cifar10" / "train").mkdir(parents=True)
    assert "holds CIFAR-10 images;" in refusal(tmp_path)


@pytest.mark.parametrize("name", [IMAGES, LABELS, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_file_is_missing(tmp_path, name):
    write(tmp_path)
    path = tmp_path / "MNIST" / "raw" / name
    path.unlink()
    assert f"{path} is missing" in refusal(tmp_path)


def test_mnist_without_raw(tmp_path):
    (tmp_path / "MNIST").mkdir()
    assert f"{tmp_path / 'MNIST' / 'raw' / IMAGES} is missing" in refusal(tmp_path)


@pytest.mark.parametrize("cut", [0, 3, 15, 16, 16 + 784, -1])
def test_a_truncated_file(tmp_path, cut):
    write(tmp_path)
    path = tmp_path / "MNIST" / "raw" / IMAGES
    path.write_bytes(path.read_bytes()[:cut])
    message = refusal(tmp_path)
    assert str(path) in message
    if cut == -1:
        assert f"has {15 + 12 * 784:,} bytes where its head says {16 + 12 * 784:,};" in message


def test_a_file_with_something_behind_it(tmp_path):
    write(tmp_path)
    path = tmp_path / "MNIST" / "raw" / LABELS
    path.write_bytes(path.read_bytes() + b"\0")
    assert f"{path} has 21 bytes where its head says 20;" in refusal(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flipped", "no such block", "not gzip", "empty"])
def test_a_damaged_gzip_file(tmp_path, damage):
    write(tmp_path, ".gz")
    path = tmp_path / "MNIST" / "raw" / f"{IMAGES}.gz"
    packed = path.read_bytes()
    broken = {
        "cut": packed[:-9],
        "flipped": packed[:300] + bytes([packed[300] ^ 255]) + packed[301:],
        "no such block": packed[:10] + b"\xff" + packed[11:],  # the first byte behind gzip's head
        "empty": b"",
    }
    path.write_bytes(broken.get(damage, b"not gzip"))
    message = refusal(tmp_path)
    assert str(path) in message
    assert "put the original in its place" in message


@pytest.mark.parametrize("magic", [0x801, 0x804, 0x903, 0xD03, 0x03080000])
def test_another_magic_number(tmp_path, magic):
    """Labels, four dimensions, signed bytes, floats, the other byte order."""
    write(tmp_path)
    path = tmp_path / "MNIST" / "raw" / IMAGES
    path.write_bytes(idx(np.zeros((12, 28, 28)), magic))
    assert f"{path} does not begin as MNIST's files do, with 0, 0, 8, 3 and the sizes;" in refusal(tmp_path)


def test_images_and_labels_swapped(tmp_path):
    write(tmp_path)
    path = tmp_path / "MNIST" / "raw" / LABELS
    path.write_bytes((path.parent / IMAGES).read_bytes())
    assert f"{path} does not begin as MNIST's files do, with 0, 0, 8, 1 and the sizes;" in refusal(tmp_path)


@pytest.mark.parametrize("shape", [(12, 32, 32), (12, 28, 27), (12, 27, 28), (0, 28, 28)])
def test_images_of_another_size(tmp_path, shape):
    write(tmp_path)
    path = tmp_path / "MNIST" / "raw" / IMAGES
    path.write_bytes(idx(np.zeros(shape)))
    n, height, width = shape
    assert f"{path} holds {n} images of {width}x{height} pixels: give MNIST's own files" in refusal(tmp_path)


@pytest.mark.parametrize("labels", [11, 13])
def test_images_and_labels_differ_in_number(tmp_path, labels):
    write(tmp_path)
    path = tmp_path / "MNIST" / "raw" / LABELS
    path.write_bytes(idx(np.zeros(labels)))
    message = refusal(tmp_path)
    assert f"{path.parent / IMAGES} holds 12 images and {LABELS} {labels} labels;" in message


@pytest.mark.parametrize("label", [10, 255])
def test_a_label_that_is_no_digit(tmp_path, label):
    write(tmp_path)
    path = tmp_path / "MNIST" / "raw" / LABELS
    path.write_bytes(idx(np.array([0] * 11 + [label])))
    assert f"{path} holds the label {label}, not 0 to 9" in refusal(tmp_path)


def test_a_gzip_file_unpacks_to_a_hundred_times_its_size_at_most_and_is_not_read_further(tmp_path, monkeypatch):
    """3 MB could become 3 GiB; here 4 million bytes from some 4,000."""
    write(tmp_path)
    (path := tmp_path / "MNIST" / "raw" / IMAGES).unlink()
    packed = gzip.compress(idx(np.zeros((5103, 28, 28))))
    (gz := path.with_name(f"{IMAGES}.gz")).write_bytes(packed)
    tracemalloc.start()
    try:
        assert f"{gz} has 4,000,752 bytes by its head, more than 1,048,576," in refusal(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()
    monkeypatch.setattr(mnist_module, "UNPACKED", budget.Budget(4 * 12 * 784 - 4))
    gz.write_bytes(gzip.compress(idx(np.zeros((12, 28, 28)))))
    assert "has 9,408 bytes by its head, more than 9,407," in refusal(tmp_path)


def test_what_lies_behind_the_bytes_that_the_head_says_is_not_unpacked(tmp_path):
    write(tmp_path)
    (path := tmp_path / "MNIST" / "raw" / IMAGES).unlink()
    path.with_name(f"{IMAGES}.gz").write_bytes(gzip.compress(idx(np.zeros((12, 28, 28))) + bytes(30_000_000)))
    tracemalloc.start()
    try:
        assert f"has {17 + 12 * 784:,} bytes where its head says {16 + 12 * 784:,};" in refusal(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
