import hashlib
import pickle

import numpy as np
import pytest
import torch
import torchvision.datasets as tv
from PIL import Image

from jellyplus._errors import InputError
from jellyplus.datasets import load

NAMES = [f"class{i:02}" for i in range(10)]
HUNDRED = [f"class{i:02}" for i in range(100)]


def write_images(folder, classes=NAMES, per_class=2, size=32, splits=("train", "test")):
    """Random PNGs; returns what was written, in order: {split: [(pixels [H, W, 3], class), ...]}."""
    draw = np.random.default_rng(0)
    written = {}
    for split in splits:
        written[split] = []
        for label, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(per_class):
                pixels = draw.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
                written[split].append((pixels, label))
    return written


def write_batches(root, kind, n=5):
    """The official layout with some random images per batch; returns {split: [(pixels [3, 32, 32], class), ...]}."""
    draw = np.random.default_rng(0)
    labels_key = "labels" if kind is tv.CIFAR10 else "fine_labels"
    classes = NAMES if kind is tv.CIFAR10 else HUNDRED
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    written = {"train": [], "test": []}
    for split, files in (("train", kind.train_list), ("test", kind.test_list)):
        for name, _ in files:
            data = draw.integers(0, 256, (n, 3072), dtype=np.uint8)
            labels = draw.integers(0, len(classes), n).tolist()
            (folder / name).write_bytes(pickle.dumps({"data": data, labels_key: labels}))
            written[split] += list(zip(data.reshape(n, 3, 32, 32), labels, strict=True))
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: classes}))
    return written


def trust(folder, kind, monkeypatch):
    """Put the generated files' MD5 sums in the place of the published ones; torchvision still checks them."""

    def md5(name):
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    monkeypatch.setattr(kind, "train_list", [[name, md5(name)] for name, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [[name, md5(name)] for name, _ in kind.test_list])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(kind.meta["filename"])})


def refusal(name, root):
    with pytest.raises(InputError) as caught:
        load(name, None if root is None else str(root))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("is_root", [False, True])
def test_image_folder(tmp_path, is_root):
    written = write_images(tmp_path / "cifar10")
    data = load("cifar10", str(tmp_path / "cifar10" if is_root else tmp_path))
    for split in ("train", "test"):
        made = getattr(data, split)
        assert made.inputs.dtype == torch.uint8
        assert made.inputs.shape == (20, 3, 32, 32)
        assert made.labels.tolist() == [label for _, label in written[split]]
        for image, (pixels, _) in zip(made.inputs, written[split], strict=True):
            assert image.permute(1, 2, 0).tolist() == pixels.tolist()
    assert (data.kind, data.stand_in, data.classes) == ("images", False, 10)
    assert data.mean == (0.4914, 0.4822, 0.4465)
    assert data.counts()["train"] == {"examples": 20, "per_class_min": 2, "per_class_max": 2}


def test_a_root_of_any_name_and_a_hundred_classes(tmp_path):
    write_images(tmp_path / "mine", HUNDRED, per_class=1)
    data = load("cifar100", str(tmp_path / "mine"))
    assert data.test.labels.tolist() == list(range(100))
    assert data.std == (0.2673, 0.2564, 0.2762)


def test_grey_and_palette_images_become_rgb(tmp_path):
    write_images(tmp_path)
    grey = np.arange(1024, dtype=np.uint16).reshape(32, 32).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "train" / NAMES[0] / "0.png")
    image = load("cifar10", str(tmp_path)).train.inputs[0]
    assert image.tolist() == [grey.tolist()] * 3


@pytest.mark.parametrize("kind", [tv.CIFAR10, tv.CIFAR100])
@pytest.mark.parametrize("is_root", [False, True])
def test_official_batches(tmp_path, monkeypatch, kind, is_root):
    written = write_batches(tmp_path, kind)
    trust(tmp_path / kind.base_folder, kind, monkeypatch)
    name = "cifar10" if kind is tv.CIFAR10 else "cifar100"
    data = load(name, str(tmp_path / kind.base_folder if is_root else tmp_path))
    for split in ("train", "test"):
        made = getattr(data, split)
        assert made.inputs.dtype == torch.uint8
        assert made.labels.tolist() == [label for _, label in written[split]]
        assert made.inputs.tolist() == [pixels.tolist() for pixels, _ in written[split]]
    assert kind.base_folder in data.source


