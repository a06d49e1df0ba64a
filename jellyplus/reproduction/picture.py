"""The picture of a table: a panel for each data set and quantity, a line for each row, the numbers beside it.

Results on stand-ins have panels of their own, hollow, without the paper's values.
"""

import io
import textwrap
from collections.abc import Iterable, Sequence

import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from jellyplus.reproduction.quantities import QUANTITIES
from jellyplus.reproduction.scale import STAND_IN

__all__ = ["CAPTION", "draw", "mark_stand_in", "on_stand_ins", "wrapped"]

CAPTION = "0.45"  #: the grey of what stands below a picture
_OF_STAND_INS = "#8a6100"  # what is said of stand-ins
_OURS = "#d55e00"
_LABELS = ("paper", "ours", "other methods, as the paper reports them", "ours, on a stand-in: no claim about the paper")
_LETTERS = 62  # of a panel's title
_BESIDE = (12, 84, 156)  # where numbers stand beside a panel, in points


def draw(frame: pd.DataFrame, title: str, caption: str) -> bytes:
    """Return a PNG of a view's frame.

    Args:
        frame: from :func:`jellyplus.reproduction.view.build`.
        title: above the panels.
        caption: below everything, where it can be cut off.
    """
    panels_rows = _panels(frame)
    heights = [len(rows) + 0.2 for rows in panels_rows.values()]
    with matplotlib.style.context("default", after_reset=True):
        figure = Figure(figsize=(9.5, 1.25 + 0.3 * sum(heights) + 0.95 * len(heights)), dpi=150)
        panels = figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
        for panel, ((dataset, quantity, stand_in), rows) in zip(panels, panels_rows.items(), strict=True):
            panel.set_title(_title(dataset, stand_in, rows), loc="left", fontsize=9.5, fontweight="bold")
            _draw_panel(panel, quantity, stand_in, rows)
            if stand_in:
                mark_stand_in(panel, panel._left_title)
            _write_beside(panel, -0.85, "" if stand_in else "paper", "ours", "status", color="0.45")
        figure.suptitle(title, fontsize=11)
        inch = 1 / figure.get_figheight()
        place = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.2 * inch)}
        figure.legend(*_legend_of(panels), **place, ncols=3, frameon=False, fontsize=9)
        figure.supxlabel(caption, y=0.06 * inch, va="bottom", fontsize=8, color=CAPTION)
        figure.tight_layout(rect=(0, 0.3 * inch, 1, 1))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def on_stand_ins(frame: pd.DataFrame) -> pd.Series:
    """Which rows have results on data in place of the paper's."""
    return frame["data"].fillna("").str.startswith(STAND_IN)


def _panels(frame: pd.DataFrame) -> dict[tuple[str, str, bool], list]:
    """Rows by data set, quantity and whether they are of a stand-in; quoted ones only beside others of the data set."""
    panels: dict[tuple[str, str, bool], list] = {}
    for row, stand_in in zip(frame.itertuples(), on_stand_ins(frame), strict=True):
        panels.setdefault((row.dataset, row.quantity, stand_in), []).append(row)
    return {
        key: rows
        for key, rows in panels.items()
        if key[2] or (*key[:2], True) not in panels or any(row.status != "reported" for row in rows)
    }


def _title(dataset: str, stand_in: bool, rows: Sequence) -> str:
    """What ours are of, where that is not what the paper has: cropped to one panel, a picture must tell."""
    told = [row.data.removeprefix(f"{STAND_IN}: ") for row in rows if not pd.isna(row.data)]
    words = dict.fromkeys(word for data in told for word in data.split(", ") if word)
    if stand_in:
        return wrapped(f"stand-in for {dataset}:", words, _LETTERS)
    return wrapped(f"{dataset}; ours:", words, _LETTERS) if len(words) > 1 else dataset


def wrapped(head: str, words: Iterable[str], letters: int) -> str:
    """Head and words in lines of so many letters, no word broken."""
    whole = (word.replace(" ", "\N{NO-BREAK SPACE}") for word in words)
    return textwrap.fill(f"{head} {', '.join(whole)}", letters)


def mark_stand_in(panel: Axes, title: Text) -> None:
    """Title, ground and a word across it tell a panel of stand-in data, whatever is cut off around it."""
    panel.set_facecolor("#fdf8ec")
    title.set_color(_OF_STAND_INS)
    style = {"transform": panel.transAxes, "ha": "center", "va": "center", "fontsize": 15, "color": _OF_STAND_INS}
    panel.text(0.5, 0.5, "stand-in data", alpha=0.25, zorder=0.5, clip_on=True, **style)


