"""What one layer reads: each spike as often as the kernel's window passes over it."""

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from jellyplus.op_counter.tallies import Tally

__all__ = ["Layer", "lead"]


class Layer:
    """What one layer has done so far; ``calls`` has nonzeros and additions of every single input of each call."""

    def __init__(self, kind: str):
        self.kind = kind
        self.inputs = self.macs_with_padding = self.macs = 0
        self.binary = True
        self.calls: list[Tensor] = []  # each [2, *] with the leading dimensions of the input

    def add(self, layer: _ConvNd | nn.Linear, x: Tensor, output: Tensor) -> None:
        """One call, its input and its output."""
        space = x.shape[x.dim() - (layer.weight.dim() - 2) :]
        before = lead(layer, x)
        reads = [_reads(*arguments) for arguments in _windows(layer, space)]
        readers = layer.weight.shape[0] // getattr(layer, "groups", 1)  # output channels that read an input
        spikes = (x != 0).reshape(*before, -1, *space).sum(len(before)).cpu()  # at each place of each single input
        nonzeros = spikes.flatten(len(before)).sum(-1) if space else spikes
        self.inputs += x.numel()
        self.binary = self.binary and bool(((x == 0) | (x == 1)).all())
        self.macs_with_padding += output.numel() * layer.weight[0].numel()
        self.macs += x.numel() // space.numel() * math.prod(int(read.sum()) for read in reads) * readers
        for read in reversed(reads):
            spikes = (spikes * read).sum(-1)
        self.calls.append(torch.stack([nonzeros, spikes * readers]))

    def tally(self, name: str) -> Tally:
        """All calls together."""
        runs = sum(call[0].numel() for call in self.calls)
        nonzeros, additions = torch.stack([call.reshape(2, -1).sum(1) for call in self.calls]).sum(0).tolist()
        counted = (self.inputs, nonzeros, self.binary, self.macs_with_padding, self.macs, additions)
        return Tally(name, self.kind, runs, *counted)

    def by_example(self, batches: Sequence[int]) -> Tensor | None:
        """[2, examples] for batches of so many; None where the calls are not those of batches."""
        calls, rest = divmod(len(self.calls), len(batches))
        if rest:
            return None
        parts = []
        for number, batch in enumerate(batches):
            found = [_by_example(call, batch) for call in self.calls[number * calls : (number + 1) * calls]]
            known = [part for part in found if part is not None]
            if len(known) < len(found):
                return None
            parts.append(torch.stack(known).sum(0))
        return torch.cat(parts, 1)


def lead(layer: _ConvNd | nn.Linear, x: Tensor) -> torch.Size:
    """The dimensions before the channels: [T, N], [N], [T * N] in a container, or none."""
    return x.shape[: x.dim() - (layer.weight.dim() - 1)]


def _by_example(call: Tensor, batch: int) -> Tensor | None:
    """[2, batch] from a call's [2, *], which is [T, N], [T * N] or [N], maybe with tokens behind; None where it is not.

    >>> _by_example(torch.tensor([[[1, 2], [3, 4]]]), batch=2)  # T = 2
    tensor([[4, 6]])
    """
    if call.dim() > 2:
        call = call.flatten(3).sum(3) if call.dim() > 3 else call
        call = call.sum(1) if call.shape[2] == batch else call.sum(2)
    call = call.reshape(len(call), -1)
    return call.reshape(len(call), -1, batch).sum(1) if call.shape[1] % batch == 0 else None


def _windows(layer: _ConvNd | nn.Linear, space: torch.Size) -> list[tuple]:
    """The arguments of :func:`_reads` for each spatial dimension; a linear layer has none."""
    if isinstance(layer, nn.Linear) or not space:
        return []
    padding = layer._reversed_padding_repeated_twice[::-1]  # of the first dimension, right and left, and so on
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    numbers = (space, layer.kernel_size, layer.stride, layer.dilation, padding[1::2], padding[::2])
    return [(*of_dimension, mode) for of_dimension in zip(*numbers, strict=True)]


@functools.cache
def _reads(size: int, kernel: int, stride: int, dilation: int, left: int, right: int, mode: str) -> Tensor:
    """How often a sliding window reads each place of one dimension, [size]; the padding's zeros are no places.

    >>> _reads(4, 3, 1, 1, 1, 1, "constant").tolist()
    [2, 3, 3, 2]
    """
    places = F.pad(torch.arange(1.0, size + 1, device="cpu")[None, None], (left, right), mode)[0, 0].long()
    taps = places.unfold(0, dilation * (kernel - 1) + 1, stride)[:, ::dilation]
    return taps.flatten().bincount(minlength=size + 1)[1:]
