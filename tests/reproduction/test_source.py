"""The digest of the source is that of its statements, and provenance says what the checkout was."""

import subprocess

import pytest

from jellyplus.reproduction import source as module
from jellyplus.reproduction.source import code_digest, provenance

SOURCE = '''"""Module."""
class Node:
    """Class."""
    def step(self, x):
        """Function."""
        return x * 2  # twice
'''


@pytest.fixture
def package(tmp_path):
    (tmp_path / "neuron" / "deep").mkdir(parents=True)
    (tmp_path / "neuron" / "node.py").write_text(SOURCE)
    (tmp_path / "neuron" / "kernels.h").write_text("float two() { return 2.0f; }  // twice\n")
    (tmp_path / "surrogate.py").write_text("width = 1.0\n")
    (tmp_path / "reproduction").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("neuron/node.py", SOURCE.replace("x * 2", "x * 3")),
        ("surrogate.py", "width = 2.0\n"),
        ("neuron/deep/new.py", ""),
        ("layer.py", "eps = 1e-5\n"),
        ("neuron/kernels.h", "float two() { return 3.0f; }  // twice\n"),
    ],
)
def test_digest_changes_with_the_code(package, name, text):
    before = code_digest(package)
    (package / name).write_text(text)
    assert code_digest(package) != before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("neuron/node.py", SOURCE.replace("twice", "two times")),
        ("neuron/node.py", SOURCE.replace("Module", "A module").replace("Class", "A class").replace("Function", "It")),
        ("neuron/node.py", SOURCE.replace('        """Function."""\n', "\n\n")),
        ("surrogate.py", "width   =   1.0\n"),
        ("reproduction/view.py", "a = 1\n"),
        ("neuron/notes.txt", "a"),
        ("neuron/kernels.h", "// Two.\n\nfloat two() { return 2.0f; }\n"),
    ],
)
def test_digest_does_not_change_with_comments_docstrings_layout_or_views(package, name, text):
    before = code_digest(package)
    (package / name).write_text(text)
    assert code_digest(package) == before


def test_digest_of_this_package_is_a_sha256():
    assert len(bytes.fromhex(code_digest())) == 32


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_provenance_names_the_commit_and_whether_it_is_all(tmp_path, monkeypatch):
    package = tmp_path / "jellyplus"
    package.mkdir()
    (package / "__init__.py").touch()
    (tmp_path / ".gitignore").write_text("results/\n")
    monkeypatch.setattr(module, "_PACKAGE", package)
    git(tmp_path, "init", "-q")
    assert (provenance()["commit"], provenance()["dirty"]) == ("unknown", None)  # a repository, but not ours
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "ignored").touch()
    assert (provenance()["commit"], provenance()["dirty"]) == (git(tmp_path, "rev-parse", "HEAD").strip(), False)
    (tmp_path / "untracked").touch()
    assert provenance()["dirty"] is True
    (tmp_path / "untracked").unlink()
    (package / "__init__.py").write_text("a = 1\n")
    assert provenance()["dirty"] is True


def test_provenance_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = provenance()
    assert (found["commit"], found["dirty"]) == ("unknown", None)
    assert set(found["versions"]) == {"python", "torch", "spikingjelly", "numpy", "lightning", "torchvision"}
