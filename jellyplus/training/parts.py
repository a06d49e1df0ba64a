"""The package's own nodes and optimizers, as recipes name them; a plugin registers others in the same way."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from jellyplus._errors import InputError
from jellyplus.neuron import IterativeLIFNode, SRIFNode
from jellyplus.registry import NODES, OPTIMIZERS

if TYPE_CHECKING:
    from jellyplus.training.recipe import Optimizer

__all__ = ["make_optimizer"]


def make_optimizer(settings: "Optimizer", parameters: Iterable[nn.Parameter], **kernel: bool) -> torch.optim.Optimizer:
    """The optimizer that a recipe describes.

    Raises:
        InputError: its parameters do not fit.
    """
    names = ("learning_rate", "momentum", "nesterov", "weight_decay")
    stated = {name: getattr(settings, name) for name in names} | (settings.parameters or {})
    try:
        return OPTIMIZERS[settings.name](parameters, **stated, **kernel)
    except (TypeError, ValueError) as error:
        raise InputError(f"optimizer does not fit {settings.name}: {error}") from error


@NODES.register("lif")
def _lif(*, rectify: bool, **constants: Any) -> nn.Module:
    return IterativeLIFNode(**constants)


@NODES.register("srif")
def _srif(*, decay: float, v_reset: float | None, **constants: Any) -> nn.Module:
    return SRIFNode(**constants)


@OPTIMIZERS.register("sgd")
def _sgd(parameters: Iterable[nn.Parameter], *, learning_rate: float, **settings: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=learning_rate, **settings)
