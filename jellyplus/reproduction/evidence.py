"""Evidence: what the machine measured, one JSON per run and seed in one store, found by the hash of its recipe."""

import ast
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jellyplus
from jellyplus._errors import InputError
from jellyplus._files import write_atomically
from jellyplus._strict import from_mapping
from jellyplus.datasets.splits import manifest_bytes, manifest_digest
from jellyplus.training.recipe import recipe_key

_PACKAGE = Path(jellyplus.__file__).parent
_DECIDES_NUMBERS = (
    "_compat.py",
    "_distributed.py",
    "neuron",
    "surrogate.py",
    "layer.py",
    "loss.py",
    "functional.py",
    "monitor.py",
    "op_counter.py",
    "model",
    "datasets",
    "training",
)
_SCHEMA = 3  # 1 had no backend, 2 no operations
_VERSIONED = ("torch", "spikingjelly", "numpy", "lightning", "torchvision")
_MAX_BYTES = 16 * 2**20
_NUMBER = (int, float)
_NEEDED = {
    "dataset": {"name": str, "train_examples": int, "test_examples": int},
    "operations": {
        "macs_per_time_step": int,
        "spike_rate": _NUMBER,
        "additions": _NUMBER,
        "multiplications": _NUMBER,
        "energy_uj": _NUMBER,
        "examples": int,
        "convention": str,
    },
}


@dataclass(frozen=True)
class Evidence:
    """One finished run with one seed.

    Args:
        schema: version of this layout.
        key: ``recipe_key(recipe)``.
        recipe_name: e.g. ``dspike/cifar10_t6``.
        profile: which overlay was on the recipe.
        seed: what all randomness derives from.
        code: ``code_digest()`` at the time of the run.
        recipe: the resolved recipe.
        parent: key of the evidence whose checkpoint the run started from, None if from scratch.
        commit: of the checkout, "unknown" where there is none.
        dirty: whether the checkout differed from the commit, None where there is none.
        versions: of Python and the libraries.
        device: in words.
        backend: what ran the neurons; None for an ANN.
        dataset: at least name, train_examples and test_examples.
        parameters: of the network.
        operations: of one example's inference over all time-steps, from the spikes of some test examples: at least
            macs_per_time_step, spike_rate, additions, multiplications, energy_uj, examples and convention. Evidence
            from today's code has what a count by any convention takes, time_steps, firing_rate and layers, as in
            :class:`~jellyplus.op_counter.Measurement`, too, how the examples were chosen, and additions_error, the
            standard error over them, by the name of the convention.
        accuracy_last: on test data after the last epoch, in percent; the headline.
        accuracy_best: the highest of any epoch on test data, in percent.
        best_epoch: its epoch, counted from 0.
        epochs_completed: of ``epochs_planned``.
        epochs_planned: by the recipe.
        wall_time_s: of the whole run, in seconds.
        search_time_s: the temperature search's share of it, in seconds.
        left_over: names on either side that the initial weights had no counterpart for.
        history: one dict per epoch.
    """

    schema: Literal[3]
    key: str
    recipe_name: str
    profile: str
    seed: int
    code: str
    recipe: dict
    parent: str | None
    commit: str
    dirty: bool | None
    versions: dict[str, str]
    device: str
    backend: str | None
    dataset: dict
    parameters: int
    operations: dict
    accuracy_last: float
    accuracy_best: float
    best_epoch: int
    epochs_completed: int
    epochs_planned: int
    wall_time_s: float
    search_time_s: float
    left_over: tuple[str, ...]
    history: tuple[dict, ...]

    def __post_init__(self):
        if self.key != recipe_key(self.recipe):
            raise ValueError("the key is not the recipe's")
        for part, needed in _NEEDED.items():
            held = getattr(self, part)
            if missing := needed.keys() - held.keys():
                raise ValueError(f"{part} lacks {', '.join(sorted(missing))}")
            if wrong := [name for name, kind in needed.items() if not isinstance(held[name], kind)]:
                raise ValueError(f"{part} has another kind of {', '.join(wrong)}")
        for name in ("accuracy_last", "accuracy_best"):
            if not 0 <= getattr(self, name) <= 100:
                raise ValueError(f"{name} is {getattr(self, name)} percent")


