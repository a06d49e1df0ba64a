"""VGG-16 in the three forms that the papers use.

Diet-SNN's (``vgg16_diet`` on CIFAR, ``vgg16_imagenet``), which dspike and imloss cite, has two hidden linear layers,
dropout and neither biases nor a norm; the papers train it with tdBN, which is the default here, and
``norm=lambda alpha, channels: nn.Identity()`` leaves it out. The official code of imloss and inflor has
``vgg16_global_pool``. See :mod:`jellyplus.model.network` for the first arguments.
"""

from torch import nn

from jellyplus.model.network import (
    Layers,
    Network,
    Neuron,
    Norm,
    Parts,
    dropout_layer,
    global_pool,
    lif,
    linear,
    pool,
    spiking_conv,
    spiking_linear,
    tdbn,
)
from jellyplus.surrogate import Rectangular

__all__ = ["vgg16_diet", "vgg16_global_pool", "vgg16_imagenet"]

# Channels of the convolutions in each of the five stages, in units of the width; the first of all encodes.
_STAGES = ((1,), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))


def vgg16_diet(
    num_classes: int = 10,
    in_channels: int = 3,
    width: int = 64,
    time_steps: int = 5,
    neuron: Neuron | None = None,
    norm: Norm | None = None,
    alpha: float = 1.0,
    input_size: int = 32,
    dropout: float = 0.2,
) -> Network:
    """VGG-16 for CIFAR, with four pools and linear layers of 4096, 4096 and ``num_classes``.

    Args:
        num_classes: see :mod:`jellyplus.model.network`, as for the next six.
        in_channels: channels of the input.
        width: 64; the hidden linear layers have 64 times as many features.
        time_steps: T.
        neuron: default: rectangular surrogate.
        norm: default: tdBN.
        alpha: of tdBN.
        input_size: height and width of the input in pixels.
        dropout: probability of zero behind each hidden layer that no pool follows, the same at every time-step. The
            five papers do not state it; 0.2 is the default of Diet-SNN's public code. 0 leaves it out.
    """
    parts = Parts(neuron or lif(Rectangular), norm or tdbn, alpha)
    return _diet(num_classes, in_channels, width, time_steps, parts, input_size, dropout, pools=4)


def vgg16_imagenet(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: int = 64,
    time_steps: int = 5,
    neuron: Neuron | None = None,
    norm: Norm | None = None,
    alpha: float = 1.0,
    input_size: int = 224,
    dropout: float = 0.2,
) -> Network:
    """VGG-16 for ImageNet: as :func:`vgg16_diet`, with a fifth pool; arguments and defaults as there."""
    parts = Parts(neuron or lif(Rectangular), norm or tdbn, alpha)
    return _diet(num_classes, in_channels, width, time_steps, parts, input_size, dropout, pools=5)


def _diet(
    num_classes: int,
    in_channels: int,
    width: int,
    time_steps: int,
    parts: Parts,
    input_size: int,
    dropout: float,
    pools: int,
) -> Network:
    features, hidden = 8 * width * (input_size // 2**pools) ** 2, 64 * width
    head = nn.Sequential(nn.Flatten(-3))
    for before in (features, hidden):
        head.extend([*spiking_linear(before, hidden, parts, bias=False), dropout_layer(dropout)])
    fc = linear(hidden, num_classes, bias=False)
    encoder, stages = spiking_conv(in_channels, width, parts), _stages(width, parts, pools, dropout=dropout)
    return Network(encoder, stages, head, fc, time_steps, stem=dropout_layer(dropout))


def vgg16_global_pool(
    num_classes: int = 10,
    in_channels: int = 3,
    width: int = 64,
    time_steps: int = 5,
    neuron: Neuron | None = None,
    norm: Norm | None = None,
    alpha: float = 1.0,
) -> Network:
    """VGG-16 with five pools, global average pooling and one linear layer; its convolutions have biases.

    Arguments and defaults as in :func:`vgg16_diet`.
    """
    parts = Parts(neuron or lif(Rectangular), norm or tdbn, alpha)
    encoder = spiking_conv(in_channels, width, parts, bias=True)
    stages = _stages(width, parts, pools=5, bias=True)
    return Network(encoder, stages, nn.Sequential(*global_pool()), linear(8 * width, num_classes), time_steps)


def _stages(width: int, parts: Parts, pools: int, bias: bool = False, dropout: float = 0.0) -> nn.Sequential:
    """All convolutions but the first; a pool ends each of the first ``pools`` stages in place of its last dropout."""
    stages, before = nn.Sequential(), width
    for number, multiples in enumerate(_STAGES):
        stage = Layers()
        for multiple in multiples:
            stage.extend([*spiking_conv(before, multiple * width, parts, bias=bias), dropout_layer(dropout)])
            before = multiple * width
        if number < pools:
            stage[-1] = pool()
        stages.append(stage)
    return stages
