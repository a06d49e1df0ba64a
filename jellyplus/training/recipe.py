"""A recipe states every value that decides a run's numbers; a profile is an overlay on it.

Recipes are YAML files, ``recipes/<paper>/<run>.yaml``, read into frozen dataclasses. Parts are named, never given as
a class path: to name a module would be to execute it.
"""

import dataclasses
import fnmatch
import functools
import hashlib
import inspect
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jellyplus import model
from jellyplus._errors import InputError
from jellyplus._strict import from_mapping, load_yaml
from jellyplus.datasets.settings import EventSettings, ImageSettings

__all__ = ["Recipe", "Run", "as_plain_data", "load_file", "load_run", "recipe_key"]

_LARGEST = 2**16  # no network of the papers is near it


@dataclass(frozen=True)
class Data:
    """What is learnt, and how examples are presented. Sizes in pixels; see :mod:`jellyplus.datasets.transforms`.

    ``images`` and ``events`` are for the data sets that need them, and left out for the others. With ``examples`` so
    many of each split are all there are, drawn evenly over the classes from ``examples_seed``.
    """

    dataset: str
    batch_size: int
    augmentation: tuple[str, ...]
    crop_padding: int
    cutout_size: int
    roll_pixels: int
    images: ImageSettings | None = None
    events: EventSettings | None = None
    examples: int | None = None
    examples_seed: int = 0

    def __post_init__(self) -> None:
        _at_least(self, "batch_size", 1)
        if self.examples is not None:
            _at_least(self, "examples", 1)
        _refuse(
            self.examples is None and self.examples_seed != 0,
            "examples_seed is for examples: state them, or leave it out",
        )


@dataclass(frozen=True)
class Model:
    """Which network of :data:`jellyplus.model.ARCHITECTURES`, its dimensions, and all of its own options.

    ``time_steps`` is T; an ANN has one.
    """

    architecture: str
    num_classes: int
    in_channels: int
    width: int
    time_steps: int
    options: dict[str, bool | int | float | str | tuple[int, ...]]

    def __post_init__(self) -> None:
        for name in ("num_classes", "in_channels", "width", "time_steps"):
            _at_least(self, name, 1)
            _at_most(self, name, _LARGEST)
        if self.architecture not in model.ARCHITECTURES:
            known = ", ".join(model.ARCHITECTURES)
            raise ValueError(f"there is no architecture {self.architecture!r}; choose from {known}")
        own = model.options(self.architecture).keys()
        if own != self.options.keys():
            state = f"state {', '.join(own)} and no other" if own else "it has none, so state {}"
            raise ValueError(f"options are not those of {self.architecture}: {state}")
        for name, default in model.options(self.architecture).items():
            value, kinds = self.options[name], {float: (float, int)}.get(type(default), (type(default),))
            _refuse(type(value) not in kinds, f"options.{name} is {value!r}; it must be like {default!r}")
        _refuse(self.options.get("input_size", 1) < 1, f"options.input_size is {self.options.get('input_size')} pixels")

    @property
    def has_branches(self) -> bool:
        """Whether branches meet in the network, so that some norms have ``branch_alpha``."""
        return "branch_alpha" in inspect.signature(model.ARCHITECTURES[self.architecture]).parameters


@dataclass(frozen=True)
class Neuron:
    """The constants of a node; ``lif`` is the iterative LIF (IF where decay is 1), ``v_reset: null`` its soft reset.

    ``srif`` has no decay and is reset by the spike itself; with ``rectify`` it fires on the rectified potential.
    ``backend`` runs it: ``auto`` is the fastest that can, see :func:`jellyplus.neuron.backends.choose`. Backends
    differ by rounding.
    """

    name: Literal["lif", "srif"]
    decay: float
    v_threshold: float
    v_reset: float | None
    detach_reset: bool
    rectify: bool
    backend: Literal["auto", "torch", "cpp", "cupy"]

    def __post_init__(self) -> None:
        srif = self.name == "srif"
        bare = (self.decay, self.v_reset) == (1.0, None)
        _refuse(srif and not bare, "srif has neither decay nor reset potential: state decay 1 and v_reset null")
        _refuse(self.rectify and not srif, "rectify is a part of srif: state false, or name srif")
        _refuse(self.decay < 0, f"decay is {self.decay}; it must not be negative")
        _positive(self, "v_threshold")
        off = self.rectify and self.v_threshold != 0.5
        _refuse(off, f"rectify is symmetric about 0.5 and v_threshold is {self.v_threshold}: state 0.5")


