"""Ancestors first, every run once, evidence last: and nothing is trained that is there, nor hidden that is damaged."""

import dataclasses
import errno
import functools
import hashlib
import json
import os
import re
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from jellyplus import datasets
from jellyplus._errors import InputError
from jellyplus.activations import compressed_activations
from jellyplus.datasets import embedded
from jellyplus.neuron import backends
from jellyplus.reproduction import operations, today
from jellyplus.reproduction import runner as module
from jellyplus.reproduction.runner import Runner
from jellyplus.reproduction.source import code_digest, provenance
from jellyplus.reproduction.store import Store
from jellyplus.training import classifier
from jellyplus.training.checkpoint import load_checkpoint
from jellyplus.training.recipe import Run
from jellyplus.training.recipe_files import load_run

RECIPES = Path(__file__).parents[2] / "recipes"


@functools.cache
def digits():
    whole = embedded.digits()
    train, test = (
        datasets.Split(split.inputs[:n], split.labels[:n]) for split, n in ((whole.train, 32), (whole.test, 16))
    )
    return dataclasses.replace(whole, train=train, test=test)


def shrunk(run, epochs=1, **changes):
    """The run and its ancestors with width 1, two steps an epoch; the ANN for two epochs."""
    recipe = run.recipe
    parts = {
        "model": dataclasses.replace(recipe.model, width=1),
        "data": dataclasses.replace(recipe.data, batch_size=16),
        "schedule": dataclasses.replace(recipe.schedule, epochs=epochs if recipe.spiking else 2),
    }
    if recipe.temperature_search:
        parts["temperature_search"] = dataclasses.replace(recipe.temperature_search, batch_size=2)
    recipe = dataclasses.replace(recipe, **(parts | changes))
    return Run(run.name, run.profile, recipe, shrunk(run.parent, epochs) if run.parent else None)


@functools.cache
def runs():
    """The CIFAR-10 runs by T, and the ANN as 1."""
    return {t: shrunk(load_run(f"dspike/cifar10_{name}", "embedded", RECIPES)) for t, name in NAMES.items()}


NAMES = {1: "ann", 6: "t6", 4: "t4", 2: "t2"}


@pytest.fixture(autouse=True)
def _few_examples(monkeypatch):
    monkeypatch.setattr(datasets, "load", lambda name, root, **_: digits())


def _files_of_a_run(checkpoint):
    code = checkpoint.stem.rpartition("-")[2]
    return {checkpoint.name, f"{checkpoint.stem}.json", f"probe-{code}.json"}


def runner_in(folder):
    return Runner(Store(folder / "evidence"), None, "cpu")


def pairs(runs, seeds):
    return [(run, seed) for seed in seeds for run in runs]


def make(folder, *asked, seeds=(0,), jobs=1):
    """Plan and make, as the command line does; return the plan as (T, seed)."""
    runner = runner_in(folder)
    planned = runner.missing(pairs([runs()[t] for t in asked], seeds))
    runner.make(planned, jobs)
    return [(run.recipe.model.time_steps, seed) for run, seed in planned]


def evidence_of(folder, t, seed=0):
    (found,) = (e for e in Store(folder / "evidence").runs(runs()[t].key) if e.seed == seed)
    return found


def files_below(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with the chain from the ANN to T = 2, made once and only read."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load", lambda name, root, **_: digits())
        assert make(folder, 2) == [(1, 0), (6, 0), (4, 0), (2, 0)]
    return folder


# --- The plan ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "plan"),
    [((1,), [1]), ((6,), [1, 6]), ((2,), [1, 6, 4, 2]), ((2, 4, 6), [1, 6, 4, 2]), ((6, 6, 2), [1, 6, 4, 2])],
)
def test_ancestors_come_first_and_every_run_once(tmp_path, asked, plan):
    planned = runner_in(tmp_path).missing(pairs([runs()[t] for t in asked], [0]))
    assert [run.recipe.model.time_steps for run, _ in planned] == plan
    assert list(tmp_path.iterdir()) == []  # planning writes nothing


