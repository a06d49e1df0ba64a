"""View: claims and results as a table, and nothing that is not in one of the two."""

import math
import re
import statistics
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from jellyplus._files import write_atomically
from jellyplus._text import csv_cell, markdown_cell, one_line
from jellyplus.reproduction import paired, picture
from jellyplus.reproduction.claims import Claim, ClaimTable, Split
from jellyplus.reproduction.evidence import Evidence
from jellyplus.reproduction.paired import CONFIDENCE, LEAST_PAIRS
from jellyplus.reproduction.quantities import QUANTITIES
from jellyplus.reproduction.scale import STAND_IN, Scale, is_stand_in, together
from jellyplus.reproduction.today import Standing

__all__ = [
    "COLUMNS",
    "GAINS",
    "PROFILES",
    "Result",
    "build",
    "by_pair",
    "caption",
    "displayed",
    "made_by",
    "summary",
    "write",
]

COLUMNS = (
    "dataset",
    "method",
    "kind",
    "architecture",
    "timesteps",
    "quantity",
    "paper",
    "paper_std",
    "ours_mean",
    "ours_std",
    "n_seeds",
    "delta",
    "best",
    "baseline",
    "paper_gain",
    "gain",
    "gain_low",
    "gain_high",
    "gain_n",
    "gain_p",
    "gain_p_holm",
    "gain_verdict",
    "status",
    "profile",
    "data",
    "recipe",
    "commit",
    "versions",
    "note",
)
#: What our runs say of a printed gain, with the evidence's networks and schedule.
GAINS = {
    "agrees": "ours has the printed gain's sign, and is not chance",
    "opposite": "ours has the other sign, and is not chance",
    "undecided": "ours can be chance",
    "too few seeds": "measured, with too few seeds to be tested",
}
_VALUES = (
    "paper",
    "paper_std",
    "ours_mean",
    "ours_std",
    "delta",
    "best",
    "paper_gain",
    "gain",
    "gain_low",
    "gain_high",
)
_PS = ("gain_p", "gain_p_holm")
_SEEDS_NEEDED = 3

_LEGEND = f"""\
* `reproduced`: the paper's profile, at least {_SEEDS_NEEDED} seeds of clean commits, every planned epoch, all the \
data, and |delta| <= max(0.3, 2 sqrt(paper_std^2 + ours_std^2)) points, or what our network shows untrained and equals \
the printed value to its last place.
* `below`, `above`: the same, with a delta beyond that; `differs`: of a text.
* `consistent`: no result of ours: the paper's own numbers agree with each other, with a constant that the recipe has \
from the paper, or ours is one reading of an ambiguous text. `inconsistent`: they do not.
* `partial`: real data and fewer seeds, fewer epochs, fewer images or a narrower net, which `data` names, or a recipe \
that deviates from what the paper states, as the note says: no statement about the paper.
* `stand-in`: other data in place of the paper's: a test of the code, and no statement about the paper. `data` says so \
also where the status is another.
* `conflict`: the evidence contradicts itself, its recipe or other evidence, as the note says: it is not believed.
* `stale`: today's code does something else than the code that made it; the note says what differs.
* `unknown`: nobody recorded what the code did that made it.
* `not-run`: no evidence yet.
* `reported`: another method's result, as the paper quotes it.

`ours_mean` is the mean over seeds of the last epoch's value, `ours_std` the sample standard deviation, `delta` is
`ours_mean` - `paper`. `best` is the mean over seeds of the best epoch on test data: never the headline.
"""
_GAINS = f"""\
`gain` is the mean over `gain_n` seeds of the difference to the row that `baseline` names, with the same seed, profile
and kind of device, both current or by one code; `gain_low` and `gain_high` its {100 * CONFIDENCE:.0f} % confidence
interval (Student's t), for each row by itself. `gain_p` is the p-value of a paired, two-sided t-test that it is 0, from
{LEAST_PAIRS} seeds on, and `gain_p_holm` the same after Holm's correction for all tested rows that print a gain. Where
all differences are equal there is none of the three.
`paper_gain` is the printed difference. `gain_verdict` is `agrees` or `opposite`, by the signs of both, where
`gain_p_holm` is below {1 - CONFIDENCE:.2f}, and `undecided` otherwise; with fewer than {LEAST_PAIRS} seeds it is
`too few seeds`. Only what was measured on real data has one, and it is of the networks and epochs that `data` names:
what is opposite there can be as printed at the paper's scale.
"""
PROFILES = {
    "smoke": "This is a test of the chain, a few steps on a few images: no number here means anything.",
    "embedded": "This is stand-in data on narrow nets: no number of ours here is a claim about the paper.",
    "small": "This is real data on narrow nets: no number here is a claim about the paper.",
    "gpu": "This is real data with the paper's own settings but for the number of epochs: no number here is a claim "
    "about the paper.",
    "official": "This is the paper's data with the settings of the authors' public code, which are not the paper's.",
    "paper": "This is real data with the paper's own settings.",
}
_ASIDE = {"smoke": " (a test, no number means anything)", "embedded": " (stand-in data, no claim about the paper)"}


