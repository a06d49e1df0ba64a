"""Files are written whole or not at all, and nothing is read or written through a link that leaves its folder."""

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from jellyplus._errors import InputError


def below(path: str | os.PathLike, root: str | os.PathLike) -> Path:
    """Return ``path``, which lies in ``root`` whatever links there are on its way; ``root`` itself may be one.

    Args:
        path: a file or folder, which need not be there.
        root: a folder that may have come from others.

    Raises:
        InputError: it leads out of ``root``, or is neither a file nor a folder but a pipe, a socket or a device.
    """
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(root)):
        raise InputError(f"{path} leads out of {root}, to {real}: remove it, or put there what it leads to")
    if real.exists() and not (real.is_file() or real.is_dir()):
        raise _no_file(path)
    return Path(path)


def read_file(path: str | os.PathLike, root: str | os.PathLike | None = None, most: int = -1) -> bytes:
    """Return what a file holds; a pipe or a device is not waited for.

    Args:
        path: the file.
        root: a folder of other people's that it lies in, which no link may take it out of; None for any file.
        most: bytes that are read; -1 for all.

    Raises:
        InputError: it is a pipe or a device, or a link takes it out of ``root``.
        OSError: it cannot be read.
    """
    if root is not None:
        below(path, root)
    with open_file(path) as file:
        return file.read(most)


@contextlib.contextmanager
def open_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a file to read bytes of it; a pipe or a device is not waited for.

    Raises:
        InputError: it is a pipe or a device.
        OSError: it cannot be read.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise _no_file(path)
        yield file


def _no_file(path: str | os.PathLike) -> InputError:
    return InputError(f"cannot read {path}: it is not a file but a pipe or a device; remove it, or put a file there")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # Windows has neither the flag nor such pipes


def user_cache() -> Path:
    """Return where this user's computer keeps what jellyplus can make again: ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Raises:
        RuntimeError: the user has no home, or one that depends on where they stand.
    """
    stated = Path(os.environ.get("XDG_CACHE_HOME", ""))
    cache = stated if stated.is_absolute() else Path(os.path.expanduser("~")) / ".cache"  # a relative one is void
    if not cache.is_absolute():
        raise RuntimeError("this user has no home")
    return cache / "jellyplus"


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Write ``content`` to ``path``: beside it first, flushed to disk, then renamed over it.

    A reader sees the old file or the new one and never a part of either; a failed write leaves the old one.

    Raises:
        InputError: the folder cannot be made or written, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; free space there or choose another --out") from error


def replace_file(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write ``content`` as :func:`write_atomically` does, into a folder that is there.

    Args:
        path: the file.
        content: of it.
        mode: its permissions, as far as the umask leaves them.

    Raises:
        OSError: it cannot be written.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        with contextlib.suppress(PermissionError):  # of file systems without permissions
            os.chmod(temporary, mode & ~umask)  # mkstemp makes private files
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


_NO_SYNC = (errno.EACCES, errno.EINVAL, errno.ENOTSUP)  # of folders: on Windows, on some network file systems
