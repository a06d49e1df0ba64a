"""The network that a recipe describes, and the weights it starts from."""

import functools
import inspect
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from jellyplus import model, surrogate
from jellyplus._errors import InputError
from jellyplus.layer import ThresholdDependentBatchNorm2d
from jellyplus.neuron import backends
from jellyplus.registry import ARCHITECTURES, NODES, NORMS, SURROGATES
from jellyplus.training.method import methods_of
from jellyplus.training.parts import make
from jellyplus.training.recipe import InitialWeights, Norm, Recipe

__all__ = ["InitialState", "build_network", "check_parts", "choose_backend", "initialise"]


def choose_backend(recipe: Recipe, device: str, say: bool = True) -> str | None:
    """What runs the recipe's neurons on ``cpu`` or ``cuda``; None for an ANN.

    Args:
        recipe: ``neuron.backend`` decides.
        device: ``cpu`` or ``cuda``.
        say: print what ``auto`` chose, once in a process.

    Raises:
        InputError: the recipe names a backend that cannot run here.
    """
    if recipe.neuron is None:
        return None
    backend = recipe.neuron.backend
    if backend == "auto":
        backend, why = backends.choose(torch.device(device))
        if say and not NODES.origin(recipe.neuron.name).digest:  # a plugin's node may have no backend
            _say(_one_line(f"neurons run on backend {backend!r}: {why}"))
    elif {"cpp": "cpu", "cupy": "cuda"}.get(backend, device) != device:
        raise InputError(f"neuron.backend: {backend} does not run on {device}; choose auto or torch")
    elif found := backends.obstacle(backend):
        raise InputError(_one_line(f"neuron.backend: {backend} cannot run here: {found}"))
    return backend


@functools.cache
def _say(sentence: str) -> None:
    tqdm.write(sentence)


def _one_line(text: str) -> str:
    """A compiler's error may have many lines."""
    return " ".join(text.split())


def build_network(recipe: Recipe, backend: str | None = "torch") -> nn.Module:
    """Build the recipe's network with fresh weights from torch's random state.

    Args:
        recipe: what to build.
        backend: what runs its neurons, from :func:`choose_backend`.

    Raises:
        InputError: the surrogate has no such shape parameter, an option of the architecture does not fit, or shortcut
            branches have no stage to start from.
    """
    settings = recipe.model
    arguments = {name: getattr(settings, name) for name in ("num_classes", "in_channels", "width", "time_steps")}
    arguments |= settings.options | _alphas(recipe)
    arguments |= {"neuron": lambda: _neuron(recipe, backend), "norm": _norm(recipe)}
    try:
        net = ARCHITECTURES[settings.architecture](**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"model.options do not fit {settings.architecture}: {error}") from error
    if recipe.norm:
        _set_norms_by_place(net, recipe.norm)
    for method in methods_of(recipe).values():
        net = method.build(net, recipe)
    if (initial := (settings.initialisation, settings.decoding_initialisation)) != ("he_fan_out", "torch"):
        if not isinstance(net, model.Network):
            raise InputError(f"{settings.architecture} draws its own weights: leave both model.*initialisation out")
        model.initialise(net, *initial)  # or it is so already
    return net


def _set_norms_by_place(net: model.Network, norm: Norm) -> None:
    """As inflor's public code has them: another alpha beside identities, and batch norm outside blocks."""
    if norm.identity_alpha is not None:
        for module in model.norms_beside_identities(net):
            module.alpha = norm.identity_alpha
    if norm.outside_blocks == "bn":
        for module in model.norms_outside_blocks(net):
            module.alpha, module.v_th = 1.0, 1.0  # see parts._bn


def _alphas(recipe: Recipe) -> dict[str, float]:
    if recipe.norm is None:
        return {}
    names = ("alpha", "branch_alpha") if recipe.model.has_branches else ("alpha",)
    return {name: getattr(recipe.norm, name) for name in names}


def _neuron(recipe: Recipe, backend: str | None) -> nn.Module:
    neuron = recipe.neuron
    if neuron is None:
        return nn.ReLU()
    names = ("decay", "v_threshold", "v_reset", "detach_reset", "rectify", "strict")
    shared = {"surrogate_function": _surrogate(recipe), "step_mode": "m", "backend": backend}
    return make("neuron", NODES, neuron, names, **shared)


def _surrogate(recipe: Recipe) -> surrogate.Surrogate:
    name, parameters = recipe.surrogate.name, recipe.surrogate.parameters
    try:
        if left_out := inspect.signature(SURROGATES[name]).parameters.keys() - parameters.keys() - {"spiking"}:
            raise ValueError(f"state {', '.join(sorted(left_out))}")
        return SURROGATES[name](**parameters, spiking=True)
    except (TypeError, ValueError) as error:
        raise InputError(f"surrogate.parameters do not fit {name}: {error}") from error


def _norm(recipe: Recipe) -> model.Norm:
    if recipe.norm is None:
        return lambda alpha, channels: nn.Identity()
    shared = {"v_threshold": recipe.neuron and recipe.neuron.v_threshold}
    return lambda alpha, channels: make(
        "norm", NORMS, recipe.norm, ("eps", "momentum"), alpha=alpha, channels=channels, **shared
    )


def check_parts(net: nn.Module, recipe: Recipe) -> None:
    """Raise InputError where a method of the recipe needs what ``net`` does not have, before any training."""
    for method in methods_of(recipe).values():
        method.check_network(net)


class InitialState(NamedTuple):
    """The last weights of another run, and whether its network has neurons that fire."""

    weights: dict[str, Tensor]
    spiking: bool


@torch.no_grad()
def initialise(net: nn.Module, state: InitialState, settings: InitialWeights) -> list[str]:
    """Put the weights of an ANN, or of a network with other time-steps, into ``net``.

    Every key is mapped: convolutions and linear layers as they are; batch norm's weight, running mean and variance
    to tdBN's lambda and statistics; its bias as ``settings.ann_bias`` says. Shape parameters of surrogates and the
    weight of shortcut branches are the recipe's own and not taken over.

    Args:
        net: the network to fill, in place.
        state: what it starts from.
        settings: how.

    Returns:
        The names that were left over on either side, each with its side.

    Raises:
        InputError: a weight of another shape.
    """
    target, weights = net.state_dict(), state.weights
    common = [name for name in target if name in weights and not _is_evolving(name)]
    for name in common:
        if target[name].shape != weights[name].shape:
            shapes = f"{tuple(weights[name].shape)} and {tuple(target[name].shape)}"
            raise InputError(f"initial weights from {settings.run} do not fit: {name} is {shapes}; use the same width")
        target[name].copy_(weights[name])
    if not state.spiking and settings.ann_bias == "scale":
        _scale_biases(net)
    left_over = [f"{name} (not initialised)" for name in target if name not in common]
    return left_over + [f"{name} (not used)" for name in weights if name not in common]


def _is_evolving(name: str) -> bool:
    return ".surrogate_function." in name or name == "shortcuts.weight"


def _scale_biases(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, ThresholdDependentBatchNorm2d):
            module.bias.mul_(module.alpha * module.v_th)
