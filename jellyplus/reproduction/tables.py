"""From a table's rows to their runs, and to what there is for them."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from jellyplus._errors import InputError
from jellyplus.reproduction import checks, comparison_view, scale, view
from jellyplus.reproduction.claims import Claim, ClaimTable, Split
from jellyplus.reproduction.evidence import Evidence
from jellyplus.reproduction.measurements import Measurements
from jellyplus.reproduction.store import Store
from jellyplus.reproduction.today import Standing
from jellyplus.reproduction.view import Result
from jellyplus.training.recipe import Run
from jellyplus.training.recipe_files import has_profile, load_run

__all__ = ["measure", "offers", "results", "runs", "shortened", "write"]


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


def shortened(table: ClaimTable, rows: Iterable[str], profile: str, epochs: int, recipes: Path) -> dict[str, Run]:
    """The runs of some rows in so many epochs, by id; a schedule in steps has its steps shortened alike.

    The epochs are a part of the resolved recipe: of its key, and of the evidence. What a run starts from has those of
    the profile.

    Args:
        table: the claims.
        rows: ids of rows that train.
        profile: ``gpu``, whose business epochs are.
        epochs: fewer than the paper's.
        recipes: folder of the recipes.

    Raises:
        InputError: another profile, as many epochs as the paper's or more, or as :func:`runs`.
    """
    if profile != "gpu":
        raise InputError(f"--epochs is for --profile gpu: {profile} has its own, in recipes/*/profiles.yaml")
    claims = {row.id: row for row in table.rows}
    return {name: _shortened(claims[name], profile, epochs, recipes) for name in rows}


def _shortened(row: Claim, profile: str, epochs: int, recipes: Path) -> Run:
    schedule = load_run(row.recipe, "paper", recipes, row.overrides).recipe.schedule
    if epochs >= schedule.epochs:
        raise InputError(f"--epochs {epochs}: row {row.id} of the paper has {schedule.epochs}; use --profile paper")
    changes = {"epochs": epochs}
    if schedule.step_epochs:
        changes["step_epochs"] = max(1, round(schedule.step_epochs * epochs / schedule.epochs))
    return load_run(row.recipe, profile, recipes, {**row.overrides, "schedule": changes})


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
    rows = [row for row in table.rows if row.id in wanted and row.measures.measure]
    for run, seed in made:
        for row in (row for row in rows if wanted[row.id].key == run.key):
            if not measurements.is_made(run, row.measures.measure, row.settings, seed):
                measurements.make(run, row.measures.measure, row.settings, seed)


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
    found = {}
    for row in table.rows:
        if row.trained:
            paper, split = scale.printed(row.recipe, recipes, row.overrides), table.datasets[row.dataset]
            results = _of_run(row, made[row.id], paper, split, measurements)
            found[row.id] = _checked(row, results, made[row.id], recipes, measurements.runner.store)
    cells = {row.id: row.paper for row in table.rows}
    for row in table.rows:
        if row.measures.source in ("network", "recipe") and row.recipe:
            paper = scale.printed(row.recipe, recipes, row.overrides)
            found[row.id] = [Result(row.measures.of(paper.recipe))]
        elif row.follows:
            found[row.id] = [Result(row.measures.of(*(cells[name] for name in row.operands)))]
    return found


def write(
    table: ClaimTable,
    made: dict[str, Run],
    measurements: Measurements,
    recipes: Path,
    profile: str,
    folder: Path,
    draw: bool = True,
) -> tuple[pd.DataFrame, str]:
    """Write the view of a table to ``folder``: beside the paper, or as a comparison where no paper prints anything.

    Args:
        table, made, measurements, recipes: as of :func:`results`.
        profile: that of ``made``.
        folder: of the view.
        draw: the picture too.

    Returns:
        The rows, and what a terminal shows of them.

    Raises:
        InputError: as :func:`results`, or the folder cannot be written.
    """
    of = comparison_view if table.is_comparison else view
    frame = of.build(table, results(table, made, measurements, recipes), profile)
    of.write(frame, table, folder, profile, draw)
    return frame, of.summary(frame)


def _checked(row: Claim, results: list[Result], run: Run, recipes: Path, store: Store) -> list[Result]:
    """With what contradicts what, which the row says in place of a value."""
    shared = checks.among([result.evidence for result in results])
    shared += checks.disagreements([(r.evidence, r.standing, row.measures.text(r.value)) for r in results])
    return [
        dataclasses.replace(result, faults=(*_faults(row, result.evidence, run, recipes, store), *shared))
        for result in results
    ]


def _faults(row: Claim, evidence: Evidence, run: Run, recipes: Path, store: Store) -> list[str]:
    found = checks.faults(evidence, store.checkpoint(evidence.key, evidence.seed, evidence.code))
    if not _is_of_profile(row, evidence, run, recipes):
        found.append(f"it says profile {evidence.profile}, whose recipe is another today")
    return [f"seed {evidence.seed}: {said}" for said in found]


def _is_of_profile(row: Claim, evidence: Evidence, run: Run, recipes: Path) -> bool:
    """Whether the recipe is that of the profile that evidence says; that of the profile it was found by, it is."""
    if evidence.profile == run.profile:
        return True
    try:
        return load_run(row.recipe, evidence.profile, recipes, row.overrides).key == evidence.key
    except InputError:
        return False


def _of_run(row: Claim, run: Run, paper: Run, split: Split, measurements: Measurements) -> list[Result]:
    runner = measurements.runner
    judged = [(e, runner.today.standing(e, run, runner.store)) for e in runner.store.runs(run.key)]
    results = [
        _result(row, e, standing if row.counted else standing.of_training, scale.of_evidence(e, run, paper, split))
        for e, standing in judged
    ]
    if not row.measures.measure:
        return results
    found = [
        (result, measurements.find(run, row.measures.measure, row.settings, result.evidence.seed)) for result in results
    ]
    return [
        dataclasses.replace(result, value=row.measures.of(m))
        for result, m in found
        if m and result.standing.is_current == measurements.is_current(m, run)  # of one age
    ]


def _result(row: Claim, evidence: Evidence, standing: Standing, of: scale.Scale) -> Result:
    """The row's value, where the evidence alone has it."""
    if row.measures.measure:
        return Result(None, evidence, standing, scale=of)
    if not row.counted:
        return Result(row.measures.of(evidence), evidence, standing, scale=of)
    value, note = _counted(row, evidence)
    return Result(value, evidence, standing, note, of)


def _counted(row: Claim, evidence: Evidence) -> tuple[float | None, str]:
    """By the convention of the row, with the standard error; without a value where it was counted by another."""
    value = row.measures.of(evidence, row.convention)
    if value is None:
        return None, "counted by another convention than the paper's: make the run again"
    error = row.measures.error(evidence, row.convention)
    examples = evidence.operations["examples"]
    return value, f"± {row.measures.text(error)} over {examples:,} test examples" if error else ""
