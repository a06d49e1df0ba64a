"""Measurement: what was measured on a network, evidence of its own, one JSON in the store beside that of the run.

``<store>/<key>/<measure>-<settings>-seed<seed>-<code>.json``: append-only, and a file is whole or absent.
"""

import ast
import dataclasses
import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from jellyplus._distributed import alone
from jellyplus._errors import InputError
from jellyplus._files import write_atomically
from jellyplus._strict import from_mapping
from jellyplus.reproduction import measures
from jellyplus.reproduction.measures import MEASURES
from jellyplus.reproduction.runner import Runner, device_in_words
from jellyplus.training.data import DataModule
from jellyplus.training.network import build_network, choose_backend
from jellyplus.training.recipe import Run
from jellyplus.training.train import memory_format

__all__ = ["Measurement", "Measurements", "code_of_measures"]

_MAX_BYTES = 2**20


@dataclass(frozen=True)
class Measurement:
    """One measure of one network.

    Args:
        schema: version of this layout.
        key: of the recipe, which finds the run's evidence too.
        recipe_name: e.g. ``tdbn/cifar10_plain20``.
        profile: which overlay was on the recipe.
        seed: of the run.
        code: :func:`code_of_measures` at the time.
        measure: of :data:`jellyplus.reproduction.measures.MEASURES`.
        settings: of the measure.
        commit, dirty, versions: as in :class:`~jellyplus.reproduction.evidence.Evidence`.
        device: in words.
        dataset: what it was measured on.
        stand_in: whether that takes the place of the paper's data.
        examples: of both splits together.
        x, y: of the curve, of equal length.
        numbers: what sums the curve up.
    """

    schema: Literal[1]
    key: str
    recipe_name: str
    profile: str
    seed: int
    code: str
    measure: str
    settings: dict
    commit: str
    dirty: bool | None
    versions: dict[str, str]
    device: str
    dataset: str
    stand_in: bool
    examples: int
    x: tuple[float, ...]
    y: tuple[float, ...]
    numbers: dict[str, float]

    def __post_init__(self):
        if len(self.x) != len(self.y):
            raise ValueError(f"x has {len(self.x)} values and y {len(self.y)}")


class Measurements:
    """What has been measured, and measuring what has not.

    Args:
        runner: whose store, data and device are used.
    """

    def __init__(self, runner: Runner):
        self.runner = runner
        self.code = code_of_measures(runner.code)

    def find(self, run: Run, measure: str, settings: Mapping[str, Any], seed: int) -> Measurement | None:
        """Return the measurement by this code; where there is none, by another; None where there is no other.

        Raises:
            InputError: a file is damaged or from another version; it is left alone.
        """
        pattern = f"{_stem(measure, settings, seed)}-*.json"
        found = [self._read(path) for path in self.runner.store.files(run.key, pattern)]
        wanted = [m for m in found if (m.key, m.settings) == (run.key, dict(settings))]
        return next((m for m in wanted if m.code == self.code), wanted[0] if wanted else None)

    def is_made(self, run: Run, measure: str, settings: Mapping[str, Any], seed: int) -> bool:
        """Whether there is a measurement by this code."""
        found = self.find(run, measure, settings, seed)
        return found is not None and found.code == self.code

    def make(self, run: Run, measure: str, settings: Mapping[str, Any], seed: int) -> Measurement:
        """Measure and keep; a ``trained`` measure needs the finished run.

        Raises:
            InputError: the measure does not fit the recipe, there is no checkpoint, data are missing, the measurement
                is there already, or it cannot be written.
        """
        data = DataModule(self.runner.load(run), run.recipe, seed)
        how = MEASURES[measure]
        try:
            with alone():  # of several processes one measures
                curve = how.function(self._net(run, seed, how.kind), data, **settings)
        except ValueError as error:
            raise InputError(f"cannot measure {measure} of {run.name}: {error}; correct the figure's claim") from error
        measurement = Measurement(
            schema=1,
            key=run.key,
            recipe_name=run.name,
            profile=run.profile,
            seed=seed,
            code=self.code,
            measure=measure,
            settings=dict(settings),
            **self.runner.provenance,
            device=device_in_words(self.runner.device),
            dataset=data.data.name,
            stand_in=data.data.stand_in,
            examples=len(data.data.train) + len(data.data.test),
            x=tuple(curve.x),
            y=tuple(curve.y),
            numbers=curve.numbers,
        )
        self._write(measurement)
        return measurement

    def _net(self, run: Run, seed: int, kind: str) -> nn.Module:
        """The network as training starts from it, or ends with it."""
        torch.manual_seed(seed)
        net = build_network(run.recipe, choose_backend(run.recipe, self.runner.device, say=False))
        if kind == "trained":
            net.load_state_dict(self.runner.weights(run, seed))
        return net.to(self.runner.device, memory_format=memory_format(net, run.recipe))

    def _write(self, measurement: Measurement) -> None:
        path = self._path(measurement)
        if path.exists():
            raise InputError(f"{path} exists and evidence is never overwritten; delete it to measure again")
        content = json.dumps(dataclasses.asdict(measurement), sort_keys=True, indent=1, allow_nan=False)
        write_atomically(path, f"{content}\n".encode())

    def _path(self, m: Measurement) -> Path:
        return self.runner.store.folder(m.key) / f"{_stem(m.measure, m.settings, m.seed)}-{m.code[:12]}.json"

    def _read(self, path: Path) -> Measurement:
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise ValueError(f"it is larger than {_MAX_BYTES // 2**20} MiB")
            measurement = from_mapping(Measurement, json.loads(path.read_bytes()), path.name)
            measurement = dataclasses.replace(measurement, settings=_checked(measurement))
            if path.parts[-2:] != self._path(measurement).parts[-2:]:
                raise ValueError("its name is another measurement's")
        except (InputError, ValueError, RecursionError, OSError) as error:
            raise InputError(
                f"{path} is damaged or from another version ({error}); it was left alone, and deleting it lets it be "
                "measured again"
            ) from error
        return measurement


def code_of_measures(code: str) -> str:
    """Return the sha256, in hexadecimal, of what decides a measurement: of the package's ``code`` and the measures'.

    Args:
        code: :func:`jellyplus.reproduction.evidence.code_digest`.
    """
    statements = ast.unparse(ast.parse(inspect.getsource(measures)))
    return hashlib.sha256(f"{code}\n{statements}".encode()).hexdigest()


def _checked(measurement: Measurement) -> dict[str, Any]:
    if measurement.measure not in MEASURES:
        raise ValueError(f"there is no measure {measurement.measure!r}")
    return MEASURES[measurement.measure].check(measurement.settings, "settings")


def _stem(measure: str, settings: Mapping[str, Any], seed: int) -> str:
    canonical = json.dumps(dict(settings), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"{measure}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}-seed{seed}"
