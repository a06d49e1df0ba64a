"""From the claim of a figure to what its series show: runs trained, networks measured, formulas computed."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, TypeVar

from jellyplus._bars import bar
from jellyplus.reproduction import checks, scale
from jellyplus.reproduction.evidence import Evidence, Measurement
from jellyplus.reproduction.figure_claims import FigureClaim, Panel, Series
from jellyplus.reproduction.figure_view import Shown
from jellyplus.reproduction.measurements import Measurements
from jellyplus.reproduction.store import Store
from jellyplus.reproduction.today import Standing
from jellyplus.training.recipe import Run
from jellyplus.training.recipe_files import load_run

__all__ = ["Planned", "measure", "plan", "runs", "status", "view"]


_Record = TypeVar("Record", Evidence, Measurement)


class Planned(NamedTuple):
    """A series and the run that it measures, under a profile and as its recipe is printed; None where it needs none."""

    panel: Panel
    series: Series
    run: Run | None
    paper: Run | None = None


def plan(claim: FigureClaim, profile: str, recipes: Path) -> list[Planned]:
    """Resolve the recipe of every series.

    Raises:
        InputError: a recipe is missing, or the overrides do not fit it.
    """
    return [
        Planned(
            panel,
            s,
            load_run(s.recipe, profile, recipes, s.overrides) if s.recipe else None,
            scale.printed(s.recipe, recipes, s.overrides) if s.recipe else None,
        )
        for panel in claim.panels
        for s in panel.series
    ]


def runs(planned: Sequence[Planned]) -> list[Run]:
    """Those that must be finished before anything can be shown of them."""
    return [run for _, series, run, _ in planned if series.needs_training]


def measure(
    planned: Sequence[Planned],
    measurements: Measurements,
    seeds: Iterable[int],
    shard: tuple[int, int],
    own: Iterable[tuple[Run, int]],
) -> None:
    """Measure what has no current measurement, as far as the runs are there.

    Args:
        planned: the series.
        measurements: of the results folder.
        seeds: of the runs.
        shard: (i, n): only the i-th of n parts of what needs no training.
        own: runs and seeds of this shard: what is measured on them is measured where they are made.

    Raises:
        InputError: a measurement cannot be made or written.
    """
    number, shards = shard
    needed = {
        (run.key, series.measure, repr(series.settings), seed): (run, series, seed)
        for seed in dict.fromkeys(seeds)
        for _, series, run, _ in planned
        if series.measures_network
    }
    made = {(run.key, seed) for run, seed in own}
    fresh = [what for what in needed.values() if not what[1].needs_training]
    asked = [what for what in needed.values() if what[1].needs_training and (what[0].key, what[2]) in made]
    asked += fresh[number - 1 :: shards]  # no two parts have one in common
    for run, series, seed in bar(asked, "measuring", unit="series", leave=False, disable=not asked):
        there = not series.needs_training or measurements.runner.is_made(run, seed, counted=False)
        if there and not measurements.is_made(run, series.measure, series.settings, seed):
            measurements.make(run, series.measure, series.settings, seed)


def view(planned: Sequence[Planned], measurements: Measurements) -> list[tuple[Panel, Series, Shown]]:
    """What there is for every series, of all seeds together.

    Current evidence is shown where there is any, otherwise other, as ``stale`` or ``unknown``.
    """
    return [(what.panel, what.series, _shown(what, measurements)) for what in planned]


def status(planned: Planned, measurements: Measurements) -> str:
    """What :func:`view` would say of a series, without computing formulas."""
    return "computed" if planned.run is None else _of_seeds(planned, measurements).status


def _shown(planned: Planned, measurements: Measurements) -> Shown:
    if planned.run is None:
        curve = planned.series.how.function(**planned.series.settings)
        return Shown(curve.x, curve.y, curve.numbers, "computed")
    return _of_seeds(planned, measurements)


def _of_seeds(planned: Planned, measurements: Measurements) -> Shown:
    """What evidence has of all seeds; read once."""
    store, series, run = measurements.runner.store, planned.series, planned.run
    runs = store.runs(run.key) if series.needs_training else []
    if shared := checks.among(runs):
        return Shown(status="conflict", note="; ".join(shared))
    kept = store.measurements(run.key, series.measure, series.settings) if series.measures_network else runs
    show = _measured if series.measures_network else _course
    by_seed = itertools.groupby(sorted(kept, key=attrgetter("seed")), key=attrgetter("seed"))
    return _together([show(planned, list(of_seed), measurements) for _, of_seed in by_seed])


def _together(found: Sequence[Shown]) -> Shown:
    """The mean over seeds, and the lowest and highest of them; evidence that contradicts itself comes first.

    Seeds are of one kind, current before other, those by the same other code, and have the same x.
    """
    if not found:
        return Shown()
    first = min(found, key=lambda shown: (shown.status != "conflict", shown.status in ("stale", "unknown")))
    alike = [shown for shown in found if _kind(shown) == _kind(first)]
    if len(alike) == 1 or first.status == "conflict":
        return first
    columns = list(zip(*(shown.y for shown in alike), strict=True))
    low, high = (tuple(map(of, columns)) for of in (min, max))
    numbers = [shown.numbers or {} for shown in alike]
    means = {name: fmean(of[name] for of in numbers) for name in numbers[0] if all(name in of for of in numbers)}
    return replace(first, y=tuple(map(fmean, columns)), low=low, high=high, numbers=means, seeds=len(alike))


def _kind(shown: Shown) -> tuple:
    return shown.status, shown.code, tuple(shown.x)


def _measured(planned: Planned, found: Sequence[Measurement], measurements: Measurements) -> Shown:
    """What was measured with a seed: the measurement that today's code would repeat, if there is one."""
    _, series, run, paper = planned
    judged = [(m, measurements.runner.today.standing(m, run, measurements.runner.store)) for m in found]
    m, standing = _best(judged)
    if m.dataset != run.recipe.data.dataset:
        return Shown(status="conflict", note=f"its data are {m.dataset}, not {run.recipe.data.dataset}")
    of = scale.of_measurement(m, run, paper, series.needs_training)
    return Shown(m.x, m.y, m.numbers, _status(standing, of), of, code=_code(m, standing))


