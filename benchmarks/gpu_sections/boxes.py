"""Time boxes: every part is a process of its own, killed with all its children when its seconds are over.

So a part that hangs, crashes or spoils its CUDA context takes nothing from the others but its own box.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Part", "Section", "box", "run"]

_LEAST = 1.0  # second in which a part can do anything


class Part(NamedTuple):
    """Functions that one process calls, and its box.

    Args:
        functions: modules and functions, called in turn with the :class:`~gpu_sections.job.Job` and the arguments.
        seconds: at most.
        arguments: for the functions.
        peer: folder below ``--peers`` that goes first on the path, None where the packages are those beside us.
        environment: variables that are set for it.
    """

    functions: tuple[str, ...]
    seconds: float
    arguments: dict[str, Any] = {}  # noqa: RUF012 - never changed
    peer: str | None = None
    environment: dict[str, str] = {}  # noqa: RUF012


class Section(NamedTuple):
    """Parts that share a box; what the box leaves over is the next section's.

    Args:
        name: as ``--sections`` has it.
        seconds: for all parts together; None for all that is left.
        parts: in the order in which they run.
    """

    name: str
    seconds: float | None
    parts: tuple[Part, ...]


def run(
    sections: Sequence[Section],
    start: Callable[[Section, Part, float], int | str | None],
    record: Callable[..., None],
    ends_at: float,
) -> None:
    """Run all parts one after the other, and record how each ended.

    Args:
        sections: in their order.
        start: runs a part in its seconds; gives what :func:`box` does, or in words why it did not.
        record: is given section, part, how it ended and its seconds.
        ends_at: of ``time.monotonic``: nothing runs longer.
    """
    for section in sections:
        until = min(ends_at, time.monotonic() + section.seconds) if section.seconds else ends_at
        for part in section.parts:
            began = time.monotonic()
            seconds = min(part.seconds, until - began)
            end = _in_words(start(section, part, seconds), seconds) if seconds >= _LEAST else "not begun: no time left"
            record(section, part, end, time.monotonic() - began)


def box(command: Sequence[str | Path], environment: dict[str, str], seconds: float, log: Path) -> int | None:
    """Run a command in a process group, which is killed in the end; its output is added to ``log``.

    Returns:
        its exit code, negative where a signal ended it; None where the seconds did.
    """
    with log.open("ab") as file:
        output = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, env=environment, start_new_session=True, **output)
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _in_words(code: int | str | None, seconds: float) -> str:
    if isinstance(code, str):
        return code
    if code is None:
        return f"killed after {seconds:.1f} s"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"failed with exit code {code}" if code else "done"
