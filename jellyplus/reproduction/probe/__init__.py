"""Probe: what the code does to a recipe, in numbers that can be compared with those of other code.

A short run of the recipe's own method, through the training code as it is: double precision, one thread, the CPU,
``backend="torch"``, few channels, a few generated examples. Beside it, exactly and for the whole run, what is cheap:
the order of examples, the course of learning rate and K, augmented examples, the network at its full width. Behaviour
is compared, not text: values are kept and compared with :data:`TOLERANCE`, so that a refactoring changes nothing.

What it cannot see: the backends ``cpp`` and ``cupy`` (the parity tests hold them to ``torch``), single precision and
memory formats, several processes, checkpoints and resuming, what only a long run, many channels or real data bring
about, and branches of parts that neither the short run nor :mod:`.parts` reaches.
"""

import contextlib
import dataclasses
import hashlib
import io
import math
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jellyplus._errors import InputError
from jellyplus.datasets import DataSet
from jellyplus.datasets.order import EpochOrder
from jellyplus.registry import MEASURES
from jellyplus.reproduction.evidence import evidence_of
from jellyplus.reproduction.measures import measured
from jellyplus.reproduction.probe import parts
from jellyplus.reproduction.probe.data import few
from jellyplus.reproduction.probe.watch import Values, float64, projection, watched
from jellyplus.training.classifier import Classifier
from jellyplus.training.data import DataModule
from jellyplus.training.layout import time_first
from jellyplus.training.method import methods_of
from jellyplus.training.network import InitialState, build_network
from jellyplus.training.recipe import Recipe, Run
from jellyplus.training.train import COUNTED, Outcome, train

__all__ = ["OPERATIONS", "TOLERANCE", "Values", "differences", "of_measure", "of_run"]

OPERATIONS = "operations, "  #: begins the names of what counting has to do with, and training has not
#: Relative. Threads and orders of sums have differed by 4e-12, another processor by 2e-7: nine steps of training at a
#: high rate (dspike/cifar10_ann) make that much of a last bit.
TOLERANCE = 1e-6
_LEAST = 1e-12  # of a number: what is smaller is rounding

_WIDTH, _TIME_STEPS, _BATCH, _EPOCHS, _SEED = 2, 3, 4, 3, 0
_CLASSES = {"imagenet": 10, "event_camera": 4}  # of the generated data, where a loader takes any number
_SIDE = {"side": 32, "resize": 36}  # of images that have a size of their own
_EXAMPLES = 997  # whose order is recorded
_LONGEST = 2**12  # epochs whose course is recorded


def of_run(run: Run) -> Values:
    """Everything that decides the numbers of a run, its ancestors' included; takes about a second.

    Returns:
        Numbers, words and lists of them, by what they are. What begins with :data:`OPERATIONS` concerns only the rows
        of a table that print how many there are.
    """
    if run.key not in _known:
        with _aside():
            _known[run.key] = _of_recipe(run.recipe, run.parent)
    values = dict(_known[run.key])
    return values | _training_of(run.parent) if run.parent else values


def _training_of(run: Run) -> Values:
    """What decides the weights that a run ends with, under its name."""
    return {f"{run.name}: {name}": value for name, value in of_run(run).items() if not name.startswith(OPERATIONS)}


_known: dict[str, Values] = {}  # a run's own values, by key: chains have ancestors in common


def of_measure(run: Run, measure: str, settings: Mapping[str, Any]) -> Values:
    """Everything that decides a measurement; of a trained network, what decides its training too."""
    recipe = _narrow(run.recipe)
    with _aside(), few(recipe) as data, float64():
        weights = _filled(recipe) if MEASURES[measure].kind == "trained" else None
        module = DataModule(data, recipe, _SEED)
        curve = measured(recipe, module, measure, settings, weights=weights, backend="torch", device="cpu")
        of_parts = parts.of_recipe(recipe, _inputs(data, recipe))
    values = _plain({"x": curve.x, "y": curve.y, **curve.numbers})
    return values | (_training_of(run) if weights else _plain(of_parts))


def differences(recorded: Values, today: Values) -> dict[str, str]:
    """What of ``recorded`` is another now, in words, by its name; what was not recorded cannot differ."""
    return {name: said for name in recorded if (said := _difference(name, recorded[name], today.get(name)))}


