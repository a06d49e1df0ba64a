"""View of a figure: claim and measurements as a CSV file and a picture, and nothing that is not in one of the two."""

import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jellyplus._files import write_atomically
from jellyplus._text import csv_cell, one_line
from jellyplus.reproduction.figure_claims import FigureClaim, Panel, Series
from jellyplus.reproduction.picture import CAPTION, mark_stand_in, wrapped
from jellyplus.reproduction.scale import Scale

__all__ = ["COLORS", "LINES", "STYLE", "Shown", "frame", "summary", "write"]

_COLUMNS = ("panel", "series", "x", "y", "low", "high", "seeds", "profile", "status", "data")


@dataclass(frozen=True)
class Shown:
    """What there is for a series.

    Args:
        x, y: of the curve; empty where the series is ``not-run``.
        numbers: what sums it up.
        low, high: the lowest and highest of several seeds, of which ``y`` is the mean; empty of one.
        seeds: how many they are.
        code: that made them, where today's does something else.
        status: ``computed`` from a formula; ``measured`` on the paper's data with its settings, ``partial`` with
            others; ``stand-in`` on data in place of the paper's; ``stale`` by other code; ``conflict``, the evidence
            contradicts itself or other evidence; ``not-run``.
        scale: what it is of.
        note: what contradicts what.
    """

    x: Sequence[float] = ()
    y: Sequence[float] = ()
    numbers: dict[str, float] | None = None
    status: str = "not-run"
    scale: Scale = field(default=Scale())
    note: str = ""
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    seeds: int = 1
    code: str = ""


View = Sequence[tuple[Panel, Series, Shown]]


def frame(view: View, profile: str) -> pd.DataFrame:
    """A row for each point; one without numbers for a series that was not run. A formula has no profile and no seeds.

    What is below 1e-12 is 0, since machines round formulas in their own ways.
    """
    rows = []
    for panel, series, shown in view:
        made_by = (None, "") if shown.status == "computed" else (shown.seeds if shown.x else None, profile)
        numbers = itertools.zip_longest(shown.x, shown.y, shown.low, shown.high) if shown.x else [(None,) * 4]
        rows += [(panel.title, series.label, *point, *made_by, shown.status, str(shown.scale)) for point in numbers]
    points = pd.DataFrame(rows, columns=list(_COLUMNS)).astype({"seeds": "Int64"})
    numbers = points[["x", "y", "low", "high"]].astype("float64").round(12) + 0.0  # which turns -0.0 into 0.0
    return points.assign(**numbers)


def summary(view: View) -> str:
    """One line for each series: its status, what it is of, and the numbers that sum it up."""
    rows = [
        (panel.title, series.label, shown.status, str(shown.scale), _seeds(shown), shown.note or _numbers(shown))
        for panel, series, shown in view
    ]
    frame = pd.DataFrame(rows, columns=["panel", "series", "status", "data", "seeds", "in numbers"])
    return frame.map(one_line).to_markdown(index=False)


def _seeds(shown: Shown) -> str:
    return str(shown.seeds) if shown.x and shown.status != "computed" else ""


def write(claim: FigureClaim, view: View, folder: Path, profile: str, draw: bool = True) -> None:
    """Write ``figure.csv`` and, to ``draw``, ``figure.png`` and ``.pdf`` to ``folder``; equal views give equal bytes.

    Raises:
        InputError: the folder cannot be written.
    """
    content = frame(view, profile).map(csv_cell).to_csv(index=False, lineterminator="\n", float_format="%.7g")
    write_atomically(folder / "figure.csv", content.encode())
    for kind, content in _pictures(claim, view, profile).items() if draw else ():
        write_atomically(folder / f"figure.{kind}", content)


# --- The picture: readable in grey, at the width of a column ---------------------------------------------------------

STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "hatch.linewidth": 0.5,
    "pdf.fonttype": 42,  # fonts that publishers accept
    "figure.dpi": 200,
}
_METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None, "Creator": None}}
COLORS = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#999999")  # Okabe and Ito: for colour-blind eyes
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "x")
_FILLS = (("0.82", ""), ("none", "////"), ("none", "...."), ("none", "xxxx"), ("none", "\\\\\\\\"), ("none", "oo"))
_WIDTHS = {1: 3.6, 2: 3.4, 3: 2.7}  # of a panel, in inches, by their number
_MANY = 40  # points that are not marked one by one
_LETTERS = 15  # of a legend or title, for each inch


def _pictures(claim: FigureClaim, view: View, profile: str) -> dict[str, bytes]:
    with matplotlib.style.context("default", after_reset=True), matplotlib.rc_context(STYLE):
        number = len(claim.panels)
        width = _WIDTHS.get(number, 2.5)
        figure = Figure(figsize=(number * width, 3.2), layout="constrained")
        alike = len({(panel.y, panel.y_scale) for panel in claim.panels}) == 1
        axes = figure.subplots(1, number, squeeze=False, sharey=alike)[0]
        for panel, ax in zip(claim.panels, axes, strict=True):
            drawn = [(series, shown) for owner, series, shown in view if owner is panel and shown.x]
            _draw(ax, panel, drawn, letters=int(_LETTERS * width))
            ax.yaxis.label.set_visible(ax is axes[0] or not alike)
        provenance = _provenance(view, profile)
        between = "; " if len("; ".join(provenance)) <= 1.2 * _LETTERS * number * width else "\n"
        figure.suptitle(claim.title, fontsize=8.5)
        figure.supxlabel(between.join(provenance), fontsize=7, color=CAPTION)
        return {kind: _saved(figure, kind) for kind in _METADATA}


