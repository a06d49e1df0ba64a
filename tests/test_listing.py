"""``jellyplus list`` and ``--help``: everything that is there, with defaults and examples."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from jellyplus import __main__, layer, loss, model, neuron, registry, surrogate
from jellyplus.__main__ import main
from jellyplus._options import add_run_options

ROOT = Path(__file__).parents[1]


@pytest.fixture
def listed(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)

    def call(*words):
        assert main(["list", *words]) == 0
        return capsys.readouterr().out

    return call


def test_every_recipe_is_listed(listed):
    lines = listed("recipes").splitlines()[1:]
    files = [path for path in (ROOT / "recipes").glob("*/*.yaml") if path.name != "profiles.yaml"]
    assert sorted(line.split(":")[0].strip() for line in lines) == sorted(f"{p.parent.name}/{p.stem}" for p in files)
    assert "  tdbn/cifar10_resnet19_t2: cifar10, resnet19, T = 2" in lines


def test_every_method_is_listed_with_what_it_is(listed):
    lines = listed("methods").splitlines()[1:]
    names = {line.split()[1].rstrip(":").removeprefix("jellyplus.") for line in lines}
    nodes = {f"neuron.{name}" for name in ("IterativeLIFNode", "SRIFNode")}
    surrogates = {f"surrogate.{name}" for name in ("Dspike", "EvAF", "Rectangular", "Triangular")}
    norms = {f"layer.ThresholdDependentBatchNorm{d}d" for d in (1, 2, 3)}
    assert nodes | surrogates | norms | {"loss.IMLoss"} <= names
    for name in names:  # each can be had by the name it has there
        module, _, member = name.partition(".")
        assert hasattr({"neuron": neuron, "surrogate": surrogate, "layer": layer, "loss": loss}[module], member)
    assert all(len(line.partition(": ")[2]) > 10 for line in lines)


def test_every_architecture_is_listed_with_its_options(listed):
    lines = listed("architectures").splitlines()[1:]
    assert [line.split("(")[0].strip() for line in lines] == list(model.ARCHITECTURES)
    assert "toy_cnn(input_size=28): " in lines[-1]


def test_all_but_runs_are_listed_without_being_asked_for(listed):
    heads = [line for line in listed().splitlines() if not line.startswith(" ")]
    assert heads == ["recipes:", "methods:", "architectures:"]


def test_what_recipes_name_is_listed_with_where_it_is_from(listed):
    lines = [line.strip() for line in listed("parts").splitlines()[1:]]
    assert {line.partition(":")[0] for line in lines} == {parts.kind for parts in registry.REGISTRIES}
    assert "node: lif, srif (from jellyplus)" in lines


def test_runs_are_listed(listed):
    lines = listed("runs", "--root", "reproductions/measured").splitlines()
    assert any(line.startswith("  dspike/cifar10_t2, embedded, seed 0: 93.06 % on stand-in digits") for line in lines)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["recipes", "--recipes", "none"], "there is no recipe in none"),
        (["runs", "--root", "none"], "there is no folder none/evidence"),
    ],
)
def test_what_is_not_there_is_told(capsys, words, reason):
    assert main(["list", *words]) == 2
    assert reason in capsys.readouterr().err


def test_an_unknown_kind_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["list", "things"])
    assert "'things' cannot be listed; choose from recipes, methods" in capsys.readouterr().err


# --- Help --------------------------------------------------------------------------------------------------------


def commands(parser=None, words=()):
    """Every command without commands of its own, and its parser."""
    parser = parser or __main__._parser()
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested:
        yield " ".join(words), parser
    for name, child in (nested[0].choices if nested else {}).items():
        yield from commands(child, (*words, name))


@pytest.mark.parametrize(("name", "parser"), [*commands()], ids=lambda value: value if isinstance(value, str) else "")
def test_the_examples_of_a_commands_help_are_ones_of_it(name, parser):
    lines = parser.format_help().partition("examples:\n")[2].splitlines()
    assert lines
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "jellyplus"
        assert " ".join(words).startswith(name)
        __main__._parser().parse_args(words)  # ends the process where one is wrong


def test_help_has_the_defaults_that_there_are():
    parser = argparse.ArgumentParser(formatter_class=__main__.Help)
    add_run_options(parser)
    said = re.sub(r"\s+", " ", parser.format_help())
    assert "one run for each (default: 0)" in said
    assert "they decide no number (default: 0)" in said
    assert "paper: as printed (default: embedded)" in said
    assert "None" not in said
    assert "False" not in said
