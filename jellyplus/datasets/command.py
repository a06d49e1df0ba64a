"""``jellyplus data check`` and ``jellyplus data prepare``: what lies in a folder, and making it ready for training."""

from pathlib import Path

import pandas as pd

from jellyplus._errors import InputError
from jellyplus._text import one_line
from jellyplus.datasets import cifar, cifar10_dvs, dvs128_gesture, event_camera, folders, imagenet, mnist
from jellyplus.datasets.settings import EventSettings
from jellyplus.datasets.survey import Finding, inspect

__all__ = ["check", "prepare_frames", "unpack"]

_SURVEYS = (
    cifar.survey_cifar10,
    cifar.survey_cifar100,
    mnist.survey,
    imagenet.survey,
    cifar10_dvs.survey,
    dvs128_gesture.survey,
)
_IN_ARCHIVES = (cifar10_dvs, dvs128_gesture)
_OF_FRAMES = {"cifar10_dvs": cifar10_dvs, "dvs128_gesture": dvs128_gesture, "event_camera": event_camera}
_LISTED = 20  # classes, and files; of more, only the smallest and the largest, and the first ones


def check(root: Path) -> int:
    """Read every data set in ``root`` and print what is there beside what was published.

    Returns:
        0 if all is there and can be read, 1 if something is missing or damaged.

    Raises:
        InputError: there is no such folder, or no data set in it.
    """
    folder = folders.existing("data check", str(root))
    surveys = [survey for find in _SURVEYS if (survey := find(folder))]
    if not surveys:
        raise InputError(f"{folder} holds no data set that jellyplus reads; the README lists them and their layouts")
    findings = [inspect(survey) for survey in surveys]
    print("\n\n".join(map(_report, findings)))
    return 0 if all(finding.complete for finding in findings) else 1


def unpack(root: Path) -> None:
    """Unpack the archives of every data set in ``root`` that comes in some, each whole or not at all.

    Raises:
        InputError: there is no such folder, or an archive is damaged or reaches outside.
    """
    folder = folders.existing("data prepare", str(root))
    unpacked = [path for data_set in _IN_ARCHIVES for path in data_set.unpack(folder)]
    print("\n".join(one_line(f"unpacked: {path}") for path in unpacked) or "no archive to unpack")


def prepare_frames(root: Path, dataset: str, events: EventSettings | None, time_steps: int, workers: int) -> None:
    """Write the frames that a recipe needs beside the recordings, so that training finds them made.

    Args:
        root: what ``--data-root`` would be.
        dataset, events, time_steps: as in the recipe.
        workers: threads.

    Raises:
        InputError: the data set has no recordings, they are not in ``root``, or one is damaged.
    """
    if dataset not in _OF_FRAMES:
        raise InputError(f"{dataset} has no recordings to prepare: give a recipe on {', '.join(_OF_FRAMES)}")
    cache, written = _OF_FRAMES[dataset].prepare_frames(root, events, time_steps, workers)
    print(f"{written} recordings became frames, the others had been: {cache}")


def _report(finding: Finding) -> str:
    survey = finding.survey
    totals = [
        f"{counter.total():,} {split} (published: {survey.published[split]:,})"
        for split, counter in finding.counts.items()
    ]
    lines = [
        f"{survey.dataset}, {survey.layout}: {'complete' if finding.complete else 'not as published'}",
        f"examples: {', '.join(totals)}; {survey.source}",
        classes := _by_class(finding),
        *(f"{name}: sha256 {digest}" for name, digest in survey.digests.items()),
        f"unreadable: {len(finding.unreadable) or 'none'}",
        *finding.unreadable[:_LISTED],
    ]
    if (more := len(finding.unreadable) - _LISTED) > 0:
        lines.append(f"and {more:,} more")
    return "\n".join(line if line == classes else one_line(line) for line in lines)


def _by_class(finding: Finding) -> str:
    frame = pd.DataFrame(finding.counts).fillna(0).astype(int)
    frame = frame.loc[sorted(frame.index, key=lambda name: (name.isdecimal() and int(name), name))].rename(one_line)
    if len(frame) > _LISTED:
        frame = frame.agg(["min", "max"]).rename({"min": "smallest class", "max": "largest class"})
    if per_class := finding.survey.per_class:
        frame = frame.astype(object)
        frame.loc["published"] = [per_class.get(split, "") for split in frame]
    return frame.to_markdown()
