"""Training with finite-difference gradients of one parameter (Li et al. 2021, section 4.2 and Table 1)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from jellyplus import functional
from jellyplus._distributed import average_gradients
from jellyplus.loss import cross_entropy
from jellyplus.registry import METHODS
from jellyplus.training.layout import time_first
from jellyplus.training.method import Method
from jellyplus.training.methods.temperature_search import check_perturbed, refuse_other_loss
from jellyplus.training.refusals import positive, refuse

if TYPE_CHECKING:
    from jellyplus.training.classifier import Classifier
    from jellyplus.training.recipe import Recipe

__all__ = ["Settings", "UseFiniteDifferences"]


@dataclass(frozen=True)
class Settings:
    """Of which parameter, and how far it is moved to either side."""

    parameter: str
    epsilon: float

    def __post_init__(self) -> None:
        positive(self, "epsilon")


@METHODS.register("finite_differences")
class UseFiniteDifferences(Method):
    """Replaces one parameter's gradient, in every step, by central differences of the batch's cross-entropy.

    With several processes all perturb in step, and the mean of what they get is the gradient of the joint batch.
    """

    Settings = Settings
    waits = True

    @classmethod
    def check(cls, settings: Settings, recipe: "Recipe") -> None:
        """They are those of the cross-entropy, of a whole batch, and no search would move the same parameter."""
        search = recipe.temperature_search
        refuse(recipe.im_loss, "finite_differences are those of the cross-entropy alone: im_loss must be null")
        whole = "finite_differences are those of a whole batch: data.micro_batch must be null"
        refuse(recipe.data.micro_batch, whole)
        void = search and search.parameter == settings.parameter
        moved = f"finite_differences replace the gradient of {settings.parameter} that temperature_search would improve"
        refuse(void, moved)
        refuse_other_loss(recipe)

    def check_network(self, net: nn.Module) -> None:
        """See :func:`~jellyplus.training.methods.temperature_search.check_perturbed`."""
        check_perturbed("finite_differences", net, self.settings.parameter, random=True)

    def begin_step(self, training: "Classifier", batch: tuple[Tensor, Tensor, Tensor]) -> None:
        """Keep the batch."""
        self._batch = batch

    def before_update(self, training: "Classifier") -> None:
        """Replace."""
        x, labels, _ = self._batch
        parameter = training.net.get_parameter(self.settings.parameter)
        parameter.grad = functional.finite_difference_gradient(
            training.net,
            self.settings.parameter,
            lambda y_seq: cross_entropy(y_seq, labels),
            time_first(x),
            self.settings.epsilon,
        )
        average_gradients([parameter])
