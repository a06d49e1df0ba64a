"""Whether a run fits into memory, estimated from its recipe before it starts.

Most is what the forward pass of a training step saves for backward; it grows with the examples that are shown at once
and with T. It is counted, not computed by a formula: the network runs once on torch's meta device, where tensors have
shapes and no memory, and whatever autograd saves counts; there a norm and its neurons run one after the other, which
keeps more than the one pass in which a CPU runs them. A step that does not fit keeps its activations compressed, which
changes no bit of what it computes.
"""

import math
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from jellyplus._distributed import alone, processes
from jellyplus._errors import InputError
from jellyplus.activations import Compression, Kept
from jellyplus.layer import _ThresholdDependentBatchNorm
from jellyplus.training.data import evaluation_batch
from jellyplus.training.job import launch
from jellyplus.training.layout import time_first
from jellyplus.training.method import methods_of
from jellyplus.training.network import build_network
from jellyplus.training.recipe import Recipe

__all__ = ["Need", "available", "check_network", "check_run", "compresses", "estimate", "keeps_steps"]


class Need(NamedTuple):
    """Bytes that a run needs on one device, without its data and the workspace of convolutions.

    Attributes:
        weights: with their gradients and momenta.
        saved: for backward, for each example that is shown at once.
        largest: of the saved tensors, for each example.
    """

    weights: float
    saved: float
    largest: float

    @property
    def training_example(self) -> float:
        """Of one example of a step; the largest counts twice more, for the gradients on their way."""
        return self.saved + 2 * self.largest

    def training(self, examples: int) -> float:
        """Of a step."""
        return self.weights + examples * self.training_example

    def evaluation(self, examples: int) -> float:
        """Of a pass that saves nothing: a layer's input and output, and what is between its parts."""
        return self.weights + examples * 3 * self.largest


_SHOWN = 2  # examples on the meta device; the rest grows with their number


def estimate(recipe: Recipe, shape: tuple[int, ...], device: str, compressed: bool = False) -> Need:
    """What a run needs on ``cpu`` or ``cuda``; measured peaks of training steps were 0.83 to 1.06 times that on a CPU.

    Mixed precision halves what is saved, or nearly so. The backends ``cpp`` and ``cupy`` save, besides, a potential
    every eight time-steps.

    Args:
        recipe: of the run.
        shape: of an example, [C, H, W] or [T, C, H, W].
        device: where it runs.
        compressed: its activations; backward computes the largest of what is not kept again.
    """
    number = processes() if compressed else 0
    with alone(), torch.device("meta"):
        net = build_network(recipe).train()
        saved = _saved(net, recipe, time_first(torch.zeros(_SHOWN, *shape)), number)
    halves = not (device == "cpu" or recipe.gpu_precision == "32-true")
    shares = [_SHOWN * (2 if halves and tensor.is_floating_point() else 1) for tensor in saved]
    sizes = [tensor.untyped_storage().nbytes() / share for tensor, share in zip(saved, shares, strict=True)]
    return Need(_weights(net), sum(sizes) + compressed * max(sizes), max(sizes))


def _weights(net: nn.Module) -> int:
    return 3 * sum(p.numel() * p.element_size() for p in net.parameters())


class _Counted(Compression):
    """Shows what it holds, in a job of so many processes, though it runs in one."""

    def __init__(self, show: Callable[[Tensor], Tensor], number: int):
        super().__init__()
        self.show, self.number = show, number

    def pack(self, tensor: Tensor) -> Kept:
        kept = super().pack(tensor)
        self.show(kept.held)
        return kept

    def again(self, norm: _BatchNorm, x: Tensor) -> Kept | None:
        joint = self.number > 1 and isinstance(norm, _ThresholdDependentBatchNorm)
        return None if joint else super().again(norm, x)


def _saved(net: nn.Module, recipe: Recipe, x: Tensor, compressed_in: int) -> list[Tensor]:
    """A tensor of every storage that a step keeps and that is no weight's; compressed in so many processes, or not."""
    kept: dict[int, Tensor] = {}  # which holds them, so that no identity comes twice

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    methods = methods_of(recipe)
    for method in methods.values():
        method.attach(net)  # which may make nodes keep their potentials
    as_it_is = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with _Counted(pack, compressed_in).running() if compressed_in else as_it_is:
        net(x)
    if any(method.has_loss() for method in methods.values()):
        _ = [pack(node.h_seq) for node in net.modules() if getattr(node, "h_seq", None) is not None]
    for parameter in net.parameters():
        kept.pop(parameter.untyped_storage()._cdata, None)
    return list(kept.values())


