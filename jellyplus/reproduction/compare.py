"""Runs beside each other: settings that differ, what was measured, and courses; one's own runs as well as others'."""

import argparse
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jellyplus._errors import InputError
from jellyplus._files import write_atomically
from jellyplus._text import csv_cell, one_line
from jellyplus.reproduction import checks
from jellyplus.reproduction.evidence import Evidence
from jellyplus.reproduction.figure_view import COLORS, LINES, STYLE
from jellyplus.reproduction.picture import mark_stand_in, wrapped
from jellyplus.reproduction.runs import find, one_a_seed, recipe_of
from jellyplus.reproduction.scale import STAND_IN, is_stand_in

__all__ = ["Compared", "compared", "courses", "main", "table"]

_COURSES = {  # columns of a history
    "accuracy": "accuracy on test data (%)",
    "train_loss": "training loss",
    "learning_rate": "learning rate",
    "temperature": "temperature b",
    "k": "K",
    "shortcut_weight": "shortcut weight",
}
_LETTERS = 40  # of a panel's title
_ABSENT = "-"


@dataclass(frozen=True)
class Compared:
    """The runs of one recipe.

    Args:
        label: what they are called.
        evidence: one piece for each seed.
    """

    label: str
    evidence: tuple[Evidence, ...]

    @property
    def data(self) -> str:
        """The data set, after :data:`~jellyplus.reproduction.scale.STAND_IN` where it is one."""
        name = self.evidence[0].dataset["name"]
        return f"{STAND_IN}: {name}" if self.stand_in else name

    @property
    def stand_in(self) -> bool:
        """Whether the data take the place of real ones."""
        return is_stand_in(self.evidence[0])


def compared(runs: Sequence[str], root: Path, profile: str | None = None) -> list[Compared]:
    """Return what runs mean, in their order; a name of a recipe means its runs under every profile, or the one.

    Raises:
        InputError: there is no such run, or its evidence contradicts itself.
    """
    by_key: dict[str, list] = {}
    for run in runs:
        for kept in find(run, root, profile):
            held = by_key.setdefault(kept.evidence.key, [])
            if kept.path not in [other.path for other in held]:
                held.append(kept)
    chosen = [[kept.evidence for kept in one_a_seed(held)] for held in by_key.values()]
    for evidence in chosen:
        if contradictions := checks.among(evidence):
            raise InputError(f"the runs of {evidence[0].recipe_name} contradict each other: {contradictions[0]}")
    labels = [f"{evidence[0].recipe_name}, {evidence[0].profile}" for evidence in chosen]
    named = zip(labels, chosen, strict=True)
    return [Compared(_unique(label, labels, evidence[0].key), tuple(evidence)) for label, evidence in named]


def _unique(label: str, labels: Sequence[str], key: str) -> str:
    return f"{label}, {key[:8]}" if labels.count(label) > 1 else label


def table(runs: Sequence[Compared]) -> pd.DataFrame:
    """A column for each of the runs; rows of what was measured, then of the settings that differ.

    Accuracies are in percent, mean and standard deviation over seeds; the energy is that of one inference by the
    default convention, in uJ; the time is that of a training, in seconds.
    """
    columns = {run.label: _measured(run) for run in runs}
    settings = {run.label: _settings(run.evidence[0]) for run in runs}
    names = dict.fromkeys(name for held in settings.values() for name in held)
    for name in names:
        values = [held.get(name, _ABSENT) for held in settings.values()]
        if any(value != values[0] for value in values):
            for label, value in zip(columns, values, strict=True):
                columns[label][name] = value
    return pd.DataFrame(columns).rename_axis(index="quantity")