def test_every_seed_has_its_own_chain(tmp_path):
    planned = runner_in(tmp_path).missing(pairs([runs()[6], runs()[4]], [3, 5]))
    assert [(run.recipe.model.time_steps, seed) for run, seed in planned] == [
        (t, seed) for seed in (3, 5) for t in (1, 6, 4)
    ]


def test_what_is_made_is_not_planned_again(made):
    assert runner_in(made).missing(pairs([runs()[t] for t in (6, 4, 2)], [0])) == []
    assert [(r.recipe.model.time_steps, s) for r, s in runner_in(made).missing(pairs([runs()[6]], [0, 1]))] == [
        (1, 1),
        (6, 1),
    ]


def test_a_second_call_trains_nothing(made, monkeypatch):
    before = files_below(made)
    monkeypatch.setattr(module, "train", None)
    assert make(made, 6, 4, 2) == []
    assert files_below(made) == before


def test_a_row_added_later_starts_from_what_is_there(tmp_path):
    assert make(tmp_path, 1) == [(1, 0)]
    ann = files_below(tmp_path)
    assert make(tmp_path, 6) == [(6, 0)]
    assert ann.items() <= files_below(tmp_path).items()


def test_a_recipe_that_does_not_fit_the_data_is_refused_before_any_run(tmp_path):
    six = runs()[6]
    wrong = dataclasses.replace(six.recipe, model=dataclasses.replace(six.recipe.model, num_classes=100))
    with pytest.raises(InputError, match=r"model\.num_classes is 100 and digits has 10"):
        runner_in(tmp_path).missing(pairs([Run("wrong", "embedded", wrong, six.parent)], [0]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("section", "key", "value", "reason"),
    [
        ("surrogate", "parameters", {"width": 1.0}, "surrogate.parameters do not fit dspike"),
        ("temperature_search", "parameter", "conv0.weight", "temperature_search.parameter"),
        ("model", "width", 2, "use the same width"),
    ],
)
def test_a_recipe_that_cannot_run_is_refused_before_its_ancestors_are_trained(tmp_path, section, key, value, reason):
    six = runs()[6]
    part = dataclasses.replace(getattr(six.recipe, section), **{key: value})
    wrong = Run("wrong", "embedded", dataclasses.replace(six.recipe, **{section: part}), six.parent)
    with pytest.raises(InputError, match=reason):
        runner_in(tmp_path).missing(pairs([wrong], [0]))


def test_cuda_is_refused_at_once_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="--device cuda"):
        Runner(Store(tmp_path), None, "cuda")


def test_some_examples_are_drawn_evenly_from_the_recipes_seed(tmp_path, monkeypatch):
    whole = embedded.digits()
    by_class = dataclasses.replace(whole, train=whole.train.at(whole.train.labels.argsort(stable=True)))
    monkeypatch.setattr(datasets, "load", lambda name, root, **_: by_class)
    drawn = [
        runner_in(tmp_path).load(load_run("dspike/cifar10_ann", "embedded", RECIPES, {"data": data}))
        for data in ({"examples": 200}, {"examples": 200, "examples_seed": 0}, {"examples": 200, "examples_seed": 1})
    ]
    for data in drawn:
        assert (
            data.counts()["train"]
            == data.counts()["test"]
            == {"examples": 200, "per_class_min": 20, "per_class_max": 20}
        )
    assert drawn[0].fingerprint == drawn[1].fingerprint != drawn[2].fingerprint


