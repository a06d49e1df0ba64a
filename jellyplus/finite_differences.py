"""Finite-difference gradients (Li et al. 2021, Eq. 10), in fewer and larger passes where the network allows it."""

import contextlib
import copy
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from jellyplus import _compat
from jellyplus._copies import Copies, find_copies
from jellyplus._readout import KNOWN, LINEAR_IN_WEIGHT, Readout, Step, find_readout, has_hooks

__all__ = ["Differences", "Loss", "devices", "finite_difference_gradient"]

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
    batch_dim: int | None = None,
) -> Tensor:
    r"""Central differences of the loss over every element of one parameter.

    .. math:: \hat\nabla_{\varepsilon, w_i} L = \frac{L(w + \varepsilon e_i) - L(w - \varepsilon e_i)}{2 \varepsilon}

    Li et al. 2021, Eq. 10. A layer that runs once, in step mode 'm', does so for all perturbations: a convolution or
    linear layer is linear in its weights, and one element moves one output channel by a shifted copy of the input.
    Perturbed outputs share a batch, and in training mode every batch norm normalises each of them by its own
    statistics, as separate passes would. The rest of the network runs once for each of the 2 k perturbations. Where it
    keeps the channels of a convolution apart up to one last linear layer, as in the paper's toy network, it runs only
    once for each perturbation of one channel: the same element moves in all channels, and the linear layer tells them
    apart.

    Any layout of batch and time is right. That perturbations in one pass do not meet is checked on a few examples
    first, and where they do, or an output is no tensor, each takes a pass of its own. Where the parameter's module
    runs more often than once, as in a loop over time-steps, has hooks, or is not alone in reading the parameter, the
    parameter is moved and the whole network runs, 2 k times.

    Works on a copy: parameters, buffers, neuron state and random state of ``net`` stay as they are. Each evaluation
    starts from reset neurons and the buffers that ``net`` has.

    Args:
        net: in the mode, training or evaluation, whose statistics the gradient is to use.
        name: of the parameter as in ``net.named_parameters()``.
        loss: of the network's output, a scalar that is a function of this batch alone.
        x: input of the network, for instance [T, N, *] or [N, *].
        epsilon: half the step, in units of the parameter. 0.1 is the paper's best.
        max_bytes: bound on the working memory for activations of perturbed passes; at least one runs at a time.
            64 MiB was the fastest of 8 MiB to 1 GiB on a CPU, whose caches larger batches leave.
        batch_dim: dimension of the examples in ``x``. None takes 1 or 0, whichever holds; where both do, and no node
            tells time from batch, or a given one does not, each perturbation takes a pass of its own.

    Returns:
        The gradient, in the parameter's shape.

    Raises:
        ValueError: no such parameter, no such dimension, or a network that is random, as under active dropout.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(net.weight, 3.0)  # L = w^2 at w = 3
    >>> finite_difference_gradient(net, "weight", lambda y: y.square().sum(), torch.ones(1, 1)).round(decimals=3)
    tensor([[6.]])
    """
    with torch.random.fork_rng(devices(x)):
        of = Differences(net, name, loss, x, epsilon, max_bytes, batch_dim)
        parameter = net.get_parameter(name)
        return of(torch.arange(parameter.numel())).view(parameter.shape)


class Differences:
    """The differences of some of a parameter's elements at a time; see :func:`finite_difference_gradient`.

    Random numbers of the caller's can be drawn.

    Attributes:
        at_once: those of all elements cost no more than those of some.
    """

    @torch.no_grad()
    def __init__(
        self,
        net: nn.Module,
        name: str,
        loss: Loss,
        x: Tensor,
        epsilon: float,
        max_bytes: int,
        batch_dim: int | None,
    ):
        _check(net, name, x, batch_dim)
        net = copy.deepcopy(net)
        _refuse_dropout(net)
        dims = (1, 0) if batch_dim is None else (batch_dim,)
        self._losses = _losses(net, name, loss, x, epsilon, max_bytes, dims)
        self._epsilon, self._dtype = epsilon, net.get_parameter(name).dtype
        self.at_once = isinstance(self._losses, _AllChannels)

    @torch.no_grad()
    def __call__(self, elements: Tensor) -> Tensor:
        """Flat indices [n] to [n]."""
        up, down = torch.cat(list(self._losses(elements.tolist()))).unflatten(0, (-1, 2)).unbind(1)
        return ((up - down) / (2 * self._epsilon)).to(self._dtype)


