"""Data sets by name, held in memory. Needs torchvision and scikit-learn, from the extra ``jellyplus[reproduce]``."""

from jellyplus._errors import InputError
from jellyplus.datasets import cifar, embedded, mnist
from jellyplus.datasets.base import DataSet, Split

__all__ = ["DataSet", "Split", "load"]

_EMBEDDED = {
    "digits": embedded.digits,
    "digit_pairs": embedded.digit_pairs,
    "moving_digits": embedded.moving_digits,
}
_ON_DISK = {"cifar10": cifar.cifar10, "cifar100": cifar.cifar100, "mnist": mnist.mnist}
_NOT_YET = {"imagenet": "cifar100", "cifar10_dvs": "moving_digits", "dvs128_gesture": "moving_digits"}


def load(name: str, root: str | None = None) -> DataSet:
    """Load a data set.

    Args:
        name: ``digits``, ``digit_pairs``, ``moving_digits`` (these ship with scikit-learn), ``cifar10``, ``cifar100``,
            ``mnist``.
        root: the folder that holds it; the embedded ones need none and ignore it.

    Raises:
        InputError: the name is unknown, the data set is not supported yet, or what lies in ``root`` is not usable.

    >>> load("moving_digits").counts()["train"]
    {'examples': 1437, 'per_class_min': 139, 'per_class_max': 146}
    """
    if name in _EMBEDDED:
        return _EMBEDDED[name]()
    if name in _ON_DISK:
        return _ON_DISK[name](root)
    if name in _NOT_YET:
        raise InputError(f"the data set {name} is not supported yet; leave out what needs it, or use {_NOT_YET[name]}")
    raise InputError(f"there is no data set {name!r}; choose from {', '.join([*_EMBEDDED, *_ON_DISK])}")
