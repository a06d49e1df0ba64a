"""Section 2: the CuPy kernels give what SpikingJelly's step-by-step loop under autograd gives on the CPU.

The matrix is that of ``tests/neuron/test_parity.py``: every node, reset, surrogate, detachment and type, two calls with
the potential carried over, what is stored and what is not. It runs on a grid of inputs on which no H comes near V_th,
and on normal ones: there two correct roundings may fall on different sides of the threshold. Such a flip is *explained*
where |H - V_th| in the loop is at most :data:`NEAR`; what that neuron does later is then another story, and its
gradient too, so both are left out. Errors are in units of the tolerance, :data:`TOLERANCE`: up to 1 is right.
"""

import math
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from spikingjelly.activation_based import surrogate as sj_surrogate
from torch import Tensor, nn

from gpu_sections.job import Job
from gpu_sections.machine import Card, machine
from jellyplus import functional, model
from jellyplus.neuron import IterativeLIFNode, SRIFNode, cupy_backend
from jellyplus.surrogate import Dspike, EvAF, Rectangular, Triangular

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "neuron"))
from reference import SlowSRIF, SlowTruth, normal

__all__ = ["NEAR", "TOLERANCE", "compressed", "graph", "large", "launches", "layouts", "matrix", "temperature"]

#: Relative, and absolute for values around one; as in the tests.
TOLERANCE = {torch.float32: (2e-5, 2e-5), torch.float16: (2**-9, 2**-7), torch.bfloat16: (2**-6, 2**-4)}
#: Of H, in which a flip is rounding: some units in the last place; of half the rounding of V between the two calls.
NEAR = {torch.float32: 2e-6, torch.float16: 2**-9, torch.bfloat16: 2**-6}
DTYPES = {"float": torch.float32, "half": torch.float16, "bfloat16": torch.bfloat16}
SURROGATES = {
    "Rectangular": lambda: Rectangular(width=0.8),
    "Dspike": lambda: Dspike(3.0),
    "EvAF": lambda: EvAF(2.0),
    "Triangular": lambda: Triangular(gamma=0.7),
    "SpikingJelly's ATan": lambda: sj_surrogate.ATan(),
    "SpikingJelly's Sigmoid": lambda: sj_surrogate.Sigmoid(alpha=3.0),
}


def _lif(v_reset: float | None, decay: float = 0.25) -> tuple[Callable, Callable]:
    constants = {"v_reset": v_reset, "v_threshold": 0.6}
    return lambda **a: IterativeLIFNode(decay, **constants, **a), lambda **a: SlowTruth(decay, **constants, **a)


def _srif(rectify: bool) -> tuple[Callable, Callable]:
    return lambda **a: SRIFNode(rectify=rectify, **a), lambda **a: SlowSRIF(rectify, **a)


NODES = {
    "hard reset": _lif(0.0),
    "hard reset to 0.1": _lif(0.1),
    "soft reset": _lif(None),
    "IF": _lif(0.0, decay=1.0),
    "SRIF": _srif(False),
    "SRIF, rectified": _srif(True),
}
_THRESHOLD = {"SRIF": 0.5, "SRIF, rectified": 0.5}  # 0.6 elsewhere


# --- The matrix


class Passed(NamedTuple):
    """Two calls with the state carried over: [2 T, N, *] of each output, on the CPU in float32."""

    spikes: Tensor
    h: Tensor | None
    v: Tensor | None
    last: Tensor
    gradient: Tensor


class Difference(NamedTuple):
    """From the loop: spikes that differ first in their neuron, those of them that rounding does not explain, error."""

    flips: int
    unexplained: int
    error: float


def matrix(job: Job) -> None:
    """A record for each node, surrogate and type."""
    card = machine(job)
    for surrogate in list(SURROGATES)[: 1 if job.dry_run else None]:
        for dtype in DTYPES:
            for node in list(NODES)[: 2 if job.dry_run else None]:
                with job.attempt(f"{surrogate}, {dtype}, {node}"):
                    found = _compared(card, node, surrogate, DTYPES[dtype])
                    job.add(surrogate=surrogate, dtype=dtype, node=node, **found)


