"""Finite-difference gradients (Li et al. 2021, Eq. 10), in fewer and larger passes where the network allows it."""

import copy
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from jellyplus import _compat
from jellyplus.layer import ThresholdDependentBatchNorm2d
from jellyplus.neuron import IterativeLIFNode, SRIFNode

__all__ = ["Loss", "devices", "finite_difference_gradient"]

#: Of a network's output, a scalar.
Loss = Callable[[Tensor], Tensor]


@torch.no_grad()
def finite_difference_gradient(
    net: nn.Module,
    name: str,
    loss: Loss,
    x: Tensor,
    epsilon: float = 0.1,
    max_bytes: int = 2**26,
    batch_dim: int = 1,
) -> Tensor:
    r"""Central differences of the loss over every element of one parameter.

    .. math:: \hat\nabla_{\varepsilon, w_i} L = \frac{L(w + \varepsilon e_i) - L(w - \varepsilon e_i)}{2 \varepsilon}

    Li et al. 2021, Eq. 10. The layer that owns the parameter runs once: a convolution or linear layer is linear in
    its weights, and one element moves one output channel by a shifted copy of the input. Perturbed outputs share a
    batch, and in training mode every batch norm normalises each of them by its own statistics, as separate passes
    would. The rest of the network runs once for each of the 2 k perturbations. Where it keeps the channels of a
    convolution apart up to one last linear layer, as in the paper's toy network, it runs only once for each
    perturbation of one channel: the same element moves in all channels, and the linear layer tells them apart.

    Works on a copy: parameters, running statistics, neuron state and random state of ``net`` stay as they are. Each
    evaluation starts from reset neurons.

    Args:
        net: in the mode, training or evaluation, whose statistics the gradient is to use.
        name: of the parameter as in ``net.named_parameters()``; its module must run once in a forward pass.
        loss: of the network's output, a scalar that is a function of this batch alone.
        x: input of the network.
        epsilon: half the step, in units of the parameter. 0.1 is the paper's best.
        max_bytes: bound on the working memory for activations of perturbed passes; at least one runs at a time.
            64 MiB was the fastest of 8 MiB to 1 GiB on a CPU, whose caches larger batches leave.
        batch_dim: batch dimension of input, output and of the owner's output: 1 for [T, N, *], 0 for [N, *].

    Returns:
        The gradient, in the parameter's shape.

    Raises:
        ValueError: no such parameter, a module that does not run exactly once, or active dropout, under which the
            loss is random.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(net.weight, 3.0)  # L = w^2 at w = 3
    >>> finite_difference_gradient(net, "weight", lambda y: y.square().sum(), torch.ones(1, 1, 1)).round(decimals=3)
    tensor([[6.]])
    """
    if name not in dict(net.named_parameters()):
        raise ValueError(f"no parameter {name!r} in the network: choose one of net.named_parameters()")
    net = copy.deepcopy(net)
    _refuse_dropout(net)
    with torch.random.fork_rng(devices(x)):
        owner_name, _, own_name = name.rpartition(".")
        owner = net.get_submodule(owner_name)
        owner_input, working_set, readout = _trial_pass(net, owner, x)
        folded = max(1, max_bytes // working_set)
        if readout and own_name == "weight" and owner_input.dim() > batch_dim + 3:
            outputs = _outputs_of_all_channels(copy.deepcopy(owner), owner_input, epsilon)
            net, loss = readout.head, functools.partial(readout.losses, loss)
        else:
            outputs = _perturbed_outputs(copy.deepcopy(owner), own_name, owner_input, epsilon)
        losses = torch.cat(list(_losses(net, owner, loss, x, outputs, folded, batch_dim)))
    up, down = losses.unflatten(0, (-1, 2)).unbind(1)  # each [k], or [k / channels, channels]
    gradient = ((up - down) / (2 * epsilon)).t()
    return gradient.reshape(owner.get_parameter(own_name).shape).to(owner.get_parameter(own_name).dtype)


def devices(x: Tensor) -> list[torch.device]:
    """The GPU whose random state a pass over ``x`` could move."""
    return [x.device] if x.is_cuda else []


def _refuse_dropout(net: nn.Module) -> None:
    for name, module in net.named_modules():
        if isinstance(module, _compat.DROPOUTS) and module.training:
            raise ValueError(f"the loss is random under dropout: put {name} into evaluation mode first")


def _trial_pass(net: nn.Module, owner: nn.Module, x: Tensor) -> tuple[Tensor, int, "_Readout | None"]:
    """The owner's input, the bytes that one perturbed pass holds at a time, and the readout if channels stay apart."""
    owner_inputs, sizes, steps, times = [], [x.nbytes], [], Counter()

    def measure(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if module is owner:
            owner_inputs.append(inputs[0].detach().clone())
        sizes.append(output.nbytes)
        times[module] += 1
        if not (module is owner or steps) or output is inputs[0]:
            return
        if type(module) in _KNOWN and not output.is_inference():
            steps.append(_Step(module, inputs[0], inputs[0]._version, output, output._version))
        else:
            steps.clear()  # what is not needed goes at once

    seen = [m for m in net.modules() if m is owner or type(m) in _KNOWN or not list(m.children())]
    handles = [m.register_forward_hook(measure) for m in seen]
    _compat.reset_net(net)
    y = net(x)
    for handle in handles:
        handle.remove()
    if len(owner_inputs) != 1:
        raise ValueError(f"the module that owns the parameter ran {len(owner_inputs)} times in one pass, not once")
    readout = _readout(steps, y) if all(times[step.module] == 1 for step in steps) else None
    return owner_inputs[0], _LIVE_ACTIVATIONS * max(sizes), readout


# A residual block holds its input, and a norm or node its input, its output and two temporaries.
_LIVE_ACTIVATIONS = 5


def _perturbed_outputs(owner: nn.Module, name: str, x: Tensor, epsilon: float) -> Iterator[Tensor]:
    """The owner's outputs with one element after the other moved up, then down."""
    if isinstance(owner, (_ConvNd, nn.Linear)) and name == "weight" and getattr(owner, "groups", 1) == 1:
        return _linear_outputs(owner, x, epsilon)
    return _general_outputs(owner, name, x, epsilon)


def _linear_outputs(owner: nn.Module, x: Tensor, epsilon: float) -> Iterator[Tensor]:
    base = owner(x)
    channel_dim = x.dim() - owner.weight.dim() + 1 if isinstance(owner, _ConvNd) else x.dim() - 1
    elements = torch.eye(owner.weight[0].numel()).to(owner.weight)
    for channel in range(owner.weight.shape[0]):
        for element in elements:
            shift = _without_bias(owner, x, element[None]).select(channel_dim, 0)
            for step in (epsilon, -epsilon):
                output = base.clone()
                output.select(channel_dim, channel).add_(shift, alpha=step)
                yield output


def _without_bias(owner: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
    """The layer without bias and with ``weights``, [output channels, fan-in]."""
    parameters = {"weight": weights.view(-1, *owner.weight.shape[1:])}
    if owner.bias is not None:
        parameters["bias"] = weights.new_zeros(len(weights))
    return torch.func.functional_call(owner, parameters, x)


def _outputs_of_all_channels(owner: nn.Module, x: Tensor, epsilon: float) -> Iterator[Tensor]:
    """A convolution's outputs with one element of every channel moved up, then down."""
    base = owner(x)
    for elements in torch.eye(owner.weight[0].numel()).to(owner.weight).split(owner.out_channels):
        for shift in _without_bias(owner, x, elements).split(1, -3):
            for step in (epsilon, -epsilon):
                yield torch.add(base, shift, alpha=step)


def _general_outputs(owner: nn.Module, name: str, x: Tensor, epsilon: float) -> Iterator[Tensor]:
    flat = owner.get_parameter(name).detach().flatten()
    for i in range(flat.numel()):
        for step in (epsilon, -epsilon):
            moved = flat.clone()
            moved[i] += step
            yield torch.func.functional_call(owner, {name: moved.view_as(owner.get_parameter(name))}, x)


def _losses(
    net: nn.Module, owner: nn.Module, loss: Loss, x: Tensor, outputs: Iterator[Tensor], folded: int, batch_dim: int
) -> Iterator[Tensor]:
    """The losses of all perturbations, ``folded`` of them in each pass."""
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.training and m is not owner]
    forwards = [norm.forward for norm in norms]
    while group := list(itertools.islice(outputs, folded)):
        n = len(group)
        owner.forward = functools.partial(_replaced, torch.cat(group, batch_dim) if n > 1 else group[0])
        group.clear()  # what is no longer needed goes before the next pass, or max_bytes would not hold
        for norm, forward in zip(norms, forwards, strict=True):
            norm.forward = functools.partial(_apart, forward, n, batch_dim)
        _compat.reset_net(net)
        losses = [loss(part) for part in net(torch.cat([x] * n, batch_dim)).chunk(n, batch_dim)]
        _compat.reset_net(net)
        del owner.forward
        yield torch.stack(losses)


def _replaced(output: Tensor, _: Tensor) -> Tensor:
    """In place of a layer's forward: what it would have given."""
    return output


def _apart(forward: Callable[[Tensor], Tensor], parts: int, batch_dim: int, x: Tensor) -> Tensor:
    """``forward`` on equal parts of a batch, each by itself."""
    return torch.cat([forward(part) for part in x.chunk(parts, batch_dim)], batch_dim)


# Types are compared, since a subclass may do anything.
_CONVOLUTIONS = (nn.Conv2d, layer.Conv2d)
_CHANNELWISE = (  # on [*, C, H, W]
    *(nn.ReLU, IterativeLIFNode, SRIFNode, nn.MaxPool2d, layer.MaxPool2d),
    *(nn.BatchNorm2d, layer.BatchNorm2d, ThresholdDependentBatchNorm2d),
)
_AVERAGES = (nn.AvgPool2d, layer.AvgPool2d, nn.AdaptiveAvgPool2d, layer.AdaptiveAvgPool2d)
_FLATTENS = (nn.Flatten, layer.Flatten)
_LINEARS = (nn.Linear, layer.Linear)
_KNOWN = _CONVOLUTIONS + _CHANNELWISE + _AVERAGES + _FLATTENS + _LINEARS


class _Step(NamedTuple):
    """A module in one pass, what it received and gave, and their versions then."""

    module: nn.Module
    received: Tensor
    received_version: int
    gave: Tensor
    gave_version: int


class _Readout(NamedTuple):
    """A network cut where features [*, C, H, W] become outputs [*, classes] by linear modules alone.

    ``head`` makes the features. ``weight`` is what the linear modules come to, [C, classes, H W], and ``others`` the
    output in one pass without the part of one channel, [C, *, classes].
    """

    head: nn.Sequential
    weight: Tensor
    others: Tensor

    @classmethod
    def of(cls, head: nn.Sequential, linear: nn.Sequential, features: Tensor, y: Tensor) -> "_Readout":
        """From its two parts, and the features and output of a pass."""
        classes = y.shape[-1]
        with torch.enable_grad():
            zeros = features.new_zeros(*[1] * (features.dim() - 4), classes, *features.shape[-3:], requires_grad=True)
            outputs = linear(zeros).view(classes, classes)
            (gradient,) = torch.autograd.grad(outputs.trace(), zeros)
        weight = gradient.view(classes, features.shape[-3], -1).transpose(0, 1)
        return cls(head, weight, y - _by_channel(features, weight))

    def losses(self, loss: Loss, features: Tensor) -> Tensor:
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


def _readout(steps: list[_Step], y: Tensor) -> _Readout | None:
    """The cut behind these steps, if they lead from a convolution to ``y`` and no channel meets another before it.

    What happens beside the modules, such as a residual addition, shows in a tensor that is another one or changed.
    """
    end = _Step(nn.Identity(), y, y._version, y, y._version)
    if len(steps) < 3 or not all(itertools.starmap(_is_handed_on, itertools.pairwise([*steps, end]))):
        return None
    owner, *middle, flatten, _ = steps
    kinds = [_CONVOLUTIONS, *[_CHANNELWISE + _AVERAGES] * len(middle), _FLATTENS, _LINEARS]
    if (
        any(type(step.module) not in kind or _has_hooks(step.module) for step, kind in zip(steps, kinds, strict=True))
        or owner.module.groups > 1
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
    return _Readout.of(nn.Sequential(*head[:-1]), linear, steps[cut].received, y)


def _is_handed_on(before: _Step, after: _Step) -> bool:
    """Whether one module received what the other gave, unchanged, or that at every time-step."""
    given, received = before.gave, after.received
    same_memory = received.data_ptr() == given.data_ptr() and before.gave_version == after.received_version
    same_shape = received.shape[1:] == given.shape[1:] and len(given) in (1, len(received))
    return same_memory and same_shape and received.stride() == given.expand_as(received).stride()


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
