"""The source that made something: its digest, its commit, and the libraries it ran on."""

import ast
import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import jellyplus

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

    A checkout is dirty when a file that git tracks, or would track, differs from the commit.
    """
    commit, dirty = "unknown", None
    if _git("ls-files", "--error-unmatch", "__init__.py"):  # or the repository found is of something around us
        commit = (_git("rev-parse", "HEAD") or "unknown").strip()
        dirty = bool(_git("status", "--porcelain", "--untracked-files=normal"))
    return {"commit": commit, "dirty": dirty, "versions": {"python": platform.python_version(), **libraries()}}


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


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=_PACKAGE, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout
