"""What a probe is: the same whatever ran before, with everything that evolves, and compared within a tolerance."""

import os
from pathlib import Path

import pytest
import torch

from jellyplus.reproduction import probe
from jellyplus.reproduction.store import Store
from jellyplus.training.recipe_files import load_run

ROOT = Path(__file__).parents[3]
RECIPES = ROOT / "recipes"
NAMES = sorted(f"{path.parent.name}/{path.stem}" for path in RECIPES.glob("*/*_*.yaml"))
RUNS = [load_run(name, "embedded", RECIPES) for name in NAMES if "/cifar10" in name or "/mnist" in name]
#: What evolves with a part of a recipe, as the history has it.
EVOLVES = {"temperature_search": "temperature of epoch", "evolution": "k of epoch", "im_loss": "im_loss of epoch"}


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch):
    monkeypatch.setattr(probe, "_known", {})


def evolving(recipe):
    moves = recipe.shortcut and recipe.shortcut.evolutionary
    return [part for part in EVOLVES if getattr(recipe, part)] + ["shortcut"] * bool(moves)


@pytest.mark.parametrize("run", [run for run in RUNS if evolving(run.recipe)], ids=lambda run: run.name)
def test_everything_that_evolves_has_moved(run):
    values = probe.of_run(run)
    for part in evolving(run.recipe):
        seen = values[EVOLVES.get(part, "shortcut_weight of epoch")]
        assert len(seen) == 3
        assert len(set(seen)) > 1, (part, seen)
    if run.recipe.warm_start:
        assert values["warm start, iterations"] != 0
    assert any(name.startswith(f"{run.parent.name}: ") for name in values) if run.parent else True


@pytest.mark.parametrize("name", ["imloss/cifar10_cifarnet_t4_bare", "dspike/mnist_toy_finite_differences"])
def test_it_depends_on_nothing_that_ran_before_and_leaves_everything_as_it_was(name, monkeypatch):
    run = load_run(name, "embedded", RECIPES)
    first = probe.of_run(run)
    monkeypatch.setattr(probe, "_known", {})
    monkeypatch.setenv("PL_TRAINER_LIMIT_TRAIN_BATCHES", "1")  # Lightning would read it
    torch.manual_seed(7)
    random, environment, threads = torch.get_rng_state(), dict(os.environ), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = probe.of_run(run)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert again == first
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), random)
    assert dict(os.environ) == environment


def test_a_run_has_the_training_of_its_ancestors_and_not_their_operations():
    values = probe.of_run(load_run("dspike/cifar10_t4", "embedded", RECIPES))
    for ancestor in ("dspike/cifar10_t6", "dspike/cifar10_ann"):
        names = {name for name in values if f"{ancestor}: " in name}
        assert any(name.endswith("loss of step") for name in names)
        assert not any(probe.OPERATIONS in name for name in names)


def test_what_is_measured_on_a_trained_network_has_the_training_of_the_run():
    run = load_run("dspike/mnist_toy_rectangular", "embedded", RECIPES)
    trained = probe.of_measure(run, "spike_rates", {})
    fresh = probe.of_measure(run, "spike_rates_untrained", {})
    assert f"{run.name}: loss of step" in trained
    assert {"x", "y", "surrogate gradient"} <= fresh.keys()
    assert not any("loss of step" in name for name in fresh)


@pytest.mark.parametrize(
    ("recorded", "today", "said"),
    [
        ({"a": 1.0}, {"a": 1.0 + 1e-9}, {}),
        ({"a": 1.0}, {"a": 1.0 + probe.TOLERANCE / 2}, {}),
        ({"a": 1.0}, {"a": 1.0 + 4 * probe.TOLERANCE}, {"a": "a: 1, now 1.000004"}),
        ({"a": 0.0}, {"a": 1e-13}, {}),
        ({"a": 2.0}, {"a": 2}, {}),
        ({"a": 2}, {"a": 3}, {"a": "a: 2, now 3"}),
        (
            {"loss of step": [2.5, 2.25]},
            {"loss of step": [2.5, 2.125]},
            {"loss of step": "loss of step 2: 2.25, now 2.125"},
        ),
        ({"a": [1.0]}, {"a": [1.0, 1.0]}, {"a": "a: 1 values, now 2 values"}),
        ({"a": [[1], [2, 3]]}, {"a": [[1], [2, 4]]}, {"a": "a 2 2: 3, now 4"}),
        ({"a": 1}, {}, {"a": "a: 1, now nothing"}),
        ({}, {"a": 1}, {}),  # nobody recorded it then
        ({"a": "nan"}, {"a": "nan"}, {}),
        ({"a": None}, {"a": 1.0}, {"a": "a: nothing, now 1"}),
    ],
)
def test_values_are_compared_within_a_tolerance_and_named(recorded, today, said):
    assert probe.differences(recorded, today) == said


def test_all_committed_evidence_has_a_probe():
    store = Store(ROOT / "reproductions" / "measured" / "evidence")
    records = [path for path in store.root.glob("*/*.json") if "probe-" not in path.name and "splits" not in path.parts]
    assert len(records) > 100
    for path in records:
        stem, _, code = path.stem.rpartition("-")
        kind = stem.rpartition("seed")[0]
        assert (path.parent / f"{kind}probe-{code}.json").exists(), path
