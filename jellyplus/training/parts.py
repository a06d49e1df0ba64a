"""The package's own nodes, norms, optimizers and schedules, as recipes name them; plugins register theirs likewise."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, StepLR

from jellyplus._errors import InputError
from jellyplus.layer import ThresholdDependentBatchNorm2d
from jellyplus.neuron import IterativeLIFNode, SRIFNode
from jellyplus.registry import NODES, NORMS, OPTIMIZERS, SCHEDULES, Registry

if TYPE_CHECKING:
    from jellyplus.training.recipe import Optimizer, Schedule

__all__ = ["make", "make_optimizer", "make_schedule"]


def make(section: str, parts: Registry, settings: Any, names: Iterable[str], *given: Any, **shared: Any) -> Any:
    """What a section of a recipe describes.

    Args:
        section: its name, for the sentence.
        parts: where ``settings.name`` is registered.
        settings: of the section.
        names: of the settings that the part is given, beside ``settings.parameters``.
        given, shared: what it is given that no recipe states.

    Raises:
        InputError: they do not fit.
    """
    stated = {name: getattr(settings, name) for name in names}
    try:
        return parts[settings.name](*given, **stated, **(settings.parameters or {}), **shared)
    except (TypeError, ValueError) as error:
        raise InputError(f"{section} does not fit {settings.name}: {error}") from error


def make_optimizer(settings: "Optimizer", parameters: Iterable[nn.Parameter], **kernel: bool) -> torch.optim.Optimizer:
    """The optimizer that a recipe describes; raises as :func:`make`."""
    names = ("learning_rate", "momentum", "nesterov", "weight_decay")
    return make("optimizer", OPTIMIZERS, settings, names, parameters, **kernel)


def make_schedule(settings: "Schedule", optimizer: torch.optim.Optimizer) -> LRScheduler:
    """The learning rate schedule that a recipe describes; raises as :func:`make`."""
    names = ("epochs", "final_learning_rate", "step_epochs", "step_factor")
    return make("schedule", SCHEDULES, settings, names, optimizer)


@NODES.register("lif")
def _lif(*, rectify: bool, **constants: Any) -> nn.Module:
    return IterativeLIFNode(**constants)


@NODES.register("srif")
def _srif(*, decay: float, v_reset: float | None, **constants: Any) -> nn.Module:
    return SRIFNode(**constants)


@OPTIMIZERS.register("sgd")
def _sgd(parameters: Iterable[nn.Parameter], *, learning_rate: float, **settings: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=learning_rate, **settings)


@SCHEDULES.register("cosine")
def _cosine(optimizer: torch.optim.Optimizer, *, epochs: int, final_learning_rate: float, **_: None) -> LRScheduler:
    return CosineAnnealingLR(optimizer, epochs, final_learning_rate)


@SCHEDULES.register("step")
def _step(optimizer: torch.optim.Optimizer, *, step_epochs: int, step_factor: float, **_: Any) -> LRScheduler:
    return StepLR(optimizer, step_epochs, step_factor)


@NORMS.register("tdbn")
def _tdbn(*, alpha: float, channels: int, v_threshold: float, **constants: float) -> nn.Module:
    return ThresholdDependentBatchNorm2d(alpha, v_threshold, channels, **constants)


@NORMS.register("bn")
def _bn(*, alpha: float, channels: int, v_threshold: float | None, **constants: float) -> nn.Module:
    """With alpha 1, which bn's are, tdBN at V_th = 1 is batch norm over time, and over processes."""
    return ThresholdDependentBatchNorm2d(alpha, 1.0, channels, **constants)
