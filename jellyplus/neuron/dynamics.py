"""One time-step of a node as pure functions: charge, fire, reset. Every backend and every test starts here."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from jellyplus.neuron.rectifier import rectified_over_half, rectify_gradient

__all__ = ["Dynamics"]


class Dynamics(NamedTuple):
    r"""The constants of a leaky node with hard or soft reset.

    .. math::
        H[t] = d\,V[t-1] + X[t], \qquad S[t] = \Theta(H[t] - V_{th}), \qquad
        V[t] = H (1 - S) + V_{reset} S \;\text{(hard)} \quad\text{or}\quad H - a S \;\text{(soft)}

    Zheng et al. 2021, Eqs. 1-3, and Li et al. 2021, Eqs. 1-2. Both print a strict >; equality fires here, which is
    SpikingJelly's rule, unless ``strict`` is set. ``v_reset=None`` is SpikingJelly's way to say soft reset; a is
    ``spike_size``, V_th in SpikingJelly's soft reset and 1, the spike itself, in Guo et al. 2022 (ECCV), Eq. 7. With
    ``rectify`` the spike is decided on, and the surrogate gradient taken through, the rectified potential:
    :math:`\Theta(\varphi(H) - V_{th})` with Eq. 10's :math:`\varphi`, V_th = 1/2.
    """

    decay: float
    v_threshold: float
    v_reset: float | None
    detach_reset: bool
    spike_size: float
    rectify: bool
    strict: bool = False

    def charge(self, x: Tensor, v: Tensor | float, out: Tensor | None = None) -> Tensor:
        """H[t] from X[t] and V[t-1]; a float is one potential for all neurons."""
        if isinstance(v, float):
            return torch.add(x, self.decay * v, out=out)
        return torch.add(x, v, alpha=self.decay, out=out)

    def over_threshold(self, h: Tensor, out: Tensor | None = None) -> Tensor:
        """What the firing function is given: H - V_th, or the rectified H minus V_th."""
        if not self.rectify:
            return torch.sub(h, self.v_threshold, out=out)
        over = rectified_over_half(h)
        return over if out is None else out.copy_(over)

    def fire(self, function: Callable, over: Tensor) -> Tensor:
        """S[t], ``function`` of :meth:`over_threshold`; under ``strict`` without the spike at 0, whose slope stays.

        All of SpikingJelly's functions fire at 0, but for primitives (``spiking=False``), which fire nowhere.
        """
        spike = function(over)
        if self.strict and getattr(function, "spiking", True):
            spike = spike - (over == 0).to(spike)
        return spike

    def slope_(self, slope: Tensor, h: Tensor) -> Tensor:
        """dS/dH, over ``slope``, the surrogate gradient at :meth:`over_threshold`."""
        return slope.mul_(rectify_gradient(h)) if self.rectify else slope

    def reset(self, h: Tensor, spike: Tensor, out: Tensor | None = None) -> Tensor:
        """V[t] from H[t] and S[t]; ``out`` may be either of the two."""
        if self.detach_reset:
            spike = spike.detach()
        if self.v_reset is None:
            return torch.sub(h, spike, alpha=self.spike_size, out=out)
        if self.v_reset == 0:
            return torch.addcmul(h, h, spike, value=-1, out=out)
        return torch.lerp(h, h.new_full((), self.v_reset), spike, out=out)

    def backward(
        self, h: Tensor, silent: Tensor, slope: Tensor, grad_spike: Tensor | None, grad_v: Tensor | None, scale: float
    ) -> Tensor:
        r"""dL/dH[t], from dL/dS[t] and dL/dV[t] = scale * grad_v (None where one is zero).

        .. math::
            \frac{dL}{dH} = g' \frac{dL}{dS} + \frac{dL}{dV} \frac{dV}{dH}, \quad \frac{dV}{dH} =
            (1 - S) - g' (H - V_{reset}) \;\text{(hard)} \quad\text{or}\quad 1 - g' a \;\text{(soft)}

        with g' = dS/dH, and without the terms in g' of dV/dH where the reset is detached. Memory traffic is what this
        costs: the result goes over ``h``, and ``silent``, 1 - S, and ``slope`` are used up.
        """
        if grad_v is None:
            return h.zero_() if grad_spike is None else torch.mul(slope, grad_spike, out=h)
        kept = self._kept(h, silent, slope)
        grad = slope.zero_() if grad_spike is None else slope.mul_(grad_spike)
        return torch.addcmul(grad, grad_v, kept, value=scale, out=h)

    def _kept(self, h: Tensor, silent: Tensor, slope: Tensor) -> Tensor:
        """dV/dH above."""
        if self.v_reset is None:
            return silent.fill_(1) if self.detach_reset else torch.mul(slope, -self.spike_size, out=silent).add_(1)
        if self.detach_reset:
            return silent
        kept = silent.addcmul_(slope, h, value=-1)
        return kept if self.v_reset == 0 else kept.add_(slope, alpha=self.v_reset)
