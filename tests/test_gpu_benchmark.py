"""The command for a lent GPU: everything in it runs on the CPU, its boxes are kept, and its checks can fail."""

import dataclasses
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import filelock
import pytest
import torch

from jellyplus.neuron import IterativeLIFNode, cupy_backend
from jellyplus.training.recipe_files import load_run

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RECIPES = BENCHMARKS.parent / "recipes"
SCRIPT = BENCHMARKS / "gpu.py"


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def module(name):
    return importlib.import_module(f"gpu_sections.{name}")


# --- The dry run


@pytest.fixture(scope="module")
def dry(tmp_path_factory, worker_id):
    """The folder of a dry run, one for all processes of pytest, beside a measurement that is none of its business."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "dry"
    with filelock.FileLock(f"{folder}.lock"):
        if not folder.with_suffix(".done").exists():
            folder.mkdir(exist_ok=True)
            (folder / "gpu.md").write_text("measured")
            command = [sys.executable, SCRIPT, "--dry-run", "--out", folder, "--workers", "1"]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            folder.with_suffix(".done").touch()
    return folder


@pytest.fixture
def records(dry):
    return module("job").read(dry / "dry_run.jsonl")


def having(records, key):
    found = [record for record in records if key in record]
    assert found, f"nothing has {key}"
    return found


def test_every_part_runs_to_its_end_in_a_dry_run(dry, records):
    errors = [record for record in records if "error" in record]
    assert not errors, (errors, (dry / "dry_run.log").read_text())
    ends = [(record["section"], record["how"].partition(":")[0]) for record in having(records, "ended")]
    sections = importlib.import_module("gpu").SECTIONS
    assert set(ends) == {*((section.name, "done") for section in sections), ("fast", "left out")}
    assert len(ends) == sum(len(section.parts) for section in sections)
    assert sum(how == "left out" for _, how in ends) == 3  # the peers that cannot be installed beside us


def test_a_dry_run_checks_what_it_will_check_on_a_card(records):
    for pair in having(records, "comparisons"):
        assert pair["spikes"] > 0
        for backend in ("cupy", "torch"):
            assert pair[backend]["unexplained"] == 0
            assert 0 < pair[backend]["error"] <= 1
    cases = having(records, "case")
    assert all(case["right"] for case in cases)
    named = {case["case"].partition(",")[0] for case in cases}
    assert {"channels-last", "CUDA graph", "a stream of its own", "temperature 1"} < named
    assert {case["synchronisations"] for case in cases if "compilations" in case} == {0}


def test_a_dry_run_times_what_it_will_time_on_a_card(records):
    fast_node = module("fast_node")
    timed = having(records, "copy_gb_s")
    beside_us = set(fast_node.SIDES) - {"SpikingJelly 2.0.0", "snnTorch Leaky"}
    assert {record["side"] for record in timed} == beside_us
    assert {record["side"] for record in having(records, "host_both_us")} == beside_us
    assert all(record["ms"] > 0 and record["share"] > 0 for record in timed)
    compared = having(records, "flips")
    assert {record["side"] for record in compared} == beside_us - {"ReLU"}
    assert {record["flips"] for record in compared} == {0}
    assert all(record["gradient_error"] < 2e-3 for record in having(compared, "gradient_error"))
    ways = [", ".join(filter(None, way)) for way in module("fast_step").WAYS]
    networks = {(record["network"], record["neuron"]) for record in having(records, "neuron")}
    assert networks == {(name, n) for name in module("fast_step").NETWORKS for n in ways}
    assert len(having(records, "profiled_ms")) == 2
    assert {record["workers"] for record in having(records, "loader")} == {0, 1}
    assert having(records, "epoch_s")[0]["images_per_s"] > 0


def test_a_dry_run_makes_a_row_and_packs_its_evidence(dry, records):
    made = having(records, "overlay")
    tables = ", ".join(table.table for table in module("rows").TABLES)
    assert [(row["table"], row["exit_code"]) for row in made] == [(tables, 0), ("table1_tdbn", 0)]
    with zipfile.ZipFile(dry / "dry_run_evidence.zip") as archive:
        names = archive.namelist()
        evidence = [json.loads(archive.read(name)) for name in names if re.match("evidence/.*/seed", name)]
    runs = [run for row in made for run in row["runs"]]
    assert {(run["profile"], run["seed"]) for run in runs} == {("smoke", 0)}
    assert sorted(e["accuracy_last"] for e in evidence) == sorted(run["accuracy_last"] for run in runs)
    assert f"smoke/{made[-1]['table']}/table.md" in names


def test_only_the_weights_of_published_runs_travel(tmp_path):
    """Of seed 0, by the keys of what is published, whatever code made them."""
    evidence, rows, job = module("evidence"), module("rows"), module("job")
    (entry, *_) = json.loads((rows.REPRODUCTIONS / "weights" / "weights.json").read_text()).values()
    key = Path(entry["evidence"]).parent.name
    for path in (f"{key}/seed0-0123.ckpt", f"{key}/seed1-0123.ckpt", "0123456789abcdef/seed0-0123.ckpt"):
        file = tmp_path / "results" / "evidence" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("weights")
    evidence._pack(job.Job("evidence", [], str(tmp_path), str(tmp_path), 0.0, False, None, 0))
    with zipfile.ZipFile(tmp_path / "gpu_weights.zip") as archive:
        assert archive.namelist() == [f"evidence/{key}/seed0-0123.ckpt"]


def test_tables_that_do_not_end_leave_what_is_finished(tmp_path, monkeypatch):
    """And the box is not used up to its end, in which nothing would be written any more."""
    evidence, job = module("evidence"), module("job")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "finished.json").write_text("1")
    monkeypatch.setattr(evidence, "PACKED", 3.0)
    popen = subprocess.Popen
    monkeypatch.setattr(evidence.subprocess, "Popen", lambda command: popen(["sleep", "60"]))
    task = job.Job("evidence", [], str(tmp_path), str(tmp_path), until := time.monotonic() + 5.9, False, None, 1)
    written = []
    monkeypatch.setattr(job.Job, "add", lambda self, **values: written.append(values))
    evidence._make_tables(task)
    assert time.monotonic() < until
    assert [record["exit_code"] for record in written] == [-signal.SIGTERM]
    with zipfile.ZipFile(tmp_path / "gpu_evidence.zip") as archive:
        assert archive.namelist() == ["finished.json"]


def test_a_dry_run_is_never_taken_for_a_measurement(dry, records):
    assert all(record["dry_run"] for record in records)
    assert (dry / "gpu.md").read_text() == "measured"
    text = (dry / "dry_run.md").read_text()
    assert text.startswith("# Dry run, not a GPU\n\n**Dry run: ")
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert len(headings) == 7
    assert all(line.endswith("(dry run)") for line in headings)
    assert sorted(path.name for path in dry.iterdir() if path.name != "gpu.md") == [
        *("dry_run.jsonl", "dry_run.log", "dry_run.md", "dry_run_evidence.zip", "dry_run_weights.zip"),
    ]


# --- The boxes

PARTS = """
import os, subprocess, sys, time

