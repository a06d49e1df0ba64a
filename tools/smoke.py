"""Run every script of every table and figure in profile ``smoke``: ``python tools/smoke.py FOLDER [--jobs 2]``.

The libraries are imported once, and each script runs in a process of its own that is forked then. A paper's scripts run
one after the other, since they share runs. The exit status is 1 where a script fails, or leaves a row or curve that was
not run.
"""

import argparse
import contextlib
import importlib
import multiprocessing
import os
import runpy
import sys
import traceback
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "reproductions"


def scripts_of(paper: str) -> list[Path]:
    """Of its tables and figures, or of comparisons."""
    return sorted([*SCRIPTS.glob(f"*_{paper}.py"), *SCRIPTS.glob(f"{paper}_*.py")])


def ended(script: Path, folder: Path, log: Path) -> int:
    """The exit status of a script, run in a process of its own."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    status = 1
    try:
        with open(log, "a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            status = _status(script, folder)
    finally:
        os._exit(status)


def _status(script: Path, folder: Path) -> int:
    """Run a script here; an exit that is no number is said and 1, as Python has it."""
    sys.argv = [str(script), "--profile", "smoke", "--jobs", "1", "--out", str(folder)]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return min(stop.code or 0, 255)
        print(stop.code)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def failure(folder: Path, paper: str) -> str:
    """What the first script of a paper that fails has said; empty where none does."""
    log = folder / f"{paper}.log"
    for script in scripts_of(paper):
        if status := ended(script, folder, log):
            return f"{script.name} ended with {status}\n{log.read_text()}"
    return ""


def main() -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=2, help="papers at a time (default: %(default)s)")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    importlib.import_module("jellyplus.reproduction.cli")
    papers = sorted(path.name for path in (ROOT / "recipes").iterdir() if path.is_dir())
    assert sum(len(scripts_of(paper)) for paper in papers) == len(list(SCRIPTS.glob("*.py"))), "a script of no paper"
    with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
        wrong = [*filter(None, pool.imap_unordered(partial(failure, options.folder), papers))]
    tables = sorted(options.folder.rglob("*.csv"))
    wrong += [f"{path}: a row was not run" for path in tables if "not-run" in path.read_text()]
    print(*wrong or [f"{len(tables)} tables and figures went through their whole chain"], sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
