"""The Lightning module of every classifier, spiking or not: mean over time, its losses, SGD, its schedule."""

import contextlib
import hashlib
import math
import time

import lightning
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from jellyplus import _compat
from jellyplus._distributed import gathered, mean_over_processes, processes, rank
from jellyplus._errors import InputError
from jellyplus.activations import compressed_activations
from jellyplus.datasets.order import derived_seed
from jellyplus.loss import read_out
from jellyplus.registry import LOSSES
from jellyplus.training.graphed import Graphed
from jellyplus.training.layout import time_first
from jellyplus.training.method import Method, methods_of
from jellyplus.training.not_finite import Fault, Watch, origin
from jellyplus.training.parts import make_optimizer, make_schedule
from jellyplus.training.recipe import Recipe

__all__ = ["Classifier"]

_LOOK_EVERY = 200  # steps of a GPU, which runs dry when it is waited for; what it does after a fault is in vain
_WHAT_TO_DO = (
    "the state after the last finished epoch is kept; check the data, or make another run with a smaller "
    "optimizer.learning_rate"
)


class Classifier(lightning.LightningModule):
    """Trains a network [T, N, C, H, W] to [T, N, classes] as a recipe says.

    ``history`` gathers one dict an epoch; it is saved in checkpoints.

    Args:
        net: the network.
        recipe: losses, optimizer and schedule.
        seed: of the run; what is random in a training step derives from it, the epoch and the step.
        advice: what to do where a step makes something not finite; None for what whoever makes a run is told.
        compressed: a step's activations, see :func:`~jellyplus.activations.compressed_activations`.
        graphed: steps are CUDA graphs where they can be, see :class:`~jellyplus.training.graphed.Graphed`.
    """

    def __init__(
        self,
        net: nn.Module,
        recipe: Recipe,
        seed: int,
        advice: str | None = None,
        compressed: bool = False,
        graphed: bool = False,
    ):
        super().__init__()
        self.keeping = compressed_activations if compressed else contextlib.nullcontext
        self.graphed = graphed
        self._graphs: Graphed | None = None
        self.advice = advice or _WHAT_TO_DO
        self.net = net
        self.recipe = recipe
        self.seed = seed
        self.history: list[dict] = []
        self.correct = MulticlassAccuracy(recipe.model.num_classes, average="micro", validate_args=False)  # it waits
        self.methods = methods_of(recipe)
        for method in self.methods.values():
            method.attach(net)
        self._watch = Watch(net)

    @property
    def _terms(self) -> dict[str, Method]:
        """The methods that add to the loss."""
        return {name: method for name, method in self.methods.items() if method.has_loss()}

    @property
    def runs_ahead(self) -> bool:
        """Whether steps are launched before the ones before them have ended: on a GPU.

        Some methods take so long in a step that it may as well be waited for. An optimizer of a plugin's may have no
        fused step, which alone leaves weights as they are after a fault.
        """
        waits = any(method.waits for method in self.methods.values()) or self.recipe.optimizer.name != "sgd"
        return self.device.type == "cuda" and not waits

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] or event frames [N, T, C, H, W] to [T, N, classes]."""
        _compat.reset_net(self.net)
        return self.net(time_first(x))

    def record(self, **values: object) -> None:
        """Add to this epoch's entry of the history."""
        if not self.history or self.history[-1]["epoch"] != self.current_epoch:
            self.history.append({"epoch": self.current_epoch})
        self.history[-1].update(values)

    def on_train_start(self) -> None:
        """A state from another device names the kernel that made its steps there; steps become graphs, or do not."""
        for group in self.optimizers().param_groups:
            if "fused" in group:
                group["fused"] = self.runs_ahead or None
        alone = processes() == 1 and self.trainer.accumulate_grad_batches == 1
        recorded = self.graphed and self.runs_ahead and alone
        if recorded:
            self._graphs = Graphed(self._losses, self.net)

    def on_train_end(self) -> None:
        """The memory of the graphs goes back."""
        self._graphs = None

    def on_train_epoch_start(self) -> None:
        """Note the learning rate, and start the clock."""
        self.record(learning_rate=self.optimizers().param_groups[0]["lr"])
        self._started = time.monotonic()
        self._watch = Watch(self.net)  # of the tensors on this device
        self._loss_sums = torch.zeros(1 + len(self._terms), device=self.device)
        self._seen: list[Tensor] = []
        self._tested = 0

    def transfer_batch_to_device(self, batch: tuple, device: torch.device, dataloader_idx: int) -> tuple:
        """Inputs and labels; the ids stay, and nobody has to wait for them to come back."""
        x, labels, ids = batch
        return *super().transfer_batch_to_device((x, labels), device, dataloader_idx), ids

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Seed what a step may draw, so that it does not depend on what ran before."""
        own = (rank(),) if processes() > 1 else ()  # each draws for examples of its own
        torch.manual_seed(derived_seed(self.seed, self.current_epoch, batch_idx, *own))

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The loss on the outputs for one batch, and what methods add to it.

        Raises:
            InputError: that of a step looked at is not finite; says since which layer.
        """
        x, labels, ids = batch
        loss, summed = (self._graphs or self._losses)(x, labels)
        self._loss_sums += summed
        self._seen.append(ids.clone())  # a tensor of a process that loads keeps a file open
        self._watch.note_pass(loss, x)
        if self._is_due():
            self._look()
        return loss / (1 - self._watch.stopped) if self.runs_ahead else loss

    def _losses(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss; and without a gradient the loss and what each method added to it."""
        settings = self.recipe.output_loss
        with self.keeping():
            outputs = self(x)
        output_loss = LOSSES[settings.name](outputs, labels, **settings.parameters)
        terms = [method.loss() for method in self._terms.values()]
        loss = sum(terms, output_loss)
        return loss, torch.stack([loss, *terms]).detach()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """From a loss on that is not finite the weights stay as they are, so that a later look finds where it began.

        A fused step is none where ``found_inf`` is 1. In 16-mixed the gradient scaler puts its own there, which is 1
        when gradients are not finite: those of a loss that was divided by zero.
        """
        if self.runs_ahead:
            optimizer.found_inf = self._watch.stopped

    def on_train_batch_end(self, outputs: object, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        """Look, before anything is evaluated or saved, at what the steps made.

        Raises:
            InputError: one made a statistic or a weight not finite.
        """
        self._watch.note_step()
        if self._is_due():
            self._look()
            self._watch.forget()

    def _is_due(self) -> bool:
        steps = len(self._seen)
        return not self.runs_ahead or steps % _LOOK_EVERY == 0 or steps == self.trainer.num_training_batches

    def _look(self) -> None:
        if fault := self._watch.look():
            number = math.ceil(fault.step / self.trainer.accumulate_grad_batches)
            step = f"epoch {self.current_epoch + 1}, step {number}"
            if math.isfinite(fault.loss):
                cause = "" if fault.finite_input else " from an input that is not finite"
                raise InputError(f"{step} made {fault.name} not finite{cause}; {self.advice}")
            raise InputError(f"the loss is {fault.loss} in {step}: {self._origin(fault)}; {self.advice}")

    def _origin(self, fault: Fault) -> str:
        if fault.name:
            return f"{fault.name} is not finite"
        if not fault.finite_input:
            return "the input is not finite"
        x = self.trainer.datamodule.train_inputs(self.current_epoch, self._seen[fault.step - 1])
        self.on_train_batch_start(None, fault.step - 1)  # draws what was drawn
        return origin(self.net, time_first(x.to(self.device)))

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor]) -> None:
        """Count what is right."""
        x, labels, _ = batch
        self.correct.update(read_out(self(x)), labels)
        self._tested += len(labels)

    def on_validation_epoch_end(self) -> None:
        """Accuracy and mean loss into the history."""
        losses = mean_over_processes(self._loss_sums) / self.trainer.num_training_batches
        train_loss, *terms = losses.tolist()
        besides = [name for method in self.methods.values() for name in method.seconds]
        before = sum(self.history[-1].get(name, 0.0) for name in besides)
        elapsed = time.monotonic() - self._started + before
        self._record_examples()
        self.record(accuracy=100 * self.correct.compute().item(), train_loss=train_loss, time_s=elapsed)
        self.record(**dict(zip(self._terms, terms, strict=True)))
        self.correct.reset()

    def _record_examples(self) -> None:
        """Which examples were seen, as a hash of their ids in order, and how many could not be read, if any."""
        parts = gathered(self._seen)
        ids = torch.cat([ids for batch in zip(*parts, strict=True) for ids in batch])
        self.record(samples=hashlib.sha256(ids.numpy()).hexdigest()[:16])
        missing = {
            "skipped_train": self._planned() - len(ids),
            "skipped_test": len(self.trainer.val_dataloaders.dataset) - sum(gathered(self._tested)),
        }
        self.record(**{name: number for name, number in missing.items() if number})

    def _planned(self) -> int:
        """Examples of an epoch: those of whole batches, or all."""
        whole_batches = self.trainer.num_training_batches * self.recipe.data.at_once
        return min(whole_batches, len(self.trainer.datamodule.train))

    def configure_optimizers(self) -> dict:
        """The recipe's optimizer, and a schedule that moves once an epoch."""
        settings = self.recipe.optimizer
        kernel = {"fused": True} if self.runs_ahead else {}
        optimizer = make_optimizer(settings, self.net.parameters(), **kernel)
        if self.runs_ahead and settings.momentum:
            _start_momentum(optimizer)
        scheduler = make_schedule(self.recipe.schedule, optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """The history goes along."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """The history comes back."""
        self.history = checkpoint["history"]


def _start_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Zeros change no number; a first fused step that is none would leave it uninitialised (torch/optim/sgd.py)."""
    for parameter in optimizer.param_groups[0]["params"]:
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
