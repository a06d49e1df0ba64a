"""What the documentation makes when it is built: pictures by the package, tables from the committed views."""

import re
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
VIEWS = ROOT / "reproductions" / "measured"


@pytest.fixture
def of_docs(monkeypatch):
    """Imports one of the modules beside ``docs/conf.py``."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    yield lambda name: __import__(name)
    for name in ("measured", "pictures"):
        sys.modules.pop(name, None)


def test_every_picture_that_a_page_shows_is_drawn_and_the_same_each_time(of_docs, tmp_path):
    pictures = of_docs("pictures")
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        pictures.draw_all(folder)
    drawn = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert drawn == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "methods").glob("*.md"))
    assert set(re.findall(r"_generated/(\w+\.svg)", pages)) == set(drawn)


@pytest.fixture
def pages(of_docs, tmp_path):
    of_docs("measured").write_all(VIEWS, tmp_path)
    return {path.stem.partition("-")[2]: path.read_text() for path in tmp_path.iterdir()}


def test_every_view_has_a_part(pages):
    profiles = {path.name for path in VIEWS.iterdir() if path.is_dir()} - {"evidence"}
    assert set(pages) == profiles
    for profile, text in pages.items():
        assert text.count("### ") == len(list((VIEWS / profile).iterdir()))


def test_our_numbers_are_those_of_the_views(pages):
    """And those of rows without a number of ours are not shown."""
    for table in VIEWS.glob("*/*/table.csv"):
        frame = pd.read_csv(table, dtype=str, keep_default_na=False)
        number, said = ("ours_mean", "status") if "ours_mean" in frame else ("accuracy", "verdict")
        ours = frame[frame[number] != ""]
        rows = [line for line in pages[table.parents[1].name].splitlines() if line.startswith("| ")]
        for value, word in zip(ours[number], ours[said], strict=True):
            cells = [value.replace("|", r"\|"), word]
            assert any(all(f" {cell} " in row for cell in cells) for row in rows), (table, cells)


def test_stand_ins_are_not_shown_beside_the_papers_numbers(pages):
    headings = [line for line in pages["embedded"].splitlines() if "ours_mean" in line]
    assert headings
    assert not any(re.search(r"\| (paper|dataset) ", line) for line in headings)
