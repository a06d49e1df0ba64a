"""``python reproductions/<table>.py``: what it writes, says and refuses, on a copy of the tree with tiny nets."""

import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from jellyplus.reproduction import runner, today
from jellyplus.reproduction.cli import main
from jellyplus.training.classifier import Classifier
from jellyplus.training.recipe_files import load_run

REPOSITORY = Path(__file__).parents[2]
SCRIPT = "table2_dspike.py"
CHAIN = ["cifar10-t6", "cifar10-t4"]

PROFILES = """
paper: {}
gpu:
  "*":
    schedule: {epochs: 1}
embedded:
  "*":
    data: {dataset: digits, batch_size: 400, augmentation: [crop]}
    model: {width: 1}
    schedule: {epochs: 1}
    temperature_search: {batch_size: 2}
  "cifar10dvs_t10":
    data: {dataset: moving_digits, augmentation: [], events: null}
small:
  "*":
    data: {batch_size: 10, augmentation: []}
    model: {width: 1}
    schedule: {epochs: 1}
    temperature_search: {batch_size: 2}
"""
CLAIM = """
- {{id: {id}, dataset: {dataset}, method: m, kind: {kind}, architecture: a, timesteps: {t}, paper: {paper},
   paper_std: null, recipe: {recipe}, note: ""}}
"""


def plant(folder):
    """A small copy of the repository: the script, three own rows and a reported one, tiny profiles."""
    shutil.copytree(REPOSITORY / "recipes", folder / "recipes")
    (folder / "recipes/dspike/profiles.yaml").write_text(PROFILES)
    (folder / "reproductions/claims").mkdir(parents=True)
    shutil.copy(REPOSITORY / "reproductions" / SCRIPT, folder / "reproductions")
    counts = "{train_examples: 50000, test_examples: 10000}"
    rows = [
        ("reported-row", "CIFAR-10", "reported", 12, 90.5, "null"),
        ("cifar10-t6", "CIFAR-10", "own", 6, 94.25, "dspike/cifar10_t6"),
        ("cifar10-t4", "CIFAR-10", "own", 4, 93.66, "dspike/cifar10_t4"),
        ("dvs-t10", "DVS", "own", 10, 75.4, "dspike/cifar10dvs_t10"),
    ]
    names = ("id", "dataset", "kind", "t", "paper", "recipe")
    text = "title: A table\npaper: dspike\nprinted_in: here\n"
    text += f"datasets: {{CIFAR-10: {counts}, DVS: {counts}}}\nrows:\n"
    text += "".join(CLAIM.format(**dict(zip(names, row, strict=True))) for row in rows)
    (folder / "reproductions/claims/table2_dspike.yaml").write_text(text)
    return folder


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(plant(tmp_path))
    return tmp_path


def call(tree, *options):
    """Run main in this process, one run at a time unless the options say otherwise; return the exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [SCRIPT, "--jobs", "1", *map(str, options)])
        patch.chdir(tree)
        try:
            return main(str(tree / "reproductions" / SCRIPT))
        except SystemExit as stop:  # argparse
            return stop.code


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tree in which the two CIFAR-10 rows have been made; only read."""
    tree = plant(tmp_path_factory.mktemp("finished"))
    assert call(tree, "--rows", *CHAIN) == 0
    return tree


@pytest.fixture
def made(finished, tree):
    """A copy of the finished tree's results in a tree of the test's own."""
    shutil.copytree(finished / "results", tree / "results")
    return tree


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def table(tree, profile="embedded"):
    with open(tree / "results" / profile / "table2_dspike/table.csv", newline="") as file:
        return {f"{row['kind']} {row['timesteps']}": row for row in csv.DictReader(file)}


def edit(tree, name, section, **values):
    path = tree / "recipes/dspike" / f"{name}.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe[section] = recipe.get(section, {}) | values
    path.write_text(yaml.safe_dump(recipe))


def evidence_file(tree, name):
    """The evidence file of a run by its name."""
    for path in (tree / "results/evidence").rglob("seed*.json"):
        if json.loads(path.read_text())["recipe_name"] == f"dspike/{name}":
            return path
    raise AssertionError(f"no evidence of {name}")


def image_folder(folder, classes=10, per_class=2):
    """CIFAR-10 as ``cifar10/{train,test}/<class>/*.png``."""
    for split in ("train", "test"):
        for c in range(classes):
            place = folder / "cifar10" / split / f"class{c}"
            place.mkdir(parents=True)
            for i in range(per_class):
                Image.new("RGB", (32, 32), (20 * c, 100 * i, 0)).save(place / f"{i}.png")
    return folder


