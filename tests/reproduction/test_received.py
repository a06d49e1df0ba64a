"""Folders that others sent: nothing is read or written through a link that leaves them, and no pipe is waited for."""

import csv
import os
import re
import zipfile
from argparse import Namespace
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from checkout import RUN, Checkout, as_of_today

from jellyplus._errors import InputError
from jellyplus._files import below, read_file
from jellyplus._text import csv_cell, markdown_cell
from jellyplus.datasets import archives, command
from jellyplus.datasets.images import read_image
from jellyplus.datasets.npz import read_events_npz
from jellyplus.datasets.survey import Finding, Survey
from jellyplus.reproduction import course, page, views
from jellyplus.reproduction.claims import load_claims
from jellyplus.reproduction.durations import expectation
from jellyplus.reproduction.evidence import Evidence
from jellyplus.reproduction.figure_claims import load_figure
from jellyplus.reproduction.runner import _remove_states
from jellyplus.reproduction.scale import Scale
from jellyplus.reproduction.store import Probe, Store
from jellyplus.training.recipe_files import load_run

SECRET = "secret: of somebody else"
LEAVES = "leads out of"
PIPE = "it is not a file but a pipe or a device"


@pytest.fixture
def checkout(tmp_path, monkeypatch, make_evidence):
    as_of_today(monkeypatch)
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/table.csv").write_text(SECRET)
    (tmp_path / "received").mkdir()
    return Checkout(tmp_path / "received", make_evidence)


@pytest.fixture(autouse=True)
def _nothing_outside_has_changed(tmp_path):
    yield
    for path in (tmp_path / "secret", tmp_path / "elsewhere/table.csv"):
        assert not path.exists() or path.read_text() == SECRET
    assert not (tmp_path / "elsewhere").exists() or os.listdir(tmp_path / "elsewhere") == ["table.csv"]


def render(checkout, check=False):
    views.main(Namespace(out=checkout.results, reproductions=checkout.reproductions, check=check))


def report(checkout):
    page.report(Namespace(root=[checkout.results], reproductions=checkout.reproductions, out=checkout.results))


def replace_by_link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize("link", ["paper/table2_imloss/table.png", "paper/table2_imloss", "paper"])
def test_a_picture_that_leads_out_is_not_put_into_the_page(checkout, link):
    outside = checkout.folder.parent / ("secret" if link.endswith("png") else "elsewhere")
    replace_by_link(checkout.results / link, outside)
    with pytest.raises(InputError, match=rf"table\.png {LEAVES} .*results, to {outside}"):
        report(checkout)
    assert not (checkout.results / "index.html").exists()


def test_a_picture_that_is_a_link_within_the_folder_is_shown(checkout):
    picture = checkout.draw("paper", "table2_imloss")
    picture.rename(checkout.results / "kept.png")
    picture.symlink_to("../../kept.png")
    report(checkout)
    assert "data:image/webp;base64," in (checkout.results / "index.html").read_text()


def test_results_that_are_themselves_a_link_are_the_users_choice(checkout):
    checkout.draw("paper", "table2_imloss")
    moved = checkout.folder.parent / "big_disk"
    checkout.results.rename(moved)
    checkout.results.symlink_to(moved)
    report(checkout)
    render(checkout)
    assert (moved / "paper/table2_imloss/table.csv").exists()


@pytest.mark.parametrize("link", ["paper/table2_imloss", "paper", "embedded/figure3_dspike"])
def test_views_are_not_written_through_a_link(checkout, link):
    replace_by_link(checkout.results / link, checkout.folder.parent / "elsewhere")
    with pytest.raises(InputError, match=LEAVES):
        render(checkout)


def test_views_are_not_compared_through_a_link(checkout):
    render(checkout)
    replace_by_link(checkout.results / "paper/table2_imloss/table.csv", checkout.folder.parent / "elsewhere/table.csv")
    with pytest.raises(InputError, match=LEAVES):
        render(checkout, check=True)


@pytest.mark.parametrize("kind", ["file", "folder", "store"])
def test_evidence_is_not_read_through_a_link(checkout, kind):
    file = checkout.full[0]
    path = {"file": file, "folder": file.parent, "store": file.parents[1]}[kind]
    outside = checkout.folder.parent / "moved"
    path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(InputError, match=LEAVES):
        render(checkout)


def test_nothing_is_deleted_or_kept_behind_a_link(tmp_path):
    store = Store(tmp_path / "results/evidence")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "seed0-a.partial").touch()
    (outside / "seed0-a.json").touch()
    store.root.mkdir(parents=True)
    (store.root / ("k" * 16)).symlink_to(outside)
    for touch in (
        lambda: _remove_states(store),
        lambda: store.checkpoint("k" * 64, 0, "a"),
        lambda: store.state("k" * 64, 0, "a"),
        lambda: store.runs("k" * 64),
    ):
        with pytest.raises(InputError, match=LEAVES):
            touch()
    assert sorted(os.listdir(outside)) == ["seed0-a.json", "seed0-a.partial"]


