"""What all commands have in common: whoever reads their output may leave, and bad input is one sentence."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from jellyplus._errors import InputError

__all__ = ["answer"]


def answer(program: str, command: Callable[[], int], interrupted: str) -> int:
    """Run a command, which reads the arguments of this process or those it was given.

    Args:
        program: its name, before what goes wrong.
        command: returns the exit code.
        interrupted: what to say after Ctrl-C.

    Returns:
        The exit code: the command's own, 2 for bad input, 130 when interrupted.
    """
    os.environ["MPLBACKEND"] = "agg"  # a notebook's names a module that need not be here; nothing is shown in a window
    with (
        _Stream(sys.stdout) as out,
        _Stream(sys.stderr) as err,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            return command()
        except InputError as error:
            print(f"{program}: error: {error}", file=sys.stderr)
            return 2
        except OSError as error:
            if error.errno not in _SYSTEM or not error.filename:
                raise
            sentence = InputError(f"{error.filename}: {error.strerror}; {_SYSTEM[error.errno]}")
            print(f"{program}: error: {sentence}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"{program}: interrupted; {interrupted}", file=sys.stderr)
            return 130


class _Stream:
    """A stream whose reader may leave, as ``head`` does, or a terminal that may be closed: then the rest is dropped."""

    def __init__(self, stream: TextIO | None):
        self._stream = stream or io.StringIO()  # none: it was closed before

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropping():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _GONE:
                raise
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())  # what is buffered goes there, too


#: What the system refuses, and what to do about it; other errors of files are expected where they may happen.
_SYSTEM = dict.fromkeys((errno.EACCES, errno.EPERM), "change its permissions, or give another one") | {
    errno.EDQUOT: "make room, or give another folder",
    errno.EIO: "its disk or its network fails: give another one",
    errno.ELOOP: "its links lead in a circle: give another one",
    errno.ENAMETOOLONG: "give a shorter one",
    errno.ENOSPC: "make room, or give another folder",
    errno.EROFS: "give a folder that can be written",
    errno.ESTALE: "its network drive is gone: mount it again, or give another one",
}
_GONE = (errno.EPIPE, errno.EIO, errno.EINVAL)  # a pipe's reader, a terminal, a pipe's reader on Windows
