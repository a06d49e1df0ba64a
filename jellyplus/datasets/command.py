"""``jellyplus data check`` and ``jellyplus data prepare``: what lies in a folder, and making it ready for training."""

from pathlib import Path

import pandas as pd

from jellyplus._errors import InputError
from jellyplus.datasets import cifar, folders, mnist
from jellyplus.datasets.survey import Finding, inspect

__all__ = ["check"]

_SURVEYS = (
    cifar.survey_cifar10,
    cifar.survey_cifar100,
    mnist.survey,
)
_LISTED = 20  # classes; of more, only the smallest and the largest


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


def _report(finding: Finding) -> str:
    survey = finding.survey
    totals = [
        f"{counter.total():,} {split} (published: {survey.published[split]:,})"
        for split, counter in finding.counts.items()
    ]
    lines = [
        f"{survey.dataset}, {survey.layout}: {'complete' if finding.complete else 'not as published'}",
        f"examples: {', '.join(totals)}; {survey.source}",
        _by_class(finding),
        *(f"{name}: sha256 {digest}" for name, digest in survey.digests.items()),
        f"unreadable: {len(finding.unreadable) or 'none'}",
        *finding.unreadable,
    ]
    return "\n".join(lines)


def _by_class(finding: Finding) -> str:
    frame = pd.DataFrame(finding.counts).fillna(0).astype(int)
    frame = frame.loc[sorted(frame.index, key=lambda name: (name.isdecimal() and int(name), name))]
    if len(frame) > _LISTED:
        frame = frame.agg(["min", "max"]).rename({"min": "smallest class", "max": "largest class"})
    if finding.survey.per_class:
        frame.loc["published"] = finding.survey.per_class
    return frame.to_markdown()
