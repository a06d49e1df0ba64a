"""A recipe states every value that decides a run's numbers; a profile is an overlay on it.

Recipes are YAML files, read into frozen dataclasses by :mod:`jellyplus.training.recipe_files`. Parts are named, never
given as a class path: to name a module would be to execute it.

What decides numbers and is no setting is the same in every run, and listed here. Only where a paper is named is it at
odds with what a paper states.

========================= =============================================================================================
``cross_entropy``         of the mean over time (Dspike Eq. 3): ``weight=None``, ``ignore_index=-100``,
                          ``reduction='mean'``, ``label_smoothing=0.0``
``SGD``                   ``dampening=0``, ``maximize=False``; weights, biases and norms all decay
``CosineAnnealingLR``     once an epoch, so that the last one still has a rate above the final one
``StepLR``                once an epoch
``Trainer``               ``gradient_clip_val=None``, ``gradient_clip_algorithm=None``
on a GPU                  convolutions may compute in TF32, other products not (torch's defaults); in 16-mixed a step
                          whose gradients overflow is left out
batches                   every epoch in a new order; what ``data.drop_last`` drops is another part in every epoch
evaluation                of the whole test split after every epoch, with running statistics; the last epoch counts
first layer               an image enters its convolution and norm once, whose output is shown at every time-step
neurons                   start every batch from the reset potential, 0 under soft reset
norms                     start with lambda 1 and beta 0; none is behind a linear layer; running variances are unbiased
shortcut branches         from every stage but the last; global average pooling and a linear layer with biases
``search_temperature``    keeps b where candidates are equally similar; none is below half a step
finite differences        are central, of the cross-entropy of the batch
warm start                SGD without weight decay, on the batches of the first epoch
``RandomHorizontalFlip``  ``p=0.5``
``RandomCrop``            ``fill=0``, ``padding_mode='constant'``, ``pad_if_needed=False``
``RandomResizedCrop``     ``scale=(0.08, 1.0)``, ``ratio=(0.75, 1.3333333333333333)``, ``interpolation='bilinear'``,
                          ``antialias=True``
``AutoAugment``           the CIFAR-10 policy
``Resize``                in evaluation: ``interpolation='bilinear'``, ``antialias=True``, ``max_size=None``
images                    are normalised by each channel's mean and deviation, as published for the data set where
                          ``data.normalisation`` is null; event frames are not normalised
========================= =============================================================================================
"""

import dataclasses
import functools
import hashlib
import inspect
import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from jellyplus import loss, model  # noqa: F401 - loss and surrogate, which model needs, register their parts
from jellyplus.datasets.settings import EventSettings, ImageSettings
from jellyplus.registry import (
    ARCHITECTURES,
    DATASETS,
    LOSSES,
    METHODS,
    NODES,
    NORMS,
    OPTIMIZERS,
    SCHEDULES,
    SURROGATES,
)
from jellyplus.training import parts as _own_parts  # noqa: F401 - it registers what recipes name
from jellyplus.training.method import settings_of
from jellyplus.training.methods import (
    evolution,
    finite_differences,
    im_loss,
    shortcut,
    temperature_search,
    warm_start,
)
from jellyplus.training.refusals import at_least, at_most, positive, refuse, registered

__all__ = ["Recipe", "Run", "as_plain_data", "check_run_name", "recipe_key"]

Parameters = dict[str, bool | int | float | str | tuple[float, ...]]

_LARGEST = 2**16  # no network of the papers is near it
_MOST_EPOCHS = 10_000  # the papers have 400 at most; evidence of more would be larger than its reader takes


