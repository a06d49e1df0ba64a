"""Weights that are kept with the repository: found by name, held to their hash; their cards say what evidence says."""

import hashlib
import json
import os
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

import jellyplus
from jellyplus.__main__ import main
from jellyplus._errors import InputError
from jellyplus.reproduction import published, scale
from jellyplus.reproduction.evidence import Evidence
from jellyplus.reproduction.store import Store

ROOT = Path(__file__).parents[2]
RECIPE = "shortcut/cifar100_resnet18_t2_evolutionary"  # it has branches that inference has not
NAME = "shortcut/tiny-seed0"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a run of a second, its evidence committed, its weights published by the tool."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(ROOT / "recipes" / "shortcut", folder / "recipes" / "shortcut")
    tiny = "data: {dataset: digit_pairs, batch_size: 500, augmentation: []}, model: {width: 1}, schedule: {epochs: 1}"
    (folder / "recipes" / "shortcut" / "profiles.yaml").write_text(f'paper: {{}}\nsmoke:\n  "*": {{{tiny}}}\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", f"recipes/{RECIPE}.yaml", "--profile", "smoke"]) == 0
        shutil.copytree("results/evidence", "reproductions/measured/evidence", ignore=shutil.ignore_patterns("*.ckpt"))
        (checkpoint,) = Path("results").glob("evidence/*/seed0-*.ckpt")
        assert tool(patch, NAME, str(checkpoint)) == 0
    return folder


def tool(patch, *words):
    patch.setattr(sys, "argv", ["publish_weights.py", *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "tools" / "publish_weights.py"), run_name="__main__")
    return ended.value.code


@pytest.fixture
def tree(made, tmp_path, monkeypatch):
    """A copy that may be spoiled, as the current folder."""
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def files():
    return [published.FOLDER / f"{NAME}.safetensors", published.FOLDER / "weights.json"]


def test_published_weights_are_the_checkpoints(tree):
    ours, trained = jellyplus.load(NAME), jellyplus.load(RECIPE)
    assert ours.evidence == trained.evidence
    x = torch.rand(1, 3, *trained.transform(torch.zeros(1, 3, 16, 16, dtype=torch.uint8)).shape[2:])
    assert torch.equal(ours.network(x), trained.network(x))
    assert not any("shortcuts" in name for name in ours.network.state_dict())


def test_a_card_tells_stand_ins_and_methods(tree):
    (committed,) = Path("reproductions").glob("measured/evidence/*/seed0-*.json")
    evidence = Store(committed.parent.parent).read(committed, Evidence)
    lines = published.card(NAME, evidence).splitlines()
    assert "| methods | shortcut |" in lines
    assert any(line.startswith("| trained on | stand-in digit_pairs, ") for line in lines)
    assert any(line.startswith("| parts | neuron lif, norm ") for line in lines)


def test_the_card_of_an_ann_has_relus():
    files = (ROOT / "reproductions/measured/evidence").glob("*/seed*.json")
    path = next(path for path in files if json.loads(path.read_text())["recipe"]["neuron"] is None)
    evidence = Store(path.parent.parent).read(path, Evidence)
    assert "| parts | neuron ReLU, norm bn |" in published.card("some/ann", evidence).splitlines()


def test_they_can_be_compared(tree, capsys):
    assert main(["compare", NAME, "--root", "results"]) == 0
    assert RECIPE in capsys.readouterr().out


def test_another_file_is_refused(tree):
    file = files()[0]
    weights = safetensors.torch.load_file(file)
    weights["fc.weight"] += 1e-3
    safetensors.torch.save_file(weights, file)
    with pytest.raises(InputError, match=r"not the file that weights\.json has the SHA-256 of"):
        jellyplus.load(NAME)


def test_what_is_no_weights_is_refused_although_its_hash_fits(tree):
    file, listed = files()
    file.write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    entries = json.loads(listed.read_text())
    entries[NAME]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    listed.write_text(json.dumps(entries))
    with pytest.raises(InputError, match="holds no weights"):
        jellyplus.load(NAME)


def test_missing_weights_are_said_to_be_missing(tree):
    files()[0].unlink()
    with pytest.raises(InputError, match=f"the weights {NAME} are not there"):
        jellyplus.load(NAME)


@pytest.mark.parametrize("content", ["", "[]", '{"a/b": 3}', '{"a/b": {"evidence": "x"}}', "[" * 10**5])
def test_a_damaged_list_is_refused(tree, content):
    files()[1].write_text(content)
    with pytest.raises(InputError, match=r"weights\.json is damaged"):
        jellyplus.load(NAME)


def test_no_list_leads_out_of_its_folder(tree):
    listed = files()[1]
    entry = json.loads(listed.read_text())[NAME]
    outside = {"../../../x": entry, "a/b": entry | {"evidence": "../../etc/seed0-x.json"}}
    listed.write_text(json.dumps(outside))
    for name in outside:
        with pytest.raises(InputError, match="leads out of"):
            published.find(name)


def test_only_the_weights_of_committed_evidence_are_published(tree, monkeypatch, capsys):
    (committed,) = Path("reproductions").glob("measured/evidence/*/seed0-*.json")
    committed.unlink()
    (checkpoint,) = Path("results").glob("evidence/*/seed0-*.ckpt")
    before = {file: file.read_bytes() for file in files()}
    assert tool(monkeypatch, "shortcut/other-seed0", os.fspath(checkpoint)) == 2
    assert "commit that first" in capsys.readouterr().err
    assert before == {file: file.read_bytes() for file in files()}
    assert len(list(published.FOLDER.rglob("*.safetensors"))) == 1


def test_a_second_one_is_added(tree, monkeypatch):
    (checkpoint,) = Path("results").glob("evidence/*/seed0-*.ckpt")
    assert tool(monkeypatch, "shortcut/other-seed0", os.fspath(checkpoint)) == 0
    assert list(json.loads(files()[1].read_text())) == ["shortcut/other-seed0", NAME]


# --- What is committed -------------------------------------------------------------------------------------------

COMMITTED = ROOT / published.FOLDER
NAMES = sorted(json.loads((COMMITTED / "weights.json").read_text()))


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_network_loads_and_its_card_is_its_evidences(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = published.find(name)
    evidence = Store(found.evidence.parent.parent).read(found.evidence, Evidence)
    assert found.file.with_suffix(".md").read_text() == published.card(name, evidence)
    run = jellyplus.load(name)
    image = torch.zeros(1, run.recipe.model.in_channels, *[scale.side(run.recipe)] * 2, dtype=torch.uint8)
    outputs = run.network(run.transform(image))
    assert outputs.shape == (run.recipe.model.time_steps, 1, run.recipe.model.num_classes)
    assert outputs.isfinite().all()


def test_all_that_is_committed_is_listed_and_small():
    kept = {path.relative_to(COMMITTED).with_suffix("").as_posix() for path in COMMITTED.glob("*/*")}
    assert kept == {*NAMES}
    assert sum(path.stat().st_size for path in COMMITTED.rglob("*")) < 20e6
