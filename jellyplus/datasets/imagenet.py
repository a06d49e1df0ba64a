"""ImageNet (ILSVRC2012; Russakovsky et al. 2015) as users have it: a folder of images for every class.

Images stay on disk and are decoded when asked for. Order and labels are torchvision's: by WordNet id, then by name of
the file, of files with the extension of an image; hidden files are left out. torchvision's ``meta.bin`` is not read.
"""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from jellyplus._errors import InputError
from jellyplus.datasets import folders
from jellyplus.datasets.base import DataSet, Split
from jellyplus.datasets.images import read_image
from jellyplus.datasets.settings import ImageSettings
from jellyplus.datasets.survey import File, Survey

__all__ = ["MEAN", "STD", "ImageFiles", "imagenet", "survey"]

MEAN = (0.485, 0.456, 0.406)  # of red, green and blue in the 0..1 scale: torchvision's, as everyone uses
STD = (0.229, 0.224, 0.225)

_CLASSES = 1000
_SPLITS = ("train", "val")
_PLACES = ("", "imagenet", "ImageNet", "ILSVRC2012", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")
_CLASS = re.compile(r"n\d{8}")  # a WordNet id


class ImageFiles:
    """Images that are decoded when asked for, see :func:`read_image`: a :class:`jellyplus.datasets.base.FileInputs`.

    Args:
        folder: holds them.
        names: relative to ``folder``, bytes [n].
        sizes: of the files, bytes, int64 [n].
        images: side of the inputs, and resizing in evaluation.
    """

    def __init__(self, folder: Path, names: np.ndarray, sizes: np.ndarray, images: ImageSettings):
        self.folder = folder
        self.names = names
        self.sizes = sizes
        self.shape = (len(names), 3, images.side, images.side)
        self.resize = images.resize

    @property
    def identity(self) -> bytes:
        """Names and sizes."""
        return b"\0".join(self.names.tolist()) + self.sizes.astype("<i8").tobytes()

    def __getitem__(self, index: int) -> Tensor:
        """Decode one image, uint8 [3, height, width] of its own size.

        Raises:
            UnreadableError: the file is missing or damaged, or one that :func:`read_image` refuses.
        """
        return _decode(self.folder / os.fsdecode(self.names[index]))


def _decode(path: Path) -> Tensor:
    return torch.from_numpy(read_image(path, "RGB")).permute(2, 0, 1)


def imagenet(root: str | None, images: ImageSettings) -> DataSet:
    """ImageNet, or some of its classes, from ``{train,val}/<wnid>/*`` in ``root``, by WordNet id.

    ``root`` may also hold that in ``imagenet``, ``ILSVRC2012``, ``Data/CLS-LOC`` or ``ILSVRC/Data/CLS-LOC``.

    Raises:
        InputError: there is no root, no ImageNet in it, it is not unpacked, a class is in only one split or has no
            image, or validation images are not sorted into classes.
    """
    folder = folders.existing("imagenet", root)
    place = _place(folder)
    if place is None:
        raise _absence(folder)
    classes, listed = _list_splits(place)
    train, test = (Split(ImageFiles(place, part.names, part.sizes, images), part.labels) for part in listed)
    return DataSet(
        "imagenet",
        len(classes),
        train,
        test,
        kind="images",
        stand_in=False,
        mean=MEAN,
        std=STD,
        source="ILSVRC2012, training and validation" + _subset(len(classes)),
        skip_unreadable=images.unreadable == "skip",
    )


def _subset(classes: int) -> str:
    return "" if classes == _CLASSES else f", a subset of {classes} classes"


def survey(root: Path) -> Survey | None:
    """What of ImageNet lies in ``root``; None where nothing does.

    Raises:
        InputError: as :func:`imagenet`.
    """
    place = _place(root)
    if place is None:
        return None
    classes, listed = _list_splits(place)
    files = chain.from_iterable(
        (
            File(name, split, partial(_class_of, place, name, classes[label]))
            for name, label in zip(map(os.fsdecode, part.names), part.labels.tolist(), strict=True)
        )
        for split, part in zip(_SPLITS, listed, strict=True)
    )
    return Survey(
        dataset="imagenet",
        layout=f"image folder {place.name}",
        files=tuple(files),
        published={"train": 1_281_167, "val": 50_000},
        per_class={"val": 50},
        source="Russakovsky et al. 2015",
        digests={},
    )


def _class_of(folder: Path, name: str, label: str) -> tuple[str]:
    _decode(folder / name)
    return (label,)


class _Listed(NamedTuple):
    names: np.ndarray  # bytes [n], "train/n01440764/n01440764_18.JPEG"
    sizes: np.ndarray  # int64 [n]
    labels: Tensor  # int64 [n]


def _place(root: Path) -> Path | None:
    """The folder of the splits: the first that has one with classes, or else with images or archives of ImageNet."""
    places = [root / name for name in _PLACES]
    for mark in (_CLASS, re.compile(r"ILSVRC2012_val_\d+\.JPEG|n\d{8}\.tar")):
        for place in places:
            if any(_holds(place / split, mark) for split in _SPLITS):
                return place
    return None


def _holds(folder: Path, mark: re.Pattern) -> bool:
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(mark.fullmatch(entry.name) for entry in entries)


def _absence(folder: Path) -> InputError:
    for place in (folder / name for name in _PLACES):
        if archive := next(place.glob("ILSVRC2012_img_*.tar"), None):
            return _packed(archive)
    return folders.absence("imagenet", "train/<wnid>/*.JPEG and val/<wnid>/*.JPEG", folder)


def _packed(archive: Path) -> InputError:
    return InputError(f"{archive} is still packed; torchvision.datasets.ImageNet unpacks and sorts it, this does not")


def _list_splits(place: Path) -> tuple[list[str], tuple[_Listed, _Listed]]:
    train, val = (_classes(place / split) for split in _SPLITS)
    for split, other, odd in (("train", "val", set(train) - set(val)), ("val", "train", set(val) - set(train))):
        if odd:
            raise InputError(f"the class {place / split / min(odd)} has no like in {other}; add or remove it")
    return train, (_list(place, "train", train), _list(place, "val", val))


def _classes(folder: Path) -> list[str]:
    """The class folders of one split, sorted."""
    if not folder.is_dir():
        if archive := next(folder.parent.glob(f"ILSVRC2012_img_{folder.name}*.tar"), None):
            raise _packed(archive)
        raise InputError(f"imagenet: {folder} is missing; a data set needs both train and val")
    with os.scandir(folder) as entries:
        inside = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
    if any(_CLASS.match(name) and name.endswith(".tar") for name in inside):
        raise InputError(f"{folder} holds archives of the classes; unpack each into a folder of its name")
    classes = sorted(name for name, is_folder in inside.items() if is_folder)
    if not classes:
        raise InputError(
            f"the images in {folder} are not sorted into folders of classes; torchvision.datasets.ImageNet does that "
            "when it unpacks ILSVRC2012_img_val.tar"
        )
    if odd := [name for name in classes if not _CLASS.fullmatch(name)]:
        raise InputError(f"{folder / odd[0]} is not named by a wnid, like n01440764; rename or remove it")
    return classes


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMG_EXTENSIONS) and not name.startswith(".")


def _list(place: Path, split: str, classes: list[str]) -> _Listed:
    with ThreadPoolExecutor() as pool:  # the reads of a slow or remote disk overlap
        listed = list(pool.map(partial(_list_class, place), [f"{split}/{name}" for name in classes]))
    names, sizes = zip(*chain.from_iterable(listed), strict=True)
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(images) for images in listed]))
    return _Listed(np.array(names), np.array(sizes), labels)


def _list_class(place: Path, name: str) -> list[tuple[bytes, int]]:
    """Names relative to ``place`` and sizes of a class's images, sorted by name as torchvision does."""
    try:
        with os.scandir(place / name) as entries:
            images = [entry for entry in entries if _is_image(entry.name) and not entry.is_dir()]
            found = sorted((entry.name, entry.stat().st_size) for entry in images)
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}; repair or remove it") from error
    if not found:
        raise InputError(f"{place / name} has no images; every class needs some")
    return [(os.fsencode(f"{name}/{image}"), size) for image, size in found]
