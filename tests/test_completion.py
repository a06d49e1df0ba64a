"""A shell completes commands, options, their values and files, from what the program prints for it."""

import shutil
import subprocess
import sys

import pytest

from jellyplus.__main__ import main


@pytest.fixture
def script(capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", "bash"])
    assert ended.value.code == 0
    (tmp_path / "script.sh").write_text(capsys.readouterr().out)
    (tmp_path / "recipe-of-mine.yaml").touch()
    return tmp_path / "script.sh"


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tr"], {"train"}),
        (["train", "--prof"], {"--profile"}),
        (["train", "x", "--profile", "e"], {"embedded"}),
        (["train", "recipe-of"], {"recipe-of-mine.yaml"}),
        (["data", "pre"], {"prepare"}),
        (["report", "--out", "recipe-of"], {"recipe-of-mine.yaml"}),
    ],
)
def test_bash_completes(script, words, expected):
    typed = " ".join(f"'{word}'" for word in ["jellyplus", *words])
    ask = f"source {script}; COMP_WORDS=({typed}); COMP_CWORD={len(words)}; _shtab_jellyplus; "
    ask += r'printf "%s\n" "${COMPREPLY[@]}"'
    found = subprocess.run(["bash", "-c", ask], cwd=script.parent, capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) == expected


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_have_a_script_too(shell, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", shell])
    assert ended.value.code == 0
    assert "doctor" in capsys.readouterr().out


def test_the_library_is_named_where_it_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "bash"]) == 2
    assert "needs shtab" in capsys.readouterr().err
