"""The command line that every table script has, and ``jellyplus train`` for a recipe that no table needs."""

import argparse
import contextlib
import itertools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from jellyplus import registry
from jellyplus._bars import be_quiet
from jellyplus._command import answer
from jellyplus._distributed import rank
from jellyplus._errors import InputError
from jellyplus._files import below
from jellyplus._options import Help, add_run_options, add_table_options, epochs, examples
from jellyplus._text import one_line
from jellyplus.training.recipe import Run
from jellyplus.training.recipe_files import default_profile, load_file

if TYPE_CHECKING:
    from jellyplus.reproduction.claims import Claim
    from jellyplus.reproduction.runner import Runner

__all__ = ["about_stand_ins", "check_out", "main", "make", "make_runner", "run", "train"]


def main(script: str) -> int:
    """Reproduce the table that ``script``, a file in ``reproductions/``, is named after; return the exit code."""
    return run(script, "train on stand-in data for some minutes, then write and print the table", _reproduce, _add_rows)


def run(
    script: str,
    default: str,
    reproduce: Callable[[Path, argparse.Namespace], None],
    add_options: Callable[[argparse.ArgumentParser], None] = lambda _: None,
) -> int:
    """Read the options of a script and ``reproduce`` in all processes of the job.

    Args:
        script: its ``__file__``.
        default: what it does without options.
        reproduce: is given the script's path and the options.
        add_options: its own, beside those that all have.

    Returns:
        The exit code: 0; 2 for bad input and 130 when interrupted, after a sentence on what to do.
    """
    path = Path(script).resolve()
    parser = argparse.ArgumentParser(
        prog=path.name,
        description=f"Without options: {default}.",
        epilog=examples(
            f"python reproductions/{path.name}",
            f"python reproductions/{path.name} --profile paper --data-root DATA --seeds 0 1 2",
            f"python reproductions/{path.name} --render",
        ),
        formatter_class=Help,
    )
    add_run_options(parser)
    parser.set_defaults(profile="embedded")
    add_table_options(parser)
    add_options(parser)

    def command() -> int:
        options = parser.parse_args()
        registry.load(options.plugin)
        with _job(options):
            be_quiet(options.quiet)
            use_threads(options)
            reproduce(path, options)
        return 0

    return answer(path.name, command, "the same command goes on from the last finished epoch")


def _add_rows(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rows", nargs="+", metavar="ROW", help="only these rows (see --list); default: all that train"
    )
    parser.add_argument(
        "--epochs", type=epochs, metavar="N", help="of these rows, with --profile gpu; default: what it states, or one"
    )
    parser.add_argument("--list", action="store_true", help="print the rows that train and stop")


def _reproduce(path: Path, options: argparse.Namespace) -> None:
    # Lightning and pandas come after the options are parsed, so that a mistyped option answers at once
    from jellyplus.reproduction import tables
    from jellyplus.reproduction.claims import load_claims
    from jellyplus.reproduction.measurements import Measurements
    from jellyplus.training.job import once

    table = load_claims(path.parent / "claims" / f"{path.stem}.yaml")
    trained = {row.id: row for row in table.rows if row.trained}
    if options.list:
        print("\n".join(one_line(_listed(row)) for row in trained.values()))
        return
    if unknown := set(options.rows or ()) - trained.keys():
        raise InputError(f"there is no row {', '.join(sorted(unknown))} that trains; choose from {', '.join(trained)}")
    check_out(options.out)
    recipes = path.parent.parent / "recipes"
    runs = tables.runs(table, options.profile, recipes)
    if options.epochs:
        runs |= tables.shortened(table, options.rows or trained, options.profile, options.epochs, recipes)
    runner = make_runner(options)
    measurements = Measurements(runner)
    if not options.render:
        wanted = {name: runs[name] for name in options.rows or trained}
        counted = any(trained[name].counted for name in wanted)
        made = make(runner, wanted.values(), options, path.parent, counted)
        once(tables.measure, table, wanted, measurements, made)
    if rank() > 0:
        return
    folder = below(options.out / options.profile / path.stem, options.out)
    frame, summary = tables.write(table, runs, measurements, recipes, options.profile, folder)
    print(summary)
    print(f"\nWritten: {folder}/table.csv, table.md, table.png")
    if (frame["status"] == "stand-in").any():
        print(about_stand_ins(path))


def about_stand_ins(script: Path) -> str:
    """What to say where a script has shown any."""
    return (
        "This is stand-in data (handwritten digits), no claim about the paper; the paper's numbers need its data "
        f"and a GPU: {script.name} --profile paper --data-root FOLDER --seeds 0 1 2"
    )


