"""The picture of a table: a panel for each data set and quantity, a line for each row, the numbers beside it."""

import io
from collections.abc import Sequence

import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jellyplus.reproduction.quantities import QUANTITIES

__all__ = ["draw"]

_LABELS = ("paper", "ours", "other methods, as the paper reports them")
_BESIDE = (12, 84, 156)  # where numbers stand beside a panel, in points


def draw(frame: pd.DataFrame, title: str) -> bytes:
    """Return a PNG of a view's frame.

    Args:
        frame: from :func:`jellyplus.reproduction.view.build`.
        title: above the panels.
    """
    panels_rows: dict[tuple[str, str], list] = {}
    for row in frame.itertuples():
        panels_rows.setdefault((row.dataset, row.quantity), []).append(row)
    heights = [len(rows) + 0.6 for rows in panels_rows.values()]
    with matplotlib.style.context("default", after_reset=True):
        figure = Figure(figsize=(9.5, 1.4 + 0.3 * sum(heights) + 0.38 * len(heights)), dpi=150)
        panels = figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
        for panel, ((dataset, quantity), rows) in zip(panels, panels_rows.items(), strict=True):
            _draw_panel(panel, dataset, quantity, rows)
        _write_beside(panels[0], -1, "paper", "ours", "status", color="0.45")
        figure.suptitle(title, fontsize=11)
        figure.legend(*_legend_of(panels), loc="lower center", ncols=3, frameon=False, fontsize=9)
        figure.tight_layout(rect=(0, 0.35 / figure.get_figheight(), 1, 1))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_panel(panel: Axes, dataset: str, quantity: str, rows: Sequence) -> None:
    panel.set_title(dataset, loc="left", fontsize=10, fontweight="bold")
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
        elif row.status == "reported":
            label.set_color("0.45")
            panel.plot(row.paper, y, "D", color="0.6", markerfacecolor="white", markersize=5, label=_LABELS[2])
            _write_beside(panel, y, QUANTITIES[quantity].text(row.paper), color="0.45")
        else:
            label.set_fontweight("bold" if row.kind == "own" else "normal")
            _draw_ours(panel, y, row)
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
    values = ((row.paper, row.paper_std, -0.18, "s", "0.25"), (row.ours_mean, row.ours_std, 0.18, "o", "#d55e00"))
    for (value, deviation, offset, marker, color), label in zip(values, _LABELS, strict=False):
        if not pd.isna(value):
            error = None if pd.isna(deviation) else deviation
            panel.errorbar(value, y + offset, xerr=error, fmt=marker, color=color, label=label, **style)
    texts = [_with_deviation(row.quantity, value, deviation) for value, deviation, *_ in values]
    _write_beside(panel, y, *texts, row.status.replace("-", " "))


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
