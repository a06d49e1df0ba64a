"""Data sets by name. Needs torchvision and scikit-learn, from the extra ``jellyplus[reproduce]``."""

import inspect

from jellyplus._errors import InputError
from jellyplus.datasets import cifar, cifar10_dvs, dvs128_gesture, embedded, event_camera, imagenet, mnist
from jellyplus.datasets.base import DataSet, Split
from jellyplus.datasets.settings import EventSettings, ImageSettings
from jellyplus.registry import DATASETS

__all__ = ["CONSTANTS", "EMBEDDED", "DataSet", "EventSettings", "ImageSettings", "Split", "load"]

#: Those that ship with a dependency.
EMBEDDED = {
    "digits": embedded.digits,
    "digit_pairs": embedded.digit_pairs,
    "moving_digits": embedded.moving_digits,
}
_ON_DISK = (
    cifar.cifar10,
    cifar.cifar100,
    mnist.mnist,
    imagenet.imagenet,
    cifar10_dvs.cifar10_dvs,
    dvs128_gesture.dvs128_gesture,
    event_camera.event_camera,
)
for _load in (*EMBEDDED.values(), *_ON_DISK):
    DATASETS.register(_load.__name__)(_load)
#: Mean and deviation of each channel in the 0..1 scale, of the images that have published ones.
CONSTANTS = cifar.CONSTANTS | {"mnist": (mnist.MEAN, mnist.STD), "imagenet": (imagenet.MEAN, imagenet.STD)}


def load(
    name: str,
    root: str | None = None,
    *,
    images: ImageSettings | None = None,
    events: EventSettings | None = None,
    time_steps: int | None = None,
) -> DataSet:
    """Load a data set.

    Args:
        name: ``digits``, ``digit_pairs``, ``moving_digits`` (these ship with scikit-learn), ``cifar10``, ``cifar100``,
            ``mnist``, ``imagenet``, ``cifar10_dvs``, ``dvs128_gesture``, ``event_camera``, or a plugin's.
        root: the folder that holds it; the embedded ones need none and ignore it.
        images: how images of many sizes are presented; for the data sets that have them, None for the others.
        events: how recordings are split and become frames; for the data sets that have them, None for the others.
        time_steps: the number of frames, T; ignored where there are no recordings.

    Raises:
        InputError: the name is unknown, settings are missing or in excess, or what lies in ``root`` is not usable.

    >>> load("moving_digits").counts()["train"]
    {'examples': 1437, 'per_class_min': 139, 'per_class_max': 146}
    """
    DATASETS.check(name)
    wanted = inspect.signature(DATASETS[name]).parameters
    for part, given in (("images", images), ("events", events)):
        if (given is None) == (part in wanted):
            raise InputError(f"data.{part} {'is missing for' if given is None else 'must be left out for'} {name}")
    given = {"root": root, "images": images, "events": events, "time_steps": time_steps}
    data = DATASETS[name](**{part: value for part, value in given.items() if part in wanted})
    if data.name != name:
        raise InputError(f"the data set {name} calls itself {data.name!r}: give its DataSet the name {name!r}")
    if data.mean and name not in CONSTANTS and data.kind == "images" and name not in EMBEDDED:
        raise InputError(
            f"the data set {name} has mean and std: leave them empty, and state them in data.normalisation"
        )
    return data
