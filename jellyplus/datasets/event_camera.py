"""A simulated event camera in front of moving images: any folder of images becomes a data set of event streams.

A simulation, not a recording: it stands for no published data. It follows how CIFAR10-DVS was made (Li et al., 2017,
Frontiers in Neuroscience 11:309, "repeated closed-loop smooth movement"): images enlarged bicubically on a monitor,
moving smoothly and repeatedly along a closed path before a resting DVS128 of 128x128 pixels. Every pixel emits an event
whenever the logarithm of its light has risen or fallen by a threshold since its last event. Pixels are alike and ideal:
no noise, no latency, no refractory period, and the monitor has no refresh rate. Nothing is drawn.
"""

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.datasets as tv
from PIL import Image, ImageOps

from jellyplus._errors import InputError
from jellyplus.datasets import folders
from jellyplus.datasets.base import DataSet
from jellyplus.datasets.frames import SENSOR, Events
from jellyplus.datasets.images import read_image
from jellyplus.datasets.recordings import Layout, Recording, Source, candidates, load_split, only, prepare
from jellyplus.datasets.settings import EventSettings

__all__ = ["event_camera", "events_of", "prepare_frames", "simulate"]

# As the text that comes with CIFAR10-DVS has it: bicubic, 512x512 pixels on the monitor.
SCREEN_PER_PIXEL = 4  # pixels of the monitor a side that one of the sensor's sees: 512 / 128

# Li et al. as we remember them, not compared with their text.
LOOP_US = 200_000  # microseconds along the closed path
LOOPS = 6

# Our choice. The path is a diamond of four straight diagonals, walked in equal steps. The image is larger than what the
# sensor sees by twice the amplitude, so that its border never comes into view.
AMPLITUDE = 16  # pixels of the monitor from the middle of the path to each of its corners
STEPS = 4 * AMPLITUDE  # of a loop, each of one pixel of the monitor along both axes
GAMMA = 2.2  # of the monitor: light is the grey value to this power
DARK = 0.02  # light of a black pixel; a white one has 1
THRESHOLD = 0.4  # change of log light per event; makes some 200,000 events of a photograph at 32x32

_DECIMALS = 9  # of light in thresholds: floating-point noise must not decide whether a level is reached again
_VERSION = "event_camera_1"  # in the names of prepared frames: raise it when a stream changes
_SCREEN = SENSOR * SCREEN_PER_PIXEL + 2 * AMPLITUDE  # pixels of the image on the monitor, a side
_SOURCE = "images moving in front of a simulated event camera; no recording"


def event_camera(root: str | None, events: EventSettings, time_steps: int) -> DataSet:
    """Images as the simulated camera sees them, frames [T, 2, side, side]: OFF in channel 0, ON in channel 1.

    Read are ``{train,test}/<class>/*`` or ``{train,val}/<class>/*``, in ``cifar10`` or in ``root`` itself: images of
    any number and size, of which the square in the middle is seen, in grey. Labels number the class folders by name.
    All frames are held in memory. To make them takes about a tenth of a second an image; see :func:`prepare_frames`.

    Raises:
        InputError: there is no root, no such folders in it, a class in only one of them, a file that is no image, or an
            image that makes no event; or the split is not ``official``.
    """
    if events.split != "official":
        raise InputError("event_camera has the split of its folders; state official for data.events.split")
    classes, layout = _layout(folders.existing("event_camera", root))
    train, test = (
        load_split(layout, _names(sources), events, time_steps, f"event_camera, {split}")
        for split, sources in layout.sources.items()
    )
    mean, std = (0.0, 0.0), (1.0, 1.0)
    return DataSet("event_camera", classes, train, test, "events", stand_in=True, mean=mean, std=std, source=_SOURCE)


def prepare_frames(root: Path, settings: EventSettings, time_steps: int, workers: int | None) -> tuple[Path, int]:
    """Write the frames of all images for these settings; see :func:`recordings.prepare`.

    Raises:
        InputError: there are no images, or one is damaged or uniform.
    """
    _, layout = _layout(root)
    return prepare(layout, settings, time_steps, workers, "event_camera")


def simulate(image: np.ndarray) -> Events:
    """The events of one image moving in front of the camera, LOOPS times along its path, in the order of time.

    All loops are alike: after each one every pixel sees what it saw at first, and its level is the first one again.

    Args:
        image: grey values, uint8 [H, W], of any size; the square in its middle is seen.

    Returns:
        events of 128x128 pixels, times from 0 to LOOPS * LOOP_US, p 1 for ON; a uniform image has none.
    """
    loop = events_of(_log_light(image), LOOP_US)
    t = (np.arange(LOOPS)[:, None] * LOOP_US + loop.t).ravel()
    return Events(t, *(np.tile(array, LOOPS) for array in loop[1:]))


