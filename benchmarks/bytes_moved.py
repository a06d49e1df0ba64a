"""Counts the bytes that the multi-step node moves, per neuron and time-step, and those of 0.0.0.0.14's ``LIFNode``.

    python benchmarks/bytes_moved.py [--output benchmarks/bytes_moved.md]

The CUDA kernels of both sides run on the CPU, from their own text, and g++'s thread sanitizer reports every access to
memory: each byte counts once per launch as loaded, unless the launch wrote it before, and once as stored. That is a GPU
whose cache keeps what its thread has touched and nothing from launch to launch. Torch's operations around the kernels
count with what they read and write; views and allocations move nothing. The exit status is 1 where jellyplus, forward
and backward together, moves more than half of what SpikingJelly does.
"""

import argparse
import contextlib
import ctypes
import functools
import hashlib
import math
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from spikingjelly.activation_based import base, cuda_utils, neuron
from spikingjelly.activation_based.auto_cuda import base as kernel_base
from spikingjelly.activation_based.auto_cuda import neuron_kernel
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from jellyplus._files import write_atomically
from jellyplus.neuron import IterativeLIFNode, cupy_backend
from jellyplus.surrogate import Rectangular

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import cuda_on_cpu

NEURONS = 2048
#: Sequences of the loss's gradient, x, spikes and the outgoing gradient that no kernel can do without. Backward needs
#: x, or H instead.
LEAST = {"forward": 2, "backward": 3, "forward + backward": 5}
MOST = 0.5  # of SpikingJelly's bytes
STATES = {"reset": "after a reset", "carried": "V carried over, with its gradient", "H": "after a reset, store_h_seq"}

#: Bytes since the last clear(), of "loads" and "stores" in kernels and of "torch".
moved = Counter()

# All is inlined, as nvcc does: the sanitizer reports no half2 that is passed to a function from memory. Then what
# SpikingJelly's half2 kernels use beyond the stand-in's cuda_fp16.h.
_HALF2 = """
#include <cstdint>
#define inline inline __attribute__((always_inline))
#include <cuda_fp16.h>
#define LANE_BY_LANE(name, result) \\
    inline half2 name(half2 a, half2 b) { \\
        const float2 l = __half22float2(a), r = __half22float2(b); \\
        return __floats2half2_rn(result(l.x, r.x), result(l.y, r.y)); \\
    }
inline float sum(float a, float b) { return a + b; }
inline float difference(float a, float b) { return a - b; }
inline float product(float a, float b) { return a * b; }
inline float not_below(float a, float b) { return a >= b; }
LANE_BY_LANE(__hadd2, sum)
LANE_BY_LANE(__hsub2, difference)
LANE_BY_LANE(__hmul2, product)
LANE_BY_LANE(__hgeu2, not_below)
inline half2 __float2half2_rn(float both) { return __floats2half2_rn(both, both); }
inline float __low2float(half2 h) { return __half22float2(h).x; }
inline float __high2float(half2 h) { return __half22float2(h).y; }
inline half2 __hfma2(half2 a, half2 b, half2 c) {
    const float2 x = __half22float2(a), y = __half22float2(b), z = __half22float2(c);
    return __floats2half2_rn(fmaf(x.x, y.x, z.x), fmaf(x.y, y.y, z.y));
}
"""
_INDICES = """
extern "C" void ignore(const void *begin, size_t size);
extern "C" void ignore_indices() {
    ignore(&blockIdx, sizeof(Index));
    ignore(&blockDim, sizeof(Index));
    ignore(&threadIdx, sizeof(Index));
}
"""
# The sanitizer's functions: what is neither on the stack nor a thread's index is in device memory. Of every byte that
# was touched there is a note, in pages.
_HOOKS = """
#include <array>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

enum Touched : uint8_t { LOADED = 1, STORED = 2 };
static std::unordered_map<uintptr_t, std::array<uint8_t, 4096>> pages;
static std::vector<std::pair<uintptr_t, uintptr_t>> ignored;
static size_t loaded, stored;

static bool on_device(uintptr_t at) {
    const uintptr_t frame = (uintptr_t)__builtin_frame_address(0);
    if (at >= frame && at < frame + 65536) return false;
    for (auto [begin, end] : ignored)
        if (at >= begin && at < end) return false;
    return true;
}
static void touch(void *address, size_t size, Touched how) {
    if (!on_device((uintptr_t)address)) return;
    for (uintptr_t at = (uintptr_t)address, end = at + size; at < end; at++) {
        uint8_t &byte = pages[at / 4096][at % 4096];
        loaded += how == LOADED && byte == 0;
        stored += how == STORED && !(byte & STORED);
        byte |= how;
    }
}
static void load(void *address, size_t size) { touch(address, size, LOADED); }
static void store(void *address, size_t size) { touch(address, size, STORED); }

#define ACCESS(size) \\
    void __tsan_read##size(void *at) { load(at, size); } \\
    void __tsan_write##size(void *at) { store(at, size); } \\
    void __tsan_unaligned_read##size(void *at) { load(at, size); } \\
    void __tsan_unaligned_write##size(void *at) { store(at, size); }
extern "C" {
ACCESS(1) ACCESS(2) ACCESS(4) ACCESS(8) ACCESS(16)
void __tsan_read_range(void *at, size_t size) { load(at, size); }
void __tsan_write_range(void *at, size_t size) { store(at, size); }
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void ignore(const void *begin, size_t size) { ignored.emplace_back((uintptr_t)begin, (uintptr_t)begin + size); }
void clear() { pages.clear(), ignored.clear(), loaded = stored = 0; }
size_t loads() { return loaded; }
size_t stores() { return stored; }
}
"""


