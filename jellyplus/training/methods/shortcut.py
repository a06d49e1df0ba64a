"""Shortcut back-propagation: branches from inner stages to the output, in training only (Guo et al. 2024)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from jellyplus import functional, model
from jellyplus._errors import InputError
from jellyplus.registry import METHODS
from jellyplus.training.method import Method
from jellyplus.training.refusals import positive

if TYPE_CHECKING:
    from jellyplus.training.classifier import Classifier
    from jellyplus.training.recipe import Recipe

__all__ = ["EvolveShortcuts", "Settings"]


@dataclass(frozen=True)
class Settings:
    """Plain branches (Eq. 6: ``evolutionary: false``, weight 1), or with lambda(i) (Eq. 10)."""

    weight: float
    evolutionary: bool

    def __post_init__(self) -> None:
        positive(self, "weight")


@METHODS.register("shortcut")
class EvolveShortcuts(Method):
    """Attaches them, and sets lambda(i) before every iteration (Eq. 10, Algorithm 1); plain ones keep their weight.

    The weight of an epoch's last iteration goes into the history.
    """

    Settings = Settings

    def build(self, net: nn.Module, recipe: "Recipe") -> nn.Module:
        """With branches."""
        try:
            return model.attach_shortcuts(net, self.settings.weight)
        except ValueError as error:
            raise InputError(f"shortcut does not fit {recipe.model.architecture}: {error}") from error

    def begin_step(self, training: "Classifier", batch: tuple[Tensor, Tensor, Tensor]) -> None:
        """Set."""
        if self.settings.evolutionary:
            trainer = training.trainer
            iteration, iterations = trainer.global_step + 1, int(trainer.estimated_stepping_batches)
            training.net.shortcuts.weight.fill_(self._weight(iteration, iterations))

    def _weight(self, iteration: int, iterations: int) -> float:
        return functional.shortcut_weight(iteration, iterations, self.settings.weight)

    def end_epoch(self, training: "Classifier") -> None:
        """Record."""
        training.record(shortcut_weight=training.net.shortcuts.weight.item())

    def scheduled(self, epochs: int, shown: list[int]) -> dict[str, list[float]]:
        """Lambda at some of a thousand iterations."""
        if not self.settings.evolutionary:
            return {}
        weights = [self._weight(iteration, 1000) for iteration in (1, 2, 500, 1000)]
        return {"weight of shortcut branches in the whole schedule": weights}
