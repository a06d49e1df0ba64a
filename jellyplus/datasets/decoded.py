"""Images of many files, decoded once: to read them again takes a small part of the time."""

import contextlib
import hashlib
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jellyplus._files import replace_file, user_cache

__all__ = ["decoded"]

_LEAST = 5_000  # files; fewer are decoded within a second or two
_MOST = 6  # splits that are kept, the last used ones


def decoded(paths: Sequence[str], decode: Callable[[str], Tensor], shape: tuple[int, ...]) -> Tensor:
    """What ``decode`` makes of every file, uint8 [n, *shape], from the user's cache where they are the files of before.

    ``images`` in :func:`jellyplus._files.user_cache` has the bytes, named after the files' paths, sizes and times of
    change, and after what they should be, which is compared. They are mapped into memory, so that processes share them;
    what is written to the tensor stays with it. The six splits that were used last are kept, and none of fewer than
    5,000 files. Without a folder for it, or room, files are decoded each time.

    Args:
        paths: the files.
        decode: of one file, uint8 of ``shape``; runs in several threads.
        shape: of an image.

    Raises:
        UnreadableError: as ``decode`` does.
    """
    stem = _name(paths, shape) if len(paths) >= _LEAST else None
    folder = _folder() if stem else None
    if folder is None:
        return _all(paths, decode)
    for path in folder.glob(f"{stem}-*.bytes"):
        if (found := _read(path, (len(paths), *shape))) is not None:
            return found
    images = _all(paths, decode)
    with contextlib.suppress(OSError):
        _keep(folder, stem, images.numpy().tobytes())
    return images


def _folder() -> Path | None:
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: the user has no home
        folder = user_cache() / "images"
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    return None


def _all(paths: Sequence[str], decode: Callable[[str], Tensor]) -> Tensor:
    with ThreadPoolExecutor() as pool:  # the reads of a slow or remote disk overlap
        return torch.stack(list(pool.map(decode, paths)))


def _name(paths: Sequence[str], shape: tuple[int, ...]) -> str | None:
    """None where one is not there, of which ``decode`` says so."""
    try:
        found = [(os.path.abspath(path), os.stat(path)) for path in paths]
    except OSError:
        return None
    files = [(path, state.st_size, state.st_mtime_ns) for path, state in found]
    return hashlib.sha256(repr((shape, files)).encode(errors="surrogateescape")).hexdigest()[:32]


def _read(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    """Its bytes, if they are what its name says; a file that was cut short or damaged is removed."""
    with contextlib.suppress(OSError, ValueError):
        if path.stat().st_size == math.prod(shape):
            content = np.memmap(path, np.uint8, mode="c", shape=shape)
            if _digest(content) == path.stem.partition("-")[2]:
                os.utime(path)
                return torch.from_numpy(content)
        path.unlink()
    return None


def _keep(folder: Path, stem: str, content: bytes) -> None:
    replace_file(folder / f"{stem}-{_digest(content)}.bytes", content, mode=0o600)
    for old in sorted(folder.glob("*.bytes"), key=os.path.getmtime)[:-_MOST]:
        old.unlink()


def _digest(content: bytes | np.ndarray) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
