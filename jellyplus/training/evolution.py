"""What evolves by schedule, as callbacks: EvAF's K with the epoch, the shortcut branches' weight with the iteration."""

import lightning

from jellyplus import functional
from jellyplus.training.classifier import Classifier
from jellyplus.training.recipe import Evolution, Shortcut

__all__ = ["EvolveShortcuts", "EvolveSurrogate"]


class EvolveSurrogate(lightning.Callback):
    """Sets K(i) at the beginning of every epoch (Guo et al. 2022, IM-Loss, Eq. 15); it goes into the history."""

    def __init__(self, settings: Evolution):
        self.settings = settings

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Classifier) -> None:
        """Set."""
        k = functional.evaf_k(pl_module.current_epoch, trainer.max_epochs, self.settings.k_min, self.settings.k_max)
        functional.set_evaf_k(pl_module.net, k)
        pl_module.record(k=k)


class EvolveShortcuts(lightning.Callback):
    """Sets lambda(i) before every iteration (Guo et al. 2024, Eq. 10, Algorithm 1); plain branches keep their weight.

    The weight of an epoch's last iteration goes into the history.
    """

    def __init__(self, settings: Shortcut):
        self.settings = settings

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Classifier, *_: object) -> None:
        """Set."""
        if self.settings.evolutionary:
            iteration, iterations = trainer.global_step + 1, int(trainer.estimated_stepping_batches)
            weight = functional.shortcut_weight(iteration, iterations, self.settings.weight)
            pl_module.net.shortcuts.weight.fill_(weight)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Classifier) -> None:
        """Record."""
        pl_module.record(shortcut_weight=pl_module.net.shortcuts.weight.item())
