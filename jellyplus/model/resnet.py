"""The residual networks of the papers; :mod:`jellyplus.model.network` has the arguments that all share.

Their options in common:

* ``blocks``: residual blocks in each stage; every stage but the first halves the resolution and doubles the channels;
* ``shortcut``: what stands beside a branch that changes the shape: ``"conv"``, a 1x1 convolution with the stride, or
  ``"conv3x3"``, a 3x3 one, as in imloss's code when it was reviewed; ``"pool"``, average pooling and a 1x1 convolution
  (He, T. et al. 2019); ``"zero_pad"``, no layer (option A of He, K. et al. 2016). Dspike states ``"pool"``; tdBN's
  Fig. 5 says "conversion" and its Table 4 strided convolutions;
* ``identity_norm``: whether the identity, which stands beside every other branch, has a norm with ``branch_alpha``
  behind it. tdBN means the input of every neuron to be N(0, V_th^2) at first, and behind bare identities it is not
  (mean 0.15 to 0.31, deviation 0.50 to 0.58 for V_th = 0.5); its Fig. 5 shows a norm for conversions. ``fuse_tdbn``
  refuses such a network, whose norms stand behind no layer.

The default surrogate is the rectangular one of tdBN, but in Dspike's own network; no other paper states its own.
Each ends in global average pooling and ``fc``, unless it says otherwise.
"""

from torch import nn

from jellyplus.model.network import (
    BRANCH_ALPHA,
    Layers,
    Network,
    Neuron,
    Norm,
    Parts,
    adaptive_pool,
    choose,
    dropout_layer,
    global_pool,
    lif,
    linear,
    max_pool,
    pool,
    spiking_conv,
    spiking_linear,
    tdbn,
)
from jellyplus.model.residual import ResidualBlock, residual_stages
from jellyplus.model.shortcut import output_channels
from jellyplus.surrogate import Dspike, Rectangular

__all__ = [
    "ResidualBlock",
    "dspike_resnet18",
    "resnet17",
    "resnet18_cifar",
    "resnet18_imagenet",
    "resnet19",
    "resnet20",
    "resnet20_diet",
    "resnet20_he",
    "resnet34_cifar",
    "resnet34_imagenet",
    "tdbn_resnet34",
    "tdbn_resnet50",
]


def _globally_pooled(
    encoder: list[nn.Module],
    stages: nn.Sequential,
    num_classes: int,
    time_steps: int,
    stem: nn.Module | None = None,
) -> Network:
    fc = linear(output_channels(stages), num_classes)
    return Network(encoder, stages, nn.Sequential(*global_pool()), fc, time_steps, stem)


# --- Three convolutions in the stem: Dspike, and the ResNet-20 of Diet-SNN and its kin ----------------------------


def dspike_resnet18(
    num_classes: int = 10,
    in_channels: int = 3,
    width: int = 64,
    time_steps: int = 6,
    neuron: Neuron | None = None,
    norm: Norm | None = None,
    alpha: float = 1.0,
    branch_alpha: float = BRANCH_ALPHA,
    blocks: tuple[int, ...] = (2, 2, 2, 2),
    shortcut: str = "pool",
    stem: str = "stride",
    *,
    identity_norm: bool = False,
) -> Network:
    """The ResNet-18 of Dspike (Li et al. 2021, section 5.1): three stem convolutions and average-pooling shortcuts.

    The energies printed in its Table 3 fix the rest: 187.37M MACs only come out if the third stem convolution works
    at half the resolution and the first stage keeps it. 11,247,946 parameters with ten classes.

    Args:
        num_classes: see :mod:`jellyplus.model.network`, as for the next seven.
        in_channels: channels of the input.
        width: 64.
        time_steps: T.
        neuron: default: :class:`~jellyplus.surrogate.Dspike`.
        norm: default: tdBN.
        alpha: of tdBN in series; the paper leaves both alphas open.
        branch_alpha: of tdBN where two branches meet.
        blocks: in each stage.
        shortcut: see above.
        stem: how it halves the resolution, which the paper leaves open: ``"stride"`` of the third convolution, which
            keeps the inputs of every convolution but the first binary, or average pooling before or after it,
            ``"pool_before"`` and ``"pool_after"``.
        identity_norm: see above.

    Raises:
        ValueError: an unknown stem or shortcut.

    >>> sum(parameter.numel() for parameter in dspike_resnet18().parameters())
    11247946
    """
    parts = Parts(neuron or lif(Dspike), norm or tdbn, alpha, branch_alpha, identity_norm)
    return _deep_stemmed(num_classes, in_channels, width, time_steps, parts, blocks, shortcut, stem)


