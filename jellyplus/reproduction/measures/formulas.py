"""Formulas, drawn."""

from typing import Literal

import torch
from torch import Tensor

from jellyplus import functional, surrogate
from jellyplus.reproduction.measures.base import Curve, curve, measure

_POINTS = 601  # of a drawn function
_SURROGATES = {"dspike": surrogate.Dspike, "evaf": surrogate.EvAF}


@measure("function")
def surrogate_primitive(*, name: Literal["dspike", "evaf"], shape: float, v_threshold: float, span: float) -> Curve:
    """The function behind a surrogate gradient, over membrane potentials up to ``span`` from V_th on either side.

    ``shape`` is Dspike's temperature b or EvAF's k.
    """
    u = _around(v_threshold, span)
    return curve(u, _SURROGATES[name](shape).double().primitive(u - v_threshold))


@measure("function")
def surrogate_gradient(*, name: Literal["dspike", "evaf"], shape: float, v_threshold: float, span: float) -> Curve:
    """The surrogate gradient over membrane potentials; see :func:`surrogate_primitive`."""
    u = _around(v_threshold, span)
    return curve(u, _SURROGATES[name](shape).double().gradient(u - v_threshold))


@measure("function")
def spike(*, v_threshold: float, span: float) -> Curve:
    """The firing function, 1 from V_th on."""
    u = _around(v_threshold, span)
    return curve(u, surrogate.EvAF().fire(u - v_threshold))


@measure("function")
def constant(*, y: float, start: float, end: float) -> Curve:
    """One value from ``start`` to ``end``."""
    x = torch.linspace(start, end, _POINTS, dtype=torch.float64)
    return curve(x, torch.full_like(x, y))


@measure("function")
def rectified(*, span: float) -> Curve:
    """MPR, phi(u), up to ``span`` from 1/2 (Guo et al. 2022, InfLoR, Eq. 10)."""
    u = _around(0.5, span)
    return curve(u, functional.membrane_potential_rectify(u))


def _around(center: float, span: float) -> Tensor:
    return torch.linspace(center - span, center + span, _POINTS, dtype=torch.float64)
