"""A whole sequence in one autograd node: what is kept, in which layout, and which backend's engine runs it.

The forward pass keeps its input, and what little the engine wants besides; the engine's backward pass charges the
membrane potentials again and walks back through time. :func:`step_by_step` is the same sequence for those who have to
look into it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from jellyplus.neuron.dynamics import Dynamics

__all__ = [
    "Engine",
    "Maybe",
    "MultiStep",
    "Run",
    "Sequences",
    "State",
    "backward",
    "empty",
    "forward",
    "layout_of",
    "saved",
    "step_by_step",
]

Maybe = Tensor | None
State = Tensor | float  #: a potential for each neuron, or one for all
Sequences = tuple[Tensor, State, Maybe, Maybe]  #: spikes, last V, all H and all V

Run = Callable[..., Sequences]  #: of x_seq, v, an engine, and whether to store all H and all V


class Engine(Protocol):
    """What runs a sequence. All tensors are [T, neurons] or [neurons]; those to be filled are there, and dense.

    Neurons lie side by side in all of them, time-steps anywhere: one image may serve all, expanded over time.
    """

    @property
    def dynamics(self) -> Dynamics:
        """The node's constants."""

    def room(self, x: Tensor) -> Tensor:
        """Memory for a sequence like ``x``."""

    def checkpoints(self, x: Tensor) -> Tensor | None:
        """Room for the potentials that backward wants to start again from, besides the first; or None."""

    def forward(
        self, x: Tensor, v: State, spikes: Tensor, last: Tensor, h_seq: Maybe, v_seq: Maybe, checkpoints: Maybe
    ) -> None:
        """Fill ``spikes``, ``last`` and, where given, ``h_seq``, ``v_seq`` and ``checkpoints``; v may be a float."""

    def backward(self, x: Tensor, v: State, checkpoints: Maybe, grad_x: Tensor, *grads: Maybe) -> None:
        """Fill ``grad_x`` from the gradients of :data:`Sequences`; one that is None is zero."""


class MultiStep(torch.autograd.Function):
    """``apply(x_seq, v, engine, store_h, store_v)`` gives (spikes, last V, all H or None, all V or None).

    ``x_seq`` and the sequences are [T, N, *]; ``v``, the potential carried over, is a float or [N, *].
    """

    @staticmethod
    def forward(
        ctx: Any, x_seq: Tensor, v: State, engine: Engine, store_h: bool, store_v: bool
    ) -> tuple[State | None, ...]:
        """Run the sequence; ``x_seq``, ``v`` and the engine's checkpoints are kept."""
        *outputs, checkpoints = forward(engine, x_seq, v, store_h, store_v, any(ctx.needs_input_grad))
        ctx.engine, ctx.start, ctx.layout = engine, v if isinstance(v, float) else None, layout_of(x_seq)
        ctx.save_for_backward(x_seq, v if ctx.start is None else None, checkpoints)
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Maybe) -> tuple:
        """The gradients of ``x_seq`` and of ``v``."""
        x_seq, v, checkpoints = saved(ctx)
        start = v if ctx.start is None else ctx.start
        grad_x = backward(ctx.engine, ctx.layout, x_seq, start, checkpoints, *grads)
        return grad_x, None if v is None else grad_x[0] * ctx.engine.dynamics.decay, None, None, None


def forward(engine: Engine, x_seq: Tensor, v: State, store_h: bool, store_v: bool, train: bool, **more: Any) -> tuple:
    """:data:`Sequences`, and where ``train`` what the engine's backward pass wants besides ``x_seq`` and ``v``.

    ``more`` is for the engine, as in the next.
    """
    layout = layout_of(x_seq)
    x, start = layout.flatten(x_seq), layout.start(v)
    checkpoints = engine.checkpoints(x) if train else None
    spikes, last = engine.room(x), x.new_empty(layout.neurons)
    h_seq, v_seq = (engine.room(x) if store else None for store in (store_h, store_v))
    engine.forward(x, start, spikes, last, h_seq, v_seq, checkpoints, **more)
    return *(_of_any(layout.restore, flat) for flat in (spikes, last, h_seq, v_seq)), checkpoints


