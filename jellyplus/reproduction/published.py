"""Weights that are kept with the repository: safetensors files with their hashes, evidence and model cards.

``reproductions/weights/weights.json`` names them, and says of which evidence they are the weights. Beside it lie
``<name>.safetensors`` and ``<name>.md``, the card, which is written from the evidence.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from jellyplus._errors import InputError
from jellyplus._files import below, read_file, write_atomically
from jellyplus._strict import from_mapping
from jellyplus.reproduction.evidence import Evidence
from jellyplus.reproduction.scale import is_stand_in
from jellyplus.reproduction.store import Store
from jellyplus.training.recipe_files import OPTIONAL

__all__ = ["FOLDER", "Published", "card", "find", "publish"]

FOLDER = Path("reproductions/weights")
_LIST = "weights.json"


@dataclass(frozen=True)
class _Entry:
    evidence: str
    sha256: str


@dataclass(frozen=True)
class Published:
    """Weights under a name.

    Args:
        name: like ``compare/tdbn-seed0``.
        evidence: the file of the run's evidence.
        file: of the weights.
        sha256: of that file, in hexadecimal.
    """

    name: str
    evidence: Path
    file: Path
    sha256: str

    def weights(self) -> dict[str, Tensor]:
        """What the file holds.

        Raises:
            InputError: it is missing, or not the file whose hash was written down.
        """
        try:
            content = read_file(self.file)
        except OSError as error:
            raise InputError(f"the weights {self.name} are not there: {error}") from error
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise InputError(
                f"{self.file} is not the file that {_LIST} has the SHA-256 of: get both again, of one version"
            )
        try:
            return safetensors.torch.load(content)
        except SafetensorError as error:
            raise InputError(f"{self.file} holds no weights: {error}") from error


def find(name: str, folder: Path = FOLDER) -> Published | None:
    """Return the weights of this name, None where there are none.

    Args:
        name: as in the list.
        folder: that has the list; the folder beside it, ``measured``, has the evidence.

    Raises:
        InputError: the list is damaged, or leads out of the folder that ``folder`` is in.
    """
    entry = _entries(folder).get(name)
    if entry is None:
        return None
    evidence, file = folder.parent / entry.evidence, folder / f"{name}.safetensors"
    return Published(name, below(evidence, folder.parent), below(file, folder), entry.sha256)


def publish(name: str, evidence: Path, weights: Mapping[str, Tensor], folder: Path = FOLDER) -> None:
    """Write weights, card and list.

    Args:
        name: for :func:`find`.
        evidence: the file of their run's evidence, below the folder that ``folder`` is in.
        weights: by name.
        folder: see :func:`find`.

    Raises:
        InputError: the list is damaged, or a file cannot be written.
    """
    content = safetensors.torch.save({key: weight.contiguous() for key, weight in weights.items()})
    entry = _Entry(evidence.relative_to(folder.parent).as_posix(), hashlib.sha256(content).hexdigest())
    entries = {**_entries(folder), name: entry}
    record = Store(evidence.parent.parent).read(evidence, Evidence)
    write_atomically(folder / f"{name}.safetensors", content)
    write_atomically(folder / f"{name}.md", card(name, record).encode())
    listed = {name: asdict(entries[name]) for name in sorted(entries)}
    write_atomically(folder / _LIST, f"{json.dumps(listed, indent=2)}\n".encode())


def card(name: str, evidence: Evidence) -> str:
    """The model card, in Markdown: what the network is, what it was measured to do, and how to get it."""
    recipe, data, network = evidence.recipe, evidence.dataset, evidence.recipe["model"]
    names = {part: settings["name"] for part in ("neuron", "norm", "surrogate") if (settings := recipe[part])}
    methods = [part for part in OPTIONAL if recipe[part] and part != "initial_weights"]
    lines = {
        "recipe": f"`{evidence.recipe_name}`, profile `{evidence.profile}`, seed {evidence.seed}",
        "network": f"{network['architecture']}, width {network['width']}, T = {network['time_steps']}, "
        f"{evidence.parameters:,} parameters",
        "parts": ", ".join(f"{part} {name}" for part, name in ({"neuron": "ReLU"} | names).items()),
        "methods": ", ".join(methods) or "none beside these",
        "trained on": f"{'stand-in ' * is_stand_in(evidence)}{data['name']}, {data['train_examples']:,} examples, "
        f"{evidence.epochs_completed} epochs",
        "accuracy": f"{evidence.accuracy_last:.2f} % of {data['test_examples']:,} test examples, after the last epoch",
        "energy of an inference": f"{evidence.operations['energy_uj']:.3g} uJ, convention "
        f"{evidence.operations['convention']}",
        "made by": f"commit {evidence.commit}, torch {evidence.versions['torch']}, {evidence.device}",
        "evidence": f"`{evidence.key[:16]}/{evidence.stem}.json`",
    }
    rows = [f"| {what} | {said} |" for what, said in lines.items()]
    return "\n".join(
        [
            f"# {name}",
            "",
            "| | |",
            "|---|---|",
            *rows,
            "",
            f'`jellyplus.load("{name}")` gives the network, its transform, its recipe and its history.',
            "",
            "It is what its recipe and profile say, and no better at the task. Other data, bias and attacks were not",
            "looked at.",
            "",
        ]
    )


def _entries(folder: Path) -> dict[str, _Entry]:
    path = folder / _LIST
    if not path.is_file():
        return {}
    try:
        listed = json.loads(read_file(path))
        return {name: from_mapping(_Entry, entry, name) for name, entry in listed.items()}
    except (ValueError, AttributeError, RecursionError, OSError, InputError) as error:
        raise InputError(f"{path} is damaged ({error}): get it again") from error
