"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) as users have them: the official batches or a folder of images.

Both layouts give the same labels, since the official class lists are in alphabetical order.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torchvision.datasets as tv
from torch import Tensor

from jellyplus._errors import InputError
from jellyplus.datasets import folders
from jellyplus.datasets.base import DataSet, Split
from jellyplus.datasets.decoded import decoded
from jellyplus.datasets.images import read_image
from jellyplus.datasets.survey import File, Survey

SIDE = 32  # pixels

_SPLITS = ("train", "test")


@dataclass(frozen=True)
class _Published:
    name: str  # also the image folder's
    classes: int
    official: type[tv.CIFAR10]  # knows the batches and their checksums
    mean: tuple[float, ...]
    std: tuple[float, ...]


_CIFAR10 = _Published("cifar10", 10, tv.CIFAR10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_CIFAR100 = _Published("cifar100", 100, tv.CIFAR100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


#: Mean and deviation of each channel in the 0..1 scale, as published.
CONSTANTS = {published.name: (published.mean, published.std) for published in (_CIFAR10, _CIFAR100)}


def cifar10(root: str | None) -> DataSet:
    """CIFAR-10, images 3x32x32, from ``root``, in one of two layouts.

    The official batches: ``cifar-10-batches-py``, in ``root``, in its ``cifar10``, or ``root`` itself; their MD5 sums
    are checked.
    Images: ``cifar10/{train,test}/<class>/*.png``, where ``root`` holds ``cifar10`` or is it; any number of images.

    Raises:
        InputError: there is no root, no CIFAR-10 in it, or a part of it is missing, damaged or of another data set.
    """
    return _load(_CIFAR10, root)


def cifar100(root: str | None) -> DataSet:
    """CIFAR-100 with its hundred fine classes, images 3x32x32, from ``root``.

    As :func:`cifar10`, in ``cifar-100-python`` or ``cifar100/{train,test}/<class>/*.png``.

    Raises:
        InputError: there is no root, no CIFAR-100 in it, or a part of it is missing, damaged or of another data set.
    """
    return _load(_CIFAR100, root)


def survey_cifar10(root: Path) -> Survey | None:
    """What of CIFAR-10 lies in ``root``; None where nothing does.

    Raises:
        InputError: an image folder lacks a split or has other classes.
    """
    return _survey(_CIFAR10, root)


def survey_cifar100(root: Path) -> Survey | None:
    """As :func:`survey_cifar10`, for CIFAR-100."""
    return _survey(_CIFAR100, root)


def _survey(published: _Published, root: Path) -> Survey | None:
    batches, images = _layouts(published, root)
    if batches:
        files = [File(batches.name, name, partial(_classes_in_batches, published, batches, name)) for name in _SPLITS]
    elif images and (images.name == published.name or _has_classes(published, images)):
        files = _image_files(published, images)
    else:
        return None
    return Survey(
        dataset=published.name,
        layout=_layout(batches),
        files=tuple(files),
        published={"train": 50_000, "test": 10_000},
        per_class={"train": 50_000 // published.classes, "test": 10_000 // published.classes},
        source="Krizhevsky 2009",
        digests={},
    )


def _has_classes(published: _Published, folder: Path) -> bool:
    """A folder of any name is this data set where it has as many classes."""
    return sum(path.is_dir() for path in (folder / "train").glob("[!.]*")) == published.classes


def _classes_in_batches(published: _Published, folder: Path, name: str) -> list[str]:
    split = dict(zip(_SPLITS, _read_batches(published, folder), strict=True))[name]
    return [str(label) for label in split.labels.tolist()]


def _image_files(published: _Published, folder: Path) -> list[File]:
    lists = zip(_SPLITS, _list_splits(published, folder), strict=True)
    return [
        File(f"{name}/{Path(path).parent.name}/{Path(path).name}", name, partial(_class_of, path))
        for name, listed in lists
        for path, _ in listed.samples
    ]


def _class_of(path: str) -> tuple[str]:
    _decode(path)
    return (Path(path).parent.name,)


def _layouts(published: _Published, folder: Path) -> tuple[Path | None, Path | None]:
    """The folders of the official batches and of images, as far as they are there."""
    name = published.official.base_folder
    batches = folders.find(folder, name) or folders.find(folder / published.name, name)
    return batches, next((path for path in (folder / published.name, folder) if _has_split(path)), None)


def _layout(batches: Path | None) -> str:
    return f"official batches {batches.name}" if batches else "image folder"


def _load(published: _Published, root: str | None) -> DataSet:
    folder = folders.existing(published.name, root)
    batches, images = _layouts(published, folder)
    if batches:
        train, test = _read_batches(published, batches)
    elif images:
        train, test = _read_images(published, images)
    else:
        expected = f"{published.official.base_folder} or {published.name}/{{train,test}}/<class>/*.png"
        raise folders.absence(published.name, expected, folder)
    return DataSet(
        published.name,
        published.classes,
        train,
        test,
        kind="images",
        stand_in=False,
        mean=published.mean,
        std=published.std,
        source=_layout(batches),
    )


def _has_split(folder: Path) -> bool:
    return (folder / "train").is_dir() or (folder / "test").is_dir()


def _read_batches(published: _Published, folder: Path) -> tuple[Split, Split]:
    try:
        splits = [published.official(folder.parent, train=train, download=False) for train in (True, False)]
    except RuntimeError as error:
        raise InputError(
            f"{folder} lacks a batch or fails the published MD5 sums; unpack {published.official.filename} again"
        ) from error
    train, test = (
        Split(torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(split.targets))
        for split in splits
    )
    return train, test


def _read_images(published: _Published, folder: Path) -> tuple[Split, Split]:
    train, test = _list_splits(published, folder)
    return _decode_all(train.samples), _decode_all(test.samples)


def _list_splits(published: _Published, folder: Path) -> tuple[tv.ImageFolder, tv.ImageFolder]:
    for name in _SPLITS:
        if not (folder / name).is_dir():
            raise InputError(f"{published.name}: {folder / name} is missing; a data set needs both train and test")
    train, test = (_list_images(published, folder / name) for name in _SPLITS)
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise InputError(f"{folder}: the class {odd[0]} is in only one of train and test; add it to the other")
    return train, test


def _list_images(published: _Published, folder: Path) -> tv.ImageFolder:
    try:
        listed = folders.ImageFolder(folder)
    except FileNotFoundError as error:
        raise InputError(f"{folder}: {str(error).split('. ')[0]}; every class needs a folder with images") from error
    if len(listed.classes) != published.classes:
        raise InputError(
            f"{published.name} has {published.classes} classes, but {folder} has {len(listed.classes)} class folders; "
            "give another folder"
        )
    return listed


def _decode_all(samples: Iterable[tuple[str, int]]) -> Split:
    paths, labels = zip(*samples, strict=True)
    return Split(decoded(paths, _decode, (3, SIDE, SIDE)), torch.tensor(labels))


def _decode(path: str) -> Tensor:
    return torch.from_numpy(read_image(path, "RGB", SIDE)).permute(2, 0, 1).contiguous()
