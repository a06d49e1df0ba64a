"""Residual blocks and stages (Zheng et al. 2021, Fig. 5): the neuron fires on the sum of branch and shortcut.

The last norm before the addition and the norm of a convolutional shortcut have alpha = ``branch_alpha``, all others
``alpha``. A shortcut that changes no shape is the identity and has no norm, unless ``parts.identity_norm``.
"""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from jellyplus.model.network import Layers, Network, Parts, choose, conv, dropout_layer, pool, spiking_conv, through
from jellyplus.neuron.normalised import is_untouched, normalise_and_fire

__all__ = [
    "ResidualBlock",
    "ZeroPadding",
    "basic_branch",
    "bottleneck_branch",
    "norms_beside_identities",
    "norms_outside_blocks",
    "residual_stages",
]

_EXPANSION = 4  # of a bottleneck's last convolution (He, K. et al. 2016)


class ResidualBlock(nn.Module):
    """A branch beside a shortcut; the neuron fires on their sum. [T, N, C, H, W] throughout, or one time-step of it.

    Args:
        branch: layers, each with norm and neuron, the last one without neuron.
        shortcut: the identity, or what gives the branch's shape.
        neuron: behind the sum.
    """

    def __init__(self, branch: nn.Sequential, shortcut: nn.Module, neuron: nn.Module):
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.neuron = neuron

    def forward(self, x: Tensor) -> Tensor:
        """Spikes in, spikes out."""
        if type(self.branch) is not Layers or not self.branch or not is_untouched(self.branch):
            return self.neuron(self.branch(x) + self.shortcut(x))
        *layers, last = self.branch
        return normalise_and_fire(last, self.neuron, through(layers, x), self.shortcut(x))


def basic_branch(in_channels: int, channels: int, stride: int, parts: Parts) -> nn.Sequential:
    """Two 3x3 convolutions; ``channels`` come out."""
    first = spiking_conv(in_channels, channels, parts, stride=stride)
    if parts.dropout:
        first.append(dropout_layer(parts.dropout))
    return Layers(*first, conv(channels, channels), parts.norm(parts.branch_alpha, channels))


def bottleneck_branch(in_channels: int, channels: int, stride: int, parts: Parts) -> nn.Sequential:
    """1x1, 3x3 with the stride, 1x1 convolution; four times ``channels`` come out."""
    first = spiking_conv(in_channels, channels, parts, kernel_size=1)
    second = spiking_conv(channels, channels, parts, stride=stride)
    wide = _EXPANSION * channels
    return Layers(*first, *second, conv(channels, wide, 1), parts.norm(parts.branch_alpha, wide))


class ZeroPadding(nn.Module):
    """He, K. et al. 2016, option A: every ``stride``-th pixel, and channels of zeros behind those there are."""

    def __init__(self, stride: int, channels: int):
        super().__init__()
        self.stride = stride
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """[*, C, H, W] to [*, C + channels, H / stride, W / stride]."""
        return F.pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.channels))

    def extra_repr(self) -> str:
        """Its arguments."""
        return f"stride={self.stride}, channels={self.channels}"


def _convolution(in_channels: int, channels: int, stride: int, parts: Parts, kernel_size: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(in_channels, channels, kernel_size, stride), parts.norm(parts.branch_alpha, channels))


def _pool_convolution(in_channels: int, channels: int, stride: int, parts: Parts) -> nn.Module:
    """As in He, T. et al. 2019; an odd row or column is pooled too, so that sizes fit those of the branch."""
    return nn.Sequential(pool(stride, ceil_mode=True), *_convolution(in_channels, channels, 1, parts))


def _zero_padding(in_channels: int, channels: int, stride: int, parts: Parts) -> nn.Module:
    return ZeroPadding(stride, channels - in_channels)


def _identity(channels: int, parts: Parts) -> nn.Module:
    return parts.norm(parts.branch_alpha, channels) if parts.identity_norm else nn.Identity()


_SHORTCUTS = {
    "conv": _convolution,
    "conv3x3": partial(_convolution, kernel_size=3),
    "pool": _pool_convolution,
    "zero_pad": _zero_padding,
}


def residual_stages(
    blocks: Sequence[int],
    width: int,
    parts: Parts,
    shortcut: str,
    first_stride: int = 1,
    bottleneck: bool = False,
    in_channels: int = 0,
) -> nn.Sequential:
    """Stages of residual blocks, each but the first with half the resolution and twice the channels.

    Args:
        blocks: in each stage.
        width: channels of the first stage's 3x3 convolutions.
        parts: what the convolutions are followed by.
        shortcut: where shapes differ: ``"conv"``, a 1x1 convolution with the stride, or ``"conv3x3"``, a 3x3 one;
            ``"pool"``, average pooling and a 1x1 convolution; ``"zero_pad"``, no layer, see :class:`ZeroPadding`.
        first_stride: of the first stage.
        bottleneck: bottleneck branches for basic ones.
        in_channels: of the first stage's input; 0: the width.

    Raises:
        ValueError: an unknown shortcut, no stage, or a stage without blocks.
    """
    if not blocks or min(blocks) < 1:
        raise ValueError(
            f"blocks={tuple(blocks)} leave a stage empty: state one or more for each of one or more stages"
        )
    make_branch, expansion = (bottleneck_branch, _EXPANSION) if bottleneck else (basic_branch, 1)
    make_shortcut = choose("shortcut", shortcut, _SHORTCUTS)

    def block(before: int, channels: int, stride: int) -> ResidualBlock:
        after = expansion * channels
        same = stride == 1 and before == after
        beside = _identity(after, parts) if same else make_shortcut(before, after, stride, parts)
        return ResidualBlock(make_branch(before, channels, stride, parts), beside, parts.neuron())

    stages, before = nn.Sequential(), in_channels or width
    for stage, number in enumerate(blocks):
        channels = width * 2**stage
        first = block(before, channels, 2 if stage else first_stride)
        before = expansion * channels
        stages.append(nn.Sequential(first, *(block(before, channels, 1) for _ in range(1, number))))
    return stages


def _blocks(net: Network) -> list[ResidualBlock]:
    return [module for module in net.modules() if isinstance(module, ResidualBlock)]


def norms_beside_identities(net: Network) -> list[nn.Module]:
    """The last norm of each branch whose shortcut is the identity.

    Two branches meet behind it and only one of them has a norm. inflor's public code gives it an alpha of 1, and
    1 / sqrt(2) only to the norms of a branch and of a convolutional shortcut that meet.

    >>> from jellyplus.model import resnet19
    >>> [round(norm.alpha, 4) for norm in norms_beside_identities(resnet19(width=4, blocks=(1, 1, 2)))]
    [0.7071, 0.7071]
    """
    return [block.branch[-1] for block in _blocks(net) if isinstance(block.shortcut, nn.Identity)]


def norms_outside_blocks(net: Network) -> list[nn.Module]:
    """The norms of the stem, which in inflor's public code are plain batch norm while those of blocks are tdBN."""
    inside = {norm for block in _blocks(net) for norm in block.modules()}
    norms = (module for module in net.modules() if hasattr(module, "num_features"))
    return [norm for norm in norms if norm not in inside]