def make_runner(options: argparse.Namespace) -> "Runner":
    """The runner of a command with :func:`~jellyplus._options.add_run_options`.

    Raises:
        InputError: the device is not there, or the logger's library.
    """
    from jellyplus.reproduction.runner import Runner
    from jellyplus.reproduction.store import Store
    from jellyplus.training.loggers import Logs

    logs = options.logger and Logs(options.logger, (options.out / "logs").absolute())
    return Runner(Store(options.out / "evidence"), options.data_root, options.device, options.workers, logs)


def _listed(row: "Claim") -> str:
    from jellyplus.reproduction.view import made_by

    timesteps = f"T = {row.timesteps}" if row.timesteps else ""
    return ", ".join(filter(None, (f"{row.id:<28} {row.dataset}", row.architecture, timesteps, made_by(row))))


def make(
    runner: "Runner", runs: Iterable[Run], options: argparse.Namespace, scripts: Path, counted: bool
) -> list[tuple[Run, int]]:
    """Make the evidence of runs that is missing, for all seeds, or this shard's part; return what is there of it then.

    Before, it says how long they took where they were made: in the runner's store, or in ``measured`` of ``scripts``.

    Raises:
        InputError: a run cannot be made.
    """
    from jellyplus.reproduction.durations import expectation
    from jellyplus.reproduction.runner import chains
    from jellyplus.reproduction.store import Store
    from jellyplus.training.job import once

    wanted = {(run.key, seed): (run, seed) for seed in dict.fromkeys(options.seeds) for run in runs}
    number, shards = options.shard
    own = list(itertools.chain.from_iterable(chains(wanted.values())[number - 1 :: shards]))
    planned = once(runner.missing, own, counted)
    if planned and rank() == 0:
        print(expectation(planned, (runner.store, Store(scripts / "measured" / "evidence"))), flush=True)
    jobs = options.jobs or runner.at_once(planned)
    if planned and rank() == 0:
        print(_how(jobs, options.threads, runner.device), flush=True)
    runner.make(planned, jobs)
    return own


def _how(jobs: int, threads: int, device: str) -> str:
    runs = "one run at a time" if jobs == 1 else f"{jobs} runs at a time"
    return f"{runs}, each with {threads} thread{'s' * (threads > 1)}" if device == "cpu" else f"{runs} on {device}"


def train(options: argparse.Namespace) -> int:
    """Make the runs of one recipe, whatever it combines; then write and say how they went."""
    with _job(options):
        use_threads(options)
        _train(options)
    return 0


def _train(options: argparse.Namespace) -> None:
    from jellyplus.reproduction import course, scale
    from jellyplus.reproduction.runner import summary
    from jellyplus.training.job import once

    check_out(options.out)
    profile = options.profile or default_profile(options.recipe)
    run, paper = (load_file(options.recipe, overlay) for overlay in (profile, None))
    runner = make_runner(options)
    runner.make(once(runner.missing, [(run, seed) for seed in dict.fromkeys(options.seeds)]))
    if rank() > 0:
        return
    folder = below(options.out / run.profile / run.name, options.out)
    for seed in dict.fromkeys(options.seeds):
        evidence = runner.current(run, seed)
        of = scale.of_evidence(evidence, run, paper)
        course.write(evidence, of, folder)
        print(one_line(f"{of}; seed {seed}: {summary(evidence)}"))
    print(one_line(f"Written: {folder}/seed*.csv, seed*.png; evidence and checkpoint: {runner.store.folder(run.key)}"))
    print(one_line(_what_next(runner.store.folder(run.key), options.seeds[0])))


def _what_next(folder: Path, seed: int) -> str:
    return (
        f'Load it: jellyplus.load("{folder}", seed={seed}); compare it with other runs: jellyplus compare {folder} RUN'
    )


def use_threads(options: argparse.Namespace) -> None:
    """On a CPU as many as the options say, whatever the machine has: float32 sums depend on them."""
    import torch

    from jellyplus.training.train import choose_device

    if choose_device(options.device) == "cpu":
        torch.set_num_threads(options.threads)


def _job(options: argparse.Namespace) -> contextlib.AbstractContextManager:
    """All processes of the job as one group, where torchrun or SLURM started several."""
    from jellyplus.training.job import joined
    from jellyplus.training.train import choose_device

    return joined(choose_device(options.device))


def check_out(folder: Path) -> None:
    """Refuse a folder that cannot be one.

    Raises:
        InputError: it is a file, or below one.
    """
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise InputError(f"--out {nearest} is a file: give a folder")
