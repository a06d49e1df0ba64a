"""The benchmark of finite differences runs, and refuses a way that computes something else. No time is tested."""

import importlib
import re
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("finite_differences")


def test_the_table_has_a_row_for_each_way(benchmark):
    text = benchmark.report(examples=4, repeats=1)
    rows = re.findall(r"^\| (.+?) +\| ([\d.]+) +\| ([\d.]+) +\|$", text, re.M)
    assert [name for name, _, _ in rows] == list(benchmark.WAYS)
    assert rows[0][2] == "1.0"
    assert all(float(seconds) > 0 for _, seconds, _ in rows)


def test_a_way_that_computes_something_else_is_caught(benchmark, monkeypatch):
    x = torch.rand(1, 4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    benchmark.check(x)
    off = (lambda net, x: 1.001 * benchmark.together(net, x), torch.contiguous_format)
    monkeypatch.setitem(benchmark.WAYS, "finite_difference_gradient", off)
    with pytest.raises(AssertionError):
        benchmark.check(x)
