"""What every architecture is: one network class, and the parts that its constructors are made of.

Each architecture is a function with the same first arguments:

* ``num_classes``, ``in_channels`` (3 for images, 2 for event frames), ``time_steps``: T;
* ``width``: channels of the first stage, which every other layer scales with, linear ones too;
* ``neuron``: makes a neuron in step mode 'm', by default an :class:`~jellyplus.neuron.IterativeLIFNode` with the
  surrogate of the paper that the architecture is from;
* ``norm``: makes a norm from alpha and the number of channels, by default tdBN for V_th = 0.5. It stands behind each
  convolution, never behind a linear layer: that is what the papers' numbers of parameters come to;
* ``alpha``: of the norms that a neuron follows, and in residual networks ``branch_alpha``: of those whose outputs are
  added (Zheng et al. 2021, Fig. 5: 1 and 1 / sqrt(2)).

Further arguments are the architecture's own options; those that are keyword-only may be left out of a recipe. Where
the networks that the papers cite pool by the maximum, average pooling is in its place: two state it (Li et al. 2021,
Dspike, section 5; Guo et al. 2022, IM-Loss, section 5). The other three say neither, and have it so here too.
"""

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor, fx, nn

from jellyplus import _compat
from jellyplus._compat import layer
from jellyplus.layer import ThresholdDependentBatchNorm1d, ThresholdDependentBatchNorm2d, ThresholdDependentBatchNorm3d
from jellyplus.model.shortcut import Shortcuts
from jellyplus.neuron import IterativeLIFNode, Node
from jellyplus.neuron.normalised import normalise_and_fire
from jellyplus.surrogate import Surrogate

__all__ = ["BRANCH_ALPHA", "Layers", "Network", "Neuron", "Norm", "Parts", "ann", "initialise"]

Neuron = Callable[[], nn.Module]
Norm = Callable[[float, int], nn.Module]  # (alpha, channels)

BRANCH_ALPHA = 1 / math.sqrt(2)


