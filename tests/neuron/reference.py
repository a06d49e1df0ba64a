"""The slow truth of every node: SpikingJelly's own step-by-step loop under autograd."""

import torch
from spikingjelly.activation_based import neuron

__all__ = ["SlowSRIF", "SlowTruth", "normal"]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class SlowTruth(neuron.BaseNode):
    """Charged by one line; it keeps every H."""

    def __init__(self, decay, **arguments):
        super().__init__(**arguments)
        self.decay = decay
        self.h = []

    def neuronal_charge(self, x):
        self.v = self.decay * self.v + x
        self.h.append(self.v)


class SlowSRIF(SlowTruth):
    """InfLoR, Eqs. 11 to 14; Eq. 10 piece by piece, under autograd."""

    def __init__(self, rectify, **arguments):
        super().__init__(1.0, v_threshold=0.5, v_reset=None, **arguments)
        self.rectify = rectify

    def neuronal_fire(self):
        h = self.v
        if not self.rectify:
            return self.surrogate_function(h - 0.5)
        root = torch.where(h < 0, 1 - h, torch.where(h > 1, h, torch.ones_like(h))) ** (1 / 3)
        middle = torch.tanh(3 * (h - 0.5)) / (2 * torch.tanh(torch.tensor(1.5, dtype=h.dtype))) + 0.5
        return self.surrogate_function(torch.where(h < 0, 1 - root, torch.where(h > 1, root, middle)) - 0.5)

    def neuronal_reset(self, spike):
        self.v = self.v - (spike.detach() if self.detach_reset else spike)
