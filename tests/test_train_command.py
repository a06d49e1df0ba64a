"""``jellyplus train`` makes one recipe's run, shows its course, and answers bad input in one sentence."""

import csv
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from jellyplus.__main__ import main
from jellyplus.reproduction import course, runner

RECIPES = Path(__file__).parents[1] / "recipes"
PROFILE = """
paper: {}
embedded:
  "*":
    data: {dataset: digits, batch_size: 400, augmentation: []}
    model: {width: 2}
    schedule: {epochs: 2}
"""


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A copy of a paper's recipes with a tiny profile, as the current folder."""
    shutil.copytree(RECIPES / "imloss", tmp_path / "recipes/imloss")
    (tmp_path / "recipes/imloss/profiles.yaml").write_text(PROFILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


NAME = "recipes/imloss/cifar10_resnet19_t4.yaml"


def call(*words):
    return main(["train", *words])


def test_a_recipe_is_trained_and_its_course_written(tree, capsys):
    assert call(NAME, "--profile", "embedded", "--seeds", "0", "1") == 0
    folder = tree / "results/embedded/imloss/cifar10_resnet19_t4"
    assert {path.name for path in folder.iterdir()} == {"seed0.csv", "seed0.png", "seed1.csv", "seed1.png"}
    assert (folder / "seed0.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((folder / "seed0.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert [float(row["k"]) for row in rows] == pytest.approx([1.0, 10**0.5])  # Eq. 15 with N = 2
    assert all(float(row["im_loss"]) > 0 for row in rows)
    out = capsys.readouterr().out
    assert "seed 0: " in out
    told = "stand-in: digits, 16x16, width 2, 1,437 images, 2 of 100 epochs"
    assert f"{told}; seed 0: " in out
    assert "stand-in digits, 16x16, width 2: imloss/cifar10_resnet19_t4, seed 0: " in out
    assert {row["data"] for row in rows} == {told}
    assert "uJ an inference" in out
    assert "results/embedded/imloss/cifar10_resnet19_t4/seed*.csv" in out


def test_every_panel_of_a_course_tells_that_its_data_are_a_stand_in(tree, monkeypatch):
    marked = []
    real = course.mark_stand_in
    monkeypatch.setattr(course, "mark_stand_in", lambda ax, title: marked.append((ax, title)) or real(ax, title))
    assert call(NAME, "--profile", "embedded") == 0
    assert len(marked) == 4  # accuracy, loss, learning rate, K
    for ax, title in marked:
        assert title.get_text().replace("\N{NO-BREAK SPACE}", " ").startswith("stand-in: digits, 16x16, width 2")
        assert {line.get_markerfacecolor() for line in ax.lines} == {"white"}


def test_a_second_call_trains_nothing_again(tree, monkeypatch, capsys):
    assert call(NAME, "--profile", "embedded") == 0
    first = capsys.readouterr().out.splitlines()[-2:]
    monkeypatch.setattr(runner, "train", lambda *_: pytest.fail("trained again"))
    assert call(NAME, "--profile", "embedded") == 0
    assert capsys.readouterr().out.splitlines()[-2:] == first


def test_the_embedded_profile_is_the_default_as_of_the_scripts(tree):
    assert call(NAME) == 0
    assert [path.name for path in (tree / "results").iterdir() if path.name != "evidence"] == ["embedded"]


def test_a_recipe_without_overlays_is_trained_as_it_is(tree, capsys):
    (tree / "recipes/imloss/profiles.yaml").unlink()
    assert call(NAME) == 2
    assert "cifar10 is read from disk; say where it lies with --data-root" in capsys.readouterr().err


def test_quiet_shows_no_bar_and_prints_the_same(tree, capsys):
    assert call(NAME) == 0
    loud = capsys.readouterr()
    assert "batch" in loud.err
    shutil.rmtree(tree / "results")
    assert call(NAME, "--quiet") == 0
    quiet = capsys.readouterr()
    assert quiet.err == ""
    assert quiet.out.splitlines()[-1] == loud.out.splitlines()[-1]


def _no_such_file(tree):
    return "recipes/imloss/none.yaml", "cannot read"


def _contradiction(tree):
    path = tree / NAME
    values = yaml.safe_load(path.read_text())
    values["surrogate"] = {"name": "rectangular", "parameters": {"width": 1.0}}
    path.write_text(yaml.safe_dump(values))
    return NAME, "cifar10_resnet19_t4.yaml: evolution needs surrogate evaf"


def _no_profiles(tree):
    (tree / "recipes/imloss/profiles.yaml").unlink()
    return NAME, "profiles.yaml"


@pytest.mark.parametrize("spoil", [_no_such_file, _contradiction, _no_profiles])
def test_bad_input_is_one_sentence_and_nothing_is_written(tree, capsys, spoil):
    name, reason = spoil(tree)
    assert call(name, "--profile", "embedded") == 2
    error = capsys.readouterr().err
    assert error.startswith("jellyplus: error: ")
    assert reason in error
    assert error.count("\n") == 1
    assert not (tree / "results").exists()


def test_out_must_be_a_folder(tree, capsys):
    (tree / "file").write_text("")
    assert call(NAME, "--profile", "embedded", "--out", "file") == 2
    assert "--out file is a file: give a folder" in capsys.readouterr().err


def test_the_plugin_alone_says_what_training_needs(tree, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("jellyplus.reproduction")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("jellyplus.reproduction")
    monkeypatch.setitem(sys.modules, "jellyplus.training.recipe", None)
    assert call(NAME, "--profile", "embedded") == 2
    assert 'pip install -e ".[reproduce]" has it' in capsys.readouterr().err