def _check(net: nn.Module, name: str, x: Tensor, batch_dim: int | None) -> None:
    if name not in dict(net.named_parameters()):
        raise ValueError(f"no parameter {name!r} in the network: choose one of net.named_parameters()")
    if batch_dim is not None and not 0 <= batch_dim < x.dim():
        raise ValueError(f"batch_dim must be a dimension of x, 0 to {x.dim() - 1}, got {batch_dim}")


def devices(x: Tensor) -> list[torch.device]:
    """The GPU whose random state a pass over ``x`` could move."""
    return [x.device] if x.is_cuda else []


def _refuse_dropout(net: nn.Module) -> None:
    for name, module in net.named_modules():
        if isinstance(module, _compat.DROPOUTS) and module.training:
            raise ValueError(f"the loss is random under dropout: put {name} into evaluation mode first")


@contextlib.contextmanager
def _refuse_randomness(x: Tensor) -> Iterator[None]:
    """For one pass: a difference of two would be one of their random numbers."""
    before = _random_state(x)
    yield
    if not all(map(torch.equal, before, _random_state(x))):
        raise ValueError("the network draws random numbers in a pass, so its loss is random: leave them out first")


def _random_state(x: Tensor) -> list[Tensor]:
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices(x))]


class _Start:
    """Puts a network to the start of a pass: its neurons reset, its buffers as they were."""

    def __init__(self, net: nn.Module):
        self.net = net
        self.buffers = [
            (module, name, buffer, buffer.clone())
            for module in net.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]

    def __call__(self) -> None:
        _compat.reset_net(self.net)
        for module, name, buffer, was in self.buffers:
            module._buffers[name] = buffer.copy_(was)


#: Of the perturbations of some elements, one after the other moved up, then down.
_Losses = Callable[[Sequence[int]], Iterator[Tensor]]


