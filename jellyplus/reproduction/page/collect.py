"""From claims and evidence to what the page shows."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from jellyplus._errors import InputError
from jellyplus._files import below
from jellyplus._options import NOT_OF_FIGURES
from jellyplus._strict import from_mapping, load_yaml
from jellyplus.reproduction import figure_evidence, tables, view
from jellyplus.reproduction.claims import Claim, ClaimTable, is_table, load_claims
from jellyplus.reproduction.evidence import Evidence
from jellyplus.reproduction.figure_claims import load_figure
from jellyplus.reproduction.measurements import Measurements
from jellyplus.reproduction.page.pieces import Figure, Page, Paper, Picture, Piece, Row, Table
from jellyplus.reproduction.runner import Runner
from jellyplus.reproduction.store import Store
from jellyplus.reproduction.today import Today
from jellyplus.reproduction.views import Plan
from jellyplus.training.recipe import Run

__all__ = ["collect"]


def collect(reproductions: Path, roots: Sequence[Path]) -> Page:
    """Return what the page shows.

    Comparisons of our own come first, then the papers in the order of ``papers.yaml``, then others. Of every cell, the
    evidence is that of the most telling profile that has any.

    Args:
        reproductions: has ``claims/``; the recipes are in ``recipes/`` beside it.
        roots: folders of results, which need not be there; of evidence that several have, that of the first counts.

    Raises:
        InputError: there are no claims, or a claim, a recipe or a piece of evidence cannot be read.
    """
    paths = sorted((reproductions / "claims").glob("*.yaml"), key=_order)
    if not paths:
        raise InputError(f"there are no claims in {reproductions / 'claims'}; name the folder with --reproductions")
    runner = Runner(_Stores(roots), data_root=None, device="cpu")
    measurements, recipes = Measurements(runner), reproductions.parent / "recipes"
    Plan(reproductions).judge(measurements)  # all together, before each of them is asked for
    printed = [_table(path, roots, measurements, recipes) for path in paths if is_table(path)]
    figures = [_figure(path, roots, measurements, recipes) for path in paths if not is_table(path)]
    known = _papers(reproductions)
    own = sorted({part.claims.paper for part in (*printed, *figures)} - known.keys())
    papers = [_paper(name, known.get(name), printed, figures) for name in (*known, *own)]
    papers.sort(key=lambda paper: not paper.is_comparison)
    return Page(tuple(paper for paper in papers if paper.tables or paper.figures), runner.today.code)


@dataclass(frozen=True)
class _Papers:
    papers: dict[str, dict[str, str]]


@dataclass(frozen=True)
class _Known:
    short: str
    citation: str


def _papers(reproductions: Path) -> dict[str, _Known]:
    """The papers that ``papers.yaml`` of that folder names, in its order; none where there is no such file."""
    path = reproductions / "papers.yaml"
    if not path.is_file():
        return {}
    named = from_mapping(_Papers, {"papers": load_yaml(path, reproductions)}, str(path)).papers
    return {name: from_mapping(_Known, values, f"{path}, {name}") for name, values in named.items()}


def _paper(name: str, known: _Known | None, tables: Sequence[Table], figures: Sequence[Figure]) -> Paper:
    """What is printed in it; of one that is not known, what its claims say."""
    own = [tuple(part for part in parts if part.claims.paper == name) for parts in (tables, figures)]
    if not known:
        known = _Known(name, next(part.claims.printed_in for parts in own for part in parts))
    return Paper(name, known.short, known.citation, *own)


def _order(path: Path) -> tuple[bool, float, str]:
    """Tables before figures, 2 before 10, and those without a number behind the others."""
    number = re.match(r"[a-z]+(\d+)", path.stem)
    return not is_table(path), int(number[1]) if number else math.inf, path.stem


class _Stores(Store):
    """The evidence of several folders of results, as if of one; where two disagree on a run, both are there."""

    def __init__(self, roots: Sequence[Path]):
        super().__init__(roots[0] / "evidence")  # where what belongs to a run would be
        self._stores = [Store(root / "evidence") for root in roots]

    def files(self, key: str, pattern: str) -> list[Path]:
        found = {path.name: path for store in self._stores[::-1] for path in store.files(key, pattern)}
        return [found[name] for name in sorted(found)]

    def runs(self, key: str) -> list[Evidence]:
        return sorted((evidence for evidence, _ in self._found(key)), key=lambda e: (e.seed, e.code))

    def pieces(self, run: Run, today: Today) -> list[Piece]:
        """The evidence of a run, with its files."""
        return [Piece(evidence, path, today.standing(evidence, run, self)) for evidence, path in self._found(run.key)]

    def _found(self, key: str) -> list[tuple[Evidence, Path]]:
        """Equal evidence once."""
        found: dict[str, list[tuple[Evidence, Path]]] = defaultdict(list)
        for path in (path for store in self._stores for path in store.files(key, "seed*-*.json")):
            evidence, alike = self.read(path, Evidence), found[path.name]
            if evidence.key == key and all(evidence != other for other, _ in alike):
                alike.append((evidence, path))
        return [pair for name in sorted(found) for pair in found[name]]


def _table(path: Path, roots: Sequence[Path], measurements: Measurements, recipes: Path) -> Table:
    claims = load_claims(path)
    stores, today = measurements.runner.store, measurements.runner.today
    made = _most_telling(claims, measurements, recipes)
    results = tables.results(claims, made, measurements, recipes)
    frame = view.build(claims, results, "paper")
    rows = []
    for claim, values in zip(claims.rows, frame.to_dict("records"), strict=True):
        run = made.get(claim.id)
        measured = pd.notna(values["ours_mean"]) or values["status"] == "conflict"
        pieces = tuple(stores.pieces(run, today)) if run and measured else ()
        rows.append(
            Row(
                claim,
                {column: None if pd.isna(value) else value for column, value in values.items()},
                recipes / f"{claim.recipe}.yaml" if claim.recipe else None,
                pieces,
                run.profile if pieces else "computed" if measured else "",
            )
        )
    return Table(path.stem, claims, tuple(rows), _picture(roots, path.stem, "table.png"))


def _most_telling(claims: ClaimTable, measurements: Measurements, recipes: Path) -> dict[str, Run]:
    """Return the run of every row that trains, under the first profile that has a value of it."""
    rows = {claim.id: claim for claim in claims.rows}
    made: dict[str, Run] = {}
    for profile in (p for p in _PROFILES[::-1] if tables.offers(claims, p, recipes)):
        runs = tables.runs(claims, profile, recipes)
        made |= {name: run for name, run in runs.items() if name not in made or _has(rows[name], run, measurements)}
    return made


def _has(claim: Claim, run: Run, measurements: Measurements) -> bool:
    evidence, measure = measurements.runner.store.runs(run.key), claim.measures.measure
    return any(not measure or measurements.find(run, measure, claim.settings, e.seed) for e in evidence)


def _figure(path: Path, roots: Sequence[Path], measurements: Measurements, recipes: Path) -> Figure:
    """Under the first profile that anything was measured in; where nothing was, or had to be, under any."""
    claims = load_figure(path)
    for profile in (p for p in _PROFILES if p not in NOT_OF_FIGURES):
        planned = figure_evidence.plan(claims, profile, recipes)
        statuses = Counter(figure_evidence.status(series, measurements) for series in planned)
        if statuses.keys() - {"computed", "not-run"}:
            return Figure(path.stem, claims, statuses, _picture(roots, path.stem, "figure.png", (profile,)))
    return Figure(path.stem, claims, statuses, _picture(roots, path.stem, "figure.png"))


_PROFILES = ("paper", "gpu", "official", "small", "embedded")


def _picture(roots: Sequence[Path], name: str, file: str, profiles: Sequence[str] = _PROFILES) -> Picture | None:
    paths = ((below(root / profile / name / file, root), profile) for profile in profiles for root in roots)
    return next((Picture(path, profile) for path, profile in paths if path.is_file()), None)
