"""A measure is a function that gives a curve; what measures share."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, make_dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from jellyplus._errors import InputError
from jellyplus._strict import from_mapping
from jellyplus.monitor import Distribution, Potential
from jellyplus.registry import MEASURES
from jellyplus.training.data import DataModule
from jellyplus.training.network import build_network
from jellyplus.training.recipe import Recipe
from jellyplus.training.train import memory_format

__all__ = [
    "Curve",
    "Measure",
    "by_layer",
    "curve",
    "density",
    "equal_bins",
    "measure",
    "measured",
    "potential_curve",
]

Kind = Literal["function", "history", "untrained", "trained"]


@dataclass(frozen=True)
class Curve:
    """What a series of a figure shows.

    Args:
        x, y: of equal length.
        numbers: what sums it up, by the name that the legend gives it.
    """

    x: list[float]
    y: list[float]
    numbers: dict[str, float] = field(default_factory=dict)


class Measure(NamedTuple):
    """A function that measures, and its kind."""

    kind: Kind
    function: Callable[..., Curve]

    def check(self, settings: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The settings, each of its declared type; an integer is a number of something, at least 1.

        One that has a default may be left out, and is where it holds it.

        Raises:
            InputError: one is unknown, missing, of another type or not positive; it names ``where``.
        """
        parameters = inspect.signature(self.function).parameters.values()
        own = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        defaults = {p.name: p.default for p in own if p.default is not p.empty}
        fields = [(p.name, p.annotation, field(default=defaults.get(p.name, MISSING))) for p in own]
        checked = vars(from_mapping(make_dataclass("Settings", fields, kw_only=True), settings, where))
        for name, value in checked.items():
            if type(value) is int and value < 1:
                raise InputError(f"{where}: key '{name}' is {value}; it must be at least 1")
        return {name: value for name, value in checked.items() if name not in defaults or value != defaults[name]}


def measure(kind: Kind, name: str | None = None) -> Callable[[Callable], Callable]:
    """Register a function in :data:`jellyplus.registry.MEASURES`, under its own name unless another is given."""

    def registered(function: Callable) -> Callable:
        MEASURES.register(name or function.__name__, function.__module__)(Measure(kind, function))
        return function

    return registered


def measured(
    recipe: Recipe,
    data: DataModule,
    name: str,
    settings: Mapping[str, Any],
    *,
    weights: Mapping[str, Tensor] | None,
    backend: str | None,
    device: str,
) -> Curve:
    """What a measure finds on a recipe's network, as training starts from it or ends with it.

    Args:
        recipe, data: of the run.
        name, settings: of a measure.
        weights: the last ones of the run, where the measure is of a ``trained`` network.
        backend, device: what runs it.

    Raises:
        ValueError: settings and network do not fit.
    """
    torch.manual_seed(data.order.seed)
    net = build_network(recipe, backend)
    if weights is not None:
        net.load_state_dict(weights)
    net = net.to(device, memory_format=memory_format(net, recipe))
    return MEASURES[name].function(net, data, **settings)


# --- Curves ---------------------------------------------------------------------------------------------------------


def curve(x: Tensor, y: Tensor) -> Curve:
    """Of tensors of equal length."""
    return Curve(x.tolist(), y.tolist())


def equal_bins(low: float, high: float, bins: int) -> Tensor:
    """The edges of bins, [bins + 1]."""
    return torch.linspace(low, high, bins + 1, dtype=torch.float64)


def density(shown: Distribution, numbers: dict[str, float]) -> Curve:
    """Share of all numbers, also of those outside, per bin and unit of x."""
    edges = shown.bin_edges
    density = torch.tensor(shown.counts, dtype=torch.float64) / shown.count / edges.diff()
    return Curve(((edges[1:] + edges[:-1]) / 2).tolist(), density.tolist(), numbers)


def potential_curve(potential: Potential, after: bool) -> Curve:
    """Density of membrane potentials before MPR or after, and their quantisation error."""
    error = potential.error_after if after else potential.error_before
    return density(potential.after if after else potential.before, {"quantisation error": error})


def by_layer(values: Mapping[Any, float], numbers: dict[str, float] | None = None) -> Curve:
    """Values of layers, which are counted from 1."""
    return Curve([number + 1.0 for number in range(len(values))], list(values.values()), numbers or {})
