"""Rows whose value is measured on the network of a finished run, in the smoke profile."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

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
