"""The store keeps what it was given, whole, once, and never repairs or hides a damaged file."""

import dataclasses
import errno
import hashlib
import json
import os
import subprocess

import pytest

from jellyplus._errors import InputError
from jellyplus.reproduction import evidence as module
from jellyplus.reproduction.evidence import Store, code_digest, provenance, recipe_key


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_written_and_found(tmp_path, make_evidence):
    store, one = Store(tmp_path / "store"), make_evidence()
    assert store.find(one.key, 0, one.code) is None
    assert store.find_any(one.key) == []
    path = store.write(one)
    assert path == tmp_path / "store" / one.key[:16] / f"seed0-{'c' * 12}.json"
    assert store.checkpoint_path(one.key, 0, one.code) == path.with_suffix(".ckpt")
    assert store.find(one.key, 0, one.code) == one
    assert store.find(one.key, 1, one.code) is None
    assert store.find(one.key, 0, "c" * 12 + "d" * 52) is None  # same name, other code
    assert store.find("0" * 64, 0, one.code) is None
    assert store.find_any(one.key) == [one]
    assert store.find_any(one.key[:16] + "0" * 48) == []  # same folder, other recipe


def test_find_any_is_ordered_by_seed_then_code(tmp_path, make_evidence):
    store = Store(tmp_path)
    for seed, code in [(10, "a" * 64), (2, "b" * 64), (2, "a" * 64)]:
        store.write(make_evidence(seed=seed, code=code))
    store.write(make_evidence(recipe={"epochs": 4}))
    found = store.find_any(make_evidence().key)
    assert [(e.seed, e.code[0]) for e in found] == [(2, "a"), (2, "b"), (10, "a")]


def test_the_file_is_canonical_json(tmp_path, make_evidence):
    path = Store(tmp_path).write(make_evidence(history=({"loss": float("nan"), "b": (1, float("inf"))},)))
    text = path.read_text()
    record = json.loads(text, parse_constant=pytest.fail)
    assert list(record) == sorted(record)
    assert text == json.dumps(record, indent=2, sort_keys=True) + "\n"
    assert record["history"] == [{"b": [1, None], "loss": None}]


def test_append_only(tmp_path, make_evidence):
    store = Store(tmp_path)
    path = store.write(make_evidence())
    before = path.read_bytes()
    with pytest.raises(InputError, match="never overwritten; delete it to make the run again"):
        store.write(make_evidence(accuracy_last=99.0))
    assert path.read_bytes() == before


def test_a_full_disk_leaves_nothing(tmp_path, make_evidence, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        Store(tmp_path).write(make_evidence())
    assert files_below(tmp_path) == []


def record_of(evidence, **changes):
    return json.dumps({**dataclasses.asdict(evidence), **changes}).encode()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda _: b"", "Expecting value"),
        (lambda e: record_of(e)[:-40], "Expecting|Unterminated"),
        (lambda _: b"\xff\xfe\xfa", "decode"),
        (lambda _: b"[" * 100_000, "recursion"),
        (lambda _: b"[]", "the content is"),
        (lambda e: record_of(e, schema=1), "key 'schema' is 1"),
        (
            lambda _: b'{"schema": 1, "key": "of a layout without backend"}',
            "key 'schema' is 1, and this jellyplus reads 3",
        ),
        (lambda e: record_of(e, accuracy_last="90"), "key 'accuracy_last' is '90'"),
        (lambda e: record_of(e, extra=1), "unknown key 'extra'"),
        (lambda e: record_of(e, recipe={"epochs": 300}), "the key is not the recipe's"),
        (lambda e: record_of(e, dataset={"name": "digits"}), "dataset lacks test_examples, train_examples"),
        (lambda e: record_of(e, seed=1), "its name is another run's"),
        (lambda _: b" " * (16 * 2**20 + 1), "larger than 16 MiB"),
    ],
)
def test_a_damaged_file_is_named_and_left_alone(tmp_path, make_evidence, spoil, reason):
    store, one = Store(tmp_path), make_evidence()
    path = store.write(one)
    damaged = spoil(one)
    path.write_bytes(damaged)
    for read in (lambda: store.find(one.key, 0, one.code), lambda: store.find_any(one.key)):
        with pytest.raises(InputError, match=reason) as caught:
            read()
        assert str(path) in str(caught.value)
        assert "left alone, and deleting it lets the run be made again" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == damaged
    assert files_below(tmp_path) == [path]


def test_recipe_key_is_the_sha256_of_canonical_json():
    assert recipe_key({"b": 1.5, "a": [True, None]}) == hashlib.sha256(b'{"a":[true,null],"b":1.5}').hexdigest()
    assert recipe_key({"a": 1, "b": {"d": 2, "c": 3}}) == recipe_key({"b": {"c": 3, "d": 2}, "a": 1})
    assert recipe_key({"a": (1, 2)}) == recipe_key({"a": [1, 2]})
    assert recipe_key({"a": 1}) != recipe_key({"a": 1.0})


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
