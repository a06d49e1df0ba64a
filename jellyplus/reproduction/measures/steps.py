"""Gradients of the first steps of training."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import nn

from jellyplus import functional
from jellyplus._errors import InputError
from jellyplus.loss import cross_entropy
from jellyplus.monitor import GradientHistogram, GradientNorm, JacobianTrace
from jellyplus.reproduction.measures.base import Curve, by_layer, density, equal_bins, measure
from jellyplus.training.data import DataModule
from jellyplus.training.layout import time_first
from jellyplus.training.method import settings_of
from jellyplus.training.recipe import Recipe
from jellyplus.training.train import Step, watched


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


def _train(net: nn.Module, data: DataModule, epochs: int, show: Callable[[Step], None], batches: int | None) -> None:
    """As :func:`jellyplus.training.train.watched`, where the recipe is plain.

    Raises:
        InputError: the recipe has a method beyond SGD on the cross-entropy, or the loss is not finite.
    """
    _check_plain(data.recipe)
    watched(net, data, epochs, show, batches, "choose a smaller optimizer.learning_rate in the figure's overrides")


def _train_a_part(net: nn.Module, data: DataModule, parts: int) -> None:
    """The steps of the first of so many parts of an epoch, at least one."""
    _train(net, data, 1, lambda step: None, max(1, len(data.train_dataloader()) // parts))


@measure("untrained")
def gradient_norms(net: nn.Module, data: DataModule, *, epoch_parts: int) -> Curve:
    """Mean L2 norm of the weights' gradients, layer by layer, over the first of ``epoch_parts`` parts of an epoch.

    The first layer, which encodes, and the last, which decodes, are left out (Zheng et al. 2021, Fig. 2). The slope
    is that of a straight line, by least squares, through the logarithm of the norms.
    """
    watch = GradientNorm(net)
    with watch:
        _train_a_part(net, data, epoch_parts)
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
        _train_a_part(net, data, epoch_parts)
    return by_layer(watch.traces, {"mean": fmean(watch.traces.values())})


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
    watch = GradientHistogram(net, parameter, equal_bins(low, high, bins))
    with watch:
        _train_a_part(net, data, epoch_parts)
    return density(watch.distribution, {"deviation": math.sqrt(watch.distribution.variance)})


@measure("untrained")
def gradient_similarity(net: nn.Module, data: DataModule, *, parameter: str, epsilon: float, iterations: int) -> Curve:
    """Cosine similarity of the gradient that the update uses and the finite differences', epoch by epoch.

    The mean over the first ``iterations`` steps of every epoch of the recipe (Li et al. 2021, section 4.2, Fig. 2).
    """
    epochs = data.recipe.schedule.epochs
    found: list[list[float]] = [[] for _ in range(epochs)]

    def compare(step: Step) -> None:
        if step.number < iterations:
            found[step.epoch].append(_similarity(net, parameter, epsilon, step))

    _train(net, data, epochs, compare, None)
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
