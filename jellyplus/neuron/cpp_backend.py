"""``backend="cpp"``: the CUDA kernels' text built for the CPU, with blocks of neurons that stay in the cache.

It runs float32, and bfloat16 as a way to store sequences: the potential stays a float between time-steps.

A library is built once for each form of node (reset, surrogate) and type, takes about a second, and is kept in
``$XDG_CACHE_HOME/jellyplus`` (``~/.cache/jellyplus``) as ``<made of>-<content>.so``: by the hash of its text, compiler
and processor it is found, and by its own one that is damaged is noticed and built again. To load it is to run it: the
folder must be the user's, and nobody else's to write. It needs a C++ compiler with OpenMP: ``$CXX``, g++, c++ or
clang++.
"""

import contextlib
import ctypes
import errno
import functools
import hashlib
import mmap
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from jellyplus._errors import InputError
from jellyplus._files import read_file, replace_file, user_cache
from jellyplus.neuron import normalised_code
from jellyplus.neuron.kernel_code import BFLOAT16, PARAMETERS, Form, body, call
from jellyplus.neuron.kernel_engine import Arguments, KernelEngine, Obstacle

__all__ = ["CppEngine", "obstacle"]

_FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC", "-fopenmp"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),  # the first for the same numbers, then for SIMD
)
_HEAD = """
#include <cmath>
#include <cstring>
#if defined(__GLIBC__) && defined(__x86_64__) && !defined(__clang__)
#if __GLIBC_PREREQ(2, 35)  // libmvec has them; glibc declares so under -ffast-math only
extern "C" {
__attribute__((const, simd("notinbranch"))) float tanhf(float) noexcept;
__attribute__((const, simd("notinbranch"))) float expf(float) noexcept;
__attribute__((const, simd("notinbranch"))) float cbrtf(float) noexcept;
}
#endif
#endif
// CUDA's own functions that a surrogate's code may use, at full precision
#define __cosf cosf
#define __exp10f exp10f
#define __expf expf
#define __log10f log10f
#define __log2f log2f
#define __logf logf
#define __powf powf
#define __sinf sinf
#define __tanf tanf
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __saturatef(float x) { return fminf(fmaxf(x, 0.0f), 1.0f); }
static inline float max(float x, float y) { return fmaxf(x, y); }
static inline float min(float x, float y) { return fminf(x, y); }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline float __uint_as_float(unsigned bits) {
    float f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
}
static inline unsigned __float_as_uint(float f) {
    unsigned bits;
    std::memcpy(&bits, &f, sizeof bits);
    return bits;
}
#define INLINE static inline
#define UNROLLED
#define EACH_LANE _Pragma("omp simd") for (int lane = 0; lane < LANES; lane++)
"""
_BLOCK = {
    torch.float32: """
constexpr int LANES = 128;  // measured in benchmarks/block_size.md; each block computes anew what depends on b alone
typedef float Stored;

static const float nothing[LANES] = {};

// Whole blocks are read and written where they lie; the last one goes through ``room``.
struct Block {
    long long i, n;
    bool whole() const { return i + LANES <= n; }
    const float *load(float (&room)[LANES], const float *from, long long begin) const {
        if (!from) return nothing;
        if (whole()) return from + begin + i;
        copy(room, from, begin, 0.0f);
        return room;
    }
    void copy(float (&to)[LANES], const float *from, long long begin, float otherwise) const {
        for (int lane = 0; lane < LANES; lane++) to[lane] = otherwise;
        if (from) std::memcpy(to, from + begin + i, size());
    }
    float *place(float (&room)[LANES], float *to, long long begin) const { return whole() ? to + begin + i : room; }
    void store(float *to, long long begin, const float *from) const {
        if (to + begin + i != from) std::memcpy(to + begin + i, from, size());
    }
    size_t size() const { return sizeof(float) * (whole() ? LANES : n - i); }
};
""",
    torch.bfloat16: BFLOAT16
    + """
constexpr int LANES = 512;
typedef bfloat16 Stored;

static const float nothing[LANES] = {};

// All is read and written through ``room``, where it is float.
struct Block {
    long long i, n;
    const float *load(float (&room)[LANES], const bfloat16 *from, long long begin) const {
        if (!from) return nothing;
        copy(room, from, begin, 0.0f);
        return room;
    }
    void copy(float (&to)[LANES], const bfloat16 *from, long long begin, float otherwise) const {
        for (int lane = 0; lane < LANES; lane++) to[lane] = otherwise;
        if (!from) return;
        for (int lane = 0; lane < lanes(); lane++) to[lane] = __bfloat162float(from[begin + i + lane]);
    }
    void copy(float (&to)[LANES], const float *from, long long begin, float) const {
        std::memcpy(to, from + begin + i, sizeof(float) * lanes());
    }
    float *place(float (&room)[LANES], bfloat16 *, long long) const { return room; }
    void store(bfloat16 *to, long long begin, const float *from) const {
        for (int lane = 0; lane < lanes(); lane++) to[begin + i + lane] = __float2bfloat16_rn(from[lane]);
    }
    void store(float *to, long long begin, const float *from) const {
        std::memcpy(to + begin + i, from, sizeof(float) * lanes());
    }
    int lanes() const { return i + LANES <= n ? LANES : n - i; }
};
""",
}
_LOOP = """
#pragma omp parallel for schedule(static) num_threads(threads) if (n * T > 32768)
    for (long long i = 0; i < n; i += LANES) """


