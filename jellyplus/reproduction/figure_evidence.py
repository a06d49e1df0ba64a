"""From the claim of a figure to what its series show: runs trained, networks measured, formulas computed."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from jellyplus._bars import bar
from jellyplus.reproduction import checks, scale
from jellyplus.reproduction.evidence import Evidence
from jellyplus.reproduction.figure_claims import FigureClaim, Panel, Series
from jellyplus.reproduction.figure_view import Shown
from jellyplus.reproduction.measurements import Measurements
from jellyplus.reproduction.store import Store
from jellyplus.reproduction.today import Standing
from jellyplus.training.recipe import Run
from jellyplus.training.recipe_files import load_run

__all__ = ["Planned", "measure", "plan", "runs", "status", "view"]


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
    store = measurements.runner.store
    if shared := checks.among(store.runs(planned.run.key)):
        return Shown(status="conflict", note="; ".join(shared))
    found = (next(_found(planned, measurements, seed), None) for seed in _seeds(planned, store))
    return _together([shown for shown in found if shown])


def _seeds(planned: Planned, store: Store) -> list[int]:
    """Those that there is evidence of."""
    _, series, run, _ = planned
    if series.measures_network:
        return sorted({m.seed for m in store.measurements(run.key, series.measure, series.settings)})
    return sorted({evidence.seed for evidence in store.runs(run.key)})


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


def _found(planned: Planned, measurements: Measurements, seed: int) -> Iterator[Shown]:
    """What evidence has, best first."""
    runner = measurements.runner
    _, series, run, paper = planned
    if series.measures_network:
        if m := measurements.find(run, series.measure, series.settings, seed):
            if m.dataset != run.recipe.data.dataset:
                yield Shown(status="conflict", note=f"its data are {m.dataset}, not {run.recipe.data.dataset}")
            of = scale.of_measurement(m, run, paper, series.needs_training)
            standing = runner.today.standing(m, run, runner.store)
            yield Shown(m.x, m.y, m.numbers, _status(standing, of), of, code="" if standing.is_current else m.code)
        return
    of_seed = [e for e in runner.store.runs(run.key) if e.seed == seed]
    judged = [(e, runner.today.standing(e, run, runner.store).of_training) for e in of_seed]
    if faults := _faults(judged, runner.store):
        yield Shown(status="conflict", note="; ".join(faults))
    for e, standing in sorted(judged, key=lambda pair: not pair[1].is_current):
        curve, of = series.how.function(e.history, **series.settings), scale.of_evidence(e, run, paper)
        code = "" if standing.is_current else e.code
        yield Shown(curve.x, curve.y, curve.numbers, _status(standing, of), of, code=code)


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
