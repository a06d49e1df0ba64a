"""What a training step keeps for backward, made smaller without changing a bit of its gradients.

Behind each convolution, three tensors of one size are kept: its output for the norm's backward pass, the norm's output
for the neuron's, and the spikes for the next convolution's. Spikes are 0 or 1, so a byte holds one; and the norm's
output is computed again from its input, by the same operation, when the backward pass asks for it. Where a neuron fires
on a sum of branches, the sum is kept as it is. Where norm and neuron run in one pass
(:mod:`jellyplus.neuron.normalised`) there is no norm's output and no sum, but what is added in it.
"""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.batchnorm import _BatchNorm

from jellyplus import _compat
from jellyplus._distributed import processes
from jellyplus.layer import TDBN, _ThresholdDependentBatchNorm
from jellyplus.neuron import Node
from jellyplus.neuron.normalised import NODES
from jellyplus.surrogate import trains

__all__ = ["Compression", "Kept", "compressed_activations"]

#: Exactly these: what a subclass does besides is not known.
_NORMS = {*TDBN} | {getattr(place, f"BatchNorm{dims}d") for place in (nn, _compat.layer) for dims in (1, 2, 3)}


def compressed_activations() -> AbstractContextManager[None]:
    """In it, the forward pass keeps spikes as bytes, and of a norm's output nothing but the norm's input.

    Outputs and gradients are those without it, bit for bit; ``benchmarks/activations.md`` has the memory that it saves
    and the time that it takes, for each norm runs once more. Run the forward pass in it, and the backward pass outside.

    Known are our two neurons in step mode 'm', where a surrogate that learns nothing fires; tdBN, and torch's and
    SpikingJelly's batch norms in training. All else is kept as it is: subclasses, SpikingJelly's neurons (which keep
    spikes themselves; :func:`jellyplus.convert` puts ours in their place), tdBN with the statistics of several
    processes. It does not go into a function that is compiled, or that ``torch.func`` transforms. What is written to a
    tensor through ``.data`` is not noticed.

    Raises:
        RuntimeError: in the backward pass, where something that it needs has been changed in place, as without it.

    >>> import torch
    >>> from jellyplus.neuron import IterativeLIFNode
    >>> net = torch.nn.Sequential(IterativeLIFNode(step_mode="m"), torch.nn.Linear(3, 2))
    >>> with compressed_activations():
    ...     loss = net(torch.rand(4, 8, 3)).sum()
    >>> loss.backward()
    """
    return Compression().running()


class Kept(NamedTuple):
    """A tensor of the graph: what is held of it, and how it is had back."""

    held: Tensor
    give: Callable[[], Tensor]


class _Output(NamedTuple):
    """A layer's output, not held: ``again`` computes it, and is None where it is spikes, which ``packed`` has."""

    storage: StorageWeakRef
    version: int
    dtype: torch.dtype
    again: Kept | None
    packed: "weakref.WeakValueDictionary[tuple, Tensor]"


class Compression:
    """What :func:`compressed_activations` does: ``look`` at layers as they run, ``pack`` what is saved."""

    def __init__(self) -> None:
        self._outputs: dict[int, _Output] = {}
        self._thread = threading.get_ident()  # torch's hook on modules is for all threads, that on tensors for one

    @contextmanager
    def running(self) -> Iterator[None]:
        """Both are hooked in."""
        with torch.autograd.graph.saved_tensors_hooks(self.pack, lambda kept: kept.give()):
            watch = nn.modules.module.register_module_forward_hook(self.look, with_kwargs=True)
            try:
                yield
            finally:
                watch.remove()

    def look(self, module: nn.Module, inputs: tuple, named: dict, output: Any) -> None:
        """Note the output of a norm or of a node, where the graph may keep it."""
        if not (isinstance(output, Tensor) and output.requires_grad) or self._thread != threading.get_ident():
            return
        if torch.compiler.is_compiling() or _compat.is_looked_into():
            return
        if isinstance(module, _BatchNorm) and type(module) in _NORMS:
            if again := self.again(module, next(iter((*inputs, *named.values())))):
                self._note(output, again)
        elif isinstance(module, Node) and type(module) in NODES and _keeps_no_spikes(module):
            self._note(output, None)

    look.needs_no_norm = True  # type: ignore[attr-defined]  # so that a norm and a node may still run in one pass

    def again(self, norm: _BatchNorm, x: Tensor) -> Kept | None:
        """Gives a norm's output once more from its input, which it keeps anyway; None where it would be another."""
        factor, joint = 1.0, False
        if isinstance(norm, _ThresholdDependentBatchNorm):
            factor, joint = norm.alpha * norm.v_th, processes() > 1
        folded = x.detach().flatten(0, 1) if getattr(norm, "step_mode", "s") == "m" else x.detach()
        is_copy = folded.untyped_storage()._cdata != x.untyped_storage()._cdata  # which the norm has, and we have not
        if joint or is_copy or not norm.training:
            return None
        weight = None if norm.weight is None else norm.weight.detach() * factor
        bias = None if norm.bias is None else norm.bias.detach().clone()
        eps, running, given = norm.eps, norm.running_mean, _unchanged(folded)

        def give() -> Tensor:
            statistics = None if running is None else torch.zeros_like(running)  # by their type torch takes a kernel
            return F.batch_norm(given.give(), statistics, statistics, weight, bias, training=True, momentum=0, eps=eps)

        return Kept(given.held, give)

    def _note(self, output: Tensor, again: Kept | None) -> None:
        """And forget those that are gone, with what they would be computed from."""
        for key in [key for key, known in self._outputs.items() if known.storage.expired()]:
            del self._outputs[key]
        storage = output.untyped_storage()
        known = _Output(StorageWeakRef(storage), output._version, output.dtype, again, weakref.WeakValueDictionary())
        self._outputs[storage._cdata] = known

    def pack(self, tensor: Tensor) -> Kept:
        """Of what no gradient goes through, an operation's own output among it, torch counts the changes apart."""
        if not tensor.requires_grad or tensor.layout != torch.strided or _compat.is_looked_into():
            return _unchanged(tensor)
        output = self._outputs.get(tensor.untyped_storage()._cdata)
        if output is None or output.storage.expired():
            return _unchanged(tensor)
        if (tensor._version, tensor.dtype) != (output.version, output.dtype):
            return _unchanged(tensor)
        return _as_bytes(tensor, output.packed) if output.again is None else _computed(tensor, output.again)


def _keeps_no_spikes(node: Node) -> bool:
    """Besides, as floats, which bytes would only be added to."""
    fire = node.surrogate_function
    return node.step_mode == "m" and getattr(fire, "spiking", False) and not trains(fire)


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


def _as_bytes(spikes: Tensor, packed: "weakref.WeakValueDictionary[tuple, Tensor]") -> Kept:
    """Once for all that keep the same view."""
    view, dtype = _view(spikes), spikes.dtype
    held = packed.get(view)
    if held is None:
        packed[view] = held = spikes.detach().to(torch.uint8)
    return Kept(held, lambda: held.to(dtype))


def _computed(tensor: Tensor, again: Kept) -> Kept:
    """What is kept may be a view of what the norm put out, over time say."""
    view = _view(tensor)
    return Kept(again.held, lambda: again.give().as_strided(*view))


def _view(tensor: Tensor) -> tuple:
    return tensor.shape, tensor.stride(), tensor.storage_offset()
