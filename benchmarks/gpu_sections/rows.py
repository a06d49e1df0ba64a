"""The rows of tables that a GPU is asked for, the most valuable first, and the runs that make them."""

import functools
from pathlib import Path
from typing import NamedTuple

from jellyplus.reproduction import tables
from jellyplus.reproduction.claims import Claim, ClaimTable, load_claims
from jellyplus.training.recipe import Run

__all__ = ["REPRODUCTIONS", "ROWS", "Row", "claim_of", "run_of", "shortened", "table_of"]

REPRODUCTIONS = Path(__file__).parents[2] / "reproductions"
_RECIPES = REPRODUCTIONS.parent / "recipes"


class Row(NamedTuple):
    """A row that starts from no other run.

    Args:
        table: its script.
        row: its id there.
        recipe: as the claim names it.
        least: epochs below which it says too little to be worth the time; None for the paper's own number, no less.
        seeds: of its runs.
    """

    table: str
    row: str
    recipe: str
    least: int | None
    seeds: tuple[int, ...] = (0,)


_EPSILONS = ("0-1", "0-001", "0-5", "0-01", "0-05", "0-2")
#: CIFAR-10 first, which no CPU reaches: a schedule that comes near the paper's, of any paper, before a short one of the
#: first paper. MNIST, which is made whole, fills what is left.
ROWS = (
    Row("table1_tdbn", "cifar10-t2", "tdbn/cifar10_resnet19_t2", 35),
    Row("table2_inflor", "cifar10-resnet20-mpr", "inflor/cifar10_resnet20_t4", 40),
    Row("table2_shortcut", "cifar10-evolutionary-t2", "shortcut/cifar10_resnet18_t2_evolutionary", 40),
    Row("table1_tdbn", "cifar10-t2", "tdbn/cifar10_resnet19_t2", 12),
    Row("table2_inflor", "cifar10-resnet20-mpr", "inflor/cifar10_resnet20_t4", 12),
    Row("table1_dspike", "rectangular", "dspike/mnist_toy_rectangular", None, (0, 1, 2)),
    *(
        Row("table1_dspike", f"epsilon-{epsilon}", "dspike/mnist_toy_finite_differences", None, (0, 1, 2))
        for epsilon in _EPSILONS
    ),
)


@functools.cache
def table_of(row: Row) -> ClaimTable:
    """The table's claims."""
    return load_claims(REPRODUCTIONS / "claims" / f"{row.table}.yaml")


def claim_of(row: Row) -> Claim:
    """What the paper prints there."""
    return next(claim for claim in table_of(row).rows if claim.id == row.row)


@functools.cache
def run_of(row: Row, profile: str = "paper") -> Run:
    """The run that makes it, with the paper's settings or those of another profile."""
    return tables.runs(table_of(row), profile, _RECIPES)[row.row]


def shortened(row: Row, epochs: int) -> Run:
    """The run of ``--profile gpu --epochs``."""
    return tables.shortened(table_of(row), [row.row], "gpu", epochs, _RECIPES)[row.row]
