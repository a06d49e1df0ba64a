"""Data sets by name. Needs torchvision and scikit-learn, from the extra ``jellyplus[reproduce]``."""

from jellyplus._errors import InputError
from jellyplus.datasets import cifar, cifar10_dvs, dvs128_gesture, embedded, event_camera, imagenet, mnist
from jellyplus.datasets.base import DataSet, Split
from jellyplus.datasets.settings import EventSettings, ImageSettings

__all__ = ["CONSTANTS", "EMBEDDED", "DataSet", "EventSettings", "ImageSettings", "Split", "load"]

#: Those that ship with a dependency.
EMBEDDED = {
    "digits": embedded.digits,
    "digit_pairs": embedded.digit_pairs,
    "moving_digits": embedded.moving_digits,
}
_ON_DISK = {"cifar10": cifar.cifar10, "cifar100": cifar.cifar100, "mnist": mnist.mnist}
_OF_IMAGES = {"imagenet": imagenet.imagenet}  # (root, images)
_OF_EVENTS = {  # (root, events, time_steps)
    "cifar10_dvs": cifar10_dvs.cifar10_dvs,
    "dvs128_gesture": dvs128_gesture.dvs128_gesture,
    "event_camera": event_camera.event_camera,
}
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
            ``mnist``, ``imagenet``, ``cifar10_dvs``, ``dvs128_gesture``, ``event_camera``.
        root: the folder that holds it; the embedded ones need none and ignore it.
        images: how images of many sizes are presented; for the data sets that have them, None for the others.
        events: how recordings are split and become frames; for the data sets that have them, None for the others.
        time_steps: the number of frames, T; ignored where there are no recordings.

    Raises:
        InputError: the name is unknown, settings are missing or in excess, or what lies in ``root`` is not usable.

    >>> load("moving_digits").counts()["train"]
    {'examples': 1437, 'per_class_min': 139, 'per_class_max': 146}
    """
    known = [*EMBEDDED, *_ON_DISK, *_OF_IMAGES, *_OF_EVENTS]
    if name not in known:
        raise InputError(f"there is no data set {name!r}; choose from {', '.join(known)}")
    for part, given, needed in (("images", images, _OF_IMAGES), ("events", events, _OF_EVENTS)):
        if (given is None) == (name in needed):
            raise InputError(f"data.{part} {'is missing for' if given is None else 'must be left out for'} {name}")
    if name in EMBEDDED:
        return EMBEDDED[name]()
    if name in _ON_DISK:
        return _ON_DISK[name](root)
    if name in _OF_IMAGES:
        return _OF_IMAGES[name](root, images)
    return _OF_EVENTS[name](root, events, time_steps)
