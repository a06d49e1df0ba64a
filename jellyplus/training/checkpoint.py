"""Checkpoints that are whole or absent, and that execute nothing when loaded."""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from jellyplus._errors import InputError
from jellyplus._files import write_atomically

__all__ = ["AtomicCheckpointIO", "KeepLast", "is_sealed", "load_checkpoint", "save_checkpoint", "seal"]


def save_checkpoint(content: Any, path: Path) -> str:
    """Serialise in memory, then write atomically; return the file's sha256, in hexadecimal."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def load_checkpoint(path: Path) -> Any:
    """Load tensors and plain data onto the CPU; nothing else is executed, and nothing grows beyond the file's size.

    Raises:
        InputError: the file is missing, damaged or not as torch writes it.
    """
    try:
        _check_stored(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damage happens to look like
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"cannot load the checkpoint {path} ({reason}); it was left alone: delete it to train again"
        ) from error


def _check_stored(path: Path) -> None:
    """torch writes a zip archive of entries as they are; packed ones could unpack to any size."""
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("it holds packed entries, which torch does not write")
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise ValueError("its entries are larger than the file")


_DIGEST = "sha256"


def seal(content: dict[str, Any]) -> dict[str, Any]:
    """``content`` with the hash of all of it, so that :func:`is_sealed` tells when some of it was changed."""
    return content | {_DIGEST: _digest(content)}


def is_sealed(content: dict[str, Any]) -> bool:
    """Whether it is as :func:`seal` left it."""
    return content.get(_DIGEST) == _digest({name: value for name, value in content.items() if name != _DIGEST})


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
