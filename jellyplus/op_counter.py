r"""Additions, multiplications and energy of any SpikingJelly network, from its measured spikes.

.. math:: E = 0.9\,\text{pJ} \cdot \#\text{Add} + 4.6\,\text{pJ} \cdot \#\text{Mult}

Li et al. 2021, Differentiable Spike, Table 3, and Zheng et al. 2021, tdBN, Table 6. An operation count is worth what
its convention is worth, and no paper states its own in full, so :class:`Convention` has every choice and is part of
the result; :data:`CONVENTIONS` has those of the papers by name. :class:`OperationCounter` measures, independently of
any convention; one :class:`Tallies` serves them all.

Counted are convolutions and linear layers. Not counted, as in both papers: the neurons' own update and the norms,
which fuse into the layers for inference (tdBN, Eqs. 9 and 10); and biases, pooling and the sums of residual branches.
Products that no layer of its own computes (``torch.matmul`` in an attention block) are not seen.

:func:`energy_table` is the short way: the energy of a network, of its ANN twin, and their ratio.
"""

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from jellyplus import _compat
from jellyplus._compat import layer as sj_layer
from jellyplus.monitor import Monitor, named_modules

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CONVENTIONS",
    "Convention",
    "LayerCount",
    "OperationCount",
    "OperationCounter",
    "Tallies",
    "Tally",
    "energy_table",
]

#: They multiply weights by inputs in ways that are not counted.
_REFUSED = (
    _ConvTransposeNd,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
    nn.Bilinear,
    sj_layer.DropConnectLinear,
)
_ROLES = {"first": (0,), "first and last": (0, -1)}  # of the layers, in order of execution


@dataclass(frozen=True)
class Convention:
    """How operations are counted and charged.

    A layer multiplies or is fed by spikes. One that multiplies is charged for every MAC, zeros included, as in an
    ANN. One that is fed by spikes adds a weight for each input that is not zero and multiplies nothing.

    The defaults are no paper's: they take what both papers' numbers show, but for ``multiplying``, where they go by
    what was measured and the papers by the layer's place in the network.

    Args:
        padded_taps: a kernel's tap on the zero padding is a MAC, and additions are MACs times the spike rate of the
            whole input. This is what the papers print: 2285.37M MACs for ResNet-19. False: taps inside the image
            only, and additions are exact: each spike counts as often as it is really read. The papers' way has
            more, since the padding never spikes, and takes the spikes to lie evenly, border and stride or not.
        repeat_static: the layers that ran once for a static image, before the first one that ran more often, count
            at each time-step, as Dspike's Table 3 does with the first layer. In step mode 's' they ran T times
            anyway.
        multiplying: the layers that multiply, no others. ``"first"``, the first to run, as in Dspike, or ``"first and
            last"``, as in tdBN; in a network that does not spike, which is one without a SpikingJelly node and with
            T = 1, every layer then multiplies, as in both papers' ANN rows. Or names. None: those whose measured
            input was not all 0 or 1: the first layer, those fed by average pooling, the decoding layer often among
            them, and those fed by sums of spikes.
        additions_of_multiplying: a MAC of a layer that multiplies is a multiplication and an addition, 5.5 pJ. This
            is what Dspike's ANN rows are charged, though its text gives a MAC 4.6 pJ in total. False: no addition.
        pj_per_addition: pJ; 0.9, 45 nm CMOS (Dspike, section 5.4).
        pj_per_multiplication: pJ; 4.6, likewise.

    >>> Convention().energy_pj(additions=71.2e6, multiplications=3.52e6) / 1e6  # uJ; Dspike prints 80.3 mJ
    80.272
    """

    padded_taps: bool = True
    repeat_static: bool = True
    multiplying: tuple[str, ...] | Literal["first", "first and last"] | None = None
    additions_of_multiplying: bool = True
    pj_per_addition: float = 0.9
    pj_per_multiplication: float = 4.6

    def __post_init__(self) -> None:
        if isinstance(self.multiplying, str) and self.multiplying not in _ROLES:
            raise ValueError(
                f"multiplying={self.multiplying!r}: give {' or '.join(map(repr, _ROLES))}, or a tuple of names"
            )

    def energy_pj(self, additions: float, multiplications: float) -> float:
        """The energy of so many operations, in pJ."""
        return self.pj_per_addition * additions + self.pj_per_multiplication * multiplications

    def multiplying_of(self, layers: Sequence["Tally"], spiking: bool) -> set[str]:
        """The names of the layers that multiply.

        Raises:
            ValueError: the convention names one that is not there.
        """
        names = [layer.name for layer in layers]
        if self.multiplying is None:
            return {layer.name for layer in layers if not layer.binary}
        if isinstance(self.multiplying, str):
            return {names[place] for place in _ROLES[self.multiplying]} if spiking else set(names)
        if unknown := [name for name in self.multiplying if name not in names]:
            raise ValueError(f"no layer {unknown[0]!r} has run: those that have are {', '.join(names)}")
        return set(self.multiplying)

    def __str__(self) -> str:
        return "; ".join(
            (
                f"taps on the padding {'counted' if self.padded_taps else 'not counted'}",
                f"static layers counted {'at every time-step' if self.repeat_static else 'as often as they run'}",
                f"multiplying: {self._multiplying_in_words()}",
                f"their additions {'counted' if self.additions_of_multiplying else 'not counted'}",
                f"{self.pj_per_addition} pJ per addition, {self.pj_per_multiplication} pJ per multiplication",
            )
        )

    def _multiplying_in_words(self) -> str:
        if self.multiplying is None:
            return "layers with non-binary input"
        if isinstance(self.multiplying, str):
            return f"{self.multiplying} layer, in an ANN every one"
        return ", ".join(self.multiplying) or "none"