@dataclass(frozen=True)
class Result:
    """What there is for a row.

    Args:
        value: ours; None where the evidence does not tell it, and ``note`` says why.
        evidence: the run it is from; None where it takes no training.
        standing: what today's code has to say of it.
        note: on this value.
        scale: what it is of.
        faults: what contradicts what in the evidence.
    """

    value: float | str | None
    evidence: Evidence | None = None
    standing: Standing = field(default=Standing("current"))
    note: str = ""
    scale: Scale = field(default=Scale())
    faults: tuple[str, ...] = ()

    def __post_init__(self):
        if self.evidence and is_stand_in(self.evidence):
            object.__setattr__(self, "scale", replace(self.scale, stand_in=True))


def build(table: ClaimTable, results: Mapping[str, Sequence[Result]], profile: str) -> pd.DataFrame:
    """Return the view of ``table``: one row for each claim, the columns of ``COLUMNS``, values not rounded.

    Current evidence is shown where there is any; otherwise that of the code with the most seeds, as what it is.

    Args:
        table: the claims.
        results: by the id of the row, as far as there are any.
        profile: the profile asked for.
    """
    claims = {claim.id: claim for claim in table.rows}
    shown = {claim.id: displayed(results.get(claim.id, ())) for claim in table.rows}
    rows = [
        _row(claim, table.datasets[claim.dataset], shown[claim.id], profile)
        | (_gain(claim, claims[claim.baseline], shown) if claim.baseline else {})
        for claim in table.rows
    ]
    frame = _judged(pd.DataFrame(rows, columns=list(COLUMNS)))
    texts = {claim.quantity for claim in table.rows if isinstance(claim.paper, str)}
    numbers = [name for name in _VALUES if not (texts and name in ("paper", "ours_mean"))]
    whole = dict.fromkeys(("timesteps", "n_seeds", "gain_n"), "Int64")
    return frame.astype({**dict.fromkeys((*numbers, *_PS), "float64"), **whole})