def hang(job):
    job.add(measured="before the box was over")
    job.add(child=subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid)
    time.sleep(60)

def crash(job):
    os.abort()

def half(job):
    with job.attempt("the first half"):
        raise ValueError("a kernel went wrong")
    job.add(measured="the second half")

def work(job):
    job.add(measured="after the others")
"""


@pytest.fixture
def box(tmp_path):
    """Runs sections of the parts above; gives how each ended, and what was written down."""
    (tmp_path / "parts.py").write_text(PARTS)
    boxes, job = module("boxes"), module("job")
    path = os.pathsep.join([str(BENCHMARKS), str(tmp_path)])

    def start(section, part, seconds):
        task = job.Job(section.name, list(part.functions), str(tmp_path), str(tmp_path), 0.0, True, None, 0)
        command = [sys.executable, "-m", "gpu_sections.child", json.dumps(vars(task))]
        return boxes.box(command, os.environ | {"PYTHONPATH": path}, seconds, tmp_path / "log")

    def run(*sections, seconds=60.0):
        ends = []
        sections = [
            boxes.Section(name, of, tuple(boxes.Part((f"parts.{part}",), most) for part, most in parts.items()))
            for name, of, parts in sections
        ]
        boxes.run(sections, start, lambda *end: ends.append(end), time.monotonic() + seconds)
        return [end[2] for end in ends], job.read(tmp_path / "dry_run.jsonl")

    return run


def test_a_part_that_hangs_or_fails_costs_its_box_and_nothing_else(box):
    began = time.monotonic()
    ends, records = box(("one", 60.0, {"hang": 1.5, "crash": 30.0}), ("two", None, {"half": 30.0, "work": 30.0}))
    assert time.monotonic() - began < 20
    assert ends == ["killed after 1.5 s", "ended by SIGABRT", "failed with exit code 1", "done"]
    measured = [record["measured"] for record in records if "measured" in record]
    assert measured == ["before the box was over", "the second half", "after the others"]
    (error,) = (record for record in records if "error" in record)
    assert (error["attempted"], error["error"]) == ("the first half", "ValueError: a kernel went wrong")
    (child,) = (record["child"] for record in records if "child" in record)
    assert not is_running(child)


def is_running(pid):
    """A process that init has not yet buried counts as dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_sections_box_holds_for_its_parts_together_and_what_is_left_is_the_nexts(box):
    began = time.monotonic()
    ends, _ = box(("one", 1.5, {"hang": 30.0, "work": 30.0}), ("two", None, {"half": 30.0}))
    assert time.monotonic() - began < 20
    assert ends == ["killed after 1.5 s", "not begun: no time left", "failed with exit code 1"]