def _course(planned: Planned, found: Sequence[Evidence], measurements: Measurements) -> Shown:
    """What a run's history has."""
    _, series, run, paper = planned
    store = measurements.runner.store
    judged = [(e, measurements.runner.today.standing(e, run, store).of_training) for e in found]
    if faults := _faults(judged, store):
        return Shown(status="conflict", note="; ".join(faults))
    e, standing = _best(judged)
    curve, of = series.how.function(e.history, **series.settings), scale.of_evidence(e, run, paper)
    return Shown(curve.x, curve.y, curve.numbers, _status(standing, of), of, code=_code(e, standing))


def _best(judged: Sequence[tuple[_Record, Standing]]) -> tuple[_Record, Standing]:
    """The first that is current, or else the first."""
    return min(judged, key=lambda pair: not pair[1].is_current)


def _code(record: Evidence | Measurement, standing: Standing) -> str:
    return "" if standing.is_current else record.code


def _faults(judged: Sequence[tuple[Evidence, Standing]], store: Store) -> list[str]:
    """What contradicts what in the evidence of a seed."""
    found = [said for e, _ in judged for said in checks.faults(e, store.checkpoint(e.key, e.seed, e.code))]
    return found + checks.disagreements([(e, standing, f"{e.accuracy_last:.2f}") for e, standing in judged])


def _status(standing: Standing, of: scale.Scale) -> str:
    if not standing.is_current:
        return standing.status
    if of.stand_in:
        return scale.STAND_IN
    return "measured" if of.is_papers else "partial"
