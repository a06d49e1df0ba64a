"""Arrays in numpy's file format, for readers in threads.

numpy's own reader parses the header with ``ast``, which Python 3.11 cannot do in several threads at once: it raises
``SystemError: AST constructor recursion depth mismatch`` now and then (python/cpython issue 106905).
"""

import math
import re

import numpy as np

__all__ = ["HEAD_BYTES", "from_npy", "shape_of"]

HEAD_BYTES = 1024  #: have the whole header

_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<>|](?:[iu][1248]|f[248]|b1))', 'fortran_order': False, "
    rb"'shape': \(((?:\d{1,18},? ?)*)\), \} *\n",
    re.DOTALL,
)


def shape_of(head: bytes) -> list[int]:
    """The shape of an array of numbers that ``np.save`` wrote, in C order, from its first bytes.

    Raises:
        ValueError: there is none.
    """
    return _described(head)[1]


def from_npy(content: bytes) -> np.ndarray:
    """The array of numbers that ``np.save`` wrote, in C order; it shares the memory of ``content``.

    Raises:
        ValueError: there is none, or it is not as long as its header says.
    """
    dtype, shape, start = _described(content)
    if math.prod(shape) * dtype.itemsize != len(content) - start:
        raise ValueError(f"not as many numbers as the header says, {shape}")
    return np.ndarray(shape, dtype, content, start)


def _described(content: bytes) -> tuple[np.dtype, list[int], int]:
    header = _HEADER.match(content)
    if not header:
        raise ValueError("no array of numbers in C order")
    shape = [int(size) for size in header[2].replace(b",", b" ").split()]
    return np.dtype(header[1].decode()), shape, header.end()
