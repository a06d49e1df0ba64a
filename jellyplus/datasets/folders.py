"""Finding a data set in the folder that the user named, and saying what is there where it is not."""

import os
from pathlib import Path

import torchvision.datasets as tv

from jellyplus._errors import InputError

#: Folders by which a data set is recognised.
_MARKS = {
    "cifar10": "CIFAR-10 images",
    "cifar100": "CIFAR-100 images",
    "cifar-10-batches-py": "the CIFAR-10 batches",
    "cifar-100-python": "the CIFAR-100 batches",
    "MNIST": "MNIST",
}


def existing(data_set: str, root: str | None) -> Path:
    """``root`` as a folder that can be read.

    Raises:
        InputError: there is none.
    """
    if not root:
        raise InputError(f"{data_set} is read from disk; say where it lies with --data-root")
    folder = Path(os.path.expanduser(root))  # Path's own has no answer where the user is not known
    if not (folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)):
        raise InputError(f"{data_set}: {folder} is not a readable folder; give the right one")
    return folder


def find(folder: Path, name: str) -> Path | None:
    """The folder of that name in ``folder``, or ``folder`` itself where it has the name."""
    inside = folder / name
    if inside.is_dir():
        return inside
    return next((path for path in (folder.absolute(), folder.resolve()) if path.name == name and path.is_dir()), None)


class ImageFolder(tv.ImageFolder):
    """torchvision's, without hidden folders, such as the ``.ipynb_checkpoints`` that Jupyter leaves."""

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """Return the class folders by name, and their labels."""
        classes = [name for name in super().find_classes(directory)[0] if not name.startswith(".")]
        return classes, {name: label for label, name in enumerate(classes)}


def absence(data_set: str, expected: str, folder: Path) -> InputError:
    """The error for a ``folder`` without the two layouts that ``expected`` names; it says which data it holds."""
    found = [_MARKS[name] for name in sorted(_MARKS) if find(folder, name)]
    if found:
        holds = f"holds {' and '.join(found)}"
    elif any(folder.iterdir()):
        holds = "holds neither"
    else:
        holds = "is empty"
    return InputError(f"{data_set} needs {expected}, but {folder} {holds}; give another folder")
