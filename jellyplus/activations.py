"""What a training step keeps for backward, made smaller without changing a bit of its gradients.

Behind each convolution, three tensors of one size are kept: its output for the norm's backward pass, the norm's output
for the neuron's, and the spikes for the next convolution's. Spikes are 0 or 1, so a byte holds one; and the norm's
output is computed again from its input, by the same operation, when the backward pass asks for it. Where a neuron fires
on a sum of branches, the sum is kept as it is.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.batchnorm import _BatchNorm

from jellyplus import _compat
from jellyplus._distributed import processes
from jellyplus.layer import _ThresholdDependentBatchNorm

__all__ = ["Kept", "compressed_activations"]


class Kept(NamedTuple):
    """A tensor of the graph: what is held of it, and how it is had back."""

    held: Tensor
    give: Callable[[], Tensor]


class _Output(NamedTuple):
    """A layer's output, not held: ``again`` computes it, and is None where it is spikes."""

    storage: StorageWeakRef
    version: int
    again: Kept | None


class compressed_activations:  # noqa: N801 a context manager, named as torch names its own
    """In it, the forward pass keeps spikes as bytes, and of a norm's output nothing but the norm's input.

    Outputs and gradients are those without it, bit for bit; ``benchmarks/activations.md`` has the memory that it saves
    and the time that it takes, for each norm runs once more. The backward pass may run outside.

    Known are our neurons and SpikingJelly's with a surrogate that fires, tdBN, and torch's batch norms in training. All
    else is kept as it is: tdBN with the statistics of several processes, and what torch.compile has compiled.

    Raises:
        RuntimeError: in the backward pass, where something that it needs has been changed in place, as without it.

    >>> import torch
    >>> from jellyplus.neuron import IterativeLIFNode
    >>> net = torch.nn.Sequential(IterativeLIFNode(step_mode="m"), torch.nn.Linear(3, 2))
    >>> with compressed_activations():
    ...     loss = net(torch.rand(4, 8, 3)).sum()
    >>> loss.backward()
    """

    def __enter__(self) -> "compressed_activations":
        self._outputs: dict[int, _Output] = {}
        self._watch = nn.modules.module.register_module_forward_hook(self._look)
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept.give())
        self._hooks.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._hooks.__exit__(*exception)
        self._watch.remove()
        self._outputs.clear()

    def _look(self, module: nn.Module, inputs: tuple, output: Any) -> None:
        if torch.compiler.is_compiling() or not isinstance(output, Tensor):
            return
        if isinstance(module, _BatchNorm):
            if again := _again(module, inputs[0]):
                self._note(output, again)
        elif isinstance(module, _compat.BaseNode) and getattr(module.surrogate_function, "spiking", False):
            self._note(output, None)

    def _note(self, output: Tensor, again: Kept | None) -> None:
        storage = output.untyped_storage()
        self._outputs[storage._cdata] = _Output(StorageWeakRef(storage), output._version, again)

    def _pack(self, tensor: Tensor) -> Kept:
        """Of what no gradient goes through, an operation's own output among it, torch counts the changes apart."""
        output = self._outputs.get(tensor.untyped_storage()._cdata)
        if output is None or output.storage.expired():
            return _unchanged(tensor)
        if not tensor.requires_grad or tensor._version != output.version:
            return _unchanged(tensor)
        return _as_bytes(tensor) if output.again is None else _computed(tensor, output.again)


def _unchanged(tensor: Tensor) -> Kept:
    """Itself. Under hooks torch does not look whether anybody has written to it."""
    held, version = tensor.detach(), tensor._version

    def give() -> Tensor:
        if held._version != version:
            raise RuntimeError(
                f"a {held.dtype} {tuple(held.shape)} that the backward pass needs has been changed in place since the "
                "forward pass"
            )
        return held

    return Kept(held, give)


def _as_bytes(spikes: Tensor) -> Kept:
    held, dtype = spikes.detach().to(torch.uint8), spikes.dtype
    return Kept(held, lambda: held.to(dtype))


def _computed(view: Tensor, again: Kept) -> Kept:
    """What is kept may be a view of what the norm put out, over time say."""
    shape, strides, offset = view.shape, view.stride(), view.storage_offset()
    return Kept(again.held, lambda: again.give().as_strided(shape, strides, offset))


def _again(norm: _BatchNorm, x: Tensor) -> Kept | None:
    """Gives the norm's output once more from its input, which it holds anyway; None where it would be another."""
    joint, factor = isinstance(norm, nn.SyncBatchNorm), 1.0
    if isinstance(norm, _ThresholdDependentBatchNorm):
        joint, factor = processes() > 1, norm.alpha * norm.v_th
    if joint or not norm.training:
        return None
    weight = None if norm.weight is None else norm.weight.detach() * factor
    bias = None if norm.bias is None else norm.bias.detach().clone()
    folds, eps, running, given = getattr(norm, "step_mode", "s") == "m", norm.eps, norm.running_mean, _unchanged(x)

    def give() -> Tensor:
        folded = given.give().flatten(0, 1) if folds else given.give()
        statistics = None if running is None else torch.zeros_like(running)  # by their type torch chooses its kernel
        return F.batch_norm(folded, statistics, statistics, weight, bias, training=True, momentum=0.0, eps=eps)

    return Kept(given.held, give)