#: By the name that a claim gives: our own, Dspike's (Li et al. 2021, section 5.4: "the FLOPs of the first layer" times
#: T) and tdBN's (Zheng et al. 2021, supplementary D: "the first encoding layer" and "the last decoding layer"). Neither
#: says whether the additions of those layers are in #Add; both count them in their ANN rows, and so do we.
CONVENTIONS = {
    "default": Convention(),
    "dspike": Convention(multiplying="first"),
    "tdbn": Convention(multiplying="first and last"),
}


class LayerCount(NamedTuple):
    """One layer's operations for one example, over all time-steps.

    ``spike_rate`` is the share of its inputs that are not zero, whatever feeds it, an image too; in a total, the mean
    weighted by MACs. What neurons themselves fire is :attr:`OperationCount.firing_rate`. ``energy_pj`` is in pJ, 1e-6
    of the uJ that is printed.
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
    """Operations of each layer for one example, in the order of execution; printed, a table and its convention.

    Args:
        layers: one by one.
        examples: whose mean it is.
        time_steps: T.
        convention: by which it was counted.
        firing_rate: spikes per neuron and time-step, over all SpikingJelly nodes; None in an ANN.
        additions_error: the standard error of the total's additions over the examples, s / sqrt(n); that of an evenly
            drawn sample is a little smaller. None for one example, or where the network does not tell them apart.
        firing_rates: of each SpikingJelly node by its name, spikes per neuron and time-step.
    """

    layers: tuple[LayerCount, ...]
    examples: int
    time_steps: int
    convention: Convention
    firing_rate: float | None = None
    additions_error: float | None = None
    firing_rates: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> LayerCount:
        """All layers."""
        macs, additions, multiplications, energy = (
            math.fsum(getattr(layer, name) for layer in self.layers)
            for name in ("macs", "additions", "multiplications", "energy_pj")
        )
        spikes = math.fsum(layer.macs * layer.spike_rate for layer in self.layers)
        return LayerCount("total", "", macs, spikes / macs, additions, multiplications, energy)

    @property
    def energy_error_pj(self) -> float | None:
        """The standard error of the total's energy: examples differ in their additions alone."""
        error = self.additions_error
        return None if error is None else self.convention.energy_pj(error, 0)

    def __str__(self) -> str:
        lines = [
            "| layer | kind | MACs | inputs not 0 | additions | multiplications | energy (uJ) |",
            "|" + "---|" * 7,
        ]
        for row in (*self.layers, self.total):
            operations = f"{row.macs:,.0f} | {row.spike_rate:.4f} | {row.additions:,.0f} | {row.multiplications:,.0f}"
            lines.append(f"| {row.name} | {row.kind} | {operations} | {row.energy_pj / 1e6:,.4g} |")
        if self.firing_rates:
            lines += ["", "| neurons | firing rate |", "|---|---|"]
            lines += [f"| {name} | {rate:.4f} |" for name, rate in self.firing_rates.items()]
        return "\n".join([*lines, "", f"{', '.join(self._of_what())}: {self.convention}."])

    def _of_what(self) -> list[str]:
        words = [f"Per example, T = {self.time_steps}, mean of {self.examples}"]
        if self.energy_error_pj is not None:
            words.append(f"standard error {self.energy_error_pj / 1e6:.2g} uJ")
        if self.firing_rate is not None:
            words.append(f"firing rate of the neurons {self.firing_rate:.4f}")
        return words