def _losses(
    net: nn.Module, name: str, loss: Loss, x: Tensor, epsilon: float, max_bytes: int, batch_dims: tuple[int, ...]
) -> _Losses:
    start = _Start(net)
    owner_name, _, own_name = name.rpartition(".")
    owner = net.get_submodule(owner_name)
    trial = _trial_pass(net, owner, own_name, x, start)
    if trial is None:
        return functools.partial(_losses_of_whole_passes, net, name, loss, x, epsilon, start)
    start()  # the trial moved buffers
    together, own = max(1, max_bytes // trial.working_set), copy.deepcopy(owner)
    if trial.readout and own_name == "weight":
        head, losses = trial.readout.head, functools.partial(trial.readout.losses, loss)
        passes = _Passes(head, owner, losses, trial.received[:0], trial.readout.copies, together, start)
        return _AllChannels(passes, own, trial.received, epsilon)
    copies = _copies(net, owner, x, batch_dims, start) if together > 1 else None
    passes = _Passes(net, owner, loss, x, copies, together if copies else 1, start)
    own_start = _Start(own)
    return lambda elements: passes(_perturbed_outputs(own, own_name, trial.received, epsilon, own_start, elements))


def _losses_of_whole_passes(
    net: nn.Module, name: str, loss: Loss, x: Tensor, epsilon: float, start: _Start, elements: Sequence[int]
) -> Iterator[Tensor]:
    """Eq. 10 word for word."""
    parameter = net.get_parameter(name)
    was = parameter.clone()
    for moved in _moved(was, epsilon, elements):
        parameter.copy_(moved)
        start()
        with _refuse_randomness(x):
            y = net(x)
        yield torch.stack([loss(y)])
    parameter.copy_(was)


def _moved(parameter: Tensor, epsilon: float, elements: Sequence[int]) -> Iterator[Tensor]:
    """The parameter with one element after the other moved up, then down."""
    flat, shape = parameter.detach().flatten().clone(), parameter.shape
    for i in elements:
        for step in (epsilon, -epsilon):
            moved = flat.clone()
            moved[i] += step
            yield moved.view(shape)


def _copies(net: nn.Module, owner: nn.Module, x: Tensor, batch_dims: tuple[int, ...], start: _Start) -> Copies | None:
    """Along the first dimension that holds. Without a node, whose memory tells time from batch, no other one may."""
    found = (find_copies(net, owner, x, dim, start) for dim in batch_dims if dim < x.dim())
    has_memory = any(isinstance(module, _compat.MemoryModule) for module in net.modules())
    held = list(itertools.islice(filter(None, found), 1 if has_memory else 2))
    return held[0] if len(held) == 1 else None


class _Trial(NamedTuple):
    """What the owner received in one pass, the bytes held at a time, and the readout if channels stay apart."""

    received: Tensor
    working_set: int
    readout: "Readout | None"


def _trial_pass(net: nn.Module, owner: nn.Module, name: str, x: Tensor, start: _Start) -> _Trial | None:
    """One pass; None unless all that the parameter does is in one output of its owner, a function of one tensor."""
    received: list[Tensor] = []
    steps: list[Step] = []
    sizes, times = [x.nbytes], Counter[nn.Module]()

    def measure(module: nn.Module, inputs: tuple, kwargs: dict, output: Any) -> None:
        times[module] += 1
        plain = len(inputs) == 1 and not kwargs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)
        if plain and module is owner:
            received.append(inputs[0].detach().clone())
        if isinstance(output, Tensor):
            sizes.append(output.nbytes)
        if not (module is owner or steps) or (plain and output is inputs[0]):
            return
        if plain and type(module) in KNOWN and not output.is_inference():
            steps.append(Step(module, inputs[0], inputs[0]._version, output, output._version))
        else:
            steps.clear()  # what is not needed goes at once

    if has_hooks(owner) or _owners(net, owner.get_parameter(name)) > 1:
        return None
    seen = [m for m in net.modules() if m is owner or type(m) in KNOWN or not list(m.children())]
    handles = [m.register_forward_hook(measure, with_kwargs=True) for m in seen]
    start()
    try:
        with _only_inside(owner, name), _refuse_randomness(x):
            y = net(x)
    except AttributeError:  # somebody else reads the parameter; an error of the network's own comes again
        return None
    finally:
        for handle in handles:
            handle.remove()
    if times[owner] != 1 or len(received) != 1:
        return None
    readout = find_readout(steps, y) if all(times[step.module] == 1 for step in steps) else None
    return _Trial(received[0], _LIVE_ACTIVATIONS * max(sizes), readout)


# A residual block holds its input, and a norm or node its input, its output and two temporaries.
_LIVE_ACTIVATIONS = 5


def _owners(net: nn.Module, parameter: nn.Parameter) -> int:
    return sum(own is parameter for module in net.modules() for own in module._parameters.values())


