"""Dspike's temperature search as a callback (Li et al. 2021, Algorithm 1): before every epoch, on one batch.

With several processes each searches on the whole of that batch by itself, as one process would, and all take what
process 0 found: sums over processes, in every one of some thousand passes, would cost more than they share.
"""

import time

import lightning
from torch import Tensor
from tqdm import tqdm

from jellyplus import functional
from jellyplus._bars import bar
from jellyplus._distributed import alone, from_first, rank
from jellyplus.loss import cross_entropy
from jellyplus.training.classifier import Classifier, time_first
from jellyplus.training.recipe import TemperatureSearch

__all__ = ["SearchTemperature"]


class SearchTemperature(lightning.Callback):
    """Moves the one temperature of the network; what was found, and how long it took, goes into the history."""

    def __init__(self, settings: TemperatureSearch):
        self.settings = settings

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Classifier) -> None:
        """Search and set."""
        started = time.monotonic()
        epoch = pl_module.current_epoch if self.settings.batch == "fresh" else None
        batch = trainer.datamodule.search_batch(self.settings.batch_size, epoch)
        x, labels = (t.to(pl_module.device) for t in batch)
        net = pl_module.net
        mode = net.training
        net.train(self.settings.statistics == "train")
        with alone(), self._shown(pl_module) as progress:

            def loss(y_seq: Tensor) -> Tensor:
                progress.update()
                return cross_entropy(y_seq, labels)

            found = functional.search_temperature(
                net,
                self.settings.parameter,
                loss,
                time_first(x),
                self.settings.epsilon,
                self.settings.step,
            )
        found = from_first(found)
        net.train(mode)
        functional.set_temperature(net, found.temperature)
        pl_module.record(**found._asdict(), search_time_s=time.monotonic() - started)

    def _shown(self, pl_module: Classifier) -> tqdm:
        """A bar over the passes, two for each element of the parameter, since the run's own stands still meanwhile."""
        passes = 2 * pl_module.net.get_parameter(self.settings.parameter).numel()
        said = f"temperature search of epoch {pl_module.current_epoch + 1}"
        return bar(total=passes, desc=said, unit="pass", leave=False, mininterval=1, disable=rank() > 0)