def events_of(log_light: np.ndarray, duration_us: int, threshold: float = THRESHOLD) -> Events:
    """The events of pixels that see ``log_light``, which changes linearly between equally distant times.

    Each pixel remembers a level, at first what it sees; whenever what it sees is a threshold away, it emits an event
    and the level moves there. Levels are counted in whole thresholds from the first, so that none drifts.

    Args:
        log_light: float [S + 1, H, W], H and W at most 256.
        duration_us: from the first to the last, microseconds.
        threshold: of one event.

    Returns:
        events in the order of time, p 1 for ON; times are rounded down to microseconds.
    """
    seen = ((log_light - log_light[0]) / threshold).round(_DECIMALS).reshape(len(log_light), -1)
    level = np.zeros_like(seen[0])
    found = []
    for step, (before, after) in enumerate(pairwise(seen)):
        change = np.trunc(after - level)
        fires = np.flatnonzero(change)
        pixel = np.repeat(fires, np.abs(change[fires]).astype(np.int64))
        direction = np.sign(change[pixel])
        reached = level[pixel] + direction * _ordinals(pixel)
        passed = (reached - before[pixel]) / (after[pixel] - before[pixel])  # share of the step until the event
        found.append((step + passed, pixel, direction > 0))
        level += change
    time, pixel, on = map(np.concatenate, zip(*found, strict=True))
    t = np.floor(time * duration_us / (len(seen) - 1)).astype(np.int64)
    order = np.argsort(t, kind="stable")
    y, x = np.divmod(pixel[order], log_light.shape[2])
    return Events(t[order], *(array.astype(np.uint8) for array in (x, y, on[order])))


def _ordinals(sorted_values: np.ndarray) -> np.ndarray:
    """1, 2, 3, ... in every run of equal values."""
    return np.arange(len(sorted_values)) - np.searchsorted(sorted_values, sorted_values) + 1


def _path() -> np.ndarray:
    """Upper left corners of what is seen on the monitor, int [STEPS + 1, 2]: down, right, up and left again."""
    turns = np.arange(STEPS + 1) + np.array([[0], [AMPLITUDE]])  # columns are a quarter of a loop ahead
    rows, columns = AMPLITUDE - np.abs((turns + AMPLITUDE) % STEPS - 2 * AMPLITUDE)
    return np.stack([rows, -columns], axis=1) + AMPLITUDE


def _log_light(image: np.ndarray) -> np.ndarray:
    """The logarithm of the light on the sensor along the path, float64 [STEPS + 1, 128, 128].

    The light of a pixel is the mean over the SCREEN_PER_PIXEL^2 pixels of the monitor that it sees.
    """
    screen = np.asarray(ImageOps.fit(Image.fromarray(image), (_SCREEN, _SCREEN), Image.Resampling.BICUBIC))
    light = DARK + (1 - DARK) * (np.arange(256) / 255) ** GAMMA
    means = F.avg_pool2d(torch.from_numpy(light[screen])[None], SCREEN_PER_PIXEL, stride=1)[0].log().numpy()
    shown = (means[row::SCREEN_PER_PIXEL, column::SCREEN_PER_PIXEL] for row, column in _path())
    return np.stack([window[:SENSOR, :SENSOR] for window in shown])


def _layout(root: Path) -> tuple[int, Layout]:
    """The number of classes, and images under ``"train"`` and ``"test"``."""
    for folder in candidates(root, "cifar10"):
        places = [path for name in ("train", "test", "val") if (path := folder / name).is_dir()][:2]
        if len(places) == 2 and places[0].name == "train":
            break
    else:
        expected = "images in {train,test}/<class>/ or {train,val}/<class>/"
        raise InputError(f"event_camera needs {expected}, which {root} lacks; give another folder")
    train, test = (_list(place) for place in places)
    if odd := sorted(set(train.classes) ^ set(test.classes)):
        raise InputError(f"{folder}: the class {odd[0]} is in only one of training and test; add it to the other")
    sources = {"train": _sources(train, folder), "test": _sources(test, folder)}
    return len(train.classes), Layout(folder, _SOURCE, folder, sources)


def _list(folder: Path) -> tv.ImageFolder:
    try:
        return folders.ImageFolder(folder)
    except FileNotFoundError as error:
        raise InputError(f"{folder}: {str(error).split('. ')[0]}; every class needs a folder with images") from error


def _sources(listed: tv.ImageFolder, folder: Path) -> tuple[Source, ...]:
    samples = ((Path(path), label) for path, label in listed.samples)
    return tuple(
        Source(path, (Recording(f"{_VERSION}/{path.relative_to(folder)}", label),), partial(only, _record, path))
        for path, label in samples
    )


def _names(sources: tuple[Source, ...]) -> list[str]:
    return [recording.name for source in sources for recording in source.recordings]


def _record(path: Path) -> Events:
    events = simulate(read_image(path, "L"))
    if not len(events.t):
        raise InputError(f"the image {path} is uniform and makes no event; remove it")
    return events
