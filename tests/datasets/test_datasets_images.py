"""One reader of image files under three data sets: the same conversion everywhere, and only the formats they have."""

import io
import struct
import threading
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from jellyplus._errors import InputError
from jellyplus.datasets import budget, cifar, event_camera, imagenet, images
from jellyplus.datasets.frames import Events
from jellyplus.datasets.images import read_image

READERS = {
    "cifar": lambda path: cifar._decode(str(path)),
    "imagenet": imagenet._decode,
    "event_camera": event_camera._record,
}
VALUES = np.array([[0, 255, 256], [0x4000, 0x8000, 0xFFFF]])
UPPER = [[0, 0, 1], [64, 128, 255]]


def saved(values, form):
    content = io.BytesIO()
    Image.fromarray(values).save(content, form)
    return content.getvalue()


def pgm(values, top):
    return b"P5 3 2 %d\n" % top + struct.pack(">6H", *values.flatten().tolist())


SIXTEEN = {
    "PNG": saved(VALUES.astype(np.uint16), "PNG"),
    "TIFF": saved(VALUES.astype(np.uint16), "TIFF"),
    "big-endian TIFF": saved(VALUES.astype(">u2"), "TIFF"),
    "PGM": pgm(VALUES, 65535),
}
THIRTY_TWO = {
    "TIFF of integers": saved(VALUES.astype(np.int32), "TIFF"),
    "TIFF of floats": saved(VALUES.astype(np.float32), "TIFF"),
    "PFM": b"Pf 3 2 -1.0\n" + VALUES.astype("<f4").tobytes(),
}


@pytest.mark.parametrize("content", SIXTEEN.values(), ids=SIXTEEN)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_of_sixteen_bits_the_upper_eight_are_kept(tmp_path, content, mode):
    (tmp_path / "b.png").write_bytes(content)
    found = read_image(tmp_path / "b.png", mode)
    assert found.dtype == np.uint8
    assert found.tolist() == (UPPER if mode == "L" else [[[value] * 3 for value in row] for row in UPPER])


@pytest.mark.parametrize("content", THIRTY_TWO.values(), ids=THIRTY_TWO)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_thirty_two_bits_have_no_scale_and_are_refused(tmp_path, content, mode):
    (tmp_path / "b.tif").write_bytes(content)
    with pytest.raises(InputError, match=r"^cannot read the image \S+b\.tif; replace or remove it$") as caught:
        read_image(tmp_path / "b.tif", mode)
    assert str(caught.value.__cause__) == "32 bits a value"


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_sixteen_bits_are_the_same_in_every_data_set(tmp_path, monkeypatch, read):
    monkeypatch.setattr(event_camera, "simulate", lambda grey: Events(grey, grey, grey, grey))
    path = tmp_path / "b.png"
    Image.fromarray(np.full((32, 32), 0x4000, np.uint16)).save(path)
    found = read(path)
    pixels = found.t if isinstance(found, Events) else found
    assert set(pixels.flatten().tolist()) == {64}


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n%%Page: 1 1\nshowpage\n%%EOF\n"
OTHERS = {"EPS": EPS} | {
    form: saved(np.arange(1024, dtype=np.uint8).reshape(32, 32), form) for form in ("GIF", "ICO", "PCX", "SGI", "TGA")
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_format_that_the_data_sets_lack_is_refused_by_content(tmp_path, monkeypatch, read, content):
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments: started.append(arguments))
    path = tmp_path / "b.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^cannot read the image \S+b\.png; replace or remove it$"):
        read(path)
    assert not started


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width, height, pixels=b""):
    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


ODD = {
    "more pixels than Pillow allows": png(2**31 - 1, 2**31 - 1),
    "more pixels than its bytes can be": png(4096, 4096, bytes(4096 * 4097)),
    "without pixels": png(0, 3),
    "cut off": png(32, 32, bytes(500)),
    "empty": b"",
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_damage_is_one_sentence(tmp_path, read, content):
    path = tmp_path / "b.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^cannot read the image \S+b\.png; replace or remove it$"):
        read(path)


