"""A sequence on a compiled backend as two operators that torch's compilers look at from outside.

``torch.compile`` and ``torch.export`` cannot look into a kernel: they call ``torch.ops.jellyplus.sequence`` and
``sequence_backward``, of which they know the shapes. All that decides a number is an argument: what changes between two
calls is read anew, the surrogate's parameter as a tensor.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jellyplus.neuron import backends, multistep
from jellyplus.neuron.dynamics import Dynamics
from jellyplus.neuron.kernel_code import Form
from jellyplus.neuron.kernel_engine import KernelEngine

__all__ = ["carried", "run"]

_COMMON = (
    "Tensor x_seq, Tensor? v, float v_start, str backend, str surrogate, Tensor? parameter, float decay, "
    "float v_threshold, float? v_reset, bool detach_reset, float spike_size, bool rectify, bool strict"
)


class _Written(NamedTuple):
    """A surrogate as kernels know it: the statement that assigns its gradient, and its parameter."""

    statement: str
    parameter: Tensor | None

    def cuda_codes(self, y: str, x: str, dtype: str) -> str:
        return self.statement


def run(
    backend: str, fire: Callable, dynamics: Dynamics, x_seq: Tensor, v: Tensor | float, store_h: bool, store_v: bool
) -> multistep.Sequences:
    """The sequence, as :class:`jellyplus.neuron.multistep.MultiStep` gives it, as one operator.

    Raises:
        ValueError: the surrogate has no CUDA code.
    """
    start = (None, v) if isinstance(v, float) else (v, 0.0)
    surrogate = (Form.of(fire, dynamics).surrogate, getattr(fire, "parameter", None))
    spikes, last, h_seq, v_seq, _ = torch.ops.jellyplus.sequence(
        x_seq, *start, backend, *surrogate, *dynamics, store_h, store_v, torch.is_grad_enabled()
    )
    return spikes, last, h_seq if store_h else None, v_seq if store_v else None


@torch.library.custom_op("jellyplus::carried", mutates_args=(), schema="(Tensor v) -> Tensor")
def carried(v: Tensor) -> Tensor:
    """The potential left from the call before, [N, *], as compiled code starts from it.

    Raises:
        RuntimeError: within a backward pass, where it is not what the first pass started from.
    """
    if torch._C._current_autograd_node() is not None:
        raise RuntimeError(
            "torch.utils.checkpoint runs a compiled node again, and the potential that it started from is gone: reset "
            "it with reset_net(net) at the beginning of the function given to checkpoint, or leave what is "
            "checkpointed out of torch.compile (torch.compiler.disable)"
        )
    return v.clone()


@carried.register_fake
def _(v: Tensor) -> Tensor:
    return torch.empty_like(v)


carried.register_autograd(lambda ctx, grad: grad)


def _engine(_v: Any, _v_start: Any, backend: str, surrogate: str, parameter: Any, *dynamics: Any) -> multistep.Engine:
    """Of :data:`_COMMON` without ``x_seq``, as the next."""
    written: Any = _Written(surrogate, parameter)
    return backends.engine(backend, written, Dynamics(*dynamics))


def _start(v: Tensor | None, v_start: float, *_: Any) -> multistep.State:
    return v_start if v is None else v


@torch.library.custom_op(
    "jellyplus::sequence",
    mutates_args=(),
    schema=f"({_COMMON}, bool store_h, bool store_v, bool train) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _sequence(x_seq: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *common, store_h, store_v, train = arguments
    outputs = multistep.forward(_engine(*common), x_seq, _start(*common), store_h, store_v, train)
    return tuple(x_seq.new_empty(0) if output is None else output for output in outputs)  # an operator gives no None


@_sequence.register_fake
def _(x_seq: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *_, store_h, store_v, train = arguments
    spikes, h_seq, v_seq = (
        multistep.empty(x_seq) if store else x_seq.new_empty(0) for store in (True, store_h, store_v)
    )
    checkpoints = KernelEngine.checkpoints(x_seq.flatten(1)) if train else None
    return (
        spikes,
        multistep.empty(x_seq[:1])[0],
        h_seq,
        v_seq,
        x_seq.new_empty(0) if checkpoints is None else checkpoints,
    )


@torch.library.custom_op(
    "jellyplus::sequence_backward",
    mutates_args=(),
    schema=f"({_COMMON}, Tensor checkpoints, Tensor? spikes, Tensor? last, Tensor? h_seq, Tensor? v_seq) -> Tensor",
)
def _backward(x_seq: Tensor, *arguments: Any) -> Tensor:
    *common, checkpoints, spikes, last, h_seq, v_seq = arguments
    layout = multistep.layout_of(x_seq)
    return multistep.backward(_engine(*common), layout, x_seq, _start(*common), checkpoints, spikes, last, h_seq, v_seq)


@_backward.register_fake
def _(x_seq: Tensor, *_: Any) -> Tensor:
    return multistep.empty(x_seq)


def _keep(ctx: Any, inputs: tuple, output: tuple) -> None:
    x_seq, v, v_start, backend, surrogate, parameter, *dynamics, store_h, store_v, _ = inputs
    ctx.constants = (v_start, backend, surrogate), tuple(dynamics), (store_h, store_v)
    ctx.save_for_backward(x_seq, v, parameter, output[-1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, *incoming: multistep.Maybe) -> tuple[multistep.Maybe, ...]:
    grad_spikes, grad_last, grad_h, grad_v, _ = incoming
    x_seq, v, parameter, checkpoints = ctx.saved_tensors
    start, dynamics, (store_h, store_v) = ctx.constants
    grads = (grad_spikes, grad_last, grad_h if store_h else None, grad_v if store_v else None)
    grad_x = torch.ops.jellyplus.sequence_backward(x_seq, v, *start, parameter, *dynamics, checkpoints, *grads)
    grad_v = None if v is None else grad_x[0] * Dynamics(*dynamics).decay
    return grad_x, grad_v, *[None] * (len(ctx.needs_input_grad) - 2)


_sequence.register_autograd(_differentiate, setup_context=_keep)
