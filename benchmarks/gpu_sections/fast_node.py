"""Section 3: the neuron alone, forward and backward, on every side.

Every side computes H[t] = V[t-1] / 4 + X[t], a spike where H >= 0.5, hard reset to 0 with its gradient, and
SpikingJelly's ATan surrogate (alpha = 2), the one function that all of them have kernels for; ours is timed with its
own rectangle too. The inputs lie on a grid on which no H comes near V_th. What cannot be avoided is to read X and
write S forward, to read X and dL/dS and write dL/dX backward: five sequences, over the time of a pass, as a share of
the bandwidth of a copy beside it.
"""

import contextlib
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpu_sections.job import Job
from gpu_sections.machine import Card, machine

__all__ = ["OURS", "SHAPES", "SIDES", "sides"]

SHAPES = ((4, 32, 64, 32, 32), (4, 128, 128, 32, 32))
_TINY = ((4, 2, 4, 6, 6),)
_LEAST_SEQUENCES = 5
_SETS = 4  # of inputs that take turns, so that no pass finds its own in the cache
_DTYPES = {"float": torch.float32, "half": torch.float16}
OURS = "jellyplus cupy"
_RECTANGLE = "jellyplus cupy, Rectangular"
_NOT_BESIDE_US = "SpikingJelly 2.0.0"


def _jellyplus(backend: str, surrogate: str) -> nn.Module:
    from spikingjelly.activation_based import surrogate as sj_surrogate

    from jellyplus.neuron import IterativeLIFNode
    from jellyplus.surrogate import Rectangular

    fire = sj_surrogate.ATan() if surrogate == "ATan" else Rectangular()
    return IterativeLIFNode(decay=0.25, v_threshold=0.5, surrogate_function=fire, step_mode="m", backend=backend)


def _spikingjelly_0() -> nn.Module:
    """Mended: it compares with ``np.int`` (auto_cuda/base.py:249), gone since numpy 1.24."""
    import numpy
    from spikingjelly.activation_based import neuron, surrogate

    numpy.int = int
    options = {"surrogate_function": surrogate.ATan(), "step_mode": "m", "backend": "cupy"}
    return neuron.LIFNode(tau=4 / 3, decay_input=False, v_threshold=0.5, **options)


def _spikingjelly_2() -> nn.Module:
    from spikingjelly.activation_based import neuron, surrogate

    options = {"surrogate_function": surrogate.ATan(), "step_mode": "m"}
    return neuron.LIFNode(tau=4 / 3, decay_input=False, v_threshold=0.5, **options)


class _SnnTorch(nn.Module):
    """``Leaky`` in a loop over time; with ``reset_delay=False`` its reset keeps the gradient, as everywhere here."""

    def __init__(self):
        super().__init__()
        import snntorch
        from spikingjelly.activation_based import surrogate

        fire = surrogate.ATan()  # snnTorch's own is silent at equality
        self.leaky = snntorch.Leaky(
            beta=0.25, threshold=0.5, spike_grad=fire, reset_mechanism="zero", reset_delay=False
        )

    def forward(self, x: Tensor) -> Tensor:
        spikes, mem = [], self.leaky.reset_mem()
        for x_t in x:
            spike, mem = self.leaky(x_t, mem)
            spikes.append(spike)
        return torch.stack(spikes)


SIDES: dict[str, Callable[[], nn.Module]] = {
    OURS: partial(_jellyplus, "cupy", "ATan"),
    _RECTANGLE: partial(_jellyplus, "cupy", "Rectangular"),
    "jellyplus torch": partial(_jellyplus, "torch", "ATan"),
    "SpikingJelly 0.0.0.0.14 cupy": _spikingjelly_0,
    _NOT_BESIDE_US: _spikingjelly_2,
    "snnTorch Leaky": _SnnTorch,
    "ReLU": nn.ReLU,
}


def sides(job: Job, names: list[str], dtypes: tuple[str, ...] = tuple(_DTYPES)) -> None:
    """Records of each side: of what a call costs the host, then for each shape and type."""
    card = machine(job, kernels=_NOT_BESIDE_US not in names)
    for name in names:
        mended = job.dry_run and name.startswith("SpikingJelly 0")
        with job.attempt(name), _stood_in() if mended else contextlib.nullcontext():
            neuron = SIDES[name]().to(card.device)
            _record_host(job, card, name, neuron)
            for shape in _TINY if job.dry_run else SHAPES:
                for dtype in filter(dtypes.__contains__, _dtypes(name, job.dry_run)):
                    with job.attempt(f"{name}, {list(shape)}, {dtype}"):
                        _record(job, card, neuron, {"side": name, "shape": list(shape), "dtype": dtype})


def _dtypes(name: str, dry_run: bool) -> list[str]:
    """SpikingJelly's half2 kernels use functions that the stand-in does not have."""
    return ["float"] if dry_run and name.startswith("SpikingJelly 0") else list(_DTYPES)


