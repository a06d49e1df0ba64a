"""Unpacking the archives that authors publish, zip and tar, whole or not at all and nowhere but where it should go.

Folders and plain files are written, by ourselves and with the permissions that new files have; anything else in an
archive is refused, and so is a name that would leave the destination.
"""

import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import filelock

from jellyplus._errors import InputError
from jellyplus._files import below

__all__ = ["LARGEST_RATIO", "unpack"]

LARGEST_RATIO = 100  # of unpacked to packed size; recordings of events shrink to a half or a quarter
_BLOCK = 4096  # bytes that a member takes at least, on the disk and in the count
_AT_ONCE = 2**20  # bytes read at once: of a member's name, of its other attributes, of its content
_ATTRIBUTES = 100  # of all members together, which have a dozen at most

_DAMAGE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
)  # what the libraries raise for damaged, encrypted or unknown content


class _Member(NamedTuple):
    name: str
    size: int  # bytes unpacked
    is_folder: bool
    is_file: bool  # neither is a link or a device
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, destination: Path) -> bool:
    """Unpack ``archive``, so that its content lies in ``destination``.

    A folder in the archive with the destination's name becomes the destination, and what lies beside it is dropped.
    The content is unpacked into a hidden folder beside it and then renamed: the destination is whole or absent, an
    interrupted call can be repeated, and one that is there stays as it is. Processes that unpack the same do so one
    after the other.

    Args:
        archive: ``.zip``, ``.tar`` or ``.tar.gz``.
        destination: a folder; its parent is made.

    Returns:
        whether anything was done.

    Raises:
        InputError: the archive is damaged or of another kind; a member is a link or a device or would lie outside; its
            unpacked size, in blocks of the disk and with all headers, is more than ``LARGEST_RATIO`` times the packed
            one, or than what is free on the disk.
    """
    if destination.is_dir():
        return False
    below(destination, destination.parents[1])  # of the data set, where a linked extract/ would lead out
    lock = destination.with_name(f".{destination.name}.lock")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(lock):
            try:
                return _unpack(archive, destination)
            finally:
                lock.unlink(missing_ok=True)  # while it is held: who waits for it notices
    except _DAMAGE as error:
        raise InputError(
            f"cannot unpack {archive} into {destination.parent}: {error}; fetch the archive anew, or free space there"
        ) from error


def _unpack(archive: Path, destination: Path) -> bool:
    if destination.is_dir():  # by who held the lock before
        return False
    temporary = destination.with_name(f".{destination.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)  # of an interrupted call
    try:
        temporary.mkdir()
        _write(_zip_members(archive) if archive.suffix == ".zip" else _tar_members(archive), archive, temporary)
        inside = temporary / destination.name
        (inside if inside.is_dir() else temporary).rename(destination)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def _write(members: Iterable[_Member], archive: Path, folder: Path) -> None:
    left = _bound(archive, folder)
    for member in members:
        _refuse_outside(member, archive)
        left -= max(member.size, _BLOCK)
        if left < 0:
            raise _too_large(archive)
        target = folder / member.name
        if member.is_folder:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, target.open("xb") as file:
            shutil.copyfileobj(source, file)


def _bound(archive: Path, folder: Path) -> int:
    return min(LARGEST_RATIO * archive.stat().st_size, shutil.disk_usage(folder).free)


def _too_large(archive: Path) -> InputError:
    return InputError(
        f"{archive} unpacks to more than {LARGEST_RATIO} times its size or than is free where it would lie; fetch it "
        "anew, or free space there"
    )


def _refuse_outside(member: _Member, archive: Path) -> None:
    path = PurePosixPath(member.name.replace("\\", "/"))
    nothing = not path.parts and not member.is_folder
    if nothing or path.is_absolute() or ".." in path.parts or not (member.is_folder or member.is_file):
        raise InputError(
            f"{archive} holds {member.name!r}, which leads outside or is no plain file; fetch the authors' archive anew"
        )


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            mode = stat.S_IFMT(info.external_attr >> 16)  # 0 where no Unix wrote it
            name = info.filename.replace("\\", "/")  # of archives that some programs on Windows write
            is_folder = name.endswith("/")  # is_dir() fails where there is no name
            is_file = mode in (0, stat.S_IFREG) and not is_folder
            yield _Member(name, info.file_size, is_folder, is_file, partial(file.open, info))


def _tar_members(archive: Path) -> Iterator[_Member]:
    """``tarfile`` reads names and attributes of any length at once, and keeps those of all members."""
    packed = gzip.open if archive.suffix == ".gz" else open
    with packed(archive, "rb") as stream, tarfile.open(fileobj=_Bounded(stream, archive), mode="r:") as file:
        while info := file.next():
            if info.size < 0 or len(file.pax_headers) > _ATTRIBUTES:
                raise ValueError("it has a member of a negative size, or attributes without end")
            yield _Member(info.name, info.size, info.isdir(), info.isreg(), partial(file.extractfile, info))
            file.members.clear()  # which nothing looks at again


class _Bounded:
    """A stream of which no more is read, headers included, than an archive may unpack to, and little at once."""

    def __init__(self, stream: IO[bytes], archive: Path):
        self._stream = stream
        self._archive = archive
        self._end = max(LARGEST_RATIO * archive.stat().st_size, _AT_ONCE)
        self.tell = stream.tell

    def seek(self, position: int) -> int:
        if position > self._end:  # to get there in a packed stream is to unpack it
            raise _too_large(self._archive)
        return self._stream.seek(position)

    def read(self, size: int) -> bytes:
        if size > _AT_ONCE:
            raise ValueError(f"a name or other attributes have {size:,} bytes")
        if self.tell() + size > self._end:
            raise _too_large(self._archive)
        return self._stream.read(size)
