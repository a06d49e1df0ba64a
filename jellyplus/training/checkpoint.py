"""Checkpoints that are whole or absent, and that execute nothing when loaded."""

import io
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from jellyplus._errors import InputError
from jellyplus._files import write_atomically
from jellyplus.training.unpickling import read_saved

__all__ = ["AtomicCheckpointIO", "KeepLast", "load_checkpoint", "save_checkpoint"]


def save_checkpoint(content: Any, path: Path) -> None:
    """Serialise in memory, then write atomically."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> Any:
    """Load tensors and plain data onto the CPU; nothing is executed, and nothing grows beyond the file's size.

    Raises:
        InputError: the file is missing, damaged or not as :func:`save_checkpoint` writes it.
    """
    try:
        return read_saved(path)
    except Exception as error:  # whatever the damage happens to look like
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"cannot load the checkpoint {path} ({reason}); it was left alone: delete it to train again"
        ) from error


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints through :func:`save_checkpoint` and :func:`load_checkpoint`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write whole or not at all."""
        save_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Read, executing nothing."""
        return load_checkpoint(Path(path))


class KeepLast(lightning.Callback):
    """Saves the whole training state after every epoch over the one before.

    Args:
        path: the file.
        origin: what the state belongs to: hashes of recipe and data, the seed.
    """

    def __init__(self, path: Path, origin: dict[str, Any]):
        self.path = path
        self.origin = origin

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict
    ) -> None:
        """Say what it belongs to."""
        checkpoint["origin"] = self.origin

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save."""
        trainer.save_checkpoint(self.path)
