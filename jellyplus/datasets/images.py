"""Reading image files that others made: what a file holds decides, not its name, and anything odd is one sentence."""

import io
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from jellyplus._errors import InputError
from jellyplus._files import read_file
from jellyplus.datasets.base import UnreadableError

__all__ = ["read_image"]

_FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP")  # of torchvision's extensions; EPS would start Ghostscript
_LARGEST_RATIO = 1000  # of pixels to the file's bytes; photographs have less than 100
_ALWAYS = 2**20  # pixels, however few bytes they take


def read_image(path: Path | str, mode: Literal["RGB", "L"], side: int | None = None) -> np.ndarray:
    """Decode an image, uint8 [height, width, 3], or [height, width] in grey.

    It is converted whatever it is: grey is repeated, palettes are looked up, CMYK is converted, transparency is
    dropped, and of 16 bits the higher eight are kept. The orientation in EXIF data is ignored, as torchvision does.

    Args:
        path: the file.
        mode: ``"RGB"``, or ``"L"`` for grey.
        side: height and width that it must have; compared before anything is decoded.

    Raises:
        UnreadableError: the file is missing, empty, truncated, damaged, of another format, has more pixels than Pillow
            or its bytes allow, or values of 32 bits, whose scale nothing tells.
        InputError: it has another size.
    """
    try:
        content = read_file(path)  # in memory, nothing is allocated for lengths that the file only claims
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > max(_ALWAYS, _LARGEST_RATIO * len(content)):
                raise ValueError("too many pixels")
            if side is None or image.size == (side, side):
                return np.array(_of_eight_bits(image).convert(mode))
            width, height = image.size
    except Exception as error:  # Pillow's decoders meet damage with a dozen kinds, IndexError and TypeError among them
        raise UnreadableError(f"cannot read the image {path}; replace or remove it") from error
    raise InputError(f"{path} is {width}x{height} pixels, not {side}x{side}: give images of that size")


def _of_eight_bits(image: Image.Image) -> Image.Image:
    """``convert`` would clip more bits at 255."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):  # which have 16 at most
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32 bits a value")
    return image
