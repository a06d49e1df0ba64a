"""Claim: what a paper prints, typed by hand once in ``reproductions/claims/<table>.yaml``, a row for each cell."""

import dataclasses
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jellyplus._errors import InputError
from jellyplus._strict import from_mapping, load_yaml
from jellyplus.op_counter import CONVENTIONS
from jellyplus.registry import MEASURES, QUANTITIES
from jellyplus.reproduction.quantities import Quantity
from jellyplus.training.recipe import check_run_name

_LARGEST = 1e15  # of printed numbers; operations have 1e11


@dataclass(frozen=True)
class Split:
    """How many examples the data set of a claim has."""

    train_examples: int
    test_examples: int


@dataclass(frozen=True)
class Claim:
    """One printed cell and its row.

    Args:
        id: names the cell on the command line.
        dataset: as in the table's ``datasets``.
        method: the row's method.
        kind: ``own`` for the paper's own results, ``ablation`` and ``ann`` for what it compares them with,
            ``reported`` for what it quotes.
        architecture: the row's network, as printed; empty where none is.
        timesteps: T; None where none is printed.
        paper: the printed value; None where it is lost.
        paper_std: the printed standard deviation, None where there is none.
        recipe: the recipe that makes the value; None for what is quoted, and for what follows from other cells.
        note: deviations of ours and contradictions of the paper's.
        overrides: what the row changes in its recipe, in every profile.
        baseline: id of the cell that this one is compared with, seed by seed.
        quantity: what the value is, of :data:`jellyplus.registry.QUANTITIES`.
        operands: ids of the cells that the value follows from.
        readings: what a printed text that is ambiguous may mean, each as ours would be written.
        resolution: the last printed place, where it is not two decimals.
        truncated: whether the paper cut off there instead of rounding.
        convention: by which operations of a run are counted, of :data:`jellyplus.op_counter.CONVENTIONS`; None for
            other values.
        settings: of what is measured on the run's network, of :mod:`jellyplus.reproduction.measures`.
        deviates: in what network, data or method of the recipe are not those that the paper states. Nothing that it
            makes is then the paper's, whatever the value.
    """

    id: str
    dataset: str
    method: str
    kind: Literal["own", "ablation", "ann", "reported"]
    architecture: str
    timesteps: int | None
    paper: float | str | None
    paper_std: float | None
    recipe: str | None
    note: str
    overrides: dict = dataclasses.field(default_factory=dict)
    baseline: str | None = None
    quantity: str = "accuracy"
    operands: tuple[str, ...] = ()
    readings: tuple[str, ...] = ()
    resolution: float | None = None
    truncated: bool = False
    convention: str | None = None
    settings: dict = dataclasses.field(default_factory=dict)
    deviates: str = ""

    def __post_init__(self):
        if self.recipe is not None:
            check_run_name(self.recipe, f"recipe of row '{self.id}'")
        if self.quantity not in QUANTITIES:
            raise ValueError(f"row '{self.id}' has the quantity {self.quantity}; choose from {', '.join(QUANTITIES)}")
        self._check_printed()
        made = self.kind != "reported" and not self.follows
        if made != (self.recipe is not None):
            raise ValueError(
                f"row '{self.id}' is {self.kind}; give a recipe to own, ablation and ann rows and null to reported ones"
            )
        if self.follows != (len(self.operands) == 2):
            raise ValueError(f"row '{self.id}' must have two operands where it follows from other rows, and else none")
        if self.readings and not isinstance(self.paper, str):
            raise ValueError(f"row '{self.id}' has readings and prints a number; they are for ambiguous texts")
        if self.counted and self.convention not in CONVENTIONS:
            raise ValueError(
                f"row '{self.id}' counts operations by the convention {self.convention}; name one of "
                f"{', '.join(CONVENTIONS)}"
            )
        if not self.counted and self.convention is not None:
            raise ValueError(f"row '{self.id}' names a convention and counts no operations of a run; leave it out")
        if self.timesteps is not None and not 1 <= self.timesteps < 2**31:
            raise ValueError(f"row '{self.id}' has {self.timesteps} time-steps; give a positive number of them")
        if self.deviates and self.recipe is None:
            raise ValueError(f"row '{self.id}' has no recipe that could deviate; leave deviates out")
        if self.settings and not self.measures.measure:
            raise ValueError(f"row '{self.id}' has settings and nothing is measured for it; leave them out")

    @property
    def remarks(self) -> str:
        """In what ours deviates, and the note."""
        return "; ".join(filter(None, (self.deviates and f"deviates: {self.deviates}", self.note)))

    def _check_printed(self) -> None:
        """A text is printed for what is in words; all else is a number that can be computed with."""
        if self.paper is not None and isinstance(self.paper, str) != self.measures.in_words:
            kind = "a text" if self.measures.in_words else "a number"
            raise ValueError(f"row '{self.id}' has paper {self.paper!r}; {self.quantity} is {kind}")
        for name, least in (("paper", 0), ("paper_std", 0), ("resolution", 1 / _LARGEST)):
            value = getattr(self, name)
            if isinstance(value, float) and not least <= value <= _LARGEST:
                raise ValueError(f"row '{self.id}' has {name} {value}; give what is printed, up to {_LARGEST:g}")

    @property
    def measures(self) -> Quantity:
        """What the value is."""
        return QUANTITIES[self.quantity]

    @property
    def follows(self) -> bool:
        """Whether the value follows from those of other cells."""
        return self.measures.source == "cells"

    @property
    def counted(self) -> bool:
        """Whether the value is a number of operations of a run."""
        return self.trained and self.measures.error is not None

    @property
    def trained(self) -> bool:
        """Whether it takes a run to have the value."""
        return self.recipe is not None and self.measures.source == "run"


