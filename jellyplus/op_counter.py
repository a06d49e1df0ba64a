r"""Additions, multiplications and energy of any SpikingJelly network, from its measured spikes.

.. math:: E = 0.9\,\text{pJ} \cdot \#\text{Add} + 4.6\,\text{pJ} \cdot \#\text{Mult}

Li et al. 2021, Differentiable Spike, Table 3, and Zheng et al. 2021, tdBN, Table 6. An operation count is worth what
its convention is worth, and no paper states its own in full, so :class:`Convention` has every choice and is part of
the result. :class:`OperationCounter` measures, independently of any convention; one measurement serves several.

Counted are convolutions and linear layers. Not counted, as in both papers: the neurons' own update and the norms,
which fuse into the layers for inference (tdBN, Eqs. 9 and 10); and biases, pooling and the sums of residual branches.
Products that no layer of its own computes (``torch.matmul`` in an attention block) are not seen.
"""

import functools
import itertools
import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from spikingjelly.activation_based.layer import DropConnectLinear
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from jellyplus.monitor import Monitor

__all__ = ["Convention", "LayerCount", "OperationCount", "OperationCounter"]

#: They multiply weights by inputs in ways that are not counted.
_REFUSED = (_ConvTransposeNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention, nn.Bilinear, DropConnectLinear)


@dataclass(frozen=True)
class Convention:
    """How operations are counted and charged. Defaults: Dspike's Table 3, as far as its text and numbers show.

    A layer multiplies or is fed by spikes. One that multiplies is charged for every MAC, zeros included, as in an
    ANN. One that is fed by spikes adds a weight for each input that is not zero and multiplies nothing.

    Args:
        padded_taps: a kernel's tap on the zero padding is a MAC, and additions are MACs times the spike rate of the
            whole input. This is what the papers print: 2285.37M MACs for ResNet-19. False: taps inside the image
            only, and additions are exact: each spike counts as often as it is really read. The papers' way has
            more, since the padding never spikes, and takes the spikes to lie evenly, border and stride or not.
        repeat_static: the layers that ran once for a static image, before the first one that ran more often, count
            at each time-step, as Dspike's Table 3 does with the first layer. In step mode 's' they ran T times
            anyway.
        multiplying: names of the layers that multiply, no others. None: those whose measured input was
            not all 0 or 1: the first layer, those fed by average pooling, the decoding layer often among them, and
            those fed by sums of spikes. Dspike takes the first layer alone; tdBN the first and the decoding layer.
        additions_of_multiplying: a MAC of a layer that multiplies is a multiplication and an addition, 5.5 pJ. This
            is what Dspike's ANN rows are charged, though its text gives a MAC 4.6 pJ in total. False: no addition.
        pj_per_addition: pJ; 0.9, 45 nm CMOS (Dspike, section 5.4).
        pj_per_multiplication: pJ; 4.6, likewise.

    >>> Convention().energy_pj(additions=71.2e6, multiplications=3.52e6) / 1e6  # uJ; Dspike prints 80.3 mJ
    80.272
    """

    padded_taps: bool = True
    repeat_static: bool = True
    multiplying: tuple[str, ...] | None = None
    additions_of_multiplying: bool = True
    pj_per_addition: float = 0.9
    pj_per_multiplication: float = 4.6

    def energy_pj(self, additions: float, multiplications: float) -> float:
        """The energy of so many operations, in pJ."""
        return self.pj_per_addition * additions + self.pj_per_multiplication * multiplications

    def __str__(self) -> str:
        by_name = self.multiplying is not None
        return "; ".join(
            (
                f"taps on the padding {'counted' if self.padded_taps else 'not counted'}",
                f"static layers counted {'at every time-step' if self.repeat_static else 'as often as they run'}",
                f"multiplying: {', '.join(self.multiplying) or 'none' if by_name else 'layers with non-binary input'}",
                f"their additions {'counted' if self.additions_of_multiplying else 'not counted'}",
                f"{self.pj_per_addition} pJ per addition, {self.pj_per_multiplication} pJ per multiplication",
            )
        )


