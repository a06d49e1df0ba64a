"""What lies in a folder of data: every data set found there, its examples by class, and what cannot be read."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from jellyplus._bars import bar
from jellyplus._errors import InputError

__all__ = ["File", "Finding", "Survey", "inspect"]

_AT_ONCE = 10_000  # files given to threads: all of ImageNet's would take gigabytes


class File(NamedTuple):
    """A file that may hold one example or many.

    Args:
        name: relative to the data set's folder.
        split: the split that the folder or the publisher puts it in, ``"all"`` where there is none.
        read: returns the classes of its examples by name.

    Raises:
        InputError: by ``read``, where the file is damaged.
    """

    name: str
    split: str
    read: Callable[[], Iterable[str]]


@dataclass(frozen=True)
class Survey:
    """A data set as it lies in a folder, nothing read yet.

    Args:
        dataset: the name it is loaded by.
        layout: how it lies there.
        files: of all splits.
        published: examples of each split as published.
        per_class: the same of each class, where all classes of a split have equally many.
        source: where the published counts come from.
        digests: sha256 of each split's manifest, by name of the split.
    """

    dataset: str
    layout: str
    files: tuple[File, ...]
    published: dict[str, int]
    per_class: dict[str, int]
    source: str
    digests: dict[str, str]


@dataclass(frozen=True)
class Finding:
    """What reading every file of a survey gave.

    Args:
        survey: what was read.
        counts: examples by class, of each split.
        unreadable: the sentence on each file that could not be read.
    """

    survey: Survey
    counts: dict[str, Counter]
    unreadable: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether everything can be read and the counts are the published ones."""
        totals = {split: counter.total() for split, counter in self.counts.items()}
        even = all(set(self.counts[split].values()) == {n} for split, n in self.survey.per_class.items())
        return not self.unreadable and totals == self.survey.published and even


def inspect(survey: Survey) -> Finding:
    """Read every file of ``survey``, in parallel and with progress."""
    counts = {split: Counter() for split in survey.published}
    unreadable = []
    with ThreadPoolExecutor() as pool:
        classes = _read_all(pool, survey.files)
        progress = bar(classes, total=len(survey.files), desc=survey.dataset, unit="file", leave=False, mininterval=1)
        for file, found in zip(survey.files, progress, strict=True):
            if isinstance(found, InputError):
                unreadable.append(str(found))
            else:
                counts[file.split].update(found)
    return Finding(survey, counts, tuple(unreadable))


def _read_all(pool: ThreadPoolExecutor, files: tuple[File, ...]) -> Iterator[Iterable[str] | InputError]:
    for start in range(0, len(files), _AT_ONCE):
        yield from pool.map(_classes_or_error, files[start : start + _AT_ONCE])


def _classes_or_error(file: File) -> Iterable[str] | InputError:
    try:
        return file.read()
    except InputError as error:
        return error