@dataclass(frozen=True)
class ClaimTable:
    """One printed table.

    Args:
        title: heading of the views.
        paper: short name, as of the recipes' folder.
        printed_in: where it is printed.
        datasets: data set by name.
        rows: in the paper's order.
    """

    title: str
    paper: str
    printed_in: str
    datasets: dict[str, Split]
    rows: tuple[Claim, ...]

    @property
    def is_comparison(self) -> bool:
        """Whether nothing is printed that ours could be held against: rows are compared with each other."""
        return all(row.paper is None for row in self.rows)

    def __post_init__(self):
        for row_id, count in Counter(row.id for row in self.rows).items():
            if count > 1:
                raise ValueError(f"{count} rows have the id '{row_id}'; give each its own")
        ids = {row.id for row in self.rows}
        printed = {row.id: row.paper for row in self.rows}
        for row in self.rows:
            if row.dataset not in self.datasets:
                raise ValueError(f"row '{row.id}' has the unknown dataset '{row.dataset}'; add it to datasets")
            if any(isinstance(printed.get(name), str) for name in (row.baseline, *row.operands)):
                raise ValueError(f"row '{row.id}' is computed from a text; name rows that print numbers")
            if row.follows and any(printed.get(name, 0) is None for name in row.operands):
                raise ValueError(f"row '{row.id}' follows from a value that is lost; name rows that have one")
            if unknown := {row.baseline, *row.operands} - ids - {None}:
                raise ValueError(f"row '{row.id}' names {', '.join(sorted(unknown))}; name rows of this table")


def is_table(path: Path) -> bool:
    """Whether the claims of this file are a table's, or of a comparison of our own; they are a figure's otherwise.

    Raises:
        InputError: its name says none of these.
    """
    if not path.stem.startswith(("table", "compare", "figure")):
        raise InputError(f"{path}: the names of claims begin with table, compare or figure; rename it")
    return not path.stem.startswith("figure")


def load_claims(path: str | os.PathLike) -> ClaimTable:
    """Read a table of claims.

    Raises:
        InputError: the file is not there or not YAML, a key is unknown or missing, a value is of another type, an id
            is given twice, a row names no known data set, quantity or row, or recipe and kind do not fit.
    """
    table = from_mapping(ClaimTable, load_yaml(path, Path(path).absolute().parents[1]), str(path))
    return dataclasses.replace(table, rows=tuple(_checked(row, str(path)) for row in table.rows))


def _checked(row: Claim, path: str) -> Claim:
    """Settings as the measure wants them."""
    if not row.measures.measure:
        return row
    settings = MEASURES[row.measures.measure].check(row.settings, f"{path}, settings of row '{row.id}'")
    return dataclasses.replace(row, settings=settings)
