"""CIFAR10-DVS (Li et al., 2017): 10,000 recordings of CIFAR-10 images moved in front of a DVS128, 128x128 pixels.

Frontiers in Neuroscience 11:309, doi 10.3389/fnins.2017.00309; figshare holds a zip for each class.
"""

import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np

from jellyplus._errors import InputError
from jellyplus.datasets import archives, folders
from jellyplus.datasets.aedat import read_aedat2
from jellyplus.datasets.base import DataSet
from jellyplus.datasets.frames import Events
from jellyplus.datasets.npz import read_events_npz, read_frames_npz
from jellyplus.datasets.recordings import Layout, Recording, Source, candidates, load_split, only, prepare, survey_files
from jellyplus.datasets.settings import EventSettings
from jellyplus.datasets.splits import in_file_order, manifest, manifest_digest, split_class
from jellyplus.datasets.survey import Survey

__all__ = ["CLASSES", "PUBLISHED", "cifar10_dvs", "find", "prepare_frames", "read", "survey", "unpack"]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PUBLISHED = {"all": 10_000}  # recordings
PER_CLASS = {"all": 1_000}

_NAME = "cifar10dvs"  # of its folder, in small letters and without - and _
_ANY_FRAMES = "frames_number_*_split_by_*"
_EXPECTED = "the recordings <class>/*.aedat (or in extract/), or SpikingJelly's events_np/<class>/*.npz"


def cifar10_dvs(root: str | None, events: EventSettings, time_steps: int) -> DataSet:
    """CIFAR10-DVS, frames [T, 2, side, side], from ``root``, which holds a folder of that name or is it.

    Read, whichever is found first: the authors' recordings, ``extract/<class>/*.aedat`` or ``<class>/*.aedat``;
    SpikingJelly's ``events_np/<class>/*.npz``; its ``frames_number_<T>_split_by_<integration>``, where T and
    integration agree. Labels are CIFAR-10's, by the name of the class. Any number of recordings per class will do.

    Raises:
        InputError: there is no root, none of these in it, not ten classes, a damaged file, or a split with an empty
            side.
    """
    folder = folders.existing("cifar10_dvs", root)
    if events.split == "official":
        raise InputError("cifar10_dvs has no official split; choose sj90, first900 or random for data.events.split")
    layout = _required(folder, f"frames_number_{time_steps}_split_by_{events.integration}")
    train, test = _split(layout, events)
    return DataSet(
        "cifar10_dvs",
        len(CLASSES),
        train=load_split(layout, train, events, time_steps, "cifar10_dvs, training"),
        test=load_split(layout, test, events, time_steps, "cifar10_dvs, test"),
        kind="events",
        stand_in=False,
        mean=(0.0, 0.0),
        std=(1.0, 1.0),
        source=layout.name,
        manifest=manifest(train, test, events),
    )


def find(root: Path, frames: str = _ANY_FRAMES) -> Layout | None:
    """How the data set lies in ``root``, all of its recordings under ``"all"``; None where none does.

    Args:
        root: a folder that holds the data set's or is it.
        frames: which of SpikingJelly's folders of frames will do, a glob pattern.
    """
    for folder in candidates(root, _NAME):
        places = [
            ("AEDAT 2 recordings in extract/<class>", folder / "extract", ".aedat", read_aedat2),
            ("AEDAT 2 recordings in <class>", folder, ".aedat", read_aedat2),
            ("SpikingJelly's events_np", folder / "events_np", ".npz", read_events_npz),
            *(
                (f"SpikingJelly's {place.name}", place, ".npz", read_frames_npz)
                for place in sorted(folder.glob(frames))
            ),
        ]
        for name, place, suffix, reader in places:
            if sources := _sources(place, suffix, reader):
                return Layout(folder, name, place, {"all": sources})
    return None


def read(source: Source) -> Events | np.ndarray:
    """The events of one recording; its counts [T, 2, 128, 128], where SpikingJelly's frames are all there is."""
    (found,) = source.read()
    return found