class Store:
    """Evidence in files ``<root>/<key>/seed<seed>-<code>.json``, each with its checkpoint beside it.

    Append-only, and a file is whole or absent.

    Args:
        root: folder; it need not exist before the first write.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = Path(root)

    def find(self, key: str, seed: int, code: str) -> Evidence | None:
        """Return the evidence of exactly this recipe, seed and code, or None.

        Raises:
            InputError: the file is damaged or of another schema; it is left alone.
        """
        path = self._path(key, seed, code)
        evidence = self._read(path) if path.exists() else None
        return evidence if evidence and (evidence.key, evidence.code) == (key, code) else None

    def find_any(self, key: str) -> list[Evidence]:
        """Return the evidence of this recipe, whatever the seed and the code, by seed and code.

        Raises:
            InputError: a file is damaged or of another schema; it is left alone.
        """
        found = map(self._read, self.files(key, "seed*-*.json"))
        return sorted((e for e in found if e.key == key), key=lambda e: (e.seed, e.code))

    def write(self, evidence: Evidence) -> Path:
        """Add ``evidence`` and return its file. Non-finite numbers of the history become null.

        Raises:
            InputError: there is evidence of this recipe, seed and code already, or the file cannot be written.
        """
        path = self._path(evidence.key, evidence.seed, evidence.code)
        if path.exists():
            raise InputError(f"{path} exists and evidence is never overwritten; delete it to make the run again")
        record = {**dataclasses.asdict(evidence), "history": _finite(evidence.history)}
        content = json.dumps(record, sort_keys=True, indent=2, allow_nan=False)
        write_atomically(path, f"{content}\n".encode())
        return path

    def write_manifest(self, manifest: dict) -> None:
        """Keep which recordings are in which split, in ``<root>/splits``, once for each.

        Raises:
            InputError: the file cannot be written.
        """
        path = self.root / "splits" / f"{manifest_digest(manifest)[:16]}.json"
        if not path.exists():
            write_atomically(path, manifest_bytes(manifest))

    def checkpoint_path(self, key: str, seed: int, code: str) -> Path:
        """Return where the checkpoint of this recipe, seed and code belongs: beside its evidence."""
        return self._path(key, seed, code).with_suffix(".ckpt")

    def files(self, key: str, pattern: str) -> list[Path]:
        """Return the files about this recipe whose names fit ``pattern``, by name."""
        return sorted(self.folder(key).glob(pattern))

    def folder(self, key: str) -> Path:
        """Return where everything about this recipe belongs."""
        return self.root / key[:16]

    def _path(self, key: str, seed: int, code: str) -> Path:
        return self.folder(key) / f"seed{seed}-{code[:12]}.json"

    def _read(self, path: Path) -> Evidence:
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise ValueError(f"it is larger than {_MAX_BYTES // 2**20} MiB")
            evidence = from_mapping(Evidence, _of_this_schema(json.loads(path.read_bytes())), path.name)
            if path.parts[-2:] != self._path(evidence.key, evidence.seed, evidence.code).parts[-2:]:
                raise ValueError("its name is another run's")
        except (InputError, ValueError, RecursionError, OSError) as error:
            raise InputError(
                f"{path} is damaged or from another version ({error}); it was left alone, and deleting it "
                "lets the run be made again"
            ) from error
        return evidence


def code_digest(package: Path = _PACKAGE) -> str:
    """Return the sha256, in hexadecimal, of the source that decides numbers, comments and docstrings not counted.

    The text hashed is that of ``ast.unparse``, so that the same source may differ between versions of Python, and
    the C++ text of the kernels without what stands behind ``//``.

    Args:
        package: folder of jellyplus.
    """
    digest = hashlib.sha256()
    for name in _DECIDES_NUMBERS:
        part = package / name
        for path in sorted(part.rglob("*")) if part.is_dir() else filter(Path.exists, [part]):
            if path.suffix in _STATEMENTS:
                statements = _STATEMENTS[path.suffix](path.read_text())
                digest.update(f"{path.relative_to(package).as_posix()}\n{statements}\n".encode())
    return digest.hexdigest()


def provenance() -> dict[str, Any]:
    """Return ``commit``, ``dirty`` and ``versions``, as in ``Evidence``.

    A checkout is dirty when a file that git tracks, or would track, differs from the commit.
    """
    commit, dirty = "unknown", None
    if _git("ls-files", "--error-unmatch", "__init__.py"):  # or the repository found is of something around us
        commit = (_git("rev-parse", "HEAD") or "unknown").strip()
        dirty = bool(_git("status", "--porcelain", "--untracked-files=normal"))
    versions = {name: importlib.metadata.version(name) for name in _VERSIONED}
    return {"commit": commit, "dirty": dirty, "versions": {"python": platform.python_version(), **versions}}


def _python_statements(text: str) -> str:
    return ast.unparse(_WithoutDocstrings().visit(ast.parse(text)))


def _cpp_statements(text: str) -> str:
    lines = (line.split("//")[0].rstrip() for line in text.splitlines())
    return "\n".join(filter(None, lines))


_STATEMENTS = {".py": _python_statements, ".h": _cpp_statements}


class _WithoutDocstrings(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        is_string = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_string else node


def _of_this_schema(record: Any) -> Any:
    """What was read; another schema is a clearer reason to refuse it than the first key that differs."""
    if isinstance(record, dict) and type(schema := record.get("schema")) is int and schema != _SCHEMA:
        raise ValueError(f"key 'schema' is {schema}, and this jellyplus reads {_SCHEMA}")
    return record


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=_PACKAGE, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
