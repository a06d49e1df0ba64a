"""Neurons driven by random or given inputs, without a network."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from jellyplus.monitor import Distribution, FiringRates, Potential
from jellyplus.neuron import IterativeLIFNode, SRIFNode
from jellyplus.reproduction.measures.base import Curve, curve, density, equal_bins, measure, potential_curve


@measure("function")
def rectified_samples(
    *, samples: int, mean: float, deviation: float, after: bool, low: float, high: float, bins: int
) -> Curve:
    """Density of normal membrane potentials u, or of phi(u) where ``after``, and the mean quantisation error (Eq. 9).

    Guo et al. 2022, InfLoR, Fig. 4, for V_th = 1/2.
    """
    u = mean + deviation * torch.randn(samples, generator=_generator(), dtype=torch.float64)
    potential = Potential(equal_bins(low, high, bins))
    potential.add(u, u, v_threshold=0.5)
    return potential_curve(potential, after)


@measure("function")
def membrane_potentials(
    *,
    variance: float,
    v_threshold: float,
    decay: float,
    time_steps: int,
    neurons: int,
    of: Literal["input", "potential"],
    low: float,
    high: float,
    bins: int,
) -> Curve:
    """Density of the input x, or of the membrane potential u before reset, at the last time-step.

    x is N(0, variance), independent in time and neurons (Zheng et al. 2021, Theorem 2 and Fig. 3).
    """
    x, node = _driven(variance, v_threshold, decay, time_steps, neurons)
    shown = Distribution(equal_bins(low, high, bins))
    with torch.no_grad():
        node(x)
    shown.add(x[-1] if of == "input" else node.h_seq[-1])
    return density(shown, {"variance": shown.variance})


@measure("function")
def firing_rates(*, variance: float, v_threshold: float, decay: float, time_steps: int, neurons: int) -> Curve:
    """Neurons by the number of their spikes over T, for x as in :func:`membrane_potentials` (Zheng et al., Fig. 4)."""
    x, node = _driven(variance, v_threshold, decay, time_steps, neurons)
    half = 0.5 / time_steps  # one bin for each possible rate
    with torch.no_grad(), FiringRates(nn.Sequential(node), equal_bins(-half, 1 + half, time_steps + 1)) as watch:
        node(x)
    (shown,) = watch.distributions.values()
    rates = [spikes / time_steps for spikes in range(time_steps + 1)]
    return Curve(rates, [float(count) for count in shown.counts], {"mean rate": shown.mean})


def _driven(
    variance: float, v_threshold: float, decay: float, time_steps: int, neurons: int
) -> tuple[Tensor, IterativeLIFNode]:
    x = math.sqrt(variance) * torch.randn(time_steps, neurons, generator=_generator(), dtype=torch.float64)
    return x, IterativeLIFNode(decay, v_threshold, step_mode="m", store_h_seq=True)


_NODES = {
    "hard": lambda v_threshold: IterativeLIFNode(1.0, v_threshold, step_mode="m", store_v_seq=True, store_h_seq=True),
    "soft": lambda v_threshold: SRIFNode(v_threshold, False, step_mode="m", store_v_seq=True, store_h_seq=True),
}


@measure("function")
def reset_trace(*, reset: Literal["hard", "soft"], inputs: tuple[float, ...], v_threshold: float) -> Curve:
    """Membrane potential of an IF neuron over time-steps: up to H[t] at t, then to V[t], at once.

    Inputs are in units of V_th. ``hard`` resets to 0; ``soft`` takes the spike itself off, 1 (Guo et al. 2022,
    InfLoR, Eq. 8 and Fig. 2).
    """
    h, v, spikes = _fired(reset, inputs, v_threshold)
    times = [0.0, *(float(t) for t in range(1, len(inputs) + 1) for _ in "HV")]
    return Curve(times, [0.0, *torch.stack([h, v], 1).flatten().tolist()], {"spikes": spikes.sum().item()})


@measure("function")
def reset_spikes(*, reset: Literal["hard", "soft"], inputs: tuple[float, ...], v_threshold: float) -> Curve:
    """When the neuron of :func:`reset_trace` fires, at the height of H."""
    h, _, spikes = _fired(reset, inputs, v_threshold)
    fired = spikes.nonzero().flatten()
    return curve(1.0 + fired, h[fired])


def _fired(reset: str, inputs: Sequence[float], v_threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """H, V and spikes of one neuron, each [T]."""
    node = _NODES[reset](v_threshold)
    with torch.no_grad():
        spikes = node(v_threshold * torch.tensor(inputs, dtype=torch.float64)[:, None])
    return node.h_seq[:, 0], node.v_seq[:, 0], spikes[:, 0]


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