def test_another_size_is_refused_before_anything_is_decoded(tmp_path):
    path = tmp_path / "b.png"
    path.write_bytes(png(33, 32))  # without a single pixel
    with pytest.raises(InputError, match=r"b\.png is 33x32 pixels, not 32x32: give images of that size"):
        read_image(path, "RGB", side=32)


def test_lengths_that_a_file_only_claims_take_no_memory(tmp_path):
    head, pixels = png(2, 1)[:33], zlib.compress(b"\0\1\2")
    (tmp_path / "b.png").write_bytes(head + struct.pack(">I", 2**32 - 1) + b"IDAT" + pixels)
    tracemalloc.start()
    try:
        assert read_image(tmp_path / "b.png", "L").tolist() == [[1, 2]]
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match=r"^cannot read the image a/b\.png;"):
        read_image(Path("a/b.png"), "RGB")


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_threads_share_one_budget_for_what_they_decode(tmp_path, monkeypatch, read):
    """32x32 pixels of 20 bytes each, twelve threads, and room for two and a half."""
    monkeypatch.setattr(images, "UNPACKED", budget.Budget(int(2.5 * 20 * 1024)))
    convert, lock, now, peaks = images._of_eight_bits, threading.Lock(), [], []

    def slowly(image, form):
        with lock:
            now.append(image)
            peaks.append(len(now))
        time.sleep(0.01)
        with lock:
            now.remove(image)
        return convert(image, form)

    monkeypatch.setattr(images, "_of_eight_bits", slowly)
    path = tmp_path / "b.png"
    Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32)).save(path)
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(read, [path] * 12))
    assert len(peaks) == 12
    assert max(peaks) <= 2
    monkeypatch.setattr(images, "UNPACKED", budget.Budget(20 * 1024 - 1))
    with pytest.raises(InputError, match=r"^cannot read the image \S+b\.png; replace or remove it$") as caught:
        read(path)
    assert "needs 20,480 bytes of memory" in str(caught.value.__cause__)


KINDS = {"JPEG": "1 L RGB CMYK", "PNG": "1 L LA P RGB RGBA I;16", "BMP": "1 L P RGB RGBA", "PPM": "1 L RGB RGBA I;16"}
KINDS |= {"TIFF": "1 L LA P RGB RGBA CMYK I;16", "WEBP": "L RGB RGBA"}


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("form", "kind"), [(form, kind) for form, kinds in KINDS.items() for kind in kinds.split()])
def test_rows_at_a_time_are_the_same_pixels(tmp_path, monkeypatch, form, kind, mode):
    grey = np.random.default_rng(0).integers(0, 256, (37, 29), dtype=np.uint8)
    image = Image.fromarray(grey.astype(np.uint16) * 200) if kind == "I;16" else Image.fromarray(grey).convert(kind)
    image.save(tmp_path / "b.png", form)
    whole = read_image(tmp_path / "b.png", mode)
    with Image.open(tmp_path / "b.png") as opened:
        assert opened.mode[0] == "I" or np.array_equal(whole, np.array(opened.convert(mode)))
    monkeypatch.setattr(images, "_AT_ONCE", 100)  # pixels: four rows
    assert np.array_equal(read_image(tmp_path / "b.png", mode), whole)


def test_a_tile_that_is_larger_than_its_tiff_counts(tmp_path):
    """libtiff decodes whole tiles: here 16,384 x 16,384 pixels for an image of 32 x 32."""
    packed = zlib.compress(bytes(2**20))
    entries = [(256, 32), (257, 32), (258, 8), (259, 8), (262, 1), (277, 1), (322, 2**14), (323, 2**14)]
    entries += [(324, 8), (325, len(packed))]
    start = 8 + len(packed)
    head = b"II*\0" + struct.pack("<I", start)
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<2H2I", tag, 4, 1, value) for tag, value in entries
    )
    (tmp_path / "b.png").write_bytes(head + packed + directory + bytes(4))
    with pytest.raises(InputError) as caught:
        read_image(tmp_path / "b.png", "RGB", side=32)
    assert str(caught.value.__cause__) == "too many pixels"
