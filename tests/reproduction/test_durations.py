"""What is said of the time before a run: only what evidence says, and of how many runs it says nothing."""

from pathlib import Path

import pytest
from checkout import PROBE

from jellyplus.reproduction.durations import expectation
from jellyplus.reproduction.store import Store
from jellyplus.training.recipe_files import load_run

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def runs():
    return [load_run(f"dspike/cifar10_{name}", "embedded", RECIPES) for name in ("ann", "t6", "t4")]


@pytest.fixture
def keep(make_evidence):
    def keep(store, run, seconds, **changes):
        store.write(make_evidence(recipe=run.resolved, key=run.key, wall_time_s=seconds, **changes), PROBE)

    return keep


def pairs(runs):
    return [(run, 0) for run in runs]


def test_nothing_is_said_of_what_was_never_made(tmp_path, runs):
    assert expectation(pairs(runs), [Store(tmp_path)]) == "3 runs to make: 3 not timed before"


def test_times_of_a_device_are_added_whatever_the_seed_and_code(tmp_path, runs, keep):
    store = Store(tmp_path)
    keep(store, runs[0], 100.0, device="a CPU", seed=7)
    keep(store, runs[1], 85.0, device="a CPU", code="d" * 64)
    assert expectation(pairs(runs), [store]) == "3 runs to make: 2 took 03:05 before on a CPU; 1 not timed before"


def test_devices_are_told_apart(tmp_path, runs, keep):
    store = Store(tmp_path)
    keep(store, runs[0], 89.0, device="a CPU")
    keep(store, runs[1], 9000.0, device="a GPU")
    assert expectation(pairs(runs[:2]), [store]) == (
        "2 runs to make: 1 took 01:29 before on a CPU; 1 took 2:30:00 before on a GPU"
    )


def test_the_nearest_store_tells_and_in_it_the_slowest(tmp_path, runs, keep):
    near, far = Store(tmp_path / "near"), Store(tmp_path / "far")
    keep(near, runs[0], 10.0, device="mine", seed=0)
    keep(near, runs[0], 20.0, device="mine", seed=1)
    keep(far, runs[0], 30.0, device="theirs")
    assert expectation(pairs(runs[:1]), [near, far]) == "1 run to make: 1 took 00:20 before on mine"
    assert expectation(pairs(runs[:1]), [far, near]) == "1 run to make: 1 took 00:30 before on theirs"
