"""From the claim of a figure to what its series show: runs trained, networks measured, formulas computed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from jellyplus.reproduction.figure_claims import FigureClaim, Panel, Series
from jellyplus.reproduction.figure_view import Shown
from jellyplus.reproduction.measurements import Measurements
from jellyplus.reproduction.today import Standing
from jellyplus.training.recipe import Run, load_run

__all__ = ["SEED", "Planned", "measure", "plan", "runs", "status", "view"]

SEED = 0  #: that figures show where nobody asks for another


class Planned(NamedTuple):
    """A series and the run that it measures, None where it needs none."""

    panel: Panel
    series: Series
    run: Run | None


def plan(claim: FigureClaim, profile: str, recipes: Path) -> list[Planned]:
    """Resolve the recipe of every series.

    Raises:
        InputError: a recipe is missing, or the overrides do not fit it.
    """
    return [
        Planned(panel, s, load_run(s.recipe, profile, recipes, s.overrides) if s.recipe else None)
        for panel in claim.panels
        for s in panel.series
    ]


def runs(planned: Sequence[Planned]) -> list[Run]:
    """Those that must be finished before anything can be shown of them."""
    return [run for _, series, run in planned if series.needs_training]


def measure(planned: Sequence[Planned], measurements: Measurements, seed: int, shard: tuple[int, int] = (1, 1)) -> None:
    """Measure what has no current measurement, as far as the runs are there.

    Args:
        planned: the series.
        measurements: of the results folder.
        seed: of the runs.
        shard: (i, n): only the i-th of n parts.

    Raises:
        InputError: a measurement cannot be made or written.
    """
    number, shards = shard
    needed = {
        (run.key, series.measure, repr(series.settings)): (run, series)
        for _, series, run in planned
        if series.measures_network
    }
    asked = list(needed.values())[number - 1 :: shards]  # no two parts have one in common
    for run, series in tqdm(asked, "measuring", unit="series", leave=False, disable=not asked):
        there = not series.needs_training or measurements.runner.is_made(run, seed, counted=False)
        if there and not measurements.is_made(run, series.measure, series.settings, seed):
            measurements.make(run, series.measure, series.settings, seed)


def view(planned: Sequence[Planned], measurements: Measurements, seed: int) -> list[tuple[Panel, Series, Shown]]:
    """What there is for every series.

    Current evidence is shown where there is any, otherwise other, as ``stale`` or ``unknown``.
    """
    return [(panel, series, _shown(series, run, measurements, seed)) for panel, series, run in planned]


def status(planned: Planned, measurements: Measurements, seed: int) -> str:
    """What :func:`view` would say of a series, without computing formulas."""
    _, series, run = planned
    return "computed" if run is None else next(_found(series, run, measurements, seed), Shown()).status


def _shown(series: Series, run: Run | None, measurements: Measurements, seed: int) -> Shown:
    if run is None:
        curve = series.how.function(**series.settings)
        return Shown(curve.x, curve.y, curve.numbers, "computed")
    return next(_found(series, run, measurements, seed), Shown())


def _found(series: Series, run: Run, measurements: Measurements, seed: int) -> Iterator[Shown]:
    """What evidence has, best first."""
    runner = measurements.runner
    if series.measures_network:
        if m := measurements.find(run, series.measure, series.settings, seed):
            standing = runner.today.standing(m, run, runner.store)
            yield Shown(m.x, m.y, m.numbers, _status(run, standing), m.stand_in)
        return
    of_seed = [e for e in runner.store.runs(run.key) if e.seed == seed]
    judged = [(e, runner.today.standing(e, run, runner.store).of_training) for e in of_seed]
    for e, standing in sorted(judged, key=lambda pair: not pair[1].is_current):
        curve = series.how.function(e.history, **series.settings)
        yield Shown(curve.x, curve.y, curve.numbers, _status(run, standing), e.dataset.get("stand_in", False))


def _status(run: Run, standing: Standing) -> str:
    if not standing.is_current:
        return standing.status
    return "measured" if run.profile == "paper" else "partial"
