"""Section 2, training: every row of the comparison takes its steps on the card, with the precision of its recipe there.

The comparison names every method, so that what fails on a card alone (an operation that is not deterministic there, a
tensor that stayed behind) shows before minutes are spent on it. Beside each stands the CPU's loss of the same steps in
float32: half precision and TF32 move it a little, a mistake much. Then the card takes them once more, the last ones as
CUDA graphs: the weights are the same, bit for bit.
"""

from pathlib import Path

import torch

from gpu_sections.fast_training import random_data
from gpu_sections.job import Job
from gpu_sections.rows import REPRODUCTIONS
from jellyplus.reproduction import tables
from jellyplus.reproduction.claims import load_claims
from jellyplus.training.recipe import Run
from jellyplus.training.train import Outcome, choose_device, train

__all__ = ["methods"]

_TABLE = "compare_methods"
_EXAMPLES = 96  # six steps, of which three are graphs


def methods(job: Job) -> None:
    """A record for each row."""
    claims = load_claims(REPRODUCTIONS / "claims" / f"{_TABLE}.yaml")
    runs = tables.runs(claims, "smoke", REPRODUCTIONS.parent / "recipes")
    for row, run in list(runs.items())[: 2 if job.dry_run else None]:
        with job.attempt(f"training, {row}"):
            device = "cpu" if job.dry_run else choose_device("cuda")
            made, graphed = _made(job, run, device), _made(job, run, device, graphed=True)
            equal = all(torch.equal(value, graphed.weights[name]) for name, value in made.weights.items())
            job.add(method=row, loss=_loss(made), loss_on_cpu=_loss(_made(job, run, "cpu")), graphed_equal=equal)


def _loss(made: Outcome) -> float:
    """Of the last epoch."""
    return made.history[-1]["train_loss"]


def _made(job: Job, run: Run, device: str, graphed: bool = False) -> Outcome:
    state = Path(job.scratch, "method.partial")
    try:
        data = random_data(run.recipe, _EXAMPLES)
        return train(run.recipe, data, 0, device, state, None, run.name, graphed=graphed)
    finally:
        state.unlink(missing_ok=True)
