"""The history of a run in one of Lightning's loggers, chosen by name; it decides no number."""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from jellyplus._errors import InputError
from jellyplus.training.recipe import Run

__all__ = ["LogHistory", "Logs"]


def _mlflow(folder: str, run: str, seed: str) -> Logger:
    """To the server of ``MLFLOW_TRACKING_URI``, else to a database: MLflow 3 refuses to write its folders of files."""
    names = "jellyplus", f"{run}/{seed}"
    if server := os.environ.get("MLFLOW_TRACKING_URI"):
        return MLFlowLogger(*names, tracking_uri=server)
    own = Path(folder).absolute()
    own.mkdir(parents=True, exist_ok=True)
    return MLFlowLogger(*names, tracking_uri=f"sqlite:///{own}/mlflow.db", artifact_location=f"{own}/artifacts")


_LIBRARIES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
_MAKE: dict[str, Callable[[str, str, str], Logger]] = {  # from folder, run and seed
    "csv": lambda folder, run, seed: CSVLogger(folder, run, seed),
    "tensorboard": lambda folder, run, seed: TensorBoardLogger(folder, run, seed, default_hp_metric=False),
    "wandb": lambda folder, run, seed: WandbLogger(f"{run}/{seed}", folder, project="jellyplus", group=run),
    "mlflow": _mlflow,
}


@dataclass(frozen=True)
class Logs:
    """Where the history of runs goes besides evidence.

    Args:
        name: of the logger: csv, tensorboard, wandb or mlflow.
        folder: for what it writes on this machine.

    Raises:
        InputError: its library is not installed.
    """

    name: str
    folder: Path

    def __post_init__(self):
        if library := _LIBRARIES.get(self.name):
            try:
                importlib.import_module(library)
            except ImportError as error:
                raise InputError(f"--logger {self.name} needs {library}: pip install {library}") from error

    def of(self, run: Run, seed: int) -> Logger:
        """The logger of a run with this seed; rows of a table have one recipe, so its key is in the name."""
        return _MAKE[self.name](str(self.folder), f"{run.name}/{run.profile}/{run.key[:16]}", f"seed{seed}")


class LogHistory(lightning.Callback):
    """Gives the trainer's logger each epoch's numbers; the epochs before an interruption again when it resumes."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Epochs that there are."""
        for entry in pl_module.history:
            _log(trainer.logger, entry)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """The one that ends."""
        _log(trainer.logger, pl_module.history[-1])

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Whatever is kept in memory goes out."""
        trainer.logger.save()


def _log(logger: Logger, entry: dict) -> None:
    """Numbers; lists and words are in the evidence."""
    numbers = {name: value for name, value in entry.items() if isinstance(value, int | float) and name != "epoch"}
    logger.log_metrics(numbers, step=entry["epoch"])
