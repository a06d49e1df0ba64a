"""The tables and rows that a GPU is asked for, the most valuable first, and the runs that make them."""

import functools
from pathlib import Path
from typing import NamedTuple

from jellyplus.reproduction import tables
from jellyplus.reproduction.claims import Claim, ClaimTable, load_claims
from jellyplus.training.recipe import Run

__all__ = ["REPRODUCTIONS", "ROWS", "TABLES", "Row", "Table", "claim_of", "run_of", "shortened", "table_of"]

REPRODUCTIONS = Path(__file__).parents[2] / "reproductions"
_RECIPES = REPRODUCTIONS.parent / "recipes"


class Table(NamedTuple):
    """A table whose networks are so small that many of them share the card.

    Args:
        table: its script.
        profile: at which its runs are made.
        seeds: of its runs.
        rows: of it; none means all.
    """

    table: str
    profile: str
    seeds: tuple[int, ...]
    rows: tuple[str, ...] = ()


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


_NODES = ("hard-if", "hard-lif", "srif")
_PARTS = ("bare", "tdbn", "imloss", "esg", "imloss-esg", "all")
#: Those that get verdicts, made whole. The comparison has fifteen rows to correct for, and two more seeds, of a CPU.
#: Then gains that papers print on CIFAR-10.
TABLES = (
    Table("compare_methods", "small", (0, 1, 2)),
    Table("table1_dspike", "paper", (0, 1, 2)),
    Table("compare_rates", "small", (0, 1, 2)),
    Table("table1_inflor", "small", (0, 1, 2), tuple(f"cifar10-{n}-t{t}" for t in (2, 4) for n in _NODES)),
    Table("table2_inflor", "small", (0, 1, 2), ("cifar10-resnet20-no-mpr", "cifar10-resnet20-mpr")),
    Table("table1_imloss", "small", (0, 1, 2), tuple(f"cifarnet-{parts}" for parts in _PARTS)),
)
#: CIFAR-10 at the papers' width, which no CPU reaches: a schedule that comes near the paper's, of any paper, before a
#: short one of the first paper.
ROWS = (
    Row("table1_tdbn", "cifar10-t2", "tdbn/cifar10_resnet19_t2", 35),
    Row("table2_inflor", "cifar10-resnet20-mpr", "inflor/cifar10_resnet20_t4", 40),
    Row("table2_shortcut", "cifar10-evolutionary-t2", "shortcut/cifar10_resnet18_t2_evolutionary", 40),
    Row("table1_tdbn", "cifar10-t2", "tdbn/cifar10_resnet19_t2", 12),
    Row("table2_inflor", "cifar10-resnet20-mpr", "inflor/cifar10_resnet20_t4", 12),
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
