"""CIFARNet: 128C3-256C3-AP2-512C3-AP2-1024C3-512C3-FC1024-FC512-FC10 (Guo et al. 2022, IM-Loss, section 5)."""

from torch import nn

from jellyplus.model.network import (
    Layers,
    Network,
    Neuron,
    Norm,
    Parts,
    lif,
    linear,
    pool,
    spiking_conv,
    spiking_linear,
    tdbn,
)
from jellyplus.surrogate import EvAF

__all__ = ["cifarnet"]


def cifarnet(
    num_classes: int = 10,
    in_channels: int = 3,
    width: int = 128,
    time_steps: int = 4,
    neuron: Neuron | None = None,
    norm: Norm | None = None,
    alpha: float = 1.0,
    input_size: int = 32,
) -> Network:
    """Five convolutions and two hidden linear layers; 45,005,450 parameters with tdBN and ten classes.

    The paper trains it with tdBN, and without any norm, when its convolutions have no biases either.

    Args:
        num_classes: see :mod:`jellyplus.model.network`, as for the next six.
        in_channels: channels of the input.
        width: 128; the hidden linear layers have 8 and 4 times as many features.
        time_steps: T.
        neuron: default: :class:`~jellyplus.surrogate.EvAF` with K = 1.
        norm: default: tdBN.
        alpha: of tdBN.
        input_size: height and width of the input in pixels.
    """
    parts = Parts(neuron or lif(EvAF), norm or tdbn, alpha)
    stages = nn.Sequential(
        Layers(*spiking_conv(width, 2 * width, parts), pool()),
        Layers(*spiking_conv(2 * width, 4 * width, parts), pool()),
        Layers(*spiking_conv(4 * width, 8 * width, parts), *spiking_conv(8 * width, 4 * width, parts)),
    )
    first = spiking_linear(4 * width * (input_size // 4) ** 2, 8 * width, parts)
    head = nn.Sequential(nn.Flatten(-3), *first, *spiking_linear(8 * width, 4 * width, parts))
    encoder, fc = spiking_conv(in_channels, width, parts), linear(4 * width, num_classes)
    return Network(encoder, stages, head, fc, time_steps)