def write(frame: pd.DataFrame, table: ClaimTable, folder: str | Path, profile: str, draw: bool = True) -> None:
    """Write ``table.csv``, ``table.md`` and, to ``draw``, ``table.png`` to ``folder``; equal frames give equal bytes.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = Path(folder)
    cells = _cells(frame).map(csv_cell)
    write_atomically(folder / "table.csv", cells.to_csv(index=False, lineterminator="\n").encode())
    write_atomically(folder / "table.md", _markdown(frame, table, profile).encode())
    if draw:
        write_atomically(folder / "table.png", picture.draw(frame, table.title, caption(profile)))


def caption(profile: str) -> str:
    """What stands below a picture."""
    return f"profile: {profile}{_ASIDE.get(profile, '')}"


_WIDEST = 44  # characters of a column


def summary(frame: pd.DataFrame) -> str:
    """Return all rows but the reported ones as a short table for a terminal, results on stand-ins in one below."""
    cells, stand_ins = _apart(frame)
    ours = cells[frame["status"] != "reported"]
    columns = ["dataset", "method", "architecture", "timesteps", "paper", "ours_mean", "ours_std", "n_seeds", "status"]
    if ours["quantity"].nunique() > 1:
        columns.insert(4, "quantity")
    if ours["data"].any():
        columns.append("data")
    text = _short(ours[columns])
    if stand_ins.empty:
        return text
    columns = ["data", "method", "architecture", "timesteps", "quantity", "ours_mean", "ours_std", "n_seeds", "status"]
    return f"{text}\n\nOn stand-ins, no claim about the paper:\n\n{_short(stand_ins[columns])}"


def _short(cells: pd.DataFrame) -> str:
    shortened = cells.map(lambda text: textwrap.shorten(text, _WIDEST)).assign(**cells.filter(["data"]))
    return shortened.to_markdown(index=False, disable_numparse=True)


_OURS = ("ours_mean", "ours_std", "n_seeds", "delta", "best", "gain", "gain_low", "gain_high", "gain_n", *_PS)


def _apart(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """As text: all rows without our numbers on stand-ins, and the rows that have such, without the paper's."""
    cells, stand_in = _cells(frame), picture.on_stand_ins(frame)
    paper = ["dataset", "paper", "paper_std", "paper_gain", "delta"]
    stand_ins = cells[stand_in & frame["ours_mean"].notna()].drop(columns=paper)
    cells.loc[stand_in, list(_OURS)] = ""
    return cells, stand_ins


def displayed(results: Sequence[Result]) -> list[Result]:
    """Those that are current, one a seed, the last one made, or else those of the code with the most seeds."""
    if current := {r.evidence.seed if r.evidence else None: r for r in results if r.standing.is_current}:
        return list(current.values())
    codes = sorted({result.evidence.code for result in results})
    return max(([result for result in results if result.evidence.code == code] for code in codes), key=len, default=[])


def _row(claim: Claim, split: Split, shown: Sequence[Result], profile: str) -> dict:
    row = {column: getattr(claim, column, None) for column in COLUMNS}
    row |= {"recipe": made_by(claim), "note": claim.remarks}
    if not shown:
        untold = {"status": "reported"} if claim.kind == "reported" else {"status": "not-run", "n_seeds": 0}
        return {**row, **untold, "profile": None if claim.kind == "reported" else profile}
    if not shown[0].evidence:
        return row | _compared_exactly(claim, shown[0].value) | ({"status": "partial"} if claim.deviates else {})
    if faults := dict.fromkeys(said for result in shown for said in result.faults):
        note = "; ".join(filter(None, [row["note"], *faults]))
        return row | {"n_seeds": 0, "status": "conflict", "note": note, **_made_where(shown)}
    told = [result for result in shown if result.value is not None]
    row["note"] = "; ".join(filter(None, dict.fromkeys([row["note"], *(result.note for result in told or shown)])))
    if not told:
        return row | _untold(shown)
    values, evidence = [result.value for result in told], [result.evidence for result in told]
    stand_in = any(result.scale.stand_in for result in told)
    row |= {
        "ours_mean": statistics.fmean(values),
        "ours_std": statistics.stdev(values) if len(values) > 1 else None,
        "n_seeds": len({e.seed for e in evidence}),
        "delta": None if stand_in or claim.paper is None else statistics.fmean(values) - claim.paper,
        "best": statistics.fmean(e.accuracy_best for e in evidence) if claim.quantity == "accuracy" else None,
        **_made_where(told),
    }
    if not (standing := shown[0].standing).is_current:
        reason = f"{standing.status}: {standing.why}" if standing.why else ""
        return {**row, "status": standing.status, "note": "; ".join(filter(None, (row["note"], reason)))}
    unclean = [
        f"seed {r.evidence.seed}: not of a clean commit" for r in told if _is_complete(r, split) and not _clean(r)
    ]
    row["note"] = "; ".join(filter(None, (row["note"], *unclean)))
    return {**row, "status": STAND_IN if stand_in else _status(claim, row, split, told)}


