"""What each kernel is run on, and what is right: a slow loop in float64 under autograd."""

import ctypes
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jellyplus.neuron import kernel_code
from mutate_kernels.kernels import KERNELS, Kernel
from mutate_kernels.memory import Region


class Shape(NamedTuple):
    """Which sequence is run: ``wanted`` are the outputs, or incoming gradients, besides the spikes."""

    T: int
    n: int
    carried: bool
    wanted: tuple[str, ...]
    slack: int = 0
    skipped: int = 0  # neurons before the first; nobody has the memory, and no thread is run for them
    repeated: tuple[str, ...] = ()  # x, or the spikes' gradient: one time-step serves all


_ALL = ("spike", "h", "v", "last", "checkpoints")
SHAPES = (
    Shape(9, 7, True, _ALL),
    Shape(1, 4, False, ("spike",)),
    Shape(1, 3, True, ("spike", "last")),
    Shape(16, 6, False, ("h", "last"), slack=2),
    Shape(19, 5, True, _ALL, repeated=("x",)),
    Shape(18, 8, True, _ALL, repeated=("spike",)),
    Shape(8, 5, True, ("v",)),
    Shape(2, 512, False, ("spike", "last"), repeated=("x",)),  # as many neurons as threads
    Shape(10, 1029, True, _ALL),
    Shape(17, 2048, True, ("spike", "last", "checkpoints"), skipped=2**32),
)
_DECAY, _V_TH, _RESET, _V_START = 0.5, 0.75, 0.25, 0.375  # multiples of 1/8: potentials are exact, and hit V_th


class Case(NamedTuple):
    """A launch of one kernel, and its memory."""

    first_block: int
    blocks: int
    values: tuple  # ctypes
    regions: tuple[Region, ...]

    def is_right(self, launch: Callable) -> bool:
        """Run it; this can be done once."""
        launch(self.first_block, self.blocks, (ctypes.c_void_p * len(self.values))(*map(ctypes.addressof, self.values)))
        return all(region.is_right() for region in self.regions)


