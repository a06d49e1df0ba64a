"""The warm start of networks without normalisation (Guo et al. 2022, IM-Loss, section 5.1).

Deep layers of such a network are silent at first and get no gradient. The paper trains with IM-Loss for some
iterations, until the last layer spikes, and takes the result as initial weights. Whether the cross-entropy takes part
is not said; here it does not, so that what the warm start gives depends on the inputs alone.
"""

import dataclasses
import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from jellyplus import _compat
from jellyplus._distributed import average_gradients, sum_over_processes
from jellyplus._errors import InputError
from jellyplus.loss import IMLoss
from jellyplus.neuron import Node
from jellyplus.registry import METHODS
from jellyplus.training.layout import time_first
from jellyplus.training.method import Method
from jellyplus.training.refusals import at_least, positive, refuse

if TYPE_CHECKING:
    from jellyplus.training.classifier import Classifier
    from jellyplus.training.data import DataModule
    from jellyplus.training.recipe import Recipe

__all__ = ["Settings", "StartWarm", "warm_start"]


@dataclass(frozen=True)
class Settings:
    """Of :func:`warm_start`; ``weight`` is IM-Loss's, the paper's lambda."""

    learning_rate: float
    momentum: float
    max_iterations: int
    weight: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "learning_rate", "max_iterations", "weight")
        at_least(self, "momentum", 0)


def warm_start(
    net: nn.Module,
    inputs: Iterable[Tensor],
    learning_rate: float,
    momentum: float,
    max_iterations: int,
    weight: float = 1.0,
) -> int | None:
    """Train ``net`` with IM-Loss alone, by SGD, until its last node spikes, in any process where there are several.

    Args:
        net: in training mode; its weights change in place.
        inputs: of the network, one an iteration; iterated again when they end.
        learning_rate: of SGD.
        momentum: of SGD.
        max_iterations: when to give up.
        weight: of IM-Loss; beside no other loss it does what a learning rate so many times larger does.

    Returns:
        The iterations that were needed, 0 if it spikes already; None if it is silent after ``max_iterations``.
    """
    nodes = [module for module in net.modules() if isinstance(module, Node)]
    spikes: list[Tensor] = []
    handle = nodes[-1].register_forward_hook(lambda module, args, output: spikes.append(output.detach().sum()))
    optimizer = torch.optim.SGD(net.parameters(), learning_rate, momentum)
    loss = IMLoss(net, weight)
    try:
        endless = itertools.chain.from_iterable(itertools.repeat(inputs))
        for iteration, x in enumerate(itertools.islice(endless, max_iterations + 1)):
            _compat.reset_net(net)
            net(x)
            if sum_over_processes(spikes.pop()) > 0:
                return iteration
            if iteration < max_iterations:
                optimizer.zero_grad()
                loss().backward()
                average_gradients(net.parameters())
                optimizer.step()
        return None
    finally:
        loss.close()
        handle.remove()
        _compat.reset_net(net)


@METHODS.register("warm_start")
class StartWarm(Method):
    """Runs :func:`warm_start` on the training data before the first epoch; its iterations go into the history."""

    Settings = Settings
    seconds = ("warm_start_time_s",)

    @classmethod
    def check(cls, settings: Settings, recipe: "Recipe") -> None:
        """Only what fires has membrane potentials."""
        refuse(not recipe.spiking, "warm_start must be null in an ANN (neuron: null), where nothing fires")

    def begin_epoch(self, training: "Classifier") -> None:
        """Start, once: a run resumed later has passed its first epoch."""
        if training.current_epoch > 0:
            return
        settings, started = self.settings, time.monotonic()
        needed = warm_start(
            training.net,
            _Inputs(training.trainer.datamodule, training.device),
            settings.learning_rate,
            settings.momentum,
            settings.max_iterations,
            settings.weight,
        )
        if needed is None:
            raise InputError(
                f"warm_start: the last layer is silent after {settings.max_iterations} iterations; raise "
                "warm_start.learning_rate or warm_start.max_iterations"
            )
        training.record(warm_start_iterations=needed, warm_start_time_s=time.monotonic() - started)

    def probed(self, net: nn.Module, inputs: Tensor) -> dict[str, Any]:
        """Three iterations, from weights so small that the last layer is silent."""
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(0.1)
        settings = dataclasses.asdict(self.settings) | {"max_iterations": 3}
        needed = warm_start(net, [inputs], **settings)
        return {"warm start, iterations": needed, "warm start, weights": list(net.parameters())}


class _Inputs:
    """The inputs of the training batches, as often as they are iterated."""

    def __init__(self, data: "DataModule", device: torch.device):
        self.data = data
        self.device = device

    def __iter__(self):
        return (time_first(x.to(self.device, non_blocking=True)) for x, *_ in self.data.train_dataloader())