@dataclass(frozen=True)
class Tally:
    """What one layer did in all examples: exact counts, under no convention.

    Args:
        name: as in ``net.named_modules()``.
        kind: its class.
        runs: single inputs: examples times time-steps.
        inputs: their elements.
        nonzeros: of these.
        binary: whether all were 0 or 1.
        macs_with_padding: MACs, taps on the zero padding among them.
        macs: MACs inside the image.
        additions: how often an input that is not zero is read.
    """

    name: str
    kind: str
    runs: int
    inputs: int
    nonzeros: int
    binary: bool
    macs_with_padding: int
    macs: int
    additions: int

    def __post_init__(self) -> None:
        least = (self.runs, self.inputs, self.macs_with_padding), (self.nonzeros, self.macs, self.additions)
        if min(least[0]) < 1 or min(least[1]) < 0 or max(*least[0], *least[1]) >= 2**63:
            raise ValueError(f"{self} is of no layer that ran: counts are 64-bit numbers, and none of them negative")


@dataclass(frozen=True)
class Tallies:
    """What a network did, enough to count it under any convention.

    Args:
        layers: in the order of execution.
        examples: how many passed.
        time_steps: T; 1 for an ANN.
        firing_rate: spikes per neuron and time-step, over all SpikingJelly nodes; None where there is none.
        by_example: nonzeros and additions of each layer, by its name, [2, examples]; None where they are not known.
        firing_rates: of each node by its name, in the order of execution.
    """

    layers: tuple[Tally, ...]
    examples: int
    time_steps: int
    firing_rate: float | None
    by_example: Mapping[str, Tensor] | None = field(default=None, compare=False, repr=False)
    firing_rates: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("no convolution or linear layer has run: run the network inside the with-block")
        _check_positive(self.examples, self.time_steps)

    def count(self, convention: Convention | None = None) -> OperationCount:
        """The operations of one example.

        Args:
            convention: how to count; by default ``Convention()``.

        Raises:
            ValueError: the convention names a layer that did not run.
        """
        convention = Convention() if convention is None else convention
        multiplying = convention.multiplying_of(self.layers, self._is_spiking)
        factors = self._factors(convention)
        rows = (_row(t, factors[t.name] / self.examples, t.name in multiplying, convention) for t in self.layers)
        spread = {name: factor for name, factor in factors.items() if name not in multiplying}
        error = self._additions_error(spread, convention)
        of_what = (self.examples, self.time_steps, convention, self.firing_rate, error, self.firing_rates)
        return OperationCount(tuple(rows), *of_what)

    def count_ann(self, convention: Convention | None = None) -> OperationCount:
        """The operations of one example in the network's ANN twin, :func:`jellyplus.model.ann`, which need not run.

        It has the same layers, each runs for one time-step, and each multiplies: what it is fed does not matter,
        so ``spike_rate`` is nan.

        Args:
            convention: how to count; by default ``Convention()``. Its ``multiplying`` is about the network alone.
        """
        names = tuple(tally.name for tally in self.layers)
        convention = replace(Convention() if convention is None else convention, multiplying=names)
        rows = (_row(t, 1 / self._runs_in_ann(t), True, convention)._replace(spike_rate=math.nan) for t in self.layers)
        return OperationCount(tuple(rows), self.examples, 1, convention)

    def _runs_in_ann(self, tally: Tally) -> int:
        """So many runs here are one there: those of all time-steps, or one, of a layer that runs before or after."""
        at_every_time_step = self.examples * self.time_steps
        return self.examples if tally.runs % at_every_time_step else at_every_time_step

    def energy_table(self, convention: Convention | None = None) -> "pd.DataFrame":
        """The network, its ANN twin (:meth:`count_ann`), and how many times more the twin takes.

        Args:
            convention: how to count; by default ``Convention()``.

        Returns:
            As of :func:`energy_table`.

        Raises:
            ValueError: the network is an ANN, or the convention names a layer that did not run.
        """
        import pandas as pd  # not needed to use the plugin

        if not self._is_spiking:
            raise ValueError("no SpikingJelly node has run, and T = 1: the network is an ANN itself, see count_ann")
        snn, ann = self.count(convention), self.count_ann(convention)
        table = pd.DataFrame({"SNN": _summary(snn), "ANN twin": _summary(ann)}).T
        table.loc["ANN / SNN", "energy (uJ)"] = ann.total.energy_pj / (snn.total.energy_pj or math.nan)
        table.attrs = {"examples": self.examples, "convention": str(snn.convention)}
        return table

    @property
    def _is_spiking(self) -> bool:
        return self.firing_rate is not None or self.time_steps > 1

    def _factors(self, convention: Convention) -> dict[str, int]:
        """How often each layer counts, where it ran once: T if it is static and those are repeated."""
        ran_once = itertools.takewhile(lambda tally: tally.runs == self.examples, self.layers)
        static = {tally.name for tally in ran_once} if convention.repeat_static else set()
        return {tally.name: self.time_steps if tally.name in static else 1 for tally in self.layers}

    def _additions_error(self, factors: Mapping[str, int], convention: Convention) -> float | None:
        """Over examples; ``factors`` are of the layers that do not multiply: the others do the same for each."""
        if self.by_example is None or self.examples < 2:
            return None
        additions = torch.zeros(self.examples, dtype=torch.float64)
        for tally in self.layers:
            if tally.name in factors:
                nonzeros, exact = self.by_example[tally.name].double()
                by_rate = nonzeros * (tally.macs_with_padding / tally.inputs)
                additions += factors[tally.name] * (by_rate if convention.padded_taps else exact)
        return additions.std().item() / math.sqrt(self.examples)


