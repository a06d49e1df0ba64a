"""Commands go on when nobody reads what they print, and need nothing of a notebook."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jellyplus import _command
from jellyplus.__main__ import main
from jellyplus._command import answer
from jellyplus._errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def unread():
    """A stream whose reader has left."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:  # at its end it raises where something is left to write
        yield stream


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_command_goes_on_when_its_reader_leaves(monkeypatch, unread, name):
    monkeypatch.setattr(sys, name, unread)
    reached = []

    def command():
        for _ in range(2):
            print("much " * 10_000, file=getattr(sys, name), flush=True)
        print("the rest, which is in a buffer at the end", file=getattr(sys, name))
        reached.append(True)
        return 0

    assert answer("test", command, "") == 0
    assert reached == [True]
    assert getattr(sys, name) is unread


def test_a_sentence_that_nobody_reads_is_exit_code_2_all_the_same(monkeypatch, unread):
    def refuse():
        raise InputError("no")

    monkeypatch.setattr(sys, "stderr", unread)
    assert answer("test", refuse, "") == 2


def test_help_that_nobody_reads(monkeypatch, unread):
    monkeypatch.setattr(sys, "stdout", unread)
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0


def test_streams_that_were_closed_before(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert answer("test", lambda: print("x", file=sys.stderr) or 0, "") == 0


def test_other_errors_of_a_stream_are_told(monkeypatch):
    with open("/dev/full", "w", buffering=1) if Path("/dev/full").exists() else pytest.skip("Linux") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(OSError, match="No space left"), _command._Stream(full) as stream:
            print("x", file=stream, flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.ELOOP, errno.ENAMETOOLONG])
def test_what_the_system_refuses_is_one_sentence(capsys, number):
    def command():
        raise OSError(number, os.strerror(number), "some/file\n")

    assert answer("prog", command, "") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"prog: error: some/file\\n: {os.strerror(number)}; ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOTDIR, "not a directory", "a"), OSError(errno.EACCES, "without a file")]
)
def test_errors_of_the_program_keep_their_traceback(error):
    def command():
        raise error

    with pytest.raises(OSError, match=error.strerror):
        answer("prog", command, "")


@pytest.mark.parametrize(
    "words", [["-m", "jellyplus", "render", "--out", "none"], ["reproductions/table1_tdbn.py", "--list"]]
)
def test_the_backend_of_a_notebook_is_not_asked_for(words):
    variables = os.environ | {"MPLBACKEND": "module://a_notebook_that.is_not_here"}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=variables, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert done.returncode == (2 if "render" in words else 0)
