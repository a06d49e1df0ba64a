"""``backend="cupy"``: CUDA kernels on SpikingJelly's ``CKernel2D``: float32, and float16 and bfloat16 by two neurons.

Half precision is how sequences are stored; the potential stays a float in a register between time-steps, so that the
spikes are those of a float32 node fed with the same half-precision input.

What of SpikingJelly 0.0.0.0.14's kernel classes is replaced, and why (``auto_cuda/base.py``):

* line 249 compares with ``np.int``, gone since numpy 1.24, for every ``cupy.ndarray`` argument: scalars are passed by
  value here, and nothing but tensors is checked;
* ``__call__`` makes its text, and a ``RawKernel`` from it, at every launch, and copies scalars to the device first; it
  launches on CuPy's current stream and not on torch's;
* it compiles with ``-use_fast_math``, which approximates tanh and division; ours are CUDA's own, and a product and a
  sum are joined only where the text says so. CuPy itself adds ``-ftz=true``: float32 numbers below 2^-126 are zero.
"""

import functools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jellyplus import surrogate
from jellyplus._compat import CKernel2D, DeviceEnvironment
from jellyplus.neuron.dynamics import Dynamics
from jellyplus.neuron.kernel_code import BFLOAT16, PARAMETERS, Form, body, call
from jellyplus.neuron.kernel_engine import Arguments, KernelEngine, Obstacle

__all__ = ["CupyEngine", "NodeKernel", "all_kernels", "obstacle"]

try:
    import cupy

    _import_error = None
except Exception as error:  # CuPy raises many kinds; obstacle() shows the original one
    cupy, _import_error = None, error

_THREADS = 256  # in a CUDA block
_HEAD = """
#include <cuda_fp16.h>
#define INLINE __device__ __forceinline__
#define UNROLLED _Pragma("unroll")
#define EACH_LANE UNROLLED for (int lane = 0; lane < LANES; lane++)
"""
_BLOCK = {
    "float": """
constexpr int LANES = 1;
typedef float Stored;

struct Block {
    long long i, n;
    INLINE const float *load(float (&room)[1], const float *from, long long begin) const {
        copy(room, from, begin, 0.0f);
        return room;
    }
    INLINE void copy(float (&to)[1], const float *from, long long begin, float otherwise) const {
        to[0] = from ? from[begin + i] : otherwise;
    }
    INLINE float *place(float (&room)[1], float *, long long) const { return room; }
    INLINE void store(float *to, long long begin, const float *from) const { to[begin + i] = from[0]; }
};
""",
    "half2": """
constexpr int LANES = 2;
typedef half2 Stored;

// Two neurons side by side. The second one is missing at the end of an odd row, and every other row of an odd number
// begins between two half2: these go one by one.
struct Block {
    long long i, n;
    INLINE bool both() const { return i + 1 < n; }
    INLINE bool paired(const half *at) const { return both() && (size_t)at % sizeof(half2) == 0; }
    INLINE const float *load(float (&room)[2], const half2 *from, long long begin) const {
        copy(room, from, begin, 0.0f);
        return room;
    }
    INLINE void copy(float (&to)[2], const half2 *from, long long begin, float otherwise) const {
        to[0] = to[1] = otherwise;
        if (!from) return;
        const half *at = (const half *)from + begin + i;
        if (paired(at)) {
            const float2 pair = __half22float2(*(const half2 *)at);
            to[0] = pair.x;
            to[1] = pair.y;
        } else {
            to[0] = __half2float(at[0]);
            if (both()) to[1] = __half2float(at[1]);
        }
    }
    INLINE void copy(float (&to)[2], const float *from, long long begin, float) const {
        to[0] = from[begin + i];
        if (both()) to[1] = from[begin + i + 1];
    }
    INLINE float *place(float (&room)[2], half2 *, long long) const { return room; }
    INLINE void store(half2 *to, long long begin, const float *from) const {
        half *at = (half *)to + begin + i;
        if (paired(at)) {
            *(half2 *)at = __floats2half2_rn(from[0], from[1]);
        } else {
            at[0] = __float2half_rn(from[0]);
            if (both()) at[1] = __float2half_rn(from[1]);
        }
    }
    INLINE void store(float *to, long long begin, const float *from) const {
        to[begin + i] = from[0];
        if (both()) to[begin + i + 1] = from[1];
    }
};
""",
}
_BLOCK["bfloat162"] = (
    BFLOAT16
    + """
struct alignas(4) bfloat162 {
    bfloat16 x, y;
};
INLINE float2 __bfloat1622float2(bfloat162 pair) { return {__bfloat162float(pair.x), __bfloat162float(pair.y)}; }
INLINE bfloat162 __floats2bfloat162_rn(float low, float high) {
    return {__float2bfloat16_rn(low), __float2bfloat16_rn(high)};
}
"""
    + _BLOCK["half2"].replace("half", "bfloat16")  # so CUDA names them
)
_LANES = {"float": 1, "half2": 2, "bfloat162": 2}
_CTYPES = {torch.float32: "float", torch.float16: "half2", torch.bfloat16: "bfloat162"}


