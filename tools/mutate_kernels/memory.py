"""Memory in which an access out of range is a crash or a difference."""

import ctypes
import functools
import mmap

import numpy as np

_PAGE = mmap.PAGESIZE
_MAP_NORESERVE = 0x4000  # Linux: takes no memory; in Python's mmap since 3.13


class Region:
    """An array in memory that ends ``slack`` bytes before a page that nobody may touch; NaN stands around it.

    Args:
        content: [rows, columns], or fewer dimensions.
        is_output: it is NaN first, and ``content`` what is wanted.
        slack: bytes left behind the array.
        tolerance: relative and absolute, of an output.
        stride: bytes from one row to the next where they do not follow each other.
    """

    def __init__(
        self, content: np.ndarray, is_output: bool, slack: int = 0, tolerance: float = 0.0, stride: int | None = None
    ):
        rows = [np.ascontiguousarray(content)] if stride is None else list(content)
        room = -(-(rows[0].nbytes + slack) // _PAGE) * _PAGE
        size = (len(rows) - 1) * (stride or 0) + room + 4 * _PAGE
        self._pages = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE, prot=0)
        begin = np.frombuffer(self._pages, np.uint8).ctypes.data + 2 * _PAGE
        self.address, self.itemsize = begin + room - slack - rows[0].nbytes, content.itemsize
        places = (self.address + i * (stride or 0) for i in range(len(rows)))
        self._rows = [_Row(at, row, is_output, tolerance) for at, row in zip(places, rows, strict=True)]

    def is_right(self) -> bool:
        """The output is what is wanted, and nothing else has changed."""
        return all(row.is_right() for row in self._rows)


class _Row:
    """Numbers at an address, the rest of their pages, and the page before."""

    def __init__(self, address: int, content: np.ndarray, is_output: bool, tolerance: float):
        self.content, self.is_output, self.tolerance = content, is_output, tolerance
        begin = address // _PAGE * _PAGE - _PAGE
        end = -(-(address + content.nbytes) // _PAGE) * _PAGE
        _libc().mprotect(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.PROT_READ | mmap.PROT_WRITE)
        self._bytes = np.frombuffer((ctypes.c_uint8 * (end - begin)).from_address(begin), np.uint8)
        self._begin, self._end = address - begin, address - begin + content.nbytes
        self._bytes[:] = 0xFF
        if not is_output:
            self._array()[...] = content
        self._before = self._bytes.copy()

    def is_right(self) -> bool:
        """See :meth:`Region.is_right`."""
        now, before = self._bytes, self._before
        if not self.is_output:
            return np.array_equal(now, before)
        around = (slice(None, self._begin), slice(self._end, None))
        close = np.allclose(self._array().astype(np.float64), self.content, self.tolerance, self.tolerance)
        return close and all(np.array_equal(now[part], before[part]) for part in around)

    def _array(self) -> np.ndarray:
        return self._bytes[self._begin : self._end].view(self.content.dtype).reshape(self.content.shape)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
