"""Training watched from outside: what goes through a classifier and what every step of SGD does to its parameters.

Nothing of the training code is replaced, so that what is seen is what a run does.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.optim import Optimizer, optimizer

from jellyplus.loss import read_out
from jellyplus.training.classifier import Classifier

__all__ = ["Values", "float64", "projection", "watched"]

Values = dict[str, Any]


def projection(x: Tensor) -> float:
    """One number that depends on every element and on its place, about as large as one of them.

    The weights are a Weyl sequence, the same on every machine, so that no generator has to be.
    """
    flat = x.detach().double().flatten()
    weights = torch.arange(1, len(flat) + 1, dtype=torch.float64) * _GOLDEN
    return (flat @ (2 * weights.frac() - 1) / max(len(flat), 1) ** 0.5).item()


_GOLDEN = (5**0.5 - 1) / 2


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """New tensors are in double precision, what reaches a module in single precision is converted, on one thread.

    Random numbers begin anew, and go on outside as if none had been drawn.
    """
    before, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    handle = hooks.register_module_forward_pre_hook(lambda _, inputs: tuple(map(_doubled, inputs)))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            yield
    finally:
        handle.remove()
        torch.set_default_dtype(before)
        torch.set_num_threads(threads)


def _doubled(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.dtype == torch.float32 else value


@contextlib.contextmanager
def watched() -> Iterator[Values]:
    """What happens within it: what classifiers read out, the losses, gradients and weights of steps, as lists."""
    seen: dict[str, list[float]] = defaultdict(list)

    def output(module: nn.Module, _: Any, y: Any) -> None:
        if isinstance(module, Classifier):
            where = "outputs in training" if torch.is_grad_enabled() else "outputs in evaluation"
            seen[where].append(projection(read_out(y)))

    def loss(_: Optimizer, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if closure := kwargs.get("closure"):
            return args, kwargs | {"closure": lambda: _kept(closure(), seen["loss of step"])}
        return None

    def step(sgd: Optimizer, *_: Any) -> None:
        parameters = [p for group in sgd.param_groups for p in group["params"]]
        for name, tensors in (
            ("gradient of step", [p.grad for p in parameters if p.grad is not None]),
            ("weights after step", parameters),
        ):
            seen[name].append(sum(map(projection, tensors)))  # in whatever order, and in whichever groups

    handles = [
        hooks.register_module_forward_hook(output),
        optimizer.register_optimizer_step_pre_hook(loss),
        optimizer.register_optimizer_step_post_hook(step),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _kept(value: Tensor, values: list[float]) -> Tensor:
    values.append(value.item())
    return value
