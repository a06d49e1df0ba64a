"""The benchmark of inference runs, and refuses forms that compute something else. No time is tested."""

import importlib
import re
from pathlib import Path

import pytest
import torch

from jellyplus.layer import ThresholdDependentBatchNorm2d

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def inference(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("inference")
    monkeypatch.setattr(module, "SHAPE", (1, 4, 3, 32, 32))
    return module


def test_the_table_has_a_row_for_each_form_and_the_last_has_no_norm(inference):
    text = inference.report(width=8, repeats=1)
    rows = re.findall(r"^\| (.+?) +\| [\d.]+ +\| [\d.]+ +\| ([\d,]+) +\| (\d+) +\|$", text, re.M)
    assert [name for name, _, _ in rows] == list(inference.FORMS)
    parameters = [int(number.replace(",", "")) for _, number, _ in rows]
    # Branches behind 8, 16 and 32 channels, 100 classes each. Fusing turns lambda and beta, 2 a channel, into 1 bias:
    # stem and 4 convolutions of 8 channels, then 5 (shortcut too) of 16, 32 and 64.
    assert parameters[0] - parameters[1] == 100 * (8 + 16 + 32) + 3 * 100
    assert parameters[1] - parameters[2] == 5 * 8 + 5 * 16 + 5 * 32 + 5 * 64
    assert [norms for _, _, norms in rows] == ["20", "20", "0"]


def test_a_form_that_computes_something_else_is_caught(inference):
    net = inference.network(width=8).double()
    forms = {name: make(net) for name, make in inference.FORMS.items()}
    x = torch.rand(inference.SHAPE, dtype=torch.float64)
    inference.check(forms, x)
    norms = [m for m in forms["branches removed"].modules() if isinstance(m, ThresholdDependentBatchNorm2d)]
    norms[0].alpha = 3.0
    with pytest.raises(AssertionError):
        inference.check(forms, x)
