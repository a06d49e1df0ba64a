"""tdBN and the neurons behind it in one pass: what the norm gives is neither written nor kept.

A training step reads and writes a layer's activations less often so, and keeps two of three. The kernels are those of
backend ``cpp`` (``normalised.h``); everywhere else norm and node run one after the other, and so they do where a hook
looks at one of them.
"""

import functools
from numbers import Real
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from jellyplus import _compat
from jellyplus._distributed import processes
from jellyplus.layer import TDBN, _ThresholdDependentBatchNorm
from jellyplus.neuron import multistep
from jellyplus.neuron.base import Node
from jellyplus.neuron.cpp_backend import CppEngine
from jellyplus.neuron.iterative_lif import IterativeLIFNode
from jellyplus.neuron.multistep import Layout, Maybe, Sequences, layout_of
from jellyplus.neuron.srif import SRIFNode
from jellyplus.surrogate import trains

__all__ = ["NODES", "is_untouched", "normalise_and_fire"]

#: The neurons whose call is their sequence and no more; what a subclass does besides is not known.
NODES = (IterativeLIFNode, SRIFNode)


def normalise_and_fire(norm: nn.Module, node: nn.Module, x_seq: Tensor, beside: Tensor | None = None) -> Tensor:
    """``node(norm(x_seq))``, or ``node(norm(x_seq) + beside)``; in one pass where the kernels can, with equal results.

    Equal but for rounding. In one pass are tdBN and a jellyplus neuron that starts from a reset, in step mode 'm' and
    float32 on backend ``cpp``, with channels side by side in memory (channels-last): in training in one process, and in
    evaluation without gradients.

    Args:
        norm: of [T, N, C, *].
        node: of the same shape.
        x_seq: the norm's input.
        beside: added to what the norm gives, of the shape of that, as in a residual block; it may be kept for backward,
            so nothing may be written to it before.

    >>> from jellyplus.layer import ThresholdDependentBatchNorm1d
    >>> from jellyplus.neuron import IterativeLIFNode
    >>> norm, node = ThresholdDependentBatchNorm1d(1.0, 0.5, 3), IterativeLIFNode(step_mode="m")
    >>> x = torch.randn(4, 8, 3)
    >>> spikes = normalise_and_fire(norm, node, x)
    >>> node.reset()
    >>> bool((spikes == node(norm(x))).all())
    True
    """
    if _can_be_joined(norm, node, x_seq, beside):
        return node(x_seq, functools.partial(_run, cast(_ThresholdDependentBatchNorm, norm), beside))
    y = norm(x_seq)
    return node(y if beside is None else y + beside)


def _can_be_joined(norm: Any, node: Any, x: Tensor, beside: Maybe) -> bool:
    return (
        not _compat.is_looked_into()
        and type(norm) in TDBN
        and type(node) in NODES
        and _known_to_the_kernels(x)
        and (beside is None or (_is_float_on_cpu(beside) and beside.shape == x.shape))
        and _has_statistics_of_its_own(norm, x)
        and _starts_from_a_reset(node)
        and isinstance(node._engine(x), CppEngine)
    )


def _known_to_the_kernels(x: Tensor) -> bool:
    """Numbers [T, N, C, *] without gaps and with channels side by side; of one a channel torch refuses statistics."""
    return (
        _is_float_on_cpu(x)
        and x.dim() > 2
        and x.stride(2) == 1
        and layout_of(x).strides == x.stride()
        and x.numel() > x.shape[2]
    )


def _is_float_on_cpu(tensor: Maybe) -> bool:
    return (
        tensor is not None
        and type(tensor) in (Tensor, nn.Parameter)
        and tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
    )


def _has_statistics_of_its_own(norm: _ThresholdDependentBatchNorm, x: Tensor) -> bool:
    numbers = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    constants = (norm.alpha, norm.v_th, norm.eps, norm.momentum or 0.0)  # which somebody may want to learn
    return (
        (processes() == 1 if norm.training else not torch.is_grad_enabled())
        and norm.step_mode == "m"
        and x.dim() == 3 + norm.spatial_dims
        and all(map(_is_float_on_cpu, numbers))
        and all(of.shape == x.shape[2:3] and of.is_contiguous() for of in numbers)
        and all(isinstance(constant, Real) for constant in constants)
        and is_untouched(norm)
    )


