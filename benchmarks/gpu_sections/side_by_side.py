"""Tables of small networks, many runs at a time: ``python -m gpu_sections.side_by_side JOB``, the job as JSON.

A process of its own, since it is ended where time is, whatever it does; what is finished by then is in the store. One
table after the other, each without the runs and seeds that have committed evidence, whatever code made it.
"""

import json
import sys
from pathlib import Path

from gpu_sections.job import Job
from gpu_sections.rows import REPRODUCTIONS, TABLES, Table
from jellyplus.reproduction import tables
from jellyplus.reproduction.claims import load_claims
from jellyplus.reproduction.runner import Runner
from jellyplus.reproduction.store import Store
from jellyplus.training.recipe import Run

__all__ = ["main", "missing"]

_DRY_ROW = "tdbn"


def main() -> None:
    """Make them."""
    job = Job(**json.loads(sys.argv[1]))
    store = Store(Path(job.scratch, "results", "evidence"))
    root, device = (None, "cpu") if job.dry_run else (job.data_root, "cuda")
    runner = Runner(store, root, device)
    for wanted in map(missing, TABLES) if not job.dry_run else [_dry()]:
        runner.make(runner.missing(wanted), job.workers)


def missing(table: Table) -> list[tuple[Run, int]]:
    """Runs and seeds of the table without committed evidence."""
    committed = Store(REPRODUCTIONS / "measured" / "evidence")
    found = {run.key: run for run in _runs(table).values()}
    made = {(key, evidence.seed) for key in found for evidence in committed.runs(key)}
    return [(run, seed) for seed in table.seeds for key, run in found.items() if (key, seed) not in made]


def _runs(table: Table) -> dict[str, Run]:
    claims = load_claims(REPRODUCTIONS / "claims" / f"{table.table}.yaml")
    found = tables.runs(claims, table.profile, REPRODUCTIONS.parent / "recipes")
    return {name: found[name] for name in table.rows or found}


def _dry() -> list[tuple[Run, int]]:
    return [(_runs(TABLES[0]._replace(profile="smoke"))[_DRY_ROW], 0)]


if __name__ == "__main__":
    main()
