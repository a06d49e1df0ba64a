"""What a training method is: a section of a recipe, and what it does from the first step to the last.

The package's own, one a file in :mod:`jellyplus.training.methods`, and a plugin's are registered alike in
:data:`jellyplus.registry.METHODS`. A recipe has a section for each of ours, and ``methods: {name: settings}`` for
others.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from jellyplus._errors import InputError
from jellyplus._strict import from_mapping
from jellyplus.registry import METHODS

if TYPE_CHECKING:
    from jellyplus.training.classifier import Classifier
    from jellyplus.training.recipe import Recipe

__all__ = ["Method", "methods_of", "settings_of"]


class Method:
    """A training method; what a subclass does not say is nothing.

    ``training`` is the :class:`~jellyplus.training.classifier.Classifier`: it has ``net``, ``recipe``, ``device``,
    ``current_epoch``, and ``trainer`` with ``datamodule`` and ``global_step``; ``record(name=value)`` adds to the
    epoch's entry of the history. Hooks of several methods are called in the order in which these are registered.

    Args:
        settings: of the recipe, an instance of ``Settings``.
    """

    Settings: ClassVar[type]  #: a frozen dataclass; a ValueError of its ``__post_init__`` is said with the file's name
    seconds: ClassVar[tuple[str, ...]] = ()  #: what it records that is time beside that of the steps
    waits: ClassVar[bool] = False  #: a step takes so long with it that a GPU may as well be waited for

    def __init__(self, settings: Any):
        self.settings = settings

    @classmethod
    def check(cls, settings: Any, recipe: "Recipe") -> None:
        """Raise ValueError where the other parts of the recipe do not fit."""

    def build(self, net: nn.Module, recipe: "Recipe") -> nn.Module:
        """The network that is trained, ``net`` changed or wrapped; raises InputError where that cannot be."""
        return net

    def check_network(self, net: nn.Module) -> None:
        """Raise InputError where the network lacks what the method needs, before any training."""

    def attach(self, net: nn.Module) -> None:
        """Look on while ``net`` runs, as :meth:`loss` may want to; called once, with the network that is trained."""

    def begin_epoch(self, training: "Classifier") -> None:
        """Before the first step of an epoch, and before its clock starts."""

    def begin_step(self, training: "Classifier", batch: tuple[Tensor, Tensor, Tensor]) -> None:
        """Before a step shows inputs and labels; with micro-batches, before each."""

    def loss(self) -> Tensor | None:
        """A scalar added to the loss on the outputs, of the pass that has just been made.

        Its mean over an epoch is recorded under the method's name.
        """

    def before_update(self, training: "Classifier") -> None:
        """When the gradients of a step are there."""

    def end_epoch(self, training: "Classifier") -> None:
        """After an epoch's last step and the evaluation."""

    @classmethod
    def has_loss(cls) -> bool:
        """Whether :meth:`loss` is a part of the loss."""
        return cls.loss is not Method.loss

    # What the behaviour probe (jellyplus.reproduction.probe) asks for besides a short run with it.

    def small(self) -> dict[str, Any]:
        """Settings that take less time, as a short run on few examples has them: what is changed."""
        return {}

    def scheduled(self, epochs: int, shown: list[int]) -> dict[str, list[float]]:
        """What the method sets by a schedule of so many epochs, at those shown, by what it is."""
        return {}

    def probed(self, net: nn.Module, inputs: Tensor) -> dict[str, Any]:
        """Numbers, and lists of tensors, that say what else it does to a network in training mode."""
        return {}


def settings_of(recipe: "Recipe") -> dict[str, Any]:
    """The settings of the recipe's methods by name, in the order in which the methods are registered.

    Raises:
        ValueError: a plugin's do not fit it.
    """
    others = recipe.methods or {}
    found = {}
    for name, method in METHODS.items():
        if name in others:
            found[name] = _read(method, others[name], name)
        elif settings := getattr(recipe, name, None):
            found[name] = settings
    return found


def _read(method: type[Method], values: Any, name: str) -> Any:
    try:
        return from_mapping(method.Settings, values, f"methods.{name}")
    except InputError as error:
        raise ValueError(str(error)) from error


def methods_of(recipe: "Recipe") -> dict[str, Method]:
    """The recipe's methods by name, in the order in which they are registered."""
    return {name: METHODS[name](settings) for name, settings in settings_of(recipe).items()}
