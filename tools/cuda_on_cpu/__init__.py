"""A stand-in for CuPy that runs CUDA kernels on the CPU: their text, as it is, compiled by g++.

``blockIdx`` and its like are thread-local variables and the grid is a loop. Multiplications and additions are joined
only where the text says so, as under nvcc's ``--fmad=false``, which the kernels must ask for.
"""

import contextlib
import ctypes
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
import types
from collections import Counter
from pathlib import Path

import numpy as np

from jellyplus.neuron import cupy_backend

__all__ = ["MISSING", "RawKernel", "cupy", "installed", "launches"]

#: Why nothing can be run here, or None.
MISSING = None if shutil.which("g++") else "g++ is missing: the CUDA kernels cannot be run on this machine"
#: Launches so far, by name of the kernel.
launches = Counter()

_FLAGS = ("-std=c++17", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-Wall", "-Werror", "-Wno-unknown-pragmas")
_WORDS = """
#include <cmath>
#include <cstddef>
#include <cstring>
#define __global__
#define __device__
#define __forceinline__ inline
struct Index { unsigned x, y, z; };
static thread_local Index blockIdx, blockDim, threadIdx;
inline float __uint_as_float(unsigned bits) {
    float f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
}
inline unsigned __float_as_uint(float f) {
    unsigned bits;
    std::memcpy(&bits, &f, sizeof bits);
    return bits;
}
"""
_LAUNCH = """
extern "C" void launch(unsigned blocks, unsigned threads, void **arguments) {{
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++)
        for (threadIdx.x = 0; threadIdx.x < threads; threadIdx.x++) {name}({arguments});
}}
"""


class RawKernel:
    """``cupy.RawKernel``, as far as it is used."""

    def __init__(self, code: str, name: str, options: tuple = (), backend: str = "nvrtc"):
        assert backend == "nvrtc"
        self.code, self.name, self.options = code, name, options

    def __call__(self, grid: tuple, block: tuple, args: tuple, stream=None) -> None:
        """Launch it."""
        launches[self.name] += 1
        values = [_packed(value) for value in args]
        addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        _built(self.code, self.name).launch(*grid, *block, addresses)


class ndarray:  # noqa: N801 CuPy's name
    """A scalar on the device, as SpikingJelly passes them."""

    def __init__(self, value, dtype=None):
        self.array = np.atleast_1d(np.asarray(value, dtype=dtype or (np.int32 if isinstance(value, int) else None)))
        self.dtype, self.ndim, self.size = self.array.dtype, self.array.ndim, self.array.size
        self.device = types.SimpleNamespace(id=-1)


def asarray(value, dtype=None) -> ndarray:
    return ndarray(value, dtype)


#: What takes the place of the module ``cupy``.
cupy = types.SimpleNamespace(
    RawKernel=RawKernel, ndarray=ndarray, asarray=asarray, ascontiguousarray=lambda array: array
)


@contextlib.contextmanager
def installed(monkeypatch):
    """``backend="cupy"`` runs here, on tensors of the CPU; further patches belong on the one that is given."""
    with monkeypatch.context() as patch:
        patch.setattr(cupy_backend, "cupy", cupy)
        patch.setattr(cupy_backend, "obstacle", lambda: None)
        patch.setattr(cupy_backend, "DeviceEnvironment", lambda index: contextlib.nullcontext())
        patch.setattr(cupy_backend, "_stream", lambda device: None)
        patch.setattr(cupy_backend.CupyEngine, "device_type", "cpu")
        cupy_backend._kernel.cache_clear()
        yield patch
        cupy_backend._kernel.cache_clear()


def _packed(value):
    """A value in memory, of the size that CuPy gives it: int 8 bytes, numpy scalars their own."""
    if isinstance(value, ndarray):
        value = value.array.ctypes.data
    if isinstance(value, int):
        return ctypes.c_longlong(value)
    assert isinstance(value, np.generic), f"CuPy would take {type(value)} for something else"
    return np.ctypeslib.as_ctypes_type(value.dtype)(value.item())


#: Shared by all processes of a test run, and kept for the next one.
_LIBRARIES = Path(__file__).parents[2] / ".pytest_cache" / "cuda_on_cpu"


@functools.cache
def _made_with() -> str:
    """The headers, the compiler and its options."""
    version = subprocess.run(["g++", "--version"], check=True, capture_output=True, text=True).stdout
    return "".join([*(path.read_text() for path in sorted(Path(__file__).parent.glob("*.h"))), version, *_FLAGS])


@functools.cache
def _built(code: str, name: str) -> ctypes.CDLL:
    text = _WORDS + code + _LAUNCH.format(name=name, arguments=", ".join(_arguments(code, name)))
    library = _LIBRARIES / f"{hashlib.sha256((_made_with() + text).encode()).hexdigest()[:32]}.so"
    if not library.exists():
        _LIBRARIES.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_LIBRARIES) as folder:
            source, made = Path(folder) / "kernel.cpp", Path(folder) / "kernel.so"
            source.write_text(text)
            subprocess.run(["g++", *_FLAGS, "-I", Path(__file__).parent, "-o", made, source], check=True)
            made.replace(library)
    return ctypes.CDLL(str(library))


def _arguments(code: str, name: str):
    """The launcher's view of each parameter: a value, or through a reference the value at a device address."""
    signature = re.search(rf"void {name}\(([^)]*)\)", code)[1]
    for i, parameter in enumerate(signature.split(",")):
        ctype = re.match(r"(.*[\s*&])\w+\s*$", parameter.strip(), re.DOTALL)[1].strip()
        yield f"**({ctype[:-1]}**)arguments[{i}]" if ctype.endswith("&") else f"*({ctype}*)arguments[{i}]"
