r"""Shortcut branches from the stages to the output (Guo et al. 2024, Eqs. 6 and 10).

.. math:: o = b_n(x) + \lambda \sum_{l < n} b_l(x)

:math:`b_n` is the network's own output, :math:`b_l` a branch behind stage l: global average pooling and a linear
layer. Training sees the sum, so the loss reaches every stage directly; inference the main branch alone (Algorithm 1).
Eq. 6 has :math:`\lambda = 1`; Eq. 10 lets it decrease, see :func:`jellyplus.functional.shortcut_weight`.

The paper leaves open where the branches start: here behind every stage but the last, whose output the main branch
reads itself. Each branch gives one output for each time-step, as the main one does.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn

if TYPE_CHECKING:
    from jellyplus.model.network import Network

__all__ = ["Shortcuts", "attach_shortcuts", "remove_shortcuts"]


class Shortcuts(nn.Module):
    """The weighted sum of all branches, in Eqs. 6 and 10 the part beside the main output.

    The linear layers are initialised as the network's decoding layer is: torch's default.

    Args:
        channels: of the output of each stage that a branch starts from.
        num_classes: outputs.
        weight: lambda, a buffer, which a schedule may fill anew in every iteration.
    """

    weight: Tensor

    def __init__(self, channels: Sequence[int], num_classes: int, weight: float = 1.0):
        super().__init__()
        self.register_buffer("weight", torch.tensor(float(weight)))
        self.branches = nn.ModuleList(_branch(c, num_classes) for c in channels)

    def forward(self, outputs: Iterable[Tensor]) -> Tensor:
        """[T, N, C, H, W] from each stage to [T, N, classes]."""
        return self.weight * sum(branch(x) for branch, x in zip(self.branches, outputs, strict=True))


def _branch(channels: int, num_classes: int) -> nn.Sequential:
    pool, linear = layer.AdaptiveAvgPool2d(1, step_mode="m"), layer.Linear(channels, num_classes, step_mode="m")
    return nn.Sequential(pool, nn.Flatten(-3), linear)


def attach_shortcuts(net: "Network", weight: float = 1.0) -> "Network":
    """Add a branch from every stage but the last to the output, in place; other weights stay as they are.

    Args:
        net: a network of :mod:`jellyplus.model`.
        weight: lambda.

    Returns:
        The same network.

    Raises:
        ValueError: it has branches already, or only one stage.

    >>> from jellyplus.model import resnet19
    >>> [branch[-1].in_features for branch in attach_shortcuts(resnet19(width=4)).shortcuts.branches]
    [4, 8]
    """
    if net.shortcuts is not None:
        raise ValueError("the network has shortcut branches already: remove_shortcuts(net) gives one without")
    if len(net.stages) < 2:
        raise ValueError(f"shortcut branches need two stages or more, and the network has {len(net.stages)}")
    shortcuts = Shortcuts([output_channels(stage) for stage in net.stages[:-1]], net.fc.out_features, weight)
    for module in shortcuts.modules():
        if hasattr(module, "step_mode"):
            module.step_mode = net.step_mode
    net.shortcuts = shortcuts.to(net.fc.weight).train(net.training)
    return net


def output_channels(stage: nn.Module) -> int:
    """Channels of a stage's output: those of its last convolution, which in a residual block all agree on."""
    return [module.out_channels for module in stage.modules() if isinstance(module, nn.Conv2d)][-1]


def remove_shortcuts(net: "Network") -> "Network":
    """A copy of ``net`` without branches, as it is meant for inference; what it computes in evaluation is the same."""
    plain = copy.deepcopy(net)
    plain.shortcuts = None
    return plain
