"""SpikingJelly's files: what it writes is read, what it cannot have written is refused with the file's name."""

import contextlib
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import spikingjelly.datasets as sj
from recordings import random_events, same, write, write_npz

from jellyplus._errors import InputError
from jellyplus.datasets import budget, npz, recordings
from jellyplus.datasets.npz import memory_of, read_events_npz, read_frames_npz
from jellyplus.datasets.settings import EventSettings

GOOD = {"t": [1, 2], "x": [0, 127], "y": [0, 127], "p": [0, 1]}
COUNTS = np.zeros((3, 2, 128, 128))


def refusal(read, path):
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("dtype", [">u4", "<i8", np.uint8])
def test_events_of_any_integer_type(tmp_path, dtype):
    written = random_events(200, seed=0, begin=0, longest=200)
    path = write_npz(tmp_path / "a.npz", **{key: array.astype(dtype) for key, array in written._asdict().items()})
    read = read_events_npz(path)
    assert same(read, written)
    assert [array.dtype for array in read] == [np.int64, np.uint8, np.uint8, np.uint8]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_frames(tmp_path, save):
    events = random_events(200, seed=0)
    counts = sj.integrate_events_by_fixed_frames_number(events._asdict(), "number", 3, 128, 128)
    save(tmp_path / "a.npz", frames=counts)
    assert np.array_equal(read_frames_npz(tmp_path / "a.npz"), counts)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"t": [1, 2]}, "is damaged or lacks one of t, x, y, p"),
        ({**GOOD, "x": [0, 128]}, "outside 128x128"),
        ({**GOOD, "y": [-1, 0]}, "outside 128x128"),
        ({**GOOD, "p": [0, 2]}, "p above 1"),
        ({**GOOD, "t": [-5, 1]}, "negative time"),
        ({**GOOD, "t": np.array([1, 2**64 - 1], np.uint64)}, "negative time"),
        ({**GOOD, "p": [0]}, "not integers of equal length"),
        ({**GOOD, "x": [0.0, 1.0]}, "not integers"),
        ({**GOOD, "t": [[1, 2]]}, "not integers"),
        (dict.fromkeys("txyp", np.zeros(0, int)), "at least one"),
        ({**GOOD, "t": np.array([1, None])}, "is damaged"),  # pickled: never loaded
    ],
)
def test_events_that_cannot_be(tmp_path, arrays, reason):
    assert reason in refusal(read_events_npz, write_npz(tmp_path / "a.npz", **arrays))


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        (np.zeros((3, 2, 64, 64)), "not counts of T frames"),
        (np.zeros((2, 128, 128)), "not counts of T frames"),
        (COUNTS - 1, "negative or infinite"),
        (COUNTS + np.nan, "negative or infinite"),
        (COUNTS + np.inf, "negative or infinite"),
        (COUNTS.astype(bool), "holds bool"),
    ],
)
def test_frames_that_cannot_be(tmp_path, counts, reason):
    assert reason in refusal(read_frames_npz, write_npz(tmp_path / "a.npz", frames=counts))


@pytest.mark.parametrize("read", [read_events_npz, read_frames_npz])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"nothing", None])
def test_damage(tmp_path, read, content):
    path = tmp_path / "a.npz"
    if content is not None:
        write(path, content)
    assert "is damaged" in refusal(read, path)


def test_random_damage_is_read_or_refused(tmp_path):
    draw, path = np.random.default_rng(0), tmp_path / "a.npz"
    whole = write_npz(path, **GOOD).read_bytes()
    for _ in range(300):
        content = bytearray(whole[: draw.integers(1, len(whole) + 1)] if draw.integers(2) else whole)
        for position in draw.integers(0, len(content), 3):
            content[position] = draw.integers(256)
        path.write_bytes(bytes(content))
        with contextlib.suppress(InputError):
            assert len(read_events_npz(path).t) <= 2


def test_a_file_that_unpacks_to_too_much(tmp_path, monkeypatch):
    path = write_npz(tmp_path / "a.npz", t=np.zeros(5000, int), x=[], y=[], p=[])
    monkeypatch.setattr(npz, "_LARGEST", 10_000)
    assert "unpacks to more than 10,000 bytes" in refusal(read_events_npz, path)


def test_the_memory_of_a_file_is_told_before_it_is_read(tmp_path):
    events = {key: np.zeros(1000, kind) for key, kind in (("t", np.uint8), ("x", np.int64), ("y", "u1"), ("p", bool))}
    np.savez_compressed(tmp_path / "a.npz", **events, note="x")
    assert memory_of(tmp_path / "a.npz") == 100 * 1000 + (1000 + 8000 + 1000 + 1000) + 4 * 128  # heads of 128 bytes
    np.savez_compressed(tmp_path / "b.npz", frames=np.zeros((4, 2, 128, 128), np.float32))
    assert memory_of(tmp_path / "b.npz") == 3 * (4 * 2 * 128 * 128 * 4 + 128)
    assert memory_of(write(tmp_path / "c.npz", b"PK")) == memory_of(tmp_path / "absent.npz") == 0


@pytest.mark.parametrize("read", ["load", "prepare", "check"])
def test_threads_share_one_budget(tmp_path, monkeypatch, read):
    """Eight threads, files of 12,000 bytes and room for 30,000: two at a time; one that needs more is refused."""
    write_npz(tmp_path / "a.npz", **{key: np.arange(100, dtype="u1") % 2 for key in "txyp"})
    need, lock, now, peaks = memory_of(tmp_path / "a.npz"), threading.Lock(), [], []
    monkeypatch.setattr(recordings, "UNPACKED", budget.Budget(int(2.5 * need)))

    def reader(path):
        with lock:
            now.append(path)
            peaks.append(len(now))
        time.sleep(0.01)
        with lock:
            now.remove(path)
        return read_events_npz(path)

    settings = EventSettings("official", None, "number", None, None, 128, "nearest", "counts")
    sources = tuple(
        recordings.Source(path, (recordings.Recording(f"a/{i}", 0),), partial(recordings.only, reader, path))
        for i in range(16)
        for path in [shutil.copy(tmp_path / "a.npz", tmp_path / f"{i}.npz")]
    )
    layout = recordings.Layout(tmp_path, "npz", tmp_path, {"train": sources})
    act = {
        "load": lambda: recordings.load_split(layout, [f"a/{i}" for i in range(16)], settings, 2, ""),
        "prepare": lambda: recordings.prepare(layout, settings, 2, 8, ""),
        "check": lambda: list(
            ThreadPoolExecutor(8).map(lambda file: file.read(), recordings.survey_files(layout, ["a"]))
        ),
    }[read]
    act()
    assert len(peaks) == 16
    assert max(peaks) <= 2
    shutil.rmtree(tmp_path / "jellyplus_frames", ignore_errors=True)
    monkeypatch.setattr(recordings, "UNPACKED", budget.Budget(need - 1))
    with pytest.raises(InputError, match=rf"npz unpacks to what needs {need:,} bytes of memory"):
        act()
