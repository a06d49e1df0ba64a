"""Quantity: what the numbers of a table are, and where a value of ours comes from.

Those of :data:`jellyplus.registry.QUANTITIES` are what claims may name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from jellyplus.op_counter import Convention, OperationCounter
from jellyplus.registry import QUANTITIES
from jellyplus.reproduction import operations
from jellyplus.reproduction.evidence import Evidence
from jellyplus.training.network import build_network
from jellyplus.training.recipe import Recipe

__all__ = ["Quantity"]


@dataclass(frozen=True)
class Quantity:
    """Something that papers print.

    Args:
        label: with its unit.
        source: ``run``, a run's evidence; ``network``, that of the paper's own recipe, untrained; ``recipe``, a value
            that was typed into it from the paper; ``cells``, two other cells.
        of: the value, from a run's evidence or what was measured on its network, a recipe, or two printed values.
        measure: what has to be measured on the run's network, of :data:`jellyplus.registry.MEASURES`.
        tolerance: how far ours may be from the paper's, where the deviations over seeds do not allow more; None: half
            of the row's last printed place.
        form: how views write a number, as of ``format``.
        error: the standard error over examples of a number of operations. ``of`` and it take, besides the evidence,
            the convention that the claim names; None: nothing is counted, and no convention is named.
    """

    label: str
    source: Literal["run", "network", "recipe", "cells"]
    of: Callable[..., Any]
    measure: str | None = None
    tolerance: float | None = None
    form: str = ".4g"
    error: Callable[[Evidence, str], float | None] | None = None

    @property
    def agrees(self) -> Literal["reproduced", "consistent"]:
        """What a value is that equals the printed one: consistent where nothing of ours was run or built."""
        return "reproduced" if self.source in ("run", "network") else "consistent"

    @property
    def in_words(self) -> bool:
        """Whether it is a text, and no number: what ``of`` says that it returns."""
        return self.of.__annotations__.get("return") is str

    def text(self, value: float | str | None) -> str:
        """A value as views show it."""
        if value is None or value != value:
            return ""
        return value if isinstance(value, str) else format(value, self.form)


def _accuracy(evidence: Evidence) -> float:
    return evidence.accuracy_last


_SIDES = {"cifar10": 32, "cifar100": 32, "mnist": 28}


def _macs(recipe: Recipe) -> float:
    """Multiply-accumulates of convolutions and linear layers for one example in one time-step, padding included."""
    data = recipe.data
    side = data.images.side if data.images else _SIDES[data.dataset]
    net = build_network(recipe).eval()
    with torch.no_grad(), OperationCounter(net) as counter:
        net(torch.zeros(1, 1, recipe.model.in_channels, side, side))
    return counter.count(1, recipe.model.time_steps).total.macs / recipe.model.time_steps


def _batch_size(recipe: Recipe) -> int:
    return recipe.data.batch_size


def _layers(recipe: Recipe) -> str:
    """A residual network as Table 4 of Zheng et al. 2021 has it: kernels, channels, blocks, strides, linear layers."""
    with torch.device("meta"):
        net = build_network(recipe)
    blocks = [f"block{number} {_stage(stage)}" for number, stage in enumerate(net.stages, 1)]
    linear = [module.out_features for module in (*net.head.modules(), net.fc) if isinstance(module, nn.Linear)]
    stem = f"conv1 {_convolution(net.conv1)}, s{net.conv1.stride[0]}"
    return " | ".join([stem, *blocks, f"fc {', '.join(map(str, linear))}"])


def _pool(recipe: Recipe) -> str:
    """What stands before the linear layers of such a network."""
    with torch.device("meta"):
        net = build_network(recipe)
    kernels = [module.kernel_size for module in net.head.modules() if isinstance(module, nn.AvgPool2d)]
    return f"average pool {kernels[0]}x{kernels[0]}" if kernels else "average pool"


def _stage(stage: nn.Sequential) -> str:
    convolutions = [module for module in stage[0].branch if isinstance(module, nn.Conv2d)]
    strided = any(convolution.stride != (1, 1) for convolution in convolutions)
    text = [*map(_convolution, convolutions), f"x{len(stage)}"]
    return "; ".join(text) + (", s2" if strided else "")


def _convolution(convolution: nn.Conv2d) -> str:
    height, width = convolution.kernel_size
    return f"{height}x{width}, {convolution.out_channels}"


def _energy_of_counts(additions: float, multiplications: float) -> float:
    """Of Dspike's Table 3, uJ; every convention has the same energy of an operation."""
    return Convention().energy_pj(additions, multiplications) / 1e6


def _operations(name: operations.Name, label: str) -> Quantity:
    return Quantity(
        label,
        "run",
        lambda evidence, convention: operations.value(evidence, name, convention),
        error=lambda evidence, convention: operations.error(evidence, name, convention),
    )


def _number(name: str) -> Callable[[Any], float]:
    return lambda measured: measured.numbers[name]


_OWN = {
    "accuracy": Quantity("top-1 accuracy (%)", "run", _accuracy, tolerance=0.3, form="z.2f"),
    "additions": _operations("additions", "additions"),
    "multiplications": _operations("multiplications", "multiplications"),
    "energy_uj": _operations("energy_uj", "energy (uJ)"),
    "quantisation_error_before": Quantity(
        "quantisation error before MPR", "run", _number("before"), "quantisation_error"
    ),
    "quantisation_error_after": Quantity("quantisation error after MPR", "run", _number("after"), "quantisation_error"),
    "macs": Quantity("multiply-accumulates", "network", _macs),
    "batch_size": Quantity("batch size of all GPUs", "recipe", _batch_size),
    "layers": Quantity("layers", "network", _layers),
    "pool": Quantity("pool before the linear layers", "network", _pool),
    "energy_of_counts": Quantity("energy of the printed operations (uJ)", "cells", _energy_of_counts),
}
for _name, _quantity in _OWN.items():
    QUANTITIES.register(_name)(_quantity)