def _compared(card: Card, node: str, surrogate: str, dtype: torch.dtype) -> dict:
    """CuPy's kernels against the loop, and so torch's backend on the same device."""
    total = {"comparisons": 0, "spikes": 0}
    worst = {side: Difference(0, 0, 0.0) for side in ("cupy", "torch")}
    for detach_reset in (True, False):
        for stored in (True, False):
            for inputs in (_on_a_grid(dtype), _at_random(dtype)):
                options = {"detach_reset": detach_reset, "step_mode": "m", "store_v_seq": stored}
                truth = _loop(NODES[node][1], SURROGATES[surrogate], inputs, dtype, options)
                for side in worst:
                    fast = NODES[node][0](
                        surrogate_function=SURROGATES[surrogate](), store_h_seq=stored, backend=side, **options
                    )
                    found = _difference(
                        _pass(fast.to(card.device), inputs, card, dtype), truth, _THRESHOLD.get(node, 0.6), dtype
                    )
                    worst[side] = Difference(*(_worse(a, b) for a, b in zip(worst[side], found, strict=True)))
                total["comparisons"] += 1
                total["spikes"] += int(truth.spikes.sum())
    return total | {side: found._asdict() for side, found in worst.items()}


def _worse(one: float, other: float) -> float:
    return one + other if isinstance(one, int) else max(one, other)


def _on_a_grid(dtype: torch.dtype) -> Tensor:
    """Inputs of two calls, multiples of 1/16 around 0.4: exact in half precision, and H is not near 0.5 or 0.6."""
    return torch.stack([(normal(5, 3, 67, seed=seed) * 16 + 6.4).round() / 16 for seed in (1, 2)]).to(dtype)


def _at_random(dtype: torch.dtype) -> Tensor:
    return torch.stack([normal(5, 8, 4, 9, 9, seed=seed) for seed in (3, 4)]).to(dtype)


def _incoming(shape: torch.Size, stored: bool) -> list[Tensor | None]:
    """Of the spikes, the last V, and all H and V where they are stored."""
    s, h, v = ((normal(*shape, seed=10 + i) * 16).round() / 16 for i in range(3))
    return [s.float(), (s[0] * 0.5).float(), h.float() if stored else None, v.float() if stored else None]


def _loop(make: Callable, surrogate: Callable, inputs: Tensor, dtype: torch.dtype, options: dict) -> Passed:
    """The slow truth in float32; for half precision its state is rounded between the calls, as the kernels' is."""
    stored = options["store_v_seq"]
    node = make(surrogate_function=surrogate(), **options | {"store_v_seq": True})
    leaf, calls = inputs.float().clone().requires_grad_(), []
    for x in leaf:
        if isinstance(node.v, Tensor):
            node.v = node.v + (node.v.to(dtype).float() - node.v).detach()
        node.h = []
        spikes = node(x)
        calls.append((spikes, node.v, torch.stack(node.h), node.v_seq))
    return _passed(calls, leaf, stored, keep=True)


def _pass(node: nn.Module, inputs: Tensor, card: Card, dtype: torch.dtype) -> Passed:
    """Torch's backend computes in its input's type, the kernels in float32: so torch is given float32."""
    stored = node.store_v_seq
    exact = dtype if node.backend == "cupy" else torch.float32
    leaf, calls = inputs.to(card.device, exact).clone().requires_grad_(), []
    for x in leaf:
        if exact != dtype and isinstance(node.v, Tensor):
            node.v = node.v + (node.v.to(dtype).float() - node.v).detach()
        spikes = node(x)
        calls.append((spikes, node.v, node.h_seq, node.v_seq if stored else None))
    return _passed(calls, leaf, stored, keep=stored)


def _passed(calls: list[tuple], leaf: Tensor, stored: bool, keep: bool) -> Passed:
    wanted, incoming = [], []
    for outputs in calls:
        for y, grad in zip(outputs, _incoming(leaf.shape[1:], stored), strict=True):
            if grad is not None:
                wanted.append(y)
                incoming.append(grad.to(y))
    (gradient,) = torch.autograd.grad(wanted, leaf, incoming)
    spikes, last, h, v = zip(*calls, strict=True)
    found = [
        torch.cat(spikes),
        torch.cat(h) if keep else None,
        torch.cat(v) if keep else None,
        last[1],
        gradient.flatten(0, 1),
    ]
    return Passed(*(None if y is None else y.detach().float().cpu() for y in found))


