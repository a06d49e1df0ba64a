"""A plain network of any depth: the one in which gradient norms are measured (Zheng et al. 2021, Fig. 2)."""

from torch import nn

from jellyplus.model.network import Layers, Network, Neuron, Norm, Parts, global_pool, lif, linear, spiking_conv, tdbn
from jellyplus.surrogate import Rectangular

__all__ = ["plain"]


def plain(
    num_classes: int = 10,
    in_channels: int = 3,
    width: int = 64,
    time_steps: int = 6,
    neuron: Neuron | None = None,
    norm: Norm | None = None,
    alpha: float = 1.0,
    depth: int = 20,
    strides: tuple[int, ...] = (1, 1, 1),
) -> Network:
    """The encoding convolution, ``depth - 2`` 3x3 convolutions of equal width, and the decoding layer.

    The paper states the depth and CIFAR-10 and nothing else. Equal layers, so that their gradients compare: the
    width, three stages at one resolution, global average pooling and T are our choice. No convolution has a bias.

    Args:
        num_classes: see :mod:`jellyplus.model.network`, as for the next six.
        in_channels: channels of the input.
        width: of every convolution.
        time_steps: T.
        neuron: default: rectangular surrogate.
        norm: default: tdBN.
        alpha: of tdBN.
        depth: layers with weights.
        strides: of the first convolution of each stage; as many stages as there are strides, of equal length or,
            where that does not come out, the later ones longer by one.

    Raises:
        ValueError: no stages, fewer convolutions than stages, or a stride below 1.

    >>> [len(stage) // 3 for stage in plain(depth=19, width=4).stages]
    [5, 6, 6]
    """
    between = depth - 2
    if not strides or min(strides) < 1:
        raise ValueError(f"strides={tuple(strides)} make no network: state 1 or more for each of one or more stages")
    if between < len(strides):
        raise ValueError(f"depth={depth} leaves {between} convolutions for {len(strides)} stages: state fewer strides")
    parts = Parts(neuron or lif(Rectangular), norm or tdbn, alpha)
    stages = nn.Sequential()
    for number, stride in enumerate(strides):
        length = (between + number) // len(strides)
        stage = Layers(*spiking_conv(width, width, parts, stride=stride))
        for _ in range(1, length):
            stage.extend(spiking_conv(width, width, parts))
        stages.append(stage)
    encoder, fc = spiking_conv(in_channels, width, parts), linear(width, num_classes)
    return Network(encoder, stages, nn.Sequential(*global_pool()), fc, time_steps)
