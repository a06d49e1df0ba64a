"""Rows whose value is measured on the network of a finished run, in the smoke profile."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from jellyplus._errors import InputError
from jellyplus.reproduction import scale, tables
from jellyplus.reproduction.claims import Claim, ClaimTable, Split
from jellyplus.reproduction.measurements import Measurements
from jellyplus.reproduction.runner import Runner
from jellyplus.reproduction.store import Store

RECIPES = Path(__file__).parents[2] / "recipes"
CELL = Claim("before", "d", "m", "own", "n", 4, 0.28, None, "inflor/cifar10_resnet20_t4", "")
CELLS = [dataclasses.replace(CELL, id=when, quantity=f"quantisation_error_{when}") for when in ("before", "after")]
TABLE = ClaimTable("t", "inflor", "here", {"d": Split(1, 1)}, (*CELLS, dataclasses.replace(CELL, id="accuracy")))


@pytest.fixture
def made(tmp_path):
    """Runs by row, and the measurements of a store in which they are made."""
    runs = tables.runs(TABLE, "smoke", RECIPES)
    runner = Runner(Store(tmp_path), None, "cpu")
    runner.make(runner.missing([(runs["before"], 0)]))
    return runs, Measurements(runner)


def test_rows_of_one_run_share_it_and_its_measurement(made):
    runs, measurements = made
    assert len({run.key for run in runs.values()}) == 1
    assert not tables.results(TABLE, runs, measurements, RECIPES)["before"]
    for _ in range(2):  # what is measured already is left alone
        tables.measure(TABLE, runs, measurements, [(runs["before"], 0)])
    assert len(list(measurements.runner.store.root.rglob("quantisation_error-*-seed*.json"))) == 1
    results = tables.results(TABLE, runs, measurements, RECIPES)
    (before,), (after,), (accuracy,) = results["before"], results["after"], results["accuracy"]
    assert 0 < after.value < before.value < 1  # MPR brings potentials nearer to 0 and 1
    assert before.evidence == accuracy.evidence
    assert accuracy.value == accuracy.evidence.accuracy_last


def test_a_row_is_measured_with_its_own_settings(made):
    runs, measurements = made
    stage = dataclasses.replace(CELLS[0], id="stage", settings={"second_block": "stage"})
    table = dataclasses.replace(TABLE, rows=(*TABLE.rows, stage))
    runs = runs | {"stage": runs["before"]}
    tables.measure(table, runs, measurements, [(runs["before"], 0)])
    assert len(list(measurements.runner.store.root.rglob("quantisation_error-*seed0-*.json"))) == 2
    results = tables.results(table, runs, measurements, RECIPES)
    assert results["stage"][0].value != results["before"][0].value


def of_run(row, made):
    runs, measurements = made
    paper = scale.printed(row.recipe, RECIPES)
    return tables._of_run(row, runs["before"], paper, TABLE.datasets["d"], measurements)


def test_operations_are_those_of_the_rows_convention(made):
    """Width 4, T = 4, at 16x16: 27 taps x 4 x 256 pixels of the first layer, 32 x 10 of the last, at each time-step."""
    row = dataclasses.replace(CELL, quantity="multiplications", convention="dspike")
    rows = [row, dataclasses.replace(row, convention="tdbn"), dataclasses.replace(row, quantity="additions")]
    (dspike,), (tdbn,), (added,) = (of_run(row, made) for row in rows)
    assert (dspike.value, tdbn.value, dspike.note) == (4 * 27_648, 4 * (27_648 + 320), "")
    assert re.fullmatch(r"± \S+ over \d+ test examples", added.note)


def test_old_evidence_of_another_convention_has_no_value_and_says_what_to_do(made):
    _, measurements = made
    (path,) = measurements.runner.store.root.rglob("seed0-*.json")
    record = json.loads(path.read_text())
    del record["operations"]["layers"]
    path.write_text(json.dumps(record))
    row = dataclasses.replace(CELL, quantity="additions", convention="dspike")
    (found,) = of_run(row, made)
    assert (found.value, found.evidence.seed) == (None, 0)
    assert found.note == "counted by another convention than the paper's: make the run again"


def test_a_measurement_by_other_code_is_no_result_of_a_run_by_this_code(made, monkeypatch):
    runs, measurements = made
    tables.measure(TABLE, runs, measurements, [(runs["before"], 0)])
    monkeypatch.setattr(Measurements, "is_current", lambda *_: False)
    results = tables.results(TABLE, runs, measurements, RECIPES)
    assert (len(results["before"]), len(results["accuracy"])) == (0, 1)


# --- the epochs of --profile gpu ---

TDBN = ClaimTable(
    "t", "tdbn", "here", {"d": Split(1, 1)}, (dataclasses.replace(CELL, recipe="tdbn/cifar10_resnet19_t2"),)
)


@pytest.mark.parametrize(("epochs", "step_epochs"), [(30, 10), (14, 5), (1, 1)])
def test_epochs_shorten_the_steps_of_the_schedule_alike_and_make_another_run(epochs, step_epochs):
    """The paper's learning rate falls every 35 of 105 epochs."""
    run = tables.shortened(TDBN, ["before"], "gpu", epochs, RECIPES)["before"]
    paper = tables.runs(TDBN, "paper", RECIPES)["before"]
    assert (run.recipe.schedule.epochs, run.recipe.schedule.step_epochs) == (epochs, step_epochs)
    assert dataclasses.replace(run.recipe, schedule=paper.recipe.schedule) == paper.recipe
    assert run.profile == "gpu"
    assert run.key != paper.key


def test_epochs_keep_what_the_row_changes_and_a_cosine_has_no_steps():
    cell = dataclasses.replace(CELL, overrides={"model": {"time_steps": 2}})
    run = tables.shortened(dataclasses.replace(TABLE, rows=(cell,)), ["before"], "gpu", 7, RECIPES)["before"]
    assert (run.recipe.model.time_steps, run.recipe.schedule.epochs, run.recipe.schedule.step_epochs) == (2, 7, None)


@pytest.mark.parametrize(
    ("profile", "epochs", "reason"),
    [
        ("small", 3, "--epochs is for --profile gpu: small has its own"),
        ("gpu", 105, "--epochs 105: row before of the paper has 105; use --profile paper"),
    ],
)
def test_epochs_are_for_the_gpu_profile_and_fewer_than_the_papers(profile, epochs, reason):
    with pytest.raises(InputError, match=reason):
        tables.shortened(TDBN, ["before"], profile, epochs, RECIPES)