# --- What it makes -----------------------------------------------------------------------------------------------


def test_rows_are_made_with_the_runs_they_start_from(finished):
    folder = finished / "results/embedded/table2_dspike"
    assert sorted(path.name for path in folder.iterdir()) == ["table.csv", "table.md", "table.png"]
    assert (folder / "table.png").read_bytes().startswith(b"\x89PNG")
    text = (folder / "table.md").read_text()
    assert "## On stand-in data: no claim about the paper" in text
    assert "stand-in: digits, 16x16, width 1, 1,437 images, 1 of 300 epochs" in text
    names = [
        json.loads(path.read_text())["recipe_name"] for path in (finished / "results/evidence").rglob("seed*.json")
    ]
    assert sorted(names) == ["dspike/cifar10_ann", "dspike/cifar10_t4", "dspike/cifar10_t6"]
    assert {path.suffix for path in contents(finished / "results/evidence")} == {".json", ".ckpt"}


def test_the_table_shows_what_was_measured_beside_what_is_printed(finished):
    rows = table(finished)
    assert rows.keys() == {"reported 12", "own 6", "own 4", "own 10"}
    for t, paper in (("6", "94.25"), ("4", "93.66")):
        evidence = json.loads(evidence_file(finished, f"cifar10_t{t}").read_text())
        assert (rows[f"own {t}"]["paper"], rows[f"own {t}"]["status"]) == (paper, "stand-in")
        assert rows[f"own {t}"]["ours_mean"] == f"{evidence['accuracy_last']:.2f}"
        assert (rows[f"own {t}"]["n_seeds"], rows[f"own {t}"]["profile"]) == ("1", "embedded")
    assert (rows["own 10"]["status"], rows["own 10"]["ours_mean"]) == ("not-run", "")
    assert rows["reported 12"]["status"] == "reported"


def test_a_second_call_trains_nothing_and_prints_the_same_table(made, monkeypatch, capsys):
    before = contents(made / "results")
    monkeypatch.setattr(runner, "train", None)
    assert call(made, "--rows", *CHAIN) == 0
    assert contents(made / "results") == before
    out = capsys.readouterr().out
    assert "94.25" in out
    assert "results/embedded/table2_dspike/table.csv" in out
    (line,) = [line for line in out.splitlines() if "stand-in data" in line]
    assert "--profile paper --data-root" in line


def test_without_rows_every_own_row_is_made(made):
    assert call(made) == 0
    assert {row["status"] for name, row in table(made).items() if name.startswith("own")} == {"stand-in"}
    assert evidence_file(made, "cifar10dvs_t10")


def test_render_writes_the_table_without_training(made, monkeypatch):
    before = contents(made / "results")
    shutil.rmtree(made / "results/embedded")
    monkeypatch.setattr(runner, "train", None)
    assert call(made, "--render") == 0
    assert contents(made / "results") == before


def test_render_without_evidence_shows_rows_not_run(tree, monkeypatch):
    monkeypatch.setattr(runner, "train", None)
    assert call(tree, "--render") == 0
    assert {row["status"] for name, row in table(tree).items() if name.startswith("own")} == {"not-run"}


def test_every_seed_is_a_run_and_repeated_ones_count_once(made):
    assert call(made, "--rows", "cifar10-t6", "--seeds", 0, 1, 1) == 0
    row = table(made)["own 6"]
    found = [json.loads(path.read_text()) for path in evidence_file(made, "cifar10_t6").parent.glob("seed*.json")]
    assert sorted(evidence["seed"] for evidence in found) == [0, 1]
    assert row["n_seeds"] == "2"
    assert row["ours_mean"] == f"{sum(evidence['accuracy_last'] for evidence in found) / 2:.2f}"


def test_beforehand_it_says_how_long_the_runs_took_where_they_were_made(made, capsys):
    (made / "reproductions/measured").mkdir()
    (made / "results/evidence").rename(made / "reproductions/measured/evidence")
    assert call(made, "--rows", "cifar10-t6", "dvs-t10") == 0
    said = capsys.readouterr().out.splitlines()[0]
    assert re.fullmatch(r"3 runs to make: 2 took \d\d:\d\d before on .* CPU, \d+ threads; 1 not timed before", said)


