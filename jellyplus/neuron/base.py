"""What every jellyplus node shares: SpikingJelly's ``BaseNode`` with a whole-sequence path and a checked state."""

from collections.abc import Callable

import torch
from torch import Tensor

from jellyplus import _compat
from jellyplus.neuron import backends
from jellyplus.neuron.dynamics import Dynamics
from jellyplus.neuron.multistep import MultiStep
from jellyplus.surrogate import Rectangular

__all__ = ["Node"]


class Node(_compat.BaseNode):
    """A SpikingJelly node whose step is the pure :class:`~jellyplus.neuron.dynamics.Dynamics`.

    Step mode 's' runs one time-step under autograd; step mode 'm' runs the sequence through a hand-written backward
    that equals it. Both are the same in training and evaluation.

    ``IFNode`` and ``LIFNode`` cannot serve as bases: in evaluation they run their own scripted loop and ignore
    overridden hooks and surrogates (SpikingJelly 0.0.0.0.14, neuron.py:500-560).

    Args:
        decay: factor on the potential of the time-step before.
        v_threshold: V_th.
        v_reset: potential after a spike; None for soft reset.
        surrogate_function: elementwise firing function of H - V_th; None makes a fresh
            :class:`~jellyplus.surrogate.Rectangular`.
        detach_reset: no gradient through the spike in the reset.
        step_mode: 's', one time-step [N, *], or 'm', a sequence [T, N, *].
        backend: what runs step mode 'm'; 's' always runs torch. ``"torch"`` runs everything everywhere; ``"cpp"`` runs
            float32 on the CPU, compiled when first used; ``"cupy"`` runs float32 and float16 on CUDA, the potential
            in float32 either way. They differ by rounding.
        store_v_seq: leave V of every time-step on ``v_seq``, [T, N, *] (step mode 'm').
        store_h_seq: leave H of every time-step, before reset, on ``h_seq``, [T, N, *] (step mode 'm').
            Both sequences are attached to the graph and dropped by ``reset_net``.
        strict: fire at H > V_th alone, as the papers' equations and inflor's and imloss's public code have it; without
            it H = V_th fires too, which is SpikingJelly's rule.

    Raises:
        ValueError: an unknown backend, one that cannot run here or cannot run the surrogate or the input, or an input
            whose shape or type is not that of the state left from the call before.
    """

    def __init__(
        self,
        decay: float,
        v_threshold: float,
        v_reset: float | None,
        surrogate_function: Callable | None,
        detach_reset: bool,
        step_mode: str,
        backend: str,
        store_v_seq: bool,
        store_h_seq: bool,
        strict: bool = False,
    ):
        surrogate_function = Rectangular() if surrogate_function is None else surrogate_function
        super().__init__(v_threshold, v_reset, surrogate_function, detach_reset, step_mode, backend, store_v_seq)
        self.register_memory("h_seq", None)
        self.decay = decay
        self.store_h_seq = store_h_seq
        self.strict = strict

    @property
    def supported_backends(self) -> tuple[str, ...]:
        """The backends of step mode 'm', whatever the step mode is now."""
        return backends.BACKENDS

    @property
    def backend(self) -> str:
        """What runs step mode 'm'."""
        return self._backend

    @backend.setter
    def backend(self, value: str) -> None:
        if value not in self.supported_backends:
            known = ", ".join(map(repr, self.supported_backends))
            raise ValueError(f"unknown backend {value!r}: {type(self).__name__} supports {known}")
        if found := backends.obstacle(value):
            raise ValueError(f"backend={value!r} cannot run here: {found}")
        self._backend = value

    @property
    def dynamics(self) -> Dynamics:
        """The constants of one time-step; a spike takes V_th off under soft reset."""
        arguments = (self.decay, self.v_threshold, self.v_reset, self.detach_reset)
        return Dynamics(*arguments, spike_size=self.v_threshold, rectify=False, strict=self.strict)

    def single_step_forward(self, x: Tensor) -> Tensor:
        """X[t] to S[t], both [N, *]; V[t] stays on ``v``."""
        self._check_state(x)
        dynamics = self.dynamics
        h = dynamics.charge(x, self.v)
        spike = dynamics.fire(self.surrogate_function, dynamics.over_threshold(h))
        self.v = dynamics.reset(h, spike)
        return spike

    def multi_step_forward(self, x_seq: Tensor) -> Tensor:
        """X to S, both [T, N, *]; the last V stays on ``v``."""
        if x_seq.dim() == 0 or len(x_seq) == 0:
            raise ValueError(f"step mode 'm' needs input [T, N, *] with T >= 1, got shape {tuple(x_seq.shape)}")
        self._check_state(x_seq[0])
        self._check_surrogate()
        engine = backends.engine(self.backend, self.surrogate_function, self.dynamics)
        spikes, self.v, self.h_seq, v_seq = MultiStep.apply(x_seq, self.v, engine, self.store_h_seq, self.store_v_seq)
        if self.store_v_seq:
            self.v_seq = v_seq
        return spikes

    def _check_state(self, x: Tensor) -> None:
        if isinstance(self.v, Tensor) and _kind(self.v) != _kind(x):
            raise ValueError(
                f"the membrane potential left from the call before is {_kind(self.v)} and the input {_kind(x)}: call "
                "spikingjelly.activation_based.functional.reset_net(net) between batches"
            )

    def _check_surrogate(self) -> None:
        parameters = getattr(self.surrogate_function, "parameters", tuple)()
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters):
            raise ValueError("step mode 'm' does not train parameters of the surrogate itself: use step mode 's'")

    def __getstate__(self) -> dict:
        return _compat.state_without_graph(self)

    def extra_repr(self) -> str:
        """SpikingJelly's line, the decay, and whether firing is strict."""
        return f"decay={self.decay}, strict={self.strict}, {super().extra_repr()}"


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}".removeprefix("torch.")
