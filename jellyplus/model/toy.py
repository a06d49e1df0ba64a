"""The toy network of Dspike (Li et al. 2021, section 4.2), in which all gradients can be compared."""

from torch import nn

from jellyplus.model.network import Network, Neuron, Norm, Parts, lif, linear, no_norm, pool, spiking_conv
from jellyplus.surrogate import Dspike

__all__ = ["toy_cnn"]


def toy_cnn(
    num_classes: int = 10,
    in_channels: int = 1,
    width: int = 6,
    time_steps: int = 6,
    neuron: Neuron | None = None,
    norm: Norm = no_norm,
    alpha: float = 1.0,
    input_size: int = 28,
) -> Network:
    """A 3x3 convolution, neurons, average pooling and one linear layer, for MNIST.

    The paper states no more than this, and 108 passes for the 54 weights of the convolution, which so has no bias.
    Padding of 1, 2x2 pooling, no norm and T are our choice. It has no stages.

    Args:
        num_classes: see :mod:`jellyplus.model.network`, as for the next six.
        in_channels: channels of the input.
        width: channels of the convolution.
        time_steps: T.
        neuron: default: :class:`~jellyplus.surrogate.Dspike`; ``nn.ReLU`` for the ANN.
        norm: default: none.
        alpha: of the norm.
        input_size: height and width of the input in pixels.

    >>> toy_cnn().conv1.weight.numel()
    54
    """
    parts = Parts(neuron or lif(Dspike), norm, alpha)
    head, fc = nn.Sequential(pool(), nn.Flatten(-3)), linear(width * (input_size // 2) ** 2, num_classes)
    return Network(spiking_conv(in_channels, width, parts), nn.Sequential(), head, fc, time_steps)