def survey(root: Path) -> Survey | None:
    """What of CIFAR10-DVS lies in ``root``, archives included; None where nothing does."""
    layout = find(root)
    if layout is None and not _archives(root):
        return None
    return Survey(
        "cifar10_dvs",
        layout.name if layout else "archives, still to be unpacked by `jellyplus data prepare`",
        survey_files(layout, CLASSES) if layout else (),
        PUBLISHED,
        PER_CLASS,
        source="Li et al. 2017",
        digests=_digests(layout) if layout else {},
    )


def unpack(root: Path) -> list[Path]:
    """Unpack the authors' ``<class>.zip``, in the data set's folder or in its ``download``, to ``extract/<class>``.

    Returns:
        the folders made; a class that is there stays as it is.

    Raises:
        InputError: an archive is damaged, would write elsewhere or too much; see :func:`archives.unpack`.
    """
    return [destination for archive, destination in _archives(root) if archives.unpack(archive, destination)]


def prepare_frames(root: Path, settings: EventSettings, time_steps: int, workers: int | None) -> tuple[Path, int]:
    """Write the frames of all recordings for these settings; see :func:`recordings.prepare`.

    Raises:
        InputError: there are no recordings, or one is damaged.
    """
    layout = _required(
        folders.existing("cifar10_dvs", str(root)), f"frames_number_{time_steps}_split_by_{settings.integration}"
    )
    return prepare(layout, settings, time_steps, workers, "cifar10_dvs")


def _sources(place: Path, suffix: str, reader: Callable[[Path], Events | np.ndarray]) -> tuple[Source, ...]:
    return tuple(
        Source(path, (Recording(f"{name}/{stem}", label),), partial(only, reader, path))
        for label, name in enumerate(CLASSES)
        for stem in in_file_order(path.stem for path in _files(place / name, suffix))
        for path in [place / name / f"{stem}{suffix}"]
    )


def _files(folder: Path, suffix: str) -> Iterable[Path]:
    return (path for path in folder.glob(f"*{suffix}") if not path.name.startswith("."))  # macOS leaves ._ files


def _required(folder: Path, frames: str) -> Layout:
    layout, packed = find(folder, frames), _archives(folder)
    if layout is None and packed:
        raise InputError(f"cifar10_dvs: {folder} holds the archives only; unpack them with `jellyplus data prepare`")
    if layout is None and (other := find(folder)):
        raise InputError(
            f"cifar10_dvs: {folder} holds {other.name} only and not {frames}; give recordings or events_np"
        )
    if layout is None:
        raise folders.absence("cifar10_dvs", _EXPECTED, folder)
    suffix = layout.sources["all"][0].path.suffix
    found = {path.name for path in layout.place.iterdir() if path.is_dir() and any(_files(path, suffix))}
    if found != set(CLASSES):
        missing, unknown = (
            ", ".join(sorted(names)) or "none" for names in (set(CLASSES) - found, found - set(CLASSES))
        )
        raise InputError(
            f"cifar10_dvs has ten classes, but in {layout.place} are missing: {missing}, unknown: {unknown}; "
            + ("unpack all archives with `jellyplus data prepare`" if packed else "complete it")
        )
    return layout


def _split(layout: Layout, settings: EventSettings) -> tuple[list[str], list[str]]:
    names = [[] for _ in CLASSES]
    for source in layout.sources["all"]:
        (recording,) = source.recordings
        names[recording.label].append(recording.name)
    sides = [split_class(of_class, label, settings) for label, of_class in enumerate(names)]
    train, test = ([name for side in part for name in side] for part in zip(*sides, strict=True))
    return train, test


def _digests(layout: Layout) -> dict[str, str]:
    """Of the splits that can be made and need no seed."""
    digests = {}
    for name in ("sj90", "first900"):
        settings = EventSettings(name, None, "number", None, None, 128, "events", "counts")
        with contextlib.suppress(InputError):
            digests[name] = manifest_digest(manifest(*_split(layout, settings), settings))
    return digests


def _archives(root: Path) -> list[tuple[Path, Path]]:
    """The authors' archives, and where each is unpacked."""
    return [
        (archive, folder / "extract" / name)
        for folder in candidates(root, _NAME)
        for name in CLASSES
        for archive in (folder / "download" / f"{name}.zip", folder / f"{name}.zip")
        if archive.is_file()
    ]
