"""Reading image files that others made: what a file holds decides, not its name, and anything odd is one sentence."""

import io
import math
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from jellyplus._errors import InputError
from jellyplus._files import read_file
from jellyplus.datasets.base import UnreadableError
from jellyplus.datasets.budget import UNPACKED

__all__ = ["read_image"]

_FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP")  # of torchvision's extensions; EPS would start Ghostscript
_LARGEST_RATIO = 1000  # of pixels to the file's bytes; photographs have less than 100
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags
_ALWAYS = 2**20  # pixels, however few bytes they take
_BYTES = 20  # a pixel, while it is decoded and converted: four channels, a decoder's buffers, the array
_AT_ONCE = 2**20  # pixels: Pillow hands them over in pieces, which glibc leaves with the thread that took them


def read_image(path: Path | str, mode: Literal["RGB", "L"], side: int | None = None) -> np.ndarray:
    """Decode an image, uint8 [height, width, 3], or [height, width] in grey.

    It is converted whatever it is: grey is repeated, palettes are looked up, CMYK is converted, transparency is
    dropped, and of 16 bits the higher eight are kept. The orientation in EXIF data is ignored, as torchvision does.

    Args:
        path: the file.
        mode: ``"RGB"``, or ``"L"`` for grey.
        side: height and width that it must have; compared before anything is decoded.

    Raises:
        UnreadableError: the file is missing, empty, truncated, damaged, of another format, has more pixels than
            Pillow, its bytes or the memory for what is unpacked allow, or values of 32 bits, whose scale nothing tells.
        InputError: it has another size.
    """
    try:
        content = read_file(path)  # in memory, nothing is allocated for lengths that the file only claims
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if _decoded(image) > max(_ALWAYS, _LARGEST_RATIO * len(content)):
                raise ValueError("too many pixels")
            if side is None or image.size == (side, side):
                with UNPACKED.held(_BYTES * _decoded(image), path):
                    return _converted(image, mode)
            width, height = image.size
    except Exception as error:  # Pillow's decoders meet damage with a dozen kinds, IndexError and TypeError among them
        raise UnreadableError(f"cannot read the image {path}; replace or remove it") from error
    raise InputError(f"{path} is {width}x{height} pixels, not {side}x{side}: give images of that size")


def _decoded(image: Image.Image) -> int:
    """Pixels that are decoded at once: those of a tile of a TIFF, too, which may be larger than the image."""
    tile = [getattr(image, "tag_v2", {}).get(tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
    return max(image.width * image.height, math.prod(tile))


def _converted(image: Image.Image, mode: str) -> np.ndarray:
    """Some rows at a time, if it is large."""
    width, height, form = *image.size, image.format
    rows = _AT_ONCE // width + 1
    pixels = np.empty((height, width, 3) if mode == "RGB" else (height, width), np.uint8)
    for top in range(0, height, rows):
        part = image if rows >= height else image.crop((0, top, width, min(top + rows, height)))
        pixels[top : top + rows] = np.asarray(_of_eight_bits(part, form).convert(mode))
    return pixels


def _of_eight_bits(image: Image.Image, form: str) -> Image.Image:
    """``convert`` would clip more bits at 255; a part of an image has no ``format``."""
    if image.mode.startswith("I;16") or (image.mode == "I" and form in ("PNG", "PPM")):  # which have 16 at most
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32 bits a value")
    return image
