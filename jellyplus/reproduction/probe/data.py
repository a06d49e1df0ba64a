"""A few examples of every data set, generated in a layout that it is published in and read by the product's loader.

What a loader, the frames of events and the constants of normalisation do to data decides a run's numbers. Which data
they were, the evidence records by their fingerprint.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.random import RandomState
from PIL import Image
from torch import Tensor

from jellyplus.datasets import DataSet, Split
from jellyplus.reproduction import loading
from jellyplus.training.recipe import Recipe

__all__ = ["few"]

_TRAIN, _TEST = 12, 20  # examples; three steps an epoch, the third of which shows what momentum is
_EVENTS = 400  # of a recording
_CIFAR10_DVS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@contextlib.contextmanager
def few(recipe: Recipe) -> Iterator[DataSet]:
    """Some training and test examples of the recipe's data set, as the recipe presents them, evenly over the classes.

    Of events there are as many frames as the recipe has time-steps. Files are there within the context. None are held
    out for validation: which ones those are, the evidence records by the fingerprint.
    """
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, validation=None))
    with tempfile.TemporaryDirectory() as folder:
        if write := _LAYOUTS.get(recipe.data.dataset):
            write(Path(folder), RandomState(0))  # whose stream numpy has frozen
        data = loading.taken(loading.load(recipe, folder), recipe)
        time_steps = recipe.model.time_steps if data.kind == "events" else None
        train, test = (_some(split, n, time_steps) for split, n in ((data.train, _TRAIN), (data.test, _TEST)))
        yield dataclasses.replace(data, train=train, test=test)


def _some(split: Split, examples: int, time_steps: int | None) -> Split:
    if not isinstance(split.inputs, Tensor):
        return split
    chosen = torch.arange(examples) * len(split) // examples
    inputs = split.inputs[chosen] if time_steps is None else split.inputs[chosen, :time_steps]
    return Split(inputs, split.labels[chosen])


def _images(splits: tuple[str, str], classes: list[str], side: int) -> Callable[[Path, RandomState], None]:
    """``<split>/<class>/0.png``."""

    def write(folder: Path, random: RandomState) -> None:
        for split in splits:
            for name in classes:
                path = folder / split / name / "0.png"
                path.parent.mkdir(parents=True)
                Image.fromarray(random.randint(0, 256, (side, side, 3)).astype(np.uint8)).save(path)

    return write


def _idx(folder: Path, random: RandomState) -> None:
    """MNIST's four files."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, examples in (("train", _TRAIN), ("t10k", _TEST)):
        images = random.randint(0, 256, (examples, 28, 28)).astype(np.uint8)
        labels = random.randint(0, 10, examples).astype(np.uint8)
        for name, magic, content in (("images-idx3", 0x803, images), ("labels-idx1", 0x801, labels)):
            head = np.array([magic, *content.shape], ">i4").tobytes()
            (raw / f"{prefix}-{name}-ubyte").write_bytes(head + content.tobytes())


def _events(folders: list[str], names: tuple[str, ...]) -> Callable[[Path, RandomState], None]:
    """SpikingJelly's ``events_np/<folder>/<name>.npz``; every other event lies in one corner, so that some coincide."""

    def write(folder: Path, random: RandomState) -> None:
        for place in (folder / "events_np" / name for name in folders):
            place.mkdir(parents=True)
            for name in names:
                t = np.sort(random.randint(0, 1_300_000, _EVENTS))
                x, y = (random.randint(0, np.where(np.arange(_EVENTS) % 2, 24, 128)) for _ in "xy")
                np.savez(place / f"{name}.npz", t=t, x=x, y=y, p=random.randint(0, 2, _EVENTS))

    return write


_LAYOUTS = {
    "cifar10": _images(("train", "test"), [f"{n:02}" for n in range(10)], 32),
    "cifar100": _images(("train", "test"), [f"{n:02}" for n in range(100)], 32),
    "imagenet": _images(("train", "val"), [f"n{n:08}" for n in range(10)], 40),
    "event_camera": _images(("train", "test"), ["a", "b", "c", "d"], 32),
    "mnist": _idx,
    "cifar10_dvs": _events(list(_CIFAR10_DVS), tuple(f"cifar10_a_{100 * n}" for n in range(10))),
    "dvs128_gesture": _events([f"{split}/{n}" for split in ("train", "test") for n in range(11)], ("0",)),
}