def test_the_list_of_a_split_is_not_written_behind_a_link(tmp_path):
    store = Store(tmp_path / "results/evidence")
    (tmp_path / "outside").mkdir()
    store.root.mkdir(parents=True)
    (store.root / "splits").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match=LEAVES):
        store.write_manifest({"split": "first900", "train": [], "test": []})


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "imloss", "imloss/../../secret", "a/b/c", "imloss/.x"])
def test_a_claims_recipe_is_a_name(checkout, name):
    table = (checkout.reproductions / "claims/table2_imloss.yaml").read_text()
    checkout.claim("table2_imloss", table.replace(f"recipe: {RUN}", f"recipe: {name}"))
    with pytest.raises(InputError, match=r"recipe of row 'bare' is .*; it must be <paper>/<run>"):
        load_claims(checkout.reproductions / "claims/table2_imloss.yaml")
    figure = (checkout.reproductions / "claims/figure3_dspike.yaml").read_text()
    checkout.claim("figure3_dspike", figure.replace(f"recipe: {RUN}", f"recipe: {name}"))
    with pytest.raises(InputError, match=r"recipe of series 'accuracy' is .*; it must be <paper>/<run>"):
        load_figure(checkout.reproductions / "claims/figure3_dspike.yaml")


@pytest.mark.parametrize("name", [f"{RUN}.yaml", "imloss/profiles.yaml", "imloss"])
def test_a_recipe_that_leads_out_is_not_read(checkout, name):
    path, outside = checkout.folder / "recipes" / name, checkout.folder.parent / "moved"
    path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(InputError, match=LEAVES) as caught:
        load_run(RUN, "paper", checkout.folder / "recipes")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["table2_imloss", "figure3_dspike"])
def test_a_claim_that_leads_out_is_not_read(checkout, name):
    replace_by_link(checkout.reproductions / f"claims/{name}.yaml", checkout.folder.parent / "secret")
    with pytest.raises(InputError, match=LEAVES):
        report(checkout)