@dataclass(frozen=True)
class Surrogate:
    """A surrogate gradient by name, with its shape parameters."""

    name: Literal["dspike", "evaf", "rectangular", "triangular"]
    parameters: dict[str, float]


@dataclass(frozen=True)
class Norm:
    """tdBN, or torch's batch norm over time-steps too, which has no V_th and both alphas 1.

    ``branch_alpha`` is that of norms whose outputs are added; null where the architecture adds none.
    """

    name: Literal["tdbn", "bn"]
    alpha: float
    branch_alpha: float | None
    eps: float
    momentum: float

    def __post_init__(self) -> None:
        scaled = self.name == "bn" and {self.alpha, self.branch_alpha} - {1.0, None}
        _refuse(scaled, "bn has no alpha: state 1 for alpha and branch_alpha")
        _positive(self, "eps")
        _refuse(not 0 <= self.momentum <= 1, f"momentum is {self.momentum}; it must be 0 to 1")


@dataclass(frozen=True)
class Optimizer:
    """SGD."""

    learning_rate: float
    momentum: float
    nesterov: bool
    weight_decay: float

    def __post_init__(self) -> None:
        for name in ("learning_rate", "momentum", "weight_decay"):
            _refuse(getattr(self, name) < 0, f"{name} is {getattr(self, name)}; it must not be negative")
            _at_most(self, name, _LARGEST)
        _refuse(self.nesterov and self.momentum == 0, "nesterov needs a momentum above 0")


@dataclass(frozen=True)
class Schedule:
    """How the learning rate changes, once an epoch.

    ``cosine`` decays to ``final_learning_rate``; ``step`` multiplies by ``step_factor`` every ``step_epochs``. What the
    other one needs is null.
    """

    name: Literal["cosine", "step"]
    epochs: int
    final_learning_rate: float | None
    step_epochs: int | None
    step_factor: float | None

    def __post_init__(self) -> None:
        _at_least(self, "epochs", 1)
        _at_most(self, "epochs", 10 * _LARGEST)
        own = {"cosine": ("final_learning_rate",), "step": ("step_epochs", "step_factor")}
        for owner, names in own.items():
            for name in names:
                need = "is needed by" if self.name == owner else "must be null for"
                _refuse((getattr(self, name) is None) == (self.name == owner), f"{name} {need} {self.name}")
        if self.name == "step":
            _at_least(self, "step_epochs", 1)
            _positive(self, "step_factor")
        else:
            _at_least(self, "final_learning_rate", 0)


@dataclass(frozen=True)
class TemperatureSearch:
    """Dspike's search at the beginning of every epoch: see :func:`jellyplus.functional.search_temperature`."""

    parameter: str
    epsilon: float
    step: float
    batch_size: int
    statistics: Literal["train", "eval"]

    def __post_init__(self) -> None:
        _positive(self, "epsilon", "step", "batch_size")


@dataclass(frozen=True)
class FiniteDifferences:
    """The gradient of one parameter from finite differences, in every step (Li et al. 2021, Table 1)."""

    parameter: str
    epsilon: float

    def __post_init__(self) -> None:
        _positive(self, "epsilon")


@dataclass(frozen=True)
class Evolution:
    """EvAF's K(i), once an epoch: see :func:`jellyplus.functional.evaf_k`."""

    k_min: float
    k_max: float

    def __post_init__(self) -> None:
        _positive(self, "k_min", "k_max")


@dataclass(frozen=True)
class IMLoss:
    """IM-Loss beside the cross-entropy: see :class:`jellyplus.loss.IMLoss`."""

    weight: float
    variant: Literal["membrane", "spikes"]

    def __post_init__(self) -> None:
        _positive(self, "weight")


@dataclass(frozen=True)
class WarmStart:
    """IM-Loss alone before the first epoch, until the last layer spikes: see :mod:`jellyplus.training.warm_start`."""

    learning_rate: float
    momentum: float
    max_iterations: int

    def __post_init__(self) -> None:
        _positive(self, "learning_rate", "max_iterations")
        _at_least(self, "momentum", 0)