@dataclass(frozen=True)
class Normalisation:
    """Images become (x - mean) / std, for each channel, x from 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        refuse(len(self.mean) != len(self.std), "mean and std need a number for each channel")
        refuse(min(self.std, default=0) <= 0, f"std is {self.std}; it must be positive for each channel")


@dataclass(frozen=True)
class Data:
    """What is learnt, and how examples are presented. Sizes in pixels; see :mod:`jellyplus.datasets.transforms`.

    ``images`` and ``events`` are for the data sets that need them, and left out for the others. With ``examples`` so
    many of each split are all there are, drawn evenly over the classes from ``examples_seed``. ``normalisation`` takes
    the place of the data set's own constants. Without ``drop_last`` the examples that are left over make an epoch's
    last step, a smaller one.

    With ``micro_batch`` a step shows so many examples at a time, of all processes together, and adds up their
    gradients, so that less has to be held for backward. Order, augmentation, schedules and number of steps are those
    of whole batches, and so is the gradient of the cross-entropy, but for what sees many examples at once: the norms
    take their statistics from each micro-batch, and move the running ones once for each; IM-Loss takes its means from
    each; a warm start takes each for a batch; dropout draws anew for each. The temperature search has a batch of its
    own.
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
    validation: int | None = None
    micro_batch: int | None = None
    normalisation: Normalisation | None = None
    cutout_before_normalisation: bool = False
    autoaugment_fill: int = 0
    autoaugment_interpolation: Literal["nearest", "bilinear", "bicubic"] = "nearest"
    drop_last: bool = True

    def __post_init__(self) -> None:
        at_least(self, "batch_size", 1)
        if self.micro_batch is not None:
            at_least(self, "micro_batch", 1)
            parts = f"micro_batch is {self.micro_batch} and batch_size {self.batch_size}"
            refuse(self.batch_size % self.micro_batch, f"{parts}: state a divisor of it, or null")
            refuse(not self.drop_last, "micro_batch divides whole batches only: state drop_last: true, or null for it")
        if self.examples is not None:
            at_least(self, "examples", 1)
        if self.validation is not None:
            at_least(self, "validation", 1)
        refuse(
            self.examples is None and self.examples_seed != 0,
            "examples_seed is for examples: state them, or leave it out",
        )
        void = self.cutout_before_normalisation and "cutout" not in self.augmentation
        refuse(void, "cutout_before_normalisation is for the augmentation cutout: name it there, or state false")
        drawn = (self.autoaugment_fill, self.autoaugment_interpolation) != (0, "nearest")
        void = drawn and "autoaugment" not in self.augmentation
        refuse(void, "autoaugment_fill and autoaugment_interpolation are for autoaugment: name it, or leave them out")
        refuse(not 0 <= self.autoaugment_fill <= 255, f"autoaugment_fill is {self.autoaugment_fill}; give 0 to 255")

    @property
    def at_once(self) -> int:
        """Examples that training shows at a time, of all processes together."""
        return self.micro_batch or self.batch_size


@dataclass(frozen=True)
class Model:
    """Which of :data:`jellyplus.registry.ARCHITECTURES`, its dimensions, its own options, and its first weights.

    ``time_steps`` is T; an ANN has one. Options that a recipe may leave out (:func:`jellyplus.model.optional`) are left
    out here where they hold the default, and so in the key. For the initialisations, of the decoding layers and of all
    others, see :func:`jellyplus.model.initialise`; that of the decoding layers may also be a deviation.
    """

    architecture: str
    num_classes: int
    in_channels: int
    width: int
    time_steps: int
    options: dict[str, bool | int | float | str | tuple[int, ...]]
    initialisation: Literal["he_fan_out", "torch", "normal_fan_in"] = "he_fan_out"
    decoding_initialisation: Literal["he_fan_out", "torch", "normal_fan_in"] | float = "torch"

    def __post_init__(self) -> None:
        for name in ("num_classes", "in_channels", "width", "time_steps"):
            at_least(self, name, 1)
            at_most(self, name, _LARGEST)
        registered(ARCHITECTURES, self.architecture)
        own, optional = model.options(self.architecture), model.optional(self.architecture)
        if not own.keys() - optional <= self.options.keys() <= own.keys():
            state = f"state {', '.join(own)} and no other" if own else "it has none, so state {}"
            raise ValueError(f"options are not those of {self.architecture}: {state}")
        for name, value in self.options.items():
            kinds = {float: (float, int)}.get(type(own[name]), (type(own[name]),))
            refuse(type(value) not in kinds, f"options.{name} is {value!r}; it must be like {own[name]!r}")
        refuse(self.options.get("input_size", 1) < 1, f"options.input_size is {self.options.get('input_size')} pixels")
        stem = self.options.get("stem_width", 0)
        refuse(not 0 <= stem <= _LARGEST, f"options.stem_width is {stem}; it must be 0 to {_LARGEST}")
        deciding = {n: value for n, value in self.options.items() if n not in optional or value != own[n]}
        object.__setattr__(self, "options", deciding)
        if isinstance(self.decoding_initialisation, float):
            positive(self, "decoding_initialisation")

    @property
    def has_branches(self) -> bool:
        """Whether branches meet in the network, so that some norms have ``branch_alpha``."""
        return "branch_alpha" in inspect.signature(ARCHITECTURES[self.architecture]).parameters