class LayerCount(NamedTuple):
    """One layer's operations for one example, over all time-steps.

    ``spike_rate`` is the share of its inputs that are not zero; in a total, the mean weighted by MACs.
    """

    name: str
    kind: str
    macs: float
    spike_rate: float
    additions: float
    multiplications: float
    energy_pj: float


@dataclass(frozen=True)
class OperationCount:
    """Operations of each layer for one example, in the order of execution; printed, a table and its convention."""

    layers: tuple[LayerCount, ...]
    examples: int
    time_steps: int
    convention: Convention

    @property
    def total(self) -> LayerCount:
        """All layers."""
        macs, additions, multiplications, energy = (
            math.fsum(getattr(layer, name) for layer in self.layers)
            for name in ("macs", "additions", "multiplications", "energy_pj")
        )
        spikes = math.fsum(layer.macs * layer.spike_rate for layer in self.layers)
        return LayerCount("total", "", macs, spikes / macs, additions, multiplications, energy)

    def __str__(self) -> str:
        lines = ["| layer | kind | MACs | spike rate | additions | multiplications | energy (uJ) |", "|" + "---|" * 7]
        for row in (*self.layers, self.total):
            operations = f"{row.macs:,.0f} | {row.spike_rate:.4f} | {row.additions:,.0f} | {row.multiplications:,.0f}"
            lines.append(f"| {row.name} | {row.kind} | {operations} | {row.energy_pj / 1e6:,.4g} |")
        lines += ["", f"Per example, T = {self.time_steps}, mean of {self.examples}: {self.convention}."]
        return "\n".join(lines)


@dataclass
class _Tally:
    """What one layer has done so far: exact counts, under no convention."""

    kind: str
    runs: int = 0  # single inputs: examples times time-steps
    inputs: int = 0
    nonzeros: int = 0
    binary: bool = True
    macs_with_padding: int = 0
    macs: int = 0
    additions: int = 0


