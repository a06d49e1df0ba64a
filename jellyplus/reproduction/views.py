"""All views of a results folder: written again from claims and evidence, or compared with those that are there."""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jellyplus._errors import InputError
from jellyplus._files import below, read_file
from jellyplus._options import NOT_OF_FIGURES, PROFILES
from jellyplus._text import one_line
from jellyplus.reproduction import figure_evidence, figure_view, tables
from jellyplus.reproduction.claims import ClaimTable, is_table, load_claims
from jellyplus.reproduction.evidence import Evidence, Measurement
from jellyplus.reproduction.figure_claims import FigureClaim, load_figure
from jellyplus.reproduction.measurements import Measurements
from jellyplus.reproduction.runner import Runner
from jellyplus.reproduction.store import Store
from jellyplus.reproduction.today import Standing
from jellyplus.training.recipe import Run

__all__ = ["Plan", "differences", "main", "write_all"]

Record = Evidence | Measurement

_OF_FIGURES = tuple(profile for profile in PROFILES if profile not in NOT_OF_FIGURES)
_COMPARED = ("table.csv", "table.md", "figure.csv")  # pictures depend on the versions of fonts and libraries too


class Plan:
    """The claims of a checkout and their runs under every profile, read once.

    Args:
        reproductions: has ``claims/``; the recipes are beside it.

    Raises:
        InputError: there are no claims, or a claim or a recipe is damaged.
    """

    def __init__(self, reproductions: Path):
        if not (reproductions / "claims").is_dir():
            raise InputError(f"there is no folder {reproductions / 'claims'}; give the checkout's reproductions/")
        self.recipes = reproductions.parent / "recipes"
        self.views = [
            view
            for path in sorted((reproductions / "claims").glob("*.yaml"))
            for view in (self._of_table(path) if is_table(path) else self._of_figure(path))
        ]

    def _of_table(self, path: Path) -> Iterator["_TableView"]:
        table = load_claims(path)
        offered = (p for p in PROFILES if tables.offers(table, p, self.recipes))
        return (_TableView(path.stem, p, table, tables.runs(table, p, self.recipes)) for p in offered)

    def _of_figure(self, path: Path) -> Iterator["_FigureView"]:
        figure = load_figure(path)
        return (_FigureView(path.stem, p, figure, figure_evidence.plan(figure, p, self.recipes)) for p in _OF_FIGURES)

    def judge(self, measurements: Measurements) -> list[tuple[Record, Standing]]:
        """Return the evidence that the claims show, ancestors' too, with what today's code has to say of it.

        What has to be run for that is run for all of it together.

        Raises:
            InputError: a piece of evidence is damaged.
        """
        store, today = measurements.runner.store, measurements.runner.today
        shown: dict[Path, tuple[Record, Run, bool]] = {}
        for record, run, counted in (found for each in self.views for found in each.records(store)):
            path = store.path(record)
            before = shown[path][2] if path in shown else False
            shown[path] = record, run, counted or before
        today.prepare(((record, run) for record, run, _ in shown.values()), store)
        judged = [(record, today.standing(record, run, store), counted) for record, run, counted in shown.values()]
        return [(record, standing if counted else standing.of_training) for record, standing, counted in judged]


class _TableView(NamedTuple):
    """A table under a profile."""

    name: str
    profile: str
    table: ClaimTable
    runs: dict[str, Run]

    def records(self, store: Store) -> Iterator[tuple[Record, Run, bool]]:
        """The evidence that it shows, the runs that it is of, and whether it shows their operations."""
        for row in self.table.rows:
            if run := self.runs.get(row.id):
                yield from _of_run(run, store, row.counted)
                seeds = {evidence.seed for evidence in store.runs(run.key)} if row.measures.measure else ()
                for seed in seeds:
                    found = store.measurements(run.key, row.measures.measure, row.settings, seed)
                    yield from ((m, run, False) for m in found)

    def write(self, measurements: Measurements, recipes: Path, folder: Path, asked: bool, draw: bool) -> bool:
        """Whether there is anything to show: evidence, or, where it takes no run, that it is asked for."""
        store = measurements.runner.store
        if not (any(store.runs(run.key) for run in self.runs.values()) if self.runs else asked):
            return False
        tables.write(self.table, self.runs, measurements, recipes, self.profile, folder, draw)
        return True


