"""Training with finite-difference gradients as a callback (Li et al. 2021, section 4.2 and Table 1)."""

import lightning
import torch
from torch import Tensor

from jellyplus import functional
from jellyplus._distributed import average_gradients
from jellyplus.loss import cross_entropy
from jellyplus.training.classifier import Classifier, time_first
from jellyplus.training.recipe import FiniteDifferences

__all__ = ["UseFiniteDifferences"]


class UseFiniteDifferences(lightning.Callback):
    """Replaces one parameter's gradient, in every step, by central differences of the batch's cross-entropy.

    With several processes all perturb in step, and the mean of what they get is the gradient of the joint batch.
    """

    def __init__(self, settings: FiniteDifferences):
        self.settings = settings

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Classifier, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int
    ) -> None:
        """Keep the batch."""
        self._batch = batch

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: Classifier, optimizer: torch.optim.Optimizer
    ) -> None:
        """Replace."""
        x, labels, _ = self._batch
        parameter = pl_module.net.get_parameter(self.settings.parameter)
        parameter.grad = functional.finite_difference_gradient(
            pl_module.net,
            self.settings.parameter,
            lambda y_seq: cross_entropy(y_seq, labels),
            time_first(x),
            self.settings.epsilon,
        )
        average_gradients([parameter])