def backward(
    engine: Engine, layout: "Layout", x_seq: Tensor, v: State, checkpoints: Maybe, *grads: Maybe, **more: Any
) -> Tensor:
    """The gradient of ``x_seq``, from those of :data:`Sequences`, None where one is zero.

    ``layout`` is that of the forward pass: what has kept ``x_seq`` meanwhile may give it back in another.
    """
    x, start = layout.flatten(x_seq), layout.start(v)
    flatten = layout.flatten, layout.flatten_state, layout.flatten, layout.flatten
    incoming = map(_of_any, flatten, grads)
    grad_x = engine.room(x)
    engine.backward(x, start, checkpoints, grad_x, *incoming, **more)
    return layout.restore(grad_x)


def _of_any(function: Callable[[Tensor], Tensor], x: Maybe) -> Maybe:
    return None if x is None else function(x)


def empty(x_seq: Tensor) -> Tensor:
    """A sequence like those that :func:`forward` fills."""
    layout = Layout.of(x_seq.shape, x_seq.stride())
    return x_seq.new_empty_strided(layout.shape, layout.strides)


def step_by_step(
    fire: Callable, dynamics: Dynamics, x_seq: Tensor, v: State, store_h: bool, store_v: bool
) -> Sequences:
    """The sequence in differentiable operations, one time-step after the other, which compilers fuse; see above."""
    steps = []
    for x in x_seq:
        h = dynamics.charge(x, v)
        spike = dynamics.fire(fire, dynamics.over_threshold(h))
        v = dynamics.reset(h, spike)
        steps.append((spike, h, v))
    spikes, h_seq, v_seq = zip(*steps, strict=True)
    return torch.stack(spikes), v, torch.stack(h_seq) if store_h else None, torch.stack(v_seq) if store_v else None


def saved(ctx: Any) -> tuple:
    """What the forward pass left for the backward pass of a sequence.

    Raises:
        RuntimeError: it is gone.
    """
    try:
        return ctx.saved_tensors
    except RuntimeError as error:
        if "backward through the graph a second time" not in str(error):
            raise
        raise RuntimeError(
            "the backward pass runs a second time through a sequence whose graph it has freed; most often the "
            "potential was left from the batch before: call reset_net(net) between batches, or detach_net(net) to "
            "carry the potential on without its gradient"
        ) from error


class Layout(NamedTuple):
    """How [T, N, *] becomes [T, neurons] in the order of its memory, and back: channels-last stays channels-last.

    Args:
        shape: of the sequence.
        order: its dimensions, from the outermost in memory; time is the first.
        strides: of a sequence that is dense in this order.
        neurons: their number.
    """

    shape: tuple[int, ...]
    order: list[int]
    strides: tuple[int, ...]
    neurons: int

    @classmethod
    def of(cls, shape: tuple[int, ...], strides: tuple[int, ...]) -> "Layout":
        order = [0, *sorted(range(1, len(shape)), key=strides.__getitem__, reverse=True)]
        dense, size = [1] * len(shape), 1
        for dim in reversed(order):
            dense[dim] = size
            size = size * shape[dim]
        return cls(shape, order, tuple(dense), math.prod(shape[1:]))

    def flatten(self, sequence: Tensor) -> Tensor:
        if sequence.stride() == self.strides:
            return sequence.as_strided((self.shape[0], self.neurons), (self.neurons, 1))
        flat = sequence.permute(self.order).reshape(sequence.shape[0], self.neurons)
        return flat if flat.stride(1) == 1 else flat.contiguous()

    def start(self, v: State) -> State:
        return self.flatten_state(v) if isinstance(v, Tensor) else v

    def flatten_state(self, v: Tensor) -> Tensor:
        return v.as_strided((self.neurons,), (1,)) if v.stride() == self.strides[1:] else self.flatten(v[None])[0]

    def restore(self, flat: Tensor) -> Tensor:
        """The same memory as [T, N, *], or [N, *], but no view: torch detaches no view in place, as detach_net asks."""
        shape, strides = (self.shape, self.strides) if flat.dim() == 2 else (self.shape[1:], self.strides[1:])
        return flat.new_empty(0).set_(flat, 0, shape, strides)  # type: ignore[call-overload]  # torch's stub knows storages alone


def layout_of(x_seq: Tensor) -> Layout:
    """Of sizes that are known: a compiler's are not."""
    return _known(x_seq.shape, x_seq.stride())


_known = functools.lru_cache(maxsize=4096)(Layout.of)
