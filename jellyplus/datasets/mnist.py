"""MNIST (LeCun et al., 1998) from its four IDX files, unpacked or gzipped.

torchvision's own reader takes unpacked files only, and its checks are bare assertions; the format is a dozen bytes.
"""

import gzip
import math
import zlib
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from jellyplus._errors import InputError
from jellyplus._files import open_file
from jellyplus.datasets import folders
from jellyplus.datasets.archives import LARGEST_RATIO
from jellyplus.datasets.base import DataSet, Split
from jellyplus.datasets.budget import UNPACKED
from jellyplus.datasets.survey import File, Survey

SIDE = 28  # pixels
CLASSES = 10
MEAN, STD = (0.1307,), (0.3081,)  # in the 0..1 scale
PUBLISHED = {"train": 60_000, "test": 10_000}  # examples

_ALWAYS = 2**20  # bytes unpacked, however few they are packed

_UNSIGNED_BYTES = 8  # IDX's code of the element type
_PREFIXES = {"train": "train", "test": "t10k"}
_SOURCE = "IDX files MNIST/raw"
_EXPECTED = "MNIST/raw/*-ubyte or MNIST/raw/*-ubyte.gz"


def mnist(root: str | None) -> DataSet:
    """MNIST, images 1x28x28, from ``root``, where torchvision puts it.

    ``MNIST/raw`` with ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same of ``t10k``, each as it is
    or with ``.gz``; ``root`` or its ``mnist`` holds ``MNIST``, or ``root`` is it or its ``raw``. Any number of images
    will do.

    Raises:
        InputError: there is no root, no MNIST in it, or a file is missing, damaged or of something else.
    """
    folder = folders.existing("mnist", root)
    raw = _raw(folder)
    if raw is None:
        raise folders.absence("mnist", _EXPECTED, folder)
    splits = {name: _split(raw, prefix) for name, prefix in _PREFIXES.items()}
    return DataSet("mnist", CLASSES, **splits, kind="images", stand_in=False, mean=MEAN, std=STD, source=_SOURCE)


def survey(root: Path) -> Survey | None:
    """What of MNIST lies in ``root``; None where nothing does."""
    raw = _raw(root)
    if raw is None:
        return None
    files = tuple(File(f"{prefix}-*", split, partial(_classes_in, raw, prefix)) for split, prefix in _PREFIXES.items())
    return Survey("mnist", _SOURCE, files, PUBLISHED, per_class={}, source="LeCun et al. 1998", digests={})


def _classes_in(raw: Path, prefix: str) -> list[str]:
    return [str(label) for label in _split(raw, prefix).labels.tolist()]


def _raw(folder: Path) -> Path | None:
    """The folder of the files, by its name: FashionMNIST and others have files of the same names."""
    if found := folders.find(folder, "MNIST") or folders.find(folder / "mnist", "MNIST"):
        return found / "raw"
    resolved = folder.resolve()
    return resolved if resolved.parts[-2:] == ("MNIST", "raw") else None


def _split(raw: Path, prefix: str) -> Split:
    images_path, labels_path = (
        _existing_file(raw / f"{prefix}-{name}-ubyte") for name in ("images-idx3", "labels-idx1")
    )
    images, labels = _read_idx(images_path, 3), _read_idx(labels_path, 1)
    if len(images) == 0 or images.shape[1:] != (SIDE, SIDE):
        n, height, width = images.shape
        raise InputError(
            f"{images_path} holds {n} images of {width}x{height} pixels: give MNIST's own files, of {SIDE}x{SIDE}"
        )
    if len(images) != len(labels):
        raise InputError(
            f"{images_path} holds {len(images)} images and {labels_path.name} {len(labels)} labels; "
            "take both from one download"
        )
    if labels.max() >= CLASSES:
        raise InputError(
            f"{labels_path} holds the label {labels.max()}, not 0 to {CLASSES - 1}: give MNIST's own files"
        )
    return Split(torch.from_numpy(images)[:, None], torch.from_numpy(labels).long())


def _existing_file(path: Path) -> Path:
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    raise InputError(f"mnist: {path} is missing, with and without .gz; MNIST/raw needs all four files")


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Unsigned bytes: magic number 0, 0, type, dimensions; their sizes as big-endian 32 bits; the elements."""
    start = 4 + 4 * dimensions
    try:
        with open_file(path) as packed, gzip.open(packed) if path.suffix == ".gz" else packed as file:
            head = file.read(start)
            if len(head) < start or head[:4] != bytes([0, 0, _UNSIGNED_BYTES, dimensions]):
                raise InputError(
                    f"{path} does not begin as MNIST's files do, with 0, 0, {_UNSIGNED_BYTES}, {dimensions} and the "
                    "sizes; put the original in its place"
                )
            shape = np.frombuffer(head, ">u4", dimensions, offset=4).tolist()
            elements = _elements(file, path, start, math.prod(shape))
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path}; put the original in its place") from error
    return elements.reshape(shape)


def _elements(file: BinaryIO, path: Path, start: int, n: int) -> np.ndarray:
    """``n`` bytes and the end of the file; room is made for them when they are there, or may be."""
    size = path.stat().st_size
    found = size - start
    if path.suffix == ".gz":
        found = n
        if n > (allowed := min(max(_ALWAYS, LARGEST_RATIO * size), UNPACKED.total // 4)):
            raise InputError(
                f"{path} has {n:,} bytes by its head, more than {allowed:,}, which so small a file and the memory for "
                "what is unpacked allow; put the original in its place, or unpack it"
            )
    if found == n:
        elements = np.empty(n + 1, np.uint8)
        found, view = 0, memoryview(elements)
        while part := file.readinto(view[found : found + 2**20]):
            found += part
    if found != n:
        raise InputError(
            f"{path} has {start + found:,} bytes where its head says {start + n:,}; put the original in its place"
        )
    return elements[:n]