class Network(nn.Module, _compat.StepModule):
    """An encoding convolution, stages, and a head whose last linear layer, ``fc``, decodes and never fires.

    In step mode 'm' the input is [T, N, C, H, W] or, for a static image, [1, N, C, H, W]: the first convolution and
    norm then run once and their output is presented at every time-step (Li et al. 2021, section 5: the first layer
    encodes). The output is [T, N, classes], the input of the softmax at each time-step; its mean over T is Eq. 3.
    In step mode 's' it maps one time-step [N, C, H, W] to [N, classes], in evaluation mode if it has tdBN.

    Args:
        encoder: first convolution, norm and neuron: ``conv1``, ``norm1`` and ``neuron1``.
        stages: each of them one stage, from which a shortcut branch may start.
        head: from the last stage to the input of ``fc``.
        fc: the decoding layer.
        time_steps: T.
        stem: between encoder and stages.
    """

    def __init__(
        self,
        encoder: Sequence[nn.Module],
        stages: nn.Sequential,
        head: nn.Sequential,
        fc: nn.Linear,
        time_steps: int,
        stem: nn.Module | None = None,
    ):
        super().__init__()
        self.time_steps = time_steps
        self.step_mode = "m"
        self.conv1, self.norm1, self.neuron1 = encoder
        self.stem = stem or nn.Identity()
        self.stages = stages
        self.head = head
        self.fc = fc
        self.shortcuts: Shortcuts | None = None
        initialise(self, "he_fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """[T or 1, N, C, H, W] to [T, N, classes]; shortcut branches, where attached, add to it in training, by hooks.

        Raises:
            ValueError: another number of time-steps.
        """
        if self.step_mode == "m":
            x = _of_time_steps(x, self.time_steps)
        x = self.norm1(self.conv1(x))
        if self.step_mode == "m":
            x = x.expand(self.time_steps, -1, -1, -1, -1)
        x = self.stem(self.neuron1(x))
        return self.fc(self.head(self.stages(x)))


@fx.wrap  # an operation to whoever traces the network
def _of_time_steps(x: Tensor, time_steps: int) -> Tensor:
    if len(x) not in (1, time_steps):
        raise ValueError(
            f"the network runs {time_steps} time-steps and the input has {len(x)}, shape {tuple(x.shape)}: give it "
            f"[{time_steps}, N, C, H, W], or [1, N, C, H, W] for a static image; [N, T, C, H, W] becomes the first by "
            "x.transpose(0, 1)"
        )
    return x


class Layers(nn.Sequential):
    """Layers of which a norm and the neuron right behind it run in one pass, where the kernels can.

    Equal to torch's ``Sequential`` but for rounding; see :func:`jellyplus.neuron.normalised.normalise_and_fire`.
    """

    def forward(self, input: Tensor) -> Tensor:  # as torch names it
        """[T, N, C, *] through all of them."""
        return through(self, input)


def through(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """What :class:`Layers` give."""
    rest = list(layers)
    while rest:
        first = rest.pop(0)
        fires = bool(rest) and isinstance(rest[0], Node)
        x = normalise_and_fire(first, rest.pop(0), x) if fires else first(x)
    return x


def initialise(net: Network, hidden: str, decoding: str | float | None = None) -> None:
    """Draw the weights of all convolutions and linear layers; a new network has ``"he_fan_out"`` and ``"torch"``.

    No paper states its own. ``"he_fan_out"`` is He initialisation, normal, biases 0: convolutions by fan-out,
    N(0, 2 / fan_out), as in torchvision's ResNet; linear layers, which no norm follows, by fan-in, since under torch's
    default, with a sixth of this variance, the second hidden one hardly fires. ``"torch"`` is that default, uniform
    within 1 / sqrt(fan_in), biases too. ``"normal_fan_in"`` is normal with a deviation, not a variance, of 1 / fan_in,
    biases 0, as IM-Loss's and InfLoR's official code has it for the decoding layer of ResNets.

    Args:
        net: in place.
        hidden: of every layer but the decoding ones.
        decoding: of ``fc`` and of the linear layers of shortcut branches; None leaves them as they are, a number is the
            deviation of a normal distribution, biases 0.

    Raises:
        ValueError: an unknown one.
    """
    last = {net.fc, *(net.shortcuts.modules() if net.shortcuts else ())}
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and (how := decoding if module in last else hidden) is not None:
            _draw(module, how)


_Layer = nn.Conv2d | nn.Linear


def _draw(module: _Layer, how: str | float) -> None:
    if isinstance(how, float):
        _normal(module, how)
    else:
        choose("initialisation", how, _INITIALISATIONS)(module)


def _he_fan_out(module: _Layer) -> None:
    mode: Literal["fan_in", "fan_out"] = "fan_out" if isinstance(module, nn.Conv2d) else "fan_in"
    nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
    _zero_bias(module)


def _normal(module: _Layer, deviation: float) -> None:
    nn.init.normal_(module.weight, 0.0, deviation)
    _zero_bias(module)


def _zero_bias(module: _Layer) -> None:
    if module.bias is not None:
        nn.init.zeros_(module.bias)


_INITIALISATIONS = {
    "he_fan_out": _he_fan_out,
    "torch": lambda module: module.reset_parameters(),
    "normal_fan_in": lambda module: _normal(module, 1 / module.weight[0].numel()),
}


class Parts(NamedTuple):
    """What a network's layers are followed by: factories, and the alphas that the norm's is called with.

    With ``identity_norm`` identity shortcuts have a norm too. ``dropout`` is the probability of zero between the
    convolutions of a basic residual branch and of a deep stem.
    """

    neuron: Neuron
    norm: Norm
    alpha: float
    branch_alpha: float = BRANCH_ALPHA
    identity_norm: bool = False
    dropout: float = 0.0


def lif(surrogate: Callable[[], Surrogate]) -> Neuron:
    """The default neuron, each with a surrogate of its own."""
    return lambda: IterativeLIFNode(surrogate_function=surrogate(), step_mode="m")


def tdbn(alpha: float, channels: int) -> nn.Module:
    """The default norm: tdBN for V_th = 0.5."""
    return ThresholdDependentBatchNorm2d(alpha, 0.5, channels)


def no_norm(alpha: float, channels: int) -> nn.Module:
    """The norm of networks without one."""
    return nn.Identity()


def conv(in_channels: int, channels: int, kernel_size: int = 3, stride: int = 1, bias: bool = False) -> nn.Module:
    """A convolution that keeps the resolution, or divides it by the stride."""
    padding = kernel_size // 2
    return layer.Conv2d(in_channels, channels, kernel_size, stride, padding, bias=bias, step_mode="m")


def spiking_conv(
    in_channels: int, channels: int, parts: Parts, kernel_size: int = 3, stride: int = 1, bias: bool = False
) -> list[nn.Module]:
    """Convolution, norm and neuron."""
    convolution = conv(in_channels, channels, kernel_size, stride, bias)
    return [convolution, parts.norm(parts.alpha, channels), parts.neuron()]


def spiking_linear(in_features: int, features: int, parts: Parts, bias: bool = True) -> list[nn.Module]:
    """Linear layer and neuron."""
    return [linear(in_features, features, bias), parts.neuron()]


def linear(in_features: int, features: int, bias: bool = True) -> nn.Linear:
    """A linear layer."""
    return layer.Linear(in_features, features, bias=bias, step_mode="m")


def pool(kernel_size: int = 2, stride: int | None = None, padding: int = 0, ceil_mode: bool = False) -> nn.Module:
    """Average pooling."""
    return layer.AvgPool2d(kernel_size, stride, padding, ceil_mode, step_mode="m")


def max_pool(kernel_size: int, stride: int, padding: int) -> nn.Module:
    """Maximum pooling, which makes spikes of spikes."""
    return layer.MaxPool2d(kernel_size, stride, padding, step_mode="m")


def adaptive_pool(pixels: int) -> nn.Module:
    """Average pooling to so many rows and columns."""
    return layer.AdaptiveAvgPool2d(pixels, step_mode="m")


def global_pool() -> list[nn.Module]:
    """[T, N, C, H, W] to [T, N, C]."""
    return [adaptive_pool(1), nn.Flatten(-3)]


def dropout_layer(p: float) -> nn.Module:
    """Zeroes the same elements at every time-step; 0 leaves it out.

    Raises:
        ValueError: no probability below 1.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout={p} is no probability: state a number from 0 to below 1")
    return layer.Dropout(p, step_mode="m") if p else nn.Identity()


def choose(option: str, value: str, choices: Mapping[str, Any]) -> Any:
    """The choice that an option names.

    Raises:
        ValueError: an unknown one.
    """
    if value not in choices:
        raise ValueError(f"{option}={value!r} is unknown: choose from {', '.join(map(repr, choices))}")
    return choices[value]


def ann(net: nn.Module | Callable[..., Network], **arguments: Any) -> nn.Module:
    """The ANN twin of an architecture or of any SpikingJelly network: ReLU for its neurons, batch norm for tdBN.

    An architecture's twin is a new network of one time-step. Its parameters have the same names and shapes, so that it
    can initialise the spiking network.

    A network's twin is a copy with its weights, and leaves the network as it is: a ReLU stands for each node, one for
    those that share one, and in place of jellyplus' tdBN a batch norm with the same outputs, alpha V_th being part of
    its weight. Step modes stay: show it one time-step, [1, N, *] in 'm' and [N, *] in 's'.

    Args:
        net: a network, or the constructor of an architecture.
        arguments: for the constructor, ``norm`` too where it is to be another one.

    Raises:
        TypeError: arguments beside a network.

    >>> from jellyplus.model import resnet19
    >>> ann(resnet19, width=4).stages[0][0].neuron
    ReLU()
    >>> ann(nn.Sequential(nn.Linear(2, 1), IterativeLIFNode()))[1]
    ReLU()
    """
    if isinstance(net, nn.Module):
        if arguments:
            raise TypeError(f"a network is taken as it is: leave out {', '.join(arguments)}, or give its constructor")
        return _twin(net)
    has_norm = inspect.signature(net).parameters["norm"].default is None
    twin = {"neuron": nn.ReLU, "time_steps": 1} | ({"norm": _batch_norm} if has_norm else {})
    return net(**(twin | arguments))


_NORMS = {
    ThresholdDependentBatchNorm1d: layer.BatchNorm1d,
    ThresholdDependentBatchNorm2d: layer.BatchNorm2d,
    ThresholdDependentBatchNorm3d: layer.BatchNorm3d,
}


def _twin(net: nn.Module) -> nn.Module:
    """A copy; nodes themselves are not copied, since torch refuses those whose potential has a graph."""
    in_place: dict[int, nn.Module] = {}
    for module in net.modules():
        if isinstance(module, _compat.BaseNode):
            in_place[id(module)] = nn.ReLU().train(module.training)
        elif type(module) in _NORMS:
            in_place[id(module)] = _as_batch_norm(module)
    twin = copy.deepcopy(net, in_place)
    if isinstance(twin, Network):
        twin.time_steps = 1
    return twin


def _as_batch_norm(norm: Any) -> nn.Module:
    """Of the same outputs."""
    make = _NORMS[type(norm)]
    twin = make(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, norm.step_mode)
    for own, other in zip((*twin.parameters(), *twin.buffers()), (*norm.parameters(), *norm.buffers()), strict=True):
        own.data = other.detach().clone()
    twin.weight.data *= norm.alpha * norm.v_th
    return twin.train(norm.training)


def _batch_norm(alpha: float, channels: int) -> nn.Module:
    return layer.BatchNorm2d(channels, step_mode="m")
