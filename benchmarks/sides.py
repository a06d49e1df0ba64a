"""The neurons that are compared, and the works they are timed on.

Every side computes one function: H[t] = V[t-1] / 4 + X[t], a spike where H >= 0.5, hard reset to 0 with its gradient,
rectangular surrogate of width 1. It takes and gives [T, N, *]. The rectangle is what every side can be given: our
``Rectangular`` under SpikingJelly 0.0.0.0.14, which has none of its own, SpikingJelly 2.0.0's own ``Rect``, a function
of our own for the other two.

Nothing is imported before a factory runs: a worker has only the packages of its own side.
"""

import importlib.metadata
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["REFERENCE", "SIDES", "TITLES", "WORKS", "Outputs", "Side", "Work", "copied_bytes", "copy", "reset"]

Outputs = dict[str, Tensor]
Work = Callable[[], Outputs]
REFERENCE = "SpikingJelly 0.0.0.0.14"


class Side(NamedTuple):
    """A neuron and where it comes from.

    Args:
        make: the neuron.
        distribution: what pip calls the package.
        works: names of the works it runs in.
        folder: of the package, below ``--peers``; None where it is installed beside us.
        reference: the side whose outputs and gradients it must equal; None where it is another function.
        dtype: in which they are compared.
        note: what the table says of it.
    """

    make: Callable[[], nn.Module]
    distribution: str
    works: tuple[str, ...] = ("node", "linear-512", "linear-4096")
    folder: str | None = None
    reference: str | None = REFERENCE
    dtype: torch.dtype = torch.float64
    note: str = ""

    @property
    def version(self) -> str:
        """The distribution and its version, as installed."""
        return f"{self.distribution} {importlib.metadata.version(self.distribution)}"


# The sides


def jellyplus(backend: str) -> nn.Module:
    from jellyplus.neuron import IterativeLIFNode
    from jellyplus.surrogate import Rectangular

    surrogate = Rectangular(width=1.0)
    return IterativeLIFNode(decay=0.25, v_threshold=0.5, surrogate_function=surrogate, step_mode="m", backend=backend)


def spikingjelly_0() -> nn.Module:
    from spikingjelly.activation_based import neuron

    from jellyplus.surrogate import Rectangular

    surrogate = Rectangular(width=1.0)
    return neuron.LIFNode(
        tau=4 / 3, decay_input=False, v_threshold=0.5, surrogate_function=surrogate, step_mode="m", backend="torch"
    )


def spikingjelly_2(step_mode: str = "m") -> nn.Module:
    """``Rect`` runs its autograd loop: faster on a CPU than the registered operator that its smooth surrogates get."""
    from spikingjelly.activation_based import neuron, surrogate

    rectangle = surrogate.Rect(alpha=1.0)
    return neuron.LIFNode(
        tau=4 / 3, decay_input=False, v_threshold=0.5, surrogate_function=rectangle, step_mode=step_mode
    )


