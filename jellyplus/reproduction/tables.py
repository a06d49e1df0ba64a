"""From a table's rows to their runs, and to what there is for them."""

from collections.abc import Iterable
from pathlib import Path

from jellyplus.reproduction.claims import Claim, ClaimTable
from jellyplus.reproduction.evidence import Evidence
from jellyplus.reproduction.measurements import Measurements
from jellyplus.reproduction.today import Standing
from jellyplus.reproduction.view import Result
from jellyplus.training.recipe import Run, has_profile, load_run

__all__ = ["measure", "offers", "results", "runs"]


def offers(table: ClaimTable, profile: str, recipes: Path) -> bool:
    """Whether all recipes of a table have the profile: ``official`` is of papers with public code.

    Raises:
        InputError: the profiles of a paper cannot be read.
    """
    return all(has_profile(row.recipe, profile, recipes) for row in table.rows if row.trained)


def runs(table: ClaimTable, profile: str, recipes: Path) -> dict[str, Run]:
    """The run of every row that trains, by the id of the row.

    Args:
        table: the claims.
        profile: over all recipes.
        recipes: folder of the recipes.

    Raises:
        InputError: a recipe is missing or damaged, or an override does not fit it.
    """
    return {row.id: load_run(row.recipe, profile, recipes, row.overrides) for row in table.rows if row.trained}


def measure(
    table: ClaimTable, wanted: dict[str, Run], measurements: Measurements, made: Iterable[tuple[Run, int]]
) -> None:
    """Measure on the networks of finished runs what rows need measured.

    Args:
        table: the claims.
        wanted: from :func:`runs`, of the rows that are wanted.
        measurements: of the results folder.
        made: runs that are finished, and their seeds.

    Raises:
        InputError: a measurement cannot be made or written.
    """
    needed = {(wanted[r.id].key, r.measures.measure) for r in table.rows if r.id in wanted and r.measures.measure}
    for run, seed in made:
        for name in sorted(name for key, name in needed if key == run.key):
            if not measurements.is_made(run, name, {}, seed):
                measurements.make(run, name, {}, seed)


def results(
    table: ClaimTable, made: dict[str, Run], measurements: Measurements, recipes: Path
) -> dict[str, list[Result]]:
    """What there is for every row, by its id: of its run, with its standing, or what takes no run.

    Args:
        table: the claims.
        made: from :func:`runs`.
        measurements: of the results folder.
        recipes: folder of the recipes.

    Raises:
        InputError: damaged evidence, or as :func:`runs`.
    """
    found = {row.id: _of_run(row, made[row.id], measurements) for row in table.rows if row.trained}
    cells = {row.id: row.paper for row in table.rows}
    for row in table.rows:
        if row.measures.source == "network" and row.recipe:
            recipe = load_run(row.recipe, "paper", recipes, row.overrides).recipe
            found[row.id] = [Result(row.measures.of(recipe))]
        elif row.follows:
            found[row.id] = [Result(row.measures.of(*(cells[name] for name in row.operands)))]
    return found


def _of_run(row: Claim, run: Run, measurements: Measurements) -> list[Result]:
    runner = measurements.runner
    judged = [(e, runner.today.standing(e, run, runner.store)) for e in runner.store.runs(run.key)]
    made = [(e, standing if row.counted else standing.of_training) for e, standing in judged]
    if row.counted:
        return [_counted(row, e, standing) for e, standing in made]
    if not row.measures.measure:
        return [Result(row.measures.of(e), e, standing) for e, standing in made]
    found = [(*pair, measurements.find(run, row.measures.measure, {}, pair[0].seed)) for pair in made]
    return [
        Result(row.measures.of(m), e, standing)
        for e, standing, m in found
        if m and standing.is_current == measurements.is_current(m, run)  # of one age
    ]


def _counted(row: Claim, evidence: Evidence, standing: Standing) -> Result:
    """By the convention of the row, with the standard error; without a value where it was counted by another."""
    value = row.measures.of(evidence, row.convention)
    if value is None:
        note = "counted by another convention than the paper's: make the run again"
        return Result(None, evidence, standing, note)
    error = row.measures.error(evidence, row.convention)
    examples = evidence.operations["examples"]
    note = f"± {row.measures.text(error)} over {examples:,} test examples" if error else ""
    return Result(value, evidence, standing, note)
