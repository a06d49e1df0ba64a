"""How much memory what files unpack to may take, however many threads read: asked for before anything is made.

A few megabytes may unpack to any number of gigabytes, and one limit for each file is a limit for none where a thread
for every core reads one. What needs more than all there is, is refused; what needs more than is left, waits.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from jellyplus._errors import InputError

__all__ = ["UNPACKED", "Budget"]


class Budget:
    """Bytes that the threads of a process share.

    Args:
        total: of all.
    """

    def __init__(self, total: int):
        self.total = total
        self._left = total
        self._changed = threading.Condition()

    def check(self, needed: int, path: Path | str) -> None:
        """Raise InputError where a file needs more than there is."""
        if needed > self.total:
            raise InputError(
                f"{path} unpacks to what needs {needed:,} bytes of memory, and files may take {self.total:,}; "
                "put the original in its place"
            )

    @contextlib.contextmanager
    def held(self, needed: int, path: Path | str) -> Iterator[None]:
        """Hold so many bytes, once others have given back enough of theirs. A thread holds once at a time.

        Raises:
            InputError: more than there is.
        """
        self.check(needed, path)
        with self._changed:
            self._changed.wait_for(lambda: needed <= self._left)
            self._left -= needed
        try:
            yield
        finally:
            with self._changed:
                self._left += needed
                self._changed.notify_all()


def _memory() -> float:
    """Bytes of the machine; without end where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return float("inf")


#: What is unpacked to be read, in every process: 2 GiB, or a quarter of a smaller machine.
UNPACKED = Budget(int(min(2 * 2**30, _memory() / 4)))