def pipe_in_place_of(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def test_pipes_are_refused_by_name_and_not_waited_for(checkout):
    results, recipes = checkout.results, checkout.folder / "recipes"
    for path, use in (
        (checkout.full[0], lambda: render(checkout)),
        (results / "paper/table2_imloss/table.png", lambda: report(checkout)),
        (results / "paper/table2_imloss/table.csv", lambda: render(checkout, check=True)),
        (recipes / f"{RUN}.yaml", lambda: load_run(RUN, "paper", recipes)),
        (recipes / "imloss/profiles.yaml", lambda: load_run(RUN, "paper", recipes)),
        (checkout.reproductions / "claims/table2_imloss.yaml", lambda: report(checkout)),
    ):
        kept = path.read_bytes() if path.exists() else None
        pipe_in_place_of(path)
        with pytest.raises(InputError, match=rf"{path.name}: {PIPE}|{path.name} is damaged .*{PIPE}"):
            use()
        path.unlink()
        if kept is not None:
            path.write_bytes(kept)


def test_a_pipe_for_a_checkpoint_a_state_or_an_image_is_refused(tmp_path):
    store = Store(tmp_path / "evidence")
    for path, use in (
        (store.folder("k" * 64) / "seed0-a.ckpt", lambda: store.checkpoint("k" * 64, 0, "a")),
        (store.folder("k" * 64) / "seed0-a.partial", store.states),
        (tmp_path / "b.png", lambda: read_image(tmp_path / "b.png", "RGB")),
        (tmp_path / "b.png", lambda: read_file(tmp_path / "b.png")),
        (tmp_path / "e.npz", lambda: read_events_npz(tmp_path / "e.npz")),
    ):
        pipe_in_place_of(path)
        with pytest.raises(InputError, match=path.name):
            use()


def test_archives_are_not_unpacked_through_a_link(tmp_path):
    data, outside = tmp_path / "data/CIFAR10DVS", tmp_path / "outside"
    data.mkdir(parents=True)
    outside.mkdir()
    with zipfile.ZipFile(data / "airplane.zip", "w") as file:
        file.writestr("airplane/a.aedat", b"")
    (data / "extract").symlink_to(outside)
    with pytest.raises(InputError, match=LEAVES):
        archives.unpack(data / "airplane.zip", data / "extract/airplane")
    assert not os.listdir(outside)


def test_below_takes_what_stays_inside(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/link").symlink_to("../a")
    (tmp_path / "root").symlink_to("a")
    (tmp_path / "a/circle").symlink_to("circle")
    for path in ("root/none/of/these", "root/link/link", "root/circle", "root"):
        assert below(tmp_path / path, tmp_path / "root") == tmp_path / path
    with pytest.raises(InputError, match=LEAVES):
        below(tmp_path / "root/../other", tmp_path / "root")


# --- What reaches files and terminals ---

EVIL = "\x1b[31m\x9b2J\u202e\n| forged | <script>alert(1)</script>"
TERMINAL = ("\x1b", "\x9b", "\u202e", "\u2028")


@pytest.mark.parametrize(
    "character", ["\x1b", "\x7f", "\x85", "\x9b", "\u061c", "\u200f", "\u2028", "\u202e", "\u2067"]
)
@pytest.mark.parametrize("field", ["device", "commit", "profile", "recipe_name"])
def test_evidence_with_what_moves_a_cursor_or_turns_writing_is_refused(make_evidence, tmp_path, character, field):
    store = Store(tmp_path / "evidence")
    path = store.write(make_evidence(**{field: f"a{character}b"}), Probe(1, "p", {}, {}))
    with pytest.raises(InputError, match=f"key '{field}' is .* write it without control characters") as caught:
        store.read(path, Evidence)
    assert character not in str(caught.value)


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1+1", "\n=1+1", "  =1+1", "＝1+1"])
def test_no_cell_is_a_formula(text):
    cell = csv_cell(text)
    assert cell.startswith(("'", "\\"))
    assert cell.isprintable()


@pytest.mark.parametrize("text", ["tdBN", "-0.35", "+1e-3", "", "a = b", "± 1"])
def test_other_cells_are_as_they_are(text):
    assert csv_cell(text) == markdown_cell(text) == text
    assert csv_cell(2.5) == 2.5


def test_what_evidence_says_of_itself_stays_in_its_cell(checkout):
    rows = len((checkout.reproductions / "claims/table2_imloss.yaml").read_text().split("- {id")) - 1
    checkout.add("embedded", {"im_loss": None}, seed=7, commit="=cmd|'/c calc'!A1\n|x|<b>[a](b)", accuracy_last=70.0)
    render(checkout)
    folder = checkout.results / "embedded/table2_imloss"
    with open(folder / "table.csv", newline="") as file:
        cells = list(csv.DictReader(file))
    commit = next(row["commit"] for row in cells if row["method"] == "Bare")
    assert len(cells) == rows
    assert "\n" not in commit
    text = (folder / "table.md").read_text()
    assert "<b>" not in text
    assert "[a](b)" not in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == (rows + 2) + (1 + 2)  # the paper's table, and that of stand-ins
    for lines in (table[: rows + 2], table[rows + 2 :]):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_a_title_stays_in_its_heading(checkout):
    table = (checkout.reproductions / "claims/table2_imloss.yaml").read_text()
    title = 'title: "IM-Loss, Table 2: a table"'
    checkout.claim("table2_imloss", table.replace(title, 'title: "a\\n\\n| b | <i>"'))
    render(checkout)
    report(checkout)
    assert r"\subsection*{a | b | \textless{}i\textgreater{}}" in (checkout.results / "index.tex").read_text()
    assert (checkout.results / "paper/table2_imloss/table.md").read_text().startswith(r"# a\\n\\n\| b \| &lt;i&gt;")
    assert "<i>" not in (checkout.results / "index.html").read_text()


def test_no_name_of_a_file_moves_the_cursor(checkout, capsys):
    (checkout.reproductions / "claims/table2_imloss.yaml").rename(
        checkout.reproductions / "claims/table2_\x1b[31m\u202e.yaml"
    )
    render(checkout)
    view_folder = checkout.results / "paper/\x9b2J\n"
    view_folder.mkdir(parents=True)
    (view_folder / "table.csv").touch()
    render(checkout, check=True)
    printed = "".join(capsys.readouterr())
    assert r"table2_\x1b[31m\u202e" in printed
    assert r"\x9b2J\n" in printed
    assert not any(character in printed for character in TERMINAL)


def test_a_device_is_printed_before_training_as_text(make_evidence):
    run = SimpleNamespace(key="k")
    store = SimpleNamespace(runs=lambda key: [make_evidence(device=EVIL)])
    said = expectation([(run, 0)], [store])
    assert said.isprintable()
    assert "[31m" in said


def test_names_of_classes_are_printed_as_text_and_of_many_damaged_files_the_first(capsys):
    split = {"train": Counter({EVIL: 2})}
    unreadable = tuple(f"cannot read image {n}" for n in range(200_000))
    survey = Survey("digits", EVIL, (), {"train": 2}, {}, EVIL, {EVIL: "ab"})
    printed = command._report(Finding(survey, split, unreadable))
    assert not any(character in printed for character in TERMINAL)
    assert "\n| forged" not in printed
    assert len(printed) < 5000
    assert "unreadable: 200000\ncannot read image 0\n" in printed
    assert printed.endswith("and 199,980 more")


def test_the_course_of_a_run_holds_no_formula(make_evidence, tmp_path):
    history = ({"epoch": 0, "accuracy": 50.0, "train_loss": 1.0, "=1+1": 2.0},)
    course.write(make_evidence(history=history), Scale(("@x",)), tmp_path)
    assert (tmp_path / "seed0.csv").read_text() == "epoch,accuracy,train_loss,'=1+1,data\n0,50.0,1.0,2.0,'@x\n"
