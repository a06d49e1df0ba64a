"""Stand-ins made from real scans that scikit-learn ships: images, pairs of images, and a simulated event camera.

Source: ``sklearn.datasets.load_digits``, the 1,797 test scans of the "Optical Recognition of Handwritten Digits" data
set (Alpaydin and Kaynak, 1998), 8x8 with values 0..16. The scans are split into training and test before anything is
made from them, so that no scan of the test split is seen in training. Everything is a function of the seed.
"""

import math

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Generator, Tensor

from jellyplus.datasets.base import DataSet, Split

SIDE = 16  # pixels, height and width of everything here
TEST_SCANS = 360  # the other 1,437 are for training
PAIRS = {"train": 60, "test": 10}  # examples per class

TIME_STEPS = 10
STEPS_PER_FRAME = 4  # positions at which the simulated camera looks
CONTRAST_THRESHOLD = 0.5  # change of log intensity per event
ROUNDING = 1e-4  # relative; a pixel that is back on paper is exactly some thresholds away from where it was on ink
BACKGROUND = 0.1  # intensity of the paper; ink has 1
RADIUS = 2.5  # pixels, of the circle on which the digit moves

_SOURCE = "scikit-learn load_digits: 1,797 handwritten digits, 8x8"


def digits(seed: int = 0) -> DataSet:
    """Ten classes, images 3x16x16: the scans enlarged bilinearly, the same in all channels. Stands in for CIFAR-10."""
    scans = _scans(seed)
    splits = {name: Split(_to_uint8(_resize(images, SIDE, SIDE)), labels) for name, (images, labels) in scans.items()}
    return _images("digits", 10, splits, f"{_SOURCE}, enlarged to 16x16")


def digit_pairs(seed: int = 0) -> DataSet:
    """A hundred classes, images 3x16x16: two scans side by side, each 16 high and 8 wide. Stands in for CIFAR-100.

    The label is the number that the two digits form, 0 to 99; within a class no pair occurs twice.
    """
    generator = Generator().manual_seed(seed)
    splits = {name: _pairs(*scans, PAIRS[name], generator) for name, scans in _scans(seed).items()}
    return _images("digit_pairs", 100, splits, f"{_SOURCE}, in pairs at 16x16")


def moving_digits(seed: int = 0) -> DataSet:
    """Ten classes, event frames 10x2x16x16 from a simulated event camera. Stands in for the DVS sets.

    A simulation, not a recording: each digit moves once round a circle, from a phase and in a direction of its own,
    and every pixel emits an ON (channel 0) or OFF (channel 1) event whenever its log intensity has risen or fallen by
    the contrast threshold since its last event. There is no noise, no latency and no refractory period.
    """
    generator = Generator().manual_seed(seed)
    scans = _scans(seed)
    splits = {name: Split(_events(_move(images, generator).log()), labels) for name, (images, labels) in scans.items()}
    source = f"{_SOURCE}, moving in front of a simulated event camera"
    mean, std = (0.0, 0.0), (1.0, 1.0)
    return DataSet("moving_digits", 10, **splits, kind="events", stand_in=True, mean=mean, std=std, source=source)


def _scans(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Split the scans, float [n, 8, 8] in 0..1, and their digits into training and test, class by class."""
    images, labels = load_digits(return_X_y=True)
    arrays = train_test_split(images, labels, test_size=TEST_SCANS, stratify=labels, random_state=seed)
    train_images, test_images, train_labels, test_labels = map(torch.from_numpy, arrays)
    return {
        "train": (train_images.float().reshape(-1, 8, 8) / 16, train_labels.long()),
        "test": (test_images.float().reshape(-1, 8, 8) / 16, test_labels.long()),
    }


def _images(name: str, classes: int, splits: dict[str, Split], source: str) -> DataSet:
    std, mean = torch.std_mean(splits["train"].inputs / 255.0, dim=(0, 2, 3))
    mean, std = tuple(mean.tolist()), tuple(std.tolist())
    return DataSet(name, classes, **splits, kind="images", stand_in=True, mean=mean, std=std, source=source)


def _resize(scans: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(scans[:, None], (height, width), mode="bilinear")[:, 0]


def _to_uint8(images: Tensor) -> Tensor:
    """[n, H, W] in 0..1 to [n, 3, H, W] in 0..255."""
    return (images * 255).round().to(torch.uint8)[:, None].repeat(1, 3, 1, 1)


def _pairs(scans: Tensor, labels: Tensor, per_class: int, generator: Generator) -> Split:
    of_digit = [(labels == digit).nonzero()[:, 0] for digit in range(10)]
    left, right = [], []
    for number in range(100):
        tens, units = of_digit[number // 10], of_digit[number % 10]
        drawn = torch.randperm(len(tens) * len(units), generator=generator)[:per_class]
        left.append(tens[drawn // len(units)])
        right.append(units[drawn % len(units)])
    halves = _resize(scans, SIDE, SIDE // 2)
    images = torch.cat([halves[torch.cat(left)], halves[torch.cat(right)]], dim=2)
    return Split(_to_uint8(images), torch.arange(100).repeat_interleave(per_class))


def _move(scans: Tensor, generator: Generator) -> Tensor:
    """Intensities [n, S, H, W] of every scan at S = 1 + frames * steps positions on its circle, a closed one."""
    n = len(scans)
    phase = torch.rand(n, 1, generator=generator)
    direction = torch.randint(2, (n, 1), generator=generator) * 2 - 1
    turns = torch.linspace(0, 1, 1 + TIME_STEPS * STEPS_PER_FRAME)
    angle = 2 * math.pi * (phase + direction * turns)
    rows, columns = _positions(RADIUS * angle.sin()), _positions(RADIUS * angle.cos())
    ink = rows @ scans[:, None] @ columns.mT
    return BACKGROUND + (1 - BACKGROUND) * ink


def _positions(shift: Tensor) -> Tensor:
    """Weights [n, S, 16, 8] that place 8 pixels, ``shift`` [n, S] from the middle of 16, by linear interpolation."""
    first = (SIDE - 8) / 2 + shift[..., None, None]
    distance = torch.arange(SIDE)[:, None] - (first + torch.arange(8))
    return (1 - distance.abs()).clamp(min=0)


def _events(log_intensity: Tensor) -> Tensor:
    """Count the events of log intensities [n, S, H, W] in frames, uint8 [n, T, 2, H, W]: ON, then OFF.

    Each pixel remembers the level of its last event, at first its first value, and emits one event for every whole
    contrast threshold between that level and what it sees. A frame covers STEPS_PER_FRAME steps.
    """
    n, steps, height, width = log_intensity.shape
    frames = torch.zeros(n, (steps - 1) // STEPS_PER_FRAME, 2, height, width, dtype=torch.uint8)
    level = log_intensity[:, 0].clone()
    for step in range(1, steps):
        thresholds = ((log_intensity[:, step] - level) / CONTRAST_THRESHOLD * (1 + ROUNDING)).trunc()
        level += thresholds * CONTRAST_THRESHOLD
        frame = frames[:, (step - 1) // STEPS_PER_FRAME]
        frame[:, 0] += thresholds.clamp(min=0).to(torch.uint8)
        frame[:, 1] += (-thresholds).clamp(min=0).to(torch.uint8)
    return frames
