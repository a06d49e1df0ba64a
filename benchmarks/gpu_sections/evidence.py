"""Section 4: evidence, as much and as whole as the time allows.

First the tables of small networks, many runs side by side (``side_by_side.py``): what is finished is packed every
:data:`PACKED` seconds, so that a box that ends costs the runs that are in it and no others. Then rows of the papers, by
the ordinary scripts. The loop's epochs on random images (``fast_training.py``) say what an epoch of the data takes,
:data:`SHARE` of the time that is left how many fit. The first row of ``rows.py`` for which these are enough is made:
with the paper's own number of epochs where that fits, and otherwise with ``--profile gpu --epochs N``, so that the same
command makes it again.
"""

import contextlib
import io
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gpu_sections.fast_training import missing_loops
from gpu_sections.job import Job, named, read
from gpu_sections.rows import REPRODUCTIONS, ROWS, TABLES, Row, claim_of, run_of, shortened, table_of
from jellyplus._files import write_atomically
from jellyplus.reproduction.store import Store

__all__ = ["Plan", "make", "planned"]

SHARE = 0.88  # of the time that is left: an epoch of a run may be slower than those that were measured
PACKED = 10.0  # seconds from one packing of what is finished to the next
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
    _make_tables(job)
    if job.dry_run or job.left > START:
        missing_loops(job)
    epochs_s, tried = dict(_epochs(job)), set()
    while plan := planned(epochs_s, _FOR_EVER if job.dry_run else job.left, tried):
        tried.add(plan.row.row)
        started = time.monotonic()
        code = subprocess.run(_command(job, plan), check=False).returncode
        values = {"table": plan.row.table, "row": plan.row.row, "epochs": plan.epochs, "seeds": plan.seeds}
        values |= {"whole": plan.whole, "exit_code": code, "seconds": time.monotonic() - started}
        job.add(**values, runs=list(_made(job, started)), overlay=None if plan.whole else _overlay(plan))
        _pack(job)
        if job.dry_run:
            return
    job.add(left_s=job.left, said="no further row fits")


def _make_tables(job: Job) -> None:
    """Their runs side by side; a record of them, also where time ends in it."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "gpu_sections.side_by_side", json.dumps(vars(job))])
    try:
        while process.poll() is None and (job.dry_run or job.left > PACKED):
            time.sleep(0.1 if job.dry_run else PACKED)
            _pack(job)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PACKED / 2)
    _pack(job)
    values = {"table": ", ".join(table.table for table in TABLES), "row": "all", "exit_code": process.returncode}
    values |= {"side_by_side": job.workers, "seconds": time.monotonic() - started, "overlay": None}
    job.add(**values, runs=list(_made(job, started)))


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
    options = ["--rows", plan.row.row, "--seeds", *map(str, plan.seeds), "--workers", str(job.workers)]
    if job.dry_run:
        return _script(job, plan.row.table, [*options, "--profile", "smoke"])
    profile = ["--profile", "paper"] if plan.whole else ["--profile", "gpu", "--epochs", str(plan.epochs)]
    return _script(job, plan.row.table, [*options, *profile])


def _script(job: Job, table: str, options: list[str]) -> list[str]:
    root = ["--data-root", job.data_root] if job.data_root and not job.dry_run else []
    where = ["--out", str(Path(job.scratch, "results")), *root, "--device", "cpu" if job.dry_run else "cuda"]
    return [sys.executable, str(REPRODUCTIONS / f"{table}.py"), *options, *where]


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


def _pack(job: Job) -> None:
    """Everything that is finished, but of checkpoints, which are too large to travel, only what is published."""
    results = Path(job.scratch, "results")
    if not results.is_dir():
        return
    published = json.loads((REPRODUCTIONS / "weights" / "weights.json").read_text()).values()
    keys = {Path(entry["evidence"]).parent.name for entry in published}
    weights = [path for path in results.rglob("seed0-*.ckpt") if path.parent.name in keys]
    _zip(named(job.out, job.dry_run, "_evidence.zip"), results, [p for e in _MADE for p in results.rglob(e)])
    _zip(named(job.out, job.dry_run, "_weights.zip"), results, weights)


def _zip(target: Path, root: Path, paths: list[Path]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(paths):
            archive.write(path, path.relative_to(root))
    write_atomically(target, buffer.getvalue())
