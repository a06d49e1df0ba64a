"""``backend="torch"``: the sequence in torch operations, on every device and in every floating-point type.

Nothing is kept but the input. The backward pass charges the membrane potentials again, into the memory that will hold
the gradient, and then walks back through time, overwriting each H[t] with dL/dX[t].
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jellyplus.neuron.dynamics import Dynamics
from jellyplus.neuron.multistep import Maybe, State
from jellyplus.surrogate import Surrogate

__all__ = ["TorchEngine"]


class TorchEngine(NamedTuple):
    """Runs any elementwise firing function of H - V_th.

    Its slope in backward comes from its ``gradient_``, or from autograd where it is not one of ours.
    """

    fire: Callable
    dynamics: Dynamics

    def room(self, x: Tensor) -> Tensor:
        """See :class:`jellyplus.neuron.multistep.Engine`."""
        return torch.empty_like(x)

    def checkpoints(self, x: Tensor) -> None:
        """None: backward starts again from the first potential."""

    def forward(
        self, x: Tensor, v: State, spikes: Tensor, last: Tensor, h_seq: Maybe, v_seq: Maybe, checkpoints: Maybe
    ) -> None:
        """See :class:`jellyplus.neuron.multistep.Engine`."""
        for block in _blocks(x):
            self._forward(*(_part(t, block) for t in (x, v, spikes, last, h_seq, v_seq)))

    def backward(self, x: Tensor, v: State, checkpoints: Maybe, grad_x: Tensor, *grads: Maybe) -> None:
        """See :class:`jellyplus.neuron.multistep.Engine`."""
        for block in _blocks(x):
            self._backward(*(_part(t, block) for t in (x, v, grad_x, *grads)))

    def _forward(self, x_seq: Tensor, v: State, spikes: Tensor, last: Tensor, h_seq: Maybe, v_seq: Maybe) -> None:
        for t, x in enumerate(x_seq):
            h = self.dynamics.charge(x, v, out=last if h_seq is None else h_seq[t])
            self._fire(h, out=spikes[t])
            v = self.dynamics.reset(h, spikes[t], out=last)
            if v_seq is not None:
                v_seq[t] = v

    def _backward(self, x_seq: Tensor, v: State, grad_x: Tensor, *grads: Maybe) -> None:
        grad_spikes, grad_last, grad_h, grad_v = grads
        # two scratch tensors for all time-steps, each overwritten when it is used up: fresh pages are what is slow
        spike, slope = torch.empty_like(x_seq[0]), torch.empty_like(x_seq[0])
        for t, x in enumerate(x_seq):
            h = self.dynamics.charge(x, v, out=grad_x[t])
            if t + 1 < len(x_seq):
                v = self.dynamics.reset(h, self._fire(h, out=spike), out=spike)
        grad_next, scale = grad_last, 1.0
        for t in reversed(range(len(x_seq))):
            h = grad_x[t]
            silent = self._silence_and_slope(h, spike, slope)
            if grad_v is not None:
                grad_next, scale = grad_v[t] if grad_next is None else torch.add(grad_v[t], grad_next, alpha=scale), 1.0
            grad_spike = None if grad_spikes is None else grad_spikes[t]
            grad_next = self.dynamics.backward(h, silent, slope, grad_spike, grad_next, scale)
            scale = self.dynamics.decay
            if grad_h is not None:
                grad_next.add_(grad_h[t])

    def _fire(self, h: Tensor, out: Tensor) -> Tensor:
        """S[t] into ``out``; H itself decides, since rectifying it changes no sign (:mod:`.rectifier`)."""
        if isinstance(self.fire, Surrogate) and self.fire.spiking:
            reaches = torch.gt if self.dynamics.strict else torch.ge
            return reaches(h, self.dynamics.v_threshold, out=out)
        return out.copy_(self.dynamics.fire(self.fire, self.dynamics.over_threshold(h)))

    def _silence_and_slope(self, h: Tensor, silent: Tensor, slope: Tensor) -> Tensor:
        """1 - S[t] into ``silent``, dS/dH into ``slope``; the former is returned."""
        if isinstance(self.fire, Surrogate):
            over = self.dynamics.over_threshold(h, out=slope)
            if self.fire.spiking:
                stays_below = torch.le if self.dynamics.strict else torch.lt
                stays_below(h, self.dynamics.v_threshold, out=silent)
            else:
                silent.copy_(1 - self.fire.fire(over))
            self.dynamics.slope_(self.fire.gradient_(over), h)
            return silent
        with torch.enable_grad():
            x = self.dynamics.over_threshold(h).requires_grad_()
            spike = self.dynamics.fire(self.fire, x)
            slope.copy_(torch.autograd.grad(spike, x, torch.ones_like(spike))[0])
        self.dynamics.slope_(slope, h)
        return silent.copy_(1 - spike.detach())


_BLOCK = 2**17  # neurons whose state stays in the cache of a CPU; the fastest of 2^16 to 2^21 on two cores


def _blocks(x: Tensor) -> Iterator[slice]:
    """Neurons that run through time together: a block on a CPU, all of them on a GPU."""
    neurons = x.shape[1]
    size = _BLOCK if x.device.type == "cpu" else max(neurons, 1)
    return (slice(start, start + size) for start in range(0, neurons, size))


def _part(tensor: State | None, block: slice) -> Any:
    return tensor[..., block] if isinstance(tensor, Tensor) else tensor
