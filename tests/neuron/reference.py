"""The slow truth of every node: SpikingJelly's own charge, fire and reset, step by step under autograd."""

import torch
from spikingjelly.activation_based import neuron

__all__ = ["SlowSRIF", "SlowTruth", "normal"]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


_BaseNode = getattr(neuron, "SimpleBaseNode", neuron.BaseNode)  # 2.x calls the base with these hooks so


class SlowTruth(_BaseNode):
    """Charged by one line; it keeps every H and V. Where strict, H > V_th says what fires, and nothing else changes."""

    def __init__(self, decay, strict=False, **arguments):
        super().__init__(**arguments)
        self.v = arguments.get("v_reset") or 0.0  # 2.x's begins at 0 whatever the reset
        self.set_reset_value("v", self.v)
        self.decay = decay
        self.strict = strict
        self.h = []

    def multi_step_forward(self, x_seq):
        spikes, v = zip(*((self.single_step_forward(x), self.v) for x in x_seq), strict=True)
        self.v_seq = torch.stack(v)
        return torch.stack(spikes)

    def neuronal_charge(self, x):
        self.v = self.decay * self.v + x
        self.h.append(self.v)

    def neuronal_fire(self):
        spike = super().neuronal_fire()
        return spike + ((self.v > self.v_threshold).to(spike) - spike).detach() if self.strict else spike


class SlowSRIF(SlowTruth):
    """InfLoR, Eqs. 11 to 14; Eq. 10 piece by piece, under autograd."""

    def __init__(self, rectify, **arguments):
        super().__init__(1.0, v_threshold=0.5, v_reset=None, **arguments)
        self.rectify = rectify

    def neuronal_fire(self):
        spike = self._fire(self.v)
        return spike + ((self.v > 0.5).to(spike) - spike).detach() if self.strict else spike

    def _fire(self, h):
        if not self.rectify:
            return self.surrogate_function(h - 0.5)
        root = torch.where(h < 0, 1 - h, torch.where(h > 1, h, torch.ones_like(h))) ** (1 / 3)
        middle = torch.tanh(3 * (h - 0.5)) / (2 * torch.tanh(torch.tensor(1.5, dtype=h.dtype))) + 0.5
        return self.surrogate_function(torch.where(h < 0, 1 - root, torch.where(h > 1, root, middle)) - 0.5)

    def neuronal_reset(self, spike):
        self.v = self.v - (spike.detach() if self.detach_reset else spike)
