r"""Membrane potential rectifier (MPR): moves potentials towards the spikes 0 and 1 before the neuron fires.

Guo et al. 2022, Reducing Information Loss for SNNs, section 3.2:

.. math::
    \varphi(u) = \begin{cases}
        1 - (1-u)^{1/3}, & u < 0, \\
        \dfrac{\tanh(3 (u - 1/2))}{2 \tanh(3/2)} + \dfrac12, & 0 \le u \le 1, \\
        u^{1/3}, & u > 1
    \end{cases} \qquad \text{(Eq. 10)}

It is symmetric about (1/2, 1/2), and on [0, 1] it is Dspike's primitive with temperature 3. The paper asks for two
things. Firing invariance, that u and phi(u) lie on the same side of V_th, holds for V_th = 1/2 and for no other
threshold in (0, 1). Spike approaching, :math:`|\varphi(u) - o| \le |u - o|` with o the spike of u, holds everywhere
for V_th = 1/2, with equality at 0, 1/2 and 1 alone.

So that firing does not hang on rounding, :func:`rectified_over_half` gives phi(u) - 1/2 with the sign of u - 1/2 in
every dtype, and ``H_hat - V_th`` is best had as ``rectified_over_half(h) - (v_threshold - 0.5)``.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "cuda_rectified_over_half",
    "cuda_rectify_gradient",
    "rectified_over_half",
    "rectify",
    "rectify_gradient",
]

_SPAN = 2 * math.tanh(1.5)


def rectify(u: Tensor) -> Tensor:
    """The rectified membrane potential phi(u) of Eq. 10, see :mod:`jellyplus.neuron.rectifier`.

    Differentiable; its gradient is :func:`rectify_gradient`. Guo et al. 2022, section 3.2.

    Args:
        u: membrane potential, in units in which a spike is 1.

    Shape: any, kept; a floating dtype is kept too.

    >>> rectify(torch.tensor([-7.0, 0.0, 0.25, 0.5, 1.0, 8.0])).round(decimals=4)
    tensor([-1.0000,  0.0000,  0.1491,  0.5000,  1.0000,  2.0000])
    """
    return rectified_over_half(u) + 0.5


def rectified_over_half(u: Tensor) -> Tensor:
    """phi(u) - 1/2 of Eq. 10 without cancellation: its sign is that of u - 1/2, in every floating dtype.

    Differentiable; its gradient is :func:`rectify_gradient`. Guo et al. 2022, section 3.2.

    Args:
        u: membrane potential, in units in which a spike is 1.

    Shape: any, kept; a floating dtype is kept too.

    >>> rectified_over_half(torch.tensor([-7.0, 0.0, 0.5, 1.0, 8.0]))
    tensor([-1.5000, -0.5000,  0.0000,  0.5000,  1.5000])
    >>> rectified_over_half(torch.tensor([0.49999997, 0.50000006])).sign()
    tensor([-1.,  1.])
    """
    # A sum of the pieces, each constant where another one rules; faster than to compute all three and select.
    # The joints 0 and 1 belong to the middle piece: relu passes no gradient on there, and clamp, whose gradient at
    # its bounds depends on torch's version, is kept out of the graph.
    nearest = u.detach().clamp(0, 1)
    inside = torch.tanh(3 * (torch.where(u == nearest, u, nearest) - 0.5)) / _SPAN
    above, below = (1 + F.relu(u - 1)).pow(1 / 3), (1 + F.relu(-u)).pow(1 / 3)
    return inside + (above - below)


def rectify_gradient(u: Tensor) -> Tensor:
    r"""The derivative of Eq. 10 in closed form; at the joints 0 and 1 it is the middle piece's.

    .. math::
        \varphi'(u) = \begin{cases}
            \frac13 (1-u)^{-2/3}, & u < 0, \\
            \dfrac{3 (1 - \tanh^2(3 (u - 1/2)))}{2 \tanh(3/2)}, & 0 \le u \le 1, \\
            \frac13 u^{-2/3}, & u > 1
        \end{cases}

    It jumps at the joints, from 0.2995 inside to 1/3 outside. Guo et al. 2022, section 3.2.

    Args:
        u: membrane potential, in units in which a spike is 1.

    Shape: any, kept; a floating dtype is kept too. No graph is needed, and none is cut.

    >>> rectify_gradient(torch.tensor([-7.0, 0.0, 0.5, 8.0]))
    tensor([0.0833, 0.2995, 1.6572, 0.0833])
    """
    clamped = u.clamp(0, 1)
    inside = 3 * (1 - torch.tanh(3 * (clamped - 0.5)).square()) / _SPAN
    outside = (1 + F.relu(u - 1) + F.relu(-u)).pow(-2 / 3) / 3
    return torch.where(u == clamped, inside, outside)


def cuda_rectified_over_half(u: str) -> str:
    """:func:`rectified_over_half` as one CUDA expression of the ``float`` variable named ``u``.

    No call stands in a branch, so that a CPU can compute several at once.

    >>> cuda_rectified_over_half("h").endswith(" - cbrtf(1.0f + (h < 0.0f ? -h : 0.0f))))")
    True
    """
    return f"(tanhf({_inside(u)}) / {_SPAN!r}f + (cbrtf(1.0f + {_above(u)}) - cbrtf(1.0f + {_below(u)})))"


def cuda_rectify_gradient(u: str) -> str:
    """:func:`rectify_gradient` as one CUDA expression of the ``float`` variable named ``u``; no call in a branch.

    >>> cuda_rectify_gradient("h").startswith("((h < 0.0f || h > 1.0f ? 0.0f : 1.0f) * 3.0f * (1.0f - tanhf(")
    True
    """
    tanh, root = f"tanhf({_inside(u)})", f"cbrtf(1.0f + {_above(u)} + {_below(u)})"
    inside, outside = f"({u} < 0.0f || {u} > 1.0f ? 0.0f : 1.0f)", f"({u} < 0.0f || {u} > 1.0f ? 1.0f : 0.0f)"
    return f"({inside} * 3.0f * (1.0f - {tanh} * {tanh}) / {_SPAN!r}f + {outside} / (3.0f * {root} * {root}))"


def _inside(u: str) -> str:
    return f"3.0f * (({u} < 0.0f ? 0.0f : ({u} > 1.0f ? 1.0f : {u})) - 0.5f)"


def _above(u: str) -> str:
    return f"({u} > 1.0f ? {u} - 1.0f : 0.0f)"


def _below(u: str) -> str:
    return f"({u} < 0.0f ? -{u} : 0.0f)"