@dataclass(frozen=True)
class Neuron:
    """The constants of a node; ``lif`` is the iterative LIF (IF where decay is 1), ``v_reset: null`` its soft reset.

    ``srif`` has no decay and is reset by the spike itself; with ``rectify`` it fires on the rectified potential.
    ``backend`` runs it: ``auto`` is the fastest that can, see :func:`jellyplus.neuron.backends.choose`. Backends
    differ by rounding. With ``strict`` a potential of exactly V_th does not fire, as tdBN, Dspike and shortcut print it
    and IM-Loss's and InfLoR's official code has it; without it does, as SpikingJelly's and InfLoR's paper have it.

    Other nodes are those of :data:`jellyplus.registry.NODES`, which are given all of this and ``parameters``.
    """

    name: str
    decay: float
    v_threshold: float
    v_reset: float | None
    detach_reset: bool
    rectify: bool
    backend: Literal["auto", "torch", "cpp", "cupy"]
    strict: bool = False
    parameters: Parameters | None = None

    def __post_init__(self) -> None:
        registered(NODES, self.name)
        _check_own_parameters(self, ("lif", "srif"))
        srif = self.name == "srif"
        bare = (self.decay, self.v_reset) == (1.0, None)
        refuse(srif and not bare, "srif has neither decay nor reset potential: state decay 1 and v_reset null")
        refuse(self.rectify and self.name == "lif", "rectify is a part of srif: state false, or name srif")
        refuse(self.decay < 0, f"decay is {self.decay}; it must not be negative")
        positive(self, "v_threshold")
        off = srif and self.rectify and self.v_threshold != 0.5
        refuse(off, f"rectify is symmetric about 0.5 and v_threshold is {self.v_threshold}: state 0.5")


def _check_own_parameters(settings: Any, without: tuple[str, ...]) -> None:
    none = settings.name in without and settings.parameters is not None
    refuse(none, f"{settings.name} has no parameters beside the others: leave them out, or state null")


@dataclass(frozen=True)
class Surrogate:
    """A surrogate gradient of :data:`jellyplus.registry.SURROGATES` by name, with its shape parameters."""

    name: str
    parameters: dict[str, float]

    def __post_init__(self) -> None:
        registered(SURROGATES, self.name)


@dataclass(frozen=True)
class OutputLoss:
    """A loss on the outputs at every time-step, of :data:`jellyplus.registry.LOSSES`, with its parameters."""

    name: str
    parameters: dict[str, float]

    def __post_init__(self) -> None:
        registered(LOSSES, self.name)
        try:
            inspect.signature(LOSSES[self.name]).bind("y_seq", "labels", **self.parameters)
        except TypeError as error:
            raise ValueError(f"parameters do not fit {self.name}: {error}") from error


