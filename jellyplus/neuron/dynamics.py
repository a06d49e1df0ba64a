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

    def reset(self, h: Tensor, spike: Tensor) -> Tensor:
        """V[t] from H[t] and S[t]."""
        if self.detach_reset:
            spike = spike.detach()
        if self.v_reset is None:
            return torch.sub(h, spike, alpha=self.v_threshold)
        v = torch.addcmul(h, h, spike, value=-1)
        return v if self.v_reset == 0 else torch.add(v, spike, alpha=self.v_reset)

    def backward(
        self, h: Tensor, spike: Tensor, slope: Tensor, grad_spike: Tensor | None, grad_v: Tensor | None
    ) -> Tensor:
        """dL/dH[t] from dL/dS[t] and dL/dV[t] (None where one is zero), given the surrogate's slope at H[t]."""
        if grad_v is None:
            return torch.zeros_like(h) if grad_spike is None else grad_spike * slope
        if grad_spike is None:
            grad_spike = torch.zeros_like(h)
        if not self.detach_reset:
            grad_spike = self._through_reset(h, grad_spike, grad_v)
        kept = grad_v if self.v_reset is None else torch.addcmul(grad_v, grad_v, spike, value=-1)
        return torch.addcmul(kept, grad_spike, slope)

    def _through_reset(self, h: Tensor, grad_spike: Tensor, grad_v: Tensor) -> Tensor:
        """dL/dS[t] with the spike's own effect on V[t], -V_th (soft) or V_reset - H (hard), added."""
        if self.v_reset is None:
            return torch.add(grad_spike, grad_v, alpha=-self.v_threshold)
        pulled = torch.addcmul(grad_spike, grad_v, h, value=-1)
        return pulled if self.v_reset == 0 else pulled.add_(grad_v, alpha=self.v_reset)