class CountingKernel(cuda_on_cpu.RawKernel):
    """``cupy.RawKernel`` on the CPU, its text compiled with every access to memory reported."""

    def __call__(self, grid: tuple, block: tuple, args: tuple, stream=None) -> None:
        library = _built(self.code, self.name)
        values = [cuda_on_cpu._packed(value) for value in args]
        library.clear()
        library.ignore_indices()
        library.launch(*grid, *block, (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values)))
        moved.update(loads=library.loads(), stores=library.stores())


@functools.cache
def _built(code: str, name: str) -> ctypes.CDLL:
    """Compiled and linked apart, so that g++ does not link its own sanitizer."""
    launch = cuda_on_cpu._LAUNCH.format(name=name, arguments=", ".join(cuda_on_cpu._arguments(code, name)))
    launch = launch.replace('extern "C"', 'extern "C" __attribute__((no_sanitize("thread")))')
    kernel = _compiled(cuda_on_cpu._WORDS + _HALF2 + code + _INDICES + launch, "-fsanitize=thread")
    library = kernel.with_suffix(".so")
    subprocess.run(["g++", "-shared", "-o", library, kernel, _compiled(_HOOKS)], check=True)
    return ctypes.CDLL(str(library))


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="bytes_moved")


@functools.cache
def _compiled(text: str, *options: str) -> Path:
    source = Path(_folder().name) / f"counted_{hashlib.sha256(text.encode()).hexdigest()[:24]}.cpp"
    source.write_text(text)
    target = source.with_suffix(".o")
    options = (*cuda_on_cpu._FLAGS, *options, "-I", Path(cuda_on_cpu.__file__).parent)
    subprocess.run(["g++", *options, "-c", "-o", target, source], check=True)
    return target


class TorchMeter(TorchDispatchMode):
    """Adds up what torch's own operations read and write, in forward and in backward."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        results = operation(*args, **(kwargs or {}))
        moved["torch"] += operation_bytes(operation, args, kwargs or {}, results)
        return results


def operation_bytes(operation: torch._ops.OpOverload, args: tuple, kwargs: dict, results: object) -> int:
    """Bytes read and written; none by a view, an allocation or ``set_``, which points a tensor at another's memory."""
    name = operation.overloadpacket.__name__
    if name.startswith(("empty", "new_empty")) or name == "set_":
        return 0
    given = dict(zip((argument.name for argument in operation._schema.arguments), args, strict=False)) | kwargs
    changed = [argument for argument in operation._schema.arguments if _is_written(argument)]
    sources = {tensor.untyped_storage().data_ptr() for tensor in _tensors(given)}
    made = [tensor for tensor in _tensors(results) if tensor.untyped_storage().data_ptr() not in sources]
    written = [*_tensors([given.get(argument.name) for argument in changed]), *made]
    if not written:
        return 0
    overwritten = {argument.name for argument in changed if argument.is_out or name in ("fill_", "zero_", "copy_")}
    filled = name in ("full_like", "zeros_like", "ones_like", "new_zeros", "new_ones", "new_full")
    read = [] if filled else _tensors([value for key, value in given.items() if key not in overwritten])
    return sum(map(tensor_bytes, [*read, *written]))


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of its distinct elements: an expanded dimension is one element long."""
    lengths = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not size)
    return math.prod(lengths) * tensor.itemsize


def _is_written(argument: torch.Argument) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
    """``backend="cupy"`` of both sides runs on CPU tensors, and its kernels' bytes are counted.

    SpikingJelly asks for ``np.int`` (auto_cuda/base.py:249), gone since numpy 1.24, and for CuPy and a CUDA device.
    """
    cupy = SimpleNamespace(**vars(cuda_on_cpu.cupy) | {"RawKernel": CountingKernel})
    with pytest.MonkeyPatch.context() as outer, cuda_on_cpu.installed(outer) as patch:
        for module in (cupy_backend, kernel_base, neuron_kernel):
            patch.setattr(module, "cupy", cupy)
        patch.setattr(cuda_utils, "DeviceEnvironment", lambda device: contextlib.nullcontext())
        patch.setattr(base, "check_backend_library", lambda backend: None)
        patch.setattr(np, "int", int, raising=False)
        yield


def ours(**options) -> nn.Module:
    shared = {"v_threshold": 0.5, "surrogate_function": Rectangular(), "step_mode": "m", "backend": "cupy"}
    return IterativeLIFNode(decay=0.25, **shared, **options)


def theirs() -> nn.Module:
    shared = {"v_threshold": 0.5, "surrogate_function": Rectangular(), "step_mode": "m", "backend": "cupy"}
    return neuron.LIFNode(tau=4 / 3, decay_input=False, **shared)


class Passed(NamedTuple):
    """One forward and backward pass: its results, and the bytes of each direction."""

    spikes: Tensor
    gradient: Tensor
    forward: Counter
    backward: Counter


def run(make: Callable[[], nn.Module], state: str, dtype: torch.dtype, T: int, n: int = NEURONS) -> Passed:
    """The loss gives a dense gradient of the spikes only. x lies on a grid on which no early H comes near V_th."""
    generator = torch.Generator().manual_seed(0)
    x = ((torch.randint(-128, 128, (T, n), generator=generator) * 2 + 1) / 128).to(dtype)
    gradient = torch.randn((T, n), generator=generator).to(dtype)
    with on_cpu():
        node = make()
        if state == "carried":
            node(x)
            node.v = node.v.detach().requires_grad_()
        leaves = [leaf for leaf in (x.requires_grad_(), node.v) if isinstance(leaf, Tensor)]
        spikes, forward = _counted(lambda: node(x))
        gradients, backward = _counted(lambda: torch.autograd.grad(spikes, leaves, gradient))
    return Passed(spikes.detach(), gradients[0], forward, backward)


def _counted(work: Callable) -> tuple[object, Counter]:
    moved.clear()
    with TorchMeter():
        result = work()
    return result, Counter(moved)


def rows(state: str, dtype: torch.dtype, T: int) -> list[dict[str, object]]:
    """The table's rows of one case, one for each direction."""
    make = functools.partial(ours, store_h_seq=True) if state == "H" else ours
    passed = {"ours": run(make, state, dtype, T), "theirs": run(theirs, state, dtype, T)}
    return [_row(state, dtype, T, direction, passed) for direction in LEAST]


