"""The command that runs every script in small: what fails is seen, with what it said."""

import sys
from pathlib import Path

import pytest
import smoke

ROOT = Path(__file__).parents[1]


@pytest.fixture
def scripts(monkeypatch, tmp_path):
    """Its scripts are the test's own, one paper's."""
    for folder in ("recipes/own", "reproductions"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(smoke, "ROOT", tmp_path)
    monkeypatch.setattr(smoke, "SCRIPTS", tmp_path / "reproductions")
    return tmp_path / "reproductions"


WRITES = """
import sys
from pathlib import Path
folder = Path(sys.argv[-1]) / "table"
folder.mkdir()
(folder / "table.csv").write_text({text!r})
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (WRITES.format(text="row,status\na,stand-in\n"), (0, "1 tables and figures went through")),
        (WRITES.format(text="row,status\na,not-run\n"), (1, "table.csv: a row was not run")),
        ("print('said before'); 1 / 0", (1, "table1_own.py ended with 1\nsaid before")),
        ("import sys; sys.exit(3)", (1, "table1_own.py ended with 3")),
        ("import sys; sys.exit('no data')", (1, "table1_own.py ended with 1\nno data")),
    ],
)
def test_what_fails_is_seen(scripts, monkeypatch, tmp_path, capsys, text, expected):
    (scripts / "table1_own.py").write_text(text)
    monkeypatch.setattr(sys, "argv", ["smoke.py", str(tmp_path / "out")])
    status = smoke.main()
    out = capsys.readouterr().out
    assert (status, expected[1] in out) == (expected[0], True), out
    assert ("ZeroDivisionError" in out) == ("1 / 0" in text)


def test_every_script_is_of_a_paper():
    papers = [path.name for path in (ROOT / "recipes").iterdir()]
    scripts = [script for paper in papers for script in smoke.scripts_of(paper)]
    assert sorted(scripts) == sorted((ROOT / "reproductions").glob("*.py"))
