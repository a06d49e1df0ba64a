"""All views of a results folder, from claims and evidence made here: written, compared, missing and orphaned."""

import shutil
from pathlib import Path

import pytest
import yaml
from checkout import PROBE

from jellyplus.__main__ import main
from jellyplus.reproduction import views
from jellyplus.reproduction.source import code_digest
from jellyplus.reproduction.store import Store
from jellyplus.training.recipe_files import load_run

ROOT = Path(__file__).parents[2]
RECIPE = "tdbn/cifar10_resnet19_t2"
ROW = {"dataset": "digits", "method": "m", "kind": "own", "architecture": "n", "timesteps": 2, "paper_std": None}
SERIES = {"label": "Dspike", "measure": "surrogate_primitive"}


@pytest.fixture
def place(tmp_path, make_evidence, monkeypatch):
    """A checkout with a table that is trained, one that is not, a figure of a formula, and one run in ``embedded``."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    claims = tmp_path / "reproductions/claims"
    claims.mkdir(parents=True)
    head = {"title": "t", "paper": "tdbn", "printed_in": "here", "datasets": {"digits": {"train_examples": 1}}}
    head["datasets"]["digits"]["test_examples"] = 1
    trained = ROW | {"id": "a", "paper": 92.34, "recipe": RECIPE, "note": ""}
    (claims / "table1_tdbn.yaml").write_text(yaml.safe_dump(head | {"rows": [trained]}))
    exact = ROW | {"id": "a", "paper": 36, "recipe": RECIPE, "note": "", "quantity": "batch_size"}
    (claims / "table5_tdbn.yaml").write_text(yaml.safe_dump(head | {"rows": [exact]}))
    shutil.copy(ROOT / "reproductions/claims/figure3_dspike.yaml", claims)
    run = load_run(RECIPE, "embedded", tmp_path / "recipes")
    evidence = make_evidence(recipe=run.resolved, profile="embedded", code=code_digest(), accuracy_last=77.25)
    Store(tmp_path / "results/evidence").write(evidence, PROBE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def differences():
    results = Path("results")
    return views.differences(results, views.Plan(Path("reproductions")), views._measurements(results))


def written(place):
    return {
        str(path.relative_to(place / "results")) for path in (place / "results").rglob("*.*") if path.suffix != ".json"
    }


EXPECTED = {
    *(f"embedded/table1_tdbn/table.{kind}" for kind in ("csv", "md", "png")),
    *(f"paper/table5_tdbn/table.{kind}" for kind in ("csv", "md", "png")),
    *(f"paper/figure3_dspike/figure.{kind}" for kind in ("csv", "pdf", "png")),
}


def test_every_view_that_evidence_supports_is_written_and_no_other(place, capsys):
    assert main(["render"]) == 0
    assert written(place) == EXPECTED
    assert ",77.25," in (place / "results/embedded/table1_tdbn/table.csv").read_text()
    assert main(["render", "--check"]) == 0
    assert "is what claims and evidence give" in capsys.readouterr().out


def test_a_check_names_what_is_missing_orphaned_and_changed_and_writes_nothing(place, capsys):
    main(["render"])
    (place / "results/paper/table5_tdbn/table.md").unlink()
    orphan = place / "results/small/table9_tdbn/table.csv"
    orphan.parent.mkdir(parents=True)
    orphan.touch()
    changed = place / "results/embedded/table1_tdbn/table.csv"
    changed.write_text(changed.read_text().replace("77.25", "77.26"))
    before = {path: path.read_bytes() for path in place.rglob("*.*") if path.is_file()}
    capsys.readouterr()
    assert main(["render", "--check"]) == 1
    assert capsys.readouterr().out.splitlines()[:3] == [
        "results/embedded/table1_tdbn/table.csv is not what claims and evidence give: jellyplus render writes it again",
        "results/paper/table5_tdbn/table.md is missing: jellyplus render writes it",
        "results/small/table9_tdbn/table.csv has no claim, or no evidence any more: remove it",
    ]
    assert {path: path.read_bytes() for path in place.rglob("*.*") if path.is_file()} == before


def test_without_its_evidence_a_view_is_orphaned(place):
    main(["render"])
    next((place / "results/evidence").rglob("seed*.json")).unlink()
    assert [sentence.split()[0] for sentence in differences()] == [
        "results/embedded/table1_tdbn/table.csv",
        "results/embedded/table1_tdbn/table.md",
    ]


def test_what_takes_no_run_is_checked_wherever_it_was_written(place):
    main(["render"])
    shutil.copytree(place / "results/paper/table5_tdbn", place / "results/embedded/table5_tdbn")
    sentences = differences()
    assert len(sentences) == 1  # the Markdown names its profile
    assert sentences[0].startswith("results/embedded/table5_tdbn/table.md is not what")


@pytest.mark.parametrize("gone", ["results", "reproductions"])
def test_a_missing_folder_is_one_sentence(place, capsys, gone):
    shutil.rmtree(place / gone)
    assert main(["render"]) == 2
    assert f"there is no folder {gone}" in capsys.readouterr().err
