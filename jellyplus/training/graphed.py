"""A training step's forward and backward pass as two CUDA graphs: a GPU is told once what to launch, then to repeat it.

To launch the hundreds of kernels of a step takes the host longer than a small network's take the card. What is launched
is the same, and so are the numbers, bit for bit. Python runs in the first steps alone: what it would do later, such as
setting another constant, is not seen, while tensors may change in place, as a temperature or the weight of branches do.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

__all__ = ["Graphed"]

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
_FIRST = 3  # steps as they are: what happens once, such as compiling kernels, cannot be recorded


class Graphed:
    """A step that is run some times and then recorded; called like it.

    A recording is for inputs of one shape, layout and type, for one mode of all layers and of autocast, and for weights
    and buffers that stay where they are. Under other conditions, such as a last batch that is smaller, the step is
    taken as it is; and always, which is said once, where it cannot be recorded.

    Not noticed are hooks and monitors that come after the first steps, another layer in the place of one, and a
    potential that is carried from step to step: reset the network in the step. A weight that autocast converts once and
    a step uses several times has its gradients summed in single precision.

    Args:
        step: of inputs and labels on a GPU, gives a scalar loss that has a gradient, and a tensor without one.
        net: has all parameters that the loss has gradients for.
    """

    def __init__(self, step: Step, net: nn.Module):
        self.step, self.net = step, net
        self._modules = list(net.modules())  # to go through which takes longer than to look at them
        self._holders = [holder for module in self._modules for holder in (module._parameters, module._buffers)]
        self._taken = 0  # of late, under the same conditions
        self._conditions: tuple | None = None
        self._recorded: _Recorded | None = None
        self._refused = False

    def __call__(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The step's loss and its other tensor.

        Raises:
            RuntimeError: in the backward pass of a recorded step, a second time or after the next step.
        """
        if self._refused:
            return self.step(x, labels)
        present = self._present(x, labels)
        if not self._recorded and torch.is_grad_enabled():
            self._taken = self._taken + 1 if present == self._conditions else 1
            self._conditions = present
            if self._taken == _FIRST + 1:
                self._record(x, labels)
        if self._recorded and present == self._conditions:
            return _Replay.apply(self._recorded, x, labels, *self._recorded.parameters)
        return self.step(x, labels)

    def _record(self, x: Tensor, labels: Tensor) -> None:
        try:
            self._recorded = _Recorded(self.step, self.net, x, labels)
        except RuntimeError as error:
            self._refused = True
            _say(f"steps are launched one kernel after the other, not as a CUDA graph: {' '.join(str(error).split())}")

    def _present(self, *inputs: Tensor) -> tuple:
        device = inputs[0].device.type
        held = [tensor for holder in self._holders for tensor in holder.values() if tensor is not None]
        return (
            [(given.shape, given.stride(), given.dtype, given.device, given.requires_grad) for given in inputs],
            [(id(tensor), tensor.data_ptr(), tensor.requires_grad) for tensor in held],
            [module.training for module in self._modules],
            torch.is_grad_enabled(),
            torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
        )


@functools.cache
def _say(sentence: str) -> None:
    tqdm.write(f"jellyplus: {sentence}", file=sys.stderr)


class _Recorded:
    """Both passes, and the memory that they read and write."""

    def __init__(self, step: Step, net: nn.Module, x: Tensor, labels: Tensor):
        self.parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
        if x.requires_grad:
            raise RuntimeError("its inputs want a gradient")
        if any(parameter._backward_hooks for parameter in self.parameters):
            raise RuntimeError("a parameter has a hook for its gradient, which would run twice")
        if {tensor.device for tensor in (labels, *self.parameters)} != {x.device}:
            raise RuntimeError("inputs, labels and weights are not on one device")
        self.inputs = x.clone(), labels.clone()
        self.steps = 0
        with _undrawn(x.device), _uncached():
            self.forward, (loss, self.other) = record(lambda: step(*self.inputs), x.device)
            self.loss, self.grad = loss.detach(), torch.ones_like(loss)
            self.backward, self.grads = record(
                lambda: torch.autograd.grad(loss, self.parameters, self.grad, allow_unused=True), x.device, self.forward
            )

    def part_from_gradients(self) -> None:
        """What was accumulated lies where the next backward pass would write."""
        for parameter, grad in zip(self.parameters, self.grads, strict=True):
            kept = parameter.grad
            if kept is not None and grad is not None and kept.data_ptr() == grad.data_ptr():
                parameter.grad = kept.clone()


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recorded: _Recorded, x: Tensor, labels: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        recorded.steps += 1
        ctx.recorded, ctx.step = recorded, recorded.steps
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
        if ctx.step != recorded.steps:
            raise RuntimeError(
                "a step that is a CUDA graph has one backward pass, before the next step: call backward() once, between"
            )
        recorded.steps += 1
        recorded.part_from_gradients()
        recorded.grad.copy_(grad)
        recorded.backward.replay()
        return None, None, None, *(None if found is None else found.detach() for found in recorded.grads)


class _Graph(NamedTuple):
    recorded: torch.cuda.CUDAGraph
    stream: torch.cuda.Stream

    def replay(self) -> None:
        self.recorded.replay()


def record(function: Callable[[], Any], device: torch.device, after: _Graph | None = None) -> tuple[_Graph, Any]:
    """What a function launches on a GPU, and the tensors that it gives, which a replay fills.

    It has the memory and the stream of what it comes ``after``. Other threads may go on as they are meanwhile, such as
    the one that pins batches.

    Raises:
        RuntimeError: it does what cannot be recorded, or runs elsewhere.
    """
    if device.type != "cuda":
        raise RuntimeError(f"it runs on {device.type}")
    with torch.cuda.device(device):
        graph = _Graph(torch.cuda.CUDAGraph(), after.stream if after else torch.cuda.Stream())
        before, pool = torch.cuda.current_stream(), after and after.recorded.pool()
        try:
            with torch.cuda.graph(graph.recorded, pool, graph.stream, capture_error_mode="thread_local"):
                given = function()
        finally:
            torch.cuda.set_stream(before)  # torch does not where the recording failed
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
