"""Dspike's temperature (Li et al. 2021, Algorithm 1, whose body the paper's text lacks)."""

import copy
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jellyplus import _compat
from jellyplus.finite_differences import Differences, Loss, devices
from jellyplus.surrogate import Dspike

__all__ = ["LOOKS", "TemperatureSearch", "search_temperature", "set_temperature", "temperature_candidates"]

LOOKS = 20  #: at the leads, at most
_LEAST = 16  # elements between two looks: the error of fewer says little


class TemperatureSearch(NamedTuple):
    """What one search found.

    Args:
        temperature: the one that is kept.
        candidates: among which.
        similarities: their cosine similarities to the finite differences.
        elements: of the parameter that were compared.
        errors: the standard errors of the kept one's lead over each candidate; 0 where all elements were compared.
    """

    temperature: float
    candidates: tuple[float, ...]
    similarities: tuple[float, ...]
    elements: int
    errors: tuple[float, ...]


def set_temperature(net: nn.Module, temperature: float) -> None:
    """Give every :class:`~jellyplus.surrogate.Dspike` in ``net`` this temperature, in place.

    Raises:
        ValueError: the temperature is not positive, or the network has no Dspike.

    >>> net = nn.Sequential(Dspike(), Dspike(temperature=2.0))
    >>> set_temperature(net, 3.0)
    >>> net[0]
    Dspike(temperature=3, spiking=True)
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be a positive number, got {temperature}")
    for module in _dspikes(net):
        module.temperature.fill_(temperature)


def temperature_candidates(temperature: float, step: float) -> tuple[float, ...]:
    """b, b - step and b + step, those under step / 2 dropped, so that b stays positive; b first, so that it wins ties.

    >>> temperature_candidates(1.0, 0.25)
    (1.0, 0.75, 1.25)
    >>> temperature_candidates(0.25, 0.25)
    (0.25, 0.5)
    """
    candidates = (temperature, temperature - step, temperature + step)
    return tuple(round(b, 6) for b in candidates if b >= step / 2)  # the buffer is single precision


def search_temperature(
    net: nn.Module,
    name: str,
    loss: Loss,
    x: Tensor,
    epsilon: float = 0.1,
    step: float = 0.2,
    max_bytes: int = 2**26,
    batch_dim: int | None = None,
    lead: float | None = None,
    seed: int = 0,
) -> TemperatureSearch:
    """The temperature among b - step, b and b + step whose gradient points most like the finite differences'.

    One forward pass serves all candidates, since the temperature is read in backward. ``net`` is left as it is,
    random state included; the statistics used are those of its mode. Any network that
    :func:`finite_difference_gradient` takes is searched, in any layout of batch and time; the nodes may be
    SpikingJelly's.

    The paper compares all elements of the parameter, two passes each. With ``lead``, which is ours, elements are
    compared in random order, and the search ends as soon as one candidate leads every other one by ``lead`` standard
    errors: those of the difference of two cosines (jackknife over the elements compared), which fall to 0 as no element
    is left out. Leads are looked at :data:`LOOKS` times, so a choice is wrong more often than one such test would be.
    Where all elements cost no more than some, as in the paper's toy network, all are compared.

    Args:
        net: with one temperature in all its :class:`~jellyplus.surrogate.Dspike`.
        name: of the parameter whose gradients are compared; the paper takes the first layer's weights.
        loss: of the network's output, a scalar.
        x: input of the network, for instance [T, N, *] or [N, *].
        epsilon: of the finite differences.
        step: delta b.
        max_bytes: see :func:`finite_difference_gradient`.
        batch_dim: see there.
        lead: in standard errors, 2 for instance; None compares all elements, as the paper does.
        seed: of the order in which they are compared.

    Raises:
        ValueError: no Dspike in the network, Dspikes of different temperatures, a lead that is not positive, or what
            finite differences refuse.
    """
    temperatures = {module.temperature.item() for module in _dspikes(net)}
    if len(temperatures) > 1:
        raise ValueError(f"the network has {len(temperatures)} temperatures: call set_temperature(net, b) first")
    if lead is not None and not lead > 0:
        raise ValueError(f"lead must be a positive number of standard errors, or None, got {lead}")
    candidates = temperature_candidates(temperatures.pop(), step)
    with torch.random.fork_rng(devices(x)):
        of = Differences(net, name, loss, x, epsilon, max_bytes, batch_dim)
        gradients = torch.stack(list(_gradients(copy.deepcopy(net), name, loss, x, candidates))).flatten(1)
        return _compared(gradients, of, candidates, lead, seed)


def _compared(
    gradients: Tensor, of: Differences, candidates: Sequence[float], lead: float | None, seed: int
) -> TemperatureSearch:
    """Compare the candidates' ``gradients`` [C, k] with the differences, until one of them leads."""
    k, reference = gradients.shape[1], gradients.new_empty(0)
    order = torch.arange(k) if lead is None else torch.randperm(k, generator=torch.Generator().manual_seed(seed))
    for chunk in order.split(k if lead is None or of.at_once else max(_LEAST, math.ceil(k / LOOKS))):
        reference = torch.cat([reference, of(chunk)])
        seen = gradients[:, order[: len(reference)].to(gradients.device)].double()
        similarities = F.cosine_similarity(seen, reference.double()).tolist()
        best = max(range(len(candidates)), key=similarities.__getitem__)  # the first one wins ties
        errors = _errors_of_lead(seen, reference.double(), best, k)
        apart = (
            similarities[best] - similarity > (lead or 0) * e
            for similarity, e in zip(similarities, errors, strict=True)
        )
        if sum(apart) == len(candidates) - 1:  # from all but itself
            break
    return TemperatureSearch(candidates[best], tuple(candidates), tuple(similarities), len(reference), tuple(errors))


def _errors_of_lead(gradients: Tensor, reference: Tensor, best: int, population: int) -> list[float]:
    """The standard errors of how far the cosine of candidate ``best`` is above each one's; nan where none can be told.

    Jackknife (Tukey, 1958): (n - 1) / n times the squared deviations of what comes out without one of n elements each;
    times 1 - n / population, since they are drawn from so many without replacement (Cochran, 1977, section 2.6).
    """
    n = len(reference)
    if n == population:
        return [0.0] * len(gradients)
    products, squares, own = gradients * reference, gradients.square(), reference.square()
    without = [terms.sum(-1, keepdim=True) - terms for terms in (products, squares, own)]
    cosines = without[0] / (without[1] * without[2]).sqrt()
    variances = (cosines[best] - cosines).var(-1) * (n - 1) ** 2 / n
    return (variances * (1 - n / population)).sqrt().tolist()


def _dspikes(net: nn.Module) -> list[Dspike]:
    found = [module for module in net.modules() if isinstance(module, Dspike)]
    if not found:
        raise ValueError("the network has no Dspike surrogate, so there is no temperature")
    return found


def _gradients(net: nn.Module, name: str, loss: Loss, x: Tensor, temperatures: tuple[float, ...]) -> Iterator[Tensor]:
    for module in net.modules():
        if isinstance(module, _compat.BaseNode):
            module.train()  # SpikingJelly's nodes have no surrogate gradient in evaluation (neuron.py:906, 931)
    _compat.reset_net(net)
    value = loss(net(x))
    for temperature in temperatures:
        set_temperature(net, temperature)
        yield torch.autograd.grad(value, net.get_parameter(name), retain_graph=True)[0]
