"""The store: evidence, measurements and their probes in JSON files, by the hash of the recipe.

``<root>/<key>/`` has everything about a recipe: ``seed<n>-<code>.json`` of a run, with its checkpoint beside it,
``<measure>-<settings>-seed<n>-<code>.json`` of a measurement, and what the code did that made them, which all seeds
share: ``probe-<code>.json`` and ``<measure>-<settings>-probe-<code>.json``. Append-only, and a file is whole or absent.
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from jellyplus._errors import InputError
from jellyplus._files import below, read_file, write_atomically
from jellyplus._strict import from_mapping
from jellyplus.datasets.splits import manifest_bytes, manifest_digest
from jellyplus.reproduction.evidence import Evidence, Measurement, settings_digest

__all__ = ["Probe", "Store"]

_MAX_BYTES = 16 * 2**20  # ten thousand epochs, which are the most, have 9 MiB
_LESS = "record fewer or shorter columns in the history"
_SCHEMAS = {Evidence: 3, Measurement: 1}  # of evidence, 1 had no backend, 2 no operations
_MADE = {Evidence: "the run be made", Measurement: "it be measured"}

Record = TypeVar("Record", Evidence, Measurement)


@dataclass(frozen=True)
class Probe:
    """What the code did that made evidence or a measurement, from :mod:`jellyplus.reproduction.probe`.

    Args:
        schema: version of this layout.
        code: digest of the source that was probed.
        versions: of the libraries it ran on.
        values: numbers, words, and lists of them, by what they are.
    """

    schema: Literal[1]
    code: str
    versions: dict[str, str]
    values: dict


class Store:
    """A folder of evidence.

    Args:
        root: ``evidence`` in a folder of results, which links may not lead out of; it need not exist before the first
            write.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = Path(root)

    def runs(self, key: str) -> list[Evidence]:
        """Return the evidence of this recipe, whatever the seed and the code, by seed and code.

        Raises:
            InputError: a file is damaged or of another schema; it is left alone.
        """
        found = [self.read(path, Evidence) for path in self.files(key, "seed*-*.json")]
        return sorted((e for e in found if e.key == key), key=lambda e: (e.seed, e.code))

    def all_runs(self) -> list[Evidence]:
        """Return the evidence of all recipes, by name, profile, seed and code.

        Raises:
            InputError: a file is damaged or of another schema; it is left alone.
        """
        found = [self.read(self._own(path), Evidence) for path in self.root.glob("*/seed*-*.json")]
        return sorted(found, key=lambda e: (e.recipe_name, e.profile, e.key, e.seed, e.code))

    def measurements(
        self, key: str, measure: str, settings: Mapping[str, Any], seed: int | None = None
    ) -> list[Measurement]:
        """Return what was measured on a run's network, whatever the code, and without ``seed`` whatever that.

        Raises:
            InputError: a file is damaged or of another schema; it is left alone.
        """
        pattern = f"{measure}-{settings_digest(settings)}-seed{'*' if seed is None else seed}-*.json"
        found = [self.read(path, Measurement) for path in self.files(key, pattern)]
        return [m for m in found if (m.key, m.settings) == (key, dict(settings))]

    def probe(self, record: Evidence | Measurement) -> Probe | None:
        """Return the probe of the code that made ``record``, None where there is none.

        Raises:
            InputError: its file is damaged or of another schema; it is left alone.
        """
        path = next(iter(self.files(record.key, f"{record.probe_stem}.json")), None)
        return _read(path, Probe, "its evidence be of unknown standing") if path else None

    def write(self, record: Evidence | Measurement, probe: Probe) -> Path:
        """Add ``record`` with its probe and return its file. Non-finite numbers of a history become null.

        Raises:
            InputError: there is such evidence by this code already, it is too large to be read again, or a file
                cannot be written.
        """
        path = self.path(record)
        if path.exists():
            raise InputError(f"{path} exists and evidence is never overwritten; delete it to make it again")
        if not (self.folder(record.key) / f"{record.probe_stem}.json").exists():
            self.write_probe(record, probe)
        fields = dataclasses.asdict(record)
        if "history" in fields:
            fields["history"] = _finite(fields["history"])
        content = json.dumps(fields, sort_keys=True, indent=_INDENT[type(record)], allow_nan=False)
        if len(content) >= _MAX_BYTES:
            raise InputError(f"{path} would be larger than the {_MAX_BYTES // 2**20} MiB that can be read: {_LESS}")
        write_atomically(path, f"{content}\n".encode())
        return path

    def write_probe(self, record: Evidence | Measurement, probe: Probe) -> None:
        """Keep what the code did that made ``record``, a line for each value.

        Raises:
            InputError: the file cannot be written.
        """
        head = {name: value for name, value in dataclasses.asdict(probe).items() if name != "values"}
        lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
        values = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in probe.values.items()]
        text = ",\n".join([*lines, '"values": {\n' + ",\n".join(values) + "\n}"])
        write_atomically(self.folder(record.key) / f"{record.probe_stem}.json", f"{{\n{text}\n}}\n".encode())

    def write_manifest(self, manifest: dict) -> None:
        """Keep which recordings are in which split, in ``<root>/splits``, once for each.

        Raises:
            InputError: the file cannot be written.
        """
        path = self._own(self.root / "splits" / f"{manifest_digest(manifest)[:16]}.json")
        if not path.exists():
            write_atomically(path, manifest_bytes(manifest))

    def read(self, path: Path, kind: type[Record]) -> Record:
        """Return what a file holds.

        Raises:
            InputError: it is damaged, of another schema, or under another's name; it is left alone.
        """
        record = _read(path, kind, f"{_MADE[kind]} again")
        if path.parts[-2:] != self.path(record).parts[-2:]:
            raise _damaged(path, "its name is another's", f"{_MADE[kind]} again")
        return record

    def checkpoint(self, key: str, seed: int, code: str) -> Path:
        """Return where the checkpoint of this recipe, seed and code belongs: beside its evidence."""
        return self._own(self.folder(key) / f"seed{seed}-{code[:12]}.ckpt")

    def state(self, key: str, seed: int, code: str) -> Path:
        """Return where the state of an unfinished training belongs: beside the checkpoint that it becomes."""
        return self._own(self.checkpoint(key, seed, code).with_suffix(".partial"))

    def states(self) -> list[Path]:
        """Return the states of all unfinished trainings."""
        return [self._own(path) for path in self.root.glob("*/seed*.partial")]

    def path(self, record: Evidence | Measurement) -> Path:
        """Return where a record belongs."""
        return self.folder(record.key) / f"{record.stem}.json"

    def files(self, key: str, pattern: str) -> list[Path]:
        """Return the files about this recipe whose names fit ``pattern``, by name."""
        return [self._own(path) for path in sorted(self.folder(key).glob(pattern))]

    def folder(self, key: str) -> Path:
        """Return where everything about this recipe belongs."""
        return self._own(self.root / key[:16])

    def _own(self, path: Path) -> Path:
        return below(path, self.root.parent)


_INDENT = {Evidence: 2, Measurement: 1}


def _read(path: Path, kind: type, remedy: str) -> Any:
    try:
        if len(content := read_file(path, most=_MAX_BYTES + 1)) > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES // 2**20} MiB")
        record = json.loads(content)
        if record != _finite(record):
            raise ValueError("it has a number that is not finite")
        return from_mapping(kind, _of_schema(record, _SCHEMAS.get(kind, 1)), path.name)
    except (InputError, ValueError, RecursionError, OSError) as error:
        raise _damaged(path, error, remedy) from error


def _damaged(path: Path, why: object, remedy: str) -> InputError:
    return InputError(
        f"{path} is damaged or from another version ({why}); it was left alone, and deleting it lets {remedy}"
    )


def _of_schema(record: Any, wanted: int) -> Any:
    """What was read; another schema is a clearer reason to refuse it than the first key that differs."""
    if isinstance(record, dict) and type(schema := record.get("schema")) is int and schema != wanted:
        raise ValueError(f"key 'schema' is {schema}, and this jellyplus reads {wanted}")
    return record


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
