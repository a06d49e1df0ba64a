"""Recordings in files become splits of frames: in parallel, with progress, from a prepared cache where there is one.

The cache holds one file per recording, ``jellyplus_frames/<digest of the settings and T>/<recording>.npy``, float32
[T, 2, side, side], in the data set's own folder. It goes by the names of recordings: remove it when their files change.
"""

import contextlib
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from jellyplus._bars import bar
from jellyplus._errors import InputError
from jellyplus._files import below, read_file, write_atomically
from jellyplus.datasets.base import Split
from jellyplus.datasets.budget import UNPACKED
from jellyplus.datasets.frames import Events, frames, frames_of_counts
from jellyplus.datasets.npy import from_npy
from jellyplus.datasets.npz import memory_of
from jellyplus.datasets.settings import EventSettings
from jellyplus.datasets.survey import File

__all__ = ["Layout", "Recording", "Source", "candidates", "load_split", "only", "prepare", "survey_files"]

_VERSIONS = {"counts": 1, "binary": 2}  # of what a digest stands for: raise one when its frames are made differently


class Recording(NamedTuple):
    """One example.

    Args:
        name: ``<class>/<file without suffix>``, with the split before it where the publisher has one.
        label: its class, from 0.
    """

    name: str
    label: int


class Source(NamedTuple):
    """A file and the recordings in it.

    Args:
        path: the file.
        recordings: in the order of ``read``.
        read: returns the events of each; or, where frames are all there is, its counts [T, 2, 128, 128].

    Raises:
        InputError: by ``read``, where the file is damaged.
    """

    path: Path
    recordings: tuple[Recording, ...]
    read: Callable[[], Iterable[Events | np.ndarray]]


@dataclass(frozen=True)
class Layout:
    """A data set as it lies in a folder, nothing read yet.

    Args:
        folder: of the data set; its cache is in it.
        name: how it lies there, for people.
        place: the folder of the class folders, or of the trials.
        sources: by the publisher's split; under ``"all"`` where there is none.
    """

    folder: Path
    name: str
    place: Path
    sources: dict[str, tuple[Source, ...]]


def candidates(root: Path, *names: str) -> list[Path]:
    """Folders of ``root`` with one of ``names``, but for case, ``-`` and ``_``; after them ``root`` itself."""
    inside = [path for path in sorted(root.iterdir()) if re.sub("[-_]", "", path.name.lower()) in names]
    return [*filter(Path.is_dir, inside), root]


def only(reader: Callable[[Path], Events | np.ndarray], path: Path) -> list[Events | np.ndarray]:
    """What ``reader`` gives, where a file has one recording: a :class:`Source`'s ``read``."""
    return [reader(path)]


def survey_files(layout: Layout, classes: Sequence[str]) -> tuple[File, ...]:
    """The files of a layout, for ``jellyplus data check``."""
    return tuple(
        File(str(source.path.relative_to(layout.folder)), split, partial(_classes_in, source, classes))
        for split, sources in layout.sources.items()
        for source in sources
    )


def load_split(
    layout: Layout, names: Sequence[str], settings: EventSettings, time_steps: int, description: str
) -> Split:
    """Load the recordings of these names, in their order.

    Threads share the work. They gain less than processes would, since some of the counting holds Python's lock, but
    need no second interpreter and no copies; the cache spares the counting.

    Returns:
        float32 frames [n, T, 2, side, side] and labels.

    Raises:
        InputError: a file of a recording, or of the cache, is damaged; it names the first one met.
    """
    position = {name: index for index, name in enumerate(names)}
    sources = [
        source
        for split in layout.sources.values()
        for source in split
        if any(recording.name in position for recording in source.recordings)
    ]
    inputs = torch.empty(len(names), time_steps, 2, settings.side, settings.side)
    labels = torch.empty(len(names), dtype=torch.int64)
    read = partial(_frames_of, settings=settings, time_steps=time_steps, cache=_cache(layout, settings, time_steps))
    for source, found in _in_parallel(read, sources, None, description):
        for recording, example in zip(source.recordings, found, strict=True):
            if recording.name in position:
                inputs.numpy()[position[recording.name]] = example
                labels[position[recording.name]] = recording.label
    return Split(inputs, labels)