def made_runs(results):
    """(recipe, seed) of every piece of evidence."""
    found = [json.loads(path.read_text()) for path in (results / "evidence").rglob("seed*.json")]
    return sorted((evidence["recipe_name"].removeprefix("dspike/"), evidence["seed"]) for evidence in found)


def test_shards_share_one_folder_and_no_run(tree):
    assert call(tree, "--shard", "1/2") == 0
    assert made_runs(tree / "results") == [("cifar10_ann", 0), ("cifar10_t4", 0), ("cifar10_t6", 0)]
    assert table(tree)["own 10"]["status"] == "not-run"
    assert call(tree, "--shard", "2/2") == 0
    assert made_runs(tree / "results")[-1] == ("cifar10dvs_t10", 0)
    assert {row["status"] for name, row in table(tree).items() if name.startswith("own")} == {"stand-in"}


def test_jobs_make_what_one_process_makes(tree, finished, capsys):
    assert call(tree, "--rows", "cifar10-t6", "dvs-t10", "--jobs", "2") == 0
    assert made_runs(tree / "results") == [("cifar10_ann", 0), ("cifar10_t6", 0), ("cifar10dvs_t10", 0)]
    out = capsys.readouterr().out
    assert all(f"dspike/{name}, seed 0: " in out for name in ("cifar10_ann", "cifar10_t6", "cifar10dvs_t10"))
    ours, theirs = (json.loads(evidence_file(place, "cifar10_t6").read_text()) for place in (tree, finished))
    assert ours["key"] == theirs["key"]
    assert [epoch["samples"] for epoch in ours["history"]] == [epoch["samples"] for epoch in theirs["history"]]


def test_how_many_runs_are_made_at_a_time_is_chosen_by_the_machine_and_said_once(tree, finished, monkeypatch, capsys):
    monkeypatch.setattr(runner.joblib, "cpu_count", lambda: 2)
    monkeypatch.setattr(sys, "argv", [SCRIPT, "--rows", "cifar10-t6", "dvs-t10"])
    monkeypatch.chdir(tree)
    assert main(str(tree / "reproductions" / SCRIPT)) == 0
    out = capsys.readouterr().out
    assert out.splitlines().count("2 runs at a time, each with 1 thread") == 1
    assert numbers(tree / "results")["dspike/cifar10_t6"] == numbers(finished / "results")["dspike/cifar10_t6"]
    assert call(tree, "--rows", "cifar10-t6", "dvs-t10") == 0
    assert "at a time" not in capsys.readouterr().out  # nothing is left to make


@pytest.mark.parametrize("option", ["--threads", "--jobs", "--workers", "--seeds", "--epochs"])
def test_what_is_no_number_is_said_in_words(tree, capsys, option):
    assert call(tree, option, "two") == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"{SCRIPT}: error: argument {option}: 'two' is no whole number"


def test_no_threads_are_refused(tree, capsys):
    assert call(tree, "--threads", "0") == 2
    assert "0 processes or threads make no run; give 1 or more" in capsys.readouterr().err


def test_bad_input_in_a_job_is_one_sentence(tree, capsys):
    folder = tree / "results/evidence" / load_run("dspike/cifar10dvs_t10", "embedded", tree / "recipes").key[:16]
    folder.parent.mkdir(parents=True)
    folder.touch()  # where the run's evidence has to go
    assert call(tree, "--rows", "cifar10-t6", "dvs-t10", "--jobs", "2") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(rf"{SCRIPT}: error: cannot write .*/{folder.name}/.*", error)


def test_out_says_where(tree):
    assert call(tree, "--render", "--out", tree / "elsewhere") == 0
    assert (tree / "elsewhere/embedded/table2_dspike/table.csv").exists()
    assert not (tree / "results").exists()


def test_changed_code_makes_evidence_stale(made, monkeypatch):
    monkeypatch.setattr(today, "code_digest", lambda: "f" * 64)
    assert call(made, "--render") == 0
    assert table(made)["own 6"]["status"] == "stand-in"  # it does the same
    monkeypatch.setattr(today, "_probe", lambda plugins, record, run: {"name": "another"})
    monkeypatch.setattr(today.Today, "_kept", lambda *_: None)
    assert call(made, "--render") == 0
    row = table(made)["own 6"]
    assert (row["status"], row["note"]) == ("stale", "stale: name: dspike/cifar10_t6, now another")


