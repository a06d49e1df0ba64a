"""Sums over all processes that gradients pass through: one batch in several processes, the same numbers as in one.

The loss of the whole is the sum of the processes' losses. What every process reads depends on what each of them put
in, so the gradient of a process's share is the sum of the gradients that arrive everywhere. DDP then divides by their
number. torch has the like in ``torch.distributed.nn.functional``, which it has declared deprecated.
"""

import torch
from torch import Tensor, distributed

__all__ = ["processes", "sum_over_processes"]


def processes() -> int:
    """How many processes share a batch: the size of the default process group, 1 where there is none."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of every process's ``x``, of one shape in all; ``x`` itself where there is one process."""
    return x if processes() == 1 else _Sum.apply(x)


class _Sum(torch.autograd.Function):
    """An all-reduce whose backward pass is an all-reduce."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _Sum.apply(grad)