def prepare(
    layout: Layout, settings: EventSettings, time_steps: int, workers: int | None, description: str
) -> tuple[Path, int]:
    """Write the cache of all recordings, skipping what is there; an interrupted call can be repeated.

    Args:
        layout: whose recordings.
        settings, time_steps: of the frames; the split does not matter.
        workers: threads; None leaves their number to Python.
        description: of the progress bar.

    Returns:
        the folder of the cache, and how many files were written.

    Raises:
        InputError: a file is damaged, or the folder cannot be written.
    """
    cache = _cache(layout, settings, time_steps)
    sources = [source for split in layout.sources.values() for source in split]
    missing = [source for source in sources if not all(path.is_file() for path in _cached(cache, source))]
    write = partial(_write_frames, settings=settings, time_steps=time_steps, cache=cache)
    return cache, sum(written for _, written in _in_parallel(write, missing, workers, description))


def _in_parallel(
    work: Callable[[Source], object], sources: Sequence[Source], workers: int | None, description: str
) -> Iterator[tuple[Source, object]]:
    with ThreadPoolExecutor(workers) as pool:
        done = bar(pool.map(work, sources), description, len(sources), unit="file", leave=False, mininterval=1)
        yield from zip(sources, done, strict=True)


def _frames_of(source: Source, settings: EventSettings, time_steps: int, cache: Path) -> list[np.ndarray]:
    paths = _cached(cache, source)
    if all(path.is_file() for path in paths):
        return [_read_cached(path, (time_steps, 2, settings.side, settings.side)) for path in paths]
    with _room(source):
        return [_frames(read, settings, time_steps, source.path) for read in source.read()]


def _frames(read: Events | np.ndarray, settings: EventSettings, time_steps: int, path: Path) -> np.ndarray:
    if isinstance(read, Events):
        return frames(read, settings, time_steps)
    if len(read) != time_steps:
        raise InputError(f"{path} holds {len(read)} frames where {time_steps} are asked for; remove it")
    return frames_of_counts(read, settings)


def _write_frames(source: Source, settings: EventSettings, time_steps: int, cache: Path) -> int:
    with _room(source):
        for path, read in zip(_cached(cache, source), source.read(), strict=True):
            content = io.BytesIO()
            np.save(content, _frames(read, settings, time_steps, source.path))
            write_atomically(path, content.getvalue())
    return len(source.recordings)


def _room(source: Source) -> contextlib.AbstractContextManager[None]:
    """Holds the memory for what a packed file becomes; others become ten times as large, and images ask themselves."""
    packed = source.path.suffix == ".npz"
    return UNPACKED.held(memory_of(source.path), source.path) if packed else contextlib.nullcontext()


def _cache(layout: Layout, settings: EventSettings, time_steps: int) -> Path:
    names = ("integration", "frame_us", "start_us", "side", "resize", "values")
    decisive = (_VERSIONS[settings.values], time_steps, *(getattr(settings, name) for name in names))
    name = hashlib.sha256(repr(decisive).encode()).hexdigest()[:16]
    return below(layout.folder / "jellyplus_frames" / name, layout.folder)


def _cached(cache: Path, source: Source) -> list[Path]:
    return [cache / f"{recording.name}.npy" for recording in source.recordings]


def _read_cached(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    try:
        found = from_npy(read_file(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged; remove it and run `jellyplus data prepare` again") from error
    if (found.dtype, found.shape) != (np.float32, shape):
        raise InputError(
            f"{path} holds {found.dtype} {found.shape}, not float32 {shape}; remove it and run `jellyplus data prepare`"
        )
    return found


def _classes_in(source: Source, classes: Sequence[str]) -> list[str]:
    with _room(source):
        for _ in source.read():  # all of it, to see that it can be read
            pass
    return [classes[recording.label] for recording in source.recordings]
