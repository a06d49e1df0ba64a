r"""Surrogate gradients for the firing function, each one as primitive, gradient and CUDA code.

Their argument is :math:`x = H - V_{th}`, as in ``spikingjelly.activation_based.surrogate``: forward fires at
:math:`x \ge 0`, or returns the primitive where ``spiking=False``; backward multiplies by the gradient.

Li et al. 2021, Differentiable Spike: Eqs. 7 (rectangular), 8 (triangular), 11 and 12 (Dspike).
Guo et al. 2022, IM-Loss: Eqs. 13 and 14 (EvAF).
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from jellyplus import _compat
from jellyplus.registry import SURROGATES

__all__ = ["Dspike", "EvAF", "Rectangular", "Surrogate", "Triangular"]


class Surrogate(_compat.SurrogateFunctionBase):
    """A firing function with a surrogate gradient: subclasses give one function in three views.

    :meth:`primitive` is the function, :meth:`gradient_` its derivative written by hand, :meth:`cuda_gradient` that
    derivative as a CUDA expression. A shape parameter that training changes is a buffer, read when the backward
    pass runs and never saved by the forward pass, so one graph can be differentiated under several shapes.

    Args:
        spiking: fire in forward; False gives the primitive instead, for checks and for soft networks.
    """

    def __init__(self, spiking: bool = True):
        super().__init__(spiking)

    @abstractmethod
    def primitive(self, x: Tensor) -> Tensor:
        """The function whose derivative is the surrogate gradient; any shape, elementwise."""

    @abstractmethod
    def gradient_(self, x: Tensor) -> Tensor:
        """Overwrite ``x`` with the surrogate gradient at ``x``, and return it; any shape, elementwise."""

    def gradient(self, x: Tensor) -> Tensor:
        """The surrogate gradient at ``x``; any shape, elementwise."""
        return self.gradient_(x.clone())

    @abstractmethod
    def cuda_gradient(self, x: str) -> str:
        """The gradient as a CUDA expression of the ``float`` expression ``x``.

        An evolving shape parameter appears as ``surrogate_parameter[0]``, a ``const float *`` kernel argument that
        points at the buffer: a kernel that lacks this argument does not compile, rather than freeze the value.
        """

    @property
    def parameter(self) -> Tensor | None:
        """The buffer that holds the evolving shape parameter, or None where the shape is fixed."""
        return None

    def fire(self, x: Tensor) -> Tensor:
        """What the forward pass gives: 1 where ``x >= 0`` and 0 elsewhere, or the primitive."""
        return torch.ge(x, 0, out=torch.empty_like(x)) if self.spiking else self.primitive(x)

    def forward(self, x: Tensor) -> Tensor:
        """Fire, with the surrogate gradient attached. Shape: any, kept.

        A parameter of a subclass that training learns (``requires_grad``) gets the gradient of the primitive.
        """
        learns = torch.is_grad_enabled() and trains(self)
        if not (learns or _compat.is_looked_into()):
            return _Fire.apply(x, self)
        here = x.detach()
        fired = (here >= 0).to(x) if self.spiking else self.primitive(here).detach()
        with torch.no_grad():
            slope = self.gradient(here)
        fired = fired + slope * (x - here)  # the last factor is 0, and its derivative 1
        if not learns:
            return fired
        primitive = self.primitive(here)
        return fired + (primitive - primitive.detach())

    def cuda_codes(self, y: str, x: str, dtype: str) -> str:
        """One CUDA statement that assigns the gradient at ``x`` to ``y``.

        Args:
            y: left side, for example ``const float grad_s_to_h``.
            x: name of the variable that holds H - V_th.
            dtype: ``float``, or ``half2``, which is computed lane by lane in float.

        Raises:
            NotImplementedError: another dtype.
        """
        if dtype == "float":
            return f"{y} = {self.cuda_gradient(x)};"
        if dtype == "half2":
            low, high = (self.cuda_gradient(f"__{lane}2float({x})") for lane in ("low", "high"))
            return f"{y} = __floats2half2_rn({low}, {high});"
        raise NotImplementedError(f"CUDA code for {dtype}; float and half2 are supported")


def trains(fire: Callable) -> bool:
    """Whether the firing function has parameters of its own that ask for a gradient."""
    parameters: Iterable[Tensor] = getattr(fire, "parameters", tuple)()
    return any(parameter.requires_grad for parameter in parameters)


class _Fire(torch.autograd.Function):
    """Firing under autograd. The module stays on the context, the tensors in ``save_for_backward``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.surrogate = surrogate
        ctx.save_for_backward(x)
        return surrogate.fire(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad * ctx.surrogate.gradient(x), None


@SURROGATES.register("rectangular")
class Rectangular(Surrogate):
    r"""Rectangular window (Dspike paper, Eq. 7; also the surrogate of tdBN and STBP).

    .. math:: g'(x) = \frac1a \; [\,|x| < a/2\,], \qquad g(x) = \min(1, \max(0, x/a + 1/2))

    The window is open, as printed: a silent neuron, H = 0 with V_th = 0.5 and a = 1, gets no gradient.

    Args:
        width: a, in units of membrane potential.
        spiking: see :class:`Surrogate`.

    Raises:
        ValueError: width is not a positive number.

    >>> Rectangular(width=2.0).gradient(torch.tensor([-1.0, -0.5, 0.9])).tolist()
    [0.0, 0.5, 0.5]
    """

    def __init__(self, width: float = 1.0, spiking: bool = True):
        super().__init__(spiking)
        self.width = _positive("width", width)

    def primitive(self, x: Tensor) -> Tensor:
        """Eq. 7 integrated."""
        return (x / self.width + 0.5).clamp(0, 1)

    def gradient_(self, x: Tensor) -> Tensor:
        """Eq. 7."""
        inside = x.abs_().lt_(self.width / 2)
        return inside if self.width == 1 else inside.div_(self.width)

    def cuda_gradient(self, x: str) -> str:
        """Eq. 7."""
        return f"(fabsf({x}) < {_literal(self.width / 2)} ? {_literal(1 / self.width)} : 0.0f)"

    def extra_repr(self) -> str:
        """The shape."""
        return f"width={self.width}, spiking={self.spiking}"


@SURROGATES.register("triangular")
class Triangular(Surrogate):
    r"""Triangular surrogate gradient (Dspike paper, Eq. 8).

    .. math:: g'(x) = \gamma \max(0,\, 1 - |x| / V_{th})

    The primitive rises from 0 at :math:`-V_{th}` to :math:`\gamma V_{th}`, which is not 1 in general: Eq. 8 fixes
    the peak of the gradient and not its area.

    Args:
        gamma: peak of the gradient.
        v_threshold: V_th, the half width; the firing threshold of the node that uses it.
        spiking: see :class:`Surrogate`.

    Raises:
        ValueError: gamma or v_threshold is not a positive number.

    >>> Triangular(gamma=2.0).gradient(torch.tensor([-0.5, -0.25, 0.0])).tolist()
    [0.0, 1.0, 2.0]
    """

    def __init__(self, gamma: float = 1.0, v_threshold: float = 0.5, spiking: bool = True):
        super().__init__(spiking)
        self.gamma = _positive("gamma", gamma)
        self.v_threshold = _positive("v_threshold", v_threshold)

    def primitive(self, x: Tensor) -> Tensor:
        """Eq. 8 integrated from minus infinity."""
        inside = x.clamp(-self.v_threshold, self.v_threshold)
        return self.gamma * (self.v_threshold / 2 + inside - inside * inside.abs() / (2 * self.v_threshold))

    def gradient_(self, x: Tensor) -> Tensor:
        """Eq. 8."""
        return x.abs_().div_(-self.v_threshold).add_(1).clamp_(min=0).mul_(self.gamma)

    def cuda_gradient(self, x: str) -> str:
        """Eq. 8."""
        gamma, v_th = _literal(self.gamma), _literal(self.v_threshold)
        return f"(fabsf({x}) < {v_th} ? {gamma} * (1.0f - fabsf({x}) / {v_th}) : 0.0f)"

    def extra_repr(self) -> str:
        """The shape."""
        return f"gamma={self.gamma}, v_threshold={self.v_threshold}, spiking={self.spiking}"


@SURROGATES.register("dspike")
class Dspike(Surrogate):
    r"""Differentiable spike with a temperature (Dspike paper, Eqs. 11 and 12), in :math:`x = u - 0.5`.

    .. math::
        g(x) = \frac{\tanh(b x) + \tanh(b/2)}{2 \tanh(b/2)}, \qquad
        g'(x) = \frac{b\,(1 - \tanh^2(b x))}{2 \tanh(b/2)} \qquad \text{for } |x| \le 1/2,

    0 and 1 outside, where the gradient is 0. The window is closed, as Eq. 11 is printed: a silent neuron sits on its
    edge and gets a gradient. The paper fixes V_th = 0.5; with another threshold the window stays centred on it and
    one wide. b to 0 gives the straight line (Lemma 4.1), b to infinity a step.

    ``temperature`` is a buffer: saved and moved with the module, changed in place by
    :func:`jellyplus.functional.set_temperature`, and read when the backward pass runs.

    Args:
        temperature: b, without unit; larger is steeper.
        spiking: see :class:`Surrogate`.

    Raises:
        ValueError: temperature is not a positive number.

    >>> Dspike(temperature=3.0).primitive(torch.tensor([-0.5, 0.0, 0.5])).tolist()
    [0.0, 0.5, 1.0]
    """

    temperature: Tensor

    def __init__(self, temperature: float = 1.0, spiking: bool = True):
        super().__init__(spiking)
        self.register_buffer("temperature", torch.tensor(_positive("temperature", temperature)))

    @property
    def parameter(self) -> Tensor:
        """The temperature."""
        return self.temperature

    def primitive(self, x: Tensor) -> Tensor:
        """Eqs. 11 and 12."""
        edge = torch.tanh(self.temperature / 2)
        return (torch.tanh(self.temperature * x.clamp(-0.5, 0.5)) + edge) / (2 * edge)

    def gradient_(self, x: Tensor) -> Tensor:
        """The derivative of Eq. 12 inside the closed window, 0 outside."""
        peak = self.temperature / (2 * torch.tanh(self.temperature / 2))
        inside = x.abs().le_(0.5)
        return x.mul_(self.temperature).tanh_().square_().sub_(1).mul_(-peak).mul_(inside)

    def cuda_gradient(self, x: str) -> str:
        """The derivative of Eq. 12, b read from device memory."""
        b = "surrogate_parameter[0]"
        inside = f"(fabsf({x}) <= 0.5f ? 1.0f : 0.0f)"  # a factor: no call in a branch, so that a CPU can vectorise it
        return f"({inside} * {b} / (2.0f * tanhf(0.5f * {b})) * {_slope_of_tanh(f'{b} * ({x})')})"

    def extra_repr(self) -> str:
        """The shape."""
        return f"temperature={_shown(self.temperature)}, spiking={self.spiking}"


@SURROGATES.register("evaf")
class EvAF(Surrogate):
    r"""Evolutionary asymptotic function (IM-Loss paper, Eq. 13, whose k Eq. 14 lets change with the epoch).

    .. math:: g(x) = \frac12 \tanh(k x) + \frac12, \qquad g'(x) = \frac k2 \left(1 - \tanh^2(k x)\right)

    There is no window: a silent neuron always gets some gradient. k to infinity gives the step; the gradient falls
    off over about 1/k on either side of V_th and encloses the area 1 for every k.

    ``k`` is a buffer: saved and moved with the module, changed in place (``function.k.fill_(2.0)``), and read when
    the backward pass runs.

    Args:
        k: without unit; larger is steeper. The paper lets it grow from 1 to 10.
        spiking: see :class:`Surrogate`.

    Raises:
        ValueError: k is not a positive number.

    >>> EvAF(k=2.0).primitive(torch.tensor([-10.0, 0.0, 10.0])).tolist()
    [0.0, 0.5, 1.0]
    """

    k: Tensor

    def __init__(self, k: float = 1.0, spiking: bool = True):
        super().__init__(spiking)
        self.register_buffer("k", torch.tensor(_positive("k", k)))

    @property
    def parameter(self) -> Tensor:
        """k."""
        return self.k

    def primitive(self, x: Tensor) -> Tensor:
        """Eq. 13."""
        return torch.tanh(self.k * x) / 2 + 0.5

    def gradient_(self, x: Tensor) -> Tensor:
        """The derivative of Eq. 13."""
        return x.mul_(self.k).tanh_().square_().sub_(1).mul_(-self.k / 2)

    def cuda_gradient(self, x: str) -> str:
        """The derivative of Eq. 13, k read from device memory."""
        k = "surrogate_parameter[0]"
        return f"(0.5f * {k} * {_slope_of_tanh(f'{k} * ({x})')})"

    def extra_repr(self) -> str:
        """The shape."""
        return f"k={_shown(self.k)}, spiking={self.spiking}"


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive number, got {value}")
    return float(value)


def _shown(parameter: Tensor) -> str:
    return "meta" if parameter.is_meta else f"{parameter.item():.4g}"


def _slope_of_tanh(y: str) -> str:
    """1 - tanh^2(y) = 4 e / (1 + e)^2 with e = exp(-2 |y|), in CUDA: one fast function, and no cancellation."""
    e = f"expf(-2.0f * fabsf({y}))"
    return f"(4.0f * {e} / ((1.0f + {e}) * (1.0f + {e})))"


def _literal(value: float) -> str:
    return f"{value!r}f" if "." in repr(value) or "e" in repr(value) else f"{value!r}.0f"