def test_a_data_set_is_loaded_once(tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(datasets, "load", lambda name, root, **_: loaded.append((name, root)) or digits())
    Runner(Store(tmp_path), "somewhere", "cpu").missing(pairs([runs()[t] for t in (6, 4, 2)], [0, 1]))
    assert loaded == [("digits", "somewhere")]


# --- The evidence ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [1, 6, 4, 2])
def test_evidence_says_what_was_run(made, t):
    evidence, run = evidence_of(made, t), runs()[t]
    assert (evidence.recipe_name, evidence.profile, evidence.seed) == (f"dspike/cifar10_{NAMES[t]}", "embedded", 0)
    assert evidence.key == run.key
    assert evidence.recipe == json.loads(json.dumps(run.resolved))
    assert evidence.code == code_digest()
    assert evidence.parent == {1: None, 6: runs()[1].key, 4: runs()[6].key, 2: runs()[4].key}[t]
    epochs = 2 if t == 1 else 1
    assert (evidence.epochs_completed, evidence.epochs_planned, len(evidence.history)) == (epochs, epochs, epochs)
    assert {key: evidence.dataset[key] for key in ("name", "stand_in")} == {"name": "digits", "stand_in": True}
    assert (evidence.dataset["train_examples"], evidence.dataset["test_examples"]) == (32, 16)
    assert "CPU" in evidence.device


def test_evidence_has_versions_and_commit(made):
    evidence, expected = evidence_of(made, 2), provenance()
    assert evidence.versions == expected["versions"]
    assert torch.__version__.startswith(evidence.versions["torch"])
    assert evidence.commit == expected["commit"]
    assert evidence.backend == ("torch" if backends.obstacle("cpp") else "cpp")
    assert evidence_of(made, 1).backend is None  # the ANN


@pytest.mark.parametrize("t", [1, 6])
def test_parameters_and_macs_are_those_counted_by_hand(made, t):
    """Width 1, 3x16x16: convolutions as pixels x taps x outputs; a norm has two parameters a channel."""
    widths = [(1, 1, 64), (1, 2, 16), (2, 4, 4), (4, 8, 1)]  # before, channels, pixels
    taps = [(27 + 9 + 9), *(9 * b * c + 27 * c * c + (b * c if b != c else 0) for b, c, _ in widths)]
    norms = 2 * (3 + 4 * 1 + 5 * (2 + 4 + 8))
    macs = 256 * 27 + 256 * 9 + 64 * 9 + sum(p * n for (_, _, p), n in zip(widths, taps[1:], strict=True)) + 8 * 10
    evidence = evidence_of(made, t)
    assert evidence.parameters == sum(taps) + norms + 8 * 10 + 10
    assert evidence.operations["macs_per_time_step"] == macs


def test_operations_are_of_a_sample_of_the_test_examples_and_can_be_counted_by_any_convention(made):
    """Dspike's multiplications: T x 27 taps x 256 pixels, width 1; of the ANN all of its MACs."""
    evidence, ann = evidence_of(made, 6), evidence_of(made, 1)
    for held in (evidence.operations, ann.operations):
        assert held["examples"] == min(1000, evidence.dataset["test_examples"])
        assert held["chosen"] == "by a fixed seed, evenly over the classes"
    assert operations.value(evidence, "multiplications", "dspike") == 6 * 27 * 256
    assert operations.value(evidence, "multiplications", "tdbn") == 6 * (27 * 256 + 8 * 10)
    assert operations.error(evidence, "additions", "dspike") > 0
    macs = ann.operations["macs_per_time_step"]
    assert operations.value(ann, "multiplications", "dspike") == operations.value(ann, "additions", "tdbn") == macs
    assert (ann.operations["firing_rate"], 0 < evidence.operations["firing_rate"] < 1) == (None, True)


def test_accuracies_and_times_are_the_historys(made):
    evidence = evidence_of(made, 1)
    accuracies = [entry["accuracy"] for entry in evidence.history]
    assert evidence.accuracy_last == accuracies[-1]
    assert evidence.accuracy_best == max(accuracies) == accuracies[evidence.best_epoch]
    for t in (1, 6):
        evidence = evidence_of(made, t)
        assert evidence.wall_time_s == pytest.approx(sum(entry["time_s"] for entry in evidence.history))
        assert 0 <= evidence.search_time_s < evidence.wall_time_s
        assert (evidence.search_time_s > 0) is (t > 1)


def test_left_over_names_are_listed(made):
    assert evidence_of(made, 1).left_over == ()
    six, four = evidence_of(made, 6).left_over, evidence_of(made, 4).left_over
    assert len(six) == 19  # the ANN has no temperatures
    assert all(name.endswith(".temperature (not initialised)") for name in six)
    assert len(four) == 38
    assert sum(name.endswith("(not used)") for name in four) == 19


def test_the_checkpoint_lies_beside_the_evidence_and_nothing_else(made):
    for t in (1, 6, 4, 2):
        checkpoint = Store(made / "evidence").checkpoint(runs()[t].key, 0, code_digest())
        assert {path.name for path in checkpoint.parent.iterdir()} == _files_of_a_run(checkpoint)
        content = load_checkpoint(checkpoint)
        assert (content["key"], content["seed"]) == (runs()[t].key, 0)
        assert evidence_of(made, t).checkpoint_sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        assert sum(v.numel() for k, v in content["weights"].items() if k.endswith(("weight", "bias"))) == (
            evidence_of(made, t).parameters
        )


def test_a_run_starts_from_its_parents_weights_of_the_same_seed(tmp_path, monkeypatch):
    started = {}
    real = module.train

    def spied(recipe, data, seed, device, state_file, initial_state, title, **how):
        started[recipe.model.time_steps, seed] = initial_state and initial_state.weights
        return real(recipe, data, seed, device, state_file, initial_state, title, **how)

    monkeypatch.setattr(module, "train", spied)
    make(tmp_path, 6, seeds=(0, 1))
    assert started[1, 0] is started[1, 1] is None
    for seed in (0, 1):
        path = Store(tmp_path / "evidence").checkpoint(runs()[1].key, seed, code_digest())
        weights = load_checkpoint(path)["weights"]
        assert all(torch.equal(started[6, seed][name], value) for name, value in weights.items())
    assert not torch.equal(started[6, 0]["conv1.weight"], started[6, 1]["conv1.weight"])


def test_the_summary_line_tells_the_share_of_the_search(tmp_path, capsys):
    make(tmp_path, 6)
    out, err = capsys.readouterr()
    assert "2 of 2 runs: 100%" in err
    energy = r"\S+ ± \S+ uJ an inference"
    assert re.search(rf"dspike/cifar10_ann, seed 0: \d+\.\d\d % after 2 epochs in \d+ s, {energy}$", out, re.M)
    assert re.search(rf"dspike/cifar10_t6, seed 0: .* \d+% of it in the temperature search, {energy}; 19 names", out)


# --- Stale, absent and damaged -----------------------------------------------------------------------------------


@pytest.mark.parametrize("does", [{"loss of step": [2.0, 1.0 + 1e-5]}, {"loss of step": [2.0]}, {}])
def test_code_that_does_something_else_trains_again_says_so_and_keeps_the_old_evidence(
    tmp_path, monkeypatch, capsys, does
):
    monkeypatch.setattr(today, "_probe", lambda plugins, record, run: {"loss of step": [2.0, 1.0]})
    make(tmp_path, 1)
    assert "something else" not in capsys.readouterr().out
    old = files_below(tmp_path)
    monkeypatch.setattr(today, "code_digest", lambda: "f" * 64)
    monkeypatch.setattr(today, "_probe", lambda plugins, record, run: does)
    assert make(tmp_path, 1) == [(1, 0)]
    assert "1 of 1 runs have evidence of code that did something else" in capsys.readouterr().out
    assert old.items() <= files_below(tmp_path).items()
    found = Store(tmp_path / "evidence").runs(runs()[1].key)
    assert sorted(evidence.code for evidence in found) == sorted([code_digest(), "f" * 64])
    assert found[0].accuracy_last == found[1].accuracy_last


@pytest.mark.parametrize("does", [{"loss of step": [2.0, 1.0 + 1e-12]}, {"loss of step": [2.0, 1.0], "new": 1}])
def test_code_that_reads_differently_and_does_the_same_trains_nothing_again(tmp_path, monkeypatch, does):
    monkeypatch.setattr(today, "_probe", lambda plugins, record, run: {"loss of step": [2.0, 1.0]})
    make(tmp_path, 6)
    before = files_below(tmp_path)
    monkeypatch.setattr(today, "code_digest", lambda: "f" * 64)
    monkeypatch.setattr(today, "_probe", lambda plugins, record, run: does)
    assert make(tmp_path, 6) == []
    assert files_below(tmp_path) == before
    assert make(tmp_path, 4) == [(4, 0)]  # starts from the weights that other code left


def test_another_way_of_counting_makes_a_run_again_and_not_what_it_starts_from(tmp_path, monkeypatch):
    monkeypatch.setattr(
        today, "_probe", lambda plugins, record, run: {"loss of step": [2.0], "operations, energy_uj": 1.0}
    )
    make(tmp_path, 6)
    monkeypatch.setattr(today, "code_digest", lambda: "f" * 64)
    monkeypatch.setattr(
        today, "_probe", lambda plugins, record, run: {"loss of step": [2.0], "operations, energy_uj": 2.0}
    )
    wanted = pairs([runs()[6]], [0])
    assert runner_in(tmp_path).missing(wanted, counted=False) == []
    assert runner_in(tmp_path).missing(wanted) == wanted
    assert make(tmp_path, 6) == [(6, 0)]


@pytest.mark.parametrize("library", ["torch", "numpy", "spikingjelly"])
def test_another_library_is_another_code_until_its_probe_is_equal(tmp_path, monkeypatch, library):
    monkeypatch.setattr(today, "_probe", lambda plugins, record, run: {"loss of step": [2.0]})
    make(tmp_path, 1)
    others = today.libraries() | {library: "99.0"}
    monkeypatch.setattr(today, "libraries", lambda: others)
    assert make(tmp_path, 1) == []
    monkeypatch.setattr(today, "_probe", lambda plugins, record, run: {"loss of step": [2.1]})
    monkeypatch.setattr(today.Today, "_kept", lambda *_: None)
    planned = runner_in(tmp_path).missing(pairs([runs()[1]], [0]))
    assert [run.recipe.model.time_steps for run, _ in planned] == [1]


def test_evidence_without_a_probe_is_unknown_to_other_code(tmp_path, monkeypatch):
    make(tmp_path, 1)
    for probe in tmp_path.rglob("probe-*.json"):
        probe.unlink()
    assert make(tmp_path, 1) == []  # the same source does the same
    monkeypatch.setattr(today, "code_digest", lambda: "f" * 64)
    runner = runner_in(tmp_path)
    standing = runner.today.standing(evidence_of(tmp_path, 1), runs()[1], runner.store)
    assert (standing.status, standing.is_current) == ("unknown", False)
    assert make(tmp_path, 1) == [(1, 0)]


def copied(made, folder):
    for name, content in files_below(made).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("asked", [4, 2])
def test_evidence_without_its_checkpoint_is_refused(made, tmp_path, monkeypatch, asked):
    store = Store(copied(made, tmp_path) / "evidence")
    checkpoint = store.checkpoint(runs()[4].key, 0, code_digest())
    checkpoint.unlink()
    if asked == 2:
        store.checkpoint(runs()[2].key, 0, code_digest()).with_suffix(".json").unlink()
    monkeypatch.setattr(module, "train", None)
    with pytest.raises(InputError, match="the evidence of dspike/cifar10_t4 has no checkpoint") as caught:
        make(tmp_path, asked)
    assert str(checkpoint) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema": 1}'])
def test_damaged_evidence_is_named_left_alone_and_nothing_trained(made, tmp_path, monkeypatch, content):
    store = Store(copied(made, tmp_path) / "evidence")
    path = store.checkpoint(runs()[4].key, 0, code_digest()).with_suffix(".json")
    path.write_bytes(content)
    store.checkpoint(runs()[2].key, 0, code_digest()).with_suffix(".json").unlink()
    before = files_below(tmp_path)
    monkeypatch.setattr(module, "train", None)
    with pytest.raises(InputError) as caught:
        make(tmp_path, 2)
    assert str(path) in str(caught.value)
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("content", [b"", b"\x80\x02.", b"no checkpoint"])
def test_a_parents_damaged_checkpoint_is_named_and_left_alone(made, tmp_path, content):
    store = Store(copied(made, tmp_path) / "evidence")
    path = store.checkpoint(runs()[4].key, 0, code_digest())
    path.write_bytes(content)
    store.checkpoint(runs()[2].key, 0, code_digest()).with_suffix(".json").unlink()
    with pytest.raises(InputError) as caught:
        make(tmp_path, 2)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [{}, {"key": "0" * 64, "weights": {}}, [1]])