def _summary(count: OperationCount) -> dict[str, float | None]:
    """A row of :func:`energy_table`."""
    total, error = count.total, count.energy_error_pj
    return {
        "energy (uJ)": total.energy_pj / 1e6,
        "standard error (uJ)": None if error is None else error / 1e6,
        "additions (M)": total.additions / 1e6,
        "multiplications (M)": total.multiplications / 1e6,
        "MACs (M)": total.macs / 1e6,
        "firing rate": count.firing_rate,
        "time-steps": count.time_steps,
    }


def _row(tally: Tally, factor: float, multiplies: bool, convention: Convention) -> LayerCount:
    rate = tally.nonzeros / tally.inputs
    macs = factor * (tally.macs_with_padding if convention.padded_taps else tally.macs)
    if multiplies:
        additions, multiplications = macs * convention.additions_of_multiplying, macs
    else:
        additions, multiplications = rate * macs if convention.padded_taps else factor * tally.additions, 0.0
    energy = convention.energy_pj(additions, multiplications)
    return LayerCount(tally.name, tally.kind, macs, rate, additions, multiplications, energy)


def _check_positive(examples: int, time_steps: int) -> None:
    if min(examples, time_steps) < 1:
        raise ValueError(f"examples and time_steps must be 1 or more, got {examples} and {time_steps}")


