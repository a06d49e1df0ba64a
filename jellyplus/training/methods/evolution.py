"""Evolutionary surrogate gradients, ESG: EvAF's K grows with the epoch (Guo et al. 2022, IM-Loss, Eq. 15)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jellyplus import functional
from jellyplus.registry import METHODS
from jellyplus.training.method import Method
from jellyplus.training.refusals import positive, refuse

if TYPE_CHECKING:
    from jellyplus.training.classifier import Classifier
    from jellyplus.training.recipe import Recipe

__all__ = ["EvolveSurrogate", "Settings"]


@dataclass(frozen=True)
class Settings:
    """Its first and its last value: see :func:`jellyplus.functional.evaf_k`."""

    k_min: float
    k_max: float

    def __post_init__(self) -> None:
        positive(self, "k_min", "k_max")


@METHODS.register("evolution")
class EvolveSurrogate(Method):
    """Sets K(i) at the beginning of every epoch; it goes into the history."""

    Settings = Settings

    @classmethod
    def check(cls, settings: Settings, recipe: "Recipe") -> None:
        """Only EvAF has a K."""
        evaf = recipe.surrogate and recipe.surrogate.name == "evaf"
        refuse(not evaf, "evolution needs surrogate evaf: no other has a K")

    def begin_epoch(self, training: "Classifier") -> None:
        """Set."""
        k = self._k(training.current_epoch, training.recipe.schedule.epochs)
        functional.set_evaf_k(training.net, k)
        training.record(k=k)

    def _k(self, epoch: int, epochs: int) -> float:
        return functional.evaf_k(epoch, epochs, self.settings.k_min, self.settings.k_max)

    def scheduled(self, epochs: int, shown: list[int]) -> dict[str, list[float]]:
        """K."""
        return {"K in the whole schedule": [self._k(epoch, epochs) for epoch in shown]}
