"""Short runs, and what can be done to them: for the tests of training."""

import contextlib
import dataclasses
import functools
from pathlib import Path
from types import SimpleNamespace

import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from jellyplus import datasets
from jellyplus.training import classifier
from jellyplus.training import train as training
from jellyplus.training.checkpoint import KeepLast
from jellyplus.training.classifier import Classifier
from jellyplus.training.recipe_files import load_run
from jellyplus.training.train import Outcome, train

RECIPES = Path(__file__).parents[2] / "recipes"
TIMES = ("time_s", "search_time_s", "warm_start_time_s")


@functools.cache
def tiny(name="digits", train_examples=64, test_examples=32):
    """The first examples of a data set."""
    whole = datasets.load(name)
    sizes = {"train": train_examples, "test": test_examples}
    splits = {key: getattr(whole, key) for key in sizes}
    cut = {key: datasets.Split(split.inputs[: sizes[key]], split.labels[: sizes[key]]) for key, split in splits.items()}
    return dataclasses.replace(whole, **cut)


@functools.cache
def embedded(name):
    return load_run(f"dspike/{name}", "embedded", RECIPES).recipe


def recipe_of(name="cifar10_t6", search=True, **sections):
    """An embedded recipe of width 1, T = 2, 3 epochs of 4 steps, from scratch; values replaced section by section."""
    steps = {"time_steps": 2} if name == "cifar10_t6" else {}
    small = {"model": {"width": 1} | steps, "schedule": {"epochs": 3}, "data": {"batch_size": 16}}
    small |= {"temperature_search": {"batch_size": 4}} if embedded(name).temperature_search else {}
    sections = {key: small.get(key, {}) | sections.get(key, {}) for key in small | sections}
    parts = {key: dataclasses.replace(getattr(embedded(name), key), **values) for key, values in sections.items()}
    recipe = dataclasses.replace(embedded(name), initial_weights=None, **parts)
    return recipe if search else dataclasses.replace(recipe, temperature_search=None)


def run(folder, recipe=None, data=None, seed=0, initial_state=None, workers=0, compressed=False) -> Outcome:
    more = {"workers": workers, "compressed": compressed}
    return train(recipe or recipe_of(), data or tiny(), seed, "cpu", folder / "state", initial_state, "test", **more)


def numbers(outcome):
    """All that must be the same between two runs: weights, statistics, temperatures, and the history but for times."""
    history = [{key: value for key, value in entry.items() if key not in TIMES} for entry in outcome.history]
    return {name: value.tolist() for name, value in outcome.net.state_dict().items()}, history


class Interruption(Exception):  # noqa: N818 - no error
    """Stands for whatever ends a process."""


def stop_after_epoch(monkeypatch, epoch):
    save = KeepLast.on_train_epoch_end

    def save_then_stop(self, trainer, module):
        save(self, trainer, module)
        if trainer.current_epoch == epoch:
            raise Interruption

    monkeypatch.setattr(KeepLast, "on_train_epoch_end", save_then_stop)


def spy_on_steps(monkeypatch, seen, stop_at=None):
    """Note (epoch, step), batch, learning rate, loss and what torch would draw, in every training step."""
    step = Classifier.training_step

    def spied(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == stop_at:
            raise Interruption
        state = torch.get_rng_state()
        drawn = torch.rand(()).item()
        torch.set_rng_state(state)
        loss = step(self, batch)
        rate = self.optimizers().param_groups[0]["lr"]
        seen[self.current_epoch, batch_idx] = SimpleNamespace(
            inputs=batch[0].tolist(), labels=batch[1].tolist(), drawn=drawn, rate=rate, loss=loss.item()
        )
        return loss

    monkeypatch.setattr(Classifier, "training_step", spied)


def ahead(monkeypatch, look_every):
    """Train as on a GPU, which is looked at now and then."""
    monkeypatch.setattr(Classifier, "runs_ahead", True)
    monkeypatch.setattr(classifier, "_LOOK_EVERY", look_every)


def scale_losses(monkeypatch, scale=2.0**16):
    """16-mixed's gradient scaler, without half precision."""
    make = training._trainer

    class Scaled(MixedPrecision):
        def autocast_context_manager(self):
            return contextlib.nullcontext()

    def scaled(*arguments, **options):
        trainer = make(*arguments, **options)
        trainer.strategy.precision_plugin = Scaled("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))
        return trainer

    monkeypatch.setattr(training, "_trainer", scaled)