def _untold(shown: Sequence[Result]) -> dict:
    """Of evidence that does not have the row's value."""
    standing = shown[0].standing
    current = STAND_IN if any(result.scale.stand_in for result in shown) else "partial"
    return {"n_seeds": 0, "status": current if standing.is_current else standing.status, **_made_where(shown)}


def _made_where(shown: Sequence[Result]) -> dict:
    evidence = [result.evidence for result in shown]
    return {
        "profile": _joined(e.profile for e in evidence),
        "data": together([result.scale for result in shown]),
        "commit": _joined(e.commit[:12] + ("+dirty" if e.dirty else "") for e in evidence),
        "versions": _joined(_versions(e) for e in evidence),
    }


def _versions(evidence: Evidence) -> str:
    return ", ".join(f"{name} {evidence.versions[name]}" for name in _SHOWN_VERSIONS if name in evidence.versions)


_SHOWN_VERSIONS = ("torch", "numpy", "spikingjelly")


def made_by(claim: Claim) -> str | None:
    """The recipe of a row, and what the row changes in it."""
    if not claim.overrides:
        return claim.recipe
    return f"{claim.recipe} with {', '.join(_changes(claim.overrides))}"


def _changes(overrides: Mapping, prefix: str = "") -> Iterator[str]:
    for name, value in overrides.items():
        if isinstance(value, Mapping):
            yield from _changes(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name} = {'null' if value is None else value}"


def _compared_exactly(claim: Claim, value: float | str) -> dict:
    """What takes no training equals the printed value to its last place, or it does not."""
    agrees = claim.measures.agrees
    if value in claim.readings:
        return {"ours_mean": value, "status": "consistent"}
    if isinstance(claim.paper, str):
        return {"ours_mean": value, "status": agrees if value == claim.paper else "differs"}
    unit = claim.resolution or 1
    places = math.floor(value / unit + _ROUNDING) if claim.truncated else math.floor(value / unit + 0.5 + _ROUNDING)
    off = places - round(claim.paper / unit)
    disagrees = ("above" if off > 0 else "below") if agrees == "reproduced" else "inconsistent"
    return {"ours_mean": value, "delta": value - claim.paper, "status": disagrees if off else agrees}


_PLACES = 9  # more than are printed
_ROUNDING = 10**-_PLACES  # of binary fractions: 93.95 - 94.25 is not quite -0.3


def _status(claim: Claim, row: dict, split: Split, told: Sequence[Result]) -> str:
    complete = row["n_seeds"] >= _SEEDS_NEEDED and all(_is_complete(r, split) and _clean(r) for r in told)
    if not complete or claim.paper is None or claim.deviates:
        return "partial"
    least = claim.measures.tolerance or (claim.resolution or 0) / 2
    tolerance = max(least, 2 * ((row["paper_std"] or 0) ** 2 + row["ours_std"] ** 2) ** 0.5)
    if abs(row["delta"]) <= tolerance + _ROUNDING:
        return "reproduced"
    return "below" if row["delta"] < 0 else "above"


def _gain(claim: Claim, baseline: Claim, shown: Mapping[str, Sequence[Result]]) -> dict:
    """The difference to the baseline, seed by seed."""
    ours, theirs = (by_pair(shown[row.id]) for row in (claim, baseline))
    found = paired.difference([ours[run].value - theirs[run].value for run in sorted(ours.keys() & theirs.keys())])
    return {
        "paper_gain": None if None in (claim.paper, baseline.paper) else round(claim.paper - baseline.paper, _PLACES),
        "gain": found.mean,
        "gain_low": found.low,
        "gain_high": found.high,
        "gain_n": found.pairs,
        "gain_p": found.p,
    }


