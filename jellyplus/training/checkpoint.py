"""Checkpoints that are whole or absent, and that execute nothing when loaded."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from jellyplus._errors import InputError
from jellyplus._files import write_atomically
from jellyplus.training.unpickling import read_saved

__all__ = ["DIGEST", "AtomicCheckpointIO", "KeepLast", "is_sealed", "load_checkpoint", "save_checkpoint", "seal"]


def save_checkpoint(content: Any, path: Path) -> str:
    """Serialise in memory, then write atomically; return the file's sha256, in hexadecimal."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def load_checkpoint(path: Path) -> Any:
    """Load tensors and plain data onto the CPU; nothing is executed, and nothing grows beyond the file's size.

    Raises:
        InputError: the file is missing, damaged, not as :func:`save_checkpoint` writes it, a pipe or a device.
    """
    try:
        return read_saved(path)
    except InputError:  # says it all
        raise
    except Exception as error:  # whatever the damage happens to look like
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"cannot load the checkpoint {path} ({reason}); it was left alone: delete it to train again"
        ) from error


DIGEST = "sha256"  #: the key of a seal


def seal(content: dict[str, Any]) -> dict[str, Any]:
    """``content`` with the hash of all of it, so that :func:`is_sealed` tells when some of it was changed."""
    return content | {DIGEST: _digest(content)}


def is_sealed(content: dict[str, Any]) -> bool:
    """Whether it is as :func:`seal` left it."""
    return content.get(DIGEST) == _digest({name: value for name, value in content.items() if name != DIGEST})


def _digest(content: Any) -> str:
    digest = hashlib.sha256()
    _add(digest, content)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    """Tensors by type, shape and bytes, plain data by what it says; the kind of a mapping or a list does not count."""
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        digest.update(f"{len(value)} by name".encode())
        for item in value.items():
            _add(digest, item)
    elif isinstance(value, list | tuple):
        digest.update(f"{len(value)} in order".encode())
        for item in value:
            _add(digest, item)
    else:
        digest.update(repr(value).encode() + b";")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints through :func:`save_checkpoint` and :func:`load_checkpoint`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write whole or not at all, sealed."""
        save_checkpoint(seal(checkpoint), Path(path))

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