def test_real_data_is_trained_on_and_not_called_a_stand_in(tree, capsys):
    root = image_folder(tree / "data")
    assert call(tree, "--profile", "small", "--data-root", root, "--rows", "cifar10-t6") == 0
    evidence = json.loads(evidence_file(tree, "cifar10_t6").read_text())
    assert (evidence["dataset"]["name"], evidence["dataset"]["train_examples"]) == ("cifar10", 20)
    assert (evidence["profile"], table(tree, "small")["own 6"]["status"]) == ("small", "partial")
    assert "stand-in" not in capsys.readouterr().out


def test_epochs_are_in_the_evidence_and_the_view_is_partial(tree):
    root = image_folder(tree / "data")
    batch = "data: {batch_size: 10}\n    model: {width: 1}\n    temperature_search: {batch_size: 2}\n    schedule"
    profiles = tree / "recipes/dspike/profiles.yaml"
    profiles.write_text(profiles.read_text().replace("schedule", batch, 1))  # for time: gpu's own is the paper's net
    options = ("--profile", "gpu", "--data-root", root, "--rows", "cifar10-t6")
    assert call(tree, *options, "--epochs", 2) == 0
    (evidence,) = (
        e for e in map(json.loads, map(Path.read_text, (tree / "results/evidence").rglob("seed0*.json"))) if e["parent"]
    )
    assert (evidence["profile"], evidence["recipe"]["schedule"]["epochs"], evidence["epochs_completed"]) == (
        "gpu",
        2,
        2,
    )
    assert evidence["recipe"]["parent"]["schedule"]["epochs"] == 1
    assert table(tree, "gpu")["own 6"]["status"] == "partial"
    assert call(tree, *options, "--render") == 0
    assert table(tree, "gpu")["own 6"]["status"] == "not-run"  # of one epoch, which the profile states


def test_list_prints_the_own_rows_and_writes_nothing(tree, capsys):
    assert call(tree, "--list") == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == [*CHAIN, "dvs-t10"]
    assert not (tree / "results").exists()


def test_the_real_table_lists_its_eight_rows(capsys, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [SCRIPT, "--list"])
        patch.chdir(tmp_path)
        assert main(str(REPOSITORY / "reproductions" / SCRIPT)) == 0
    out = capsys.readouterr().out
    assert [int(t) for t in re.findall(r"T = (\d+)", out)] == [6, 4, 2, 2, 6, 4, 2, 10]


def test_help_names_every_option(tree, capsys):
    assert call(tree, "--help") == 0
    out = capsys.readouterr().out
    options = ("profile", "data-root", "rows", "epochs", "seeds", "device", "out", "render", "list", "help")
    assert [option for option in options if f"--{option}" not in out] == []


# --- What it refuses ---------------------------------------------------------------------------------------------

SMALL = ("--profile", "small", "--rows", "cifar10-t6")


def unknown_key(tree):
    edit(tree, "cifar10_t4", "optimizer", learningrate=0.1)
    return (), r"cifar10_t4.yaml: unknown key 'optimizer.learningrate'"


def unknown_key_of_a_row_not_asked_for(tree):
    edit(tree, "cifar10dvs_t10", "data", batchsize=3)
    return ("--rows", "cifar10-t6"), r"cifar10dvs_t10.yaml: unknown key 'data.batchsize'"


def no_time_steps(tree):
    edit(tree, "cifar10_t6", "model", time_steps=0)
    return (), r"cifar10_t6.yaml: model: time_steps is 0"


def other_classes(tree):
    edit(tree, "cifar10_t6", "model", num_classes=100)
    return (), r"model.num_classes is 100 and digits has 10"


def unknown_surrogate_parameter(tree):
    edit(tree, "cifar10_t4", "surrogate", parameters={"width": 1.0})
    return ("--rows", "cifar10-t4"), r"surrogate.parameters do not fit dspike"


def a_backend_for_another_device(tree):
    edit(tree, "cifar10_t4", "neuron", backend="cupy")
    return ("--rows", *CHAIN), r"neuron.backend: cupy does not run on cpu"


def missing_recipe(tree):
    (tree / "recipes/dspike/cifar10_ann.yaml").unlink()
    return (), r"cifar10_ann.yaml: No such file"


def missing_claims(tree):
    (tree / "reproductions/claims/table2_dspike.yaml").unlink()
    return (), r"claims/table2_dspike.yaml: No such file"


def no_data_root(tree):
    return SMALL, r"cifar10 is read from disk; say where it lies with --data-root"


def missing_data_root(tree):
    return (*SMALL, "--data-root", tree / "nowhere"), r"nowhere is not a readable folder"


