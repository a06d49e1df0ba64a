"""Claim: what a paper prints, typed by hand once in ``reproductions/claims/<table>.yaml``."""

import os
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from jellyplus._strict import from_mapping, load_yaml


@dataclass(frozen=True)
class Split:
    """How many examples the data set of a claim has."""

    train_examples: int
    test_examples: int


@dataclass(frozen=True)
class Claim:
    """One row of a printed table.

    Args:
        id: names the row on the command line.
        dataset: as in the table's ``datasets``.
        method: the row's method.
        kind: ``own`` for the paper's own results, ``reported`` for those it quotes.
        architecture: the row's network.
        timesteps: T.
        paper: the printed value.
        paper_std: the printed standard deviation, None where there is none.
        recipe: the recipe that makes an own row; None for a reported one.
        note: deviations of ours and contradictions of the paper's.
    """

    id: str
    dataset: str
    method: str
    kind: Literal["own", "reported"]
    architecture: str
    timesteps: int
    paper: float
    paper_std: float | None
    recipe: str | None
    note: str

    def __post_init__(self):
        if (self.kind == "own") != (self.recipe is not None):
            raise ValueError(f"row '{self.id}' is {self.kind}; give a recipe to own rows and null to reported ones")
        if not 1 <= self.timesteps < 2**31:
            raise ValueError(f"row '{self.id}' has {self.timesteps} time-steps; give a positive number of them")


@dataclass(frozen=True)
class ClaimTable:
    """One printed table.

    Args:
        title: heading of the views.
        paper: short name, as of the recipes' folder.
        printed_in: where it is printed.
        metric: what the values are.
        datasets: data set by name.
        rows: in the paper's order.
    """

    title: str
    paper: str
    printed_in: str
    metric: str
    datasets: dict[str, Split]
    rows: tuple[Claim, ...]

    def __post_init__(self):
        for row_id, count in Counter(row.id for row in self.rows).items():
            if count > 1:
                raise ValueError(f"{count} rows have the id '{row_id}'; give each its own")
        for row in self.rows:
            if row.dataset not in self.datasets:
                raise ValueError(f"row '{row.id}' has the unknown dataset '{row.dataset}'; add it to datasets")


def load_claims(path: str | os.PathLike) -> ClaimTable:
    """Read a table of claims.

    Raises:
        InputError: the file is not there or not YAML, a key is unknown or missing, a value is of another type, an id
            is given twice, a row names no known data set, or an own row names no recipe.
    """
    return from_mapping(ClaimTable, load_yaml(path), str(path))
