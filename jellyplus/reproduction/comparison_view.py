"""Comparison: rows of one table held against its baseline, seed by seed, where no paper prints what they should be."""

import contextlib
import io
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jellyplus._errors import InputError
from jellyplus._files import write_atomically
from jellyplus._text import csv_cell, markdown_cell, one_line
from jellyplus.reproduction import paired, picture, runs, scale, view
from jellyplus.reproduction.claims import ClaimTable
from jellyplus.reproduction.evidence import Evidence
from jellyplus.reproduction.paired import CONFIDENCE, LEAST_PAIRS
from jellyplus.reproduction.view import Result
from jellyplus.training import memory

__all__ = ["COLUMNS", "build", "summary", "write"]

_NUMBERS = {
    "accuracy": ".2f",
    "accuracy_std": ".2f",
    "difference": "+.2f",
    "difference_low": "+.2f",
    "difference_high": "+.2f",
    "p": ".3f",
    "p_holm": ".3f",
    "time_ratio": ".2f",
    "memory_ratio": ".2f",
    "firing_rate": ".3f",
    "energy_uj": ".4g",
}
COLUMNS = (
    "row", "method", "timesteps", "accuracy", "accuracy_std", "n_seeds", "difference", "difference_low",
    "difference_high", "pairs", "p", "p_holm", "verdict", "time_ratio", "memory_ratio", "firing_rate", "energy_uj",
    "status", "data", "recipe", "device", "commit", "versions", "note",
)  # fmt: skip
_LEGEND = f"""\
`accuracy` is the mean over seeds of the last epoch's top-1 accuracy in percent, `accuracy_std` its sample standard
deviation. `difference` is the mean over `pairs` of seeds of the difference to the baseline with the same seed on the
same kind of `device`, since a GPU computes in half precision; `difference_low` and `difference_high` are its
{100 * CONFIDENCE:.0f} % confidence interval (Student's t), for each row by itself. `p` is that of the paired two-sided
t-test that the difference is 0, from {LEAST_PAIRS} pairs on, and `p_holm` the same after Holm's correction for all
rows tested. `verdict` is `better` or `worse` where `p_holm` is below {1 - CONFIDENCE:.2f}, and `undecided` otherwise;
with fewer than {LEAST_PAIRS} pairs it is `too few seeds`, whatever the difference.

`time_ratio` is the training time of an epoch against the baseline's, of seeds that the same code made, for later code
may train faster; others may have used the machine meanwhile. `memory_ratio` is the same of what a training step keeps
for its backward pass, counted from the network's shapes in float32, layer by layer, and not measured:
`jellyplus.training.memory`; norms that run in one pass with their neurons keep less. `firing_rate` is the mean over
neurons and time-steps; `energy_uj` is of one inference over all time-steps, by the default convention of
`jellyplus.op_counter`.
`status` is as in the papers' tables: no row here is a statement about a paper.
"""


def build(table: ClaimTable, results: Mapping[str, Sequence[Result]], profile: str) -> pd.DataFrame:
    """One row for each of ``table``, the columns of ``COLUMNS``, values not rounded.

    Args:
        table: rows for which nothing is printed; see :attr:`ClaimTable.is_comparison`.
        results: by the id of the row, as far as there are any.
        profile: the profile asked for.
    """
    frame = view.build(table, results, profile)
    seen = {row.id: view.by_pair(view.displayed(results.get(row.id, ()))) for row in table.rows}
    rows = [
        {column: values.get(_SAME.get(column, column)) for column in COLUMNS}
        | {"row": number}
        | _costs(seen[claim.id])
        | (_against(seen[claim.id], seen[claim.baseline]) if claim.baseline else {})
        for number, (claim, values) in enumerate(zip(table.rows, frame.to_dict("records"), strict=True), 1)
    ]
    built = pd.DataFrame(rows, columns=list(COLUMNS))
    built["p_holm"] = paired.holm(built["p"].astype("float64"))
    better = built["difference"].astype("float64") > 0
    said = paired.verdicts(built["pairs"].astype("float64"), built["p_holm"], better, "better", "worse")
    built["verdict"] = said.where(frame["baseline"].notna(), "baseline")
    whole = dict.fromkeys(("timesteps", "n_seeds", "pairs"), "Int64")
    return built.astype({**dict.fromkeys(_NUMBERS, "float64"), **whole})


