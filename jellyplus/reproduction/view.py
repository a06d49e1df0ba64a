"""View: claims and evidence as a table and a picture, and nothing that is not in one of the two."""

import io
import statistics
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jellyplus._files import write_atomically
from jellyplus.reproduction.claims import Claim, ClaimTable, Split
from jellyplus.reproduction.evidence import Evidence

COLUMNS = (
    "dataset",
    "method",
    "kind",
    "architecture",
    "timesteps",
    "paper",
    "paper_std",
    "ours_mean",
    "ours_std",
    "n_seeds",
    "delta",
    "best",
    "status",
    "profile",
    "recipe",
    "commit",
    "note",
)
_TWO_DECIMALS = ("paper", "paper_std", "ours_mean", "ours_std", "delta", "best")
_SEEDS_NEEDED = 3
_LABELS = ("paper", "ours", "other methods, as the paper reports them")
_BESIDE = (12, 84, 156)  # where numbers stand beside a panel, in points

_LEGEND = f"""\
* `reproduced`: the paper's profile, at least {_SEEDS_NEEDED} seeds, every planned epoch, all the data, and |delta| <= \
max(0.3, 2 sqrt(paper_std^2 + ours_std^2)).
* `below`, `above`: the same, with a delta beyond that.
* `partial`: fewer seeds, a shortened schedule, a narrower net or stand-in data: no statement about the paper.
* `stale`: the code that decides numbers has changed since the run.
* `not-run`: no evidence yet.
* `reported`: another method's result, as the paper quotes it.

`ours_mean` is the mean over seeds of the last epoch's value, `ours_std` the sample standard deviation, `delta` is
`ours_mean` - `paper`. `best` is the mean over seeds of the best epoch on test data: never the headline.
"""
_PROFILES = {
    "embedded": "This is stand-in data on narrow nets: no number here is a claim about the paper.",
    "small": "This is real data on narrow nets: no number here is a claim about the paper.",
    "paper": "This is real data with the paper's own settings.",
}