def _measured(run: Compared) -> dict[str, str]:
    first = run.evidence[0]
    return {
        "data": run.data,
        "seeds": " ".join(str(e.seed) for e in run.evidence),
        "accuracy, last epoch (%)": _over_seeds([e.accuracy_last for e in run.evidence], ".2f"),
        "accuracy, best on test (%)": _over_seeds([e.accuracy_best for e in run.evidence], ".2f"),
        "energy (uJ)": _over_seeds([e.operations["energy_uj"] for e in run.evidence], ".4g"),
        "training time (s)": _over_seeds([e.wall_time_s for e in run.evidence], ".0f"),
        "trained on": "; ".join(dict.fromkeys(e.device for e in run.evidence)),
        "parameters": f"{first.parameters}",
    }


def _over_seeds(values: Sequence[float], form: str) -> str:
    numbers = pd.Series(values)
    deviation = f" ± {numbers.std():{form}}" if len(numbers) > 1 else ""
    return f"{numbers.mean():{form}}{deviation}"


def _settings(evidence: Evidence) -> dict[str, str]:
    """By dotted name, as text, with the defaults that a key leaves out."""
    parent = evidence.parent[:16] if evidence.parent else _ABSENT
    return dict(_flat(asdict(recipe_of(evidence)), "")) | {
        "starts from": parent,
        "energy counted as": evidence.operations["convention"],
    }


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, held in value.items():
            yield from _flat(held, f"{name}.{key}" if name else key)
    else:
        yield name, _ABSENT if value is None else str(value)


def courses(runs: Sequence[Compared]) -> bytes:
    """Return a PNG: a panel for each quantity that any history has, a line for each of the runs.

    A line is the mean over seeds, and the band about it reaches from the lowest to the highest seed.
    """
    frames = {run.label: pd.concat(pd.DataFrame(e.history) for e in run.evidence) for run in runs}
    shown = {name: label for name, label in _COURSES.items() if any(name in frame for frame in frames.values())}
    with matplotlib.style.context("default", after_reset=True), matplotlib.rc_context(STYLE):
        rows = -(-len(shown) // 3)
        figure = Figure(figsize=(3.4 * min(len(shown), 3), 2.7 * rows + 0.3 * len(runs)), layout="constrained")
        panels = figure.subplots(rows, min(len(shown), 3), squeeze=False).flatten()
        for panel, (name, label) in zip(panels, shown.items(), strict=False):
            _draw(panel, name, label, runs, frames)
        for panel in panels[len(shown) :]:
            panel.remove()
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=1)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw(panel: Axes, name: str, label: str, runs: Sequence[Compared], frames: dict[str, pd.DataFrame]) -> None:
    for number, run in enumerate(runs):
        turn = number + number // len(COLORS)  # colours and lines are as many: another line in the next round
        style = {"color": COLORS[number % len(COLORS)], "linestyle": LINES[turn % len(LINES)]}
        frame = frames[run.label]
        if name not in frame:
            continue
        by_epoch = frame.groupby("epoch")[name]
        mean, low, high = by_epoch.mean(), by_epoch.min(), by_epoch.max()
        panel.plot(mean.index + 1, mean, label=f"{run.label} ({run.data})", **style)
        panel.fill_between(mean.index + 1, low, high, color=style["color"], alpha=0.15, linewidth=0)
    panel.set_xlabel("epoch")
    panel.set_ylabel(label)
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.grid(color="0.92")
    panel.set_title(wrapped("", dict.fromkeys(run.data for run in runs), _LETTERS))
    if any(run.stand_in for run in runs):
        mark_stand_in(panel, panel.title)


def main(options: argparse.Namespace) -> int:
    """Print the table of ``options.runs``, and write it with the courses to ``options.out``."""
    runs = compared(options.runs, options.root, options.profile)
    frame, picture = table(runs), courses(runs)
    print(frame.map(one_line).rename(columns=one_line).to_markdown())
    cells = frame.rename(columns=csv_cell, index=csv_cell).map(csv_cell)
    write_atomically(options.out / "compare.csv", cells.to_csv().encode())
    write_atomically(options.out / "compare.png", picture)
    print(one_line(f"Written: {options.out}/compare.csv, compare.png"))
    return 0