def _difference(found: Passed, truth: Passed, v_threshold: float, dtype: torch.dtype) -> Difference:
    differs = found.spikes != truth.spikes
    first = differs & (differs.cumsum(0) == 1)
    near = (truth.h - v_threshold).abs() <= NEAR[dtype]
    same = ~differs.any(0)
    rtol, atol = TOLERANCE[dtype]
    errors = [0.0]
    for y, expected in zip(found[1:], truth[1:], strict=True):
        if y is not None:
            error = ((y - expected).abs() / (atol + rtol * expected.abs()))[..., same]
            errors.append(error.nan_to_num(math.inf).max().item() if error.numel() else 0.0)
    return Difference(int(first.sum()), int((first & ~near).sum()), max(errors))


# --- Layouts, streams, graphs, sizes


def _run(node: nn.Module, x: Tensor, grad: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes, last V and the gradient of the input, from a fresh state, on the input's device."""
    node.to(x.device).reset()
    leaf = x.detach().requires_grad_()
    spikes = node(leaf)
    (gradient,) = torch.autograd.grad(spikes, leaf, torch.ones_like(spikes) if grad is None else grad)
    return spikes, node.v, gradient


def _node(surrogate: nn.Module | None = None, **options) -> IterativeLIFNode:
    return IterativeLIFNode(surrogate_function=surrogate or Dspike(2.0), step_mode="m", backend="cupy", **options)


def _equal(found: tuple, expected: tuple) -> bool:
    return all(torch.equal(a, b.to(a.device)) for a, b in zip(found, expected, strict=True))


LAYOUTS = {
    "channels-last": lambda x: x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2]),
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "strided": lambda x: torch.stack([x, -x], dim=-1)[..., 0],
    "one image at all time-steps": lambda x: x[:1].expand(x.shape),
    "off the alignment of half2": lambda x: torch.cat([x.new_ones(1), x.flatten()])[1:].view(x.shape),
    "odd number of neurons": lambda x: x[..., 1:, 1:, :1, :1],
}


def layouts(job: Job) -> None:
    """Every layout gives the bits of the contiguous one, and channels-last stays so."""
    card = machine(job)
    for dtype, exact in DTYPES.items():
        for layout, lay in LAYOUTS.items():
            x = lay(normal(3, 4, 6, 8, 8, seed=1).to(card.device, exact))
            spikes, *rest = _run(_node(), x)
            right = _equal((spikes, *rest), _run(_node(), x.contiguous()))
            if layout == "channels-last":
                right &= all(
                    y.flatten(0, 1).is_contiguous(memory_format=torch.channels_last) for y in (spikes, rest[1])
                )
            job.add(case=layout, dtype=dtype, right=right)


def launches(job: Job) -> None:
    """Another stream, whose input is late; autocast; no neurons; another device."""
    card = machine(job)
    x = normal(4, 8, 16, 16, seed=1).float().to(card.device)
    expected, node = _run(_node(), x), _node().to(card.device)  # to move it there would wait
    with card.other_stream():
        late = torch.zeros_like(x)
        card.keep_busy(50)
        late.copy_(x)  # a launch on any other stream would read zeros
        found = _run(node, late)
    card.synchronise()
    job.add(case="a stream of its own", right=_equal(found, expected))
    layer = nn.Linear(16, 16).to(card.device)
    with torch.autocast(card.device.type, torch.float16):
        spikes = _node().to(card.device)(layer(x))
    spikes.float().sum().backward()
    right = spikes.dtype == torch.float16 and layer.weight.grad.isfinite().all().item()
    job.add(case="under autocast half goes in and half comes out", right=right)
    empty = torch.zeros(2, 0, 3, device=card.device)
    job.add(case="no neurons", right=_run(_node(), empty)[2].shape == empty.shape)
    for device in card.others():
        right = _equal(_run(_node(), x.to(device)), expected)
        job.add(case="another device while the first is current", right=right)


