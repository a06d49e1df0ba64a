"""Augmentation of a batch at once: bit for bit what its transforms make of the examples one by one.

Every example has a generator of its own. What is drawn is drawn example by example, in the order in which torchvision's
transforms and ours draw it; what is done with it is one operation on the batch.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torchvision.transforms import v2

from jellyplus.datasets.transforms import Cutout, Roll

__all__ = ["augmented"]


def augmented(transforms: Sequence[nn.Module], inputs: Tensor, seeds: Sequence[int]) -> Tensor:
    """What the transforms make of each example after ``torch.manual_seed`` of its seed.

    Those without a way of their own here, AutoAugment, see one example at a time.

    Args:
        transforms: one after the other, of one example.
        inputs: [N, C, H, W] or [N, T, C, H, W], not written to.
        seeds: one an example, 64 bits.
    """
    generators = [Generator().manual_seed(seed) for seed in seeds]
    for transform in transforms:
        if isinstance(transform, _NOTHING_DRAWN):
            inputs = transform(inputs)
        elif way := _WAYS.get(type(transform)):
            height, width = inputs.shape[-2:]
            drawn = [way.draw(transform, height, width, generator) for generator in generators]
            inputs = way.apply(transform, inputs, torch.tensor(drawn))
        else:
            alone = zip(inputs, generators, strict=True)
            inputs = torch.stack([_alone(transform, example, generator) for example, generator in alone])
    return inputs


_NOTHING_DRAWN = (v2.ToDtype, v2.Normalize)


class _Way(NamedTuple):
    """How a transform goes about a batch.

    Args:
        draw: of the transform, height, width and an example's generator: integers.
        apply: of the transform, a batch and what was drawn, int64 [N, numbers]: the batch changed.
    """

    draw: Callable[[nn.Module, int, int, Generator], list[int]]
    apply: Callable[[nn.Module, Tensor, Tensor], Tensor]


def _number(below: int, generator: Generator) -> int:
    return int(torch.randint(below, (), generator=generator))


def _draw_window(crop: v2.RandomCrop, height: int, width: int, generator: Generator) -> list[int]:
    """The upper left corner; no number is drawn where there is no choice."""
    left, right, top, bottom = crop.padding or (0, 0, 0, 0)
    room = (height + top + bottom - crop.size[0], width + left + right - crop.size[1])
    return [_number(free + 1, generator) if free else 0 for free in room]


def _crop(crop: v2.RandomCrop, inputs: Tensor, corners: Tensor) -> Tensor:
    left, right, top, bottom = crop.padding or (0, 0, 0, 0)
    padded = v2.functional.pad(inputs, [left, top, right, bottom], crop.fill, crop.padding_mode)
    windows = padded.unfold(-2, crop.size[0], 1).unfold(-2, crop.size[1], 1)  # a view: [N, *, C, rows, columns, H, W]
    return windows.movedim((-4, -3), (1, 2))[torch.arange(len(inputs)), corners[:, 0], corners[:, 1]]


def _draw_flip(flip: v2.RandomHorizontalFlip, height: int, width: int, generator: Generator) -> list[int]:
    return [int(torch.rand(1, generator=generator) < flip.p)]


def _flip(flip: v2.RandomHorizontalFlip, inputs: Tensor, mirrored: Tensor) -> Tensor:
    return torch.where(_beside(mirrored[:, 0].bool(), inputs), inputs.flip(-1), inputs)


def _draw_centre(cutout: Cutout, height: int, width: int, generator: Generator) -> list[int]:
    return [_number(height, generator), _number(width, generator)]


def _cut(cutout: Cutout, inputs: Tensor, centres: Tensor) -> Tensor:
    starts = centres - cutout.size // 2
    rows, columns = (
        (places >= start) & (places < start + cutout.size)
        for places, start in zip(map(torch.arange, inputs.shape[-2:]), starts.T[..., None], strict=True)
    )
    square = rows[:, :, None] & columns[:, None, :]
    return inputs.masked_fill(square.view(len(inputs), *[1] * (inputs.dim() - 3), *inputs.shape[-2:]), 0)


def _draw_shifts(roll: Roll, height: int, width: int, generator: Generator) -> list[int]:
    return torch.randint(-roll.pixels, roll.pixels + 1, (2,), generator=generator).tolist()


def _roll(roll: Roll, inputs: Tensor, shifts: Tensor) -> Tensor:
    return torch.stack([x.roll(shift, dims=(-2, -1)) for x, shift in zip(inputs, shifts.tolist(), strict=True)])


_WAYS = {
    v2.RandomCrop: _Way(_draw_window, _crop),
    v2.RandomHorizontalFlip: _Way(_draw_flip, _flip),
    Cutout: _Way(_draw_centre, _cut),
    Roll: _Way(_draw_shifts, _roll),
}


def _beside(values: Tensor, inputs: Tensor) -> Tensor:
    """One value an example, [N], as it broadcasts against the batch."""
    return values.view(len(values), *[1] * (inputs.dim() - 1))


def _alone(transform: nn.Module, example: Tensor, generator: Generator) -> Tensor:
    """Of a transform that draws from torch's global generator, which is left in another state."""
    torch.default_generator.set_state(generator.get_state())
    made = transform(example)
    generator.set_state(torch.default_generator.get_state())
    return made