class NodeKernel(CKernel2D):
    """One direction of a node as a CUDA kernel over [T, n], a thread for each neuron, or for each two.

    Args:
        direction: ``forward`` or ``backward``.
        form: reset, detachment, rectification, surrogate, and what equality does.
        dtype: ``float``, ``half2`` or ``bfloat162``.
    """

    #: The kernel's own words decide what is rounded: no multiplication and addition are joined by the compiler.
    options = ("--std=c++17", "--fmad=false")

    def __init__(self, direction: str, form: Form, dtype: str):
        flags = {"hard": form.hard_reset, "detached": form.detach_reset}
        flags |= {"rectified": form.rectify, "strict": form.strict}
        super().__init__("_".join(["node", direction, dtype, *(name for name, is_set in flags.items() if is_set)]))
        self.direction, self.form, self.dtype = direction, form, dtype
        self.cparams: dict[str, str] = {}
        for name, ctype in sorted(PARAMETERS[direction].items()):  # the order of CKernel's declaration
            self.add_param(ctype.replace("Stored", dtype), name)
        self._packers = {name: _PACKERS.get(ctype, _address) for name, ctype in self.cparams.items()}

    @property
    def declaration(self) -> str:
        """The functions that the kernel calls, then its signature."""
        return _HEAD + _BLOCK[self.dtype] + body(self.form) + super().declaration

    @property
    def head(self) -> str:
        """The first of the thread's neurons; 64 bit, since T n may pass 2^31."""
        return "{ const long long i = LANES * ((long long)blockIdx.x * blockDim.x + threadIdx.x); if (i < n) "

    @property
    def core(self) -> str:
        """All time-steps."""
        return call(self.direction)

    @property
    def tail(self) -> str:
        """The end."""
        return "}"

    @functools.cached_property
    def compiled(self) -> Any:
        """The kernel in CuPy, compiled when it is launched first."""
        return cupy.RawKernel(self.full_codes, self.kernel_name, options=self.options, backend="nvrtc")

    def __call__(self, device: torch.device, arguments: Arguments) -> None:
        """Launch on torch's current stream of ``device``. A None is a null pointer."""
        given: dict[str, Any] = arguments
        values = tuple(pack(given[name]) for name, pack in self._packers.items())
        threads = -(-given["n"] // _LANES[self.dtype])
        grid = (-(-threads // _THREADS),)
        with DeviceEnvironment(device.index):  # CuPy launches on the current device, and torch's is put back
            self.compiled(grid, (_THREADS,), values, stream=_stream(device))


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


#: By C type, a number as CuPy wants it, of the parameter's size; what is no number is an address.
_PACKERS = {"const int": np.int32, "const long long": np.int64, "const float": np.float32}


class CupyEngine(KernelEngine):
    """Runs on CUDA tensors."""

    name = "cupy"
    device_type = "cuda"
    dtypes = (torch.float32, torch.float16, torch.bfloat16)

    def launch(self, direction: str, dtype: torch.dtype, device: torch.device, arguments: Arguments) -> None:
        """See :class:`KernelEngine`."""
        if arguments["n"]:
            _kernel(direction, self.form.needed_by(direction), _CTYPES[dtype])(device, arguments)


def _stream(device: torch.device) -> SimpleNamespace:
    """Torch's current stream as CuPy 13 and 14 both take it, an object with the address."""
    return SimpleNamespace(ptr=torch.cuda.current_stream(device).cuda_stream)


@functools.cache
def _kernel(direction: str, form: Form, dtype: str) -> NodeKernel:
    return NodeKernel(direction, form, dtype)


def all_kernels() -> Iterator[NodeKernel]:
    """Every kernel of jellyplus's own nodes and surrogates, in every type; strict ones differ in one comparison."""
    functions = (surrogate.Rectangular(), surrogate.Triangular(), surrogate.Dspike(), surrogate.EvAF())
    resets = ((0.0, False), (None, False), (None, True))  # hard, soft, and soft and rectified
    forms = [
        Form.of(fire, Dynamics(1.0, 0.5, v_reset, detached, spike_size=1.0, rectify=rectify))
        for fire in functions
        for v_reset, rectify in resets
        for detached in (False, True)
    ]
    wanted = dict.fromkeys((direction, form.needed_by(direction)) for direction in PARAMETERS for form in forms)
    return (NodeKernel(direction, form, dtype) for direction, form in wanted for dtype in _BLOCK)


@functools.cache
def obstacle() -> Obstacle | None:
    """Why CuPy cannot be used here; None where it compiles for a GPU that torch sees."""
    error = _import_error or _compile_error()
    if error is not None:
        return Obstacle(f"{type(error).__name__}: {error}", _remedy(error))
    if not torch.cuda.is_available():
        return Obstacle("torch.cuda.is_available() is False", "install a torch that is built for CUDA")
    return None


def _compile_error() -> Exception | None:
    probe = '#include <cuda_fp16.h>\nextern "C" __global__ void probe() {}'
    try:
        cupy.RawKernel(probe, "probe", backend="nvrtc").compile()
    except Exception as error:  # the driver's, NVRTC's or the loader's; each is CuPy's own kind
        return error
    return None


def _remedy(error: Exception) -> str:
    """The first thing to do; by what CuPy 13 and 14 say."""
    major = (torch.version.cuda or "13").split(".")[0]
    wheel = f"cupy-cuda{major}x"
    if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
        return f'run: pip install "jellyplus[cupy{major}]"'
    remedies = {
        "kernel_cache": "set CUPY_CACHE_DIR to a folder that can be written",
        "no attribute 'RawKernel'": f"remove the empty folder cupy and run: pip install --force-reinstall {wheel}",
        "InsufficientDriver": "install the NVIDIA driver, or a newer one (nvidia-smi says which is there)",
        "NoDevice": "make a GPU visible: look at CUDA_VISIBLE_DEVICES, and docker's --gpus all",
        "builtins": "unset LD_LIBRARY_PATH and CUDA_PATH: they lead to another CUDA version",
        "nvrtc.so": f'run: pip install "{wheel}[ctk]"',
        "gpu-architecture": "install wheels of torch and CuPy whose CUDA version knows this GPU",
        "UNSUPPORTED_PTX": "install a newer NVIDIA driver",
        "CUDA root directory": "run: pip install nvidia-cuda-runtime, of NVRTC's version",
        "cannot open source file": "run: pip install nvidia-cuda-runtime, of NVRTC's version",
    }
    found = (remedy for word, remedy in remedies.items() if word in f"{type(error).__name__}: {error}")
    return next(found, f"uninstall every CuPy and run: pip install {wheel}")
