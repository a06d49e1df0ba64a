"""A whole sequence in one autograd node, written by hand: ``backend="torch"``.

The forward pass keeps nothing but its input. The backward pass charges the membrane potentials again, into the
memory that will hold the gradient, and then walks back through time, overwriting each H[t] with dL/dX[t].
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from jellyplus.neuron.dynamics import Dynamics
from jellyplus.surrogate import Surrogate

__all__ = ["MultiStep"]


class MultiStep(torch.autograd.Function):
    """``apply(x_seq, v, fire, dynamics, store_h, store_v)`` gives (spikes, last V, all H or None, all V or None).

    ``x_seq`` and the sequences are [T, N, *]; ``v``, the potential carried over, is a float or [N, *]. ``fire`` is
    any elementwise surrogate of H - V_th; its slope in backward comes from its ``gradient_``, or from autograd where
    it is not one of ours.
    """

    @staticmethod
    def forward(
        ctx, x_seq: Tensor, v: Tensor | float, fire: Callable, dynamics: Dynamics, store_h: bool, store_v: bool
    ):
        """Run the sequence; only ``x_seq`` and ``v`` are kept."""
        ctx.fire, ctx.dynamics = fire, dynamics
        ctx.start = v if isinstance(v, float) else None
        ctx.save_for_backward(x_seq, v if ctx.start is None else None)
        ctx.set_materialize_grads(False)
        layout = _Layout.of(x_seq)
        x, v = layout.flatten(x_seq), layout.flatten_state(v)
        spikes, last = torch.empty_like(x), torch.empty_like(x[0])
        h_seq, v_seq = (torch.empty_like(x) if store else None for store in (store_h, store_v))
        for block in _blocks(x):
            _forward(*(_part(t, block) for t in (x, v, spikes, last, h_seq, v_seq)), fire, dynamics)
        return (layout.restore(spikes), layout.restore(last[None])[0], layout.restore(h_seq), layout.restore(v_seq))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_spikes, grad_last, grad_h, grad_v):
        """The gradients of ``x_seq`` and of ``v``."""
        x_seq, v = ctx.saved_tensors
        layout = _Layout.of(x_seq)
        x, start = layout.flatten(x_seq), layout.flatten_state(v if ctx.start is None else ctx.start)
        sequences = [layout.flatten(gradient) for gradient in (grad_spikes, grad_h, grad_v)]
        grad_x, grad_last = torch.empty_like(x), layout.flatten_state(grad_last)
        for block in _blocks(x):
            _backward(*(_part(t, block) for t in (x, start, grad_x, *sequences, grad_last)), ctx.fire, ctx.dynamics)
        grad_x = layout.restore(grad_x)
        return grad_x, None if v is None else grad_x[0] * ctx.dynamics.decay, None, None, None, None


class _Layout(NamedTuple):
    """How [T, N, *] becomes [T, neurons] in the order of its memory, and back: channels-last stays channels-last."""

    shape: torch.Size
    order: list[int]

    @classmethod
    def of(cls, x_seq: Tensor) -> "_Layout":
        return cls(x_seq.shape, [0, *sorted(range(1, x_seq.dim()), key=x_seq.stride, reverse=True)])

    def flatten(self, sequence: Tensor | None) -> Tensor | None:
        return None if sequence is None else sequence.permute(self.order).reshape(len(sequence), sequence[0].numel())

    def flatten_state(self, v: Tensor | float | None) -> Tensor | float | None:
        return self.flatten(v[None])[0] if isinstance(v, Tensor) else v

    def restore(self, flat: Tensor | None) -> Tensor | None:
        if flat is None:
            return None
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return flat.view(len(flat), *(self.shape[dim] for dim in self.order[1:])).permute(inverse)


_BLOCK = 2**17  # neurons whose state stays in the cache of a CPU; the fastest of 2^16 to 2^21 on two cores


def _blocks(x: Tensor) -> Iterator[slice]:
    """Neurons that run through time together: a block on a CPU, all of them on a GPU."""
    neurons = x.shape[1]
    size = _BLOCK if x.device.type == "cpu" else max(neurons, 1)
    return (slice(start, start + size) for start in range(0, neurons, size))


def _part(tensor: Tensor | float | None, block: slice) -> Tensor | float | None:
    return tensor[..., block] if isinstance(tensor, Tensor) else tensor


def _forward(x_seq, v, spikes, last, h_seq, v_seq, fire, dynamics):
    """Fill ``spikes``, ``last`` and, where given, ``h_seq`` and ``v_seq``."""
    for t, x in enumerate(x_seq):
        h = dynamics.charge(x, v, out=last if h_seq is None else h_seq[t])
        _fire(fire, h, dynamics.v_threshold, out=spikes[t])
        v = dynamics.reset(h, spikes[t], out=last)
        if v_seq is not None:
            v_seq[t] = v


def _backward(x_seq, v, grad_x, grad_spikes, grad_h, grad_v, grad_last, fire, dynamics):
    """Fill ``grad_x``."""
    # two scratch tensors for all time-steps, each overwritten when it is used up: fresh pages are what is slow
    spike, slope = torch.empty_like(x_seq[0]), torch.empty_like(x_seq[0])
    for t, x in enumerate(x_seq):
        h = dynamics.charge(x, v, out=grad_x[t])
        if t + 1 < len(x_seq):
            v = dynamics.reset(h, _fire(fire, h, dynamics.v_threshold, out=spike), out=spike)
    grad_next, scale = grad_last, 1.0
    for t in reversed(range(len(x_seq))):
        h = grad_x[t]
        silent = _silence_and_slope(fire, h, dynamics.v_threshold, spike, slope)
        if grad_v is not None:
            grad_next, scale = grad_v[t] if grad_next is None else torch.add(grad_v[t], grad_next, alpha=scale), 1.0
        grad_spike = None if grad_spikes is None else grad_spikes[t]
        grad_next, scale = dynamics.backward(h, silent, slope, grad_spike, grad_next, scale), dynamics.decay
        if grad_h is not None:
            grad_next.add_(grad_h[t])


def _fire(fire: Callable, h: Tensor, v_threshold: float, out: Tensor) -> Tensor:
    """S[t] into ``out``."""
    if isinstance(fire, Surrogate) and fire.spiking:
        return torch.ge(h, v_threshold, out=out)
    return out.copy_(fire(h - v_threshold))


def _silence_and_slope(fire: Callable, h: Tensor, v_threshold: float, silent: Tensor, slope: Tensor) -> Tensor:
    """1 - S[t] into ``silent``, the surrogate gradient at H[t] into ``slope``; the former is returned."""
    if isinstance(fire, Surrogate):
        fire.gradient_(torch.sub(h, v_threshold, out=slope))
        return torch.lt(h, v_threshold, out=silent) if fire.spiking else silent.copy_(1 - fire.fire(h - v_threshold))
    with torch.enable_grad():
        x = (h - v_threshold).requires_grad_()
        spike = fire(x)
        slope.copy_(torch.autograd.grad(spike, x, torch.ones_like(spike))[0])
    return silent.copy_(1 - spike.detach())
