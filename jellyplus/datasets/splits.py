"""Which recordings train and which test, where the publisher does not say: nine tenths of each class train."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Generator

from jellyplus._errors import InputError
from jellyplus.datasets.order import derived_seed
from jellyplus.datasets.settings import EventSettings

__all__ = ["in_file_order", "manifest", "manifest_bytes", "manifest_digest", "split_class"]

_TRAIN = 0.9
_FIRST = 900  # recordings of a class


def in_file_order(names: Iterable[str]) -> list[str]:
    """Recordings in the order in which SpikingJelly meets their ``.npz`` files: as strings, so 10 comes before 2."""
    return sorted(names, key=lambda name: f"{name}.npz")


def split_class(names: Sequence[str], label: int, settings: EventSettings) -> tuple[list[str], list[str]]:
    """Split the recordings of one class into training and test, both in file order.

    ``sj90`` is SpikingJelly's ``split_to_train_test_set(0.9, ..., random_split=False)``.

    Args:
        names: of all recordings of the class, in any order.
        label: the class; with ``split_seed`` it decides what ``random`` draws.
        settings: split and split_seed.

    Raises:
        InputError: one side would be empty, or ``first900`` meets a name that does not end in a number.
    """
    ordered = in_file_order(names)
    chosen = _CHOICES[settings.split](ordered, label, settings)
    sides = [name for name in ordered if name in chosen], [name for name in ordered if name not in chosen]
    if not all(sides):
        side = "training" if not sides[0] else "test"
        raise InputError(
            f"data.events.split {settings.split} leaves no {side} recording of class {label}, which has {len(ordered)} "
            "recordings; add some or choose another split"
        )
    return sides


def manifest(train: Sequence[str], test: Sequence[str], settings: EventSettings) -> dict:
    """Return what the evidence keeps of a split, plain enough for JSON."""
    return {"split": settings.split, "split_seed": settings.split_seed, "train": list(train), "test": list(test)}


def manifest_bytes(manifest: dict) -> bytes:
    """Return a manifest as it is written."""
    return f"{json.dumps(manifest, sort_keys=True, indent=1)}\n".encode()


def manifest_digest(manifest: dict) -> str:
    """Return the sha256, in hexadecimal, of a manifest as it is written."""
    return hashlib.sha256(manifest_bytes(manifest)).hexdigest()


def _first_nine_tenths(ordered: list[str], label: int, settings: EventSettings) -> set[str]:
    return set(ordered[: math.ceil(len(ordered) * _TRAIN)])


def _first_by_number(ordered: list[str], label: int, settings: EventSettings) -> set[str]:
    return {name for name in ordered if _number(name) < _FIRST}


def _random_nine_tenths(ordered: list[str], label: int, settings: EventSettings) -> set[str]:
    generator = Generator().manual_seed(derived_seed(settings.split_seed, label))
    drawn = torch.randperm(len(ordered), generator=generator)[: math.ceil(len(ordered) * _TRAIN)]
    return {ordered[index] for index in drawn.tolist()}


def _number(name: str) -> int:
    found = re.search(r"_(\d+)$", name)
    if not found:
        raise InputError(f"recording {name} does not end in a number, which split first900 needs; rename or remove it")
    return int(found[1])


_CHOICES: dict[str, Callable[[list[str], int, EventSettings], set[str]]] = {
    "sj90": _first_nine_tenths,
    "first900": _first_by_number,
    "random": _random_nine_tenths,
}