@contextlib.contextmanager
def _stood_in() -> Iterator[None]:
    """In a dry run the kernels of 0.0.0.0.14 run on the CPU too."""
    import cuda_on_cpu
    import pytest
    from spikingjelly.activation_based import base, cuda_utils
    from spikingjelly.activation_based.auto_cuda import base as kernels
    from spikingjelly.activation_based.auto_cuda import neuron_kernel

    with pytest.MonkeyPatch.context() as patch:
        for module in (kernels, neuron_kernel):
            patch.setattr(module, "cupy", cuda_on_cpu.cupy)
        patch.setattr(cuda_utils, "DeviceEnvironment", lambda device: contextlib.nullcontext())
        patch.setattr(base, "check_backend_library", lambda backend: None)
        yield


def _reset(neuron: nn.Module) -> None:
    for module in neuron.modules():
        if callable(getattr(module, "reset", None)):
            module.reset()


def _pass(neuron: nn.Module, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    _reset(neuron)
    leaf = x.detach().requires_grad_()
    spikes = neuron(leaf)
    spikes.backward(grad)
    return spikes, leaf.grad


def _inputs(card: Card, shape: tuple[int, ...], dtype: torch.dtype, number: int) -> list[tuple[Tensor, Tensor]]:
    """The same in every process on one card."""
    torch.manual_seed(0)
    grid = [(torch.randint(-128, 128, shape, device=card.device) * 2 + 1) / 128 for _ in range(number)]
    return [(x.to(dtype), torch.randn(shape, device=card.device).to(dtype)) for x in grid]


def _record(job: Job, card: Card, neuron: nn.Module, what: dict[str, Any]) -> None:
    """First what is sure: the profiler comes last."""
    shape = tuple(what["shape"])
    sets = _inputs(card, shape, _DTYPES[what["dtype"]], _SETS)
    turn = iter(range(2**31))

    def work() -> None:
        _pass(neuron, *sets[next(turn) % _SETS])

    numbers, least = sets[0][0].numel(), _LEAST_SEQUENCES * sets[0][0].nbytes
    before = _copied(card, numbers, job.dry_run)
    times = card.milliseconds(work, 30)
    bandwidth = statistics.median([before, _copied(card, numbers, job.dry_run)])
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    timed = {"ms": median, "quartiles": [low, high], "copy_gb_s": bandwidth, "share": least / median / 1e6 / bandwidth}
    job.add(**what, **timed, peak_mib=card.peak_bytes(work) / 2**20)
    if shape in (SHAPES[0], _TINY[0]):
        job.add(
            **what, **_from_ours(Path(job.scratch, f"node-{what['dtype']}.pt"), what["side"], *_pass(neuron, *sets[0]))
        )
    seen = card.profile(work, 5)
    share = least / seen.kernel_ms / 1e6 / bandwidth if seen.kernel_ms else None
    job.add(**what, kernel_ms=seen.kernel_ms, kernel_share=share, launches=seen.launches)


def _from_ours(file: Path, name: str, spikes: Tensor, gradient: Tensor) -> dict[str, Any]:
    """Spikes that differ from those of the first side, and the largest difference of the gradient over its largest."""
    spikes = spikes.detach()
    if name == OURS:
        torch.save((spikes.bool().cpu(), gradient.cpu()), file)
    if not file.exists() or name == "ReLU":
        return {}
    ours, expected = torch.load(file)
    differs = {"flips": (spikes.bool().cpu() != ours).sum().item(), "spikes": int(ours.sum())}
    if name == _RECTANGLE:  # another surrogate
        return differs
    error = (gradient.cpu().float() - expected.float()).abs().max().item()
    return differs | {"gradient_error": error / expected.float().abs().max().item()}


def _copied(card: Card, numbers: int, dry_run: bool) -> float:
    """GB/s read and written by a copy of 512 MiB, or of as much as there is in a dry run."""
    source = torch.rand(numbers if dry_run else 2**27, device=card.device)
    target = torch.empty_like(source)
    times = card.milliseconds(lambda: target.copy_(source), 20)
    return 2 * source.nbytes / statistics.median(times) / 1e6


def _record_host(job: Job, card: Card, name: str, neuron: nn.Module) -> None:
    """Microseconds of the host for a call on 32 neurons, of which the device has nothing to do."""
    x, grad = _inputs(card, (4, 32), torch.float32, 1)[0]
    leaf = x.requires_grad_()

    def forward() -> Tensor:
        _reset(neuron)
        return neuron(leaf)

    both = card.host_microseconds(lambda: forward().backward(grad), 100)
    alone = card.host_microseconds(forward, 100)
    job.add(side=name, host_forward_us=statistics.median(alone), host_both_us=statistics.median(both))