class _Layer:
    """What one layer has done so far; ``calls`` has nonzeros and additions of every single input of each call."""

    def __init__(self, kind: str):
        self.kind = kind
        self.inputs = self.macs_with_padding = self.macs = 0
        self.binary = True
        self.calls: list[Tensor] = []  # each [2, *] with the leading dimensions of the input

    def add(self, layer: _ConvNd | nn.Linear, x: Tensor, output: Tensor) -> None:
        space = x.shape[x.dim() - (layer.weight.dim() - 2) :]
        lead = _lead(layer, x)
        reads = [_reads(*arguments) for arguments in _windows(layer, space)]
        readers = layer.weight.shape[0] // getattr(layer, "groups", 1)  # output channels that read an input
        spikes = (x != 0).reshape(*lead, -1, *space).sum(len(lead)).cpu()  # at each place of each single input
        nonzeros = spikes.flatten(len(lead)).sum(-1) if space else spikes
        self.inputs += x.numel()
        self.binary = self.binary and bool(((x == 0) | (x == 1)).all())
        self.macs_with_padding += output.numel() * layer.weight[0].numel()
        self.macs += x.numel() // space.numel() * math.prod(int(read.sum()) for read in reads) * readers
        for read in reversed(reads):
            spikes = (spikes * read).sum(-1)
        self.calls.append(torch.stack([nonzeros, spikes * readers]))

    def tally(self, name: str) -> Tally:
        runs = sum(call[0].numel() for call in self.calls)
        nonzeros, additions = torch.stack([call.reshape(2, -1).sum(1) for call in self.calls]).sum(0).tolist()
        counted = (self.inputs, nonzeros, self.binary, self.macs_with_padding, self.macs, additions)
        return Tally(name, self.kind, runs, *counted)

    def by_example(self, batches: Sequence[int]) -> Tensor | None:
        """[2, examples] for batches of so many; None where the calls are not those of batches."""
        calls, rest = divmod(len(self.calls), len(batches))
        if rest:
            return None
        parts = []
        for number, batch in enumerate(batches):
            found = [_by_example(call, batch) for call in self.calls[number * calls : (number + 1) * calls]]
            known = [part for part in found if part is not None]
            if len(known) < len(found):
                return None
            parts.append(torch.stack(known).sum(0))
        return torch.cat(parts, 1)


def _lead(layer: _ConvNd | nn.Linear, x: Tensor) -> torch.Size:
    """The dimensions before the channels: [T, N], [N], [T * N] in a container, or none."""
    return x.shape[: x.dim() - (layer.weight.dim() - 1)]


def _by_example(call: Tensor, batch: int) -> Tensor | None:
    """[2, batch] from a call's [2, *], which is [T, N], [T * N] or [N], maybe with tokens behind; None where it is not.

    >>> _by_example(torch.tensor([[[1, 2], [3, 4]]]), batch=2)  # T = 2
    tensor([[4, 6]])
    """
    if call.dim() > 2:
        call = call.flatten(3).sum(3) if call.dim() > 3 else call
        call = call.sum(1) if call.shape[2] == batch else call.sum(2)
    call = call.reshape(len(call), -1)
    return call.reshape(len(call), -1, batch).sum(1) if call.shape[1] % batch == 0 else None