#: Columns of the papers' tables under the names they have here.
_SAME = {
    "accuracy": "ours_mean",
    "accuracy_std": "ours_std",
    "difference": "gain",
    "difference_low": "gain_low",
    "difference_high": "gain_high",
    "pairs": "gain_n",
    "p": "gain_p",
}


def write(frame: pd.DataFrame, table: ClaimTable, folder: str | Path, profile: str, draw: bool = True) -> None:
    """Write ``table.csv``, ``table.md`` and, to ``draw``, ``table.png`` to ``folder``; equal frames give equal bytes.

    Raises:
        InputError: the folder cannot be written.
    """
    folder, cells = Path(folder), _cells(frame)
    csv = cells.map(csv_cell).to_csv(index=False, lineterminator="\n")
    filled = cells[[name for name in cells if cells[name].any()]].map(markdown_cell)
    about = f"{markdown_cell(table.printed_in)}. Profile: `{profile}`. {view.PROFILES[profile]}"
    shown = filled.to_markdown(index=False, disable_numparse=True)
    text = f"# {markdown_cell(table.title)}\n\n{about}\n\n{shown}\n\n{_LEGEND}"
    write_atomically(folder / "table.csv", csv.encode())
    write_atomically(folder / "table.md", text.encode())
    if draw:
        write_atomically(folder / "table.png", _draw(frame, table.title, view.caption(profile)))


def summary(frame: pd.DataFrame) -> str:
    """What a terminal shows of it."""
    costs = ["difference", "verdict", "time_ratio", "memory_ratio", "energy_uj"]
    columns = ["row", "method", "accuracy", "accuracy_std", "n_seeds", *costs, "status"]
    return _cells(frame)[columns].to_markdown(index=False, disable_numparse=True)


def _costs(found: Mapping[tuple, Result]) -> dict:
    operations = [result.evidence.operations for result in found.values()]
    rates = [counted["firing_rate"] for counted in operations if counted.get("firing_rate") is not None]
    return {
        "energy_uj": statistics.fmean(counted["energy_uj"] for counted in operations) if operations else None,
        "firing_rate": statistics.fmean(rates) if rates else None,
        "device": "; ".join(sorted({result.evidence.device for result in found.values()})),
    }


def _against(ours: Mapping[tuple, Result], theirs: Mapping[tuple, Result]) -> dict:
    return {"time_ratio": _time_ratio(ours, theirs), "memory_ratio": _memory_ratio(ours, theirs)}


def _memory_ratio(ours: Mapping[tuple, Result], theirs: Mapping[tuple, Result]) -> float | None:
    kept = [_kept(next(iter(found.values())).evidence) for found in (ours, theirs) if found]
    return kept[0] / kept[1] if len(kept) == 2 and None not in kept else None


def _kept(evidence: Evidence) -> float | None:
    """Bytes for each example; None where its size is not known, or today's code cannot read the recipe."""
    with contextlib.suppress(InputError):
        recipe = runs.recipe_of(evidence)
        if side := scale.side(recipe):
            frames = (recipe.model.time_steps,) if recipe.data.events else ()
            return memory.estimate(recipe, (*frames, recipe.model.in_channels, side, side), "cpu").saved
    return None


def _time_ratio(ours: Mapping[tuple, Result], theirs: Mapping[tuple, Result]) -> float | None:
    pairs = [(ours[run], theirs[run]) for run in sorted(ours.keys() & theirs.keys())]
    alike = [pair for pair in pairs if len({(result.evidence.device, result.evidence.code) for result in pair}) == 1]
    ratios = [_epoch_s(one) / _epoch_s(other) for one, other in alike]
    return statistics.fmean(ratios) if ratios else None


def _epoch_s(result: Result) -> float:
    """Seconds of an epoch: the median, since the first one compiles."""
    return statistics.median(entry["time_s"] for entry in result.evidence.history)


def _cells(frame: pd.DataFrame) -> pd.DataFrame:
    """As text, so that every writer rounds alike."""
    texts = frame.astype(object).where(frame.notna(), "").map(lambda value: one_line(str(value)))
    for name, form in _NUMBERS.items():
        texts[name] = ["" if pd.isna(value) else format(value, form) for value in frame[name]]
    return texts


_COLOURS = {"better": "#009e73", "worse": "#d55e00", "baseline": "black"}


