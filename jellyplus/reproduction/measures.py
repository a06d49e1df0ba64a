"""Measures: everything that a figure shows is what one of these functions returns.

A measure is of one kind, which says what it is given:

============= ========================================================================================================
``function``  nothing: a formula, or a simulation without a network
``history``   what a finished run recorded in every epoch
``untrained`` a recipe's network with fresh weights, which the measure itself may train a little
``trained``   the network with a finished run's last weights, as it is meant for inference
============= ========================================================================================================

One is registered by :func:`measure`, ours and a plugin's alike. Settings are its keyword-only arguments; a claim states
all of them. Histograms have equal bins, x is their centres. A ValueError says that settings and network do not fit.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, make_dataclass
from statistics import fmean
from typing import Any, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jellyplus import functional, surrogate
from jellyplus._errors import InputError
from jellyplus._strict import from_mapping
from jellyplus.datasets.order import derived_seed
from jellyplus.loss import cross_entropy
from jellyplus.monitor import (
    Distribution,
    FiringRates,
    GradientHistogram,
    GradientNorm,
    JacobianTrace,
    MembranePotential,
    Monitor,
    Potential,
    SpikeEntropy,
    SpikeRate,
)
from jellyplus.neuron import IterativeLIFNode, SRIFNode
from jellyplus.registry import MEASURES
from jellyplus.training.classifier import Classifier
from jellyplus.training.data import DataModule
from jellyplus.training.layout import time_first
from jellyplus.training.method import settings_of
from jellyplus.training.network import build_network
from jellyplus.training.recipe import Recipe
from jellyplus.training.train import memory_format

__all__ = ["Curve", "Measure", "measure", "measured", "steps"]

Kind = Literal["function", "history", "untrained", "trained"]
_M = TypeVar("_M", bound=Monitor)

_POINTS = 601  # of a drawn function


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


# --- Formulas -------------------------------------------------------------------------------------------------------

_SURROGATES = {"dspike": surrogate.Dspike, "evaf": surrogate.EvAF}


@measure("function")
def surrogate_primitive(*, name: Literal["dspike", "evaf"], shape: float, v_threshold: float, span: float) -> Curve:
    """The function behind a surrogate gradient, over membrane potentials up to ``span`` from V_th on either side.

    ``shape`` is Dspike's temperature b or EvAF's k.
    """
    u = _around(v_threshold, span)
    return _curve(u, _SURROGATES[name](shape).double().primitive(u - v_threshold))


@measure("function")
def surrogate_gradient(*, name: Literal["dspike", "evaf"], shape: float, v_threshold: float, span: float) -> Curve:
    """The surrogate gradient over membrane potentials; see :func:`surrogate_primitive`."""
    u = _around(v_threshold, span)
    return _curve(u, _SURROGATES[name](shape).double().gradient(u - v_threshold))


@measure("function")
def spike(*, v_threshold: float, span: float) -> Curve:
    """The firing function, 1 from V_th on."""
    u = _around(v_threshold, span)
    return _curve(u, surrogate.EvAF().fire(u - v_threshold))


@measure("function")
def constant(*, y: float, start: float, end: float) -> Curve:
    """One value from ``start`` to ``end``."""
    x = torch.linspace(start, end, _POINTS, dtype=torch.float64)
    return _curve(x, torch.full_like(x, y))


@measure("function")
def rectified(*, span: float) -> Curve:
    """MPR, phi(u), up to ``span`` from 1/2 (Guo et al. 2022, InfLoR, Eq. 10)."""
    u = _around(0.5, span)
    return _curve(u, functional.membrane_potential_rectify(u))


def _around(center: float, span: float) -> Tensor:
    return torch.linspace(center - span, center + span, _POINTS, dtype=torch.float64)


# --- Simulations ----------------------------------------------------------------------------------------------------


@measure("function")
def rectified_samples(
    *, samples: int, mean: float, deviation: float, after: bool, low: float, high: float, bins: int
) -> Curve:
    """Density of normal membrane potentials u, or of phi(u) where ``after``, and the mean quantisation error (Eq. 9).

    Guo et al. 2022, InfLoR, Fig. 4, for V_th = 1/2.
    """
    u = mean + deviation * torch.randn(samples, generator=_generator(), dtype=torch.float64)
    potential = Potential(_edges(low, high, bins))
    potential.add(u, u, v_threshold=0.5)
    return _potential_curve(potential, after)


@measure("function")
def membrane_potentials(
    *,
    variance: float,
    v_threshold: float,
    decay: float,
    time_steps: int,
    neurons: int,
    of: Literal["input", "potential"],
    low: float,
    high: float,
    bins: int,
) -> Curve:
    """Density of the input x, or of the membrane potential u before reset, at the last time-step.

    x is N(0, variance), independent in time and neurons (Zheng et al. 2021, Theorem 2 and Fig. 3).
    """
    x, node = _driven(variance, v_threshold, decay, time_steps, neurons)
    shown = Distribution(_edges(low, high, bins))
    with torch.no_grad():
        node(x)
    shown.add(x[-1] if of == "input" else node.h_seq[-1])
    return _density(shown, {"variance": shown.variance})


@measure("function")
def firing_rates(*, variance: float, v_threshold: float, decay: float, time_steps: int, neurons: int) -> Curve:
    """Neurons by the number of their spikes over T, for x as in :func:`membrane_potentials` (Zheng et al., Fig. 4)."""
    x, node = _driven(variance, v_threshold, decay, time_steps, neurons)
    half = 0.5 / time_steps  # one bin for each possible rate
    with torch.no_grad(), FiringRates(nn.Sequential(node), _edges(-half, 1 + half, time_steps + 1)) as watch:
        node(x)
    (shown,) = watch.distributions.values()
    rates = [spikes / time_steps for spikes in range(time_steps + 1)]
    return Curve(rates, [float(count) for count in shown.counts], {"mean rate": shown.mean})


def _driven(
    variance: float, v_threshold: float, decay: float, time_steps: int, neurons: int
) -> tuple[Tensor, IterativeLIFNode]:
    x = math.sqrt(variance) * torch.randn(time_steps, neurons, generator=_generator(), dtype=torch.float64)
    return x, IterativeLIFNode(decay, v_threshold, step_mode="m", store_h_seq=True)


_NODES = {
    "hard": lambda v_threshold: IterativeLIFNode(1.0, v_threshold, step_mode="m", store_v_seq=True, store_h_seq=True),
    "soft": lambda v_threshold: SRIFNode(v_threshold, False, step_mode="m", store_v_seq=True, store_h_seq=True),
}


@measure("function")
def reset_trace(*, reset: Literal["hard", "soft"], inputs: tuple[float, ...], v_threshold: float) -> Curve:
    """Membrane potential of an IF neuron over time-steps: up to H[t] at t, then to V[t], at once.

    Inputs are in units of V_th. ``hard`` resets to 0; ``soft`` takes the spike itself off, 1 (Guo et al. 2022,
    InfLoR, Eq. 8 and Fig. 2).
    """
    h, v, spikes = _fired(reset, inputs, v_threshold)
    times = [0.0, *(float(t) for t in range(1, len(inputs) + 1) for _ in "HV")]
    return Curve(times, [0.0, *torch.stack([h, v], 1).flatten().tolist()], {"spikes": spikes.sum().item()})


@measure("function")
def reset_spikes(*, reset: Literal["hard", "soft"], inputs: tuple[float, ...], v_threshold: float) -> Curve:
    """When the neuron of :func:`reset_trace` fires, at the height of H."""
    h, _, spikes = _fired(reset, inputs, v_threshold)
    fired = spikes.nonzero().flatten()
    return _curve(1.0 + fired, h[fired])


def _fired(reset: str, inputs: Sequence[float], v_threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """H, V and spikes of one neuron, each [T]."""
    node = _NODES[reset](v_threshold)
    with torch.no_grad():
        spikes = node(v_threshold * torch.tensor(inputs, dtype=torch.float64)[:, None])
    return node.h_seq[:, 0], node.v_seq[:, 0], spikes[:, 0]


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# --- The history of a run -------------------------------------------------------------------------------------------


@measure("history")
def course(history: Sequence[Mapping[str, Any]], *, of: Literal["accuracy", "temperature", "k"]) -> Curve:
    """A value of every epoch, which are counted from 1.

    Raises:
        InputError: the run recorded none.
    """
    if any(entry.get(of) is None for entry in history):
        raise InputError(f"the run recorded no {of}: name a recipe that has one, or another value")
    return Curve([entry["epoch"] + 1.0 for entry in history], [float(entry[of]) for entry in history])


# --- Training a little ----------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """A training step whose gradients are there and which is not yet taken."""

    epoch: int
    number: int
    x: Tensor
    labels: Tensor


def steps(net: nn.Module, data: DataModule, epochs: int) -> Iterator[Step]:
    """Train ``net`` as a run of this recipe and seed does, in single precision, and show every step before it is taken.

    Args:
        net: with the weights to start from, in place.
        data: of the run.
        epochs: how many, at most those of the recipe.

    Raises:
        InputError: the recipe has a method beyond SGD on the cross-entropy, or the loss is not finite.
    """
    recipe, seed = data.recipe, data.order.seed
    _check_plain(recipe)
    classifier = Classifier(net.train(), recipe, seed)
    configured = classifier.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    device = next(net.parameters()).device
    for epoch in range(epochs):
        data.order.set_epoch(epoch)
        for number, (x, labels, _) in enumerate(data.train_dataloader()):
            x, labels = x.to(device), labels.to(device)
            torch.manual_seed(derived_seed(seed, epoch, number))
            optimizer.zero_grad()
            loss = cross_entropy(classifier(x), labels)
            if not torch.isfinite(loss):
                raise InputError(
                    f"the loss is {loss.item()} in epoch {epoch + 1}, step {number + 1}: choose a smaller "
                    "optimizer.learning_rate in the figure's overrides"
                )
            loss.backward()
            yield Step(epoch, number, x, labels)
            optimizer.step()
        scheduler.step()


def _check_plain(recipe: Recipe) -> None:
    has = [name for name in settings_of(recipe) if name != "shortcut"]
    if recipe.shortcut and recipe.shortcut.evolutionary:
        has.append("shortcut.evolutionary")
    if recipe.initial_weights:
        has.append("initial_weights")
    if recipe.data.micro_batch:
        has.append("data.micro_batch")
    if recipe.output_loss.name != "cross_entropy":
        has.append("output_loss")
    if has:
        raise InputError(f"this measure trains with SGD alone, and the recipe has {', '.join(has)}: null it")


def _first_part(net: nn.Module, data: DataModule, parts: int) -> Iterator[Step]:
    """The steps of the first of so many parts of an epoch, at least one."""
    last = max(1, len(data.train_dataloader()) // parts)
    for step in steps(net, data, epochs=1):
        yield step
        if step.number + 1 == last:
            return


@measure("untrained")
def gradient_norms(net: nn.Module, data: DataModule, *, epoch_parts: int) -> Curve:
    """Mean L2 norm of the weights' gradients, layer by layer, over the first of ``epoch_parts`` parts of an epoch.

    The first layer, which encodes, and the last, which decodes, are left out (Zheng et al. 2021, Fig. 2). The slope
    is that of a straight line, by least squares, through the logarithm of the norms.
    """
    watch = GradientNorm(net)
    with watch:
        for _ in _first_part(net, data, epoch_parts):
            pass
    norms = list(watch.norms.values())[1:-1]
    layers = [float(number) for number in range(1, len(norms) + 1)]
    return Curve(layers, norms, {"slope of ln per layer": _slope(layers, norms)} if all(norms) else {})


@measure("untrained")
def jacobian_traces(net: nn.Module, data: DataModule, *, probes: int, epoch_parts: int) -> Curve:
    """phi(J J^T) from each tdBN to the next, over the first of ``epoch_parts`` parts of an epoch.

    From ``probes`` random vectors a step (Zheng et al. 2021, Theorem 1: near 1 at decay 0). Block l is what lies
    between layers l and l + 1, the encoding one being layer 1. The network has no branches.
    """
    watch = JacobianTrace(net, probes=probes)
    with watch:
        for _ in _first_part(net, data, epoch_parts):
            pass
    return _by_layer(watch.traces, {"mean": fmean(watch.traces.values())})


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    x, logs = torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64).log()
    return ((x - x.mean()) @ logs / (x - x.mean()).square().sum()).item()


@measure("untrained")
def gradient_histogram(
    net: nn.Module, data: DataModule, *, parameter: str, epoch_parts: int, low: float, high: float, bins: int
) -> Curve:
    """Density of one parameter's gradient over the first of ``epoch_parts`` parts of an epoch.

    Guo et al. 2024, section 4.1. What is outside ``low`` to ``high`` counts in the deviation.
    """
    watch = GradientHistogram(net, parameter, _edges(low, high, bins))
    with watch:
        for _ in _first_part(net, data, epoch_parts):
            pass
    return _density(watch.distribution, {"deviation": math.sqrt(watch.distribution.variance)})


@measure("untrained")
def gradient_similarity(net: nn.Module, data: DataModule, *, parameter: str, epsilon: float, iterations: int) -> Curve:
    """Cosine similarity of the gradient that the update uses and the finite differences', epoch by epoch.

    The mean over the first ``iterations`` steps of every epoch of the recipe (Li et al. 2021, section 4.2, Fig. 2).
    """
    epochs = data.recipe.schedule.epochs
    found: list[list[float]] = [[] for _ in range(epochs)]
    for step in steps(net, data, epochs):
        if step.number < iterations:
            found[step.epoch].append(_similarity(net, parameter, epsilon, step))
    return Curve([epoch + 1.0 for epoch in range(epochs)], [fmean(values) for values in found])


def _similarity(net: nn.Module, parameter: str, epsilon: float, step: Step) -> float:
    differences = functional.finite_difference_gradient(
        net,
        parameter,
        lambda y_seq: cross_entropy(y_seq, step.labels),
        time_first(step.x),
        epsilon,
    )
    used = net.get_parameter(parameter).grad
    return F.cosine_similarity(used.double().flatten(), differences.double().flatten(), dim=0).item()


# --- A network on the test data -------------------------------------------------------------------------------------


@measure("trained")
@measure("untrained", "spike_rates_untrained")
def spike_rates(net: nn.Module, data: DataModule) -> Curve:
    """Spikes per neuron and time-step on the test data, layer by layer of neurons in the order of the network."""
    return _by_layer(_on_test_data(SpikeRate(net), net, data).rates)


@measure("trained")
@measure("untrained", "spike_entropies_untrained")
def spike_entropies(net: nn.Module, data: DataModule) -> Curve:
    """Entropy of the spikes on the test data, in bits, layer by layer (Guo et al. 2022, IM-Loss, Eqs. 9 and 10)."""
    return _by_layer(_on_test_data(SpikeEntropy(net), net, data).entropies)


@measure("trained")
def spikes_per_neuron(net: nn.Module, data: DataModule) -> Curve:
    """Spikes of a neuron over all time-steps on the test data, layer by layer (Zheng et al. 2021, Fig. 6)."""
    watch = _on_test_data(SpikeRate(net), net, data)
    return _by_layer(watch.spikes_per_neuron(data.recipe.model.time_steps))


@measure("trained")
def layer_potentials(
    net: nn.Module, data: DataModule, *, layer: str, after: bool, low: float, high: float, bins: int
) -> Curve:
    """Density of one layer's membrane potentials on the test data, before MPR or after, and the quantisation error.

    Guo et al. 2022, InfLoR, Fig. 5 and Table 3; ``layer`` is as in ``net.named_modules()``.
    """
    watch = _on_test_data(MembranePotential(net, _edges(low, high, bins), [layer]), net, data)
    return _potential_curve(watch.potentials[layer], after)


_SECOND_BLOCK = {"residual": "stages.0.1", "stage": "stages.1.0"}


@measure("trained")
def quantisation_error(
    net: nn.Module, data: DataModule, *, second_block: Literal["residual", "stage"] = "residual"
) -> Curve:
    """Mean quantisation error before and after MPR on the test data (Guo et al. 2022, InfLoR, Table 3).

    Of "the first layer of the second block": of the second ``residual`` block, or of the second ``stage``, which
    tdBN's Table 4 calls a block.
    """
    layer = f"{_SECOND_BLOCK[second_block]}.branch.2"
    watch = _on_test_data(MembranePotential(net, [0.0, 1.0], [layer]), net, data)
    potential = watch.potentials[layer]
    return Curve([], [], {"before": potential.error_before, "after": potential.error_after})


def _on_test_data(watch: _M, net: nn.Module, data: DataModule) -> _M:
    classifier, device = Classifier(net.eval(), data.recipe, data.order.seed), next(net.parameters()).device
    with watch, torch.no_grad():
        for x, _, _ in data.val_dataloader():
            classifier(x.to(device))
    return watch


def _by_layer(values: Mapping[Any, float], numbers: dict[str, float] | None = None) -> Curve:
    return Curve([number + 1.0 for number in range(len(values))], list(values.values()), numbers or {})


# --- Curves ---------------------------------------------------------------------------------------------------------


def _curve(x: Tensor, y: Tensor) -> Curve:
    return Curve(x.tolist(), y.tolist())


def _edges(low: float, high: float, bins: int) -> Tensor:
    return torch.linspace(low, high, bins + 1, dtype=torch.float64)


def _density(shown: Distribution, numbers: dict[str, float]) -> Curve:
    """Share of all numbers, also of those outside, per bin and unit of x."""
    edges = shown.bin_edges
    density = torch.tensor(shown.counts, dtype=torch.float64) / shown.count / edges.diff()
    return Curve(((edges[1:] + edges[:-1]) / 2).tolist(), density.tolist(), numbers)


def _potential_curve(potential: Potential, after: bool) -> Curve:
    error = potential.error_after if after else potential.error_before
    return _density(potential.after if after else potential.before, {"quantisation error": error})
