"""The network that a recipe describes, and the weights it starts from."""

import functools

import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn
from tqdm import tqdm

from jellyplus import model, surrogate
from jellyplus._errors import InputError
from jellyplus.layer import ThresholdDependentBatchNorm2d
from jellyplus.neuron import IterativeLIFNode, backends
from jellyplus.training.recipe import InitialWeights, Recipe

__all__ = ["build_network", "check_search", "choose_backend", "initialise"]

_SURROGATES = {
    "dspike": surrogate.Dspike,
    "evaf": surrogate.EvAF,
    "rectangular": surrogate.Rectangular,
    "triangular": surrogate.Triangular,
}


def choose_backend(recipe: Recipe, device: str, say: bool = True) -> str | None:
    """What runs the recipe's neurons on ``cpu`` or ``cuda``; None for an ANN.

    Args:
        recipe: ``neuron.backend`` and ``gpu_precision`` decide.
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
        if backend != "torch" and device == "cuda" and recipe.gpu_precision == "bf16-mixed":
            backend, why = "torch", "the other backends do not run bfloat16"
        if say:
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
        InputError: the surrogate has no such shape parameter.
    """
    shape = {"num_classes": recipe.model.num_classes, "in_channels": recipe.model.in_channels}
    shape |= {"width": recipe.model.width, "stem_pool": recipe.model.stem_pool, "norm": _norm(recipe)}
    if not recipe.model.spiking:
        return model.ann_resnet18(**shape)
    return model.dspike_resnet18(
        **shape,
        time_steps=recipe.model.time_steps,
        neuron=lambda: _neuron(recipe, backend),
        alpha=recipe.norm.alpha,
        branch_alpha=recipe.norm.branch_alpha,
    )


def _neuron(recipe: Recipe, backend: str) -> nn.Module:
    neuron = recipe.neuron
    return IterativeLIFNode(
        decay=neuron.decay,
        v_threshold=neuron.v_threshold,
        v_reset=neuron.v_reset,
        detach_reset=neuron.detach_reset,
        surrogate_function=_surrogate(recipe),
        step_mode="m",
        backend=backend,
    )


def _surrogate(recipe: Recipe) -> surrogate.Surrogate:
    name, parameters = recipe.surrogate.name, recipe.surrogate.parameters
    try:
        return _SURROGATES[name](**parameters, spiking=True)
    except (TypeError, ValueError) as error:
        raise InputError(f"surrogate.parameters do not fit {name}: {error}") from error


def _norm(recipe: Recipe) -> model.resnet.Norm:
    constants = {"eps": recipe.norm.eps, "momentum": recipe.norm.momentum}
    if recipe.norm.name == "bn":
        return lambda _, channels: layer.BatchNorm2d(channels, **constants, step_mode="m")
    v_th = recipe.neuron.v_threshold
    return lambda alpha, channels: ThresholdDependentBatchNorm2d(alpha, v_th, channels, **constants)


def check_search(net: nn.Module, recipe: Recipe) -> None:
    """Raise InputError where the temperature search compares gradients of a parameter that ``net`` does not have."""
    search = recipe.temperature_search
    if search and search.parameter not in dict(net.named_parameters()):
        raise InputError(
            f"temperature_search.parameter: the network has no {search.parameter}; conv1.weight is the first"
        )


@torch.no_grad()
def initialise(net: nn.Module, weights: dict[str, Tensor], settings: InitialWeights) -> list[str]:
    """Put the weights of an ANN, or of a network with other time-steps, into ``net``.

    Every key is mapped: convolutions and linear layers as they are; batch norm's weight, running mean and variance
    to tdBN's lambda and statistics; its bias as ``settings.ann_bias`` says. Temperatures, as all shape parameters of
    surrogates, are the recipe's own and not taken over.

    Args:
        net: the network to fill, in place.
        weights: a state dict of the network it starts from.
        settings: how.

    Returns:
        The names that were left over on either side, each with its side.

    Raises:
        InputError: a weight of another shape.
    """
    target = net.state_dict()
    common = [name for name in target if name in weights and not _is_shape(name)]
    from_ann = not any(map(_is_shape, weights))
    for name in common:
        if target[name].shape != weights[name].shape:
            shapes = f"{tuple(weights[name].shape)} and {tuple(target[name].shape)}"
            raise InputError(f"initial weights from {settings.run} do not fit: {name} is {shapes}; use the same width")
        target[name].copy_(weights[name])
    if from_ann and settings.ann_bias == "scale":
        _scale_biases(net)
    left_over = [f"{name} (not initialised)" for name in target if name not in common]
    return left_over + [f"{name} (not used)" for name in weights if name not in common]


def _is_shape(name: str) -> bool:
    return ".surrogate_function." in name


def _scale_biases(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, ThresholdDependentBatchNorm2d):
            module.bias.mul_(module.alpha * module.v_th)
