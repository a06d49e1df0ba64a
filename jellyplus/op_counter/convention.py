"""How operations are counted and charged, and what comes of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from jellyplus.op_counter.tallies import Tally

__all__ = ["CONVENTIONS", "Convention", "LayerCount", "OperationCount"]

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