class _Batches:
    """How many examples passed, from the calls of whatever runs first: the nodes, or an ANN's first layer.

    Args:
        spiking: the calls are a SpikingJelly node's: in step mode 's' there are T to a batch.
    """

    def __init__(self, spiking: bool):
        self.spiking = spiking
        self.calls: list[tuple[int | None, int]] = []  # time-steps, None where a call does not tell, and examples
        self.sequences: list[int] = []  # calls from each reset to the next

    def add(self, lead: torch.Size, step_mode: str, is_reset: bool) -> None:
        """A call with these dimensions before the neurons or channels; ``is_reset``: nothing is left of another."""
        steps, lead = (lead[0], lead[1:]) if step_mode == "m" and lead else (None, lead)
        self.calls.append((steps, lead[0] if lead else 1))
        if is_reset or not self.sequences:
            self.sequences.append(0)
        self.sequences[-1] += 1

    def time_steps(self) -> int:
        """T: of a call in step mode 'm', and in 's' the calls from one reset to the next."""
        told = {steps for steps, _ in self.calls}
        if self.spiking and told == {None}:
            told = set(self.sequences)
        if self.spiking and len(told) > 1:
            ran = " and ".join(sorted("1 in step mode 's'" if steps is None else str(steps) for steps in told))
            raise ValueError(
                f"batches ran {ran} time-steps: count those of one T at a time, and in step mode 's' reset the "
                "network after each of them, by functional.reset_net(net), or give time_steps"
            )
        return next((steps for steps in told if steps is not None), 1)

    def sizes(self, time_steps: int) -> list[int] | None:
        """Examples of each batch; None where images that run once and those that run T times look alike."""
        told = {steps for steps, _ in self.calls}
        examples = [examples for _, examples in self.calls]
        if told == {time_steps} or (told == {None} and time_steps == 1):
            return examples
        if not told or (not self.spiking and told <= {None, 1}):
            return None
        batches = [examples[start : start + time_steps] for start in range(0, len(examples), time_steps)]
        whole = not any(calls % time_steps for calls in self.sequences)
        if told == {None} and whole and all(len(set(batch)) == 1 for batch in batches):
            return [batch[0] for batch in batches]
        ran = sorted({steps for steps in told if steps is not None} or set(self.sequences))
        raise ValueError(f"time_steps is {time_steps}, and the network ran {' and '.join(map(str, ran))} of them")

    def examples(self, stated: int | None, time_steps: int) -> int:
        """All that passed; ``stated``, where it is not None, must be as many."""
        sizes, seen = self.sizes(time_steps), sum(examples for _, examples in self.calls)
        if sizes is not None:
            possible = {float(sum(sizes))}
        elif stated is None:
            raise ValueError(
                "where no SpikingJelly node runs, inputs do not tell examples from time-steps: give examples"
            )
        else:
            possible = {seen, seen / time_steps} if seen else {float(stated)}
        if stated is not None and stated not in possible:
            raise ValueError(
                f"examples is {stated}, and the network saw {' or '.join(f'{n:g}' for n in sorted(possible))}"
            )
        return int(next(iter(possible))) if stated is None else stated