def _draw_panel(panel: Axes, quantity: str, stand_in: bool, rows: Sequence) -> None:
    panel.set_xlabel(QUANTITIES[quantity].label, fontsize=9)
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.set_yticks(range(len(rows)), [_label(row) for row in rows])
    panel.tick_params(axis="y", length=0, labelsize=9)
    panel.grid(axis="x", color="0.9")
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    for y, (row, label) in enumerate(zip(rows, panel.get_yticklabels(), strict=True)):
        if isinstance(row.paper, str):
            panel.xaxis.set_visible(False)
            panel.spines["bottom"].set_visible(False)
            _write_beside(panel, y, "in table.md", "in table.md", row.status)
        elif stand_in:
            label.set_color(_OF_STAND_INS)
            _draw_stand_in(panel, y, row)
        elif row.status == "reported":
            label.set_color("0.45")
            panel.plot(row.paper, y, "D", color="0.6", markerfacecolor="white", markersize=5, label=_LABELS[2])
            _write_beside(panel, y, QUANTITIES[quantity].text(row.paper), color="0.45")
        else:
            label.set_fontweight("bold" if row.kind == "own" else "normal")
            _draw_ours(panel, y, row)
    if not panel.has_data():
        panel.set_xticks([])
    _keep_together(panel, rows)


def _keep_together(panel: Axes, rows: Sequence) -> None:
    """Values that agree stand a tenth of the axis apart at most; it would set them at its ends where they are alone."""
    apart = max((abs(row.delta) for row in rows if row.status in _AGREE and not pd.isna(row.delta)), default=0)
    (low, high), least = panel.get_xlim(), 10 * apart
    if high - low < least:
        panel.set_xlim((low + high - least) / 2, (low + high + least) / 2)


_AGREE = ("reproduced", "consistent")


def _label(row) -> str:
    timesteps = "" if pd.isna(row.timesteps) else f"T = {row.timesteps}"
    return ", ".join(filter(None, (row.method, row.architecture, timesteps)))


def _draw_ours(panel: Axes, y: float, row) -> None:
    panel.axhspan(y - 0.46, y + 0.46, color="0.96", zorder=0)
    style = {"linestyle": "none", "capsize": 3, "markersize": 6}
    values = ((row.paper, row.paper_std, -0.18, "s", "0.25"), (row.ours_mean, row.ours_std, 0.18, "o", _OURS))
    for (value, deviation, offset, marker, color), label in zip(values, _LABELS, strict=False):
        if not pd.isna(value):
            error = None if pd.isna(deviation) else deviation
            panel.errorbar(value, y + offset, xerr=error, fmt=marker, color=color, label=label, **style)
    texts = [_with_deviation(row.quantity, value, deviation) for value, deviation, *_ in values]
    _write_beside(panel, y, *texts, row.status.replace("-", " "))


def _draw_stand_in(panel: Axes, y: float, row) -> None:
    error = None if pd.isna(row.ours_std) else row.ours_std
    style = {"linestyle": "none", "capsize": 3, "markersize": 6, "markerfacecolor": "none", "color": _OURS}
    if not pd.isna(row.ours_mean):
        panel.errorbar(row.ours_mean, y, xerr=error, fmt="o", label=_LABELS[3], **style)
    _write_beside(
        panel, y, "", _with_deviation(row.quantity, row.ours_mean, row.ours_std), row.status, color=_OF_STAND_INS
    )


def _with_deviation(quantity: str, value: float, deviation: float) -> str:
    text = QUANTITIES[quantity].text
    return text(value) + ("" if pd.isna(deviation) else f" ± {text(deviation)}")


def _write_beside(panel: Axes, y: float, *texts: str, **style) -> None:
    for x, text in zip(_BESIDE, texts, strict=False):
        panel.annotate(
            text,
            (1, y),
            (x, 0),
            xycoords=panel.get_yaxis_transform(),
            textcoords="offset points",
            va="center_baseline",
            fontsize=9,
            annotation_clip=False,
            **style,
        )


def _legend_of(panels: Sequence[Axes]) -> tuple[list, list]:
    entries = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    labels = [label for label in _LABELS if label in entries]
    return [entries[label] for label in labels], labels