def _row(state: str, dtype: torch.dtype, T: int, direction: str, passed: dict[str, Passed]) -> dict[str, object]:
    row = {"state": state, "dtype": str(dtype).removeprefix("torch."), "T": T, "direction": direction}
    for side, one in passed.items():
        counts = sum((getattr(one, part) for part in direction.split(" + ")), Counter())
        row |= {f"{side}: {kind}": counts[kind] / (T * NEURONS) for kind in ("loads", "stores", "torch")}
        row[side] = counts.total() / (T * NEURONS)
    least = LEAST[direction] * dtype.itemsize
    return row | {"ours / theirs": row["ours"] / row["theirs"], "least": least, "above": row["ours"] / least - 1}


def table() -> pd.DataFrame:
    """Every case."""
    dtypes = (torch.float32, torch.float16)
    cases = [("reset", dtype, T) for dtype in dtypes for T in (4, 8, 32, 500)]
    cases += [("carried", dtype, 4) for dtype in dtypes]
    cases += [("H", torch.float32, 4)]
    return pd.DataFrame([row for case in cases for row in rows(*case)])


def faults(frame: pd.DataFrame) -> list[str]:
    """The passes, forward and backward together, in which ours moves more than half of theirs.

    Backward alone cannot: half of theirs, 3 numbers a time-step where T is long, is the least there is.
    """
    above = frame[(frame["direction"] == "forward + backward") & (frame["ours / theirs"] > MOST)]
    return [
        f"* above {MOST} of theirs: {row['state']}, {row['dtype']}, T = {row['T']}, {row['direction']}: "
        f"{row['ours']:.2f} of {row['theirs']:.2f} bytes, {row['ours / theirs']:.3f}"
        for _, row in above.iterrows()
    ]


def page(frame: pd.DataFrame) -> str:
    """What is counted, the table, and the rows that are too high."""
    shown = frame.copy()
    for name in frame.select_dtypes("float"):
        shown[name] = frame[name].map("{:.2f}".format)
    shown["ours / theirs"] = frame["ours / theirs"].map("{:.3f}".format)
    shown["above"] = frame["above"].map("{:.0%}".format)
    notes = [
        "# Bytes moved per neuron and time-step, `IterativeLIFNode` (ours) and SpikingJelly 0.0.0.0.14's `LIFNode`",
        f"{NEURONS} neurons, `backend='cupy'`, a dense gradient of the spikes only. Loads and stores are the kernels', "
        "each byte once per launch; torch is what its operations around them read and write.",
        "State: " + "; ".join(f"{name}, {meaning}" for name, meaning in STATES.items()) + ".",
        "Least: x and the spikes once each in forward; in backward the gradient twice and x, or H, once. Above: how "
        "far ours is above it.",
        shown.to_markdown(index=False, disable_numparse=True, colalign=("left",) * 4 + ("right",) * 11),
        "\n".join(faults(frame)),
    ]
    return "\n\n".join(filter(None, notes)) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if cuda_on_cpu.MISSING:
        sys.exit(cuda_on_cpu.MISSING)
    frame = table()
    if options.output:
        write_atomically(options.output, page(frame).encode())
    print(page(frame), end="")
    sys.exit(1 if faults(frame) else 0)


if __name__ == "__main__":
    main()
