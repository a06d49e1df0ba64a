"""What ``torch.save`` wrote, by a reader that knows tensors and plain data, and makes no more than the file holds.

``torch.load(weights_only=True)`` executes nothing either, but a few hundred bytes make it allocate gigabytes: a pickle
may ask for a ``bytearray`` of any length, and for a tensor of any size on a storage of one number, which the first copy
fills. And it has a zip reader of its own: where a file has two central directories, what Python's ``zipfile`` looks at
is not what torch loads. Here one reader sees the file, and compares every length before it makes anything of it.

Format (torch/serialization.py, ``_save``): a zip archive of entries as they are, ``<name>/data.pkl``, a pickle of
protocol 2, and ``<name>/data/<key>`` for every storage, whose type, key and length stand in the pickle.
"""

import io
import math
import os
import pickle
import re
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from jellyplus._files import open_file

__all__ = ["read_saved"]

LARGEST_PICKLE = 8 * 2**20  # bytes, of ten thousand epochs 3; it becomes a hundred times as large at most

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# fmt: off
_OPCODES = b"".join((
    pickle.PROTO, pickle.STOP, pickle.MARK, pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET,
    pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1,
    pickle.BINFLOAT, pickle.BINUNICODE, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3,
    pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS,
    pickle.GLOBAL, pickle.REDUCE, pickle.BUILD, pickle.BINPERSID,
))
# fmt: on


def read_saved(path: Path) -> Any:
    """Read tensors, onto the CPU, and dicts, lists and tuples of them, of numbers, text and None.

    Raises:
        Exception: of many kinds, where the file is damaged, holds anything else, or claims more than it has.
    """
    with open_file(path) as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it holds packed entries, which torch does not write")
        size = os.fstat(file.fileno()).st_size
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("its entries are larger than the file")
        return _Reader(archive, size).load()


class _Opcodes(dict):
    """What reads each opcode."""

    def __missing__(self, code: int) -> Any:
        raise ValueError(f"its pickle has the opcode {code}, which torch does not write")


class _Reader(pickle._Unpickler):
    """Python's reader of pickles written in Python, since that in C makes room for any number that a memo entry has.

    It has the opcodes that ``torch.save`` needs, and two functions to call, which make tensors and empty OrderedDicts.
    """

    dispatch: ClassVar = _Opcodes((code, pickle._Unpickler.dispatch[code]) for code in _OPCODES)

    def __init__(self, archive: zipfile.ZipFile, size: int):
        (entry,) = (entry for entry in archive.infolist() if re.fullmatch("[^/]+/data.pkl", entry.filename))
        if entry.file_size > LARGEST_PICKLE:
            raise ValueError(f"its pickle is larger than {LARGEST_PICKLE // 2**20} MiB")
        super().__init__(io.BytesIO(archive.read(entry)))
        self._archive, self._folder = archive, entry.filename.partition("/")[0]
        self._left = size  # bytes that tensors may have
        self._storages: dict[str, Tensor] = {}
        order = f"{self._folder}/byteorder"
        if order in archive.namelist() and archive.read(order) != sys.byteorder.encode():
            raise ValueError("it was written on a machine with another byte order")

    def find_class(self, module: str, name: str) -> Any:
        """The two functions, and element types in place of the classes of storages."""
        known = {"torch._utils._rebuild_tensor_v2": self._tensor, "collections.OrderedDict": _empty}
        known |= {f"torch.{storage}": dtype for storage, dtype in _DTYPES.items()}
        if (full := f"{module}.{name}") not in known:
            raise ValueError(f"it asks for {full}, which is no part of tensors and plain data")
        return known[full]

    def persistent_load(self, described: tuple) -> Tensor:
        """A storage, [n], read once."""
        _, dtype, key, _, n = described  # where it was does not matter
        if type(key) is not str or type(n) is not int:
            raise ValueError("it describes a storage as torch does not")
        if key not in self._storages:
            self._storages[key] = self._storage(f"{self._folder}/data/{key}", dtype, n)
        if self._storages[key].dtype is not dtype:
            raise ValueError("it has a storage of two types")
        return self._storages[key]

    def _storage(self, name: str, dtype: torch.dtype, n: int) -> Tensor:
        if self._archive.getinfo(name).file_size != n * dtype.itemsize:
            raise ValueError("it has a storage of another length than its pickle says")
        storage = torch.empty(n, dtype=dtype)
        with self._archive.open(name) as entry:
            entry.readinto(storage.view(torch.uint8).numpy())
        return storage

    def _tensor(self, storage: Tensor, offset: int, size: tuple, stride: tuple, *_: object) -> Tensor:
        """``torch._utils._rebuild_tensor_v2``; neither gradients nor hooks are kept."""
        self._left -= math.prod(size) * storage.element_size()
        if self._left < 0:
            raise ValueError("its tensors are larger than the file")
        return storage.new_empty(0).set_(storage.as_strided(size, stride, offset))  # which must lie within

    def load_build(self) -> None:
        """A state dict's notes on the versions of modules are dropped: ours have one."""
        self.stack.pop()

    def load_setitem(self) -> None:
        """One item."""
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def load_setitems(self) -> None:
        """Items since the mark."""
        self._set(self.pop_mark())

    def _set(self, items: list) -> None:
        """Keys are text or numbers: the hash of tuples within tuples takes any time, or all of the stack."""
        if not isinstance(self.stack[-1], dict) or any(type(key) not in (str, int) for key in items[::2]):
            raise ValueError("it has a key that is neither text nor a number")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    dispatch |= {
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
    }


def _empty() -> OrderedDict:
    """Without arguments, which would be copied."""
    return OrderedDict()