def _starts_from_a_reset(node: Node) -> bool:
    return (
        node.step_mode == "m"
        and node.starts_from_reset()
        and not (torch.is_grad_enabled() and trains(node.surrogate_function))
        and is_untouched(node)
    )


def is_untouched(module: nn.Module) -> bool:
    """Whether nobody looks at what it is given or gives, and nothing has been put in the place of what it does.

    That is a hook, of its own or on all modules unless that does without what a norm gives (``needs_no_norm``), or a
    function among its attributes, as ``module.compile()`` leaves one there, too.
    """
    own = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    of_all = (
        torch_module._global_forward_pre_hooks,
        torch_module._global_backward_pre_hooks,
        torch_module._global_backward_hooks,
    )
    behind_all = torch_module._global_forward_hooks.values()
    return (
        not any(own + of_all)
        and all(getattr(hook, "needs_no_norm", False) for hook in behind_all)
        and not any(map(callable, module.__dict__.values()))
    )


def _run(
    norm: _ThresholdDependentBatchNorm,
    beside: Maybe,
    x_seq: Tensor,
    v: float,
    engine: CppEngine,
    store_h: bool,
    store_v: bool,
) -> Sequences:
    if norm.training:
        norm.num_batches_tracked.add_(1)
    return _NormalisedSequence.apply(x_seq, norm.weight, norm.bias, beside, norm, v, engine, store_h, store_v)


class _NormalisedSequence(torch.autograd.Function):
    """:class:`jellyplus.neuron.multistep.MultiStep` of ``norm(x_seq) + beside``, of which neither is kept twice."""

    @staticmethod
    def forward(
        ctx: Any,
        x_seq: Tensor,
        weight: Tensor,
        bias: Tensor,
        beside: Maybe,
        norm: _ThresholdDependentBatchNorm,
        v: float,
        engine: CppEngine,
        store_h: bool,
        store_v: bool,
    ) -> tuple[Maybe, ...]:
        """Take the statistics, move the running ones, and run the sequence."""
        constants, layout = x_seq.new_empty(4, x_seq.shape[2]), layout_of(x_seq)
        factor = norm.alpha * norm.v_th
        arguments = {
            **_arguments(layout, beside, constants, factor),
            "in_training": int(norm.training),
            "weight": weight,
            "bias": bias,
            "eps": norm.eps,
            "momentum": norm._share_of_this_batch() if norm.training else 0.0,
            "running_mean": norm.running_mean,
            "running_var": norm.running_var,
        }
        *outputs, checkpoints = multistep.forward(
            engine, x_seq, v, store_h, store_v, any(ctx.needs_input_grad), **arguments
        )
        ctx.engine, ctx.layout, ctx.start, ctx.factor = engine, layout, v, factor
        ctx.save_for_backward(x_seq, beside, constants, checkpoints)
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Maybe) -> tuple:
        """The gradients of ``x_seq``, of the norm's parameters and of ``beside``."""
        x_seq, beside, constants, checkpoints = multistep.saved(ctx)
        engine, layout = ctx.engine, ctx.layout
        grad_weight, grad_bias = torch.empty_like(constants[0]), torch.empty_like(constants[0])
        grad_x = engine.room(layout.flatten(x_seq)) if ctx.needs_input_grad[3] else None
        arguments = {
            **_arguments(layout, beside, constants, ctx.factor),
            "grad_norm_x_seq": grad_x,
            "grad_weight": grad_weight,
            "grad_bias": grad_bias,
        }
        grad = multistep.backward(engine, layout, x_seq, ctx.start, checkpoints, *grads, **arguments)
        grad_x, grad_beside = (grad, None) if grad_x is None else (layout.restore(grad_x), grad)
        return grad_x, grad_weight, grad_bias, grad_beside, None, None, None, None, None


def _arguments(layout: Layout, beside: Maybe, constants: Tensor, factor: float) -> dict[str, Any]:
    dense = None if beside is None else layout.flatten(beside).contiguous()
    return {"C": constants.shape[1], "norm": constants, "factor": factor, "beside": dense}