def empty_data_root(tree):
    (tree / "data").mkdir()
    return (*SMALL, "--data-root", tree / "data"), r"is empty"


def another_data_set(tree):
    (tree / "data/cifar-100-python").mkdir(parents=True)
    return (*SMALL, "--data-root", tree / "data"), r"holds the CIFAR-100 batches"


def other_classes_on_disk(tree):
    image_folder(tree / "data", classes=3, per_class=1)
    return (*SMALL, "--data-root", tree / "data"), r"cifar10 has 10 classes, but .* has 3 class folders"


def recordings_still_in_archives(tree):
    (tree / "data").mkdir()
    (tree / "data/airplane.zip").touch()
    options = ("--profile", "small", "--rows", "dvs-t10", "--data-root", tree / "data")
    return options, r"holds the archives only; unpack them with `jellyplus data prepare`"


def unknown_row(tree):
    return (
        "--rows",
        "cifar10-t6",
        "cifar10-t3",
    ), r"there is no row cifar10-t3 that trains; choose from cifar10-t6, cifar10-t4"


def reported_row(tree):
    return ("--rows", "reported-row"), r"there is no row reported-row that trains"


def no_cuda(tree):
    return ("--device", "cuda"), r"torch sees no CUDA device here"


BAD = [
    unknown_key, unknown_key_of_a_row_not_asked_for, no_time_steps, other_classes, unknown_surrogate_parameter,
    a_backend_for_another_device, missing_recipe, missing_claims, no_data_root, missing_data_root, empty_data_root,
    another_data_set, other_classes_on_disk, recordings_still_in_archives, unknown_row, reported_row, no_cuda,
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
def test_bad_input_is_one_sentence_and_exit_code_2_and_writes_nothing(tree, monkeypatch, capsys, bad):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options, reason = bad(tree)
    before = contents(tree)
    assert call(tree, *options) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(rf"{SCRIPT}: error: [^\n]*{reason}[^\n]*\n", captured.err)
    assert captured.out == ""
    assert contents(tree) == before
    assert not (tree / "results").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--seeds", "-1"], "--seeds: -1 is not a seed"),
        (["--seeds", "0", "-3"], "--seeds: -3 is not a seed"),
        (["--seeds", "one"], "--seeds: .*'one'"),
        (["--seeds", "1.5"], "--seeds: .*'1.5'"),
        (["--seeds", str(2**64)], f"--seeds: .*{2**64}"),
        (["--seeds"], "--seeds: expected at least one argument"),
        (["--profile", "tiny"], "--profile: invalid choice: 'tiny'"),
        (["--device", "tpu"], "--device: invalid choice: 'tpu'"),
        (["--epochs", "0"], "--epochs: 0 epochs make no run"),
        (["--layers", "3"], "unrecognized arguments: --layers 3"),
    ],
)
def test_a_malformed_option_is_one_line_below_the_usage(tree, capsys, options, reason):
    assert call(tree, *options) == 2
    captured = capsys.readouterr()
    usage, _, error = captured.err.rstrip("\n").rpartition("\n")
    assert usage.startswith(f"usage: {SCRIPT}")
    assert re.match(rf"{SCRIPT}: error: (argument )?{reason}", error)
    assert captured.out == ""
    assert not (tree / "results").exists()


@pytest.mark.parametrize("option", [(), ("--render",)])
@pytest.mark.parametrize(
    "spoil", [lambda _: b"", lambda text: text[:-40], lambda text: text.replace(b'"seed"', b'"s"')]
)
def test_a_corrupt_evidence_file_is_named_and_left_alone(made, capsys, option, spoil):
    path = evidence_file(made, "cifar10_t6")
    path.write_bytes(spoil(path.read_bytes()))
    before = contents(made)
    assert call(made, "--rows", *CHAIN, *option) == 2
    captured = capsys.readouterr()
    relative = path.relative_to(made)
    assert re.fullmatch(rf"{SCRIPT}: error: [^\n]*{relative} is damaged[^\n]*left alone[^\n]*\n", captured.err)
    assert contents(made) == before


def last_line(err):
    """The last line on a terminal: what follows the last carriage return."""
    return err.rstrip("\n").rpartition("\n")[2].rpartition("\r")[2]


def refused_for_space(tree, capsys, out):
    assert call(tree, "--rows", "cifar10-t6", "--out", out) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(rf"{SCRIPT}: error: cannot write \S*: No space left on device; [^\n]*", last_line(err))
    assert "Traceback" not in err
    assert contents(out) == {}


