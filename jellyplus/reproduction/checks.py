"""Whether evidence contradicts itself, its recipe, its checkpoint or other evidence: what can be compared is.

Evidence is not signed: whoever wants to can write some that agrees with itself. What was edited in one place, cut off,
or copied from one seed to another does not. What old evidence does not have is not checked.
"""

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jellyplus._errors import InputError
from jellyplus._files import open_file
from jellyplus.datasets.order import EpochOrder
from jellyplus.reproduction.evidence import Evidence
from jellyplus.reproduction.scale import STAND_INS
from jellyplus.reproduction.today import Standing

__all__ = ["among", "disagreements", "faults", "refuse_faults"]


def faults(evidence: Evidence, checkpoint: Path | None = None) -> list[str]:
    """What contradicts what, in words; nothing where all agrees.

    Args:
        evidence: of a run.
        checkpoint: its file, which need not be there.
    """
    found = [*_epochs(evidence), *_accuracies(evidence), *_data(evidence)]
    found = found or [*_samples(evidence)]  # which need a sound history
    return [*found, *_checkpoint(evidence, checkpoint)]


def refuse_faults(evidence: Evidence, path: Path, checkpoint: Path) -> None:
    """Raise InputError where :func:`faults` finds any.

    Args:
        evidence: of a run.
        path: its file.
        checkpoint: beside it, which need not be there.
    """
    if found := faults(evidence, checkpoint):
        raise InputError(
            f"{path} with its checkpoint {checkpoint} contradicts itself: {found[0]}; it was left alone: delete both "
            "to make the run again"
        )


def among(evidence: Sequence[Evidence]) -> list[str]:
    """What contradicts what in the evidence of one recipe, in words: its data, and one run in the place of several."""
    fingerprints = {e.dataset["fingerprint"] for e in evidence if isinstance(e.dataset.get("fingerprint"), str)}
    found = [f"{len(fingerprints)} data sets of one name: their fingerprints differ"] if len(fingerprints) > 1 else []
    seeds = defaultdict(set)
    for e in evidence:
        if course := _course(e):
            seeds[course].add(e.seed)
    return found + [f"seeds {_listed(copied)} are one run copied" for copied in seeds.values() if len(copied) > 1]


def disagreements(told: Sequence[tuple[Evidence, Standing, str]]) -> list[str]:
    """Where evidence of one seed, by code that does the same, tells several things, in words: all that it tells.

    Args:
        told: evidence of one recipe, what today's code has to say of it, and what it tells.
    """
    said = defaultdict(dict)
    for evidence, standing, text in told:
        if text:
            said[evidence.seed, "" if standing.is_current else evidence.code][text] = evidence
    return [
        f"seed {seed} has "
        + " and ".join(f"{text} (code {e.code[:12]}, {e.device})" for text, e in texts.items())
        + ", as two machines may: `jellyplus report --root FOLDER` shows those of one folder"
        for (seed, _), texts in said.items()
        if len(texts) > 1
    ]


def _listed(seeds: set[int]) -> str:
    *others, last = map(str, sorted(seeds))
    return f"{', '.join(others)} and {last}"


def _course(evidence: Evidence) -> tuple:
    """What two seeds cannot have in common: the examples in their order, or the losses where no evidence has those."""
    for name in ("samples", "train_loss"):
        course = tuple(entry.get(name) for entry in evidence.history)
        if course and None not in course:
            return name, course
    return ()


def _epochs(evidence: Evidence) -> Iterator[str]:
    completed, planned, history = evidence.epochs_completed, evidence.epochs_planned, evidence.history
    stated = _stated(evidence, "schedule", "epochs")
    if stated is not None and planned != stated:
        yield f"it says that {planned} epochs were planned, and its recipe has {stated}"
    if not 1 <= completed <= planned:
        yield f"it says {completed} of {planned} epochs"
    if len(history) != completed:
        yield f"it says {completed} epochs, and its history has {len(history)}"
    if [entry.get("epoch") for entry in history] != [*range(len(history))]:
        yield "the epochs of its history are not 0, 1, 2 and so on"


def _accuracies(evidence: Evidence) -> Iterator[str]:
    last, best, epoch = evidence.accuracy_last, evidence.accuracy_best, evidence.best_epoch
    if best < last:
        yield f"its best accuracy {best:.2f} is below its last {last:.2f}"
    course = [entry.get("accuracy") for entry in evidence.history]
    if not course or None in course:
        return
    if last != course[-1]:
        yield f"its accuracy {last:.2f} is not its history's, {course[-1]:.2f}"
    if (best, epoch) != (max(course), course.index(max(course))):
        yield f"its best accuracy {best:.2f} in epoch {epoch} is not its history's, {max(course):.2f}"


def _data(evidence: Evidence) -> Iterator[str]:
    held, stated = evidence.dataset, _stated(evidence, "data", "dataset")
    if stated is not None and held["name"] != stated:
        yield f"its data are {held['name']}, and its recipe has {stated}"
    if held["name"] in STAND_INS and held.get("stand_in") is False:
        yield f"it denies that {held['name']} are a stand-in"
    last = evidence.history[-1] if evidence.history else {}
    for split in ("train", "test"):
        said, whole, skipped = held[f"{split}_examples"], _whole(evidence, split), last.get(f"skipped_{split}", 0)
        if whole is not None and said != whole - skipped:
            yield f"it says {said} {split} examples, and that {skipped} of {whole} were skipped"


def _whole(evidence: Evidence, split: str) -> int | None:
    counted = evidence.dataset.get(split)
    number = counted.get("examples") if isinstance(counted, dict) else None
    return number if type(number) is int else None


def _samples(evidence: Evidence) -> Iterator[str]:
    """Hashes of the examples seen are what the seed makes where none was skipped; of long runs those of some epochs."""
    examples = _whole(evidence, "train") or evidence.dataset["train_examples"]
    batch = _stated(evidence, "data", "batch_size")
    if type(batch) is not int or not 1 <= batch <= examples:
        return
    known = [entry for entry in evidence.history if "samples" in entry and not entry.get("skipped_train")]
    seen = examples if _stated(evidence, "data", "drop_last") is False else examples // batch * batch
    step = 1 + len(known) * examples // _MOST_IDS
    for entry in itertools.islice(reversed(known), 0, None, step):
        if entry["samples"] != _hash_of_samples(examples, seen, evidence.seed, entry["epoch"]):
            yield f"its samples in epoch {entry['epoch']} are not those of seed {evidence.seed}"
            return


_MOST_IDS = 10**7  # to make so many takes a quarter of a second


@lru_cache(maxsize=2**14)  # rows of several tables show the same runs
def _hash_of_samples(examples: int, seen: int, seed: int, epoch: int) -> str:
    """As :class:`~jellyplus.training.classifier.Classifier` records it: of the ids that are seen, in order."""
    ids = EpochOrder(examples, seed).indices(epoch)[:seen]
    return hashlib.sha256(ids.numpy()).hexdigest()[:16]


def _checkpoint(evidence: Evidence, checkpoint: Path | None) -> Iterator[str]:
    if not (evidence.checkpoint_sha256 and checkpoint and checkpoint.is_file()):
        return
    with open_file(checkpoint) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != evidence.checkpoint_sha256:
            yield f"its checkpoint {checkpoint.name} is not the one that the run left"


def _stated(evidence: Evidence, *path: str) -> Any:
    """A value of the recipe; None where it has none."""
    value = evidence.recipe
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value
