"""numpy's file format, read without numpy's own reader."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jellyplus.datasets.npy import from_npy


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "<i8", ">u4", ">i2", "<f4", ">f8", "<f2"])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 4), (2, 1, 3, 2), (0,), (2, 0)])
def test_what_numpy_saves(dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    read = from_npy(saved(array))
    assert (read.dtype, read.shape) == (array.dtype, shape)
    assert np.array_equal(read, array)


FIVE = saved(np.arange(5))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        FIVE[:-1],
        FIVE[:-8],
        FIVE + bytes(8),
        FIVE.replace(b"(5,)", b"(7,)"),
        FIVE.replace(b"(5,)", b"(2,)"),
        FIVE.replace(b"<i8", b"<f1"),
        saved(np.array([1, None], object)),
        saved(np.array(["a"])),
        saved(np.zeros((2, 3)).T),
        saved(np.zeros(2, [("a", int)])),
        saved(np.zeros(2, complex)),
    ],
)
def test_what_is_refused(content):
    with pytest.raises(ValueError, match=r"numbers"):
        from_npy(content)


def test_many_threads():
    """numpy's reader fails here now and then on Python 3.11."""
    contents = [saved(np.arange(k)) for k in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert [len(array) for array in pool.map(from_npy, contents * 5)] == list(range(200)) * 5
