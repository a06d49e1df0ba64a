"""All views of a results folder: written again from claims and evidence, or compared with those that are there."""

import argparse
import tempfile
from pathlib import Path

from jellyplus._errors import InputError
from jellyplus._options import PROFILES
from jellyplus.reproduction import figure_evidence, figure_view, tables, view
from jellyplus.reproduction.claims import load_claims
from jellyplus.reproduction.evidence import Store
from jellyplus.reproduction.figure_claims import load_figure
from jellyplus.reproduction.measurements import Measurements
from jellyplus.reproduction.runner import Runner

__all__ = ["differences", "main", "write_all"]

_OF_FIGURES = tuple(profile for profile in PROFILES if profile != "gpu")  # that is about epochs: theirs are stated
_COMPARED = ("table.csv", "table.md", "figure.csv")  # pictures depend on the versions of fonts and libraries too


def main(options: argparse.Namespace) -> int:
    """Write the views of ``options.out``; with ``options.check`` say how they differ, and return 1 where they do."""
    if not options.check:
        for folder in write_all(options.out, options.reproductions, options.out):
            print(f"Written: {folder}")
        return 0
    found = differences(options.out, options.reproductions)
    print("\n".join(found) or f"Every view in {options.out} is what claims and evidence give.")
    return 1 if found else 0


def write_all(out: Path, reproductions: Path, target: Path) -> list[Path]:
    """Write every view that the evidence in ``out`` supports to ``target``; return their folders.

    A table or figure has a view in every profile that it has evidence in; what takes no run has one in ``paper``, and
    wherever there is one already.

    Args:
        out: the results folder, with ``evidence/``.
        reproductions: has ``claims/``; the recipes are beside it.
        target: a results folder.

    Raises:
        InputError: a folder is missing, a claim, recipe or piece of evidence is damaged, or a view cannot be written.
    """
    for folder in (out / "evidence", reproductions / "claims"):
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}; give the results of a script, and reproductions/")
    measurements = Measurements(Runner(Store(out / "evidence"), None, "cpu"))
    recipes = reproductions.parent / "recipes"
    written = []
    for claims in sorted((reproductions / "claims").glob("*.yaml")):
        is_table = claims.stem.startswith("table")
        write = _write_table if is_table else _write_figure
        for profile in PROFILES if is_table else _OF_FIGURES:
            place = Path(profile) / claims.stem
            asked = profile == "paper" or (out / place).is_dir()
            if write(claims, profile, measurements, recipes, target / place, asked):
                written.append(target / place)
    return written


def _write_table(
    claims: Path, profile: str, measurements: Measurements, recipes: Path, folder: Path, asked: bool
) -> bool:
    """Whether there is anything to show: evidence, or, where it takes no run, that it is asked for."""
    table, runner = load_claims(claims), measurements.runner
    runs = tables.runs(table, profile, recipes)
    if not (any(runner.store.find_any(run.key) for run in runs.values()) if runs else asked):
        return False
    frame = view.build(table, tables.results(table, runs, measurements, recipes), runner.code, profile)
    view.write(frame, table, folder, profile)
    return True


def _write_figure(
    claims: Path, profile: str, measurements: Measurements, recipes: Path, folder: Path, asked: bool
) -> bool:
    figure = load_figure(claims)
    planned = figure_evidence.plan(figure, profile, recipes)
    shown = figure_evidence.view(planned, measurements, figure_evidence.SEED)
    of_runs = [what.status != "not-run" for (_, _, what), series in zip(shown, planned, strict=True) if series.run]
    if not (any(of_runs) if of_runs else asked):
        return False
    figure_view.write(figure, shown, folder, profile)
    return True


def differences(out: Path, reproductions: Path) -> list[str]:
    """How the views in ``out`` differ from what claims and evidence give, a sentence each.

    Raises:
        InputError: as :func:`write_all`.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_all(out, reproductions, Path(folder))
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
    return {path.relative_to(out): path.read_bytes() for path in paths}
