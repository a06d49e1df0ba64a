"""Recordings of dynamic vision sensors in the two formats of jAER and cAER that data sets are published in.

Formats: inivation.com, "AEDAT file formats", 2.0 and 3.1. Both readers hold the file in memory and little beside it; no
size that a file claims is believed before it is compared with what is there.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jellyplus._errors import InputError
from jellyplus._files import read_file
from jellyplus.datasets.frames import SENSOR, Events

__all__ = ["read_aedat2", "read_aedat3"]

_HEADER_2, _HEADER_3 = b"#!AER-DAT2.", b"#!AER-DAT3.1"
_END_3 = b"#!END-HEADER\r\n"
_TEXT_LINES = re.compile(rb"(?:#[^\x00-\x08\x0a-\x1f\x7f]*\r?\n)*")  # no control characters but tabs
_CHIP_2 = re.compile(rb"^#[ \t]*AEChip:[ \t]*([^\r\n]*)", re.MULTILINE)  # a class of jAER
_CHIP_3 = re.compile(rb"^#Source \d+:[ \t]*([^\r\n]*)", re.MULTILINE)
_CHIPS = ("dvs128", "tmpdiff128")  # in small letters; the second came before and has the same addresses
_ADDRESS_BITS = 16  # of a DVS128 on the wire
_PACKET = struct.Struct("<2H6I")  # type, source; size, offset of the timestamp, overflow, capacity, number, valid
_POLARITY = 1  # packet type
_EVENT = np.dtype([("data", "<u4"), ("t", "<u4")])


def read_aedat2(path: Path) -> Events:
    """Read an AEDAT 2.0 recording of a DVS128, as CIFAR10-DVS has them.

    Lines of text that begin with ``#``, then pairs of big-endian 32-bit words, address and timestamp in microseconds.
    Decoded and turned upright as SpikingJelly 0.0.0.0.14 does: with the address's bits 1-7 as a and 8-14 as b,
    x = 127 - b, y = 127 - a, p = 1 - bit 0. Bits above them are ignored.

    Cameras have addresses of their own, so that another's would be noise: the header's ``AEChip`` must be a DVS128, if
    it is there, and at most half of the addresses may have more than 16 bits.

    What begins with ``#`` but is no line of text is data; SpikingJelly takes the first such event for another line of
    the header. Events keep their order. A timestamp may go back; a step of more than 2**31 either way is the 32-bit
    counter's wrap and is undone.

    Raises:
        InputError: the file cannot be read, is of another format or camera, ends within an event, or holds no event.
    """
    content = _content(path)
    start = _TEXT_LINES.match(content).end()
    if not content.startswith(_HEADER_2) or start == 0:
        raise InputError(f"{path} has no header of {_HEADER_2.decode()}0; put the original recording in its place")
    _refuse_other_chips(_CHIP_2.findall(content, 0, start), path)
    if (len(content) - start) % 8:
        raise InputError(f"{path} ends within an event; put the original recording in its place")
    if len(content) == start:
        raise InputError(f"{path} holds no event; put the original recording in its place")
    address, timestamp = np.frombuffer(content, ">u4", offset=start).reshape(-1, 2).T
    if 2 * np.count_nonzero(address >> _ADDRESS_BITS) > len(address):
        raise InputError(f"{path} holds addresses of more than {_ADDRESS_BITS} bits; give recordings of a DVS128")
    t = np.empty(len(timestamp), np.int64)
    t[0] = timestamp[0]
    t[1:] = np.diff(timestamp.astype(np.uint32)).view(np.int32)  # modulo 2**32
    x, y, p = 127 - (address >> 8 & 127), 127 - (address >> 1 & 127), 1 - (address & 1)
    return Events(t.cumsum(), *(array.astype(np.uint8) for array in (x, y, p)))


def read_aedat3(path: Path) -> Events:
    """Read an AEDAT 3.1 recording of a DVS128, as DVS128 Gesture has them.

    Lines of text up to ``#!END-HEADER``, then packets: a head of 28 bytes and room for ``capacity`` entries of ``size``
    bytes, of which the first ``number`` are there. Polarity events are kept where they are marked valid, packets of
    other types are skipped. SpikingJelly reads up to ``capacity`` and ignores the mark; files whose packets are full
    and valid give the same events. The full time is ``timestamp | overflow << 31``, microseconds.

    Raises:
        InputError: the file cannot be read, is of another format, its header names another camera as a ``Source``, it
            ends within a packet, a head contradicts itself, an event lies outside 128x128 pixels, or there is no event.
    """
    content = _content(path)
    header = _TEXT_LINES.match(content).group()
    end = header.find(_END_3)
    if not content.startswith(_HEADER_3) or end < 0:
        raise InputError(
            f"{path} has no header from {_HEADER_3.decode()} to {_END_3.decode().strip()}; "
            "put the original recording in its place"
        )
    _refuse_other_chips(_CHIP_3.findall(header[:end]), path)
    packets = list(_polarity_packets(content, end + len(_END_3), path))
    if not any(len(data) for data, _ in packets):
        raise InputError(f"{path} holds no event; put the original recording in its place")
    data, t = (np.concatenate(parts) for parts in zip(*packets, strict=True))
    x, y = data >> 17, data >> 2 & 0x7FFF
    if max(x.max(), y.max()) >= SENSOR:
        raise InputError(f"{path} holds events outside {SENSOR}x{SENSOR} pixels; give recordings of a DVS128")
    return Events(t, *(array.astype(np.uint8) for array in (x, y, data >> 1 & 1)))


def _refuse_other_chips(named: list[bytes], path: Path) -> None:
    for chip in (name.decode("ascii", "replace").strip() for name in named):
        if chip.rpartition(".")[2].lower() not in _CHIPS:
            raise InputError(f"{path} is a recording of {chip}; give recordings of a DVS128")


def _polarity_packets(content: bytes, start: int, path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the words and the full times of each packet's valid events."""
    while start < len(content):
        if start + _PACKET.size > len(content):
            raise InputError(f"{path} ends within the head of a packet; put the original recording in its place")
        kind, _, size, _, overflow, capacity, number, _ = _PACKET.unpack_from(content, start)
        start += _PACKET.size
        if start + size * capacity > len(content):
            raise InputError(f"{path} ends within a packet; put the original recording in its place")
        if number > capacity or (kind == _POLARITY and size != _EVENT.itemsize):
            raise InputError(
                f"{path} has a packet of {number} events of {size} bytes in room for {capacity}; "
                "put the original recording in its place"
            )
        if kind == _POLARITY:
            events = np.frombuffer(content, _EVENT, number, start)
            events = events[events["data"] & 1 == 1]
            yield events["data"], events["t"].astype(np.int64) | overflow << 31
        start += size * capacity


def _content(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; put the original recording in its place") from error
