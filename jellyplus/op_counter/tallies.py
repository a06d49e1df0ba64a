"""What a network did, layer by layer: exact counts, under no convention."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jellyplus.op_counter.convention import Convention, LayerCount, OperationCount

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Tallies", "Tally", "check_positive"]


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
        check_positive(self.examples, self.time_steps)

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
            As of :func:`jellyplus.op_counter.energy_table`.

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
    """A row of :meth:`Tallies.energy_table`."""
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


def check_positive(examples: int, time_steps: int) -> None:
    """Raise ValueError where either is below 1."""
    if min(examples, time_steps) < 1:
        raise ValueError(f"examples and time_steps must be 1 or more, got {examples} and {time_steps}")
