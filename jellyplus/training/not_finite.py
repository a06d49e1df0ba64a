"""Which number is not finite first, of those that training steps leave; found without a wait in every step."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from jellyplus import _compat
from jellyplus._distributed import alone

__all__ = ["Fault", "Watch", "origin"]


class Fault(NamedTuple):
    """The first step that met a number which is not finite.

    Attributes:
        step: since the watch began, from 1.
        loss: of that step.
        name: the first buffer, or else parameter, that is not finite; None where only the loss is not.
        finite_input: whether the step's input is.
    """

    step: int
    loss: float
    name: str | None
    finite_input: bool


class Watch:
    """Notes on the device what tells whether a step's numbers are finite; nothing but :meth:`look` makes a GPU wait.

    Statistics are made going forwards, so the first of them is where it began; gradients carry it to weights before it.
    A neuron that gets NaN does not fire, and the loss stays finite: weights and statistics tell.

    Args:
        net: on the device where it is trained.
    """

    def __init__(self, net: nn.Module):
        self._buffers = {name: buffer for name, buffer in net.named_buffers() if buffer.is_floating_point()}
        self._parameters = dict(net.named_parameters())
        self._looked_at = 0
        self._passes: list[Tensor] = []
        self._steps: list[Tensor] = []
        #: 0, and 1 from the first loss on that is not finite.
        self.stopped = next(net.parameters()).new_zeros((), dtype=torch.float32)

    @torch.no_grad()
    def note_pass(self, loss: Tensor, x: Tensor) -> None:
        """After a forward pass: loss, input and statistics."""
        self._passes.append(torch.stack([loss.double(), *_magnitudes([x, *self._buffers.values()])]))
        torch.maximum(self.stopped, loss.isfinite().logical_not(), out=self.stopped)

    @torch.no_grad()
    def note_step(self) -> None:
        """After the optimizer's step: weights."""
        self._steps.append(torch.stack(_magnitudes(self._parameters.values())))

    def look(self) -> Fault | None:
        """Wait for what was noted, and say what is not finite first."""
        for step, (loss, x, *others) in enumerate(self._noted(), self._looked_at + 1):
            found = zip((*self._buffers, *self._parameters), others, strict=False)  # the last step may be to come
            name = next((name for name, magnitude in found if not math.isfinite(magnitude)), None)
            if name or not math.isfinite(loss):
                return Fault(step, loss, name, math.isfinite(x))
        return None

    def _noted(self) -> Iterator[list[float]]:
        passes, steps = (torch.stack(rows).tolist() if rows else [] for rows in (self._passes, self._steps))
        return (row + (steps[i] if i < len(steps) else []) for i, row in enumerate(passes))

    def forget(self) -> None:
        """Begin anew after steps that were looked at and are in order."""
        self._looked_at += len(self._passes)
        self._passes, self._steps = [], []


def _magnitudes(values: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """One number each, finite where they all are: in double precision squares of single ones do not overflow."""
    return torch._foreach_norm(list(values), 2, torch.float64)  # a kernel or two on a GPU, whatever their number


@torch.no_grad()
def origin(net: nn.Module, x: Tensor) -> str:
    """Say in words what is not finite first: a weight, a layer's output, or none of them.

    Args:
        net: as it was when the loss was not finite; it runs once more, without the other processes, and its
            statistics change.
        x: its input in that step.
    """
    if name := next((name for name, value in net.named_parameters() if not _is_finite(value)), None):
        return f"{name} is not finite"
    found: list[str] = []

    def note(output: Tensor, name: str) -> None:
        if not _is_finite(output):
            found.append(name)

    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: note(output, name))
        for name, module in net.named_modules()
        if not list(module.children())
    ]
    _compat.reset_net(net)
    with alone():
        net(x)
    for handle in handles:
        handle.remove()
    return f"the first layer with an output that is not finite is {found[0]}" if found else "all layers are finite"


def _is_finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())
