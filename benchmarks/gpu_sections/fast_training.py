"""Section 3: images per second of the loader and of the training loop, on images drawn at random, held in memory.

The loader is that of the recipes, with their augmentation; the loop is ``jellyplus.training``'s own, from the first
image to the checkpoint, with the paper's network, batch and precision. What an epoch takes there decides which row of a
table fits into the time that is left (``evidence.py``).
"""

import dataclasses
import itertools
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from gpu_sections.job import Job, named, read
from gpu_sections.machine import WAITS, machine
from gpu_sections.rows import ROWS, run_of
from jellyplus.datasets import DataSet, Split
from jellyplus.training.data import DataModule
from jellyplus.training.recipe import Recipe
from jellyplus.training.recipe_files import load_run
from jellyplus.training.train import choose_device, train

__all__ = ["loader", "loops", "missing_loops"]

_RECIPES = Path(__file__).parents[2] / "recipes"
#: The lightest and the heaviest augmentation of the CIFAR recipes.
_LOADED = ("tdbn/cifar10_resnet19_t2", "dspike/cifar10_t6")
_STEPS = 120  # of a measured epoch: the processes' first batches take some tenths of a second
_PROFILED_STEPS = 20


def random_data(recipe: Recipe, examples: int) -> DataSet:
    """Images of the recipe's size that look like nothing; a fifth as many to test, as CIFAR-10 has."""
    side = {"mnist": 28, "digits": 16}.get(recipe.data.dataset, 32)
    generator = torch.Generator().manual_seed(0)

    def split(number: int) -> Split:
        shape = (number, recipe.model.in_channels, side, side)
        return Split(
            torch.randint(256, shape, generator=generator, dtype=torch.uint8),
            torch.randint(recipe.model.num_classes, (number,), generator=generator),
        )

    channels = recipe.model.in_channels
    facts = {"kind": "images", "stand_in": True, "mean": (0.5,) * channels, "std": (0.25,) * channels}
    return DataSet(
        recipe.data.dataset, recipe.model.num_classes, split(examples), split(examples // 5), source="random", **facts
    )


def loader(job: Job) -> None:
    """A record for each recipe and number of processes."""
    for name in _LOADED:
        recipe = load_run(name, "smoke" if job.dry_run else "paper", _RECIPES).recipe
        data = random_data(recipe, 64 if job.dry_run else 50_000)
        for workers in (0, 1) if job.dry_run else (0, 2, 4, 8, 15):
            rate = _loaded(DataModule(data, recipe, 0, workers), 0.2 if job.dry_run else 1.5)
            job.add(loader=name, augmentation=list(recipe.data.augmentation), workers=workers, images_per_s=rate)


def _loaded(module: DataModule, seconds: float) -> float:
    """Images per second after the first batches."""
    batches = itertools.chain.from_iterable(itertools.repeat(module.train_dataloader()))
    for _ in range(2 * max(module.workers, 1)):
        next(batches)
    images, started = 0, time.perf_counter()
    while (taken := time.perf_counter() - started) < seconds:
        images += len(next(batches)[1])
    return images / taken


def loops(job: Job) -> None:
    """A record for each run that a row could need: what an epoch takes, and how often a step waits for the card."""
    machine(job)
    recipes: dict[str, Recipe] = {}
    for row in ROWS[: 1 if job.dry_run else None]:
        recipes.setdefault(row.recipe, run_of(row, "smoke" if job.dry_run else "paper").recipe)
    steps = 2 if job.dry_run else _STEPS
    for name, recipe in recipes.items():
        with job.attempt(name):
            epoch_s = _trained(job, recipe, steps, 2, job.workers)[-1]["time_s"]
            batch = recipe.data.batch_size
            values = {"batch": batch, "workers": job.workers, "examples": steps * batch, "epoch_s": epoch_s}
            job.add(loop=name, **values, images_per_s=steps * batch / epoch_s)
    first = next(iter(recipes))
    job.add(loop=first, **_waits(job, recipes[first]))


def missing_loops(job: Job) -> None:
    """:func:`loops`, unless a call before has written them into the same folder."""
    if not any("epoch_s" in record for record in read(named(job.out, job.dry_run, ".jsonl"))):
        loops(job)


def _trained(job: Job, recipe: Recipe, steps: int, epochs: int, workers: int) -> list[dict[str, Any]]:
    """The history of so many epochs of so many steps; the first holds what happens once."""
    recipe = dataclasses.replace(recipe, schedule=dataclasses.replace(recipe.schedule, epochs=epochs))
    state = Path(job.scratch, "loop.partial")
    data = random_data(recipe, steps * recipe.data.batch_size)
    device = "cpu" if job.dry_run else choose_device("cuda")
    try:
        return train(recipe, data, 0, device, state, None, "loop", workers, graphed=True).history
    finally:
        state.unlink(missing_ok=True)


def _waits(job: Job, recipe: Recipe) -> dict[str, Any]:
    """Calls of a step that wait for the card, as torch's profiler names them, in an epoch of the loop."""
    steps, waits = 2 if job.dry_run else _PROFILED_STEPS, Counter()
    with profile(activities=[ProfilerActivity.CPU] + ([] if job.dry_run else [ProfilerActivity.CUDA])) as seen:
        _trained(job, recipe, steps, 1, workers=0)  # none is forked while the profiler looks
    for event in seen.key_averages():
        if event.key in WAITS:
            waits[event.key] += event.count / steps
    return {"steps": steps, "calls_a_step": dict(waits)}
