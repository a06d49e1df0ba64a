"""Section 2, training: every row of the comparison takes its steps on the card, with the precision of its recipe there.

The comparison names every method, so that what fails on a card alone (an operation that is not deterministic there, a
tensor that stayed behind) shows before minutes are spent on it. Beside each stands the CPU's loss of the same steps in
float32: half precision and TF32 move it a little, a mistake much.
"""

from pathlib import Path

from gpu_sections.fast_training import random_data
from gpu_sections.job import Job
from gpu_sections.rows import REPRODUCTIONS
from jellyplus.reproduction import tables
from jellyplus.reproduction.claims import load_claims
from jellyplus.training.recipe import Run
from jellyplus.training.train import choose_device, train

__all__ = ["methods"]

_TABLE = "compare_methods"
_EXAMPLES = 32


def methods(job: Job) -> None:
    """A record for each row."""
    claims = load_claims(REPRODUCTIONS / "claims" / f"{_TABLE}.yaml")
    runs = tables.runs(claims, "smoke", REPRODUCTIONS.parent / "recipes")
    for row, run in list(runs.items())[: 2 if job.dry_run else None]:
        with job.attempt(f"training, {row}"):
            device = "cpu" if job.dry_run else choose_device("cuda")
            job.add(method=row, loss=_loss(job, run, device), loss_on_cpu=_loss(job, run, "cpu"))


def _loss(job: Job, run: Run, device: str) -> float:
    """Of the last epoch."""
    state = Path(job.scratch, "method.partial")
    try:
        made = train(run.recipe, random_data(run.recipe, _EXAMPLES), 0, device, state, None, run.name)
        return made.history[-1]["train_loss"]
    finally:
        state.unlink(missing_ok=True)
