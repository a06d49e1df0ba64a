"""The command line that every table script has, and ``jellyplus train`` for a recipe that no table needs."""

import argparse
import contextlib
import os
import sys
from pathlib import Path

from jellyplus._distributed import rank
from jellyplus._errors import InputError
from jellyplus._options import add_run_options
from jellyplus.training.recipe import load_file, load_run

__all__ = ["main", "train"]


def main(script: str) -> int:
    """Reproduce the table that ``script``, a file in ``reproductions/``, is named after.

    Args:
        script: its ``__file__``.

    Returns:
        The exit code: 0, 2 for bad input, 130 when interrupted.
    """
    path = Path(script).resolve()
    options = _parser(path).parse_args()
    try:
        with _job(options):
            _reproduce(path, options)
    except InputError as error:
        print(f"{path.name}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{path.name}: interrupted; the same command goes on from the last finished epoch", file=sys.stderr)
        return 130
    return 0


def _parser(path: Path) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=path.name,
        description="Without options: train on stand-in data for some minutes, then write and print the table.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_run_options(parser, profile="embedded")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="only these rows (see --list); default: all own rows")
    parser.add_argument("--render", action="store_true", help="write the table from the evidence there is; no training")
    parser.add_argument("--list", action="store_true", help="print the rows and stop")
    return parser


def _reproduce(path: Path, options: argparse.Namespace) -> None:
    # Lightning and pandas come after the options are parsed, so that a mistyped option answers at once
    from jellyplus.reproduction import view
    from jellyplus.reproduction.claims import load_claims
    from jellyplus.reproduction.evidence import Store
    from jellyplus.reproduction.runner import Runner
    from jellyplus.training.job import once

    table = load_claims(path.parent / "claims" / f"{path.stem}.yaml")
    own = {row.id: row for row in table.rows if row.kind == "own"}
    if options.list:
        print("\n".join(f"{row.id:<16} {row.dataset}, T = {row.timesteps}, {row.recipe}.yaml" for row in own.values()))
        return
    if unknown := set(options.rows or ()) - own.keys():
        raise InputError(f"there is no own row {', '.join(sorted(unknown))}; choose from {', '.join(own)}")
    _check_out(options.out)
    recipes = path.parent.parent / "recipes"
    runs = {name: load_run(row.recipe, options.profile, recipes) for name, row in own.items()}
    runner = Runner(Store(options.out / "evidence"), options.data_root, options.device, options.workers)
    evidence = {name: runner.store.find_any(run.key) for name, run in runs.items()}
    if not options.render:
        wanted = [runs[name] for name in options.rows or own]
        runner.make(once(runner.missing, wanted, dict.fromkeys(options.seeds)))
        evidence = {name: runner.store.find_any(run.key) for name, run in runs.items()}
    if rank() > 0:
        return
    frame = view.build(table, evidence, runner.code, options.profile)
    folder = options.out / options.profile / path.stem
    view.write(frame, table, folder, options.profile)
    print(view.summary(frame))
    print(f"\nWritten: {folder}/table.csv, table.md, table.png")
    if options.profile == "embedded":
        print(
            "This is stand-in data (handwritten digits), no claim about the paper; the paper's numbers need its data "
            f"and a GPU: {path.name} --profile paper --data-root FOLDER --seeds 0 1 2"
        )


def train(options: argparse.Namespace) -> int:
    """Make the runs of one recipe, whatever it combines; then write and say how they went."""
    with _job(options):
        _train(options)
    return 0


def _train(options: argparse.Namespace) -> None:
    from jellyplus.reproduction import course
    from jellyplus.reproduction.evidence import Store
    from jellyplus.reproduction.runner import Runner, summary
    from jellyplus.training.job import once

    _check_out(options.out)
    run = load_file(options.recipe, options.profile)
    runner = Runner(Store(options.out / "evidence"), options.data_root, options.device, options.workers)
    runner.make(once(runner.missing, [run], options.seeds))
    if rank() > 0:
        return
    folder = options.out / run.profile / run.name
    for seed in dict.fromkeys(options.seeds):
        evidence = runner.store.find(run.key, seed, runner.code)
        course.write(evidence, folder)
        print(f"seed {seed}: {summary(evidence)}")
    print(f"Written: {folder}/seed*.csv, seed*.png; evidence and checkpoint: {runner.store.folder(run.key)}")


def _job(options: argparse.Namespace) -> contextlib.AbstractContextManager:
    """All processes of the job as one group, where torchrun or SLURM started several."""
    from jellyplus.training.job import joined
    from jellyplus.training.train import choose_device

    return joined(choose_device(options.device))


def _check_out(folder: Path) -> None:
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise InputError(f"--out {nearest} is a file: give a folder")
