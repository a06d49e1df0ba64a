"""The source that made something: its digest, its commit, and the libraries it ran on."""

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import jellyplus
from jellyplus._errors import InputError
from jellyplus._files import below, read_file

__all__ = ["code_digest", "libraries", "provenance"]

_PACKAGE = Path(jellyplus.__file__).parent
_DECIDES_NOTHING = {  # that a run or a measurement leaves; every other file counts, a new one too
    "__main__.py",
    "_options.py",
    "doctor.py",
    *(
        f"reproduction/{name}.py"
        for name in (
            "checks",
            "claims",
            "cli",
            "course",
            "durations",
            "figure_claims",
            "figure_evidence",
            "figure_view",
        )
    ),
    *(f"reproduction/{name}.py" for name in ("figures", "page", "picture", "scale", "tables", "view", "views")),
}
_LONGEST = 60  # seconds that git may take
_LIBRARIES = ("torch", "spikingjelly", "numpy", "lightning", "torchvision")


def code_digest(package: Path = _PACKAGE) -> str:
    """Return the sha256, in hexadecimal, of the source that decides numbers, comments and docstrings not counted.

    Equal digests are equal behaviour, and nothing has to be run to know it; different ones may be, see
    :mod:`jellyplus.reproduction.probe`. The text hashed is that of ``ast.unparse``, so that the same source may differ
    between versions of Python, and the C++ text of the kernels without what stands behind ``//``.

    Args:
        package: folder of jellyplus.
    """
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        name = path.relative_to(package).as_posix()
        if path.suffix in _STATEMENTS and name not in _DECIDES_NOTHING:
            digest.update(f"{name}\n{_STATEMENTS[path.suffix](path.read_text())}\n".encode())
    return digest.hexdigest()


def libraries() -> dict[str, str]:
    """Return the versions of the libraries whose code decides numbers too."""
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}


def provenance() -> dict[str, Any]:
    """Return ``commit``, ``dirty`` and ``versions``, as in :class:`~jellyplus.reproduction.evidence.Evidence`.

    A checkout is dirty when a file that git tracks, or would track, differs from the commit. Both are of the repository
    whose folder has the package in it, and of no other.
    """
    commit, dirty = _checkout(_PACKAGE.parent) or ("unknown", None)
    return {"commit": commit, "dirty": dirty, "versions": {"python": platform.python_version(), **libraries()}}


@functools.cache
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


_NO_CHECKOUT = (OSError, ValueError, InputError, subprocess.SubprocessError)


def _checkout(top: Path) -> tuple[str, bool] | None:
    """Its commit and whether it is dirty; None where it is no checkout of jellyplus, or there is no git.

    The repository's configuration names programs to run (``core.fsmonitor``, filters), and whoever sent the folder
    wrote it. So git is given another repository, without any: made here, of its objects and what it ignores.
    """
    with contextlib.suppress(*_NO_CHECKOUT), tempfile.TemporaryDirectory() as made:
        folder, shared = _git_folders(top / ".git")
        commit = _commit(_line(folder / "HEAD"), folder, shared)
        (Path(made) / "HEAD").write_text(commit)
        (Path(made) / "refs").mkdir()
        (Path(made) / "info").mkdir()
        with contextlib.suppress(FileNotFoundError):
            (Path(made) / "info" / "exclude").write_bytes(read_file(shared / "info" / "exclude"))
        ask = functools.partial(_git, Path(made), GIT_WORK_TREE=top, GIT_OBJECT_DIRECTORY=shared / "objects")
        ask("rev-parse", "--verify", f"HEAD:{_PACKAGE.name}/__init__.py")  # whose text a clone of trees does not have
        ask("read-tree", "HEAD")
        return commit, bool(ask("status", "--porcelain", "--untracked-files=normal", "--ignore-submodules=all"))
    return None


def _git_folders(git: Path) -> tuple[Path, Path]:
    """The folder of a checkout's ``HEAD`` and that of its objects, which are two in one of several work trees."""
    folder = git if git.is_dir() else git.parent / _line(git).removeprefix("gitdir: ")
    with contextlib.suppress(FileNotFoundError):
        return folder, folder / _line(folder / "commondir")
    return folder, folder


def _commit(head: str, folder: Path, shared: Path) -> str:
    """What ``head`` names, itself or by a branch, which has a file or a line of ``packed-refs``."""
    if head.startswith("ref: refs/"):
        name = head.removeprefix("ref: ")
        try:
            head = _line(below(shared / name, shared))
        except FileNotFoundError:
            lines = read_file(shared / "packed-refs").decode(errors="replace").splitlines()
            head = next((line.split()[0] for line in lines if line.endswith(f" {name}")), "")
    if not re.fullmatch(r"[0-9a-f]{40}", head):
        raise InputError(f"{folder / 'HEAD'} names no commit")
    return head


def _line(path: Path) -> str:
    return read_file(path, most=4096).decode(errors="replace").strip()


def _git(made: Path, *arguments: str, **variables: str | Path) -> str:
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment = own | {"GIT_DIR": made, **variables}
    command = ["git", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={made}", *arguments]  # whatever the user has
    options = {"cwd": made, "capture_output": True, "text": True, "errors": "replace", "check": True}
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, timeout=_LONGEST, **options).stdout
