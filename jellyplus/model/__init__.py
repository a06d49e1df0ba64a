"""Network architectures of the papers; neuron and norm arrive as factories. See :mod:`jellyplus.model.network`."""

import inspect
from typing import Any

from jellyplus.model.cifarnet import cifarnet
from jellyplus.model.network import Layers, Network, Neuron, Norm, ann, initialise
from jellyplus.model.plain import plain
from jellyplus.model.residual import ResidualBlock, norms_beside_identities, norms_outside_blocks
from jellyplus.model.resnet import (
    dspike_resnet18,
    resnet17,
    resnet18_cifar,
    resnet18_imagenet,
    resnet19,
    resnet20,
    resnet20_diet,
    resnet20_he,
    resnet34_cifar,
    resnet34_imagenet,
    tdbn_resnet34,
    tdbn_resnet50,
)
from jellyplus.model.shortcut import Shortcuts, attach_shortcuts, remove_shortcuts
from jellyplus.model.toy import toy_cnn
from jellyplus.model.vgg import vgg16_diet, vgg16_global_pool, vgg16_imagenet
from jellyplus.registry import ARCHITECTURES

_CONSTRUCTORS = (
    cifarnet,
    vgg16_diet,
    vgg16_global_pool,
    vgg16_imagenet,
    resnet17,
    resnet19,
    resnet20,
    resnet20_diet,
    resnet20_he,
    dspike_resnet18,
    resnet18_cifar,
    resnet34_cifar,
    resnet18_imagenet,
    resnet34_imagenet,
    tdbn_resnet34,
    tdbn_resnet50,
    plain,
    toy_cnn,
)

for _make in _CONSTRUCTORS:
    ARCHITECTURES.register(_make.__name__)(_make)

__all__ = [
    *(make.__name__ for make in _CONSTRUCTORS),
    "ARCHITECTURES",
    "Layers",
    "Network",
    "Neuron",
    "Norm",
    "ResidualBlock",
    "Shortcuts",
    "ann",
    "attach_shortcuts",
    "initialise",
    "norms_beside_identities",
    "norms_outside_blocks",
    "optional",
    "options",
    "remove_shortcuts",
]

_SHARED = {"num_classes", "in_channels", "width", "time_steps", "neuron", "norm", "alpha", "branch_alpha"}


def options(name: str) -> dict[str, Any]:
    """What an architecture can be asked for beside the arguments that all share, with the defaults.

    Raises:
        ValueError: no architecture has this name.

    >>> options("resnet20")
    {'blocks': (2, 2, 2, 2), 'shortcut': 'pool', 'stem': 'pool_after', 'identity_norm': False}
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"there is no architecture {name!r}: choose from {', '.join(ARCHITECTURES)}")
    parameters = inspect.signature(ARCHITECTURES[name]).parameters.items()
    return {option: parameter.default for option, parameter in parameters if option not in _SHARED}


def optional(name: str) -> set[str]:
    """Which options of an architecture a recipe may leave out, for the default: the keyword-only ones.

    They came after recipes that there is evidence of, whose keys are without them.
    """
    parameters = inspect.signature(ARCHITECTURES[name]).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