@dataclass(frozen=True)
class Norm:
    """tdBN, or torch's batch norm over time-steps too, which has no V_th and both alphas 1.

    ``branch_alpha`` is that of norms whose outputs are added; null where the architecture adds none. Where there are
    blocks, the norms beside an identity may have an alpha of their own, ``identity_alpha``, and those outside blocks be
    ``bn`` where the others are tdBN: ``outside_blocks``. Other norms are those of :data:`jellyplus.registry.NORMS`.
    """

    name: str
    alpha: float
    branch_alpha: float | None
    eps: float
    momentum: float
    identity_alpha: float | None = None
    outside_blocks: Literal["bn"] | None = None
    parameters: Parameters | None = None

    def __post_init__(self) -> None:
        registered(NORMS, self.name)
        _check_own_parameters(self, ("tdbn", "bn"))
        scaled = self.name == "bn" and {self.alpha, self.branch_alpha} - {1.0, None}
        refuse(scaled, "bn has no alpha: state 1 for alpha and branch_alpha")
        by_place = {self.identity_alpha, self.outside_blocks} - {None}
        refuse(self.name != "tdbn" and by_place, "identity_alpha and outside_blocks are for tdbn: leave them out")
        refuse(self.branch_alpha is None and by_place, "identity_alpha and outside_blocks need blocks: leave them out")
        positive(self, "eps")
        refuse(not 0 <= self.momentum <= 1, f"momentum is {self.momentum}; it must be 0 to 1")


@dataclass(frozen=True)
class Optimizer:
    """SGD, or one of :data:`jellyplus.registry.OPTIMIZERS`, which is given all of this and ``parameters``."""

    learning_rate: float
    momentum: float
    nesterov: bool
    weight_decay: float
    name: str = "sgd"
    parameters: Parameters | None = None

    def __post_init__(self) -> None:
        registered(OPTIMIZERS, self.name)
        _check_own_parameters(self, ("sgd",))
        for name in ("learning_rate", "momentum", "weight_decay"):
            refuse(getattr(self, name) < 0, f"{name} is {getattr(self, name)}; it must not be negative")
            at_most(self, name, _LARGEST)
        refuse(self.nesterov and self.momentum == 0, "nesterov needs a momentum above 0")


