"""Temporal efficient training (Deng et al. 2022) with a surrogate of its own, for recipes to name."""

import torch
import torch.nn.functional as F
from torch import Tensor

from jellyplus.registry import LOSSES, SURROGATES
from jellyplus.surrogate import Surrogate


@LOSSES.register("tet")
def temporal_efficient(y_seq: Tensor, labels: Tensor, regulariser: float, target: float) -> Tensor:
    """(1 - r) mean_t CE(y_t, label) + r MSE(y, target); [T, N, classes] and [N] to a scalar."""
    time_steps = len(y_seq)
    cross_entropy = F.cross_entropy(y_seq.flatten(0, 1), labels.repeat(time_steps))
    distance = F.mse_loss(y_seq, torch.full_like(y_seq, target))
    return (1 - regulariser) * cross_entropy + regulariser * distance


@SURROGATES.register("super_spike")
class SuperSpike(Surrogate):
    """g'(x) = 1 / (1 + slope |x|)^2 (Zenke and Ganguli 2018)."""

    def __init__(self, slope: float, spiking: bool = True):
        if not slope > 0:
            raise ValueError(f"slope is {slope}; it must be positive")
        super().__init__(spiking)
        self.slope = slope

    def primitive(self, x: Tensor) -> Tensor:
        return x / (1 + self.slope * x.abs())

    def gradient_(self, x: Tensor) -> Tensor:
        return x.abs_().mul_(self.slope).add_(1).square_().reciprocal_()

    def cuda_gradient(self, x: str) -> str:
        factor = f"(1.0f + {float(self.slope)!r}f * fabsf({x}))"
        return f"(1.0f / ({factor} * {factor}))"
