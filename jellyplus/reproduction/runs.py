"""Finished runs as objects: found by name or file, with their network as it is meant for inference."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from jellyplus import model
from jellyplus._errors import InputError
from jellyplus._strict import from_mapping
from jellyplus.datasets.classes import class_names
from jellyplus.datasets.transforms import Transform
from jellyplus.reproduction import checks, loading, published, scale
from jellyplus.reproduction.evidence import Evidence
from jellyplus.reproduction.published import Published
from jellyplus.reproduction.source import code_digest
from jellyplus.reproduction.store import Store
from jellyplus.training.checkpoint import load_checkpoint
from jellyplus.training.layout import time_first
from jellyplus.training.network import build_network
from jellyplus.training.recipe import Recipe

__all__ = ["InputTransform", "Kept", "TrainedRun", "find", "load", "one_a_seed", "recipe_of", "runs", "weights_of"]

_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """A finished run.

    ``run.network(run.transform(image)).mean(0)`` has a number for every class; call
    ``spikingjelly.activation_based.functional.reset_net(run.network)`` before the next.

    Args:
        network: with its last weights, in evaluation mode, on the CPU, without shortcut branches; [T, N, C, H, W], or
            [1, N, C, H, W] of images, to [T, N, classes].
        transform: makes the network's input of an example, or of several.
        classes: their names by label; None where the data set has none.
        recipe: everything that decided the run's numbers, apart from its seed.
        history: a row for each epoch.
        evidence: all that was recorded.
    """

    network: nn.Module
    transform: "InputTransform"
    classes: tuple[str, ...] | None
    recipe: Recipe
    history: pd.DataFrame
    evidence: Evidence


class InputTransform:
    """What evaluation during training does to examples, normalisation and all, up to the network's input.

    Args:
        recipe: of the run.
        normalise: from :func:`jellyplus.reproduction.loading.evaluation`.
    """

    def __init__(self, recipe: Recipe, normalise: Transform):
        self._normalise = normalise
        self._channels = recipe.model.in_channels
        self._frames = recipe.model.time_steps if _has_frames(recipe) else None
        self._side = None if recipe.data.images else scale.side(recipe)  # images of many sizes are resized

    def __call__(self, example: Image.Image | np.ndarray | Tensor) -> Tensor:
        """Return the network's input, float32 [1, N, C, H, W] of images and [T, N, C, H, W] of frames.

        Args:
            example: an image of PIL's; uint8 images [C, H, W] or [N, C, H, W] from 0 to 255; or counts of events,
                [T, C, H, W] or [N, T, C, H, W].

        Raises:
            InputError: another type or shape than the network was trained on.
        """
        if isinstance(example, Image.Image):
            example = v2.functional.pil_to_tensor(example.convert("L" if self._channels == 1 else "RGB"))
        batch = torch.as_tensor(example)
        batch = batch if batch.dim() == self._dimensions else batch.unsqueeze(0)
        self._check(batch)
        return time_first(self._normalise(batch))

    @property
    def _dimensions(self) -> int:
        return 4 if self._frames is None else 5

    def _check(self, batch: Tensor) -> None:
        wanted = ["N", *([self._frames] if self._frames else []), self._channels]
        wanted += [self._side or side for side in "HW"]
        fits = (size == want for size, want in zip(batch.shape, wanted, strict=False) if isinstance(want, int))
        if batch.dim() != self._dimensions or not all(fits):
            shape = f"[{', '.join(map(str, wanted))}]"
            raise InputError(f"the network was trained on examples of shape {shape}, and these have {[*batch.shape]}")
        if self._frames is None and batch.dtype != torch.uint8:
            raise InputError(f"images are uint8 from 0 to 255, and these are {batch.dtype}: convert them")


def _has_frames(recipe: Recipe) -> bool:
    return recipe.data.events is not None or recipe.data.dataset == "moving_digits"


class Kept(NamedTuple):
    """A piece of evidence, the store that has it, and where its weights are published, if they are."""

    evidence: Evidence
    store: Store
    published: Published | None = None

    @property
    def path(self) -> Path:
        """Its file."""
        return self.store.path(self.evidence)

    @property
    def checkpoint(self) -> Path:
        """Where its checkpoint belongs."""
        return self.store.checkpoint(self.evidence.key, self.evidence.seed, self.evidence.code)


def find(run: str | os.PathLike, root: str | os.PathLike, profile: str | None = None) -> list[Kept]:
    """Return all evidence that ``run`` means.

    Args:
        run: see :func:`load`.
        root: a folder of results, for names.
        profile: only this one.

    Raises:
        InputError: there is none, a piece of it is damaged, or it contradicts itself.
    """
    path = Path(run)
    if path.suffix in (".json", ".ckpt"):
        found = [_of_file(path)]
    elif path.is_dir():
        found = [_of_file(file) for file in sorted(path.glob("seed*-*.json"))]
    else:
        found = _of_name(path, root)
    found = [kept for kept in found if profile in (None, kept.evidence.profile)]
    if not found:
        raise InputError(f"{run} has no run{f' of profile {profile}' if profile else ''}; jellyplus list runs has all")
    for kept in found:
        checks.refuse_faults(kept.evidence, kept.path, kept.checkpoint)
    return found


def _of_file(path: Path) -> Kept:
    file = Path(os.path.abspath(path)).with_suffix(".json")
    if not file.name.startswith("seed"):
        raise InputError(f"{path} is not a run's: give a file seed*.json or seed*.ckpt")
    if not file.is_file():
        raise InputError(f"there is no {file}: a run is loaded with its evidence, which belongs beside its checkpoint")
    store = Store(file.parent.parent)
    return Kept(store.read(file, Evidence), store)


def _of_name(path: Path, root: str | os.PathLike) -> list[Kept]:
    if found := published.find(path.as_posix()):
        return [_of_file(found.evidence)._replace(published=found)]
    name = f"{path.parent.name}/{path.stem}" if path.suffix == ".yaml" else str(path)
    if not _NAME.fullmatch(name):
        raise InputError(f"there is no file or folder {path}, and a recipe's name is like dspike/cifar10_t6")
    store = _store(root)
    return [Kept(evidence, store) for evidence in store.all_runs() if evidence.recipe_name == name]


def _store(root: str | os.PathLike) -> Store:
    folder = Path(root) / "evidence"
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: give the results of jellyplus train or of a script")
    return Store(folder)


def load(
    run: str | os.PathLike,
    seed: int | None = None,
    profile: str | None = None,
    root: str | os.PathLike = "results",
) -> TrainedRun:
    """:func:`jellyplus.load`."""
    kept = _one(find(run, root, profile), run, seed)
    evidence = kept.evidence
    recipe = recipe_of(evidence)
    return TrainedRun(
        network=_network(recipe, *_weights(kept)),
        transform=InputTransform(recipe, loading.evaluation(recipe)),
        classes=class_names(recipe.data.dataset, recipe.model.num_classes),
        recipe=recipe,
        history=pd.DataFrame(evidence.history),
        evidence=evidence,
    )


def _weights(kept: Kept) -> tuple[dict[str, Tensor], Path]:
    """And the file that has them."""
    if kept.published:
        return kept.published.weights(), kept.published.file
    if not kept.checkpoint.is_file():
        raise InputError(
            f"{kept.path} has no checkpoint {kept.checkpoint.name} beside it: put it there, or train again"
        )
    return weights_of(kept.evidence, kept.checkpoint), kept.checkpoint


def _one(found: list[Kept], run: str | os.PathLike, seed: int | None) -> Kept:
    seeds = sorted({kept.evidence.seed for kept in found})
    if seed is not None and seed not in seeds:
        raise InputError(f"{run} has no seed {seed}; it has {', '.join(map(str, seeds))}")
    left = [kept for kept in found if seed in (None, kept.evidence.seed)]
    if len({kept.evidence.key for kept in left}) > 1:
        made = ", ".join(sorted(f"{kept.path.parent} ({kept.evidence.profile})" for kept in one_of_each_key(left)))
        raise InputError(f"{run} is several runs: state profile, or give the folder of one of {made}")
    if seed is None and len(seeds) > 1:
        raise InputError(f"{run} has the seeds {', '.join(map(str, seeds))}: state seed")
    return one_a_seed(left)[0]


def one_of_each_key(found: Iterable[Kept]) -> list[Kept]:
    """The first of each recipe."""
    return list({kept.evidence.key: kept for kept in reversed(list(found))}.values())


def one_a_seed(found: Iterable[Kept]) -> list[Kept]:
    """Of the evidence of one recipe one piece for each seed, by seed: today's code's where several codes made some.

    Raises:
        InputError: several other ones did.
    """
    by_seed: dict[int, list[Kept]] = {}
    for kept in found:
        by_seed.setdefault(kept.evidence.seed, []).append(kept)
    return [_todays(by_seed[seed]) for seed in sorted(by_seed)]


def _todays(found: list[Kept]) -> Kept:
    if len(found) == 1:
        return found[0]
    today = code_digest()
    for kept in found:
        if kept.evidence.code == today:
            return kept
    raise InputError(f"several versions of the code made this run: give one of {', '.join(str(k.path) for k in found)}")


def recipe_of(evidence: Evidence) -> Recipe:
    """The recipe of a finished run.

    Raises:
        InputError: it is another version's.
    """
    stated = {name: value for name, value in evidence.recipe.items() if name != "parent"}
    return from_mapping(Recipe, stated, f"the evidence of {evidence.recipe_name}, seed {evidence.seed}")


def _network(recipe: Recipe, weights: dict[str, Tensor], checkpoint: Path) -> nn.Module:
    net = build_network(recipe)
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{checkpoint} does not fit the network that today's code builds: {reason}") from error
    return model.remove_shortcuts(net).eval()


def weights_of(evidence: Evidence, checkpoint: Path) -> dict[str, Tensor]:
    """The last weights of a run.

    Raises:
        InputError: there is no checkpoint, or it is damaged, another run's or seed's, or not what the run left.
    """
    content, seed = load_checkpoint(checkpoint), evidence.seed
    own = isinstance(content, dict) and content.get("key") == evidence.key and content.get("seed", seed) == seed
    if not own or not _are_weights(content.get("weights")) or checks.faults(evidence, checkpoint):
        raise InputError(
            f"{checkpoint} is not the checkpoint of {evidence.recipe_name}, seed {seed}; it was left alone: delete it "
            "and its evidence"
        )
    return content["weights"]


def _are_weights(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(weight, Tensor) and bool(weight.isfinite().all())
        for name, weight in value.items()
    )


def runs(root: str | os.PathLike = "results") -> pd.DataFrame:
    """:func:`jellyplus.runs`."""
    store = _store(root)
    rows = [_row(Kept(evidence, store)) for evidence in store.all_runs()]
    return pd.DataFrame(rows, columns=_COLUMNS)


_COLUMNS = (
    "recipe",
    "profile",
    "seed",
    "dataset",
    "stand_in",
    "accuracy_last",
    "accuracy_best",
    "epochs",
    "energy_uj",
    "time_s",
    "weights",
    "file",
)


def _row(kept: Kept) -> tuple:
    """Accuracies in percent, energy of an inference by the default convention, and whether there is a checkpoint."""
    e = kept.evidence
    stand_in = scale.is_stand_in(e)
    measured = (e.accuracy_last, e.accuracy_best, e.epochs_completed, e.operations["energy_uj"], e.wall_time_s)
    head = (e.recipe_name, e.profile, e.seed, e.dataset["name"], stand_in)
    return (*head, *measured, kept.checkpoint.is_file(), str(kept.path))