def graph(job: Job) -> None:
    """Forward and backward captured as a CUDA graph, replayed on another input."""
    card = machine(job)
    for dtype in DTYPES:
        with job.attempt(f"CUDA graph, {dtype}"):
            job.add(case="CUDA graph, forward + backward", dtype=dtype, right=_replayed(card, DTYPES[dtype]))


def _replayed(card: Card, dtype: torch.dtype) -> bool:
    first, second = (normal(4, 8, 16, 16, seed=seed).to(card.device, dtype) for seed in (1, 2))
    node, x = _node(), first.clone()
    outputs, replay = card.captured(lambda: _run(node, x))
    right = []
    for values in (second, first):
        x.copy_(values)
        replay()
        card.synchronise()
        right.append(_equal(outputs, _run(_node(), values)))
    return all(right)


def large(job: Job) -> None:
    """More than 2^31 elements: the last neurons of a row that is never looked at elsewhere."""
    card = machine(job)
    for dtype, exact in DTYPES.items():
        fits = card.free_bytes() > 5 * 5 * 2**29 * exact.itemsize
        neurons = 2**29 + 6 if fits else 2**10 + 6
        with job.attempt(f"[5, {neurons:,}], {dtype}"):
            job.add(case=f"[5, {neurons:,}]", dtype=dtype, right=_right_at_the_end(card, neurons, exact))


def _right_at_the_end(card: Card, neurons: int, dtype: torch.dtype) -> bool:
    x = torch.zeros(5, neurons, device=card.device, dtype=dtype)
    tail = normal(5, 1000, seed=1).to(card.device, dtype)
    x[:, -1000:] = tail
    return _equal(tuple(y[..., -1000:] for y in _run(_node(), x)), _run(_node(), tail))


def compressed(job: Job) -> None:
    """A network's outputs, gradients and statistics with compressed activations are those without, bit for bit."""
    card = machine(job)
    for dtype in (torch.float16, torch.bfloat16):
        case = f"compressed activations, autocast to {str(dtype).removeprefix('torch.')}"
        with job.attempt(case):
            kept, plain = (_trained(card, dtype, how) for how in (functional.compressed_activations, nullcontext))
            job.add(case=case, right=_equal(kept, plain))


def _trained(card: Card, dtype: torch.dtype, keeping: Callable) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    net = model.resnet19(time_steps=2, width=8, neuron=lambda: _node(Rectangular()))
    net.to(card.device, memory_format=torch.channels_last)
    images = torch.rand(8, 3, 32, 32, device=card.device).contiguous(memory_format=torch.channels_last)[None]
    with torch.autocast(card.device.type, dtype), keeping():
        outputs = net(images)
    outputs.float().square().sum().backward()
    return outputs.detach(), *net.buffers(), *(parameter.grad for parameter in net.parameters())


def temperature(job: Job) -> None:
    """Dspike's temperature changes between two steps: nothing is compiled and nothing waits for the device."""
    card = machine(job)
    for dtype, exact in DTYPES.items():
        node = _node(Dspike(1.0)).to(card.device)
        x = torch.full((1, 64), 0.75, dtype=exact, device=card.device)
        gradients = [_run(node, x)[2]]
        compiled, values = cupy_backend._kernel.cache_info().misses, iter((4.0, 1.0))

        def step(node: nn.Module = node, x: Tensor = x, gradients: list = gradients, values: object = values) -> None:
            functional.set_temperature(node, next(values))
            gradients.append(_run(node, x)[2])

        waits = card.synchronisations(lambda: [step(), step()])
        compiled = cupy_backend._kernel.cache_info().misses - compiled
        # b / (2 tanh(b / 2) cosh^2(b / 4)) at b = 1 and b = 4
        expected = torch.tensor([1.0176, 0.8713, 1.0176])
        close = torch.allclose(torch.stack([g[0, 0].float().cpu() for g in gradients]), expected, rtol=2e-3)
        job.add(
            case="temperature 1, 4, 1",
            dtype=dtype,
            right=close and not compiled and not waits,
            compilations=compiled,
            synchronisations=len(waits),
            places=sorted(set(waits)),
        )