class OperationCounter(Monitor):
    """Counts the operations of a network's convolutions and linear layers inside a with-block.

    Either step mode, plain torch layers and those in ``SeqToANNContainer``, groups, dilation, stride, any padding. A
    layer that runs several times adds up. Training passes count too, so measure with ``net.eval()``, or say so.

    Show the network whole batches: how many examples passed is read from the input of the node that runs first, in an
    ANN of the first layer. In step mode 'm' that is [T, N, *], N examples a pass. In step mode 's' it is [N, *], and
    all passes from one ``functional.reset_net`` to the next are the T time-steps of the same N examples.

    Args:
        net: any network.

    Raises:
        ValueError: a layer that is not counted: transposed convolution, torch's recurrent layers, multi-head
            attention or bilinear layer, SpikingJelly's ``DropConnectLinear``.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    >>> with torch.no_grad(), OperationCounter(net) as counter:
    ...     _ = net(torch.tensor([[1.0, 0.0, 0.0, 1.0]]))
    >>> print(counter.count())
    | layer | kind | MACs | inputs not 0 | additions | multiplications | energy (uJ) |
    |---|---|---|---|---|---|---|
    | 0 | Linear | 12 | 0.5000 | 6 | 0 | 5.4e-06 |
    | total |  | 12 | 0.5000 | 6 | 0 | 5.4e-06 |
    <BLANKLINE>
    Per example, T = 1, mean of 1: taps on the padding counted; static layers counted at every time-step; multiplying: \
layers with non-binary input; their additions counted; 0.9 pJ per addition, 4.6 pJ per multiplication.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        modules = named_modules(net)
        for name, module in modules.items():
            if isinstance(module, _REFUSED):
                raise ValueError(f"the operations of {name!r}, a {type(module).__name__}, cannot be counted")
        self._net = modules[""]
        self._layers = {name: module for name, module in modules.items() if isinstance(module, (_ConvNd, nn.Linear))}
        self._nodes = {name: module for name, module in modules.items() if isinstance(module, _compat.BaseNode)}
        self._seen: dict[str, _Layer] = {}
        self._spikes: dict[str, list[int]] = {}  # of a node, and its outputs
        self._batches = _Batches(spiking=bool(self._nodes))
        self._passes = self._counted = 0  # of the whole network so far, and the last whose batch is counted

    def _attach(self, attached: ExitStack) -> None:
        for name, layer in self._layers.items():
            attached.enter_context(layer.register_forward_hook(functools.partial(self._see, name)))
        for name, node in self._nodes.items():
            attached.enter_context(node.register_forward_pre_hook(functools.partial(self._arrive, name)))
            attached.enter_context(node.register_forward_hook(functools.partial(self._fire, name)))
        attached.enter_context(self._net.register_forward_pre_hook(self._begin))

    def _begin(self, net: nn.Module, inputs: tuple) -> None:
        self._passes += 1

    def _see(self, name: str, layer: _ConvNd | nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        (x,) = inputs
        if not self._nodes and self._counted < self._passes:
            self._counted = self._passes
            self._batches.add(_lead(layer, x), getattr(layer, "step_mode", "s"), is_reset=True)
        self._seen.setdefault(name, _Layer(type(layer).__name__)).add(layer, x, output)

    def _arrive(self, name: str, node: _compat.BaseNode, inputs: tuple[Tensor, ...]) -> None:
        """The first node has the batches; one that runs twice in a pass, in step mode 'm', has the same one again."""
        again = node.step_mode == "m" and 0 < self._passes == self._counted
        if name == next(iter(self._spikes), name) and not again:
            self._counted = self._passes
            self._batches.add(inputs[0].shape[:-1], node.step_mode, is_reset=not isinstance(node.v, Tensor))

    def _fire(self, name: str, node: _compat.BaseNode, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        counts = self._spikes.setdefault(name, [0, 0])
        counts[0] += int(torch.count_nonzero(output))
        counts[1] += output.numel()

    def count(
        self, examples: int | None = None, time_steps: int | None = None, convention: Convention | None = None
    ) -> OperationCount:
        """What has been counted so far, for one example.

        Args:
            examples: as of :meth:`measurement`.
            time_steps: likewise.
            convention: how to count; by default ``Convention()``.

        Raises:
            ValueError: as :meth:`measurement`, or the convention names a layer that did not run.
        """
        return self.measurement(examples, time_steps).count(convention)

    def measurement(self, examples: int | None = None, time_steps: int | None = None) -> Tallies:
        """What has been seen so far, under no convention.

        Args:
            examples: how many passed, over all batches. Leave it out: the network saw them, and another number is
                refused. Only a network of T > 1 whose nodes are not SpikingJelly's does not tell.
            time_steps: T; by default what the nodes saw, and 1 for an ANN. State it where a network in step mode 's'
                is not reset between batches.

        Raises:
            ValueError: no layer has run; examples or time_steps below 1, or others than the network saw; batches of
                several T; examples left out where the network does not tell.
        """
        if not self._seen:
            raise ValueError("no convolution or linear layer has run: run the network inside the with-block")
        time_steps = self._batches.time_steps() if time_steps is None else time_steps
        _check_positive(1 if examples is None else examples, time_steps)
        examples = self._batches.examples(examples, time_steps)
        tallies = tuple(layer.tally(name) for name, layer in self._seen.items())
        if tallies[0].runs % examples:
            raise ValueError(
                f"the neurons saw {examples} examples and layer {tallies[0].name!r} {tallies[0].runs} inputs: show the "
                "network batches, [N, *] or [T, N, *]"
            )
        rates = {name: spikes / outputs for name, (spikes, outputs) in self._spikes.items() if outputs}
        return Tallies(tallies, examples, time_steps, self._firing_rate(), self._by_example(time_steps), rates)

    def _firing_rate(self) -> float | None:
        spikes, outputs = (sum(counts[part] for counts in self._spikes.values()) for part in (0, 1))
        return spikes / outputs if outputs else None

    def _by_example(self, time_steps: int) -> dict[str, Tensor] | None:
        sizes = self._batches.sizes(time_steps)
        if not sizes:
            return None
        found = {name: layer.by_example(sizes) for name, layer in self._seen.items()}
        known = {name: tensor for name, tensor in found.items() if tensor is not None}
        return known if len(known) == len(found) else None


def energy_table(
    net: nn.Module, inputs: Tensor | Iterable[Tensor], convention: Convention | None = None
) -> "pd.DataFrame":
    """The energy of an inference in a network, in its ANN twin, and their ratio; CSV and LaTeX by pandas' methods.

    45 nm CMOS, 0.9 pJ for an addition and 4.6 pJ for a multiplication (Li et al. 2021, Dspike, section 5.4), unless
    the convention has others. The twin, :func:`jellyplus.model.ann`, multiplies in every layer, once; see
    :meth:`Tallies.count_ann`. Its energy does not depend on its activations, so it does not run.

    Args:
        net: any network of SpikingJelly's nodes. It runs in evaluation mode without gradients, its training mode is put
            back, and it is reset before and after.
        inputs: of one call: [T, N, *] in step mode 'm', and in 's' [N, *] for a network with its own loop over
            time-steps. Of several calls: in step mode 'm' batches, as of a data loader; in 's' time-steps 1 to T of
            the same N examples, ``list(frames)`` or ``[images] * T``.
        convention: how to count; by default ``Convention()``.

    Returns:
        Means over the examples. Rows ``SNN``, ``ANN twin`` and ``ANN / SNN``, which has the energies' ratio alone;
        columns ``energy (uJ)`` and, of it, ``standard error (uJ)``, ``additions (M)``, ``multiplications (M)`` and
        ``MACs (M)``, in millions over all time-steps, ``firing rate`` (spikes per neuron and time-step) and
        ``time-steps``. Its ``attrs`` have the number of ``examples`` and the ``convention`` in words. After loops of
        one's own, ``counter.measurement().energy_table()`` of an :class:`OperationCounter` gives the same.

    Raises:
        ValueError: as :class:`OperationCounter`, or the network has no node that spikes.
        ModuleNotFoundError: pandas is not installed; ``to_latex`` needs jinja2 too.

    >>> from jellyplus.neuron import IterativeLIFNode
    >>> net = nn.Sequential(nn.Linear(2, 1, bias=False), IterativeLIFNode(step_mode="m"), nn.Linear(1, 2))
    >>> _ = nn.init.ones_(net[0].weight)
    >>> table = energy_table(net, torch.full((4, 1, 2), 0.3))  # T = 4, H = 0.6: it always fires
    >>> table["energy (uJ)"].mul(1e6).round(4).to_dict()  # 8 x 5.5 pJ and 8 x 0.9 pJ; 4 x 5.5 pJ
    {'SNN': 51.2, 'ANN twin': 22.0, 'ANN / SNN': 429687.5}
    >>> print(table.to_csv(columns=["energy (uJ)"], float_format="%.3g"), end="")
    ,energy (uJ)
    SNN,5.12e-05
    ANN twin,2.2e-05
    ANN / SNN,0.43
    """
    with torch.no_grad(), OperationCounter(net) as counter, _in_evaluation(net):
        for x in (inputs,) if isinstance(inputs, Tensor) else inputs:
            net(x)
            if all(node.step_mode == "m" for node in counter._nodes.values()):
                _compat.reset_net(net)
    return counter.measurement().energy_table(convention)


@contextmanager
def _in_evaluation(net: nn.Module) -> Iterator[None]:
    """Reset before and after, and each module's training mode as it was."""
    training = {module: module.training for module in net.modules()}
    _compat.reset_net(net.eval())
    try:
        yield
    finally:
        _compat.reset_net(net)
        for module, mode in training.items():
            module.training = mode


def _windows(layer: _ConvNd | nn.Linear, space: torch.Size) -> list[tuple]:
    """The arguments of :func:`_reads` for each spatial dimension; a linear layer has none."""
    if isinstance(layer, nn.Linear) or not space:
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
