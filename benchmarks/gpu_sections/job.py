"""What a part is told, and where it writes what it measures: one JSON a line, appended as it comes."""

import contextlib
import json
import os
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Job", "append", "named", "read"]


@dataclass(frozen=True)
class Job:
    """A part of a section, as its process gets it; a function is also given the part's arguments.

    Args:
        section: ``card``, ``right``, ``fast`` or ``evidence``.
        functions: modules and functions, of which this process calls one after the other.
        out: folder of what is kept.
        scratch: folder of what is not.
        ends_at: of ``time.monotonic``, which all processes share: when this one is killed.
        dry_run: tiny sizes, on the CPU.
        data_root: folder of the real data sets.
        workers: processes that load data.
        arguments: the functions' own.
        failed: what was attempted and failed, in its own process.
    """

    section: str
    functions: list[str]
    out: str
    scratch: str
    ends_at: float
    dry_run: bool
    data_root: str | None
    workers: int
    arguments: dict[str, Any] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends_at - time.monotonic()

    def add(self, **values: Any) -> None:
        """Write down what was measured."""
        record = {"section": self.section, "dry_run": self.dry_run, **values}
        append(named(self.out, self.dry_run, ".jsonl"), record)

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Go on behind it where it fails: its error stands in the results, the traceback in the log."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.failed.append(what)
            self.add(attempted=what, error=f"{type(error).__name__}: {error}"[:500])


def named(out: str | Path, dry_run: bool, suffix: str) -> Path:
    """A file of the results; a dry run's has another name, so that it never takes the place of a measurement."""
    return Path(out) / f"{'dry_run' if dry_run else 'gpu'}{suffix}"


def append(path: Path, record: dict[str, Any]) -> None:
    """Add a line. It begins with its newline: where a process was killed while it wrote, that line alone is lost."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, f"\n{json.dumps(record)}".encode())
    finally:
        os.close(descriptor)


def read(path: Path) -> list[dict[str, Any]]:
    """All lines that are whole."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records
