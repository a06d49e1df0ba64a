"""Sums over all processes that gradients pass through: one batch in several processes, the same numbers as in one.

The loss of the whole is the sum of the processes' losses. What every process reads depends on what each of them put
in, so the gradient of a process's share is the sum of the gradients that arrive everywhere. DDP then divides by their
number. torch has the like in ``torch.distributed.nn.functional``, which it has declared deprecated.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

__all__ = [
    "alone",
    "average_gradients",
    "from_first",
    "gathered",
    "mean_over_processes",
    "processes",
    "rank",
    "sum_over_processes",
]

T = TypeVar("T")

_is_alone = False


def processes() -> int:
    """How many processes share a batch: the size of the default process group, 1 where there is none."""
    return 1 if _is_alone or not _is_grouped() else distributed.get_world_size()


def rank() -> int:
    """Which of the processes this is, from 0."""
    return distributed.get_rank() if _is_grouped() else 0


def _is_grouped() -> bool:
    return distributed.is_available() and distributed.is_initialized()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within it the process has its batch to itself: nothing is summed, and nobody waits for it."""
    global _is_alone
    before, _is_alone = _is_alone, True
    try:
        yield
    finally:
        _is_alone = before


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of every process's ``x``, of one shape in all; ``x`` itself where there is one process."""
    return x if processes() == 1 else _Sum.apply(x)


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of every process's ``x``; ``x`` itself where there is one process."""
    return x if processes() == 1 else _Sum.apply(x) / processes()


def from_first(value: T) -> T:
    """Process 0's ``value``, which is pickled where there are several."""
    if processes() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


def gathered(value: T) -> list[T]:
    """Every process's ``value``, by rank; they are pickled where there are several."""
    if processes() == 1:
        return [value]
    values = [value] * processes()
    distributed.all_gather_object(values, value)
    return values


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """What DDP does in a backward pass, for one that ran without it."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = mean_over_processes(parameter.grad)


class _Sum(torch.autograd.Function):
    """An all-reduce whose backward pass is an all-reduce."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Sum.apply(grad)
