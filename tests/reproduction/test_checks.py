"""Evidence that contradicts itself, its recipe, its checkpoint or other evidence is not believed, and says why."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import torch
from checkout import PROBE

from jellyplus._errors import InputError
from jellyplus.datasets.order import derived_seed
from jellyplus.reproduction import checks, figure_evidence, figure_view, tables, view
from jellyplus.reproduction.claims import Claim, ClaimTable, Split
from jellyplus.reproduction.evidence import Evidence
from jellyplus.reproduction.figure_claims import load_figure
from jellyplus.reproduction.measurements import Measurements
from jellyplus.reproduction.runner import Runner
from jellyplus.reproduction.source import code_digest
from jellyplus.reproduction.store import Store

ROOT = Path(__file__).parents[2]
RECIPE = "tdbn/cifar10_resnet19_t2"


def samples(examples, batch, seed, epoch):
    """The ids of the full batches of an epoch, hashed: written out once more."""
    generator = torch.Generator().manual_seed(derived_seed(seed, epoch))
    ids = torch.randperm(examples, generator=generator)[: batch * (examples // batch)]
    return hashlib.sha256(ids.to(torch.int64).numpy().tobytes()).hexdigest()[:16]


def history(seed, values=(80.0, 91.0, 90.0), examples=103):
    return tuple(
        {
            "epoch": epoch,
            "accuracy": value,
            "train_loss": 1 / (seed + value),
            "samples": samples(examples, 10, seed, epoch),
        }
        for epoch, value in enumerate(values)
    )


@pytest.fixture
def sound(make_evidence):
    def make(seed=0, **changes):
        data = {"name": "cifar10", "train_examples": 103, "test_examples": 20, "fingerprint": "f" * 64}
        return make_evidence(**{"seed": seed, "dataset": data, "history": history(seed), **changes})

    return make


def test_the_committed_evidence_contradicts_nothing():
    store = Store(ROOT / "reproductions/measured/evidence")
    paths = sorted(store.root.glob("*/seed*.json"))
    assert len(paths) > 90
    for folder in {path.parent for path in paths}:
        found = [store.read(path, Evidence) for path in paths if path.parent == folder]
        assert [checks.faults(evidence) for evidence in found] == [[]] * len(found), folder
        assert checks.among(found) == []


def test_sound_evidence_has_no_faults_and_seeds_of_it_are_several_runs(sound):
    three = [sound(seed) for seed in range(3)]
    assert [checks.faults(evidence) for evidence in three] == [[], [], []]
    assert checks.among(three) == []


def without(entry, name):
    return {key: value for key, value in entry.items() if key != name}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs_planned": 1, "epochs_completed": 1}, "it says that 1 epochs were planned, and its recipe has 3"),
        ({"epochs_completed": 4}, "it says 4 of 3 epochs"),
        ({"history": ()}, "it says 3 epochs, and its history has 0"),
        ({"history": history(0)[:2]}, "it says 3 epochs, and its history has 2"),
        ({"history": history(0)[::-1]}, "the epochs of its history are not 0, 1, 2"),
        ({"history": tuple(without(e, "epoch") for e in history(0))}, "the epochs of its history are not"),
        ({"accuracy_last": 92.46, "accuracy_best": 92.46}, "its accuracy 92.46 is not its history's, 90.00"),
        ({"accuracy_best": 89.0}, "its best accuracy 89.00 is below its last 90.00"),
        ({"accuracy_best": 99.0}, "its best accuracy 99.00 in epoch 1 is not its history's, 91.00"),
        ({"best_epoch": 2}, "its best accuracy 91.00 in epoch 2 is not its history's"),
        ({"seed": 1}, "its samples in epoch 2 are not those of seed 1"),
        (
            {"dataset": {"name": "mnist", "train_examples": 103, "test_examples": 20}},
            "its data are mnist, and its recipe",
        ),
        (
            {"dataset": {"name": "cifar10", "train_examples": 103, "test_examples": 9, "test": {"examples": 20}}},
            "it says 9 test examples, and that 0 of 20 were skipped",
        ),
    ],
)
def test_what_contradicts_what_is_named(sound, changes, said):
    seed = changes.pop("seed", 0)
    evidence = sound(**({"history": history(0)} | changes)) if seed == 0 else sound(seed, history=history(0))
    assert said in "; ".join(checks.faults(evidence))


def test_a_stand_in_is_not_denied(sound):
    recipe = {"data": {"dataset": "digits", "batch_size": 10}, "schedule": {"epochs": 3}}
    data = {"name": "digits", "train_examples": 103, "test_examples": 20, "stand_in": False}
    assert checks.faults(sound(recipe=recipe, dataset=data)) == ["it denies that digits are a stand-in"]


def test_what_old_evidence_lacks_is_not_checked_and_skipped_examples_have_no_known_hash(sound):
    bare = tuple({"epoch": entry["epoch"]} for entry in history(0))
    assert checks.faults(sound(history=bare)) == []
    skipped = tuple(entry | {"samples": "0" * 16, "skipped_train": 3} for entry in history(0))
    data = {"name": "cifar10", "train_examples": 100, "test_examples": 20, "train": {"examples": 103}}
    assert checks.faults(sound(history=skipped, dataset=data)) == []


def test_without_drop_last_all_examples_are_seen(sound):
    recipe = {"data": {"dataset": "cifar10", "batch_size": 10, "drop_last": False}, "schedule": {"epochs": 3}}
    assert checks.faults(sound(recipe=recipe)) == ["its samples in epoch 2 are not those of seed 0"]
    whole = tuple(entry | {"samples": samples(103, 103, 0, entry["epoch"])} for entry in history(0))
    assert checks.faults(sound(recipe=recipe, history=whole)) == []


def test_long_histories_are_checked_in_some_epochs_the_last_always(sound, monkeypatch):
    monkeypatch.setattr(checks, "_MOST_IDS", 103)
    course = history(0, [10.0] * 10)
    recipe = {"data": {"dataset": "cifar10", "batch_size": 10}, "schedule": {"epochs": 10}}
    fields = {"recipe": recipe, "epochs_planned": 10, "epochs_completed": 10, "best_epoch": 0}
    fields |= {"accuracy_last": 10.0, "accuracy_best": 10.0}
    assert checks.faults(sound(history=course, **fields)) == []
    spoiled = (*course[:-1], course[-1] | {"samples": "0" * 16})
    assert checks.faults(sound(history=spoiled, **fields)) == ["its samples in epoch 9 are not those of seed 0"]


@pytest.mark.parametrize("name", ["samples", "train_loss"])
def test_one_run_in_the_place_of_three_seeds(sound, name):
    course = tuple(without(entry, "samples") if name == "train_loss" else entry for entry in history(0))
    copies = [sound(seed, history=course) for seed in range(3)]
    assert checks.among(copies) == ["seeds 0, 1 and 2 are one run copied"]


def test_one_fingerprint_a_row(sound):
    other = sound(1, dataset={"name": "cifar10", "train_examples": 103, "test_examples": 20, "fingerprint": "0" * 64})
    assert checks.among([sound(), other]) == ["2 data sets of one name: their fingerprints differ"]


def test_a_checkpoint_is_compared_where_it_is_there(sound, tmp_path):
    path = tmp_path / "a.ckpt"
    evidence = sound(checkpoint_sha256=hashlib.sha256(b"weights").hexdigest())
    assert checks.faults(evidence, path) == []
    path.write_bytes(b"weights")
    assert checks.faults(evidence, path) == []
    path.write_bytes(b"others")
    assert checks.faults(evidence, path) == ["its checkpoint a.ckpt is not the one that the run left"]


# --- Rows and curves -------------------------------------------------------------------------------------------------

CELL = Claim("a", "CIFAR-10", "m", "own", "n", 2, 92.34, None, RECIPE, "as printed")
TABLE = ClaimTable("t", "tdbn", "here", {"CIFAR-10": Split(103, 20)}, (CELL,))
RECIPES = ROOT / "recipes"
OVERRIDES = {"schedule": {"epochs": 3}, "data": {"batch_size": 10}}


@pytest.fixture
def row(tmp_path, sound):
    """Write evidence of one run under ``paper``, then say what the row is."""
    cell = dataclasses.replace(CELL, overrides=OVERRIDES)
    table = dataclasses.replace(TABLE, rows=(cell,))
    runs = tables.runs(table, "paper", RECIPES)
    store = Store(tmp_path)

    def show(*made, **same):
        for seed, changes in enumerate(made):
            fields = {"recipe": runs["a"].resolved, "code": code_digest(), "accuracy_last": 92.4, "accuracy_best": 92.4}
            fields |= {"best_epoch": 2} | same | changes
            course = history(fields.get("seed", seed), (80.0, 91.0, fields["accuracy_last"]))
            store.write(sound(**{"seed": seed, "history": course, **fields}), PROBE)
        measurements = Measurements(Runner(store, None, "cpu"))
        return view.build(table, tables.results(table, runs, measurements, RECIPES), "paper").iloc[0]

    return show


def test_three_sound_seeds_reproduce(row):
    found = row({}, {}, {})
    assert (found.status, found.ours_mean, found.note) == ("reproduced", pytest.approx(92.4), "as printed")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs_planned": 1, "epochs_completed": 1, "history": history(0, (92.4,))}, "1 epochs were planned"),
        ({"history": history(0, (92.4, 92.4))}, "its history has 2"),
        ({"history": history(0)}, "its accuracy 92.40 is not its history's"),
        ({"history": history(7, (80.0, 91.0, 92.4))}, "its samples in epoch 2 are not those of seed 0"),
        ({"profile": "small"}, "it says profile small, whose recipe is another today"),
        ({"profile": "huge"}, "it says profile huge"),
    ],
)
def test_evidence_that_contradicts_itself_has_no_value_in_the_row_which_names_it(row, changes, said):
    found = row(changes, {}, {})
    assert (found.status, found.n_seeds) == ("conflict", 0)
    assert found[["ours_mean", "ours_std", "delta"]].isna().all()
    assert said in found.note
    assert "seed 0: it" in found.note


@pytest.mark.parametrize("changes", [{"commit": "unknown", "dirty": None}, {"dirty": True}, {"commit": "main"}])
def test_reproduced_needs_a_clean_commit(row, changes):
    found = row({}, changes, {})
    assert (found.status, found.ours_mean) == ("partial", pytest.approx(92.4))
    assert found.note == "as printed; seed 1: not of a clean commit"


def test_a_row_of_one_run_copied_is_no_row_of_three(row):
    course = history(0, (80.0, 91.0, 92.4))
    found = row({}, {"history": course}, {"history": course})
    assert found.status == "conflict"
    assert "seeds 0, 1 and 2 are one run copied" in found.note


def test_two_pieces_of_one_seed_by_code_that_does_the_same_show_both_values(row):
    other = {"seed": 0, "code": "0" * 64, "accuracy_last": 92.9, "accuracy_best": 92.9}
    row({}, other)  # of which nobody knows what its code did
    found = row()
    assert found.status == "partial"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jellyplus.reproduction.today._probe", lambda *_: PROBE.values)
        found = row()
    assert found.status == "conflict"
    assert "seed 0 has 92.90 (code 000000000000, cpu) and 92.40 (code" in found.note
    assert "--root FOLDER` shows those of one folder" in found.note


def test_a_curve_of_evidence_that_contradicts_itself_is_not_drawn(sound, tmp_path):
    path = tmp_path / "figure1_toy.yaml"
    series = {
        "label": "s",
        "measure": "course",
        "recipe": RECIPE,
        "settings": {"of": "accuracy"},
        "overrides": OVERRIDES,
    }
    panel = {"title": "p", "x": "x", "y": "y", "series": [series]}
    head = {"title": "t", "paper": "tdbn", "printed_in": "here", "says": "it"}
    path.write_text(json.dumps(head | {"panels": [panel]}))
    planned = figure_evidence.plan(load_figure(path), "paper", RECIPES)
    store = Store(tmp_path / "evidence")
    store.write(sound(recipe=planned[0].run.resolved, code=code_digest(), accuracy_best=99.0), PROBE)
    shown = figure_evidence.view(planned, Measurements(Runner(store, None, "cpu")))
    ((_, _, found),) = shown
    assert (found.status, list(found.y)) == ("conflict", [])
    assert "its best accuracy 99.00" in figure_view.summary(shown)


@pytest.mark.parametrize(
    "damage",
    [
        {"operations": {"energy_uj": float("inf")}},
        {"operations": {"additions": 1e300}},
        {"operations": {"macs_per_time_step": 10**4000}},
        {"operations": {"examples": True}},
        {"dataset": {"train_examples": -1}},
        {"history": [{"epoch": 0, "accuracy": "high"}]},
        {"history": [{"epoch": "first", "accuracy": 1.0}]},
        {"history": [{"epoch": 0, "accuracy": [1.0]}]},
        {"history": [{"epoch": 0, "temperature": 1e999}]},
        {"wall_time_s": 1e300},
        {"seed": -1},
        {"epochs_planned": 2**63},
    ],
)
def test_odd_numbers_and_words_are_damage_in_one_sentence(sound, tmp_path, damage):
    store = Store(tmp_path)
    path = store.write(sound(), PROBE)
    record = json.loads(path.read_text())
    for name, value in damage.items():
        record[name] = record[name] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="is damaged or from another version") as caught:
        store.read(path, Evidence)
    assert "\n" not in str(caught.value)