def by_pair(shown: Sequence[Result]) -> dict[tuple, Result]:
    """What is shown of a row, by what a run has in common with its counterpart of the baseline.

    Two profiles, a GPU in half precision and a CPU, or two codes differ by more than the rows' methods; numbers of
    threads differ by less. Of a row whose evidence contradicts itself there is nothing.
    """
    if any(result.faults for result in shown):
        return {}
    return {_alike(result): result for result in shown if result.evidence and result.value is not None}


def _alike(result: Result) -> tuple:
    evidence = result.evidence
    device = _THREADS.sub("", evidence.device)
    return evidence.profile, "" if result.standing.is_current else evidence.code, evidence.seed, device


_THREADS = re.compile(r", \d+ threads?$")


def _judged(frame: pd.DataFrame) -> pd.DataFrame:
    """With a verdict on every printed gain that was measured on real data by today's code."""
    ours, printed, pairs, p = (frame[name].astype("float64") for name in ("gain", "paper_gain", "gain_n", "gain_p"))
    of_today = ~frame["status"].isin(["stale", "unknown"]) & ~picture.on_stand_ins(frame)
    pairs = pairs.where(of_today & (printed.fillna(0) != 0))
    p = paired.holm(p.where(pairs > 0))
    return frame.assign(gain_p_holm=p, gain_verdict=paired.verdicts(pairs, p, ours * printed > 0, "agrees", "opposite"))


def _is_complete(result: Result, split: Split) -> bool:
    """Whether it is the paper's own run, whole."""
    evidence = result.evidence
    examples = (evidence.dataset["train_examples"], evidence.dataset["test_examples"])
    return (
        evidence.profile == "paper"
        and result.scale.is_papers
        and evidence.epochs_completed == evidence.epochs_planned
        and examples == (split.train_examples, split.test_examples)
    )


def _clean(result: Result) -> bool:
    """Whether the code that made it can be found again."""
    return result.evidence.dirty is False and _COMMIT.fullmatch(result.evidence.commit) is not None


_COMMIT = re.compile("[0-9a-f]{7,64}")


def _joined(values) -> str:
    return ", ".join(sorted(set(values)))


def _cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Return ``frame`` as text, so that no writer takes a commit for a number or rounds in its own way."""
    return pd.DataFrame([_texts(row) for row in frame.to_dict("records")], columns=frame.columns)


def _texts(row: dict) -> dict:
    quantity = QUANTITIES[row["quantity"]]
    texts = {name: "" if pd.isna(value) else one_line(str(value)) for name, value in row.items()}
    texts |= {name: "" if pd.isna(row[name]) else f"{row[name]:.3f}" for name in _PS}
    return texts | {name: quantity.text(row[name]) for name in _VALUES}


def _markdown(frame: pd.DataFrame, table: ClaimTable, profile: str) -> str:
    cells, stand_ins = _apart(frame)
    gains = any(_cells(frame)[name].any() for name in ("paper_gain", "gain"))
    about = PROFILES[profile] if any(row.trained for row in table.rows) else "Nothing here needs training."
    origin = f"{markdown_cell(table.printed_in)}. Profile: `{profile}`. {about}"
    parts = [f"# {markdown_cell(table.title)}", origin, _filled(cells)]
    if not stand_ins.empty:
        order = ["data", *(name for name in stand_ins if name != "data")]
        parts += ["## On stand-in data: no claim about the paper", _filled(stand_ins[order])]
    return "\n\n".join([*parts, _LEGEND + (_GAINS if gains else "")])


def _filled(cells: pd.DataFrame) -> str:
    filled = cells[[name for name in cells if cells[name].any()]]
    return filled.map(markdown_cell).to_markdown(index=False, disable_numparse=True)