def slow_truth(kernel: Kernel, x: Tensor, v: Tensor, incoming: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every sequence, [T, n], and the gradient of ``x``: a loop in float64 under autograd."""
    x, found = x.clone().requires_grad_(), {"spike": [], "h": [], "v": []}
    v_th, reset_to = _constants(kernel)[1:]
    for x_t in x:
        h = _DECAY * v + x_t
        over = (slow_rectifier(h) if kernel.rectified else h) - v_th
        spike = kernel.fire(over) - (kernel.strict * (over == 0)).double()
        by = spike.detach() if kernel.detached else spike
        v = (1 - by) * h + by * reset_to if kernel.hard else h - by * reset_to
        for name, value in (("spike", spike), ("h", h), ("v", v)):
            found[name].append(value)
    found = {name: torch.stack(values) for name, values in found.items()} | {"last": v}
    loss = sum((grad * found[name]).sum() for name, grad in incoming.items())
    (grad_x,) = torch.autograd.grad(loss, x)
    return {name: value.detach() for name, value in found.items()} | {"grad_x": grad_x}


def slow_rectifier(u: Tensor) -> Tensor:
    """Guo et al. 2022, Eq. 10, piece by piece."""
    root = torch.where(u < 0, 1 - u, torch.where(u > 1, u, torch.ones_like(u))) ** (1 / 3)
    middle = torch.tanh(3 * (u - 0.5)) / (2 * math.tanh(1.5)) + 0.5
    return torch.where(u < 0, 1 - root, torch.where(u > 1, root, middle))


def _constants(kernel: Kernel) -> tuple[float, float, float]:
    return _DECAY, 0.5 if kernel.rectified else _V_TH, _RESET if kernel.hard else 1.25


def case(kernel: Kernel, shape: Shape) -> Case:
    """The kernel's arguments for this sequence, with numbers from a seed."""
    generator = torch.Generator().manual_seed(shape.T * 1000 + shape.n)
    eighths = lambda *size: torch.randint(-12, 20, size, generator=generator).double() / 8  # noqa: E731
    sequence = lambda name: eighths(1 if name in shape.repeated else shape.T, shape.n).expand(shape.T, -1)  # noqa: E731
    x, v = sequence("x"), eighths(shape.n) if shape.carried else torch.full((shape.n,), _V_START).double()
    if kernel.rectified and shape.T == 1 and shape.carried:
        x[0, 0], v[0] = 2**-30, 0.0  # 1 + (H - 1) is 0 in float
    grads = {name: sequence(name) for name in ("spike", "h", "v")} | {"last": eighths(shape.n)}
    truth = slow_truth(kernel, x, v, {name: grads[name] for name in grads if name in shape.wanted})
    rows = {name: 1 if name in shape.repeated else None for name in ("x", "spike")}
    grads["spike"] = grads["spike"][: rows["spike"]]
    arrays = {"x_seq": x[: rows["x"]], "v_init": v if shape.carried else None}
    arrays |= _forward(truth, shape) if kernel.direction == "forward" else _backward(truth, grads, shape, kernel)
    return _launch(kernel, shape, arrays)


def _checkpoints(truth: dict[str, Tensor], shape: Shape) -> Tensor | None:
    kept = truth["v"][kernel_code.SEGMENT - 1 : -1 : kernel_code.SEGMENT]
    return kept if "checkpoints" in shape.wanted or len(kept) else None


def _forward(truth: dict[str, Tensor], shape: Shape) -> dict[str, Tensor | None]:
    optional = {"h_seq": truth["h"] if "h" in shape.wanted else None, "v_seq": None, "checkpoints": None}
    if "v" in shape.wanted:
        optional["v_seq"] = truth["v"]
    if "checkpoints" in shape.wanted and shape.T > kernel_code.SEGMENT:
        optional["checkpoints"] = _checkpoints(truth, shape)
    return {"spike_seq": truth["spike"], "v_last": truth["last"]} | optional


def _backward(truth: dict, grads: dict, shape: Shape, kernel: Kernel) -> dict[str, Tensor | None]:
    names = {"spike": "grad_spike_seq", "h": "grad_h_seq", "v": "grad_v_seq", "last": "grad_v_last"}
    incoming = {name: grads[short] if short in shape.wanted else None for short, name in names.items()}
    kept = _checkpoints(truth, shape) if shape.T > kernel_code.SEGMENT else None
    parameter = None if kernel.fire.parameter is None else kernel.fire.parameter[None]
    return incoming | {"checkpoints": kept, "surrogate_parameter": parameter, "grad_x_seq": truth["grad_x"]}


_STEPS = {"x": "x_step", "spike": "grad_spike_step"}
_OUTPUTS = {
    "forward": ("spike_seq", "v_last", "h_seq", "v_seq", "checkpoints"),
    "backward": ("grad_x_seq",),
}


def _launch(kernel: Kernel, shape: Shape, arrays: dict[str, Tensor | None]) -> Case:
    values, regions = [], []
    start = 0.0 if shape.carried else _V_START
    scalars = dict(zip(("decay", "v_th", "reset_to"), _constants(kernel), strict=True))
    n = shape.n + shape.skipped
    steps = {name: 0 if short in shape.repeated else n for short, name in _STEPS.items()}
    scalars |= steps | {"n": n, "T": shape.T, "v_start": start}
    for name, ctype in kernel.node.cparams.items():
        if "*" not in ctype:
            size = {"const int": ctypes.c_int, "const long long": ctypes.c_longlong, "const float": ctypes.c_float}
            values.append(size[ctype](scalars[name]))
        elif arrays[name] is None:
            values.append(ctypes.c_void_p(0))
        else:
            region = _region(kernel, shape, name, ctype, arrays[name])
            skipped = 0 if name == "surrogate_parameter" else shape.skipped * region.itemsize
            regions.append(region)
            values.append(ctypes.c_void_p(region.address - skipped))
    in_a_block = kernel.threads * kernel.lanes
    return Case(shape.skipped // in_a_block, -(-shape.n // in_a_block), tuple(values), tuple(regions))


def _region(kernel: Kernel, shape: Shape, name: str, ctype: str, array: Tensor) -> Region:
    is_half, is_output = "half2" in ctype, name in _OUTPUTS[kernel.direction]
    dtype = np.float16 if is_half else np.float32
    tolerance = (2e-3 if is_half else 2e-5) if is_output else 0.0
    content = array.numpy().astype(dtype)
    stride = (shape.n + shape.skipped) * content.itemsize if shape.skipped and content.ndim == 2 else None
    return Region(content, is_output, shape.slack if is_half else 0, tolerance, stride)


@functools.cache
def cases(name: str) -> tuple[Case, ...]:
    """Of a kernel, those first that catch most."""
    return tuple(case(KERNELS[name], shape) for shape in SHAPES)