@dataclass(frozen=True)
class Shortcut:
    """Shortcut branches in training: plain (Eq. 6: ``evolutionary: false``, weight 1) or with lambda(i) (Eq. 10)."""

    weight: float
    evolutionary: bool

    def __post_init__(self) -> None:
        _positive(self, "weight")


@dataclass(frozen=True)
class InitialWeights:
    """The run whose last weights are the first ones here.

    ``ann_bias`` decides how the bias of batch norm becomes that of tdBN: ``copy``, or ``scale`` by alpha V_th, which
    makes a pre-activation alpha V_th times the ANN's. It has no effect between spiking networks.
    """

    run: str
    ann_bias: Literal["copy", "scale"]

    def __post_init__(self) -> None:
        check_run_name(self.run, "run")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run's numbers, apart from its seed. ``neuron: null`` makes the network an ANN."""

    data: Data
    model: Model
    neuron: Neuron | None
    surrogate: Surrogate | None
    norm: Norm | None
    optimizer: Optimizer
    schedule: Schedule
    temperature_search: TemperatureSearch | None
    finite_differences: FiniteDifferences | None
    evolution: Evolution | None
    im_loss: IMLoss | None
    warm_start: WarmStart | None
    shortcut: Shortcut | None
    initial_weights: InitialWeights | None
    gpu_precision: Literal["32-true", "16-mixed", "bf16-mixed"]

    def __post_init__(self) -> None:
        surrogate = self.surrogate.name if self.surrogate else None
        if self.spiking:
            _refuse(surrogate is None, "surrogate is null, and neurons need one")
            bfloat16 = self.gpu_precision == "bf16-mixed" and self.neuron.backend in ("cpp", "cupy")
            _refuse(bfloat16, f"neuron.backend {self.neuron.backend} does not run bfloat16: choose auto or torch")
        else:
            self._check_ann()
        if self.norm:
            need = "is needed by" if self.model.has_branches else "must be null for"
            wrong = (self.norm.branch_alpha is None) == self.model.has_branches
            _refuse(wrong, f"norm.branch_alpha {need} {self.model.architecture}")
        if self.temperature_search:
            _refuse(surrogate != "dspike", "temperature_search needs surrogate dspike: no other has a temperature")
        if self.evolution:
            _refuse(surrogate != "evaf", "evolution needs surrogate evaf: no other has a K")
        if self.finite_differences:
            self._check_finite_differences()

    def _check_ann(self) -> None:
        _refuse(self.model.time_steps != 1, f"model.time_steps is {self.model.time_steps}; an ANN has one")
        for part in ("surrogate", "im_loss", "warm_start"):
            _refuse(getattr(self, part), f"{part} must be null in an ANN (neuron: null), where nothing fires")
        _refuse(self.norm and self.norm.name == "tdbn", "norm tdbn needs a V_th: an ANN has bn or null")

    def _check_finite_differences(self) -> None:
        parameter, search = self.finite_differences.parameter, self.temperature_search
        _refuse(self.im_loss, "finite_differences are those of the cross-entropy alone: im_loss must be null")
        void = search and search.parameter == parameter
        _refuse(void, f"finite_differences replace the gradient of {parameter} that temperature_search would improve")

    @property
    def spiking(self) -> bool:
        """Whether the network has neurons that fire."""
        return self.neuron is not None


@dataclass(frozen=True)
class Run:
    """A resolved recipe under a profile, with the run that its weights come from.

    ``key`` is the hash of all that: two runs with the same key are the same run.
    """

    name: str
    profile: str
    recipe: Recipe
    parent: "Run | None"

    @functools.cached_property
    def resolved(self) -> dict[str, Any]:
        """The recipe and its ancestors as plain data, without optional parts that it does not have.

        So a part that recipes may have from some version on leaves the keys of those without it as they were.
        """
        return as_plain_data(self.recipe) | {"parent": self.parent.resolved if self.parent else None}

    @functools.cached_property
    def key(self) -> str:
        """SHA-256 of the resolved recipe."""
        return recipe_key(self.resolved)


def as_plain_data(value: Any) -> Any:
    """Return dataclasses as dicts, without their fields that hold a default."""
    if dataclasses.is_dataclass(value):
        fields = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
        return {field.name: as_plain_data(held) for field, held in fields if held is not field.default}
    return dict(value) if isinstance(value, dict) else value


