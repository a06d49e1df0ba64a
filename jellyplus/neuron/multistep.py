"""A whole sequence in one autograd node, written by hand: ``backend="torch"``.

The forward pass keeps nothing but its input. The backward pass charges the membrane potentials again, into the
memory that will hold the gradient, and then walks back through time, overwriting each H[t] with dL/dX[t].
"""

from collections.abc import Callable

import torch
from torch import Tensor

from jellyplus.neuron.dynamics import Dynamics
from jellyplus.surrogate import Surrogate

__all__ = ["MultiStep"]


class MultiStep(torch.autograd.Function):
    """``apply(x_seq, v, fire, dynamics, store_h, store_v)`` gives (spikes, last V, all H or None, all V or None).

    ``x_seq`` and the sequences are [T, N, *]; ``v``, the potential carried over, is a float or [N, *]. ``fire`` is
    any elementwise surrogate of H - V_th; what it computes in backward comes from its ``gradient``, or from autograd
    where it is not one of ours.
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
        return _forward(x_seq, v, fire, dynamics, store_h, store_v)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_spikes, grad_last, grad_h, grad_v):
        """The gradients of ``x_seq`` and of ``v``."""
        x_seq, v = ctx.saved_tensors
        start = v if ctx.start is None else ctx.start
        grad_x = _backward(x_seq, start, ctx.fire, ctx.dynamics, grad_spikes, grad_last, grad_h, grad_v)
        return grad_x, None if v is None else grad_x[0] * ctx.dynamics.decay, None, None, None, None


def _forward(x_seq, v, fire, dynamics, store_h, store_v):
    spikes, potential = torch.empty_like(x_seq), torch.empty_like(x_seq[0])
    h_seq = torch.empty_like(x_seq) if store_h else None
    v_seq = torch.empty_like(x_seq) if store_v else None
    for t, x in enumerate(x_seq):
        h = dynamics.charge(x, v, out=h_seq[t] if store_h else potential)
        _fire(fire, h, dynamics.v_threshold, out=spikes[t])
        v = dynamics.reset(h, spikes[t], out=v_seq[t] if store_v else potential)
    return spikes, v.clone() if store_v else v, h_seq, v_seq


def _backward(x_seq, v, fire, dynamics, grad_spikes, grad_last, grad_h, grad_v):
    # scratch memory is allocated once and each tensor overwritten when it is used up: fresh pages are what is slow
    grad_x, spike, slope = torch.empty_like(x_seq), torch.empty_like(x_seq[0]), torch.empty_like(x_seq[0])
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
    return grad_x


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
