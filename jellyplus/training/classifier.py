"""The Lightning module of every classifier, spiking or not: mean over time, its losses, SGD, its schedule."""

import hashlib
import time

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from jellyplus import _compat
from jellyplus._distributed import gathered, mean_over_processes, processes, rank
from jellyplus._errors import InputError
from jellyplus.datasets.order import derived_seed
from jellyplus.loss import IMLoss
from jellyplus.training.not_finite import first_not_finite, origin
from jellyplus.training.recipe import Recipe, Schedule

__all__ = ["Classifier", "read_out"]


_WHAT_TO_DO = (
    "the state after the last finished epoch is kept; check the data, or make another run with a smaller "
    "optimizer.learning_rate"
)


def read_out(y_seq: Tensor) -> Tensor:
    """The input of the softmax: the mean over time of [T, N, classes], [N, classes] (Li et al. 2021, Eq. 3)."""
    return y_seq.mean(0)


class Classifier(lightning.LightningModule):
    """Trains a network [T, N, C, H, W] to [T, N, classes] as a recipe says.

    ``history`` gathers one dict an epoch; it is saved in checkpoints.

    Args:
        net: the network.
        recipe: losses, optimizer and schedule.
        seed: of the run; what is random in a training step derives from it, the epoch and the step.
    """

    def __init__(self, net: nn.Module, recipe: Recipe, seed: int):
        super().__init__()
        self.net = net
        self.recipe = recipe
        self.seed = seed
        self.history: list[dict] = []
        self.correct = MulticlassAccuracy(recipe.model.num_classes, average="micro")
        self.im_loss = IMLoss(net, recipe.im_loss.weight, recipe.im_loss.variant) if recipe.im_loss else None

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] or event frames [N, T, C, H, W] to [N, classes]."""
        _compat.reset_net(self.net)
        return read_out(self.net(time_first(x)))

    def record(self, **values: object) -> None:
        """Add to this epoch's entry of the history."""
        if not self.history or self.history[-1]["epoch"] != self.current_epoch:
            self.history.append({"epoch": self.current_epoch})
        self.history[-1].update(values)

    def on_train_epoch_start(self) -> None:
        """Note the learning rate, and start the clock."""
        self.record(learning_rate=self.optimizers().param_groups[0]["lr"])
        self._started = time.monotonic()
        self._loss_sums = torch.zeros(2, device=self.device)
        self._seen: list[Tensor] = []
        self._tested = 0

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Seed what a step may draw, so that it does not depend on what ran before."""
        own = (rank(),) if processes() > 1 else ()  # each draws for examples of its own
        torch.manual_seed(derived_seed(self.seed, self.current_epoch, batch_idx, *own))

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The cross-entropy of one batch, and IM-Loss where the recipe has it.

        Raises:
            InputError: it is not finite; says since which layer.
        """
        x, labels, ids = batch
        cross_entropy = F.cross_entropy(self(x), labels)
        im_loss = cross_entropy.new_zeros(()) if self.im_loss is None else self.im_loss()
        loss = cross_entropy + im_loss
        if not torch.isfinite(loss):  # on a GPU the one wait of a step
            raise InputError(
                f"the loss is {loss.item()} in {self._step()}: {origin(self.net, time_first(x))}; {_WHAT_TO_DO}"
            )
        self._loss_sums += torch.stack([loss, im_loss]).detach()
        self._seen.append(ids.cpu())
        return loss

    def on_train_batch_end(self, outputs: object, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        """A neuron that gets NaN does not fire, and the loss stays finite: weights and statistics tell.

        Raises:
            InputError: the step made one of them not finite.
        """
        if name := first_not_finite(self.net):
            cause = "" if torch.isfinite(batch[0]).all() else " from an input that is not finite"
            raise InputError(f"{self._step(done=1)} made {name} not finite{cause}; {_WHAT_TO_DO}")

    def _step(self, done: int = 0) -> str:
        return f"epoch {self.current_epoch + 1}, step {len(self._seen) + 1 - done}"

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor]) -> None:
        """Count what is right."""
        x, labels, _ = batch
        self.correct.update(self(x), labels)
        self._tested += len(labels)

    def on_validation_epoch_end(self) -> None:
        """Accuracy and mean loss into the history."""
        losses = mean_over_processes(self._loss_sums) / self.trainer.num_training_batches
        train_loss, im_loss = losses.tolist()
        before = sum(self.history[-1].get(name, 0.0) for name in ("search_time_s", "warm_start_time_s"))
        elapsed = time.monotonic() - self._started + before
        self._record_examples()
        self.record(accuracy=100 * self.correct.compute().item(), train_loss=train_loss, time_s=elapsed)
        if self.im_loss:
            self.record(im_loss=im_loss)
        self.correct.reset()

    def _record_examples(self) -> None:
        """Which examples were seen, as a hash of their ids in order, and how many could not be read, if any."""
        parts = gathered(self._seen)
        ids = torch.cat([ids for batch in zip(*parts, strict=True) for ids in batch])
        self.record(samples=hashlib.sha256(ids.numpy()).hexdigest()[:16])
        missing = {
            "skipped_train": self.trainer.num_training_batches * self.recipe.data.batch_size - len(ids),
            "skipped_test": len(self.trainer.val_dataloaders.dataset) - sum(gathered(self._tested)),
        }
        self.record(**{name: number for name, number in missing.items() if number})

    def configure_optimizers(self) -> dict:
        """SGD, and a schedule that moves once an epoch."""
        settings = self.recipe.optimizer
        optimizer = torch.optim.SGD(
            self.net.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
        )
        scheduler = _scheduler(optimizer, self.recipe.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """The history goes along."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """The history comes back."""
        self.history = checkpoint["history"]


def _scheduler(optimizer: torch.optim.Optimizer, schedule: Schedule) -> torch.optim.lr_scheduler.LRScheduler:
    if schedule.name == "step":
        return torch.optim.lr_scheduler.StepLR(optimizer, schedule.step_epochs, schedule.step_factor)
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, schedule.epochs, schedule.final_learning_rate)


def time_first(x: Tensor) -> Tensor:
    """Images [N, C, H, W] to [1, N, C, H, W]; event frames [N, T, C, H, W] to [T, N, C, H, W]."""
    return x.unsqueeze(0) if x.dim() == 4 else x.transpose(0, 1)