def recipe_key(resolved: dict) -> str:
    """Return the sha256, in hexadecimal, of a resolved recipe: of its JSON with sorted keys and no spaces."""
    canonical = json.dumps(resolved, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True)
class Profiles:
    """A paper's ``profiles.yaml``: what each profile replaces, by pattern of run names."""

    profiles: dict[str, dict[str, dict]]


def check_run_name(name: str, field: str) -> None:
    """Refuse what is not the name of a run, which is that of a file below ``recipes``, too.

    Raises:
        ValueError: it is another text.
    """
    plain = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)
    _refuse(not plain, f"{field} is {name!r}; it must be <paper>/<run>, as in recipes/<paper>/<run>.yaml")


def load_file(path: Path, profile: str) -> Run:
    """:func:`load_run` of a recipe given as a file, ``<recipes>/<paper>/<run>.yaml``."""
    path = Path(os.path.realpath(path))  # resolve() has a traceback for links that lead in a circle
    return load_run(f"{path.parent.name}/{path.stem}", profile, path.parent.parent)


def load_run(
    name: str,
    profile: str,
    folder: Path,
    overrides: Mapping[str, Any] | None = None,
    descendants: tuple[str, ...] = (),
) -> Run:
    """Read ``<folder>/<name>.yaml``, lay the profile over it, and do the same for the runs it starts from.

    The overlays of a paper stand in ``<folder>/<paper>/profiles.yaml``: profile, then pattern of run names, then what
    is replaced. All patterns that fit apply, in the order of the file.

    Args:
        name: ``<paper>/<run>``.
        profile: one of the paper's profiles.
        folder: of all recipes.
        overrides: what is changed last, in every profile; the runs it starts from are left as they are.
        descendants: runs that start from this one, directly or not.

    Raises:
        InputError: a missing file, an unknown or missing key, a value that does not fit; it names key and file.
    """
    path = folder / f"{name}.yaml"
    if name in descendants:
        raise InputError(f"{path}: initial_weights lead back to {name}; a run cannot start from itself")
    values = load_yaml(path, folder)
    recipe = from_mapping(Recipe, values, str(path))
    if overlays := _overlays(path, profile, folder):
        values = functools.reduce(_overlaid, overlays, values)
        recipe = from_mapping(Recipe, values, f"{path} under profile {profile} of {path.parent / 'profiles.yaml'}")
    if overrides:
        recipe = from_mapping(Recipe, _overlaid(values, overrides), f"{path} under profile {profile} with {overrides}")
    if not recipe.initial_weights:
        return Run(name, profile, recipe, None)
    parent = load_run(recipe.initial_weights.run, profile, folder, None, (*descendants, name))
    return Run(name, profile, recipe, parent)


def _overlays(path: Path, profile: str, folder: Path) -> list[Mapping]:
    source = path.parent / "profiles.yaml"
    profiles = from_mapping(Profiles, {"profiles": load_yaml(source, folder)}, str(source)).profiles
    if profile not in profiles:
        raise InputError(f"{source} has no profile {profile}; choose from {', '.join(profiles)}")
    return [overlay for pattern, overlay in profiles[profile].items() if fnmatch.fnmatchcase(path.stem, pattern)]


def _overlaid(values: Any, overlay: Any) -> Any:
    """``values`` with the leaves of ``overlay`` put in; a null stays null, since there is nothing to refine."""
    if values is None or not (isinstance(values, Mapping) and isinstance(overlay, Mapping)):
        return None if values is None and isinstance(overlay, Mapping) else overlay
    return {**values, **{key: _overlaid(values.get(key, value), value) for key, value in overlay.items()}}


def _refuse(when: object, reason: str) -> None:
    if when:
        raise ValueError(reason)


def _at_least(settings: Any, name: str, least: int) -> None:
    _refuse(getattr(settings, name) < least, f"{name} is {getattr(settings, name)}; it must be at least {least}")


def _at_most(settings: Any, name: str, most: int) -> None:
    _refuse(getattr(settings, name) > most, f"{name} is {getattr(settings, name)}; it must be at most {most}")


def _positive(settings: Any, *names: str) -> None:
    for name in names:
        _refuse(getattr(settings, name) <= 0, f"{name} is {getattr(settings, name)}; it must be positive")
