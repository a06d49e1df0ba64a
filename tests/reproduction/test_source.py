"""The digest of the source is that of its statements, and provenance says what the checkout was."""

import os
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


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with a package in it, whose provenance is asked for; no repository yet."""
    top = tmp_path / "checkout"
    package = top / "jellyplus"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (top / ".gitignore").write_text("results/\n")
    monkeypatch.setattr(module, "_PACKAGE", package)
    return top


def commit_all(folder):
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "a")
    return git(folder, "rev-parse", "HEAD").strip()


def found():
    return provenance()["commit"], provenance()["dirty"]


def test_provenance_names_the_commit_and_whether_it_is_all(checkout):
    tmp_path, package = checkout, checkout / "jellyplus"
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


def test_provenance_of_a_branch_that_is_packed_of_another_work_tree_and_of_no_branch(checkout, monkeypatch):
    commit = commit_all(checkout)
    git(checkout, "pack-refs", "--all")
    (checkout / ".git/info/exclude").write_text("kept/\n")
    (checkout / "kept").mkdir()
    (checkout / "kept/notes").touch()
    assert found() == (commit, False)
    git(checkout, "worktree", "add", "-q", "../other")
    (checkout.parent / "other/new").touch()
    monkeypatch.setattr(module, "_PACKAGE", checkout.parent / "other/jellyplus")
    assert found() == (commit, True)
    (checkout.parent / "other/new").unlink()
    git(checkout.parent / "other", "checkout", "-q", "--detach")
    assert found() == (commit, False)


def test_a_repository_around_ours_is_not_asked(checkout):
    commit_all(checkout.parent)
    assert found() == ("unknown", None)


HOSTILE = {
    "the monitor of files": "[core]\nfsmonitor = PROGRAM\n",
    "a filter": '[filter "f"]\nclean = PROGRAM\nprocess = PROGRAM\n',
    "hooks": "[core]\nhooksPath = HOOKS\n",
    "another file": "[include]\npath = other\n",
    "another command": "[alias]\nstatus = !PROGRAM\n[diff]\nexternal = PROGRAM\n[core]\npager = PROGRAM\n",
}


@pytest.mark.parametrize("config", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("where", [".", "..", "inside"])
def test_no_configuration_that_came_with_the_folder_runs_anything(checkout, config, where):
    proof = checkout.parent / "ran"
    hooks = checkout.parent / "hooks"
    hooks.mkdir()
    for name in ("program", "post-index-change", "fsmonitor-watchman"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {proof}\ncat\n")
        (hooks / name).chmod(0o755)
    (checkout / ".gitattributes").write_text("* filter=f\n")
    nested = checkout / "inside"
    nested.mkdir()
    (nested / "file").touch()
    commit_all(nested)
    commit = commit_all(checkout)  # with what git takes for a submodule
    if where == "..":
        commit_all(checkout.parent)
    text = config.replace("PROGRAM", str(hooks / "program")).replace("HOOKS", str(hooks))
    for name, content in (("config", text), ("other", HOSTILE["the monitor of files"])):
        with (checkout / where / ".git" / name).open("a") as file:
            file.write(content.replace("PROGRAM", str(hooks / "program")))
    (checkout / "jellyplus/__init__.py").touch()  # git looks into what has changed its time
    assert found() == (commit, False)
    assert not proof.exists()


@pytest.mark.parametrize("name", ["HEAD", "packed-refs", "info/exclude", "refs/heads/{branch}"])
def test_a_pipe_in_a_repository_is_not_waited_for(checkout, name):
    commit = commit_all(checkout)
    branch = git(checkout, "branch", "--show-current").strip()
    path = checkout / ".git" / name.format(branch=branch)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert found() == ((commit, False) if name == "packed-refs" else ("unknown", None))  # that one is not needed


@pytest.mark.parametrize("head", ["", "ref: refs/../../../secret", "ref: refs/heads/none", "z" * 40, "\0", "ref: x"])
def test_a_head_that_names_no_commit_is_unknown(checkout, head):
    commit_all(checkout)
    (checkout.parent / "secret").write_text("a" * 40)
    (checkout / ".git/HEAD").write_text(head)
    assert found() == ("unknown", None)


def test_provenance_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = provenance()
    assert (found["commit"], found["dirty"]) == ("unknown", None)
    assert set(found["versions"]) == {"python", "torch", "spikingjelly", "numpy", "lightning", "torchvision"}