def build(table: ClaimTable, evidence: Mapping[str, Sequence[Evidence]], code: str, profile: str) -> pd.DataFrame:
    """Return the view of ``table``: one row for each claim, the columns of ``COLUMNS``, values not rounded.

    Evidence of this code is shown where there is any; otherwise that of the code with the most seeds, as ``stale``.

    Args:
        table: the claims.
        evidence: by the id of the row, as far as there is any.
        code: today's ``code_digest()``.
        profile: the profile asked for.
    """
    rows = [
        _row(claim, table.datasets[claim.dataset], evidence.get(claim.id, ()), code, profile) for claim in table.rows
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({**dict.fromkeys(_TWO_DECIMALS, "float64"), "timesteps": "int64", "n_seeds": "Int64"})


def write(frame: pd.DataFrame, table: ClaimTable, folder: str | Path, profile: str) -> None:
    """Write ``table.csv``, ``table.md`` and ``table.png`` to ``folder``; the same frame gives the same bytes.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = Path(folder)
    cells = _cells(frame)
    write_atomically(folder / "table.csv", cells.to_csv(index=False, lineterminator="\n").encode())
    write_atomically(folder / "table.md", _markdown(cells, table, profile).encode())
    write_atomically(folder / "table.png", _picture(frame, table, profile))


def summary(frame: pd.DataFrame) -> str:
    """Return the own rows as a short table for a terminal."""
    own = _cells(frame)[frame["kind"] == "own"]
    columns = ["dataset", "timesteps", "paper", "paper_std", "ours_mean", "ours_std", "n_seeds", "status"]
    return own[columns].to_markdown(index=False, disable_numparse=True)


def _row(claim: Claim, split: Split, evidence: Sequence[Evidence], code: str, profile: str) -> dict:
    row = {column: getattr(claim, column, None) for column in COLUMNS}
    if claim.kind == "reported":
        return {**row, "status": "reported"}
    if not evidence:
        return {**row, "status": "not-run", "profile": profile, "n_seeds": 0}
    shown = [e for e in evidence if e.code == code] or _largest_group(evidence)
    values = [e.accuracy_last for e in shown]
    row |= {
        "ours_mean": statistics.fmean(values),
        "ours_std": statistics.stdev(values) if len(values) > 1 else None,
        "n_seeds": len({e.seed for e in shown}),
        "delta": None if shown[0].dataset.get("stand_in") else statistics.fmean(values) - claim.paper,
        "best": statistics.fmean(e.accuracy_best for e in shown),
        "profile": _joined(e.profile for e in shown),
        "commit": _joined(e.commit[:12] + ("+dirty" if e.dirty else "") for e in shown),
    }
    return {**row, "status": _status(row, split, shown, code)}


def _largest_group(evidence: Sequence[Evidence]) -> list[Evidence]:
    groups = [[e for e in evidence if e.code == code] for code in sorted({e.code for e in evidence})]
    return max(groups, key=len)


def _status(row: dict, split: Split, shown: Sequence[Evidence], code: str) -> str:
    if shown[0].code != code:
        return "stale"
    if row["n_seeds"] < _SEEDS_NEEDED or not all(_is_the_papers(e, split) for e in shown):
        return "partial"
    tolerance = max(0.3, 2 * ((row["paper_std"] or 0) ** 2 + row["ours_std"] ** 2) ** 0.5)
    if abs(row["delta"]) <= tolerance + 1e-9:  # 93.95 - 94.25 is not quite -0.3
        return "reproduced"
    return "below" if row["delta"] < 0 else "above"


def _is_the_papers(evidence: Evidence, split: Split) -> bool:
    examples = (evidence.dataset["train_examples"], evidence.dataset["test_examples"])
    return (
        evidence.profile == "paper"
        and evidence.epochs_completed == evidence.epochs_planned
        and examples == (split.train_examples, split.test_examples)
    )


def _joined(values) -> str:
    return ", ".join(sorted(set(values)))


def _cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Return ``frame`` as text, so that no writer takes a commit for a number or rounds in its own way."""
    decimals = {column: frame[column].map(_two_decimals) for column in _TWO_DECIMALS}
    return frame.assign(**decimals).map(lambda value: "" if pd.isna(value) else str(value))


def _two_decimals(value: float) -> str:
    return "" if pd.isna(value) else f"{round(value, 2) + 0.0:.2f}"  # + 0.0 turns -0.0 into 0.0


def _markdown(cells: pd.DataFrame, table: ClaimTable, profile: str) -> str:
    return "\n\n".join(
        [
            f"# {table.title}",
            f"{table.printed_in}; {table.metric}. Profile: `{profile}`. {_PROFILES[profile]}",
            cells.to_markdown(index=False, disable_numparse=True),
            _LEGEND,
        ]
    )


def _picture(frame: pd.DataFrame, table: ClaimTable, profile: str) -> bytes:
    """Return a PNG: a panel for each data set, a line for each row, the numbers beside it."""
    groups = [(name, list(rows)) for name, rows in groupby(frame.itertuples(), key=lambda row: row.dataset)]
    heights = [len(rows) + 0.6 for _, rows in groups]
    with matplotlib.style.context("default", after_reset=True):
        figure = Figure(figsize=(9, 1.5 + 0.3 * sum(heights)), dpi=150)
        panels = figure.subplots(len(groups), squeeze=False, height_ratios=heights)[:, 0]
        for panel, (name, rows) in zip(panels, groups, strict=True):
            _draw_panel(panel, name, rows)
        _write_beside(panels[0], -1, "paper", "ours", "status", color="0.45")
        stand_in = " (stand-in data, no claim about the paper)" if profile == "embedded" else ""
        figure.suptitle(f"{table.title}\nprofile: {profile}{stand_in}", fontsize=11)
        panels[-1].set_xlabel(table.metric)
        figure.legend(*_legend_of(panels), loc="lower center", ncols=3, frameon=False, fontsize=9)
        figure.tight_layout(rect=(0, 0.35 / figure.get_figheight(), 1, 1))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_panel(panel: Axes, dataset: str, rows: Sequence) -> None:
    panel.set_title(dataset, loc="left", fontsize=10, fontweight="bold")
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.set_yticks(range(len(rows)), [f"{row.method}, {row.architecture}, T = {row.timesteps}" for row in rows])
    panel.tick_params(axis="y", length=0, labelsize=9)
    panel.grid(axis="x", color="0.9")
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    for y, (row, label) in enumerate(zip(rows, panel.get_yticklabels(), strict=True)):
        if row.kind == "own":
            label.set_fontweight("bold")
            _draw_own(panel, y, row)
        else:
            label.set_color("0.45")
            panel.plot(row.paper, y, "D", color="0.6", markerfacecolor="white", markersize=5, label=_LABELS[2])
            _write_beside(panel, y, _two_decimals(row.paper), color="0.45")


def _draw_own(panel: Axes, y: float, row) -> None:
    panel.axhspan(y - 0.46, y + 0.46, color="0.96", zorder=0)
    style = {"linestyle": "none", "capsize": 3, "markersize": 6}
    panel.errorbar(row.paper, y - 0.18, xerr=row.paper_std, fmt="s", color="0.25", label=_LABELS[0], **style)
    if not pd.isna(row.ours_mean):
        panel.errorbar(row.ours_mean, y + 0.18, xerr=row.ours_std, fmt="o", color="#d55e00", label=_LABELS[1], **style)
    paper, ours = _with_deviation(row.paper, row.paper_std), _with_deviation(row.ours_mean, row.ours_std)
    _write_beside(panel, y, paper, ours, row.status.replace("-", " "))


def _with_deviation(mean: float, deviation: float) -> str:
    return _two_decimals(mean) + ("" if pd.isna(deviation) else f" ± {_two_decimals(deviation)}")


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
