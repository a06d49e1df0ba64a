"""The examples do what they say, in the lines that they promise."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from jellyplus import functional

EXAMPLES = Path(__file__).parents[1] / "examples"
SPEC = importlib.util.spec_from_file_location("own_network", EXAMPLES / "own_network.py")
own_network = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(own_network)

digits = own_network.digits


def few(images=128):
    x, y, held_out, labels = digits()
    return x[:images], y[:images], held_out[:64], labels[:64]


def test_the_digits_are_all_there():
    x, y, held_out, labels = digits()
    assert (len(x), len(held_out)) == (len(y), len(labels)) == (1437, 360)
    assert sorted(labels.unique().tolist()) == list(range(10))
    assert 0 == x.min() < x.max() == 1


@pytest.mark.parametrize("name", own_network.METHODS)
def test_each_method_takes_three_lines_and_trains(name, monkeypatch):
    source = ast.parse((EXAMPLES / "own_network.py").read_text())
    (function,) = (part for part in source.body if isinstance(part, ast.FunctionDef) and part.name == name)
    assert len(function.body) - 1 <= 3  # without the docstring, and with the return
    assert all(statement.end_lineno == statement.lineno for statement in function.body)

    searched = []
    search = functional.search_temperature
    monkeypatch.setattr(functional, "search_temperature", lambda *a: searched.append(search(*a)) or searched[-1])
    monkeypatch.setattr(own_network, "BATCH", 16)
    torch.manual_seed(0)
    x, y, held_out, labels = few()
    net, calls = own_network.METHODS[name](x, y, 2)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    own_network.train(net.train(), x, y, 2, **calls)
    after = net.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {"conv.weight", "block2.conv2.weight", "classifier.weight"} <= changed
    assert 0 <= own_network.accuracy(net, held_out, labels) <= 100
    if name == "dspike":
        assert len(searched) == 2
        assert net.lif.surrogate_function.temperature.item() == pytest.approx(searched[-1].temperature)
    if name == "esg":
        assert net.block1.lif2.surrogate_function.k == pytest.approx(functional.evaf_k(1, 2))
    if name == "im_loss":
        assert list(calls["term"].nodes) == ["lif", "block1.lif2", "block2.lif2"]
    if name == "shortcut":
        assert net.shortcuts.weight == 0
        assert {"shortcuts.branches.0.2.weight", "shortcuts.branches.1.2.weight"} <= changed


def test_the_table_has_a_row_for_each_method(monkeypatch, capsys):
    monkeypatch.setattr(own_network, "digits", few)
    monkeypatch.setattr(sys, "argv", ["own_network.py", "--epochs", "1", "--methods", "plain", "inflor", "shortcut"])
    own_network.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert rows == ["method", "plain", "inflor", "shortcut"]
