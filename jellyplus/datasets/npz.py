"""What SpikingJelly 0.0.0.0.14 caches: the events of a recording, or its frames, in an ``.npz`` file."""

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

from jellyplus._errors import InputError
from jellyplus._files import open_file
from jellyplus.datasets.frames import SENSOR, Events
from jellyplus.datasets.npy import HEAD_BYTES, from_npy, shape_of

__all__ = ["memory_of", "read_events_npz", "read_frames_npz"]

_LARGEST = 2**30  # bytes unpacked; a recording of a minute has a tenth
_AN_EVENT, _A_BYTE = 100, 3  # bytes of memory until events, or bytes of counts, are frames

_DAMAGE = (OSError, EOFError, ValueError, KeyError, RuntimeError, zlib.error, zipfile.BadZipFile)


def memory_of(path: Path) -> int:
    """Bytes of memory that it takes to make frames of a file's events, or of its frames; 0 where it has neither."""
    try:
        with open_file(path) as packed, zipfile.ZipFile(packed) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            if "t.npy" not in sizes:
                return _A_BYTE * sizes.get("frames.npy", 0)
            with archive.open("t.npy") as file:
                events = math.prod(shape_of(file.read(HEAD_BYTES)))
            return _AN_EVENT * events + sum(sizes.get(f"{key}.npy", 0) for key in "txyp")
    except _DAMAGE:
        return 0  # whoever reads it says so


def read_events_npz(path: Path) -> Events:
    """Read ``t``, ``x``, ``y``, ``p``: integers of any type, of equal length.

    Raises:
        InputError: the file cannot be read, lacks one of them, holds no event, or one that no DVS128 makes.
    """
    t, x, y, p = arrays = _arrays(path, "txyp")
    if not all(array.ndim == 1 and array.dtype.kind in "iub" and len(array) == len(t) > 0 for array in arrays):
        raise InputError(f"{path}: t, x, y and p are not integers of equal length, at least one; make it anew")
    if any(array.min() < 0 or array.max() > top for array, top in ((t, 2**62), (x, 127), (y, 127), (p, 1))):
        raise InputError(f"{path} holds events outside {SENSOR}x{SENSOR} pixels, of negative time or with p above 1")
    return Events(t.astype(np.int64), *(array.astype(np.uint8) for array in (x, y, p)))


def read_frames_npz(path: Path) -> np.ndarray:
    """Read ``frames``: counts [T, 2, 128, 128].

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    (counts,) = _arrays(path, ["frames"])
    if counts.ndim != 4 or counts.shape[1:] != (2, SENSOR, SENSOR) or counts.dtype.kind not in "iuf":
        raise InputError(f"{path} holds {counts.dtype} {counts.shape}, not counts of T frames, 2x{SENSOR}x{SENSOR}")
    if not (np.isfinite(counts).all() and counts.min(initial=0) >= 0):
        raise InputError(f"{path} holds negative or infinite counts; remove it and let SpikingJelly make it anew")
    return counts


def _arrays(path: Path, keys: list[str] | str) -> list[np.ndarray]:
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            members = [archive.getinfo(f"{key}.npy") for key in keys]
            if sum(member.file_size for member in members) > _LARGEST:
                raise InputError(
                    f"{path} unpacks to more than {_LARGEST:,} bytes, which no recording has; make it anew"
                )
            return [from_npy(archive.read(member)) for member in members]
    except _DAMAGE as error:
        raise InputError(
            f"{path} is damaged or lacks one of {', '.join(keys)}; remove it and let SpikingJelly make it anew"
        ) from error
