"""A recipe states every value that decides a run's numbers; a profile is an overlay on it.

Recipes are YAML files, ``recipes/<paper>/<run>.yaml``, read into frozen dataclasses. Parts are named, never given as
a class path: to name a module would be to execute it.
"""

import fnmatch
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from jellyplus._errors import InputError
from jellyplus._strict import from_mapping, load_yaml

__all__ = ["PROFILES", "Recipe", "Run", "load_run", "recipe_key"]

PROFILES = ("embedded", "small", "paper")


@dataclass(frozen=True)
class Data:
    """What is learnt, and how examples are presented. Sizes in pixels; see :mod:`jellyplus.datasets.transforms`."""

    dataset: str
    batch_size: int
    augmentation: tuple[str, ...]
    crop_padding: int
    cutout_size: int
    roll_pixels: int


@dataclass(frozen=True)
class Model:
    """Which network, and its dimensions; an ANN has one time-step."""

    architecture: Literal["dspike_resnet18", "ann_resnet18"]
    num_classes: int
    in_channels: int
    width: int
    time_steps: int
    stem_pool: bool

    def __post_init__(self) -> None:
        for name in ("num_classes", "in_channels", "width", "time_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.spiking and self.time_steps != 1:
            raise ValueError(f"time_steps is {self.time_steps}; an ANN has one")

    @property
    def spiking(self) -> bool:
        """Whether the network has neurons that fire."""
        return self.architecture != "ann_resnet18"


@dataclass(frozen=True)
class Neuron:
    """The constants of the iterative LIF node; ``v_reset: null`` is soft reset.

    ``backend`` runs it: ``auto`` is the fastest that can, see :func:`jellyplus.neuron.backends.choose`. Backends
    differ by rounding.
    """

    decay: float
    v_threshold: float
    v_reset: float | None
    detach_reset: bool
    backend: Literal["auto", "torch", "cpp", "cupy"]


@dataclass(frozen=True)
class Surrogate:
    """A surrogate gradient by name, with its shape parameters."""

    name: Literal["dspike", "evaf", "rectangular", "triangular"]
    parameters: dict[str, float]


@dataclass(frozen=True)
class Norm:
    """tdBN, or torch's batch norm in an ANN (where both alphas are 1)."""

    name: Literal["tdbn", "bn"]
    alpha: float
    branch_alpha: float
    eps: float
    momentum: float

    def __post_init__(self) -> None:
        if self.name == "bn" and (self.alpha, self.branch_alpha) != (1.0, 1.0):
            raise ValueError("bn has no alpha: state 1 for alpha and branch_alpha")


@dataclass(frozen=True)
class Optimizer:
    """SGD."""

    learning_rate: float
    momentum: float
    nesterov: bool
    weight_decay: float

    def __post_init__(self) -> None:
        for name in ("learning_rate", "momentum", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")


@dataclass(frozen=True)
class Schedule:
    """Cosine decay from the learning rate to ``final_learning_rate``, changed once an epoch."""

    epochs: int
    final_learning_rate: float

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}; it must be at least 1")


@dataclass(frozen=True)
class TemperatureSearch:
    """Dspike's search at the beginning of every epoch: see :func:`jellyplus.functional.search_temperature`."""

    parameter: str
    epsilon: float
    step: float
    batch_size: int
    statistics: Literal["train", "eval"]

    def __post_init__(self) -> None:
        for name in ("epsilon", "step", "batch_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")


@dataclass(frozen=True)
class InitialWeights:
    """The run whose last weights are the first ones here.

    ``ann_bias`` decides how the bias of batch norm becomes that of tdBN: ``copy``, or ``scale`` by alpha V_th, which
    makes a pre-activation alpha V_th times the ANN's. It has no effect between spiking networks.
    """

    run: str
    ann_bias: Literal["copy", "scale"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run's numbers, apart from its seed."""

    data: Data
    model: Model
    neuron: Neuron | None
    surrogate: Surrogate | None
    norm: Norm
    optimizer: Optimizer
    schedule: Schedule
    temperature_search: TemperatureSearch | None
    initial_weights: InitialWeights | None
    gpu_precision: Literal["32-true", "16-mixed", "bf16-mixed"]

    def __post_init__(self) -> None:
        for name in ("neuron", "surrogate"):
            if (getattr(self, name) is not None) != self.model.spiking:
                need = "is needed by" if self.model.spiking else "must be null for"
                raise ValueError(f"{name} {need} {self.model.architecture}")
        if (self.norm.name == "tdbn") != self.model.spiking:
            raise ValueError(f"norm.name {self.norm.name} does not fit {self.model.architecture}: tdbn needs V_th")
        if self.neuron and self.neuron.backend in ("cpp", "cupy") and self.gpu_precision == "bf16-mixed":
            raise ValueError(f"neuron.backend {self.neuron.backend} does not run bfloat16: choose auto or torch")
        if self.temperature_search and (self.surrogate is None or self.surrogate.name != "dspike"):
            raise ValueError("temperature_search needs surrogate.name dspike: no other surrogate has a temperature")


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
        """The recipe and its ancestors as plain data."""
        return asdict(self.recipe) | {"parent": self.parent.resolved if self.parent else None}

    @functools.cached_property
    def key(self) -> str:
        """SHA-256 of the resolved recipe."""
        return recipe_key(self.resolved)


def recipe_key(resolved: dict) -> str:
    """Return the sha256, in hexadecimal, of a resolved recipe: of its JSON with sorted keys and no spaces."""
    canonical = json.dumps(resolved, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True)
class Profiles:
    """A paper's ``profiles.yaml``: what each profile replaces, by pattern of run names."""

    profiles: dict[str, dict[str, dict]]


def load_run(name: str, profile: str, folder: Path, descendants: tuple[str, ...] = ()) -> Run:
    """Read ``<folder>/<name>.yaml``, lay the profile over it, and do the same for the runs it starts from.

    The overlays of a paper stand in ``<folder>/<paper>/profiles.yaml``: profile, then pattern of run names, then what
    is replaced. All patterns that fit apply, in the order of the file.

    Args:
        name: ``<paper>/<run>``.
        profile: one of the paper's profiles.
        folder: of all recipes.
        descendants: runs that start from this one, directly or not.

    Raises:
        InputError: a missing file, an unknown or missing key, a value that does not fit; it names key and file.
    """
    path = folder / f"{name}.yaml"
    if name in descendants:
        raise InputError(f"{path}: initial_weights lead back to {name}; a run cannot start from itself")
    values = load_yaml(path)
    recipe = from_mapping(Recipe, values, str(path))
    if overlays := _overlays(path, profile):
        values = functools.reduce(_overlaid, overlays, values)
        recipe = from_mapping(Recipe, values, f"{path} under profile {profile} of {path.parent / 'profiles.yaml'}")
    if not recipe.initial_weights:
        return Run(name, profile, recipe, None)
    parent = load_run(recipe.initial_weights.run, profile, folder, (*descendants, name))
    return Run(name, profile, recipe, parent)


def _overlays(path: Path, profile: str) -> list[Mapping]:
    source = path.parent / "profiles.yaml"
    profiles = from_mapping(Profiles, {"profiles": load_yaml(source)}, str(source)).profiles
    if profile not in profiles:
        raise InputError(f"{source} has no profile {profile}; choose from {', '.join(profiles)}")
    return [overlay for pattern, overlay in profiles[profile].items() if fnmatch.fnmatchcase(path.stem, pattern)]


def _overlaid(values: Any, overlay: Any) -> Any:
    """``values`` with the leaves of ``overlay`` put in; a null stays null, since there is nothing to refine."""
    if values is None or not (isinstance(values, Mapping) and isinstance(overlay, Mapping)):
        return None if values is None and isinstance(overlay, Mapping) else overlay
    return {**values, **{key: _overlaid(values.get(key, value), value) for key, value in overlay.items()}}
