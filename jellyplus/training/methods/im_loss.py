"""IM-Loss beside the loss on the outputs (Guo et al. 2022, IM-Loss, section 4.1)."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from jellyplus import loss
from jellyplus.registry import METHODS
from jellyplus.training.method import Method
from jellyplus.training.refusals import positive, refuse

if TYPE_CHECKING:
    from jellyplus.training.recipe import Recipe

__all__ = ["AddIMLoss", "Settings"]


@dataclass(frozen=True)
class Settings:
    """See :class:`jellyplus.loss.IMLoss`."""

    weight: float
    variant: Literal["membrane", "spikes", "official"]
    per_channel: bool = False

    def __post_init__(self) -> None:
        positive(self, "weight")


@METHODS.register("im_loss")
class AddIMLoss(Method):
    """Adds it, of the potentials or spikes that a pass leaves on the nodes."""

    Settings = Settings

    @classmethod
    def check(cls, settings: Settings, recipe: "Recipe") -> None:
        """Only what fires has membrane potentials."""
        refuse(not recipe.spiking, "im_loss must be null in an ANN (neuron: null), where nothing fires")

    def attach(self, net: nn.Module) -> None:
        """Nodes keep what it reads."""
        self._loss = loss.IMLoss(net, **dataclasses.asdict(self.settings))

    def loss(self) -> Tensor:
        """Of the last pass."""
        return self._loss()