class CompiledLIF(nn.Module):
    """SpikingJelly 2.0.0's node under torch.compile, which unrolls a loop over time.

    A short sequence is compiled whole. For a long one the time-step is compiled and called in a loop: five hundred
    unrolled steps take two minutes to compile and then run slower than the loop.
    """

    UNROLLED = 8

    def __init__(self):
        super().__init__()
        torch.compiler.reset()  # kernels of other shapes would make these ones dynamic
        self.sequence = torch.compile(spikingjelly_2("m"), dynamic=False)
        self.step = torch.compile(spikingjelly_2("s"), dynamic=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.sequence(x) if len(x) <= self.UNROLLED else torch.stack([self.step(x_t) for x_t in x])


class Rectangle(torch.autograd.Function):
    """Fires at x >= 0; the gradient is 1 / width where abs(x) < width / 2."""

    @staticmethod
    def forward(ctx, x: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.width = width
        return (x >= 0).to(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        inside = grad * (x.abs() < ctx.width / 2)
        return inside if ctx.width == 1 else inside.div_(ctx.width), None


class SnnTorchLeaky(nn.Module):
    """snnTorch's ``Leaky`` in a loop over time.

    With ``reset_delay=False`` its reset keeps the gradient, as all others here; the default would detach it.
    """

    def __init__(self):
        super().__init__()
        import snntorch

        rectangle = partial(_rectangle, width=1.0)
        self.leaky = snntorch.Leaky(
            beta=0.25, threshold=0.5, spike_grad=rectangle, reset_mechanism="zero", reset_delay=False
        )

    def forward(self, x: Tensor) -> Tensor:
        spikes, mem = [], self.leaky.reset_mem()
        for x_t in x:
            spike, mem = self.leaky(x_t, mem)
            spikes.append(spike)
        return torch.stack(spikes)


def _rectangle(x: Tensor, width: float) -> Tensor:
    return Rectangle.apply(x, width)


class NorseLIFBox(nn.Module):
    """norse's ``LIFBoxCell`` in a loop over time; its ``Lift`` indexes, and the backward of that is quadratic in T.

    Its potential is v + dt / tau_mem (x - v), so that dt / tau_mem = 0.75 gives 0.75 H; threshold and surrogate are
    scaled alike. It names its surrogates by strings and has no rectangle: the function that looks them up is replaced,
    in the worker's process only.
    """

    def __init__(self):
        super().__init__()
        from norse.torch import LIFBoxCell
        from norse.torch.functional import lif_box

        lif_box.threshold = lambda x, method, alpha: Rectangle.apply(x, 0.75)
        p = lif_box.LIFBoxParameters(tau_mem_inv=torch.tensor(0.75), v_th=torch.tensor(0.375))
        self.cell = LIFBoxCell(p, dt=1.0)

    def forward(self, x: Tensor) -> Tensor:
        spikes, state = [], None
        for x_t in x:
            spike, state = self.cell(x_t, state)
            spikes.append(spike)
        return torch.stack(spikes)


_ALL = ("node", "linear-512", "linear-4096", "step")
SIDES = {
    "jellyplus torch": Side(partial(jellyplus, "torch"), "jellyplus", _ALL),
    # float32 only: equal to what is equal to SpikingJelly in float64, where rounding flips no spike
    "jellyplus cpp": Side(
        partial(jellyplus, "cpp"), "jellyplus", _ALL, reference="jellyplus torch", dtype=torch.float32
    ),
    REFERENCE: Side(spikingjelly_0, "spikingjelly", _ALL),
    "SpikingJelly 2.0.0": Side(spikingjelly_2, "spikingjelly", folder="spikingjelly2"),
    "SpikingJelly 2.0.0, torch.compile": Side(
        CompiledLIF, "spikingjelly", folder="spikingjelly2", note="T > 8: the time-step compiled, in a loop"
    ),
    "snnTorch Leaky": Side(
        SnnTorchLeaky, "snntorch", folder="snntorch", note="reset_delay=False, as its default detaches the reset"
    ),
    "norse LIFBoxCell": Side(
        NorseLIFBox, "norse", folder="norse", note="potential times 0.75; given the rectangle it lacks"
    ),
    "ReLU": Side(
        nn.ReLU, "torch", _ALL[1:], reference=None, dtype=torch.float32, note="in place of the neuron; not compared"
    ),
}


# The works


class _Sizes(NamedTuple):
    node: tuple[int, ...]  # T, N, C, H, W
    steps: int  # time-steps of the linear layer's work
    batch: int
    divisor: int  # of the linear layer's width
    compared_steps: int
    width: int  # of the ResNet-18
    images: tuple[int, ...]  # N, C, H, W


_SIZES = {
    False: _Sizes((4, 32, 64, 32, 32), 500, 16, 1, 20, 16, (64, 3, 32, 32)),
    True: _Sizes((2, 2, 4, 4, 4), 12, 2, 64, 12, 2, (2, 3, 16, 16)),
}


def reset(net: nn.Module) -> None:
    """What ``functional.reset_net`` of either SpikingJelly does; snnTorch keeps a tensor under this name."""
    for module in net.modules():
        if callable(getattr(module, "reset", None)):
            module.reset()


def node(make: Callable, dtype: torch.dtype, tiny: bool, compared: bool) -> Work:
    """Forward and backward of the neuron alone. The input lies on a grid on which no H comes near V_th."""
    shape = _SIZES[tiny].node
    generator = torch.Generator().manual_seed(0)
    x = (torch.randint(-128, 128, shape, generator=generator).to(dtype) * 2 + 1) / 128
    grad = torch.randn(shape, generator=generator).to(dtype)
    neuron = make()

    def work() -> Outputs:
        reset(neuron)
        leaf = x.detach().requires_grad_()
        spikes = neuron(leaf)
        spikes.backward(grad)
        return {"spikes": spikes, "gradient of the input": leaf.grad}

    return work


def linear(neurons: int, make: Callable, dtype: torch.dtype, tiny: bool, compared: bool) -> Work:
    """The benchmark of open-neuromorphic.org: normal input, its width kept by the layer, the sum for a loss.

    The layer takes the whole sequence at once on every side, also where a side's own examples call it in the loop.
    Compared over fewer time-steps than timed.
    """
    sizes = _SIZES[tiny]
    neurons, steps = neurons // sizes.divisor, sizes.compared_steps if compared else sizes.steps
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(neurons, neurons), make()).to(dtype)
    x = torch.randn(steps, sizes.batch, neurons).to(dtype)

    def work() -> Outputs:
        reset(net)
        net.zero_grad()
        spikes = net(x)
        spikes.sum().backward()
        return {"spikes": spikes, "gradient of the weight": net[0].weight.grad, "of the bias": net[0].bias.grad}

    return work


def step(make: Callable, dtype: torch.dtype, tiny: bool, compared: bool) -> Work:
    """One SGD step of the Dspike ResNet-18, T = 2, channels-last."""
    from jellyplus.model import dspike_resnet18

    sizes = _SIZES[tiny]
    torch.manual_seed(0)
    net = dspike_resnet18(width=sizes.width, time_steps=2, neuron=make)
    net.to(dtype=dtype, memory_format=torch.channels_last)
    x = torch.rand(sizes.images).to(dtype).contiguous(memory_format=torch.channels_last)[None]
    labels = torch.randint(10, sizes.images[:1])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def work() -> Outputs:
        reset(net)
        optimizer.zero_grad()
        y = net(x)
        F.cross_entropy(y.mean(0), labels).backward()
        optimizer.step()
        return {"outputs": y, "gradient of the first weight": net.conv1.weight.grad.clone()}

    return work


def copied_bytes(tiny: bool) -> int:
    """What :func:`copy` reads, and what it writes."""
    return 2**12 if tiny else 2**27


def copy(tiny: bool) -> Work:
    """128 MiB to another place: the bandwidth that everything above is bounded by."""
    source = torch.ones(copied_bytes(tiny) // 4)
    target = torch.zeros_like(source)
    return lambda: {"copy": target.copy_(source)}


WORKS = {
    "node": node,
    "linear-512": partial(linear, 512),
    "linear-4096": partial(linear, 4096),
    "step": step,
}
TITLES = {
    "node": "node, [4, 32, 64, 32, 32], forward + backward",
    "linear-512": "linear layer and node, 512 neurons, T = 500, batch 16, forward + backward",
    "linear-4096": "linear layer and node, 4,096 neurons, T = 500, batch 16, forward + backward",
    "step": "training step, ResNet-18, width 16, T = 2, batch 64, 32x32, channels-last",
}