def test_a_checkpoint_of_another_run_is_refused(made, tmp_path, content):
    store = Store(copied(made, tmp_path) / "evidence")
    path = store.checkpoint(runs()[4].key, 0, code_digest())
    torch.save(content, path)
    store.checkpoint(runs()[2].key, 0, code_digest()).with_suffix(".json").unlink()
    with pytest.raises(InputError) as caught:
        make(tmp_path, 2)
    assert str(path) in str(caught.value)


def test_another_seeds_checkpoint_is_no_parent(made, tmp_path, monkeypatch):
    store = Store(copied(made, tmp_path) / "evidence")
    path = store.checkpoint(runs()[4].key, 0, code_digest())
    content = load_checkpoint(path)
    assert content["seed"] == 0
    store.checkpoint(runs()[2].key, 0, code_digest()).with_suffix(".json").unlink()
    for changed in ({"seed": 1}, {"weights": content["weights"] | {"fc.bias": torch.ones(10)}}):
        torch.save(content | changed, path)
        with pytest.raises(
            InputError, match=r"contradicts itself: its checkpoint seed0-\w+.ckpt is not the one"
        ) as error:
            make(tmp_path, 2)
        assert "left alone: delete both" in str(error.value)
    evidence = path.with_suffix(".json")  # as from before there were hashes
    evidence.write_text(re.sub(r'"checkpoint_sha256": "\w+"', '"checkpoint_sha256": null', evidence.read_text()))
    torch.save(content | {"seed": 1}, path)
    with pytest.raises(InputError, match="is not the checkpoint of dspike/cifar10_t4, seed 0"):
        make(tmp_path, 2)
    torch.save({name: value for name, value in content.items() if name != "seed"}, path)
    assert make(tmp_path, 2) == [(2, 0)]