def _saved(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=_METADATA[kind])
    return buffer.getvalue()


def _provenance(view: View, profile: str) -> list[str]:
    seen = {shown.status for *_, shown in view}
    if seen == {"computed"}:
        return ["computed, no data"]
    said = {
        f"profile: {profile}": True,
        "stand-in data, no claim about the paper": any(shown.scale.stand_in for *_, shown in view),
        "stale: measured by other code": "stale" in seen,
        "evidence contradicts itself": "conflict" in seen,
        "incomplete": "not-run" in seen,
        "several seeds: mean, lowest and highest": any(shown.low for *_, shown in view),
    }
    return [words for words, holds in said.items() if holds]


def _draw(ax: Axes, panel: Panel, drawn: Sequence[tuple[Series, Shown]], letters: int) -> None:
    ax.set_title(_title(panel, [shown for _, shown in drawn], letters))
    ax.set_xlabel(panel.x)
    ax.set_ylabel(panel.y)
    ax.set_yscale(panel.y_scale)
    ax.grid(color="0.92", linewidth=0.6)
    ax.set_axisbelow(True)
    if not drawn:
        ax.text(0.5, 0.5, "not run", transform=ax.transAxes, ha="center", color="0.45")
        return
    if any(shown.scale.stand_in for _, shown in drawn):
        mark_stand_in(ax, ax.title)
    for number, (series, shown) in enumerate(drawn):
        _DRAW[series.style](ax, shown, number, _legend(series, shown))
    if all(float(x).is_integer() for _, shown in drawn for x in shown.x):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    longest = 7 + max(len(_legend(*what)) for what in drawn)
    rows = math.ceil(len(drawn) / max(1, letters // longest))
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 4.5}
    ax.legend(**below, handlelength=2.6, columnspacing=1, ncols=math.ceil(len(drawn) / rows))


def _title(panel: Panel, drawn: Sequence[Shown], letters: int) -> str:
    """The panel's, and what its curves are of where that is not what the paper has."""
    words = dict.fromkeys(word for shown in drawn for word in shown.scale.words)
    if any(shown.scale.stand_in for shown in drawn):
        return wrapped(f"stand-in for {panel.title}:", words, letters)
    return wrapped(f"{panel.title}; ours:", words, letters) if len(words) > 1 else panel.title


def _legend(series: Series, shown: Shown) -> str:
    return f"{series.label} ({_numbers(shown)})" if shown.numbers else series.label


def _numbers(shown: Shown) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in (shown.numbers or {}).items())


def _draw_line(ax: Axes, shown: Shown, number: int, label: str) -> None:
    marked = {"marker": _MARKERS[number % len(_MARKERS)]} if len(shown.x) <= _MANY else {}
    style = {"linestyle": LINES[number % len(LINES)], "color": COLORS[number % len(COLORS)]}
    ax.plot(shown.x, shown.y, label=label, **style, **marked, **_hollow(shown))
    if shown.low:
        ax.fill_between(shown.x, shown.low, shown.high, color=style["color"], alpha=0.15, linewidth=0)


def _draw_points(ax: Axes, shown: Shown, number: int, label: str) -> None:
    style = {"marker": _MARKERS[number % len(_MARKERS)], "color": COLORS[number % len(COLORS)]}
    ax.plot(shown.x, shown.y, linestyle="none", markersize=6, label=label, **style, **_hollow(shown))
    _draw_range(ax, shown, style["color"])


def _hollow(shown: Shown) -> dict:
    return {"markerfacecolor": "white"} if shown.scale.stand_in else {}


def _fill(shown: Shown, number: int) -> tuple[str, str]:
    """Face and hatch; a stand-in has no face."""
    fill, hatch = _FILLS[number % len(_FILLS)]
    return "none" if shown.scale.stand_in else fill, hatch


def _draw_bars(ax: Axes, shown: Shown, number: int, label: str) -> None:
    width = 0.8 * _spacing(shown.x)
    fill, hatch = _fill(shown, number)
    ax.bar(shown.x, shown.y, width, facecolor=fill, hatch=hatch, edgecolor=COLORS[number % len(COLORS)], label=label)
    _draw_range(ax, shown, COLORS[number % len(COLORS)])


def _draw_histogram(ax: Axes, shown: Shown, number: int, label: str) -> None:
    half = _spacing(shown.x) / 2
    edges = [shown.x[0] - half, *(x + half for x in shown.x)]
    fill, hatch = _fill(shown, number)
    style = {"facecolor": fill, "hatch": hatch, "edgecolor": COLORS[number % len(COLORS)], "linewidth": 0.9}
    ax.stairs(shown.y, edges, fill=True, label=label, **style)
    _draw_range(ax, shown, style["edgecolor"])


def _draw_range(ax: Axes, shown: Shown, color: str) -> None:
    if shown.low:
        ax.vlines(shown.x, shown.low, shown.high, color=color, linewidth=0.8)


_DRAW = {"line": _draw_line, "points": _draw_points, "bars": _draw_bars, "histogram": _draw_histogram}


def _spacing(x: Sequence[float]) -> float:
    return min((b - a for a, b in itertools.pairwise(x)), default=1.0)