class CppEngine(KernelEngine):
    """Runs on as many threads as torch does."""

    name = "cpp"
    device_type = "cpu"
    dtypes = (torch.float32, torch.bfloat16)

    def room(self, x: Tensor) -> Tensor:
        """Fresh memory in huge pages where Linux gives them: to be handed 4 KiB at a time is what is slow."""
        room = torch.empty_like(x)
        begin = -(-room.data_ptr() // _HUGE_PAGE) * _HUGE_PAGE
        whole = (room.data_ptr() + room.nbytes - begin) // _HUGE_PAGE * _HUGE_PAGE
        if whole > 0 and hasattr(mmap, "MADV_HUGEPAGE"):
            _libc().madvise(ctypes.c_void_p(begin), ctypes.c_size_t(whole), mmap.MADV_HUGEPAGE)  # advice, no demand
        return room

    def launch(self, direction: str, dtype: torch.dtype, device: torch.device, arguments: Arguments) -> None:
        """See :class:`KernelEngine`."""
        normalised = "norm" in arguments
        types = (normalised_code.PARAMETERS if normalised else PARAMETERS)[direction]
        values = [_value(name, ctype, arguments[name]) for name, ctype in types.items()]
        getattr(self._library(dtype, normalised), direction)(*values, torch.get_num_threads())

    def _library(self, dtype: torch.dtype, normalised: bool) -> ctypes.CDLL:
        try:
            return _library(self.form, dtype, normalised)
        except _NoCacheError:
            raise
        except OSError as error:  # where other kernels are built it is the surrogate's own text
            first = next((line for line in str(error).splitlines() if " error: " in line), str(error))
            raise ValueError(
                f"the code (cuda_codes) of {type(self.fire).__name__} cannot be built: {first.strip()}; use "
                "backend='torch'"
            ) from error


def _value(name: str, ctype: str, argument: Tensor | float | None) -> float | None:
    if not isinstance(argument, Tensor):
        return argument
    if "*" not in ctype:
        raise ValueError(f"{name} is a tensor, and kernels take a number: use backend='torch'")
    return argument.data_ptr()


_HUGE_PAGE = 2**21


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


@functools.cache
def obstacle() -> Obstacle | None:
    """Why no library can be built and loaded here; None where one was."""
    try:
        _library(Form(True, False, False, "const float slope = 1.0f;"), torch.float32, normalised=True)
    except _NoCacheError as error:
        return Obstacle(
            str(error), "make it a folder of yours alone, with room, or name another one in $XDG_CACHE_HOME"
        )
    except (OSError, ValueError, AttributeError, subprocess.SubprocessError) as error:  # $CXX may be anything
        return Obstacle(str(error), "install g++ with OpenMP (Debian: apt-get install g++), or name a compiler in $CXX")
    return None


class _NoCacheError(OSError):
    """There is no folder that libraries may be kept in and loaded from."""


@functools.cache
def _library(form: Form, dtype: torch.dtype, normalised: bool = False) -> ctypes.CDLL:
    library = ctypes.CDLL(str(_built(_normalised_source(form) if normalised else _source(form, dtype))))
    for direction, parameters in (normalised_code.PARAMETERS if normalised else PARAMETERS).items():
        function = getattr(library, direction)
        function.argtypes, function.restype = [*map(_ctype, parameters.values()), ctypes.c_int], None
    return library


def _ctype(text: str) -> type:
    if "*" in text:
        return ctypes.c_void_p
    return {"const int": ctypes.c_int, "const long long": ctypes.c_longlong, "const float": ctypes.c_float}[text]


def _source(form: Form, dtype: torch.dtype) -> str:
    kernels = [_function(direction, PARAMETERS, _LOOP + call(direction)) for direction in PARAMETERS]
    return "\n".join([_HEAD, _BLOCK[dtype], body(form), *kernels])


def _normalised_source(form: Form) -> str:
    bodies = normalised_code.BODIES.items()
    kernels = [_function(direction, normalised_code.PARAMETERS, text) for direction, text in bodies]
    return "\n".join([_HEAD, _BLOCK[torch.float32], body(form), normalised_code.SOURCE.read_text(), *kernels])


def _function(direction: str, parameters: dict[str, dict[str, str]], text: str) -> str:
    declared = ", ".join(f"{ctype} {name}" for name, ctype in parameters[direction].items())
    return f'extern "C" void {direction}({declared}, int threads) {{\n{text}\n}}\n'


def _built(source: str) -> Path:
    """The library of ``source``, built unless it is in the cache.

    Raises:
        OSError: no compiler, one that fails, or no cache; the message says which.
    """
    compiler = _compiler()
    made_of = "\n".join([source, *_FLAGS, _version(compiler), _processor()])
    cache, name = _cache(), _digest(made_of.encode())
    for path in sorted(cache.glob(f"{name}-*.so")):
        if _is_whole(path):
            return path
    try:
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            _compile(compiler, source, Path(folder) / "kernels.cpp", Path(folder) / "kernels.so")
            content = (Path(folder) / "kernels.so").read_bytes()
        path = cache / f"{name}-{_digest(content)}.so"
        replace_file(path, content, mode=0o600)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _NoCacheError(f"no room for its libraries in {cache}: {error.strerror}") from error
    return path


def _is_whole(path: Path) -> bool:
    """Whether it is what we wrote; what is not, a library cut short above all, is removed where that is possible."""
    with contextlib.suppress(OSError, InputError):
        if _is_ours(path) and _digest(read_file(path, path.parent)) == path.stem.partition("-")[2]:
            return True
        path.unlink()
    return False


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _compile(compiler: list[str], source: str, text: Path, library: Path) -> None:
    text.write_text(source)
    result = subprocess.run([*compiler, *_FLAGS, "-o", library, text], capture_output=True, text=True, check=False)
    if result.returncode:
        raise OSError(f"{shlex.join(compiler)} cannot build the kernels: {result.stderr.strip()}")


@functools.cache
def _compiler() -> list[str]:
    if command := os.environ.get("CXX"):
        return shlex.split(command)
    for name in ("g++", "c++", "clang++"):
        if path := shutil.which(name):
            return [path]
    raise FileNotFoundError("no C++ compiler found: neither $CXX nor g++, c++ or clang++ on the PATH")


def _version(compiler: list[str]) -> str:
    return subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout


def _processor() -> str:
    """What -march=native depends on: a home folder may be shared by different machines."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    fields = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    return "\n".join([platform.machine(), platform.processor(), *fields])


def _cache() -> Path:
    """The folder of libraries, made if it is not there.

    Raises:
        _NoCacheError: there can be none, it cannot be written, or somebody else could put a library there.
    """
    try:
        folder = user_cache()
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if not all(map(_is_ours, (folder, folder.resolve()))) or _is_open(folder.parent):
            raise PermissionError(f"{folder} is not this user's, or others can write there")
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} cannot be written")
        if hasattr(os, "ST_NOEXEC") and os.statvfs(folder).f_flag & os.ST_NOEXEC:
            raise PermissionError(f"{folder} is mounted so that nothing in it may run (noexec)")
    except (OSError, RuntimeError) as error:
        raise _NoCacheError(f"no folder for its libraries: {error}") from error
    return folder


def _is_ours(path: Path) -> bool:
    """Whether it is this user's and nobody else can write it; a link counts by who made it."""
    if not _HAS_OWNERS:
        return True
    return path.lstat().st_uid == os.geteuid() and not path.stat().st_mode & _OTHERS_WRITE


def _is_open(folder: Path) -> bool:
    """Whether others could put a folder of theirs in the place of one of ours."""
    mode = folder.stat().st_mode
    return _HAS_OWNERS and bool(mode & _OTHERS_WRITE) and not mode & stat.S_ISVTX


_HAS_OWNERS = hasattr(os, "geteuid")  # Windows has none, and there a home is closed to others
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
