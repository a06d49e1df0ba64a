"""A training step's forward and backward pass as two CUDA graphs: a GPU is told once what to launch, then to repeat it.

To launch the hundreds of kernels of a step takes the host longer than a small network's take the card. What is launched
is the same, and so are the numbers, bit for bit. Python runs in the first steps alone: what it would do later, such as
setting another constant, is not seen, while tensors may change in place, as a temperature or the weight of branches do.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

__all__ = ["Graphed"]

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
_FIRST = 3  # steps as they are: what happens once, such as compiling kernels, cannot be recorded


class Graphed:
    """A step that is run some times and then recorded; called like it.

    A recording is for inputs of one shape, layout and type, for one mode of the network and of autocast, and for
    weights that stay where they are. Under other conditions, such as a last batch that is smaller, the step is taken as
    it is; and always, which is said once, where it cannot be recorded. Gradients lie in memory that the next backward
    pass writes: set them to None in between, as optimizers' ``zero_grad`` does. What replaces a parameter, as
    ``load_state_dict(assign=True)`` does, or hooks a layer after the first steps, is not noticed.

    Args:
        step: of inputs and labels on a GPU, gives a scalar loss that has a gradient, and a tensor without one.
        net: has all parameters that the loss has gradients for.
    """

    def __init__(self, step: Step, net: nn.Module):
        self.step, self.net = step, net
        self._taken = 0
        self._recorded: _Recorded | None = None
        self._conditions: tuple | None = None

    def __call__(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The step's loss and its other tensor."""
        if self._taken == _FIRST:
            self._record(x, labels)
        self._taken += 1
        if self._recorded and self._conditions == self._present(x, labels):
            return _Replay.apply(self._recorded, x, labels, *self._recorded.parameters)
        return self.step(x, labels)

    def _record(self, x: Tensor, labels: Tensor) -> None:
        self._held = [*self.net.parameters(), *self.net.buffers()]
        try:
            self._recorded = _Recorded(self.step, self.net, x, labels)
        except RuntimeError as error:
            _say(f"steps are launched one kernel after the other, not as a CUDA graph: {' '.join(str(error).split())}")
        self._conditions = self._present(x, labels)

    def _present(self, *inputs: Tensor) -> tuple:
        device = inputs[0].device.type
        return (
            [(given.shape, given.stride(), given.dtype, given.device) for given in inputs],
            [(held.data_ptr(), held.requires_grad) for held in self._held],
            (self.net.training, torch.is_grad_enabled()),
            torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
        )


@functools.cache
def _say(sentence: str) -> None:
    tqdm.write(f"jellyplus: {sentence}", file=sys.stderr)


class _Recorded:
    """Both passes, and the memory that they read and write."""

    def __init__(self, step: Step, net: nn.Module, x: Tensor, labels: Tensor):
        self.parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
        self.inputs = x.clone(), labels.clone()
        with _undrawn(x.device), _uncached():
            self.forward, (loss, self.other) = record(lambda: step(*self.inputs))
            self.loss, self.grad = loss.detach(), torch.ones_like(loss)
            self.backward, self.grads = record(
                lambda: torch.autograd.grad(loss, self.parameters, self.grad, allow_unused=True), after=self.forward
            )


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recorded: _Recorded, x: Tensor, labels: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        ctx.recorded = recorded
        for kept, given in zip(recorded.inputs, (x, labels), strict=True):
            kept.copy_(given)
        recorded.forward.replay()
        loss, other = recorded.loss.clone(), recorded.other.clone()  # the next step writes over them
        ctx.mark_non_differentiable(other)
        return loss, other

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        recorded = ctx.recorded
        recorded.grad.copy_(grad)
        recorded.backward.replay()
        return None, None, None, *(None if found is None else found.detach() for found in recorded.grads)


def record(function: Callable[[], Any], after: torch.cuda.CUDAGraph | None = None) -> tuple[torch.cuda.CUDAGraph, Any]:
    """What a function launches, and the tensors that it gives, which a replay fills; ``after`` shares its memory.

    Other threads may go on as they are meanwhile, such as the one that pins batches.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=after and after.pool(), capture_error_mode="thread_local"):
        given = function()
    return graph, given


@contextlib.contextmanager
def _undrawn(device: torch.device) -> Iterator[None]:
    """Leave torch's random states as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


@contextlib.contextmanager
def _uncached() -> Iterator[None]:
    """Let autocast convert weights in every pass, for a pass that finds them converted would record nothing of it."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
