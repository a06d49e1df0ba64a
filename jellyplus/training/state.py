"""Whether a state file holds what this run would have saved after an epoch; Lightning believes all of it.

What recipe, data and epoch decide is compared: counters, schedules, names and shapes. What training made need only be
of its kind: weights, statistics and momenta finite and of their shapes, a history with an entry an epoch.
"""

import math
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from jellyplus._errors import InputError
from jellyplus.training.classifier import Classifier

__all__ = ["check_state"]

_ENTRY = {"learning_rate": float, "accuracy": float, "train_loss": float, "samples": str, "time_s": float}
_SKIPPED = {"skipped_train": int, "skipped_test": int}
_SCALER = {"scale": float, "growth_factor": float, "backoff_factor": float, "growth_interval": int}
_SCALER |= {"_growth_tracker": int}
_SHAPES = (".surrogate_function.temperature", ".surrogate_function.k")
_LARGEST = 2**63  # of integers


class _Some(dict):
    """Some of these items, and no other."""


class _More(dict):
    """All of these items, and maybe others."""


def check_state(
    content: Any, file: Path, trainer: lightning.Trainer, classifier: Classifier, origin: dict[str, Any], batches: int
) -> None:
    """Check what a state file holds.

    Args:
        content: of ``file``.
        file: for the sentence.
        trainer: that goes on from it, not started yet.
        classifier: the same.
        origin: hashes of recipe and data, the seed.
        batches: of an epoch.

    Raises:
        InputError: it is no state, that of another run or other data, or one that this run does not save.
    """
    again = "it was left alone: delete it to train from the beginning"
    found, epoch = (content.get(key) if type(content) is dict else None for key in ("origin", "epoch"))
    if type(found) is not dict or {key: type(value) for key, value in found.items()} != _kinds(origin):
        raise InputError(f"{file} is not the state of a run; {again}")
    if found | {"data": origin["data"]} != origin:
        raise InputError(f"{file} is the state of another run; {again}")
    if found != origin:
        raise InputError(
            f"{file} was trained on other data: its fingerprint is {found['data'][:16]}, that of --data-root "
            f"{origin['data'][:16]}; bring the data back, or delete the file to train from the beginning"
        )
    if type(epoch) is not int or not 0 <= epoch < trainer.max_epochs:
        raise InputError(f"{file} is not the state of this run: its epoch is none of {trainer.max_epochs}; {again}")
    wanted = {"epoch": int, "origin": dict} | _saved(trainer, classifier, epoch + 1, batches)
    content = {key: value for key, value in content.items() if not _is_scaler(value)}
    summed = _SKIPPED | {name: float for method in classifier.methods.values() for name in method.seconds}
    odd = _odd(content, wanted) or _odd_history(content["history"], summed) or _odd_shape(content["state_dict"])
    if odd:
        which = f"the state of this run after epoch {epoch + 1}"
        raise InputError(f"{file} is not {which}: {odd} is not what it saves; {again}")


def _saved(trainer: lightning.Trainer, classifier: Classifier, epochs: int, batches: int) -> dict[str, Any]:
    """What this run saves; a type stands for what cannot be known, a tensor for one like it."""
    made = classifier.configure_optimizers()
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on a schedule without a step of the optimizer
        for _ in range(epochs):
            scheduler.step()
    steps = math.ceil(batches / trainer.accumulate_grad_batches)
    return {
        "global_step": epochs * steps,
        "pytorch-lightning_version": str,
        "state_dict": dict(classifier.state_dict()),
        "loops": _loops(trainer, epochs, batches, steps),
        "callbacks": {},
        "optimizer_states": [_optimizer_state(optimizer)],
        "lr_schedulers": [scheduler.state_dict()],
        "history": [_More(_ENTRY, epoch=epoch) for epoch in range(epochs)],
    }


