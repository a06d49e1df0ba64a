"""Section 4: rows of the papers' tables, by the ordinary scripts, as many and as whole as the time allows.

The loop's epochs on random images (``fast_training.py``) say what an epoch of the data takes, :data:`SHARE` of the time
that is left how many fit. The first row of ``rows.py`` for which these are enough is made: with the paper's own number
of epochs where that fits, and otherwise with ``--profile gpu --epochs N``, so that the same command makes it again.
"""

import io
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gpu_sections.job import Job, named, read
from gpu_sections.rows import REPRODUCTIONS, ROWS, Row, claim_of, run_of, shortened, table_of
from jellyplus._files import write_atomically
from jellyplus.reproduction.store import Store

__all__ = ["Plan", "make", "planned"]

SHARE = 0.88  # of the time that is left: an epoch of a run may be slower than those that were measured
START = 60.0  # seconds of a script beside its epochs: imports, reading and hashing the data, counting operations
_FOR_EVER = 1e9
_MADE = ("*.json", "*.csv", "*.md", "*.png")


class Plan(NamedTuple):
    """What is made next.

    Args:
        row: of a table.
        seeds: that have no evidence yet.
        epochs: of each run.
        whole: they are the paper's.
    """

    row: Row
    seeds: tuple[int, ...]
    epochs: int
    whole: bool


def make(job: Job) -> None:
    """Make rows until none fits any more; a record for each, and the evidence packed after each."""
    epochs_s, tried = dict(_epochs(job)), set()
    while plan := planned(epochs_s, _FOR_EVER if job.dry_run else job.left, tried):
        tried.add(plan.row.row)
        started = time.monotonic()
        code = subprocess.run(_command(job, plan), check=False).returncode
        values = {"table": plan.row.table, "row": plan.row.row, "epochs": plan.epochs, "seeds": plan.seeds}
        values |= {"whole": plan.whole, "exit_code": code, "seconds": time.monotonic() - started}
        job.add(**values, runs=list(_made(job, started)), overlay=None if plan.whole else _overlay(plan))
        _pack(Path(job.scratch, "results"), named(job.out, job.dry_run, "_evidence.zip"))
        if job.dry_run:
            return
    job.add(left_s=job.left, said="no further row fits")


def planned(epochs_s: dict[str, float], left: float, tried: set[str]) -> Plan | None:
    """The most valuable row that fits, if any.

    Args:
        epochs_s: by recipe, seconds of an epoch of the whole data set.
        left: seconds.
        tried: rows that were made, or failed.
    """
    for row in ROWS:
        if row.row in tried or row.recipe not in epochs_s or not (seeds := _missing(row)):
            continue
        paper = run_of(row).recipe.schedule.epochs
        fit = int((left * SHARE - START) / (epochs_s[row.recipe] * len(seeds)))
        if fit >= (row.least or paper):
            return Plan(row, seeds, min(fit, paper), fit >= paper)
    return None


def _epochs(job: Job) -> Iterator[tuple[str, float]]:
    """Of what was measured last, from so many images to those of the data set."""
    for record in read(named(job.out, job.dry_run, ".jsonl")):
        if "epoch_s" in record:
            (row, *_) = (row for row in ROWS if row.recipe == record["loop"])
            images = table_of(row).datasets[claim_of(row).dataset].train_examples
            yield row.recipe, record["epoch_s"] * images / record["examples"]


def _missing(row: Row) -> tuple[int, ...]:
    """Seeds without committed evidence of the paper's own run, by whatever code."""
    committed = Store(REPRODUCTIONS / "measured" / "evidence")
    there = {evidence.seed for evidence in committed.runs(run_of(row).key)}
    return tuple(seed for seed in row.seeds if seed not in there)


def _command(job: Job, plan: Plan) -> list[str]:
    script = str(REPRODUCTIONS / f"{plan.row.table}.py")
    options = ["--rows", plan.row.row, "--seeds", *map(str, plan.seeds), "--workers", str(job.workers)]
    options += ["--out", str(Path(job.scratch, "results"))]
    if job.dry_run:
        return [sys.executable, script, *options, "--profile", "smoke", "--device", "cpu"]
    profile = ["--profile", "paper"] if plan.whole else ["--profile", "gpu", "--epochs", str(plan.epochs)]
    root = ["--data-root", job.data_root] if job.data_root else []
    return [sys.executable, script, *options, *profile, *root, "--device", "cuda"]


def _made(job: Job, started: float) -> Iterator[dict[str, Any]]:
    """What the evidence that was written since says."""
    since = time.time() - (time.monotonic() - started)
    shown = ("recipe_name", "profile", "seed", "device", "backend", "accuracy_last", "accuracy_best", "wall_time_s")
    shown += ("epochs_completed", "epochs_planned", "commit", "dirty")
    for path in sorted(Path(job.scratch, "results", "evidence").glob("*/seed*.json")):
        if path.stat().st_mtime >= since:
            evidence = json.loads(path.read_text())
            yield {name: evidence[name] for name in shown} | {"train_examples": evidence["dataset"]["train_examples"]}


def _overlay(plan: Plan) -> str:
    """The lines of ``recipes/<paper>/profiles.yaml`` under which the view finds this run without ``--epochs``."""
    paper, _, name = plan.row.recipe.partition("/")
    schedule = shortened(plan.row, plan.epochs).recipe.schedule
    steps = f", step_epochs: {schedule.step_epochs}" if schedule.step_epochs else ""
    return f'recipes/{paper}/profiles.yaml, under gpu:\n  "{name}":\n    schedule: {{epochs: {plan.epochs}{steps}}}'


def _pack(results: Path, target: Path) -> None:
    """Everything but checkpoints, which are too large to travel."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for pattern in _MADE:
            for path in sorted(results.rglob(pattern)):
                archive.write(path, path.relative_to(results))
    write_atomically(target, buffer.getvalue())
