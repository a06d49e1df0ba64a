"""What a recipe says about data that can be presented in several ways: files of images, and streams of events."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["EventSettings", "ImageSettings"]


@dataclass(frozen=True)
class ImageSettings:
    """How images of many sizes become inputs of one.

    Args:
        side: height and width of the input, pixels.
        resize: the shorter side before the centre crop of evaluation, pixels; None leaves the image as it is.
        unreadable: a file that cannot be decoded stops the run with its name, or is left out and counted.
    """

    side: int
    resize: int | None
    unreadable: Literal["stop", "skip"]

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ValueError(f"side is {self.side} pixels; it must be at least 1")
        if self.resize is not None and self.resize < self.side:
            raise ValueError(f"resize is {self.resize} pixels and side {self.side}: resize to side or more, or null")


@dataclass(frozen=True)
class EventSettings:
    """How recordings are split, and how their events become the frames of T time-steps.

    Args:
        split: ``official`` where the publisher has one (DVS128 Gesture, by subject); for CIFAR10-DVS, of each class,
            ``sj90`` (the first 90 % in the order of file names, as SpikingJelly does), ``first900`` (recordings 0 to
            899 by number) or ``random`` (90 %, drawn from ``split_seed``).
        split_seed: of ``random``; None for the others.
        integration: ``duration``: frame t has the events from ``start_us + t * frame_us``, counted from the first
            event, up to and without the next frame's; ``number``: T frames of equally many events; ``time``: T frames
            of equal duration over the whole recording. The last frame of the latter two takes the remainder, as
            SpikingJelly has it.
        frame_us: of ``duration``, microseconds; None for the others.
        start_us: of ``duration``, microseconds; None for the others.
        side: height and width of the frames, pixels; the sensors have 128.
        values: of the frames at the sensor's size: ``counts`` of events, or ``binary``, 1 where there is at least one.
        resize: ``nearest`` picks pixels: 0/1 stays 0/1, as dense as before but for chance, since the pixels that are
            picked do not depend on the events; ``bilinear`` interpolates, antialiased: 0/1 becomes shares whose mean is
            the density; ``events`` adds up the pixels that fall into one, which is to scale the coordinates of events.
    """

    split: Literal["official", "sj90", "first900", "random"]
    split_seed: int | None
    integration: Literal["duration", "number", "time"]
    frame_us: int | None
    start_us: int | None
    side: int
    resize: Literal["events", "bilinear", "nearest"]
    values: Literal["counts", "binary"]

    def __post_init__(self) -> None:
        if (self.split == "random") != (self.split_seed is not None):
            raise ValueError(f"split_seed is {self.split_seed} and split {self.split}: random needs one, others null")
        for name in ("frame_us", "start_us"):
            if (self.integration == "duration") != (getattr(self, name) is not None):
                raise ValueError(f"{name} is {getattr(self, name)}: integration duration needs it, others null")
        if self.integration == "duration" and (self.frame_us < 1 or self.start_us < 0):
            raise ValueError(f"frame_us is {self.frame_us} and start_us {self.start_us}; give 1 and 0 or more")
        if not 1 <= self.side <= 128:
            raise ValueError(f"side is {self.side} pixels; the sensors have 128, so give 1 to 128")