def test_an_out_that_is_a_file_is_left_alone(tree, capsys):
    (tree / "taken").write_text("mine")
    assert call(tree, "--rows", "cifar10-t6", "--out", "taken") == 2
    assert re.fullmatch(rf"{SCRIPT}: error: --out taken is a file: give a folder", last_line(capsys.readouterr().err))
    assert (tree / "taken").read_text() == "mine"


def test_a_full_disk_is_one_sentence_and_leaves_no_file(tree, monkeypatch, capsys):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused_for_space(tree, capsys, tree / "out")


def test_a_really_full_disk_is_one_sentence_and_leaves_no_file(tree, capsys):
    out = tree / "full"
    out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(out)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        refused_for_space(tree, capsys, out)
    finally:
        subprocess.run(["umount", str(out)], check=True)


# --- As a process ------------------------------------------------------------------------------------------------


def start(tree, *options, **environment):
    command = [sys.executable, str(tree / "reproductions" / SCRIPT), *options]
    listen = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 - a shell's background jobs ignore it
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, **environment}
    return subprocess.Popen(command, cwd=tree, text=True, preexec_fn=listen, env=environment, **pipes)


def test_without_a_compiler_torch_runs_the_neurons_and_it_is_said_once(tree):
    process = start(tree, "--rows", *CHAIN, PATH="", CXX="")
    out, err = process.communicate()
    assert process.returncode == 0, err
    (line,) = [line for line in out.splitlines() if "backend" in line]
    assert line.startswith("neurons run on backend 'torch': cpp cannot run here: no C++ compiler found")
    backends = {
        name: json.loads(evidence_file(tree, name).read_text())["backend"] for name in ("cifar10_ann", "cifar10_t4")
    }
    assert backends == {"cifar10_ann": None, "cifar10_t4": "torch"}


def test_without_a_compiler_a_recipe_that_names_the_compiled_path_is_refused(tree):
    edit(tree, "cifar10_t4", "neuron", backend="cpp")
    before = contents(tree)
    process = start(tree, "--rows", *CHAIN, PATH="", CXX="")
    out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert re.fullmatch(rf"{SCRIPT}: error: neuron.backend: cpp cannot run here: no C\+\+ compiler found[^\n]*\n", err)
    assert contents(tree) == before


def test_bad_input_ends_the_process_with_2_and_nothing_else_on_stderr(tree):
    process = start(tree, "--rows", "cifar10-t3")
    _, err = process.communicate()
    assert process.returncode == 2
    assert re.fullmatch(rf"{SCRIPT}: error: there is no row cifar10-t3 that trains[^\n]*\n", err)


def test_an_interrupted_process_says_so_and_the_same_command_goes_on(tree, monkeypatch, capsys):
    text = PROFILES.replace('  "cifar10dvs_t10":', '  "*_t6":\n    schedule: {epochs: 8}\n  "cifar10dvs_t10":')
    (tree / "recipes/dspike/profiles.yaml").write_text(text)
    assert call(tree, "--rows", "cifar10-t6", "--out", "whole") == 0

    process = start(tree, "--rows", "cifar10-t6")
    deadline = time.monotonic() + 600
    while not has_begun_t6(tree / "results"):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert "Traceback" not in err
    assert process.returncode == 130
    assert last_line(err) == f"{SCRIPT}: interrupted; the same command goes on from the last finished epoch"

    epochs = []
    start_epoch = Classifier.on_train_epoch_start
    monkeypatch.setattr(
        Classifier, "on_train_epoch_start", lambda self: (epochs.append(self.current_epoch), start_epoch(self))[1]
    )
    assert call(tree, "--rows", "cifar10-t6") == 0
    assert epochs == list(range(epochs[0], 8))
    assert epochs[0] > 0
    assert numbers(tree / "results") == numbers(tree / "whole")


def has_begun_t6(results):
    """Whether the ANN is made and an epoch of T = 6 finished."""
    made, begun = ({path.parent for path in results.rglob(pattern)} for pattern in ("seed*.json", "*.partial"))
    return made and begun - made


def numbers(results):
    """Accuracy and losses of every run, by name."""
    found = (json.loads(path.read_text()) for path in (results / "evidence").rglob("seed*.json"))
    keys = ("accuracy", "train_loss", "temperature")
    return {e["recipe_name"]: [[entry.get(key) for key in keys] for entry in e["history"]] for e in found}