def test_nothing_runs_longer_than_all_the_minutes(box):
    ends, _ = box(("one", None, {"hang": 30.0, "work": 30.0}), seconds=1.5)
    assert ends == ["killed after 1.5 s", "not begun: no time left"]


def test_what_is_killed_while_it_writes_loses_that_line_alone(tmp_path):
    job, path = module("job"), tmp_path / "gpu.jsonl"
    job.append(path, {"a": 1})
    with path.open("a") as file:
        file.write('\n{"b": ')
    job.append(path, {"c": 3})
    assert job.read(path) == [{"a": 1}, {"c": 3}]


def test_a_command_that_is_ended_ends_what_it_runs(tmp_path):
    command = [sys.executable, SCRIPT, "--dry-run", "--out", tmp_path, "--sections", "right"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    log = tmp_path / "dry_run.log"
    while not (log.exists() and "layouts" in log.read_text()):
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    assert not any(map(is_running, children))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver here")
def test_without_a_driver_nothing_is_written_but_a_sentence(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--out", tmp_path / "out"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "there is no NVIDIA driver here" in done.stderr
    assert not (tmp_path / "out").exists()


# --- The checks of the kernels


@pytest.fixture
def right():
    """The module, and how a node differs from the loop, on torch's backend."""
    found = module("right")
    card = module("machine").StandIn(kernels=False)

    def difference(make, dtype=torch.float32, inputs=None, surrogate="Dspike"):
        options = {"detach_reset": False, "step_mode": "m", "store_v_seq": True}
        inputs = found._at_random(dtype) if inputs is None else inputs
        truth = found._loop(found.NODES["hard reset"][1], found.SURROGATES[surrogate], inputs, dtype, options)
        node = make(surrogate_function=found.SURROGATES["Dspike"](), store_h_seq=True, backend="torch", **options)
        return found._difference(found._pass(node, inputs, card, dtype), truth, 0.6, dtype)

    return found, difference


def lif(decay=0.25, v_threshold=0.6, v_reset=0.0):
    return lambda **options: IterativeLIFNode(decay, v_threshold=v_threshold, v_reset=v_reset, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_same_node_does_not_differ(right, dtype):
    found = right[1](lif(), dtype)
    assert (found.flips, found.unexplained) == (0, 0)
    assert found.error < 1


def test_another_node_differs(right):
    for wrong in (lif(v_threshold=0.61), lif(decay=0.26), lif(v_reset=0.1), lif(v_reset=None)):
        assert right[1](wrong).unexplained > 0
    assert right[1](lif(), surrogate="Rectangular").error > 1


def test_nan_is_an_error(right):
    inputs = right[0]._at_random(torch.float32)
    inputs[0, 0, 0] = float("nan")
    assert right[1](lif(), inputs=inputs).error == float("inf")


def test_a_flip_within_rounding_of_the_threshold_is_explained_and_its_neuron_left_out(right):
    inputs = torch.full((2, 3, 4), 0.1)
    inputs[0, 0, 0] = 0.6 - 1e-6  # just below the loop's threshold, and not below the other one
    found = right[1](lif(v_threshold=0.6 - 1.5e-6), inputs=inputs)
    assert (found.flips, found.unexplained) == (1, 0)
    assert found.error < 1


# --- Which row


@pytest.fixture
def planned(monkeypatch):
    """The plan for seconds of an epoch of tdBN's and InfLoR's recipes."""
    evidence, rows = module("evidence"), module("rows")
    monkeypatch.setattr(evidence, "_missing", lambda row: row.seeds)
    recipes = [rows.ROWS[0].recipe, rows.ROWS[1].recipe]

    def plan(seconds, left, tried=()):
        found = evidence.planned(dict(zip(recipes, seconds, strict=True)), left, set(tried))
        return found and (found.row.row, found.epochs, found.whole)

    return plan


@pytest.mark.parametrize(
    ("seconds", "left", "tried", "expected"),
    [
        ((4.0, 4.0), 560, (), ("cifar10-t2", 105, True)),  # (560 * 0.88 - 60) / 4 = 108: the paper's 105 fit
        ((10.0, 4.0), 560, (), ("cifar10-t2", 43, False)),
        ((20.0, 6.0), 560, (), ("cifar10-resnet20-mpr", 72, False)),  # 21 are too few for the first
        ((20.0, 20.0), 560, (), ("cifar10-t2", 21, False)),
        ((20.0, 20.0), 200, (), None),
        ((4.0, 4.0), 560, ("cifar10-t2",), ("cifar10-resnet20-mpr", 108, False)),
    ],
)
def test_the_most_valuable_row_that_fits_is_made(planned, seconds, left, tried, expected):
    assert planned(seconds, left, tried) == expected


def test_every_row_exists_trains_from_scratch_and_is_timed_by_its_recipe():
    rows = module("rows")
    for row in rows.ROWS:
        assert rows.claim_of(row).recipe == row.recipe
        run = rows.run_of(row)
        assert run.parent is None
        assert row.least is None or row.least < run.recipe.schedule.epochs


@pytest.mark.parametrize("epochs", [3, 43])
def test_the_lines_that_are_printed_make_the_profile_find_the_run(tmp_path, epochs):
    """Without --epochs: so the committed view is what claims, evidence and recipes give."""
    evidence, rows = module("evidence"), module("rows")
    for row in rows.ROWS[:3]:
        head, *lines = evidence._overlay(evidence.Plan(row, (0,), epochs, False)).splitlines()
        paper = row.recipe.partition("/")[0]
        assert head == f"recipes/{paper}/profiles.yaml, under gpu:"
        shutil.copytree(RECIPES / paper, tmp_path / paper, dirs_exist_ok=True)
        profiles = (RECIPES / paper / "profiles.yaml").read_text()
        before, gpu, after = profiles.partition("\ngpu:")
        own, _, rest = after.partition("\n\n")
        (tmp_path / paper / "profiles.yaml").write_text("\n".join([before + gpu + own, *lines, "", rest]))
        found = load_run(row.recipe, "gpu", tmp_path, rows.claim_of(row).overrides)
        assert found.key == rows.shortened(row, epochs).key


def test_seeds_that_are_committed_are_not_made_again(tmp_path, monkeypatch):
    evidence, rows = module("evidence"), module("rows")
    row = rows.ROWS[0]._replace(seeds=(0, 1, 2))
    there = evidence._missing(row)
    assert set(there) <= set(row.seeds)

    @dataclasses.dataclass
    class Found:
        seed: int

    monkeypatch.setattr(evidence.Store, "runs", lambda self, key: [Found(0), Found(2)])
    assert evidence._missing(row) == (1,)
    assert evidence._missing(rows.ROWS[0]) == ()


def test_of_tables_too_only_what_is_not_committed_is_made(monkeypatch):
    rows, side_by_side = module("rows"), module("side_by_side")
    monkeypatch.setattr(side_by_side.Store, "runs", lambda self, key: [])
    table = rows.TABLES[0]
    whole = side_by_side.missing(table)
    assert {seed for _, seed in whole} == set(table.seeds)
    assert (
        len(whole) == len({(run.key, seed) for run, seed in whole}) == len(table.seeds) * len({r.key for r, _ in whole})
    )
    first = whole[0][0].key

    @dataclasses.dataclass
    class Found:
        seed: int

    monkeypatch.setattr(side_by_side.Store, "runs", lambda self, key: [Found(0), Found(2)] if key == first else [])
    left = side_by_side.missing(table)
    assert [pair for pair in whole if pair not in left] == [(whole[0][0], seed) for seed in (0, 2)]


def test_rows_that_are_named_alone_are_made():
    rows, side_by_side = module("rows"), module("side_by_side")
    for table in rows.TABLES:
        found = side_by_side._runs(table)
        assert table.rows == () or tuple(found) == table.rows
        assert {run.recipe.data.dataset for run in found.values()} <= {"cifar10", "mnist"}, "what is brought along"


# --- What is written


def test_a_measurement_says_on_which_card_and_when_and_what_is_wrong():
    measured = {"dry_run": False, "section": "right"}
    wrong = {"flips": 3, "unexplained": 2, "error": 5.0}
    pair = {"node": "IF", "surrogate": "Dspike", "dtype": "float", "comparisons": 8, "spikes": 9}
    text = module("report").markdown(
        [
            measured | {"command": "python benchmarks/gpu.py --minutes 9", "begun": "2026-11-26 04:00:00 UTC"},
            measured | {"card": "NVIDIA H100", "machine": "x86_64, 16 cores"},
            measured | pair | {"cupy": wrong, "torch": wrong | {"unexplained": 0, "error": 0.5}},
        ]
    )
    assert "dry" not in text.lower()
    assert "begun 2026-11-26 04:00:00 UTC" in text
    assert "Card: NVIDIA H100." in text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "float" in line]
    assert [row[-1] for row in rows[:2]] == ["**no**", "yes"]
    assert any("IF" in row for row in rows[2:])


# --- What a CPU in the place of a card hides


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """A job whose card is the meta device: shapes and devices are checked, no number is computed."""
    machine, job = module("machine"), module("job")

    class Elsewhere(machine.StandIn):
        device = torch.device("meta")

    card, cpu = Elsewhere(kernels=False), torch.Tensor.cpu
    monkeypatch.setattr(cupy_backend, "obstacle", lambda: None)
    monkeypatch.setattr(cupy_backend.CupyEngine, "device_type", "meta")
    monkeypatch.setattr(cupy_backend.CupyEngine, "launch", lambda *_: None)
    monkeypatch.setattr(torch, "equal", lambda *_: True)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda t: torch.ones(t.shape, dtype=t.dtype) if t.is_meta else cpu(t))
    for user in ("right", "fast_node"):
        monkeypatch.setattr(module(user), "machine", lambda job, kernels=True: card)
    return job.Job("right", [], str(tmp_path), str(tmp_path), 0.0, True, None, 0)


def test_every_tensor_is_where_the_card_is(elsewhere, monkeypatch):
    """Dspike's temperature stays behind where a node is not moved; on the CPU nobody would notice."""
    right, fast_node = module("right"), module("fast_node")
    monkeypatch.setattr(right, "SURROGATES", dict(reversed(right.SURROGATES.items())))  # of one in a dry run
    right.layouts(elsewhere)
    right.large(elsewhere)
    right.matrix(elsewhere)
    monkeypatch.setattr(right, "SURROGATES", {"Dspike": right.SURROGATES["Dspike"]})
    right.matrix(elsewhere)
    fast_node.sides(elsewhere, [fast_node.OURS, "jellyplus torch", "ReLU"])
    assert not elsewhere.failed
