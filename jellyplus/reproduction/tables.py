"""From a table's rows to their runs, and to what there is for them."""

from pathlib import Path

from jellyplus.reproduction.claims import Claim, ClaimTable
from jellyplus.reproduction.evidence import Store
from jellyplus.reproduction.view import Result
from jellyplus.training.recipe import Run, load_run

__all__ = ["results", "runs"]


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


def results(table: ClaimTable, made: dict[str, Run], store: Store, recipes: Path) -> dict[str, list[Result]]:
    """What there is for every row, by its id: of its run whatever the seed and the code, or what takes no run.

    Args:
        table: the claims.
        made: from :func:`runs`.
        store: of the evidence.
        recipes: folder of the recipes.

    Raises:
        InputError: damaged evidence, or as :func:`runs`.
    """
    found = {row.id: _of_run(row, made[row.id], store) for row in table.rows if row.trained}
    cells = {row.id: row.paper for row in table.rows}
    for row in table.rows:
        if row.measures.source == "network" and row.recipe:
            recipe = load_run(row.recipe, "paper", recipes, row.overrides).recipe
            found[row.id] = [Result(row.measures.of(recipe))]
        elif row.follows:
            found[row.id] = [Result(row.measures.of(*(cells[name] for name in row.operands)))]
    return found


def _of_run(row: Claim, run: Run, store: Store) -> list[Result]:
    return [Result(row.measures.of(evidence), evidence) for evidence in store.find_any(run.key)]
