"""Copies of a batch side by side in one pass: where they lie in each tensor, and whether each stays by itself.

What a network does with its input is seen, not declared: it may repeat an image over time, transpose batch and time,
flatten both into one, or loop over time-steps.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from jellyplus import _compat

__all__ = ["Copies", "Place", "find_copies", "training_norms"]


class Place(NamedTuple):
    """Where copies lie in a tensor: along dimension ``dim``, side by side within each of its ``blocks`` equal blocks.

    In [T, N, *] and [N, *] the N examples are one block. [T * N, *], as layers in ``SeqToANNContainer`` see it, has T.

    >>> first, second = torch.tensor([1, 2, 3, 4]), torch.tensor([5, 6, 7, 8])  # T = 2, N = 2
    >>> Place(0, 2).join([first, second])
    tensor([1, 2, 5, 6, 3, 4, 7, 8])
    >>> Place(0, 2).split(Place(0, 2).join([first, second]), 2)
    [tensor([1, 2, 3, 4]), tensor([5, 6, 7, 8])]
    """

    dim: int
    blocks: int = 1

    def join(self, copies: Sequence[Tensor]) -> Tensor:
        """One tensor of all copies."""
        if self.blocks == 1:
            return torch.cat(list(copies), self.dim)
        blocks = zip(*(copy.chunk(self.blocks, self.dim) for copy in copies), strict=True)
        return torch.cat([part for block in blocks for part in block], self.dim)

    def split(self, x: Tensor, n: int) -> Sequence[Tensor]:
        """The ``n`` copies."""
        parts = x.chunk(self.blocks * n, self.dim)
        return parts if self.blocks == 1 else [torch.cat(parts[i::n], self.dim) for i in range(n)]

    def apart(self, function: Callable[[Tensor], Tensor], n: int, x: Tensor) -> Tensor:
        """``function`` on each of the ``n`` copies by itself."""
        return self.join([function(copy) for copy in self.split(x, n)])


class Copies(NamedTuple):
    """Where copies lie in a network's input, its output, one layer's output, and the input of each batch norm."""

    x: Place
    y: Place
    owner: Place
    norms: dict[nn.Module, Place]


def training_norms(net: nn.Module) -> list[nn.Module]:
    """The batch norms that join the examples of a batch; given each copy by itself, they keep copies apart."""
    return [module for module in net.modules() if isinstance(module, _BatchNorm) and module.training]


def find_copies(
    net: nn.Module, owner: nn.Module, x: Tensor, batch_dim: int, start: Callable[[], None]
) -> Copies | None:
    """Where copies of ``x``, joined along ``batch_dim``, lie in a pass; None unless each stays by itself.

    Two random batches of a few examples go through ``net`` apart, then side by side. What ``owner``, neurons and batch
    norms receive, what ``owner`` and the network give, and every membrane potential must lie in the joint pass as they
    were apart. Neurons fire at random, alike in all passes: silent ones would hide where copies meet, and rounding
    cannot move a spike. What was seen of these few examples is held meanwhile.

    Args:
        net: is run and not put back.
        owner: runs once in a pass.
        x: input of the network.
        batch_dim: of ``x``.
        start: puts the network to the start of a pass.
    """
    watch = _Watch(net, owner, start, x.device)
    try:
        a, b = (_examples(x, batch_dim, watch.random) for _ in range(2))
        return watch.copies(a, b, Place(batch_dim), a.shape[batch_dim])
    except Exception:  # whatever a network says to a batch that it cannot take
        return None


def _examples(x: Tensor, batch_dim: int, random: Callable[[Tensor], Tensor]) -> Tensor:
    """A random batch, its examples from 8 times as large as those of ``x`` to as large.

    Neurons that are no nodes cannot be told to fire; the first of these examples make them.
    """
    scales = x.new_tensor([8, 4, 2, 1]) * x.abs().max().clamp(min=1)
    like = x.narrow(batch_dim, 0, 1).repeat_interleave(len(scales), batch_dim)
    return random(like) * scales.view(-1, *[1] * (x.dim() - batch_dim - 1))


class _Call(NamedTuple):
    """A module in one pass, what it received and gave."""

    module: nn.Module
    received: Tensor
    gave: Tensor


class _Watch:
    """Passes in which neurons fire at random, and what was seen in them."""

    def __init__(self, net: nn.Module, owner: nn.Module, start: Callable[[], None], device: torch.device):
        self.net, self.owner, self.start = net, owner, start
        self.norms = training_norms(net)
        self.nodes = [module for module in net.modules() if isinstance(module, _compat.BaseNode)]
        self.generator = torch.Generator(device).manual_seed(0)

    def random(self, like: Tensor) -> Tensor:
        """Uniform in [0, 1)."""
        return torch.rand(like.shape, generator=self.generator, dtype=like.dtype, device=like.device)

    def copies(self, a: Tensor, b: Tensor, x: Place, examples: int) -> Copies:
        """From a pass of each and one of both, of ``examples`` each; an error says that they do not stay apart."""
        (calls_a, y_a, memories_a), (calls_b, y_b, memories_b) = self._apart(a), self._apart(b)
        calls = zip(calls_a, calls_b, strict=True)
        places: dict[nn.Module, Place] = {}

        def compare(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            of_a, of_b = next(calls)
            place = _place(of_a.received, of_b.received, inputs[0], examples)
            if module in self.nodes:
                output = place.join([of_a.gave, of_b.gave])
            elif module in self.norms:
                output = place.apart(module.forward, 2, inputs[0])
            if module is self.owner:
                place = _place(of_a.gave, of_b.gave, output, examples)
            if not (of_a.module is of_b.module is module and places.setdefault(module, place) == place):
                raise ValueError("modules run in another order, or see the copies in another place")
            return output

        y, memories = self._pass(x.join([a, b]), compare)
        if next(calls, None) or _close(y_a, y_b):
            raise ValueError("modules run less often, or the output does not tell the copies apart")
        for memory in zip(memories_a, memories_b, memories, strict=True):
            if not any(_places(*memory, examples, most=0.99)):  # rounding may move a spike, which resets
                raise ValueError("copies share a memory")
        norms = {norm: places[norm] for norm in self.norms if norm is not self.owner and norm in places}
        return Copies(x, _place(y_a, y_b, y, examples), places[self.owner], norms)

    def _apart(self, x: Tensor) -> tuple[list[_Call], Tensor, list[Tensor]]:
        calls = []

        def see(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            gave = (self.random(output) < 0.5).to(output) if module in self.nodes else output
            calls.append(_Call(module, inputs[0].clone(), gave.clone()))  # they may be changed in place
            return gave

        return calls, *self._pass(x, see)

    def _pass(self, x: Tensor, see: Callable[..., Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The output and the memories after one pass, ``see`` hooked to all that is watched."""
        watched = dict.fromkeys([self.owner, *self.norms, *self.nodes])
        handles = [module.register_forward_hook(see) for module in watched]
        self.start()
        try:
            return self.net(x), list(_memories(self.net))
        finally:
            for handle in handles:
                handle.remove()