def resnet20(
    num_classes: int = 10,
    in_channels: int = 3,
    width: int = 64,
    time_steps: int = 5,
    neuron: Neuron | None = None,
    norm: Norm | None = None,
    alpha: float = 1.0,
    branch_alpha: float = BRANCH_ALPHA,
    blocks: tuple[int, ...] = (2, 2, 2, 2),
    shortcut: str = "pool",
    stem: str = "pool_after",
    *,
    identity_norm: bool = False,
) -> Network:
    """The ResNet-20 of inflor's official code: :func:`dspike_resnet18` with the stem's pool behind its convolutions."""
    parts = Parts(neuron or lif(Rectangular), norm or tdbn, alpha, branch_alpha, identity_norm)
    return _deep_stemmed(num_classes, in_channels, width, time_steps, parts, blocks, shortcut, stem)


def _deep_stemmed(
    num_classes: int,
    in_channels: int,
    width: int,
    time_steps: int,
    parts: Parts,
    blocks: tuple[int, ...],
    shortcut: str,
    stem: str,
) -> Network:
    stages = residual_stages(blocks, width, parts, shortcut)
    return _globally_pooled(
        spiking_conv(in_channels, width, parts), stages, num_classes, time_steps, _deep_stem(width, parts, stem)
    )


def _deep_stem(width: int, parts: Parts, kind: str) -> nn.Sequential:
    """The second and third convolution, which together halve the resolution, and what is dropped before each."""
    drop = [dropout_layer(parts.dropout)] if parts.dropout else []
    second, third = ([*drop, *spiking_conv(width, width, parts, stride=1 + last)] for last in (False, kind == "stride"))
    orders = {
        "stride": [*second, *third],
        "pool_before": [*second, pool(), *third],
        "pool_after": [*second, *third, pool()],
    }
    return Layers(*choose("stem", kind, orders))


