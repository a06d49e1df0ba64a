"""Evidence: what the machine recorded of a finished run, and what it measured on a network."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jellyplus.datasets import DataSet
from jellyplus.datasets.splits import manifest_digest
from jellyplus.registry import MEASURES
from jellyplus.reproduction import measures as _own_measures  # noqa: F401 - it registers what measurements name
from jellyplus.reproduction import operations
from jellyplus.training.recipe import Run, recipe_key
from jellyplus.training.train import Outcome

__all__ = ["Evidence", "Measurement", "evidence_of", "settings_digest"]

_NUMBER = (int, float)
_LARGEST = 2**63  # of any number here: what exceeds it overflows where it is squared or written out
_COUNTS = ("epoch", "skipped_train", "skipped_test")
_COURSES = ("accuracy", "train_loss", "im_loss", "learning_rate", "temperature", "k", "shortcut_weight", "time_s")
_NEEDED = {
    "dataset": {"name": str, "train_examples": int, "test_examples": int},
    "operations": {
        "macs_per_time_step": int,
        "spike_rate": _NUMBER,
        "additions": _NUMBER,
        "multiplications": _NUMBER,
        "energy_uj": _NUMBER,
        "examples": int,
        "convention": str,
    },
}


def _is(kind: type | tuple[type, ...], value: Any) -> bool:
    """Whether it is of the kind, and not a number that overflows; true and false are no numbers."""
    if kind is str:
        return isinstance(value, str)
    return type(value) in (kind if isinstance(kind, tuple) else (kind,)) and 0 <= value < _LARGEST


def _is_of_history(name: str, value: Any) -> bool:
    """Numbers, null in a file where one was not finite, and lists of them; the hash of the samples is a word."""
    if name == "samples":
        return isinstance(value, str)
    if name in _COUNTS:
        return _is(int, value)
    if isinstance(value, list | tuple) and name not in _COURSES:
        return all(_is_of_history("", item) for item in value)
    return value is None or (type(value) in _NUMBER and not _LARGEST <= abs(value) < math.inf)


@dataclass(frozen=True)
class Evidence:
    """One finished run with one seed.

    Args:
        schema: version of this layout.
        key: ``recipe_key(recipe)``.
        recipe_name: e.g. ``dspike/cifar10_t6``.
        profile: which overlay was on the recipe.
        seed: what all randomness derives from.
        code: :func:`~jellyplus.reproduction.source.code_digest` at the time of the run.
        recipe: the resolved recipe.
        parent: key of the evidence whose checkpoint the run started from, None if from scratch.
        commit: of the checkout, "unknown" where there is none.
        dirty: whether the checkout differed from the commit, None where there is none.
        versions: of Python and the libraries.
        device: in words.
        backend: what ran the neurons; None for an ANN, and for nodes of a plugin that have none.
        dataset: at least name, train_examples and test_examples.
        parameters: of the network.
        operations: of one example's inference over all time-steps, from the spikes of some test examples: at least
            macs_per_time_step, spike_rate, additions, multiplications, energy_uj, examples and convention. Evidence
            from today's code has what a count by any convention takes, time_steps, firing_rate and layers, as in
            :class:`~jellyplus.op_counter.Measurement`, too, how the examples were chosen, and additions_error, the
            standard error over them, by the name of the convention.
        accuracy_last: on test data after the last epoch, in percent; the headline.
        accuracy_best: the highest of any epoch on test data, in percent.
        best_epoch: its epoch, counted from 0.
        epochs_completed: of ``epochs_planned``.
        epochs_planned: by the recipe.
        wall_time_s: of the whole run, in seconds.
        search_time_s: the temperature search's share of it, in seconds.
        left_over: names on either side that the initial weights had no counterpart for.
        history: one dict per epoch.
        checkpoint_sha256: of the file that the run left, in hexadecimal; None in evidence from before it was noted.
    """

    schema: Literal[3]
    key: str
    recipe_name: str
    profile: str
    seed: int
    code: str
    recipe: dict
    parent: str | None
    commit: str
    dirty: bool | None
    versions: dict[str, str]
    device: str
    backend: str | None
    dataset: dict
    parameters: int
    operations: dict
    accuracy_last: float
    accuracy_best: float
    best_epoch: int
    epochs_completed: int
    epochs_planned: int
    wall_time_s: float
    search_time_s: float
    left_over: tuple[str, ...]
    history: tuple[dict, ...]
    checkpoint_sha256: str | None = None

    def __post_init__(self):
        if self.key != recipe_key(self.recipe):
            raise ValueError("the key is not the recipe's")
        for part, needed in _NEEDED.items():
            held = getattr(self, part)
            if missing := needed.keys() - held.keys():
                raise ValueError(f"{part} lacks {', '.join(sorted(missing))}")
            if wrong := [name for name, kind in needed.items() if not _is(kind, held[name])]:
                raise ValueError(f"{part} has another kind of {', '.join(wrong)}")
        for name in ("accuracy_last", "accuracy_best"):
            if not 0 <= getattr(self, name) <= 100:
                raise ValueError(f"{name} is {getattr(self, name)} percent")
        for name in ("seed", "parameters", "best_epoch", "epochs_completed", "epochs_planned", "wall_time_s"):
            if not (0 <= getattr(self, name) < _LARGEST):
                raise ValueError(f"{name} is {getattr(self, name):.3g}")
        for entry in self.history:
            if wrong := [name for name, value in entry.items() if not _is_of_history(name, value)]:
                raise ValueError(f"history has another kind of {', '.join(wrong)}")

    @property
    def stem(self) -> str:
        """What its file is called, and that of its checkpoint."""
        return f"seed{self.seed}-{self.code[:12]}"

    @property
    def probe_stem(self) -> str:
        """What the file of its probe is called, which all seeds share."""
        return f"probe-{self.code[:12]}"


@dataclass(frozen=True)
class Measurement:
    """One measure of one network.

    Args:
        schema: version of this layout.
        key: of the recipe, which finds the run's evidence too.
        recipe_name: e.g. ``tdbn/cifar10_plain20``.
        profile: which overlay was on the recipe.
        seed: of the run.
        code: :func:`~jellyplus.reproduction.source.code_digest` at the time.
        measure: of :data:`jellyplus.registry.MEASURES`.
        settings: of the measure.
        commit, dirty, versions: as in :class:`Evidence`.
        device: in words.
        dataset: what it was measured on.
        stand_in: whether that takes the place of the paper's data.
        examples: of both splits together.
        x, y: of the curve, of equal length.
        numbers: what sums the curve up.
    """

    schema: Literal[1]
    key: str
    recipe_name: str
    profile: str
    seed: int
    code: str
    measure: str
    settings: dict
    commit: str
    dirty: bool | None
    versions: dict[str, str]
    device: str
    dataset: str
    stand_in: bool
    examples: int
    x: tuple[float, ...]
    y: tuple[float, ...]
    numbers: dict[str, float]

    def __post_init__(self):
        if len(self.x) != len(self.y):
            raise ValueError(f"x has {len(self.x)} values and y {len(self.y)}")
        if self.measure not in MEASURES:
            raise ValueError(f"there is no measure {self.measure!r}")
        object.__setattr__(self, "settings", MEASURES[self.measure].check(self.settings, "settings"))

    @property
    def stem(self) -> str:
        """What its file is called."""
        return f"{self.measure}-{settings_digest(self.settings)}-seed{self.seed}-{self.code[:12]}"

    @property
    def probe_stem(self) -> str:
        """What the file of its probe is called, which all seeds share."""
        return f"{self.measure}-{settings_digest(self.settings)}-probe-{self.code[:12]}"


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Return what names the settings of a measure in the name of a file."""
    canonical = json.dumps(dict(settings), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def evidence_of(
    run: Run, seed: int, data: DataSet, outcome: Outcome, *, code: str, provenance: Mapping[str, Any], device: str
) -> Evidence:
    """Return what there is to record of a finished run.

    Args:
        run, seed, data: what was trained.
        outcome: of the training.
        code: today's :func:`~jellyplus.reproduction.source.code_digest`.
        provenance: from :func:`~jellyplus.reproduction.source.provenance`.
        device: in words.
    """
    best = max(outcome.history, key=lambda entry: entry["accuracy"])
    last = outcome.history[-1]
    dataset = data.counts() | {"fingerprint": data.fingerprint}
    dataset["train_examples"] = len(data.train) - last.get("skipped_train", 0)
    dataset["test_examples"] = len(data.test) - last.get("skipped_test", 0)
    if data.manifest:
        dataset |= {"split": data.manifest["split"], "split_sha256": manifest_digest(data.manifest)}
    return Evidence(
        schema=3,
        key=run.key,
        recipe_name=run.name,
        profile=run.profile,
        seed=seed,
        code=code,
        recipe=run.resolved,
        parent=run.parent.key if run.parent else None,
        **provenance,
        device=device,
        backend=outcome.backend,
        dataset=dataset,
        parameters=sum(parameter.numel() for parameter in outcome.net.parameters()),
        operations=operations.record(outcome.operations, "by a fixed seed, evenly over the classes"),
        accuracy_last=last["accuracy"],
        accuracy_best=best["accuracy"],
        best_epoch=best["epoch"],
        epochs_completed=len(outcome.history),
        epochs_planned=run.recipe.schedule.epochs,
        wall_time_s=sum(entry["time_s"] for entry in outcome.history),
        search_time_s=sum(entry.get("search_time_s", 0.0) for entry in outcome.history),
        left_over=tuple(outcome.left_over),
        history=tuple(outcome.history),
    )