class _FigureView(NamedTuple):
    """A figure under a profile."""

    name: str
    profile: str
    figure: FigureClaim
    planned: list[figure_evidence.Planned]

    def records(self, store: Store) -> Iterator[tuple[Record, Run, bool]]:
        """The evidence that it shows, the runs that it is of, and whether it shows their operations: it does not."""
        for _, series, run, _ in self.planned:
            if run:
                yield from _of_run(run, store, False)
            if run and series.measures_network:
                found = store.measurements(run.key, series.measure, series.settings)
                yield from ((m, run, False) for m in found)

    def write(self, measurements: Measurements, recipes: Path, folder: Path, asked: bool, draw: bool) -> bool:
        """Whether there is anything to show, as of a table."""
        shown = figure_evidence.view(self.planned, measurements)
        pairs = zip(shown, self.planned, strict=True)
        of_runs = [what.status != "not-run" for (_, _, what), series in pairs if series.run]
        if not (any(of_runs) if of_runs else asked):
            return False
        figure_view.write(self.figure, shown, folder, self.profile, draw)
        return True


def main(options: argparse.Namespace) -> int:
    """Write the views of ``options.out``; with ``options.check`` say how they differ, and return 1 where they do."""
    plan, measurements = Plan(options.reproductions), _measurements(options.out)
    judged = plan.judge(measurements)
    found = []
    if options.check:
        found = differences(options.out, plan, measurements)
        print("\n".join(map(one_line, found)) or f"Every view in {options.out} is what claims and evidence give.")
    else:
        for folder in write_all(options.out, plan, options.out, measurements):
            print(one_line(f"Written: {folder}"))
    print("\n".join(map(one_line, _in_words(judged, measurements.runner))))
    return 1 if found else 0


def _measurements(out: Path) -> Measurements:
    results = ("evidence", *PROFILES)  # a table that trains nothing has no evidence
    if not any((out / name).is_dir() for name in results):
        raise InputError(f"there is no folder {out / 'evidence'}; give the results of a script")
    return Measurements(Runner(Store(out / "evidence"), None, "cpu"))


def write_all(out: Path, plan: Plan, target: Path, measurements: Measurements, draw: bool = True) -> list[Path]:
    """Write every view that the evidence in ``out`` supports to ``target``; return their folders.

    A table or figure has a view in every profile that it has evidence in; what takes no run has one in ``paper``, and
    wherever there is one already.

    Args:
        out: the results folder, with ``evidence/``.
        plan: the views that there may be.
        target: a results folder.
        measurements: of ``out``.
        draw: the pictures too.

    Raises:
        InputError: a piece of evidence is damaged, or a view cannot be written.
    """
    written = []
    for shown in plan.views:
        place = Path(shown.profile) / shown.name
        folder = below(target / place, target)
        asked = shown.profile == "paper" or (out / place).is_dir()
        if shown.write(measurements, plan.recipes, folder, asked, draw):
            written.append(folder)
    return written


def _of_run(run: Run, store: Store, counted: bool) -> Iterator[tuple[Evidence, Run, bool]]:
    """Its own and its ancestors'."""
    yield from ((evidence, run, counted) for evidence in store.runs(run.key))
    if run.parent:
        yield from _of_run(run.parent, store, False)


def _in_words(judged: list[tuple[Record, Standing]], runner: Runner) -> Iterator[str]:
    """A sentence for each that is not current, then one that counts them, and one on other libraries."""
    for record, standing in judged:
        if not standing.is_current:
            reason = standing.why or "nobody recorded what the code did that made it"
            yield f"{runner.store.path(record)} of {record.recipe_name} is {standing.status}: {reason}"
    counts = Counter(standing.status for _, standing in judged)
    words = ", ".join(f"{counts[status]} {status}" for status in ("current", "stale", "unknown"))
    yield f"Of {len(judged)} pieces of evidence: {words}, for today's code."
    if other := [record for record, _ in judged if _other(record, runner)]:
        named = sorted({f"{name} {record.versions.get(name)}" for record in other for name in _other(record, runner)})
        yield f"{len(other)} of them were made with other libraries than today's: {', '.join(named)}."


def _other(record: Record, runner: Runner) -> list[str]:
    return [name for name, version in runner.today.libraries.items() if record.versions.get(name) != version]


def differences(out: Path, plan: Plan, measurements: Measurements) -> list[str]:
    """How the views in ``out`` differ from what claims and evidence give, a sentence each.

    Raises:
        InputError: as :func:`write_all`.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_all(out, plan, Path(folder), measurements, draw=False)
        expected, there = _texts(Path(folder)), _texts(out)
    changed = {name for name in expected.keys() & there.keys() if expected[name] != there[name]}
    sentences = {
        "is missing: jellyplus render writes it": expected.keys() - there.keys(),
        "has no claim, or no evidence any more: remove it": there.keys() - expected.keys(),
        "is not what claims and evidence give: jellyplus render writes it again": changed,
    }
    return sorted(f"{out / name} {sentence}" for sentence, names in sentences.items() for name in names)


def _texts(out: Path) -> dict[Path, bytes]:
    """The views of a results folder that are compared, by their names in it."""
    paths = [path for profile in PROFILES for name in _COMPARED for path in (out / profile).glob(f"*/{name}")]
    return {path.relative_to(out): read_file(path, out) for path in paths}