def resnet20_diet(
    num_classes: int = 10,
    in_channels: int = 3,
    width: int = 64,
    time_steps: int = 5,
    neuron: Neuron | None = None,
    norm: Norm | None = None,
    alpha: float = 1.0,
    branch_alpha: float = BRANCH_ALPHA,
    blocks: tuple[int, ...] = (2, 2, 2, 2),
    shortcut: str = "conv",
    input_size: int = 32,
    *,
    identity_norm: bool = False,
    dropout: float = 0.0,
) -> Network:
    """The ResNet-20 of Diet-SNN, which inflor cites: no pooling at the end, no biases, and there no norm either.

    11,253,440 parameters with ``norm=lambda alpha, channels: nn.Identity()``; tdBN is the default, as everywhere.

    Args:
        num_classes: see :mod:`jellyplus.model.network`, as for the next seven.
        in_channels: channels of the input.
        width: 64.
        time_steps: T.
        neuron: default: rectangular surrogate.
        norm: default: tdBN.
        alpha: of tdBN in series.
        branch_alpha: of tdBN where two branches meet.
        blocks: in each stage.
        shortcut: see above.
        input_size: height and width of the input in pixels.
        identity_norm: see above.
        dropout: probability of zero behind the first two neurons and the first of each block, the same at every
            time-step; 0.2 in Diet-SNN's public code.
    """
    parts = Parts(neuron or lif(Rectangular), norm or tdbn, alpha, branch_alpha, identity_norm, dropout)
    stages = residual_stages(blocks, width, parts, shortcut)
    features = output_channels(stages) * _after_strides(input_size // 2, len(blocks) - 1) ** 2
    encoder, stem = spiking_conv(in_channels, width, parts), _deep_stem(width, parts, "pool_after")
    fc = linear(features, num_classes, bias=False)
    return Network(encoder, stages, nn.Sequential(nn.Flatten(-3)), fc, time_steps, stem)


def _after_strides(size: int, number: int) -> int:
    """Pixels that convolutions with a stride of 2 leave of ``size``; each rounds up."""
    return -(-size // 2**number)


# --- One convolution in the stem, small images ---------------------------------------------------------------------


def resnet18_cifar(
    num_classes: int = 100,
    in_channels: int = 3,
    width: int = 64,
    time_steps: int = 4,
    neuron: Neuron | None = None,
    norm: Norm | None = None,
    alpha: float = 1.0,
    branch_alpha: float = BRANCH_ALPHA,
    blocks: tuple[int, ...] = (2, 2, 2, 2),
    shortcut: str = "conv",
    *,
    identity_norm: bool = False,
) -> Network:
    """ResNet-18 for CIFAR, as the shortcut paper needs it: one 3x3 convolution, four stages, the first without stride.

    That paper (Guo et al. 2024) leaves its stem open. 11,220,132 parameters with a hundred classes.
    """
    parts = Parts(neuron or lif(Rectangular), norm or tdbn, alpha, branch_alpha, identity_norm)
    return _small(num_classes, in_channels, width, time_steps, parts, blocks, shortcut)


def resnet34_cifar(
    num_classes: int = 100,
    in_channels: int = 3,
    width: int = 64,
    time_steps: int = 4,
    neuron: Neuron | None = None,
    norm: Norm | None = None,
    alpha: float = 1.0,
    branch_alpha: float = BRANCH_ALPHA,
    blocks: tuple[int, ...] = (3, 4, 6, 3),
    shortcut: str = "conv",
    *,
    identity_norm: bool = False,
) -> Network:
    """ResNet-34 for CIFAR: :func:`resnet18_cifar` with more blocks."""
    parts = Parts(neuron or lif(Rectangular), norm or tdbn, alpha, branch_alpha, identity_norm)
    return _small(num_classes, in_channels, width, time_steps, parts, blocks, shortcut)


def resnet20_he(
    num_classes: int = 10,
    in_channels: int = 3,
    width: int = 16,
    time_steps: int = 4,
    neuron: Neuron | None = None,
    norm: Norm | None = None,
    alpha: float = 1.0,
    branch_alpha: float = BRANCH_ALPHA,
    blocks: tuple[int, ...] = (3, 3, 3),
    shortcut: str = "zero_pad",
    *,
    identity_norm: bool = False,
) -> Network:
    """The ResNet-20 of He, K. et al. 2016, section 4.2: 16, 32 and 64 channels, 269,722 parameters."""
    parts = Parts(neuron or lif(Rectangular), norm or tdbn, alpha, branch_alpha, identity_norm)
    return _small(num_classes, in_channels, width, time_steps, parts, blocks, shortcut)


def _small(
    num_classes: int,
    in_channels: int,
    width: int,
    time_steps: int,
    parts: Parts,
    blocks: tuple[int, ...],
    shortcut: str,
) -> Network:
    stages = residual_stages(blocks, width, parts, shortcut)
    return _globally_pooled(spiking_conv(in_channels, width, parts), stages, num_classes, time_steps)


# --- A hidden linear layer at the end: tdBN's networks for small images (Zheng et al. 2021, Table 4) ---------------


def resnet19(
    num_classes: int = 10,
    in_channels: int = 3,
    width: int = 128,
    time_steps: int = 6,
    neuron: Neuron | None = None,
    norm: Norm | None = None,
    alpha: float = 1.0,
    branch_alpha: float = BRANCH_ALPHA,
    blocks: tuple[int, ...] = (3, 3, 2),
    shortcut: str = "conv",
    pool: str = "global",
    input_size: int = 32,
    *,
    identity_norm: bool = False,
    hidden: bool = True,
    stem_width: int = 0,
) -> Network:
    """tdBN's ResNet-19, for CIFAR-10 and DVS-CIFAR10.

    Args:
        num_classes: see :mod:`jellyplus.model.network`, as for the next seven.
        in_channels: channels of the input.
        width: 128; the hidden linear layer has twice as many features.
        time_steps: T.
        neuron: default: rectangular surrogate.
        norm: default: tdBN.
        alpha: of tdBN in series.
        branch_alpha: of tdBN where two branches meet.
        blocks: in each stage.
        shortcut: see above.
        pool: what Table 4's "average pool/2" means before the hidden layer: ``"global"`` (12,697,994 parameters), which
            the 2285M operations in Dspike's Table 3 come from, or ``"2x2"`` (14,664,074; 2287M); or ``"4x4"``, to 4x4
            pixels, which is the same for an input of 32.
        input_size: height and width of the input in pixels, which ``"2x2"`` needs.
        identity_norm: see above.
        hidden: False leaves the hidden layer out (12,569,226 parameters), as imloss's and inflor's public code does.
        stem_width: channels of the first convolution, 64 in other public code (STBP-simple, TET, imloss's when it was
            reviewed; the latter is ``stem_width=64, shortcut="conv3x3", pool="4x4"``, 15,973,194 parameters); 0: width.

    Raises:
        ValueError: an unknown pool or shortcut.
    """
    parts = Parts(neuron or lif(Rectangular), norm or tdbn, alpha, branch_alpha, identity_norm)
    stem = stem_width or width
    stages = residual_stages(blocks, width, parts, shortcut, in_channels=stem)
    size = _after_strides(input_size, len(blocks) - 1)
    features = 2 * width if hidden else 0
    return _with_hidden_layer(num_classes, in_channels, stem, time_steps, parts, stages, pool, size, features)


def resnet17(
    num_classes: int = 11,
    in_channels: int = 2,
    width: int = 64,
    time_steps: int = 40,
    neuron: Neuron | None = None,
    norm: Norm | None = None,
    alpha: float = 1.0,
    branch_alpha: float = BRANCH_ALPHA,
    blocks: tuple[int, ...] = (3, 4),
    shortcut: str = "conv",
    pool: str = "2x2",
    input_size: int = 32,
    *,
    identity_norm: bool = False,
) -> Network:
    """tdBN's ResNet-17, for DVS-Gesture: its first stage has a stride too, its hidden layer four times the width.

    Arguments as in :func:`resnet19`. "average pool/2" is read literally, as 2x2 (1,871,243 parameters): no printed
    number says otherwise here. ``pool="global"`` has 1,379,723.
    """
    parts = Parts(neuron or lif(Rectangular), norm or tdbn, alpha, branch_alpha, identity_norm)
    stages = residual_stages(blocks, width, parts, shortcut, first_stride=2)
    size = _after_strides(input_size, len(blocks))
    return _with_hidden_layer(num_classes, in_channels, width, time_steps, parts, stages, pool, size, 4 * width)


def _with_hidden_layer(
    num_classes: int,
    in_channels: int,
    stem: int,
    time_steps: int,
    parts: Parts,
    stages: nn.Sequential,
    kind: str,
    size: int,
    hidden: int,
) -> Network:
    """``hidden`` features, or 0 for no such layer."""
    pools = {"global": (adaptive_pool(1), 1), "2x2": (pool(), (size // 2) ** 2), "4x4": (adaptive_pool(4), 16)}
    pooling, pixels = choose("pool", kind, pools)
    features = output_channels(stages) * pixels
    head = nn.Sequential(pooling, nn.Flatten(-3))
    if hidden:
        head.extend(spiking_linear(features, hidden, parts))
    fc = hidden or features
    return Network(spiking_conv(in_channels, stem, parts), stages, head, linear(fc, num_classes), time_steps)


# --- A 7x7 convolution with a stride in the stem: ImageNet -----------------------------------------------------------


def resnet18_imagenet(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: int = 64,
    time_steps: int = 4,
    neuron: Neuron | None = None,
    norm: Norm | None = None,
    alpha: float = 1.0,
    branch_alpha: float = BRANCH_ALPHA,
    blocks: tuple[int, ...] = (2, 2, 2, 2),
    shortcut: str = "conv",
    *,
    identity_norm: bool = False,
    stem_pool: str = "average",
) -> Network:
    """ResNet-18 for ImageNet (He, K. et al. 2016), as torchvision has it but for the stem's pool.

    ``stem_pool`` is ``"average"``, as IM-Loss states, or ``"maximum"``, as He et al. have it; InfLoR and shortcut name
    neither.
    """
    parts = Parts(neuron or lif(Rectangular), norm or tdbn, alpha, branch_alpha, identity_norm)
    return _imagenet(num_classes, in_channels, width, time_steps, parts, blocks, shortcut, stem_pool)


def resnet34_imagenet(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: int = 64,
    time_steps: int = 4,
    neuron: Neuron | None = None,
    norm: Norm | None = None,
    alpha: float = 1.0,
    branch_alpha: float = BRANCH_ALPHA,
    blocks: tuple[int, ...] = (3, 4, 6, 3),
    shortcut: str = "conv",
    *,
    identity_norm: bool = False,
    stem_pool: str = "average",
) -> Network:
    """ResNet-34 for ImageNet: :func:`resnet18_imagenet` with more blocks."""
    parts = Parts(neuron or lif(Rectangular), norm or tdbn, alpha, branch_alpha, identity_norm)
    return _imagenet(num_classes, in_channels, width, time_steps, parts, blocks, shortcut, stem_pool)


def _imagenet(
    num_classes: int,
    in_channels: int,
    width: int,
    time_steps: int,
    parts: Parts,
    blocks: tuple[int, ...],
    shortcut: str,
    stem_pool: str,
) -> Network:
    encoder = spiking_conv(in_channels, width, parts, kernel_size=7, stride=2)
    stages = residual_stages(blocks, width, parts, shortcut)
    stem = choose("stem_pool", stem_pool, {"average": pool, "maximum": max_pool})(3, stride=2, padding=1)
    return _globally_pooled(encoder, stages, num_classes, time_steps, stem)


def tdbn_resnet34(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: int = 64,
    time_steps: int = 6,
    neuron: Neuron | None = None,
    norm: Norm | None = None,
    alpha: float = 1.0,
    branch_alpha: float = BRANCH_ALPHA,
    blocks: tuple[int, ...] = (3, 4, 6, 3),
    shortcut: str = "conv",
    *,
    identity_norm: bool = False,
) -> Network:
    """tdBN's ResNet-34 for ImageNet (Zheng et al. 2021, Table 4): a stride in the first stage, no pool in the stem.

    21,801,896 parameters; ``width=128`` is the large one, with 86,127,464.
    """
    parts = Parts(neuron or lif(Rectangular), norm or tdbn, alpha, branch_alpha, identity_norm)
    return _tdbn_imagenet(num_classes, in_channels, width, time_steps, parts, blocks, shortcut, bottleneck=False)


def tdbn_resnet50(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: int = 64,
    time_steps: int = 6,
    neuron: Neuron | None = None,
    norm: Norm | None = None,
    alpha: float = 1.0,
    branch_alpha: float = BRANCH_ALPHA,
    blocks: tuple[int, ...] = (3, 4, 6, 3),
    shortcut: str = "conv",
    *,
    identity_norm: bool = False,
) -> Network:
    """tdBN's ResNet-50: :func:`tdbn_resnet34` of bottlenecks with the stride on the 3x3; 25,557,032 parameters.

    Fig. 5 shows the alphas of a basic block only; a bottleneck's last norm has ``branch_alpha`` likewise.
    """
    parts = Parts(neuron or lif(Rectangular), norm or tdbn, alpha, branch_alpha, identity_norm)
    return _tdbn_imagenet(num_classes, in_channels, width, time_steps, parts, blocks, shortcut, bottleneck=True)


def _tdbn_imagenet(
    num_classes: int,
    in_channels: int,
    width: int,
    time_steps: int,
    parts: Parts,
    blocks: tuple[int, ...],
    shortcut: str,
    bottleneck: bool,
) -> Network:
    encoder = spiking_conv(in_channels, width, parts, kernel_size=7, stride=2)
    stages = residual_stages(blocks, width, parts, shortcut, first_stride=2, bottleneck=bottleneck)
    return _globally_pooled(encoder, stages, num_classes, time_steps)