def _difference(name: str, recorded: Any, today: Any) -> str | None:
    if not (isinstance(recorded, list) and isinstance(today, list) and len(recorded) == len(today)):
        return None if _is_close(recorded, today) else f"{name}: {_short(recorded)}, now {_short(today)}"
    unlike = [i for i, pair in enumerate(zip(recorded, today, strict=True)) if not _is_close(*pair)]
    return _difference(f"{name} {unlike[0] + 1}", recorded[unlike[0]], today[unlike[0]]) if unlike else None


def _is_close(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=_LEAST)
    return one == other


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.10g}"
    if value is None:
        return "nothing"
    return f"{len(value)} values" if isinstance(value, list) else str(value)


# --- The short run --------------------------------------------------------------------------------------------------


def _of_recipe(full: Recipe, parent: Run | None) -> Values:
    recipe = _narrow(full)
    with few(recipe) as data:
        values = _augmented(data, recipe) | _order(full) | _full_width(full, data)
        with float64():
            values |= _schedules(full, recipe) | parts.of_recipe(recipe, _inputs(data, recipe))
            values |= _short_run(recipe, data, parent)
    return _plain(values)


def _narrow(recipe: Recipe) -> Recipe:
    """Everything of the recipe but its size."""
    data, network, schedule = recipe.data, recipe.model, recipe.schedule
    changes: dict[str, Any] = {
        "data": {"batch_size": _BATCH, "micro_batch": data.micro_batch and _BATCH // 2},
        "model": {"width": min(network.width, _WIDTH), "time_steps": min(network.time_steps, _TIME_STEPS)},
        "schedule": {"epochs": _EPOCHS, "step_epochs": schedule.step_epochs and 1},
    }
    if data.images:
        resize = data.images.resize and _SIDE["resize"]
        changes["data"]["images"] = dataclasses.replace(data.images, side=_SIDE["side"], resize=resize)
        if "input_size" in network.options:
            changes["model"]["options"] = network.options | {"input_size": _SIDE["side"]}
    if classes := _CLASSES.get(data.dataset):
        changes["model"]["num_classes"] = classes
    if recipe.neuron:
        changes["neuron"] = {"backend": "torch"}
    changes |= {name: method.small() for name, method in methods_of(recipe).items() if hasattr(recipe, name)}
    parts = {name: dataclasses.replace(getattr(recipe, name), **change) for name, change in changes.items()}
    return dataclasses.replace(recipe, **parts)


def _short_run(recipe: Recipe, data: DataSet, parent: Run | None) -> Values:
    """Trained as every run is, and recorded as every run is."""
    start = InitialState(_filled(_narrow(parent.recipe)), parent.recipe.spiking) if parent else None
    with watched() as seen, tempfile.TemporaryDirectory() as folder:
        try:
            outcome = train(recipe, data, _SEED, "cpu", Path(folder) / "run.partial", start, "probe")
        except InputError:  # not finite, say: as far as it came is what it does
            return dict(seen) | {"the short run": "stops"}
    with torch.no_grad():
        inference = projection(outcome.net(_inputs(data, recipe)))
    weights = {"weights at the end": [projection(value) for value in outcome.weights.values()]}
    history = {f"{name} of epoch": values for name, values in _courses(outcome.history)}
    recorded = _recorded(Run("probe", "probe", recipe, parent), data, outcome)
    return dict(seen) | weights | history | recorded | {"outputs in inference": inference}


def _recorded(run: Run, data: DataSet, outcome: Outcome) -> Values:
    """What evidence says of the run, as if its second epoch had been the best, and what tables print of it."""
    course = [entry | {"accuracy": seen} for entry, seen in zip(outcome.history, (10.0, 30.0, 20.0), strict=True)]
    made_up = dataclasses.replace(outcome, history=course)
    evidence = evidence_of(run, _SEED, data, made_up, code="", provenance=_NOWHERE, device="cpu")
    stated = ("accuracy_last", "accuracy_best", "best_epoch", "epochs_completed", "epochs_planned", "parameters")
    counted = {f"{OPERATIONS}{n}": v for n, v in evidence.operations.items() if isinstance(v, int | float)}
    counted[f"{OPERATIONS}examples"] = COUNTED
    return {name: getattr(evidence, name) for name in (*stated, "left_over")} | counted


_NOWHERE = {"commit": "unknown", "dirty": None, "versions": {}}


def _courses(history: list[dict]) -> Iterator[tuple[str, list]]:
    """What was recorded in every epoch, or in some, but for the time it took."""
    for name in dict.fromkeys(name for entry in history for name in entry if not name.endswith("time_s")):
        values = [entry.get(name) for entry in history]
        nested = any(isinstance(value, list | tuple) for value in values)
        yield name, [item for value in values for item in value or ()] if nested else values


def _filled(recipe: Recipe) -> dict[str, Tensor]:
    """Weights and statistics of a network as training may leave them: none is 0 or 1."""
    torch.manual_seed(_SEED)
    state = build_network(recipe).state_dict()
    for number, (name, value) in enumerate(state.items()):
        if value.is_floating_point() and ".surrogate_function." not in name:
            value += 0.1 * (torch.arange(value.numel()).view_as(value) + number).sin().abs()
    return state


def _inputs(data: DataSet, recipe: Recipe) -> Tensor:
    return time_first(DataModule(data, recipe, _SEED).search_batch(_BATCH)[0])


# --- What is cheap for the whole run --------------------------------------------------------------------------------


def _augmented(data: DataSet, recipe: Recipe) -> Values:
    """Examples as training and evaluation see them, in single precision, as they are."""
    module = DataModule(data, recipe, _SEED)
    seen = [projection(module.train[epoch, index][0]) for epoch in range(2) for index in range(_BATCH)]
    return {
        "augmented example": seen,
        "example in evaluation": [projection(module.test[index][0]) for index in range(_BATCH)],
        "labels": data.train.labels.tolist(),
        "batch of the first epoch": [list(map(int, ids)) for _, _, ids in module.train_dataloader()],
    }


def _order(recipe: Recipe) -> Values:
    """The ids of the examples in every epoch, exact and therefore hashed."""
    order, digest = EpochOrder(_EXAMPLES, _SEED), hashlib.sha256()
    for epoch in range(min(recipe.schedule.epochs, _LONGEST)):
        digest.update(order.indices(epoch).numpy().tobytes())
    return {"order of examples in all epochs": digest.hexdigest()[:16]}


def _schedules(full: Recipe, narrow: Recipe) -> Values:
    """Learning rate and K at some epochs of the whole schedule, lambda at some of a thousand iterations."""
    epochs = full.schedule.epochs
    shown = sorted({round(share * (min(epochs, _LONGEST) - 1) / 20) for share in range(21)})
    recipe = dataclasses.replace(narrow, schedule=full.schedule)
    configured = Classifier(build_network(narrow), recipe, _SEED).configure_optimizers()
    rates = []
    for _ in range(shown[-1] + 1):
        rates.append(configured["optimizer"].param_groups[0]["lr"])
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
    values: Values = {"learning rate in the whole schedule": [rates[epoch] for epoch in shown]}
    for method in methods_of(full).values():
        values |= method.scheduled(epochs, shown)
    return values


def _full_width(recipe: Recipe, data: DataSet) -> Values:
    """Names, shapes and multiply-accumulates of every layer of the network at its full width; nothing is allocated."""
    side = recipe.data.images.side if recipe.data.images else data.train.inputs.shape[-1]
    macs: dict[nn.Module, int] = {}

    def count(layer: nn.Module, _: Any, output: Tensor) -> None:
        macs[layer] = output.numel() * layer.weight[0].numel()

    with torch.device("meta"), torch.no_grad():
        net = build_network(recipe).eval()
        for layer in net.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.register_forward_hook(count)
        net(torch.zeros(1, 1, recipe.model.in_channels, side, side))
    words = [_in_words(name, module, macs) for name, module in net.named_modules()]
    return {"layer at full width": [line for line in words if not line.endswith(": ")]}


def _in_words(name: str, module: nn.Module, macs: Mapping[nn.Module, int]) -> str:
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    shapes = ", ".join(f"{part} {'x'.join(map(str, value.shape))}".strip() for part, value in own)
    return f"{name}: {shapes}" + (f"; {macs[module]} MACs" if module in macs else "")


def _plain(values: Mapping[str, Any]) -> Values:
    """As JSON keeps them, with as many digits as tell."""
    return {name: _written(value) for name, value in values.items()}


def _written(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_written(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.12g}") if math.isfinite(value) else str(value)
    return value


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """Silent, leaving random numbers alone, and without what torchrun, SLURM and Lightning's variables would change.

    Nobody waits for the bars, and torch's warning on schedulers is about steps that are none here.
    """
    job = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(_OF_JOBS)}
    silence = contextlib.redirect_stderr(io.StringIO())
    try:
        with silence, warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            yield
    finally:
        os.environ |= job


_OF_JOBS = ("TORCHELASTIC_", "SLURM", "PL_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK")
