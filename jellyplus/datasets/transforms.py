"""Augmentations by name, as the papers list them, each ending in normalised floats.

All randomness comes from torch's global generator. A transform acts on one example, [C, H, W] or [T, C, H, W]; every
time-step of an example is moved alike.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from jellyplus._errors import InputError
from jellyplus.datasets.base import DataSet
from jellyplus.datasets.imagenet import ImageFiles

Transform = Callable[[Tensor], Tensor]

_WHERE = {True: "have many sizes", False: "have one size"}


class Cutout(nn.Module):
    """Set one square to 0, which is the channel mean once an image is normalised, and black before.

    The square's centre is uniform over the pixels, so a part of it may lie beyond the border.

    Args:
        size: side of the square, pixels.

    Shape: [*, H, W] to the same; all leading dimensions get the same square.

    Source: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017, section 3.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, inputs: Tensor) -> Tensor:
        """Return a copy with the square set to 0."""
        rows, columns = (self._span(side) for side in inputs.shape[-2:])
        outputs = inputs.clone()
        outputs[..., rows, columns] = 0
        return outputs

    def _span(self, side: int) -> slice:
        start = int(torch.randint(side, ())) - self.size // 2
        return slice(max(start, 0), start + self.size)


class Roll(nn.Module):
    """Shift circularly by up to ``pixels`` in either direction along both axes, uniformly.

    Shape: [*, H, W] to the same; all leading dimensions, hence all time-steps, are shifted alike.

    Source: Li et al., "Neuromorphic Data Augmentation for Training Spiking Neural Networks", 2022, the "rolling" there.
    """

    def __init__(self, pixels: int):
        super().__init__()
        self.pixels = pixels

    def forward(self, inputs: Tensor) -> Tensor:
        """Return a shifted copy."""
        shifts = torch.randint(-self.pixels, self.pixels + 1, (2,)).tolist()
        return inputs.roll(shifts, dims=(-2, -1))


def augmentation(
    names: Sequence[str],
    data: DataSet,
    crop_padding: int,
    cutout_size: int,
    roll_pixels: int,
    *,
    cutout_before_normalisation: bool = False,
    autoaugment_fill: int = 0,
    autoaugment_interpolation: str = "nearest",
) -> Transform:
    """Compose the named augmentations, conversion to float32 and normalisation for the training split of ``data``.

    Args:
        names: any of ``resized_crop`` (a crop of 8 to 100 % of the area, 3:4 to 4:3, resized to the input's size; for
            ImageNet, where it comes first), ``crop`` (zero padding, then a random crop of the data's own size),
            ``flip`` (left to right, half of the time), ``autoaugment`` (the CIFAR-10 policy; images), ``roll`` (events)
            and ``cutout``. They act on uint8 in this order; cutout acts after normalisation wherever it stands, or
            right before it.
        data: gives size, kind and channel statistics.
        crop_padding: pixels on each side.
        cutout_size: side of the square, pixels.
        roll_pixels: largest shift, pixels.
        cutout_before_normalisation: the square is black, (0 - mean) / std once it is normalised, in place of the mean.
        autoaugment_fill: what AutoAugment shows beyond the border, in every channel, 0 to 255.
        autoaugment_interpolation: of AutoAugment's shears and rotations; translations are of whole pixels.
            ``"bicubic"`` runs all of AutoAugment in PIL, since torchvision has no such interpolation of tensors.

    imloss's and inflor's public code has an AutoAugment of its own in PIL, which fills with 128 and shears bicubically:
    128 and ``"bicubic"`` come near to it. What torchvision's does not offer stays different: there a rotation is to one
    side only and picks the nearest pixel, translations are of parts of pixels too, and of the 25 sub-policies one, two
    equalisations, does the second with a probability of 0.8, here 0.6.

    Returns:
        a picklable function of one example, uint8 [C, H, W] or [T, C, H, W] to float32 of the same shape; ImageNet's
        may have any height and width and get those of ``data``.

    Raises:
        InputError: an unknown name, a transform that does not fit the kind of data, a negative size.
    """
    many_sizes = isinstance(data.train.inputs, ImageFiles)
    registered = {
        "resized_crop": (("images",), partial(v2.RandomResizedCrop, data.train.inputs.shape[-2:])),
        "crop": (("images", "events"), partial(v2.RandomCrop, data.train.inputs.shape[-2:], padding=crop_padding)),
        "flip": (("images", "events"), v2.RandomHorizontalFlip),
        "autoaugment": (("images",), partial(_autoaugment, autoaugment_fill, autoaugment_interpolation)),
        "cutout": (("images", "events"), partial(Cutout, cutout_size)),
        "roll": (("events",), partial(Roll, roll_pixels)),
    }
    for name in names:
        if name not in registered:
            raise InputError(f"there is no augmentation {name!r}; choose from {', '.join(sorted(registered))}")
        if data.kind not in registered[name][0]:
            raise InputError(f"the augmentation {name} does not fit the {data.kind} of {data.name}; leave it out")
    if many_sizes != (tuple(names).count("resized_crop") == 1 and names[0] == "resized_crop"):
        state = "make resized_crop its first" if many_sizes else "leave resized_crop out"
        raise InputError(f"data.augmentation does not fit {data.name}, whose images {_WHERE[many_sizes]}; {state}")
    sizes = {"crop_padding": crop_padding, "cutout_size": cutout_size, "roll_pixels": roll_pixels}
    for name, size in sizes.items():
        if size < 0:
            raise InputError(f"{name} is {size} pixels; give 0 or more")
    if "crop" in names and crop_padding >= (side := min(data.train.inputs.shape[-2:])):
        raise InputError(f"crop_padding is {crop_padding} pixels and {data.name} has {side}; give less")
    before = [registered[name][1]() for name in names if name != "cutout"]
    cutout = [registered[name][1]() for name in names if name == "cutout"]
    ends = [*cutout, *_normalised(data)] if cutout_before_normalisation else [*_normalised(data), *cutout]
    return v2.Compose([*before, *ends])


def _autoaugment(fill: int, interpolation: str) -> Transform:
    geometry = {"interpolation": v2.InterpolationMode(interpolation), "fill": fill or None}
    autoaugment = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, **geometry)
    if interpolation != "bicubic":
        return autoaugment
    return v2.Compose([v2.ToPILImage(), autoaugment, v2.PILToTensor()])


def normalisation(data: DataSet) -> Transform:
    """What evaluation needs: conversion to float32, uint8 [*, C, H, W] to the same shape.

    Images become (x / 255 - mean) / std per channel; event counts stay what they are. ImageNet's come from any
    height and width to those of ``data``: the shorter side is resized (bilinear, antialiased) where the recipe says so,
    and the centre is cropped; what is missing of a smaller image is black.
    """
    inputs = data.test.inputs
    if not isinstance(inputs, ImageFiles):
        return v2.Compose(_normalised(data))
    resize = [v2.Resize(inputs.resize)] if inputs.resize else []
    return v2.Compose([*resize, v2.CenterCrop(inputs.shape[-2:]), *_normalised(data)])


def _normalised(data: DataSet) -> list[Transform]:
    if data.kind == "events":
        return [v2.ToDtype(torch.float32)]
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(data.mean, data.std)]