@dataclass(frozen=True)
class Schedule:
    """How the learning rate changes, once an epoch.

    ``cosine`` decays to ``final_learning_rate``; ``step`` multiplies by ``step_factor`` every ``step_epochs``. What the
    other one needs is null. Other schedules are those of :data:`jellyplus.registry.SCHEDULES`.
    """

    name: str
    epochs: int
    final_learning_rate: float | None
    step_epochs: int | None
    step_factor: float | None
    parameters: Parameters | None = None

    def __post_init__(self) -> None:
        registered(SCHEDULES, self.name)
        _check_own_parameters(self, ("cosine", "step"))
        at_least(self, "epochs", 1)
        at_most(self, "epochs", _MOST_EPOCHS)
        own = {"cosine": ("final_learning_rate",), "step": ("step_epochs", "step_factor")}
        if self.name not in own:
            return
        for owner, names in own.items():
            for name in names:
                need = "is needed by" if self.name == owner else "must be null for"
                refuse((getattr(self, name) is None) == (self.name == owner), f"{name} {need} {self.name}")
        if self.name == "step":
            at_least(self, "step_epochs", 1)
            positive(self, "step_factor")
        else:
            at_least(self, "final_learning_rate", 0)


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
    """Everything that decides a run's numbers, apart from its seed. ``neuron: null`` makes the network an ANN.

    ``methods`` are those of plugins by name, of :data:`jellyplus.registry.METHODS`, each with its settings.
    """

    data: Data
    model: Model
    neuron: Neuron | None
    surrogate: Surrogate | None
    norm: Norm | None
    optimizer: Optimizer
    schedule: Schedule
    temperature_search: temperature_search.Settings | None
    finite_differences: finite_differences.Settings | None
    evolution: evolution.Settings | None
    im_loss: im_loss.Settings | None
    warm_start: warm_start.Settings | None
    shortcut: shortcut.Settings | None
    initial_weights: InitialWeights | None
    gpu_precision: Literal["32-true", "16-mixed", "bf16-mixed"]
    output_loss: OutputLoss = OutputLoss("cross_entropy", {})
    methods: dict[str, dict] | None = None

    def __post_init__(self) -> None:
        surrogate = self.surrogate.name if self.surrogate else None
        if self.spiking:
            refuse(surrogate is None, "surrogate is null, and neurons need one")
        else:
            self._check_ann()
        if self.norm:
            need = "is needed by" if self.model.has_branches else "must be null for"
            wrong = (self.norm.branch_alpha is None) == self.model.has_branches
            refuse(wrong, f"norm.branch_alpha {need} {self.model.architecture}")
            void = self.norm.identity_alpha is not None and self.model.options.get("identity_norm")
            refuse(void, "norm.identity_alpha is for identities without a norm: leave model.options.identity_norm out")
        self._check_methods()

    def _check_methods(self) -> None:
        for name in self.methods or ():
            registered(METHODS, name)
            own = name in {field.name for field in dataclasses.fields(self)}
            refuse(own, f"methods are those of plugins, and {name} has a section of its own: state it there")
        for name, settings in settings_of(self).items():
            METHODS[name].check(settings, self)

    def _check_ann(self) -> None:
        refuse(self.model.time_steps != 1, f"model.time_steps is {self.model.time_steps}; an ANN has one")
        refuse(self.surrogate, "surrogate must be null in an ANN (neuron: null), where nothing fires")
        refuse(self.norm and self.norm.name == "tdbn", "norm tdbn needs a V_th: an ANN has bn or null")

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
    profile: str | None
    recipe: Recipe
    parent: "Run | None"

    @functools.cached_property
    def resolved(self) -> dict[str, Any]:
        """The recipe and its ancestors as plain data, without optional parts that it does not have.

        So a part that recipes may have from some version on leaves the keys of those without it as they were.
        """
        return as_plain_data(self.recipe) | {"parent": self.parent.resolved if self.parent else None}

    @property
    def plugins(self) -> tuple[str, ...]:
        """The digests of the sources from outside the package that decide its numbers; empty where there are none."""
        recipe = self.recipe
        named = [
            (ARCHITECTURES, recipe.model.architecture),
            (DATASETS, recipe.data.dataset),
            (LOSSES, recipe.output_loss.name),
            (NODES, recipe.neuron and recipe.neuron.name),
            (NORMS, recipe.norm and recipe.norm.name),
            (OPTIMIZERS, recipe.optimizer.name),
            (SCHEDULES, recipe.schedule.name),
            (SURROGATES, recipe.surrogate and recipe.surrogate.name),
            *((METHODS, name) for name in recipe.methods or ()),
        ]
        own = {parts.origin(name).digest for parts, name in named if name in parts} - {""}
        return tuple(sorted(own.union(self.parent.plugins if self.parent else ())))

    @functools.cached_property
    def key(self) -> str:
        """SHA-256 of the resolved recipe."""
        return recipe_key(self.resolved)


def as_plain_data(value: Any) -> Any:
    """Return dataclasses as dicts, without their fields that hold a default."""
    if dataclasses.is_dataclass(value):
        fields = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
        return {field.name: as_plain_data(held) for field, held in fields if not _is_default(field, held)}
    return dict(value) if isinstance(value, dict) else value


def _is_default(field: dataclasses.Field, held: Any) -> bool:
    return (type(held), held) == (type(field.default), field.default)


def recipe_key(resolved: dict) -> str:
    """Return the sha256, in hexadecimal, of a resolved recipe: of its JSON with sorted keys and no spaces."""
    canonical = json.dumps(resolved, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def check_run_name(name: str, field: str) -> None:
    """Refuse what is not the name of a run, which is that of a file below ``recipes``, too.

    Raises:
        ValueError: it is another text.
    """
    plain = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)
    refuse(not plain, f"{field} is {name!r}; it must be <paper>/<run>, as in recipes/<paper>/<run>.yaml")
