"""One progress bar for a run: batches of all epochs, with the time that is left."""

import lightning
from tqdm import tqdm

from jellyplus._bars import bar

__all__ = ["RunProgress"]

_EVOLVING = {"temperature": "b", "k": "K", "shortcut_weight": "lambda"}


class RunProgress(lightning.Callback):
    """Shows how far a run is, how long it will still take, and the numbers of the last epoch."""

    def __init__(self, title: str):
        self.title = title
        self.bar: tqdm | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Open the bar where the run starts or resumes."""
        batches = trainer.num_training_batches
        total, done = trainer.max_epochs * batches, trainer.current_epoch * batches
        self.bar = bar(total=total, initial=done, desc=self.title, unit="batch", leave=False, mininterval=1)

    def on_train_batch_end(self, *_: object) -> None:
        """One more."""
        self.bar.update()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Numbers of this epoch."""
        last = pl_module.history[-1]
        numbers = {"epoch": f"{last['epoch'] + 1}/{trainer.max_epochs}", "accuracy": f"{last['accuracy']:.2f} %"}
        numbers |= {symbol: f"{last[name]:.3g}" for name, symbol in _EVOLVING.items() if name in last}
        self.bar.set_postfix(numbers)

    def on_train_end(self, *_: object) -> None:
        """Close."""
        self.bar.close()

    def on_exception(self, *_: object) -> None:
        """Close, if it was open."""
        if self.bar:
            self.bar.close()
