"""Decoded images are kept for the next command, and never believed where the files or the copy are others."""

import os

import pytest
import torch
from PIL import Image

from jellyplus.datasets import decoded
from jellyplus.datasets.base import UnreadableError
from jellyplus.datasets.cifar import cifar10


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """Of the test's own, for few images too; its files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded, "_LEAST", 2)
    return lambda: sorted((tmp_path / "cache/jellyplus/images").glob("*"))


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{number}.bin" for number in range(4)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number] * 6))
    return [str(path) for path in paths]


class Decoder:
    """Counts what it reads."""

    def __init__(self):
        self.read = []

    def __call__(self, path):
        self.read.append(path)
        with open(path, "rb") as file:
            return torch.tensor(list(file.read()), dtype=torch.uint8).view(1, 2, 3)


def images(files, decoder):
    return decoded.decoded(files, decoder, (1, 2, 3))


def test_a_second_call_decodes_nothing_and_gives_the_same(files, cache):
    first, second = Decoder(), Decoder()
    made, again = images(files, first), images(files, second)
    assert sorted(first.read) == files
    assert second.read == []
    assert torch.equal(made, again)
    assert again.dtype == torch.uint8
    assert [path.stat().st_mode & 0o077 for path in cache()] == [0]


def test_what_is_written_to_a_copy_stays_with_it(files):
    images(files, Decoder())
    images(files, Decoder()).zero_()
    assert images(files, Decoder()).sum() == 6 * (0 + 1 + 2 + 3)


@pytest.mark.parametrize("change", ["content", "time", "order", "shape"])
def test_other_files_are_decoded(files, change):
    images(files, Decoder())
    decoder = Decoder()
    if change == "content":
        with open(files[1], "wb") as file:
            file.write(bytes([7] * 6))
    elif change == "time":
        os.utime(files[1], ns=(1, 1))
    elif change == "order":
        files.reverse()
    shape = (1, 3, 2) if change == "shape" else (1, 2, 3)
    decoded.decoded(files, decoder, shape)
    assert sorted(decoder.read) == sorted(files)


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"\x09" + content[1:], lambda _: b""])
def test_a_damaged_copy_is_made_again(files, cache, damage):
    made = images(files, Decoder())
    (path,) = cache()
    path.write_bytes(damage(path.read_bytes()))
    decoder = Decoder()
    assert torch.equal(images(files, decoder), made)
    assert sorted(decoder.read) == files
    assert torch.equal(images(files, Decoder()), made)
    assert len(cache()) == 1


def test_without_a_folder_images_are_decoded_each_time(files, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        decoder = Decoder()
        assert images(files, decoder).shape == (4, 1, 2, 3)
        assert sorted(decoder.read) == files


def test_only_those_used_last_are_kept(files, cache, monkeypatch):
    monkeypatch.setattr(decoded, "_MOST", 2)
    for number in range(4):
        os.utime(files[0], ns=(number, number))
        images(files, Decoder())
    assert len(cache()) == 2
    decoder = Decoder()
    images(files, decoder)
    assert decoder.read == []


def test_few_images_are_not_kept(files, cache, monkeypatch):
    monkeypatch.setattr(decoded, "_LEAST", 5)
    images(files, Decoder())
    assert cache() == []


def test_a_folder_of_images_is_the_same_from_the_copy(tmp_path, cache):
    for split in ("train", "test"):
        for label in range(10):
            folder = tmp_path / "cifar10" / split / f"class{label}"
            folder.mkdir(parents=True)
            Image.new("RGB", (32, 32), (20 * label, 7, 0)).save(folder / "a.png")
    one, two = cifar10(str(tmp_path)), cifar10(str(tmp_path))
    assert len(cache()) == 2
    assert one.fingerprint == two.fingerprint
    (tmp_path / "cifar10/test/class5/b.png").symlink_to("nowhere.png")
    with pytest.raises(UnreadableError, match=r"cannot read the image .*class5"):
        cifar10(str(tmp_path))
    (tmp_path / "cifar10/test/class5/b.png").unlink()
    (tmp_path / "cifar10/train/class3/a.png").write_bytes(b"no image")
    with pytest.raises(UnreadableError, match="class3"):
        cifar10(str(tmp_path))