def _is_scaler(value: Any) -> bool:
    """The state of 16-mixed's gradient scaler: a GPU saves it, a CPU does not, and either goes on without."""
    kinds = {key: type(item) for key, item in value.items()} if isinstance(value, dict) else None
    return kinds == _SCALER and all(map(math.isfinite, value.values()))


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Parameters that no gradient reached have no momentum; the kernel is that of the device that made the state."""
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        group |= {name: tuple for name, value in group.items() if isinstance(value, tuple)}  # a tuple here is a choice
        if "fused" in group:
            group["fused"] = (None, True)
    if not isinstance(optimizer, torch.optim.SGD):  # a plugin's, which keeps what it needs
        return saved | {"state": dict}
    parameters = enumerate(optimizer.param_groups[0]["params"])
    return saved | {"state": _Some({index: _Some(momentum_buffer=parameter) for index, parameter in parameters})}


def _loops(trainer: lightning.Trainer, epochs: int, batches: int, steps: int) -> dict[str, Any]:
    """Lightning's counters, of an epoch and in total, after so many epochs of batches and the optimizer's steps."""
    loops = {name: getattr(trainer, name).state_dict() for name in ("fit_loop", "validate_loop", "test_loop")}
    loops["predict_loop"] = trainer.predict_loop.state_dict()
    fit = loops["fit_loop"]
    _count(fit["epoch_loop.batch_progress"], batches, epochs * batches)
    for counters in fit["epoch_loop.automatic_optimization.optim_progress"]["optimizer"].values():
        _count(counters, steps, epochs * steps)
    _count(fit["epoch_loop.scheduler_progress"], 1, epochs)
    _count(fit["epoch_progress"], epochs, epochs)
    for part in ("current", "total"):
        fit["epoch_progress"][part]["completed"] = epochs - 1  # saved before the epoch ends
    fit["epoch_loop.batch_progress"]["is_last_batch"] = True
    fit["epoch_loop.state_dict"] = {"_batches_that_stepped": epochs * steps}
    name = "epoch_loop.val_loop.batch_progress"
    fit[name] = _kinds(fit[name])  # each of the processes has other batches
    return loops


def _count(counters: dict[str, Any], current: int, total: int) -> None:
    for part, count in (("current", current), ("total", total)):
        counters[part] = dict.fromkeys(counters[part], count)


def _kinds(value: Any) -> Any:
    return {key: _kinds(item) for key, item in value.items()} if isinstance(value, dict) else type(value)


def _odd(found: Any, wanted: Any, where: str = "") -> str:
    """Where ``found`` is not as ``wanted``, empty if nowhere; it goes as deep as that, whatever ``found`` is."""
    if not isinstance(wanted, dict | list):
        return "" if _is(found, wanted) else where
    if not isinstance(found, dict if isinstance(wanted, dict) else list):
        return where
    if isinstance(wanted, list):
        found, wanted = (dict(enumerate(items)) for items in (found, wanted))
    missing = set() if isinstance(wanted, _Some) else wanted.keys() - found.keys()
    odd = missing if isinstance(wanted, _More) else missing | (found.keys() - wanted.keys())
    if odd:
        return f"{where}.{min(map(str, odd))}".lstrip(".")
    items = ((found[key], kind, f"{where}.{key}".lstrip(".")) for key, kind in wanted.items() if key in found)
    return next((place for item in items if (place := _odd(*item))), "")


def _is(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, tuple):
        return any(_is(found, choice) for choice in wanted)
    if isinstance(wanted, Tensor):
        alike = isinstance(found, Tensor) and (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        return alike and bool(found.isfinite().all())
    if wanted is int:
        return type(found) is int and 0 <= found < _LARGEST
    if isinstance(wanted, type):
        return type(found) is wanted and (wanted is not float or math.isfinite(found))
    return type(found) is type(wanted) and found == wanted


def _odd_history(history: list[dict], kinds: dict[str, type]) -> str:
    """Where a column that sums are made of is of another kind, an accuracy above 100 %, or any no number or text."""
    for entry in history:
        summed = {name: entry[name] for name in kinds if name in entry}
        odd = next((str(name) for name, value in entry.items() if type(name) is not str or not _is_plain(value)), "")
        odd = odd or _odd(summed, _Some(kinds)) or ("" if 0 <= entry["accuracy"] <= 100 else "accuracy")
        if odd:
            return f"history.{entry['epoch']}.{odd}"
    return ""


def _is_plain(value: Any) -> bool:
    numbers = value if type(value) in (list, tuple) else [value]
    return type(value) is str or all(type(n) is float or (type(n) is int and abs(n) < _LARGEST) for n in numbers)


def _odd_shape(weights: dict[str, Tensor]) -> str:
    """A shape parameter is one positive number in all surrogates of the network."""
    found = {name: weight.item() for name, weight in weights.items() if name.endswith(_SHAPES)}
    first = next(iter(found.values()), 1.0)
    return next((name for name, value in found.items() if not value == first > 0), "")