def available(device: str) -> float:
    """The bytes that a process may use: of the GPU what is free, of the machine its share; infinite where not known."""
    if device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return free + torch.cuda.memory_reserved()  # which torch holds ready
    if not hasattr(os, "sysconf"):  # Windows
        return math.inf
    started = launch()
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (started.per_node if started else 1)


def check_network(recipe: Recipe, device: str) -> None:
    """Raise InputError where not even the weights fit, before the network is built anywhere."""
    memory = available(device)
    try:
        with torch.device("meta"):
            needed = _weights(build_network(recipe))
    except RuntimeError:  # a size beyond 64 bits
        needed = math.inf
    if needed > memory:
        raise InputError(
            f"model.width {recipe.model.width} makes a network of {needed / _GIB:,.0f} GiB in training, "
            f"{_owner(device)} has {memory / _GIB:,.0f}: state a smaller width or fewer stages"
        )


def check_run(recipe: Recipe, shape: tuple[int, ...], device: str) -> float:
    """Return the bytes that a run needs at once: those of a step, the evaluation or the temperature search.

    Args:
        recipe, shape, device: see :func:`estimate`; the network fits, and runs.

    Raises:
        InputError: they do not fit; it says what to do.
    """
    memory, need = available(device), estimate(recipe, shape, device)
    uses = list(_uses(recipe, need, _of_step(recipe, shape, device, need, memory), memory))
    for what, needed, advice in uses:
        if needed > memory:
            has = f"{_owner(device)} has {memory / _GIB:,.1f}"
            raise InputError(f"{what} needs about {needed / _GIB:,.1f} GiB, {has}: state {advice}")
    return max(needed for _, needed, _ in uses)


def compresses(recipe: Recipe, shape: tuple[int, ...], device: str) -> bool:
    """Whether training steps keep their activations compressed: where they do not fit otherwise.

    Args:
        recipe, shape, device: see :func:`check_run`, which found that they fit.
    """
    need = estimate(recipe, shape, device)
    return _of_step(recipe, shape, device, need, available(device)) is not need


def keeps_steps(recipe: Recipe, shape: tuple[int, ...], device: str) -> bool:
    """Whether the memory of a step may stay its own while other passes are made, as that of CUDA graphs does.

    Args:
        recipe, shape, device: see :func:`check_run`, which found that they fit.
    """
    memory, need = available(device), estimate(recipe, shape, device)
    step, *others = (needed for _, needed, _ in _uses(recipe, need, need, memory))
    if not recipe.data.drop_last:  # a last batch that is smaller is no graph
        others.append(step)
    return step + max(others) <= memory


def _of_step(recipe: Recipe, shape: tuple[int, ...], device: str, need: Need, memory: float) -> Need:
    """What a step needs: what everything else does, or where that is too much, with compressed activations."""
    fits = need.training(_at_once(recipe)) <= memory
    return need if fits else estimate(recipe, shape, device, compressed=True)


def _at_once(recipe: Recipe) -> int:
    return recipe.data.at_once // processes()


def _owner(device: str) -> str:
    return "the GPU" if device == "cuda" else "the machine"


_GIB = 2**30


def _uses(recipe: Recipe, need: Need, of_step: Need, memory: float) -> Iterator[tuple[str, float, str]]:
    """What takes much, how much, and which setting makes it less."""
    smaller = _smaller(recipe, _fit(of_step, memory) * processes())
    shown = _at_once(recipe)
    yield f"a training step of {shown} examples", of_step.training(shown), smaller
    shown = evaluation_batch(recipe)
    yield f"the evaluation, {shown} examples at a time,", need.evaluation(shown), smaller
    if search := recipe.temperature_search:
        fit = _fit(need, memory)
        advice = f"temperature_search.batch_size {fit}" if fit else "a smaller model.width"
        yield f"the temperature search on {search.batch_size} examples", need.training(search.batch_size), advice


def _fit(need: Need, memory: float) -> int:
    """Examples of a step."""
    return max(0, int(min(memory - need.weights, 2.0**62) // need.training_example))


def _smaller(recipe: Recipe, fit: int) -> str:
    size = recipe.data.batch_size
    divisors = [n for n in range(processes(), min(fit, size) + 1, processes()) if size % n == 0]
    if not divisors or recipe.finite_differences or not recipe.data.drop_last:  # which need whole batches
        return "a smaller data.batch_size or model.width"
    return f"data.micro_batch {divisors[-1]}, which changes the statistics of norms, or a smaller model.width"
