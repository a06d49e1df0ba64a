"""Events of a recording become the frames of T time-steps."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from jellyplus.datasets.settings import EventSettings

__all__ = ["Events", "frames", "frames_of_counts"]

SENSOR = 128  # pixels a side: CIFAR10-DVS and DVS128 Gesture


class Events(NamedTuple):
    """Events in the order of the recording, arrays of equal length.

    Args:
        t: microseconds, int64; may go back.
        x, y: pixels from the upper left corner, uint8.
        p: 0 or 1, uint8: the channel of the frames.
    """

    t: np.ndarray
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray


def frames(events: Events, settings: EventSettings, time_steps: int, sensor: int = SENSOR) -> np.ndarray:
    """Count the events of each frame and pixel at the sensor's size, take their values, then resize.

    ``number`` and ``time`` are SpikingJelly's ``integrate_events_by_fixed_frames_number``; where fewer events or
    microseconds than frames leave nothing to divide, the last frame has them all, and a frame of ``time`` without
    events is empty (SpikingJelly fails there). ``duration`` is a regular grid from the earliest event; frames after the
    end are empty, events after the last frame are dropped. SpikingJelly's ``integrate_events_by_fixed_duration``
    instead begins each frame at its first event, ends it after the last microsecond, and makes as many as it needs.

    Each event belongs to the frame of its own timestamp, so those that go back need no sorting: ``number`` counts in
    the order of the recording, the others from the smallest timestamp to the largest.

    Args:
        events: of one recording, at least one.
        settings: integration, side, resize, values.
        time_steps: T.
        sensor: height and width of the recording, pixels, at most 256.

    Returns:
        float32 [T, 2, side, side].
    """
    step = _frame_of_each(events.t, settings, time_steps)
    inside = (step >= 0) & (step < time_steps)
    step, x, y, p = (array[inside].astype(np.int64) for array in (step, events.x, events.y, events.p))
    flat = np.bincount(((step * 2 + p) * sensor + y) * sensor + x, minlength=time_steps * 2 * sensor**2)
    return frames_of_counts(flat.reshape(time_steps, 2, sensor, sensor), settings)


def frames_of_counts(counts: np.ndarray, settings: EventSettings) -> np.ndarray:
    """The same from counts at full size, [T, 2, sensor, sensor], such as SpikingJelly caches."""
    values = counts > 0 if settings.values == "binary" else counts
    return _resized(values.astype(np.float32), settings)


def _frame_of_each(t: np.ndarray, settings: EventSettings, time_steps: int) -> np.ndarray:
    if settings.integration == "number":
        return _equal_parts(np.arange(len(t)), len(t), time_steps)
    elapsed = t - t.min()
    if settings.integration == "time":
        return _equal_parts(elapsed, int(elapsed.max()), time_steps)
    return (elapsed - settings.start_us) // settings.frame_us


def _equal_parts(position: np.ndarray, length: int, parts: int) -> np.ndarray:
    """Which part each position is in; the last one takes the remainder."""
    size = length // parts
    return np.minimum(position // size, parts - 1) if size else np.full_like(position, parts - 1)


def _resized(frames: np.ndarray, settings: EventSettings) -> np.ndarray:
    sensor, side = frames.shape[-1], settings.side
    if sensor == side:
        return frames
    if settings.resize == "events":
        first = -(-np.arange(side) * sensor // side)  # of the pixels that fall into each, rounded up
        return np.add.reduceat(np.add.reduceat(frames, first, axis=3), first, axis=2)
    how = {"mode": settings.resize, "antialias": settings.resize == "bilinear"}
    return F.interpolate(torch.from_numpy(frames), (side, side), **how).numpy()