class OperationCounter(Monitor):
    """Counts the operations of a network's convolutions and linear layers inside a with-block.

    Either step mode, plain torch layers and those in ``SeqToANNContainer``, groups, dilation, stride, any padding. A
    layer that runs several times adds up. Training passes count too, so measure with ``net.eval()``, or say so.

    Args:
        net: any network.

    Raises:
        ValueError: a layer that is not counted: transposed convolution, torch's recurrent layers, multi-head
            attention or bilinear layer, SpikingJelly's ``DropConnectLinear``.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    >>> with torch.no_grad(), OperationCounter(net) as counter:
    ...     _ = net(torch.tensor([[1.0, 0.0, 0.0, 1.0]]))
    >>> print(counter.count(examples=1, time_steps=1))
    | layer | kind | MACs | spike rate | additions | multiplications | energy (uJ) |
    |---|---|---|---|---|---|---|
    | 0 | Linear | 12 | 0.5000 | 6 | 0 | 5.4e-06 |
    | total |  | 12 | 0.5000 | 6 | 0 | 5.4e-06 |
    <BLANKLINE>
    Per example, T = 1, mean of 1: taps on the padding counted; static layers counted at every time-step; multiplying: \
layers with non-binary input; their additions counted; 0.9 pJ per addition, 4.6 pJ per multiplication.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        modules = dict(net.named_modules())
        for name, module in modules.items():
            if isinstance(module, _REFUSED):
                raise ValueError(f"the operations of {name!r}, a {type(module).__name__}, cannot be counted")
        self._layers = {name: module for name, module in modules.items() if isinstance(module, (_ConvNd, nn.Linear))}
        self._tallies: dict[str, _Tally] = {}

    def _attach(self, attached: ExitStack) -> None:
        for name, layer in self._layers.items():
            attached.enter_context(layer.register_forward_hook(functools.partial(self._see, name)))

    def _see(self, name: str, layer: _ConvNd | nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        (x,) = inputs
        tally = self._tallies.setdefault(name, _Tally(type(layer).__name__))
        space = x.shape[x.dim() - (layer.weight.dim() - 2) :]
        reads = [_reads(*arguments) for arguments in _windows(layer, space)]
        readers = layer.weight.shape[0] // getattr(layer, "groups", 1)  # output channels that read an input
        spikes = (x != 0).reshape(-1, *space).sum(0).cpu()  # at each place
        tally.runs += x.shape[: x.dim() - len(space) - 1].numel()
        tally.inputs += x.numel()
        tally.nonzeros += spikes.sum().item()
        tally.binary = tally.binary and ((x == 0) | (x == 1)).all().item()
        tally.macs_with_padding += output.numel() * layer.weight[0].numel()
        tally.macs += x.numel() // space.numel() * math.prod(read.sum().item() for read in reads) * readers
        for read in reversed(reads):
            spikes = (spikes * read).sum(-1)
        tally.additions += spikes.item() * readers

    def count(self, examples: int, time_steps: int, convention: Convention | None = None) -> OperationCount:
        """What has been counted so far, for one example.

        Args:
            examples: how many passed, over all batches.
            time_steps: T; 1 for an ANN.
            convention: how to count; by default ``Convention()``.

        Raises:
            ValueError: no layer has run, examples or time_steps below 1, or the convention names a layer that did not
                run.
        """
        convention = Convention() if convention is None else convention
        if min(examples, time_steps) < 1:
            raise ValueError(f"examples and time_steps must be 1 or more, got {examples} and {time_steps}")
        if not self._tallies:
            raise ValueError("no convolution or linear layer has run: run the network inside the with-block")
        if unknown := [name for name in convention.multiplying or () if name not in self._tallies]:
            raise ValueError(f"no layer {unknown[0]!r} has run: those that have are {', '.join(self._tallies)}")
        ran_once = itertools.takewhile(lambda name: self._tallies[name].runs == examples, self._tallies)
        static = set(ran_once) if convention.repeat_static else set()
        rows = (
            _row(name, tally, (time_steps if name in static else 1) / examples, convention)
            for name, tally in self._tallies.items()
        )
        return OperationCount(tuple(rows), examples, time_steps, convention)


def _row(name: str, tally: _Tally, factor: float, convention: Convention) -> LayerCount:
    rate = tally.nonzeros / tally.inputs
    macs = factor * (tally.macs_with_padding if convention.padded_taps else tally.macs)
    multiplies = not tally.binary if convention.multiplying is None else name in convention.multiplying
    if multiplies:
        additions, multiplications = macs * convention.additions_of_multiplying, macs
    else:
        additions, multiplications = rate * macs if convention.padded_taps else factor * tally.additions, 0.0
    energy = convention.energy_pj(additions, multiplications)
    return LayerCount(name, tally.kind, macs, rate, additions, multiplications, energy)


def _windows(layer: _ConvNd | nn.Linear, space: torch.Size) -> list[tuple]:
    """The arguments of :func:`_reads` for each spatial dimension; a linear layer has none."""
    if not space:
        return []
    padding = layer._reversed_padding_repeated_twice[::-1]  # of the first dimension, right and left, and so on
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    numbers = (space, layer.kernel_size, layer.stride, layer.dilation, padding[1::2], padding[::2])
    return [(*of_dimension, mode) for of_dimension in zip(*numbers, strict=True)]


@functools.cache
def _reads(size: int, kernel: int, stride: int, dilation: int, left: int, right: int, mode: str) -> Tensor:
    """How often a sliding window reads each place of one dimension, [size]; the padding's zeros are no places.

    >>> _reads(4, 3, 1, 1, 1, 1, "constant").tolist()
    [2, 3, 3, 2]
    """
    places = F.pad(torch.arange(1.0, size + 1, device="cpu")[None, None], (left, right), mode)[0, 0].long()
    taps = places.unfold(0, dilation * (kernel - 1) + 1, stride)[:, ::dilation]
    return taps.flatten().bincount(minlength=size + 1)[1:]