def test_evidence_that_contradicts_itself_is_neither_made_nor_a_parent(made, tmp_path):
    store = Store(copied(made, tmp_path) / "evidence")
    path = store.checkpoint(runs()[4].key, 0, code_digest()).with_suffix(".json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"accuracy_last": 99.99, "accuracy_best": 99.99}))
    store.checkpoint(runs()[2].key, 0, code_digest()).with_suffix(".json").unlink()
    for asked in (4, 2):
        with pytest.raises(InputError, match=r"contradicts itself: its accuracy 99\.99 is not its history's"):
            make(tmp_path, asked)


def stopped_before_evidence(folder):
    """Run 1 is trained, and the disk is full when its evidence is written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "write", Mock(side_effect=InputError("no space")))
        with pytest.raises(InputError, match="no space"):
            make(folder, 1)


def test_a_state_whose_history_was_edited_is_not_resumed_from(tmp_path):
    stopped_before_evidence(tmp_path)
    (state,) = (tmp_path / "evidence").glob("*/seed*.partial")
    content = load_checkpoint(state)
    for entry in content["history"]:
        entry["accuracy"] = 99.99
    torch.save(content, state)
    with pytest.raises(InputError, match="was changed after it was written; it was left alone") as caught:
        make(tmp_path, 1)
    assert str(state) in str(caught.value)
    assert not list((tmp_path / "evidence").glob("*/seed*.json"))


def test_a_failure_after_the_checkpoint_leaves_no_evidence_and_the_next_call_finishes(tmp_path, monkeypatch):
    stopped_before_evidence(tmp_path)
    checkpoint = Store(tmp_path / "evidence").checkpoint(runs()[1].key, 0, code_digest())
    assert sorted(path.suffix for path in checkpoint.parent.iterdir()) == [".ckpt", ".partial"]
    steps = []
    monkeypatch.setattr("jellyplus.training.classifier.Classifier.training_step", lambda *a: steps.append(a))
    assert make(tmp_path, 1) == [(1, 0)]
    assert steps == []  # all epochs were finished
    assert {path.name for path in checkpoint.parent.iterdir()} == _files_of_a_run(checkpoint)


def test_a_full_disk_leaves_neither_checkpoint_nor_evidence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        make(tmp_path, 1)
    assert files_below(tmp_path) == {}


# --- Side by side ------------------------------------------------------------------------------------------------


@pytest.fixture
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize(
    ("cores", "threads", "memory", "device", "expected"),
    [
        (8, 1, 2**40, "cpu", 3),  # as many as there are chains
        (2, 1, 2**40, "cpu", 2),
        (4, 2, 2**40, "cpu", 2),
        (1, 2, 2**40, "cpu", 1),
        (8, 1, 2.5 * 2**30, "cpu", 2),  # a process and its data take one GiB
        (8, 1, 2**20, "cpu", 1),
        (8, 1, 2**40, "cuda", 1),
    ],
)
def test_as_many_runs_at_once_as_cores_and_memory_allow(
    tmp_path, monkeypatch, cores, threads, memory, device, expected
):
    started = runner_in(tmp_path)
    planned = started.missing(pairs([runs()[6]], (0, 1, 2)))
    torch.set_num_threads(threads)
    started.device = device
    monkeypatch.setattr(module.joblib, "cpu_count", lambda: cores)
    monkeypatch.setattr(module.memory, "available", lambda device: memory)
    assert started.at_once(planned) == expected


def test_processes_of_one_job_make_one_run_at_a_time(tmp_path, monkeypatch):
    started = runner_in(tmp_path)
    planned = started.missing(pairs([runs()[6]], (0, 1)))
    monkeypatch.setattr(module, "processes", lambda: 2)
    assert started.at_once(planned) == 1


def test_the_longest_chain_begins_first(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(module, "_make", lambda *of: begun.append([run for run, _ in of[-1]]))
    monkeypatch.setattr(module.joblib, "Parallel", lambda n_jobs: lambda calls: [f(*args) for f, args, _ in calls])
    short, long = runs()[1], shrunk(runs()[6], epochs=40)
    runner_in(tmp_path).make([(short, 0), (long.parent, 1), (long, 1)], jobs=2)
    assert begun == [[long.parent, long], [short]]


def test_a_run_that_fits_only_with_compressed_activations_says_so_and_has_the_same_numbers(
    tmp_path, made, monkeypatch, capsys
):
    steps = []
    monkeypatch.setattr(module.memory, "compresses", lambda *_: True)
    monkeypatch.setattr(classifier, "compressed_activations", lambda: steps.append(1) or compressed_activations())
    assert make(tmp_path, 6) == [(1, 0), (6, 0)]
    assert "cifar10_t6 trains with compressed activations, which fit" in capsys.readouterr().out
    assert len(steps) == 2 * 2 + 2  # two steps an epoch, two epochs and one
    assert evidence_of(tmp_path, 6).accuracy_last == evidence_of(made, 6).accuracy_last


@pytest.mark.parametrize(
    ("device", "compressed", "keeps", "plugins", "expected"),
    [
        ("cuda", False, True, (), True),
        ("cpu", False, True, (), False),
        ("cuda", True, True, (), False),
        ("cuda", False, False, (), False),
        ("cuda", False, True, ("a digest",), False),
    ],
)
def test_steps_are_cuda_graphs_on_a_gpu_that_has_room_for_the_package_s_own_parts(
    device, compressed, keeps, plugins, expected, tmp_path, monkeypatch
):
    class Begun(Exception):  # noqa: N818 - no error
        pass

    def begin(*_, graphed, **__):
        raise Begun(graphed)

    monkeypatch.setattr(module, "train", begin)
    monkeypatch.setattr(module.memory, "compresses", lambda *_: compressed)
    monkeypatch.setattr(module.memory, "keeps_steps", lambda *_: keeps)
    monkeypatch.setattr(Run, "plugins", plugins)
    started = runner_in(tmp_path)
    started.device = device
    with pytest.raises(Begun) as begun:
        started._train(runs()[1], 0)
    assert begun.value.args == (expected,)
