"""Whether evidence is what today's code would make: judged by what the code does, see :mod:`.probe`."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import joblib
from joblib.externals.loky import get_reusable_executor

from jellyplus import registry
from jellyplus._bars import bar
from jellyplus._distributed import processes
from jellyplus._errors import InputError
from jellyplus._files import user_cache, write_atomically
from jellyplus.registry import MEASURES
from jellyplus.reproduction import probe
from jellyplus.reproduction.evidence import Evidence, Measurement
from jellyplus.reproduction.probe import Values
from jellyplus.reproduction.source import code_digest, libraries
from jellyplus.reproduction.store import Probe, Store
from jellyplus.training.recipe import Run

__all__ = ["Standing", "Today"]

Record = Evidence | Measurement


@dataclass(frozen=True)
class Standing:
    """What today's code has to say of evidence.

    Args:
        status: ``current``, today's code does the same; ``stale``, it does not; ``unknown``, nobody recorded what the
            code did that made it.
        differences: in words, by what differs.
    """

    status: Literal["current", "stale", "unknown"]
    differences: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_current(self) -> bool:
        """Whether today's code does the same."""
        return self.status == "current"

    @property
    def of_training(self) -> "Standing":
        """What it has to say of training alone: how operations are counted makes no other weights."""
        left = {name: said for name, said in self.differences.items() if not name.startswith(probe.OPERATIONS)}
        return Standing("current") if self.differences and not left else Standing(self.status, left)

    @property
    def why(self) -> str:
        """The first difference and how many there are beside it; empty where there is none."""
        first = next(iter(self.differences.values()), "")
        others = len(self.differences) - 1
        return f"{first} ({others} more)" if others > 0 else first


class Today:
    """The code as it is now, and what it does, as far as somebody asked.

    What it does is kept in ``$XDG_CACHE_HOME/jellyplus/probes`` (``~/.cache``) by the digest of the source and the
    versions of the libraries, so that nothing is run twice.
    """

    def __init__(self):
        self.code = code_digest()
        self.libraries = libraries()
        self._values: dict[str, Values] = {}

    def code_of(self, run: Run, measure: str | None = None) -> str:
        """The digest of the code that makes ``run``: of the package, and of the plugins that it takes parts from.

        That of a measurement on its network is of the plugin that has the measure, too.
        """
        plugins = _plugins(run, measure)
        return hashlib.sha256("".join((self.code, *plugins)).encode()).hexdigest() if plugins else self.code

    def standing(self, record: Record, run: Run, store: Store) -> Standing:
        """What today's code has to say of ``record``.

        The digest is the short way: equal source on equal libraries does the same.

        Args:
            record: evidence, or a measurement.
            run: that it is of.
            store: that has it.

        Raises:
            InputError: its probe is damaged.
        """
        recorded = self._to_compare(record, run, store)
        if isinstance(recorded, Standing):
            return recorded
        found = probe.differences(recorded.values, self.values(record, run))
        return Standing("stale", found) if found else Standing("current")

    def probe(self, record: Record, run: Run) -> Probe:
        """What is kept beside ``record``, which this code made."""
        return Probe(1, self.code_of(run, _measure(record)), self.libraries, self.values(record, run))

    def values(self, record: Record, run: Run) -> Values:
        """What today's code does that would make ``record`` again."""
        name = _name(record, run)
        if name not in self._values:
            self._values[name] = self._kept(name) or self._probed([(record, run)])[0]
        return self._values[name]

    def prepare(self, records: Iterable[tuple[Record, Run]], store: Store) -> None:
        """Find out in several processes what :meth:`standing` of all these will want to know.

        Raises:
            InputError: a probe is damaged.
        """
        needed = {
            _name(record, run): (record, run)
            for record, run in records
            if isinstance(self._to_compare(record, run, store), Probe)
        }
        missing = {name: needed[name] for name in needed if not (name in self._values or self._kept(name))}
        for name, values in zip(missing, self._probed(list(missing.values())), strict=True):
            self._values[name] = values

    def _to_compare(self, record: Record, run: Run, store: Store) -> Standing | Probe:
        """The probe to hold against what today's code does, or what is known without."""
        code = self.code_of(run, _measure(record))
        if self._is_same(code, record.code, record.versions):
            return Standing("current")
        recorded = store.probe(record)
        if recorded is None:
            return Standing("unknown")
        return Standing("current") if self._is_same(code, recorded.code, recorded.versions) else recorded

    def _is_same(self, today: str, code: str, versions: Mapping[str, str]) -> bool:
        return code == today and self.libraries.items() <= versions.items()

    def _probed(self, wanted: list[tuple[Record, Run]]) -> list[Values]:
        """In this process where it is one or two; elsewhere where that is faster, or where processes wait for it."""
        jobs = 1 if len(wanted) < _WORTH_PROCESSES and processes() == 1 else max(2, os.cpu_count() or 1)
        made = joblib.Parallel(n_jobs=jobs, return_as="generator")(
            joblib.delayed(_probe)(registry.plugins(), *subject) for subject in wanted
        )
        found = list(bar(made, "what today's code does", len(wanted), unit="probe", leave=False, disable=jobs == 1))
        if jobs > 1:
            get_reusable_executor().shutdown()  # or a process that ends waits until joblib's have idled for minutes
        for (record, run), values in zip(wanted, found, strict=True):
            with contextlib.suppress(InputError, RuntimeError):  # without a folder for it, it is found out again
                write_atomically(self._file(_name(record, run)), json.dumps(values).encode())
        return found

    def _kept(self, name: str) -> Values | None:
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            self._values[name] = json.loads(self._file(name).read_bytes())
        return self._values.get(name)

    def _file(self, name: str) -> Path:
        """Where a probe is kept; a RuntimeError says that the user has no home."""
        today = hashlib.sha256(repr((self.code, sorted(self.libraries.items()))).encode()).hexdigest()
        return user_cache() / "probes" / today[:16] / f"{name}.json"


_WORTH_PROCESSES = 12  # probes; to start processes takes as long


def _measure(record: Record) -> str | None:
    return record.measure if isinstance(record, Measurement) else None


def _plugins(run: Run, measure: str | None) -> list[str]:
    """The digests of those that have a part in it."""
    measuring = {MEASURES.origin(measure).digest} - {""} if measure else set()
    return sorted(measuring.union(run.plugins))


def _name(record: Record, run: Run) -> str:
    """Of what decides it: neither seed nor code of the package."""
    plugins = "".join(digest[:16] for digest in _plugins(run, _measure(record)))
    return f"{record.key[:32]}-{record.probe_stem.removesuffix(record.code[:12])}{plugins}"


def _probe(plugins: tuple[Path, ...], record: Record, run: Run) -> Values:
    registry.load(plugins)
    if isinstance(record, Measurement):
        return probe.of_measure(run, record.measure, record.settings)
    return probe.of_run(run)
