"""The store keeps what it was given, whole, once, and never repairs or hides a damaged file."""

import dataclasses
import errno
import json
import os

import pytest
from checkout import PROBE

from jellyplus._errors import InputError
from jellyplus.reproduction import store as store_module
from jellyplus.reproduction.store import Probe, Store
from jellyplus.training import recipe, unpickling
from jellyplus.training.checkpoint import save_checkpoint


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_written_and_found(tmp_path, make_evidence):
    store, one = Store(tmp_path / "store"), make_evidence()
    assert store.runs(one.key) == []
    path = store.write(one, PROBE)
    assert path == tmp_path / "store" / one.key[:16] / f"seed0-{'c' * 12}.json"
    assert store.checkpoint(one.key, 0, one.code) == path.with_suffix(".ckpt")
    assert store.runs(one.key) == [one]
    assert store.runs("0" * 64) == []
    assert store.runs(one.key[:16] + "0" * 48) == []  # same folder, other recipe


def test_runs_are_ordered_by_seed_then_code(tmp_path, make_evidence):
    store = Store(tmp_path)
    for seed, code in [(10, "a" * 64), (2, "b" * 64), (2, "a" * 64)]:
        store.write(make_evidence(seed=seed, code=code), PROBE)
    store.write(make_evidence(recipe={"epochs": 4}), PROBE)
    found = store.runs(make_evidence().key)
    assert [(e.seed, e.code[0]) for e in found] == [(2, "a"), (2, "b"), (10, "a")]


def test_a_probe_is_written_once_for_all_seeds_a_value_a_line(tmp_path, make_evidence):
    store = Store(tmp_path)
    probe = Probe(1, "a" * 64, {"torch": "2.4"}, {"loss of step": [2.5, 1e-9], "left_over": ["a"], "none": None})
    path = store.write(make_evidence(seed=1), probe).parent / f"probe-{'c' * 12}.json"
    text = path.read_text()
    assert '\n"loss of step": [2.5, 1e-09],\n' in text
    store.write(make_evidence(seed=2), PROBE)
    assert path.read_text() == text
    assert store.probe(make_evidence(seed=1)) == store.probe(make_evidence(seed=2)) == probe
    assert store.probe(make_evidence(code="d" * 64)) is None


@pytest.mark.parametrize("content", [b"", b"[]", b'{"schema": 2}', b'{"schema": 1, "code": 1}', b"\xff"])
def test_a_damaged_probe_is_named_and_left_alone(tmp_path, make_evidence, content):
    store = Store(tmp_path)
    path = store.write(make_evidence(), PROBE).parent / f"probe-{'c' * 12}.json"
    path.write_bytes(content)
    with pytest.raises(
        InputError, match="left alone, and deleting it lets its evidence be of unknown standing"
    ) as error:
        store.probe(make_evidence())
    assert str(path) in str(error.value)
    assert path.read_bytes() == content


def test_the_file_is_canonical_json(tmp_path, make_evidence):
    path = Store(tmp_path).write(make_evidence(history=({"loss": float("nan"), "b": (1, float("inf"))},)), PROBE)
    text = path.read_text()
    record = json.loads(text, parse_constant=pytest.fail)
    assert list(record) == sorted(record)
    assert text == json.dumps(record, indent=2, sort_keys=True) + "\n"
    assert record["history"] == [{"b": [1, None], "loss": None}]


def test_evidence_of_the_longest_run_can_be_read_again(tmp_path, make_evidence):
    """Every column there is, in the widest numbers."""
    wide = -1.2345678901234567e-308
    names = ["learning_rate", "accuracy", "train_loss", "im_loss", "time_s", "search_time_s", "warm_start_time_s"]
    entry = dict.fromkeys([*names, "temperature", "k", "shortcut_weight"], wide)
    entry |= dict.fromkeys(("candidates", "similarities"), [wide] * 3)
    entry |= {"samples": "0" * 16, "warm_start_iterations": 10**9, "skipped_train": 10**9, "skipped_test": 10**9}
    history = tuple(entry | {"epoch": epoch} for epoch in range(recipe._MOST_EPOCHS))
    store, one = Store(tmp_path), make_evidence(history=history)
    size = store.write(one, PROBE).stat().st_size
    assert size < store_module._MAX_BYTES / 1.5
    assert store.runs(one.key) == [one]
    save_checkpoint({"history": history}, tmp_path / "state")
    assert (tmp_path / "state").stat().st_size < unpickling.LARGEST_PICKLE / 2


def test_what_could_not_be_read_again_is_not_written(tmp_path, make_evidence):
    history = tuple({"epoch": epoch, "candidates": [0.123456789] * 60} for epoch in range(17_000))
    with pytest.raises(InputError, match=r"seed0-c+\.json would be larger than the 16 MiB that can be read"):
        Store(tmp_path).write(make_evidence(history=history), PROBE)
    assert not list(tmp_path.rglob("seed*"))


def test_append_only(tmp_path, make_evidence):
    store = Store(tmp_path)
    path = store.write(make_evidence(), PROBE)
    before = path.read_bytes()
    with pytest.raises(InputError, match="never overwritten; delete it to make it again"):
        store.write(make_evidence(accuracy_last=99.0), PROBE)
    assert path.read_bytes() == before


def test_a_full_disk_leaves_nothing(tmp_path, make_evidence, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        Store(tmp_path).write(make_evidence(), PROBE)
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
        (lambda e: record_of(e, seed=1), "its name is another's"),
        (lambda _: b" " * (16 * 2**20 + 1), "larger than 16 MiB"),
    ],
)
def test_a_damaged_file_is_named_and_left_alone(tmp_path, make_evidence, spoil, reason):
    store, one = Store(tmp_path), make_evidence()
    path = store.write(one, PROBE)
    damaged = spoil(one)
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=reason) as caught:
        store.runs(one.key)
    assert str(path) in str(caught.value)
    assert "left alone, and deleting it lets the run be made again" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == damaged
    assert len(files_below(tmp_path)) == 2  # and its probe
