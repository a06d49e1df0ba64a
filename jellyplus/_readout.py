"""A network whose channels meet in its last linear layers alone, cut there: so all its channels are moved at once."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from jellyplus._compat import layer
from jellyplus._copies import Copies, Place, training_norms
from jellyplus.layer import ThresholdDependentBatchNorm2d
from jellyplus.neuron import IterativeLIFNode, SRIFNode

__all__ = ["KNOWN", "LINEAR_IN_WEIGHT", "Readout", "Step", "find_readout", "has_hooks"]

# Types are compared, since a subclass may do anything.
CONVOLUTIONS = (nn.Conv2d, layer.Conv2d)
_CHANNELWISE = (  # on [*, C, H, W]
    *(nn.ReLU, IterativeLIFNode, SRIFNode, nn.MaxPool2d, layer.MaxPool2d),
    *(nn.BatchNorm2d, layer.BatchNorm2d, ThresholdDependentBatchNorm2d),
)
_AVERAGES = (nn.AvgPool2d, layer.AvgPool2d, nn.AdaptiveAvgPool2d, layer.AdaptiveAvgPool2d)
_FLATTENS = (nn.Flatten, layer.Flatten)
_LINEARS = (nn.Linear, layer.Linear)
LINEAR_IN_WEIGHT = (*CONVOLUTIONS, nn.Conv1d, layer.Conv1d, nn.Conv3d, layer.Conv3d, *_LINEARS)
KNOWN = CONVOLUTIONS + _CHANNELWISE + _AVERAGES + _FLATTENS + _LINEARS


class Step(NamedTuple):
    """A module in one pass, what it received and gave, and their versions then."""

    module: nn.Module
    received: Tensor
    received_version: int
    gave: Tensor
    gave_version: int


class Readout(NamedTuple):
    """A network cut where features [*, C, H, W] become outputs [*, classes] by linear modules alone.

    ``head`` makes the features. ``weight`` is what the linear modules come to, [C, classes, H W], and ``others`` the
    output in one pass without the part of one channel, [C, *, classes].
    """

    head: nn.Sequential
    weight: Tensor
    others: Tensor

    @classmethod
    def of(cls, head: nn.Sequential, linear: nn.Sequential, features: Tensor, y: Tensor) -> "Readout":
        """From its two parts, and the features and output of a pass."""
        classes = y.shape[-1]
        with torch.enable_grad():
            zeros = features.new_zeros(*[1] * (features.dim() - 4), classes, *features.shape[-3:], requires_grad=True)
            outputs = linear(zeros).view(classes, classes)
            (gradient,) = torch.autograd.grad(outputs.trace(), zeros)
        weight = gradient.view(classes, features.shape[-3], -1).transpose(0, 1)
        return cls(head, weight, y - _by_channel(features, weight))

    @property
    def copies(self) -> Copies:
        """Where copies lie, which the modules of ``head`` tell: along N of [T, N, C, H, W] or [N, C, H, W]."""
        place = Place(self.others.dim() - 3)
        return Copies(place, place, place, dict.fromkeys(training_norms(self.head), place))

    def losses(self, loss: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
        """The losses, [C], if each channel alone were as in ``features`` and the others as in that pass."""
        return torch.stack([loss(y) for y in self.others + _by_channel(features, self.weight)])


def _by_channel(features: Tensor, weight: Tensor) -> Tensor:
    """[*, C, H, W] and [C, classes, H W] to each channel's part of the output, [C, *, classes]."""
    channels = features.flatten(-2).movedim(-2, 0)
    parts = torch.bmm(weight, channels.flatten(1, -2).mT)  # in this order it is the fastest
    return parts.mT.unflatten(1, channels.shape[1:-1])


class _Presented(nn.Module):
    """One output at every time-step."""

    def __init__(self, time_steps: int):
        super().__init__()
        self.time_steps = time_steps

    def forward(self, x: Tensor) -> Tensor:
        """[1, *] to [T, *]."""
        return x.expand(self.time_steps, *x.shape[1:])


def find_readout(steps: list[Step], y: Tensor) -> Readout | None:
    """The cut behind these steps, if they lead from a convolution to ``y`` and no channel meets another before it.

    What happens beside the modules, such as a residual addition, shows in a tensor that is another one or changed.
    """
    if len(steps) < 3 or not isinstance(y, Tensor):
        return None
    end = Step(nn.Identity(), y, y._version, y, y._version)
    if not all(itertools.starmap(_is_handed_on, itertools.pairwise([*steps, end]))):
        return None
    owner, *middle, flatten, _ = steps
    kinds = [CONVOLUTIONS, *[_CHANNELWISE + _AVERAGES] * len(middle), _FLATTENS, _LINEARS]
    if (
        any(type(step.module) not in kind or has_hooks(step.module) for step, kind in zip(steps, kinds, strict=True))
        or not all(_has_a_batch(step, len(owner.received)) for step in steps[:-2])
        or getattr(owner.module, "groups", 1) > 1
        or flatten.gave.shape != flatten.received.flatten(-3).shape
    ):
        return None
    cut = len(steps) - 2
    while type(steps[cut - 1].module) in _AVERAGES:
        cut -= 1
    head = [owner.module]
    for before, after in itertools.pairwise(steps[: cut + 1]):
        if len(before.gave) < len(after.received):
            head.append(_Presented(len(after.received)))
        head.append(after.module)
    linear = nn.Sequential(*(step.module for step in steps[cut:]))
    return Readout.of(nn.Sequential(*head[:-1]), linear, steps[cut].received, y)


def _is_handed_on(before: Step, after: Step) -> bool:
    """Whether one module received what the other gave, unchanged, or that at every time-step."""
    given, received = before.gave, after.received
    same_memory = received.data_ptr() == given.data_ptr() and before.gave_version == after.received_version
    same_shape = received.shape[1:] == given.shape[1:] and len(given) in (1, len(received))
    return same_memory and same_shape and received.stride() == given.expand_as(received).stride()


def _has_a_batch(step: Step, examples: int) -> bool:
    """Whether its module sees [T, N, C, H, W], or [N, C, H, W] without a time among the N."""
    if step.received.dim() == 5:
        return True
    return step.received.dim() == 4 and len(step.received) == examples and getattr(step.module, "step_mode", "s") == "s"


def has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
