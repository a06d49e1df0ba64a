"""Files as the authors of the event data sets publish them, and as SpikingJelly caches them, with random events."""

import struct

import numpy as np

from jellyplus.datasets.frames import Events

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
AEDAT2_HEADER = (
    b"#!AER-DAT2.0\r\n"
    b"# This is a raw AE data file - do not edit\r\n"
    b"# Data format is int32 address, int32 timestamp (8 bytes total), repeated for each event\r\n"
    b"# Timestamps tick is 1 us\r\n"
    b"# created Thu Mar 27 13:36:34 CST 2014\r\n"
)
AEDAT3_HEADER = b"\r\n".join(
    [b"#!AER-DAT3.1", b"#Format: RAW", b"#Source 1: DVS128", b"#Start-Time: 2016-01-27 10:49:29", b"#!END-HEADER", b""]
)


def random_events(n, seed, begin=1000, longest=100_000):
    draw = np.random.default_rng(seed)
    x, y = draw.integers(0, 128, (2, n), dtype=np.uint8)
    t = begin + np.sort(draw.integers(0, longest, n))
    return Events(t, x, y, draw.integers(0, 2, n, dtype=np.uint8))


def same(left, right):
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def aedat2(events, header=AEDAT2_HEADER):
    """The DVS128 lies on its side: bits 1-7 of the address count down in y, bits 8-14 down in x; bit 0 is inverted."""
    words = []
    for t, x, y, p in zip(*(array.tolist() for array in events), strict=True):
        words += [(127 - x) << 8 | (127 - y) << 1 | (1 - p), t & 0xFFFFFFFF]
    return header + struct.pack(f">{len(words)}I", *words)


def packet(entries, kind=1, size=8, overflow=0, capacity=None, number=None):
    number = len(entries) if number is None else number
    capacity = len(entries) if capacity is None else capacity
    head = struct.pack("<2H6I", kind, 0, size, 4, overflow, capacity, number, number)
    return head + b"".join(struct.pack("<2I", *entry) for entry in entries)


def entries(events, valid=1):
    columns = (array.tolist() for array in events)
    return [(x << 17 | y << 2 | p << 1 | valid, t & 0x7FFFFFFF) for t, x, y, p in zip(*columns, strict=True)]


def aedat3(events, per_packet=400):
    """Packets of polarity events, and one of special events (type 0) before each."""
    out = AEDAT3_HEADER
    for begin in range(0, len(events.t), per_packet):
        part = Events(*(array[begin : begin + per_packet] for array in events))
        out += packet([(1, 7)], kind=0)
        out += packet(entries(part), overflow=int(part.t[0]) >> 31)
    return out


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_cifar10_dvs(folder, per_class=4, n=60, classes=CLASSES):
    """``<class>/cifar10_<class>_<n>.aedat``; returns the events by ``<class>/<recording>``."""
    written = {}
    for name in classes:
        for number in range(per_class):
            recording = f"{name}/cifar10_{name}_{number}"
            written[recording] = random_events(n, seed=len(written))
            write(folder / f"{recording}.aedat", aedat2(written[recording]))
    return written


TRIALS = {"train": ["user01_led", "user02_lab"], "test": ["user24_led"]}


def write_dvs_gesture(folder):
    """Trials of 12 gestures each (8 twice, as the authors have it), a gap of 50 us between them.

    Returns the events by ``<split>/<class from 0>/<trial>_<count of that class>``.
    """
    written = {}
    for split, trials in TRIALS.items():
        write(folder / f"trials_to_{split}.txt", "".join(f"{trial}.aedat\n" for trial in trials).encode())
        for trial in trials:
            slices, lines, count = [], ["class,startTime_usec,endTime_usec"], {}
            for k, label in enumerate([1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 10, 11]):
                begin = 10_000 + k * 1000
                events = random_events(40, seed=len(written), begin=begin, longest=900)
                events.t[[0, -1]] = begin, begin + 899  # the slice's first and last microsecond
                slices.append(events)
                lines.append(f"{label},{begin},{begin + 900}")
                number = count[label] = count.get(label, -1) + 1
                written[f"{split}/{label - 1}/{trial}_{number}"] = events
                slices.append(random_events(5, seed=0, begin=begin + 900, longest=50))  # belongs to no gesture
            everything = Events(*(np.concatenate(parts) for parts in zip(*slices, strict=True)))
            write(folder / f"{trial}.aedat", aedat3(everything, per_packet=64))
            write(folder / f"{trial}_labels.csv", "\n".join(lines).encode())
    return written


def write_npz(path, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path