def _draw(frame: pd.DataFrame, title: str, caption: str) -> bytes:
    """Differences with their intervals, and accuracy against energy and against the cost of training."""
    with matplotlib.style.context("default", after_reset=True):
        figure = Figure(figsize=(13.5, 1.8 + 0.4 * len(frame)), dpi=130, layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(1.5, 1))
        differences, (energy, time) = left.subplots(), right.subplots(2)
        _draw_differences(differences, frame)
        _draw_costs(energy, frame, "energy_uj", "energy of an inference (uJ)")
        _draw_costs(time, frame, "time_ratio", "training time of an epoch / the baseline's")
        if picture.on_stand_ins(frame).any():
            for panel in (differences, energy, time):
                picture.mark_stand_in(panel, panel.title)
        figure.suptitle("\n".join((title, *frame["data"].replace("", None).dropna().unique())), fontsize=11)
        figure.supxlabel(caption, fontsize=8, color=picture.CAPTION)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_differences(panel: Axes, frame: pd.DataFrame) -> None:
    seeds = f"seeds: {', '.join(map(str, sorted(set(frame['n_seeds'].dropna()) - {0}))) or 'none'}"
    panel.set_xlabel(f"accuracy minus the baseline's (points), {100 * CONFIDENCE:.0f} % interval\n{seeds}")
    panel.set_yticks(range(len(frame)), [f"{textwrap.fill(row.method, 36)}  {row.row}" for row in frame.itertuples()])
    panel.tick_params(axis="y", length=0, labelsize=9)
    panel.set_ylim(len(frame) - 0.5, -0.5)
    panel.axvline(0, color="0.6", linewidth=1)
    panel.grid(axis="x", color="0.9")
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    for y, row in enumerate(frame.itertuples()):
        colour = _COLOURS.get(row.verdict, "0.4")
        shown = 0.0 if row.verdict == "baseline" else row.difference
        if pd.isna(shown) or pd.isna(row.accuracy):
            panel.annotate("not run", (0, y), (4, 0), textcoords="offset points", va="center", color="0.6", fontsize=8)
            continue
        panel.plot([row.difference_low, row.difference_high], [y, y], color=colour, linewidth=2)
        panel.plot(shown, y, "o", color=colour, markersize=5)
        text = f"{row.accuracy:.2f} %  {row.verdict}"
        panel.annotate(text, (1, y), (4, 0), ("axes fraction", "data"), "offset points", va="center", fontsize=8)


def _draw_costs(panel: Axes, frame: pd.DataFrame, cost: str, label: str) -> None:
    panel.set_xlabel(label)
    panel.set_ylabel("accuracy (%)")
    panel.grid(color="0.9")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    named = {}
    for row in frame.itertuples():
        x = 1.0 if cost == "time_ratio" and row.verdict == "baseline" else getattr(row, cost)
        if pd.isna(x) or pd.isna(row.accuracy):
            continue
        colour = _COLOURS.get(row.verdict, "0.4")
        panel.errorbar(x, row.accuracy, yerr=row.accuracy_std, fmt="o", color=colour, markersize=4, elinewidth=1)
        named[str(row.row)] = (x, row.accuracy)
    _name(panel, named)


_PLACES = [(4, 3), (4, -9), (-11, 3), (-11, -9), *((16 * x, 13 * y) for y in (1, -1, 2, -2) for x in (0, 1, -1))]


def _name(panel: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """A number beside each point, in the first of :data:`_PLACES`, points of type, that is least crowded."""
    panel.autoscale_view()
    scale = panel.figure.dpi / 72
    taken = {name: panel.transData.transform(point) / scale + (-4, -4) for name, point in points.items()}
    for name, point in points.items():
        at = panel.transData.transform(point) / scale
        others = [box for other, box in taken.items() if other != name]
        place = min(_PLACES, key=lambda offset: sum(_overlap(at + offset, box) for box in others))
        taken[f"beside {name}"] = at + place
        far = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.5} if place in _PLACES[4:] else None
        panel.annotate(name, point, place, textcoords="offset points", fontsize=8, arrowprops=far)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Of two boxes of a number's size, by their corners: 0 where they are apart, 1 where they are one."""
    return float(np.prod(np.clip(1 - abs(one - other) / (11, 9), 0, None)))