def _memories(net: nn.Module) -> Iterator[Tensor]:
    for module in net.modules():
        if isinstance(module, _compat.MemoryModule):
            yield from (memory for memory in module._memories.values() if isinstance(memory, Tensor))


def _place(a: Tensor, b: Tensor, both: Tensor, examples: int) -> Place:
    """The only place in which ``a`` and ``b`` lie in ``both``."""
    (found,) = _places(a, b, both, examples)
    return found


def _places(a: Tensor, b: Tensor, both: Tensor, examples: int, most: float = 1.0) -> Iterator[Place]:
    """Where ``both`` holds ``a`` and ``b``, in blocks of whole batches."""
    for dim, size in enumerate(a.shape):
        if both.shape == (*a.shape[:dim], 2 * size, *a.shape[dim + 1 :]):
            places = (Place(dim, blocks) for blocks in range(1, size + 1) if size % (blocks * examples) == 0)
            yield from (place for place in places if _close(place.join([a, b]), both, most))


def _close(a: Tensor, b: Tensor, most: float = 1.0) -> bool:
    """Whether all, or a share of the elements, are equal but for rounding."""
    scale = torch.maximum(a.abs().max(), b.abs().max())
    equal = (a - b).abs() <= torch.finfo(a.dtype).eps ** 0.5 * scale
    return equal.double().mean().item() >= most
