"""What every jellyplus node shares: SpikingJelly's ``BaseNode`` with a whole-sequence path and a checked state."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jellyplus import _compat
from jellyplus.neuron import backends, multistep, operators
from jellyplus.neuron.dynamics import Dynamics
from jellyplus.surrogate import Rectangular, trains

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
        backend: what runs step mode 'm'; 's' always runs torch. ``"auto"`` is the fastest that runs the input and the
            surrogate: kernels, or torch, which is said once. ``"torch"`` runs everything everywhere; ``"cpp"`` runs
            float32 and bfloat16 on the CPU, compiled when first used; ``"cupy"`` runs float32, float16 and bfloat16 on
            CUDA. Kernels keep the potential in float32 whatever the type. They differ by rounding.
        store_v_seq: leave V of every time-step on ``v_seq``, [T, N, *]: in step mode 'm' of the last sequence, in 's'
            of all time-steps since the reset, as SpikingJelly 2.0.0 does, which copies the sequence each time.
        store_h_seq: leave H of every time-step, before reset, on ``h_seq``, [T, N, *] (step mode 'm').
            Both sequences are attached to the graph and dropped by ``reset_net``. They are no state, so none of
            SpikingJelly's memories.
        strict: fire at H > V_th alone, as the papers' equations and inflor's and imloss's public code have it; without
            it H = V_th fires too, which is SpikingJelly's rule.

    Raises:
        ValueError: an unknown backend, one that cannot run here or cannot run the surrogate or the input, or an input
            whose shape or type is not that of the state left from the call before.
    """

    v: Tensor | float
    v_seq: Tensor | None = None
    h_seq: Tensor | None = None
    _is_first_call = True  # whether the last call, those of torch.utils.checkpoint aside, started from a reset
    _set_by = _run_again_by = None  # the recomputations that last gave it a potential, and ran it again from a reset
    _carried_until = 0  # autograd nodes with smaller numbers may be of calls that carried the potential on

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
        constants = {"v_threshold": v_threshold, "v_reset": v_reset, "surrogate_function": surrogate_function}
        super().__init__(**constants, detach_reset=detach_reset, step_mode=step_mode, store_v_seq=store_v_seq)
        self.backend = backend
        self.decay = decay
        self.store_h_seq = store_h_seq
        self.strict = strict

    @property
    def supported_backends(self) -> tuple[str, ...]:
        """The backends of step mode 'm', whatever the step mode is now."""
        return "auto", *backends.BACKENDS

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

    def forward(self, x: Tensor, *run: multistep.Run) -> Tensor:
        """[N, *] in step mode 's', [T, N, *] in 'm'; run again by torch.utils.checkpoint, from the same potential.

        Integers and booleans are taken as torch's default floating-point type.

        Args:
            x: X[t], or X.
            run: what runs the sequence in place of the node's own path, if anything (:mod:`.normalised`).

        Raises:
            RuntimeError: run again within a backward pass, and the potential that it started from is not known: it
                was not reset before the one call that is run again, or torch.compile has compiled it.
        """
        if not (x.is_floating_point() or x.is_complex()):
            x = x.to(torch.get_default_dtype())
        recomputed = _recomputation()
        if recomputed is None:
            self._is_first_call = not isinstance(self.v, Tensor)
            if torch.compiler.is_compiling() and not self._is_first_call:
                self.v = operators.carried(self.v)
        elif self._set_by != recomputed:
            return self._forward_again(recomputed, x, *run)
        return super().forward(x, *run)

    def starts_from_reset(self) -> bool:
        """Whether the next call does, as where torch.utils.checkpoint runs the one after a reset again."""
        return isinstance(self.v, float) or _recomputation() not in (None, self._set_by)

    def reset(self) -> None:
        """As SpikingJelly's; the sequences go too."""
        if not (torch.compiler.is_compiling() or self._is_first_call) and _recomputation() is None:
            self._carried_until = torch._C._autograd._get_sequence_nr()
        self._start_anew()

    def detach(self) -> None:
        """As SpikingJelly's; the sequences are cut from the graph too."""
        super().detach()
        self.v_seq, self.h_seq = _without_graph(self.v_seq), _without_graph(self.h_seq)

    def __setattr__(self, name: str, value: object) -> None:
        if name in _PLAIN:  # set in every call, where what torch.nn.Module and SpikingJelly look for takes time
            object.__setattr__(self, name, value)
            return
        if name == "v":
            self._set_by = _recomputation()
        super().__setattr__(name, value)

    def _start_anew(self) -> None:
        super().reset()
        self._set_by = _recomputation()
        self.v_seq = self.h_seq = None

    def _forward_again(self, recomputed: tuple[int, int], *inputs: Any) -> Tensor:
        """The only call since a reset once more; what it left stays as it is."""
        _, made = recomputed
        if not self._is_first_call or made < self._carried_until or self._run_again_by == recomputed:
            raise RuntimeError(
                f"torch.utils.checkpoint runs this {type(self).__name__} again, and it was called more than once since "
                "it was reset, so the potential that it started from is gone: reset it with reset_net(net) at the "
                "beginning of the function given to checkpoint, or checkpoint whole sequences in step mode 'm'"
            )
        memories, sequences = self._memories.copy(), (self.v_seq, self.h_seq)
        self._start_anew()
        try:
            return super().forward(*inputs)
        finally:
            self._memories.update(memories)
            self.v_seq, self.h_seq = sequences
            self._set_by = None
            self._run_again_by = recomputed

    def single_step_forward(self, x: Tensor) -> Tensor:
        """X[t] to S[t], both [N, *]; V[t] stays on ``v``."""
        self._check_state(x)
        spike, self.v = self._transition(x, self.v)
        if self.store_v_seq:
            before = () if self.v_seq is None else (self.v_seq,)
            self.v_seq = torch.cat((*before, self.v[None]))
        return spike

    def charge(self, x: Tensor, v: Tensor | float) -> Tensor:
        """H[t] from X[t] and V[t-1], [N, *]; a float is one potential for all neurons."""
        return self.dynamics.charge(x, v)

    def _transition(self, x: Tensor, v: Tensor | float) -> tuple[Tensor, Tensor]:
        h, dynamics = self.charge(x, v), self.dynamics
        spike = dynamics.fire(self.surrogate_function, dynamics.over_threshold(h))
        return spike, dynamics.reset(h, spike)

    def single_step_functional_forward(self, inputs: tuple[Tensor], states: tuple) -> tuple[tuple[Tensor], tuple]:
        """One time-step without a state of its own, for 2.x's ``base.to_functional_forward``.

        Args:
            inputs: X[t], [N, *].
            states: V[t - 1], a number or [N, *], and a subclass's other memories, which stay as they are.

        Returns:
            (S[t],) and (V[t], the others).
        """
        (x,), (v, *others) = inputs, states
        spike, v = self._transition(x, v)
        return (spike,), (v, *others)

    def multi_step_forward(self, x_seq: Tensor, *run: multistep.Run) -> Tensor:
        """X to S, both [T, N, *]; the last V stays on ``v``."""
        if x_seq.dim() == 0 or len(x_seq) == 0:
            raise ValueError(f"step mode 'm' needs input [T, N, *] with T >= 1, got shape {tuple(x_seq.shape)}")
        if isinstance(self.v, Tensor):
            self._check_state(x_seq[0])
        spikes, self.v, self.h_seq, v_seq = self._run(x_seq, *run)
        if self.store_v_seq:
            self.v_seq = v_seq
        return spikes

    def _run(self, x_seq: Tensor, run: multistep.Run | None = None) -> multistep.Sequences:
        sequence = (x_seq, self.v)
        stored = (self.store_h_seq, self.store_v_seq)
        if run:
            return run(*sequence, self._engine(x_seq), *stored)
        fire, dynamics = self.surrogate_function, self.dynamics
        learns = torch.is_grad_enabled() and trains(fire)
        if not (learns or _compat.is_looked_into()):
            return multistep.MultiStep.apply(*sequence, self._engine(x_seq), *stored)
        if self.backend in ("auto", "torch"):  # a compiler makes kernels of its own
            return multistep.step_by_step(fire, dynamics, *sequence, *stored)
        if learns:
            raise ValueError(
                f"backend={self.backend!r} does not train parameters of the surrogate itself: use backend='auto'"
            )
        if not torch.compiler.is_compiling():
            raise ValueError(
                f"torch.func and torch.jit cannot look into backend={self.backend!r}: call "
                "jellyplus.functional.set_backend(net, 'auto')"
            )
        return operators.run(self.backend, fire, dynamics, *sequence, *stored)

    def _engine(self, x_seq: Tensor) -> multistep.Engine:
        if self.backend == "auto":
            return backends.fastest(self.surrogate_function, self.dynamics, x_seq)
        return backends.engine(self.backend, self.surrogate_function, self.dynamics)

    def _check_state(self, x: Tensor) -> None:
        v = self.v
        if isinstance(v, Tensor) and (v.dtype, v.shape, v.device) != (x.dtype, x.shape, x.device):
            raise ValueError(
                f"the membrane potential left from the call before is {_kind(v)} and the input {_kind(x)}: call "
                "jellyplus.functional.reset_net(net) between batches"
            )

    def __getstate__(self) -> dict:
        sequences = {"v_seq": _without_graph(self.v_seq), "h_seq": _without_graph(self.h_seq)}
        return _compat.state_without_graph(self) | sequences

    def extra_repr(self) -> str:
        """SpikingJelly's line, the decay, and whether firing is strict."""
        return f"decay={self.decay}, strict={self.strict}, {super().extra_repr()}"


_PLAIN = frozenset({"v_seq", "h_seq", "_is_first_call", "_set_by", "_run_again_by", "_carried_until"})


def _recomputation() -> tuple[int, int] | None:
    """Which recomputation this is, by the backward pass and the number of its node that asked for it; None if none.

    Nor is any where a compiler looks: what it made notices one by :func:`jellyplus.neuron.operators.carried`.
    """
    node = None if torch.compiler.is_compiling() else torch._C._current_autograd_node()
    return None if node is None else (torch._C._current_graph_task_id(), node._sequence_nr())


def _without_graph(sequence: object) -> Any:
    """A stored sequence as a copy may have it; what is gathered step by step knows how it is copied."""
    return sequence.detach() if isinstance(sequence, Tensor) else sequence


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}".removeprefix("torch.")
