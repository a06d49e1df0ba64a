"""Residual networks of the papers.

``dspike_resnet18``: Li et al. 2021, section 5.1: ResNet-18 with three stem convolutions and average-pooling shortcuts
(He, T. et al. 2019), four stages of two basic blocks from 64 channels, doubled in each stage. The energies printed in
its Table 3 fix the rest: 187.37M MACs only come out if the third stem convolution works at half the resolution and
the first stage keeps it. 11,247,946 parameters with ten classes.
"""

import math
from collections.abc import Callable

from spikingjelly.activation_based import layer
from torch import Tensor, nn

from jellyplus import _compat
from jellyplus.layer import ThresholdDependentBatchNorm2d
from jellyplus.neuron import IterativeLIFNode
from jellyplus.surrogate import Dspike

__all__ = ["ResNet", "ann_resnet18", "dspike_resnet18"]

Neuron = Callable[[], nn.Module]
Norm = Callable[[float, int], nn.Module]  # (alpha, channels)


def _conv(in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> nn.Module:
    padding = kernel_size // 2
    return layer.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False, step_mode="m")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the neuron fires on the sum. [T, N, C, H, W] throughout.

    Where the shape changes, the shortcut is average pooling and a 1x1 convolution with a norm.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        neuron: Neuron,
        norm: Norm,
        alpha: float,
        branch_alpha: float,
    ):
        super().__init__()
        self.conv1 = _conv(in_channels, channels, stride=stride)
        self.norm1 = norm(alpha, channels)
        self.neuron1 = neuron()
        self.conv2 = _conv(channels, channels)
        self.norm2 = norm(branch_alpha, channels)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                layer.AvgPool2d(stride, step_mode="m"),
                _conv(in_channels, channels, kernel_size=1),
                norm(branch_alpha, channels),
            )
        self.neuron2 = neuron()

    def forward(self, x: Tensor) -> Tensor:
        """Spikes in, spikes out."""
        branch = self.norm2(self.conv2(self.neuron1(self.norm1(self.conv1(x)))))
        return self.neuron2(branch + self.shortcut(x))


class ResNet(nn.Module, _compat.StepModule):
    """Three stem convolutions, stages of basic blocks, global average pooling and one linear layer that never fires.

    In step mode 'm' the input is [T, N, C, H, W] or, for a static image, [1, N, C, H, W]: the first convolution and
    norm then run once and their output is presented at every time-step (Li et al. 2021, section 5: the first layer
    encodes). The output is [T, N, classes], the input of the softmax at each time-step; its mean over T is Eq. 3.
    In step mode 's' it maps one time-step [N, C, H, W] to [N, classes], in evaluation mode if it has tdBN.

    Args:
        blocks: basic blocks in each stage; every stage but the first halves the resolution and doubles the channels.
        width: channels of the first stage.
        num_classes: outputs.
        in_channels: 3 for images, 2 for event frames.
        time_steps: T.
        neuron: makes a neuron.
        norm: makes a norm from alpha and the number of channels.
        alpha: of the norms that a neuron follows.
        branch_alpha: alpha of the norms whose outputs are added.
        stem_pool: average pooling before the third stem convolution in place of its stride of two.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        width: int,
        num_classes: int,
        in_channels: int,
        time_steps: int,
        neuron: Neuron,
        norm: Norm,
        alpha: float,
        branch_alpha: float,
        stem_pool: bool,
    ):
        super().__init__()
        self.time_steps = time_steps
        self.step_mode = "m"
        self.conv1 = _conv(in_channels, width)
        self.norm1 = norm(alpha, width)
        self.neuron1 = neuron()
        self.stem = nn.Sequential(
            _conv(width, width), norm(alpha, width), neuron(),
            layer.AvgPool2d(2, step_mode="m") if stem_pool else nn.Identity(),
            _conv(width, width, stride=1 if stem_pool else 2), norm(alpha, width), neuron(),
        )  # fmt: skip
        widths = [width * 2**stage for stage in range(len(blocks))]
        shape = {"neuron": neuron, "norm": norm, "alpha": alpha, "branch_alpha": branch_alpha}
        self.stages = nn.Sequential()
        for stage, (channels, number) in enumerate(zip(widths, blocks, strict=True)):
            before = widths[max(stage - 1, 0)]
            first = BasicBlock(before, channels, stride=1 if stage == 0 else 2, **shape)
            self.stages.append(
                nn.Sequential(first, *(BasicBlock(channels, channels, 1, **shape) for _ in range(1, number)))
            )
        self.pool = layer.AdaptiveAvgPool2d(1, step_mode="m")
        self.fc = layer.Linear(widths[-1], num_classes, step_mode="m")
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """[T or 1, N, C, H, W] to [T, N, classes]."""
        x = self.norm1(self.conv1(x))
        if self.step_mode == "m":
            x = x.expand(self.time_steps, -1, -1, -1, -1)
        x = self.pool(self.stages(self.stem(self.neuron1(x))))
        return self.fc(x.flatten(-3))


def _initialise(net: nn.Module) -> None:
    """He initialisation of the convolutions, fan-out, as in torchvision's ResNet; no paper states its own."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def dspike_resnet18(
    num_classes: int = 10,
    in_channels: int = 3,
    width: int = 64,
    time_steps: int = 6,
    neuron: Neuron | None = None,
    norm: Norm | None = None,
    alpha: float = 1.0,
    branch_alpha: float = 1 / math.sqrt(2),
    stem_pool: bool = False,
) -> ResNet:
    """The spiking ResNet-18 of Dspike (Li et al. 2021, section 5.1).

    The paper leaves open: alpha (1, and 1 / sqrt(2) where two branches meet, as in tdBN's Fig. 5) and how the stem
    halves the resolution (a stride keeps the inputs of every convolution but the first binary; ``stem_pool`` is the
    other way).

    Args:
        num_classes: see :class:`ResNet`, as all others.
        in_channels: channels of the input.
        width: 64 in the paper.
        time_steps: T.
        neuron: default: :class:`~jellyplus.neuron.IterativeLIFNode` with :class:`~jellyplus.surrogate.Dspike`.
        norm: default: tdBN for V_th = 0.5.
        alpha: of tdBN in series.
        branch_alpha: of tdBN where two branches meet.
        stem_pool: pool in the stem.

    >>> sum(parameter.numel() for parameter in dspike_resnet18().parameters())
    11247946
    """
    neuron = neuron or (lambda: IterativeLIFNode(surrogate_function=Dspike(), step_mode="m"))
    norm = norm or (lambda alpha, channels: ThresholdDependentBatchNorm2d(alpha, 0.5, channels))
    dimensions = ((2, 2, 2, 2), width, num_classes, in_channels, time_steps)
    return ResNet(*dimensions, neuron, norm, alpha, branch_alpha, stem_pool)


def ann_resnet18(
    num_classes: int = 10, in_channels: int = 3, width: int = 64, norm: Norm | None = None, stem_pool: bool = False
) -> ResNet:
    """The ANN twin of :func:`dspike_resnet18`: ReLU for the neuron, batch norm for tdBN, one time-step.

    Its parameters have the same names and shapes, so that it can initialise the spiking network.
    """
    norm = norm or (lambda _, channels: layer.BatchNorm2d(channels, step_mode="m"))
    return ResNet((2, 2, 2, 2), width, num_classes, in_channels, 1, nn.ReLU, norm, 1.0, 1.0, stem_pool)
