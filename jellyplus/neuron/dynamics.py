"""One time-step of a node as pure functions: charge, fire, reset. Every backend and every test starts here."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Dynamics"]


class Dynamics(NamedTuple):
    r"""The constants of a leaky node with hard or soft reset.

    .. math::
        H[t] = d\,V[t-1] + X[t], \qquad S[t] = \Theta(H[t] - V_{th}), \qquad
        V[t] = H (1 - S) + V_{reset} S \;\text{(hard)} \quad\text{or}\quad H - V_{th} S \;\text{(soft)}

    Zheng et al. 2021, Eqs. 1-3, and Li et al. 2021, Eqs. 1-2. Both print a strict >; equality fires here, which is
    SpikingJelly's rule. ``v_reset=None`` is SpikingJelly's way to say soft reset.
    """

    decay: float
    v_threshold: float
    v_reset: float | None
    detach_reset: bool

    def charge(self, x: Tensor, v: Tensor | float, out: Tensor | None = None) -> Tensor:
        """H[t] from X[t] and V[t-1]; a float is one potential for all neurons."""
        if isinstance(v, float):
            return torch.add(x, self.decay * v, out=out)
        return torch.add(x, v, alpha=self.decay, out=out)

    def reset(self, h: Tensor, spike: Tensor, out: Tensor | None = None) -> Tensor:
        """V[t] from H[t] and S[t]."""
        if self.detach_reset:
            spike = spike.detach()
        if self.v_reset is None:
            return torch.sub(h, spike, alpha=self.v_threshold, out=out)
        v = torch.addcmul(h, h, spike, value=-1, out=out)
        return v if self.v_reset == 0 else torch.add(v, spike, alpha=self.v_reset, out=out)

    def backward(
        self, h: Tensor, spike: Tensor, slope: Tensor, grad_spike: Tensor | None, grad_v: Tensor | None, scale: float
    ) -> Tensor:
        r"""dL/dH[t], from dL/dS[t] and dL/dV[t] = scale * grad_v (None where one is zero).

        .. math::
            \frac{dL}{dH} = g' \frac{dL}{dS} + \frac{dL}{dV} (1 - Q), \qquad
            Q = S + g' (H - V_{reset}) \;\text{(hard)} \quad\text{or}\quad g' V_{th} \;\text{(soft)}

        with g' the surrogate's slope at H[t], and without the terms in g' of Q where the reset is detached. Memory
        traffic is what this costs: the result goes over ``h``, and ``spike`` and ``slope`` are used up.
        """
        q = None if grad_v is None else self._reset_share(h, spike, slope)
        grad = slope.zero_() if grad_spike is None else slope.mul_(grad_spike)
        if grad_v is None:
            return h.copy_(grad)
        if q is not None:
            grad.addcmul_(grad_v, q, value=-scale)
        return torch.add(grad, grad_v, alpha=scale, out=h)

    def _reset_share(self, h: Tensor, spike: Tensor, slope: Tensor) -> Tensor | None:
        """Q above; None is zero."""
        if self.v_reset is None:
            return None if self.detach_reset else torch.mul(slope, self.v_threshold, out=spike)
        if self.detach_reset:
            return spike
        q = spike.addcmul_(slope, h)
        return q if self.v_reset == 0 else q.add_(slope, alpha=-self.v_reset)
