"""DVS128 Gesture (Amir et al., CVPR 2017): 11 gestures by 29 people in front of a DVS128, 128x128 pixels.

The authors publish one recording per trial (a person in one light), a table of its gestures, and which trials train and
which test: 23 people and 6 others.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from jellyplus._errors import InputError
from jellyplus._files import read_file
from jellyplus.datasets import archives, folders
from jellyplus.datasets.aedat import read_aedat3
from jellyplus.datasets.base import DataSet
from jellyplus.datasets.frames import Events
from jellyplus.datasets.npz import read_events_npz, read_frames_npz
from jellyplus.datasets.recordings import Layout, Recording, Source, candidates, load_split, only, prepare, survey_files
from jellyplus.datasets.settings import EventSettings
from jellyplus.datasets.splits import in_file_order
from jellyplus.datasets.survey import Survey

__all__ = ["CLASSES", "PUBLISHED", "dvs128_gesture", "find", "prepare_frames", "read", "survey", "unpack"]

CLASSES = 11
PUBLISHED = {"train": 1_176, "test": 288}  # the rows of the authors' tables
PUBLISHED_SOURCE = "SpikingJelly 0.0.0.0.14 and snnTorch; Amir et al. 2017 say 1,342 in all"

_NAMES = ("dvs128gesture", "dvsgesture")  # of its folder, in small letters and without - and _
_ARCHIVE = "DvsGesture.tar.gz"
_TABLE_HEAD = "class,startTime_usec,endTime_usec"
_ANY_FRAMES = "frames_number_*_split_by_*"
_EXPECTED = "DvsGesture/trials_to_train.txt and what it names (or in extract/), or SpikingJelly's events_np"


def dvs128_gesture(root: str | None, events: EventSettings, time_steps: int) -> DataSet:
    """DVS128 Gesture, frames [T, 2, side, side], from ``root``, which holds a folder of that name or is it.

    Read, whichever is found first: the authors' trials in ``extract/DvsGesture``, ``DvsGesture`` or the folder itself,
    cut as SpikingJelly does, from a gesture's first microsecond up to and without its last; SpikingJelly's
    ``events_np/{train,test}/<0..10>/*.npz``; its ``frames_number_<T>_split_by_<integration>``, where T and integration
    agree. Label k is the authors' class k + 1; SpikingJelly numbers the folders as strings, so its 2 is our 10.

    Raises:
        InputError: there is no root, none of these in it, a class without examples, or a damaged file.
    """
    folder = folders.existing("dvs128_gesture", root)
    if events.split != "official":
        raise InputError("dvs128_gesture has a split by subject; state official for data.events.split")
    layout = _required(folder, f"frames_number_{time_steps}_split_by_{events.integration}")
    return DataSet(
        "dvs128_gesture",
        CLASSES,
        train=load_split(layout, _names(layout, "train"), events, time_steps, "dvs128_gesture, training"),
        test=load_split(layout, _names(layout, "test"), events, time_steps, "dvs128_gesture, test"),
        kind="events",
        stand_in=False,
        mean=(0.0, 0.0),
        std=(1.0, 1.0),
        source=layout.name,
    )


def find(root: Path, frames: str = _ANY_FRAMES) -> Layout | None:
    """How the data set lies in ``root``, under ``"train"`` and ``"test"``; None where it does not.

    Args:
        root: a folder that holds the data set's or is it.
        frames: which of SpikingJelly's folders of frames will do, a glob pattern.

    Raises:
        InputError: the authors' lists or tables name what is not there, or are damaged.
    """
    for folder in candidates(root, *_NAMES):
        for place in (folder / "extract/DvsGesture", folder / "DvsGesture", folder):
            if (place / "trials_to_train.txt").is_file():
                return Layout(folder, "AEDAT 3.1 trials", place, _trials(place))
        caches = [("SpikingJelly's events_np", folder / "events_np", read_events_npz)]
        caches += [(f"SpikingJelly's {place.name}", place, read_frames_npz) for place in sorted(folder.glob(frames))]
        for name, place, reader in caches:
            sources = {split: _cached(place, split, reader) for split in PUBLISHED}
            if any(sources.values()):
                return Layout(folder, name, place, sources)
    return None


def read(source: Source) -> list[Events | np.ndarray]:
    """The events of each gesture in a file; its counts [T, 2, 128, 128], where only SpikingJelly's frames are there."""
    return list(source.read())


def survey(root: Path) -> Survey | None:
    """What of DVS128 Gesture lies in ``root``, the archive included; None where nothing does.

    Raises:
        InputError: as :func:`find`.
    """
    layout = find(root)
    if layout is None and not _archives(root):
        return None
    return Survey(
        "dvs128_gesture",
        layout.name if layout else "archive, still to be unpacked by `jellyplus data prepare`",
        survey_files(layout, [str(label) for label in range(CLASSES)]) if layout else (),
        PUBLISHED,
        per_class={},
        source=PUBLISHED_SOURCE,
        digests={},
    )


def unpack(root: Path) -> list[Path]:
    """Unpack the authors' ``DvsGesture.tar.gz``, in the data set's folder or in its ``download``, to ``extract``.

    Returns:
        the folder made; none where it is there already.

    Raises:
        InputError: the archive is damaged, would write elsewhere or too much; see :func:`archives.unpack`.
    """
    return [destination for archive, destination in _archives(root) if archives.unpack(archive, destination)]


def prepare_frames(root: Path, settings: EventSettings, time_steps: int, workers: int | None) -> tuple[Path, int]:
    """Write the frames of all gestures for these settings; see :func:`recordings.prepare`.

    Raises:
        InputError: there are no recordings, or one is damaged.
    """
    layout = _required(
        folders.existing("dvs128_gesture", str(root)), f"frames_number_{time_steps}_split_by_{settings.integration}"
    )
    return prepare(layout, settings, time_steps, workers, "dvs128_gesture")


def _cached(place: Path, split: str, reader: Callable[[Path], Events | np.ndarray]) -> tuple[Source, ...]:
    return tuple(
        Source(path, (Recording(f"{split}/{label}/{path.stem}", label),), partial(only, reader, path))
        for label in range(CLASSES)
        for path in sorted((place / split / str(label)).glob("[!.]*.npz"))
    )


def _trials(place: Path) -> dict[str, tuple[Source, ...]]:
    listed = {split: _lines(place / f"trials_to_{split}.txt") for split in PUBLISHED}
    if both := set(listed["train"]) & set(listed["test"]):
        raise InputError(f"{place}: {min(both)} is listed for training and for testing; take the authors' lists")
    return {split: tuple(_trial(place, split, name) for name in names) for split, names in listed.items()}


def _trial(place: Path, split: str, name: str) -> Source:
    path = place / name
    if path.name != name or path.suffix != ".aedat" or not path.is_file():
        raise InputError(f"{place}/trials_to_{split}.txt names {name!r}, which is no recording there; complete it")
    gestures = _gestures(place / f"{path.stem}_labels.csv")
    recordings, count = [], [0] * CLASSES
    for label, _, _ in gestures:
        recordings.append(Recording(f"{split}/{label}/{path.stem}_{count[label]}", label))
        count[label] += 1
    return Source(path, tuple(recordings), partial(_slices, path, gestures))


def _gestures(table: Path) -> list[tuple[int, int, int]]:
    """Label from 0, begin and end in microseconds, of each gesture of a trial."""
    head, *rows = _lines(table)
    try:
        gestures = [tuple(int(cell) for cell in row.split(",")) for row in rows]
        whole = all(1 <= label <= CLASSES and 0 <= begin < end for label, begin, end in gestures)
    except ValueError:  # not three integers
        whole = False
    if head != _TABLE_HEAD or not whole or not rows:
        raise InputError(f"{table} is no table of {_TABLE_HEAD} with classes 1 to {CLASSES}; take the authors' file")
    return [(label - 1, begin, end) for label, begin, end in gestures]


def _lines(path: Path) -> list[str]:
    """Of a text file, stripped, without the empty ones, at least one."""
    try:
        lines = [line.strip() for line in read_file(path).decode("ascii").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}; take the authors' file") from error
    if not any(lines):
        raise InputError(f"{path} is empty; take the authors' file")
    return [line for line in lines if line]


def _slices(path: Path, gestures: list[tuple[int, int, int]]) -> Iterator[Events]:
    events = read_aedat3(path)
    for label, begin, end in gestures:
        inside = (events.t >= begin) & (events.t < end)
        if not inside.any():
            raise InputError(
                f"{path} has no event of class {label + 1} from {begin} to {end} us, which its table names; "
                "put the original recording and table in their places"
            )
        yield Events(*(array[inside] for array in events))


def _required(folder: Path, frames: str) -> Layout:
    layout = find(folder, frames)
    if layout is None and _archives(folder):
        raise InputError(f"dvs128_gesture: {folder} holds the archive only; unpack it with `jellyplus data prepare`")
    if layout is None and (other := find(folder)):
        raise InputError(
            f"dvs128_gesture: {folder} holds {other.name} only and not {frames}; give recordings or events_np"
        )
    if layout is None:
        raise folders.absence("dvs128_gesture", _EXPECTED, folder)
    for split, sources in layout.sources.items():
        found = {recording.label for source in sources for recording in source.recordings}
        if missing := set(range(CLASSES)) - found:
            raise InputError(
                f"dvs128_gesture: {layout.place} has no {split} example of class {min(missing) + 1}; complete it"
            )
    return layout


def _names(layout: Layout, split: str) -> list[str]:
    """Of a split's examples, by class and then in file order, so that every layout gives the same order."""
    labels = {recording.name: recording.label for source in layout.sources[split] for recording in source.recordings}
    return sorted(in_file_order(labels), key=labels.get)


def _archives(root: Path) -> list[tuple[Path, Path]]:
    """The authors' archive, and where it is unpacked."""
    return [
        (archive, folder / "extract/DvsGesture")
        for folder in candidates(root, *_NAMES)
        for archive in (folder / "download" / _ARCHIVE, folder / _ARCHIVE)
        if archive.is_file()
    ]