@contextlib.contextmanager
def _only_inside(owner: nn.Module, name: str) -> Iterator[None]:
    """The parameter is there only while its owner runs, so that nobody else can read it unseen."""
    parameter = owner._parameters.pop(name)
    handles = [
        owner.register_forward_pre_hook(lambda *_: owner._parameters.__setitem__(name, parameter)),
        owner.register_forward_hook(lambda *_: owner._parameters.__delitem__(name)),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        owner._parameters[name] = parameter


def _perturbed_outputs(
    owner: nn.Module, name: str, x: Tensor, epsilon: float, start: _Start, elements: Sequence[int]
) -> Iterator[Tensor]:
    """The owner's outputs with one element after the other moved up, then down."""
    if type(owner) in LINEAR_IN_WEIGHT and name == "weight" and getattr(owner, "groups", 1) == 1:
        return _linear_outputs(owner, x, epsilon, elements)
    return _general_outputs(owner, name, x, epsilon, start, elements)


def _linear_outputs(owner: Any, x: Tensor, epsilon: float, elements: Sequence[int]) -> Iterator[Tensor]:
    base = owner(x)
    channel_dim = x.dim() - 1 if isinstance(owner, nn.Linear) else x.dim() - owner.weight.dim() + 1
    ones = torch.eye(owner.weight[0].numel()).to(owner.weight)
    for channel, element in (divmod(i, len(ones)) for i in elements):
        shift = _without_bias(owner, x, ones[element, None]).select(channel_dim, 0)
        for step in (epsilon, -epsilon):
            output = base.clone()
            output.select(channel_dim, channel).add_(shift, alpha=step)
            yield output


def _without_bias(owner: Any, x: Tensor, weights: Tensor) -> Tensor:
    """The layer without bias and with ``weights``, [output channels, fan-in]."""
    parameters = {"weight": weights.view(-1, *owner.weight.shape[1:])}
    if owner.bias is not None:
        parameters["bias"] = weights.new_zeros(len(weights))
    return torch.func.functional_call(owner, parameters, x)


def _outputs_of_all_channels(owner: Any, x: Tensor, epsilon: float) -> Iterator[Tensor]:
    """A convolution's outputs with one element of every channel moved up, then down.

    They are contiguous, since the readout takes channel by channel.
    """
    base = owner(x).contiguous()
    for elements in torch.eye(owner.weight[0].numel()).to(owner.weight).split(owner.out_channels):
        for shift in _without_bias(owner, x, elements).contiguous().split(1, -3):
            for step in (epsilon, -epsilon):
                yield torch.add(base, shift, alpha=step)


def _general_outputs(
    owner: nn.Module, name: str, x: Tensor, epsilon: float, start: _Start, elements: Sequence[int]
) -> Iterator[Tensor]:
    for moved in _moved(owner.get_parameter(name), epsilon, elements):
        start()
        yield torch.func.functional_call(owner, {name: moved}, x)


class _AllChannels:
    """Where one pass tells the losses of an element in all channels: all of them, once, whichever are asked for."""

    def __init__(self, passes: "_Passes", owner: Any, x: Tensor, epsilon: float):
        self.passes, self.outputs = passes, _outputs_of_all_channels(owner, x, epsilon)
        self.shape = owner.weight[0].numel(), 2, owner.out_channels

    @functools.cached_property
    def losses(self) -> Tensor:
        """Of each element moved up and down, [k, 2]."""
        return torch.cat(list(self.passes(self.outputs))).view(self.shape).permute(2, 0, 1).flatten(0, 1)

    def __call__(self, elements: Sequence[int]) -> Iterator[Tensor]:
        yield self.losses[elements].flatten()


class _Passes:
    """Losses with each of the owner's outputs, ``together`` of them in a pass."""

    def __init__(
        self,
        net: nn.Module,
        owner: nn.Module,
        loss: Loss,
        x: Tensor,
        copies: Copies | None,
        together: int,
        start: _Start,
    ):
        self.net, self.owner, self.loss, self.x, self.copies = net, owner, loss, x, copies
        self.together, self.start = together, start
        self.norms = {norm: (place, norm.forward) for norm, place in copies.norms.items()} if copies else {}

    def __call__(self, outputs: Iterator[Tensor]) -> Iterator[Tensor]:
        while group := list(itertools.islice(outputs, self.together)):
            n = len(group)
            joint = self.copies.owner.join(group) if self.copies and n > 1 else group[0]
            self.owner.forward = functools.partial(_replaced, joint)
            group.clear()  # what is no longer needed goes before the next pass, or max_bytes would not hold
            for norm, (place, forward) in self.norms.items():
                norm.forward = functools.partial(place.apart, forward, n)
            self.start()
            losses = [self.loss(y) for y in _outputs(self.net, self.x, self.copies, n)]
            _compat.reset_net(self.net)
            yield torch.stack(losses)


def _outputs(net: nn.Module, x: Tensor, copies: Copies | None, n: int) -> Sequence[Any]:
    """Of ``n`` copies of the input; of one, whatever the network gives."""
    return copies.y.split(net(copies.x.join([x] * n)), n) if copies and n > 1 else [net(x)]


def _replaced(output: Tensor, _: Tensor) -> Tensor:
    """In place of a layer's forward: what it would have given."""
    return output
