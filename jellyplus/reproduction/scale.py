"""Scale: what a result of ours is of, where it is not what the paper has, and whether the data are a stand-in."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jellyplus.reproduction.claims import Split
from jellyplus.reproduction.evidence import Evidence, Measurement
from jellyplus.training.recipe import Recipe, Run
from jellyplus.training.recipe_files import load_run

__all__ = [
    "STAND_IN",
    "STAND_INS",
    "Scale",
    "in_short",
    "is_stand_in",
    "of_evidence",
    "of_measurement",
    "printed",
    "side",
    "together",
]

#: The first words of what is said of one, and its status.
STAND_IN = "stand-in"
#: Data sets that take the place of the papers'.
STAND_INS = ("digits", "digit_pairs", "moving_digits", "event_camera")
_SIDES = {"digits": 16, "digit_pairs": 16, "moving_digits": 16, "cifar10": 32, "cifar100": 32, "mnist": 28}


@dataclass(frozen=True)
class Scale:
    """What a result is of.

    Args:
        words: data set, network, examples and epochs, as far as they are not the paper's; of a stand-in always the
            first two.
        stand_in: whether the data take the place of the paper's.
        is_papers: whether the recipe is the paper's own, as its file has it without a profile's overlay.
    """

    words: tuple[str, ...] = ()
    stand_in: bool = False
    is_papers: bool = True

    def __str__(self) -> str:
        return together([self])


def is_stand_in(evidence: Evidence) -> bool:
    """Whether its data take the place of real ones: by their name, or because it says so."""
    return bool(evidence.dataset.get("stand_in")) or evidence.dataset["name"] in STAND_INS


def printed(name: str, recipes: Path, overrides: dict | None = None) -> Run:
    """The run of a recipe as its file has it, whatever the profiles are.

    Raises:
        InputError: it is missing or damaged, or an override does not fit it.
    """
    return load_run(name, None, recipes, overrides)


def of_evidence(evidence: Evidence, run: Run, paper: Run, split: Split | None = None) -> Scale:
    """Of a finished run.

    Args:
        evidence: of ``run``.
        run: under the profile that is shown.
        paper: from :func:`printed`.
        split: how many examples the paper's data set has; None where no claim says it.
    """
    held, stand_in = evidence.dataset, is_stand_in(evidence)
    number, all_of_them = held["train_examples"], split.train_examples if split else None
    return _scale(run, paper, stand_in, number, all_of_them, evidence.epochs_completed)


def of_measurement(measurement: Measurement, run: Run, paper: Run, trained: bool) -> Scale:
    """Of what was measured on a run's network, ``trained`` or as it was built."""
    stand_in = measurement.stand_in or measurement.dataset in STAND_INS
    epochs = run.recipe.schedule.epochs if trained else None
    return _scale(run, paper, stand_in, measurement.examples, None, epochs)


def _scale(run: Run, paper: Run, stand_in: bool, number: int, all_of_them: int | None, epochs: int | None) -> Scale:
    made, other = run.recipe, paper.recipe
    words = [*_data(made, other, stand_in), *_network(made, other, stand_in)]
    kind = "recordings" if other.data.events else "images"
    if stand_in or (made.data.examples if all_of_them is None else number != all_of_them):
        words.append(f"{number:,}{f' of {all_of_them:,}' if all_of_them and not stand_in else ''} {kind}")
    if epochs is not None and epochs != other.schedule.epochs:
        words.append(f"{epochs} of {other.schedule.epochs} epochs")
    return Scale(tuple(words), stand_in, run.key == paper.key)


def _data(made: Recipe, other: Recipe, stand_in: bool) -> Iterator[str]:
    """Name and size."""
    yield made.data.dataset
    if made.data.validation:
        yield f"tested on {made.data.validation:,} of its training images"
    pixels = side(made)
    if pixels and (stand_in or pixels != side(other)):
        yield f"{pixels}x{pixels}"


def side(recipe: Recipe) -> int | None:
    """Height and width of what the network sees, pixels; None where nobody knows."""
    settings = recipe.data.images or recipe.data.events
    return settings.side if settings else _SIDES.get(recipe.data.dataset)


def _network(made: Recipe, other: Recipe, always_width: bool) -> Iterator[str]:
    ours, theirs = made.model, other.model
    if ours.architecture != theirs.architecture:
        yield ours.architecture
    if always_width or ours.width != theirs.width:
        yield f"width {ours.width}"
    if (blocks := ours.options.get("blocks")) != theirs.options.get("blocks") and blocks:
        yield f"blocks {_joined(blocks)}"
    if ours.time_steps != theirs.time_steps:
        yield f"T = {ours.time_steps}"


def _joined(numbers: Iterable[Any]) -> str:
    return "-".join(map(str, numbers))


def in_short(recipe: Recipe) -> str:
    """A stand-in and the network's width in words; empty for real data."""
    if recipe.data.dataset not in STAND_INS:
        return ""
    return ", ".join([*_data(recipe, recipe, stand_in=True), f"width {recipe.model.width}"])


def together(scales: Sequence[Scale]) -> str:
    """The words of several, each once, after :data:`STAND_IN` where any is one."""
    words = ", ".join(dict.fromkeys(word for scale in scales for word in scale.words))
    return f"{STAND_IN}: {words}" if any(scale.stand_in for scale in scales) else words