def test_some_examples_are_the_same_from_batches_and_from_images(tmp_path, monkeypatch):
    written = write_batches(tmp_path, tv.CIFAR10, n=60)
    trust(tmp_path / "cifar-10-batches-py", tv.CIFAR10, monkeypatch)
    for split, examples in written.items():
        for number, (pixels, label) in enumerate(examples):
            folder = tmp_path / "images" / "cifar10" / split / NAMES[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / f"{number}.png")
    batches, images = (load("cifar10", str(root)) for root in (tmp_path, tmp_path / "images"))
    assert batches.fingerprint != images.fingerprint  # as they lie, they are in another order
    few = batches.first(30)
    assert few.fingerprint == images.first(30).fingerprint
    assert (few.counts()["train"], few.counts()["test"]) == (
        {"examples": 30, "per_class_min": 3, "per_class_max": 3},
    ) * 2


def test_batches_with_other_md5_sums(tmp_path):
    write_batches(tmp_path, tv.CIFAR10)
    assert "MD5" in refusal("cifar10", tmp_path)


def test_a_batch_is_missing(tmp_path, monkeypatch):
    write_batches(tmp_path, tv.CIFAR10)
    trust(tmp_path / "cifar-10-batches-py", tv.CIFAR10, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "test_batch").unlink()
    message = refusal("cifar10", tmp_path)
    assert "lacks a batch" in message
    assert "cifar-10-python.tar.gz" in message


@pytest.mark.parametrize("root", [None, ""])
def test_no_root(root):
    assert "--data-root" in refusal("cifar10", root)


def test_missing_root(tmp_path):
    assert f"{tmp_path / 'absent'} is not a readable folder" in refusal("cifar10", tmp_path / "absent")


def test_root_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    assert "is not a readable folder" in refusal("cifar100", tmp_path / "file")


def test_empty_root(tmp_path):
    assert f"{tmp_path} is empty" in refusal("cifar10", tmp_path)


def test_root_with_something_else(tmp_path):
    (tmp_path / "notes.txt").touch()
    message = refusal("cifar10", tmp_path)
    assert "cifar-10-batches-py or cifar10/{train,test}/<class>/*.png" in message
    assert f"{tmp_path} holds neither" in message


@pytest.mark.parametrize(
    ("asked", "there", "found"),
    [
        ("cifar10", "cifar100/train", "CIFAR-100 images"),
        ("cifar10", "cifar-100-python", "the CIFAR-100 batches"),
        ("cifar10", "MNIST/raw", "MNIST"),
        ("cifar100", "cifar10/train", "CIFAR-10 images"),
        ("cifar100", "cifar-10-batches-py", "the CIFAR-10 batches"),
    ],
)
def test_root_with_another_data_set(tmp_path, asked, there, found):
    (tmp_path / there).mkdir(parents=True)
    assert f"{asked} needs" in refusal(asked, tmp_path)
    assert f"holds {found};" in refusal(asked, tmp_path)


def test_root_is_another_data_set(tmp_path):
    (tmp_path / "cifar-100-python").mkdir()
    assert "holds the CIFAR-100 batches;" in refusal("cifar10", tmp_path / "cifar-100-python")


def test_wrong_number_of_classes(tmp_path):
    write_images(tmp_path / "cifar100", HUNDRED, per_class=1)
    message = refusal("cifar10", tmp_path / "cifar100")
    assert "cifar10 has 10 classes" in message
    assert "has 100 class folders" in message


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_is_missing(tmp_path, split):
    write_images(tmp_path / "cifar10", splits=[{"train": "test", "test": "train"}[split]])
    assert f"{tmp_path / 'cifar10' / split} is missing" in refusal("cifar10", tmp_path)


def test_class_names_differ(tmp_path):
    write_images(tmp_path, NAMES, splits=["train"])
    write_images(tmp_path, [*NAMES[:-1], "ship"], splits=["test"])
    assert "the class class09 is in only one of train and test" in refusal("cifar10", tmp_path)


def test_a_class_without_images(tmp_path):
    write_images(tmp_path)
    for path in (tmp_path / "test" / NAMES[3]).iterdir():
        path.unlink()
    message = refusal("cifar10", tmp_path)
    assert str(tmp_path / "test") in message
    assert NAMES[3] in message


def test_a_split_without_classes(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    assert str(tmp_path / "train") in refusal("cifar10", tmp_path)


def test_wrong_image_size(tmp_path):
    write_images(tmp_path, size=28)
    message = refusal("cifar10", tmp_path)
    assert str(tmp_path / "train" / NAMES[0] / "0.png") in message
    assert "28x28 pixels, not 32x32" in message


@pytest.mark.parametrize("content", [b"", b"not an image", "cut", "flipped"])
def test_unreadable_image(tmp_path, content):
    write_images(tmp_path)
    path = tmp_path / "test" / NAMES[4] / "1.png"
    png = path.read_bytes()
    broken = {"cut": png[:200], "flipped": png[:60] + bytes([png[60] ^ 255]) + png[61:]}
    path.write_bytes(broken.get(content, content))
    assert f"cannot read the image {path};" in refusal("cifar10", tmp_path)
