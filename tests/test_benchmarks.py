"""The benchmark of node and training step runs, and refuses a side that computes something else. No time is tested."""

import importlib
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from jellyplus.neuron import IterativeLIFNode, cpp_backend
from jellyplus.surrogate import Rectangular, Triangular

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPT = BENCHMARKS / "node_and_step.py"


@pytest.fixture
def driver(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("node_and_step")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_has_a_row_for_each_work_and_side(tmp_path, driver):
    output = tmp_path / "table.md"
    command = [sys.executable, SCRIPT, "--tiny", "--repeats", "1", "--allocations", "raised", "--output", output]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    text = output.read_text()
    assert found.stdout == text
    assert "GB/s" in text.splitlines()[1]
    ours = {name for name in driver.available(None)[0] if name.startswith("jellyplus ")}
    works = dict(zip(driver.TITLES.values(), driver.TITLES, strict=True))
    sections = text.split("## ")[1:]
    assert [works[section.splitlines()[0]] for section in sections] == list(driver.WORKS)
    for section in sections:
        head, _, *rows = [cells(line) for line in section.splitlines() if line.startswith("|")]
        rows = [dict(zip(head, row, strict=True)) for row in rows]
        relu = {"ReLU"} if works[section.splitlines()[0]] != "node" else set()
        assert {row["side"] for row in rows} == {*ours, driver.REFERENCE, *relu}
        assert {row["allocation"] for row in rows} == {"raised"}
        assert [row["speed-up"] for row in rows if row["side"] == driver.REFERENCE] == ["1.00"]
        assert all(float(row["median (ms)"]) > 0 and float(row["kept (MiB)"]) >= 0 for row in rows)
    assert "snnTorch Leaky: not installed" in text


def test_a_peer_that_does_not_import_is_an_error(tmp_path, driver, capfd):
    (tmp_path / "snntorch.py").write_text("raise ImportError('half installed')")
    worker = driver.Worker("snnTorch Leaky", "default", tmp_path, tiny=True)
    worker.ask(do="choose", work="node")
    with pytest.raises(RuntimeError, match=r"snnTorch Leaky \(default allocation\) failed"):
        worker.ask(do="prepare")
    worker.close()
    assert "half installed" in capfd.readouterr().err


def in_process(driver, work: str):
    return lambda side, dtype: driver.WORKS[work](driver.SIDES[side].make, dtype, tiny=True, compared=True)()


@pytest.mark.parametrize("work", ["node", "linear-512", "step"])
def test_equal_sides_pass(driver, work):
    driver.assert_equal(["jellyplus torch", driver.REFERENCE], in_process(driver, work))


def node(surrogate: nn.Module | None = None, **changed) -> nn.Module:
    return IterativeLIFNode(step_mode="m", surrogate_function=surrogate or Rectangular(), **changed)


@pytest.mark.parametrize(
    ("change", "tensor"),
    [
        ({"v_threshold": 0.6}, "spikes"),
        ({"decay": 0.3}, "spikes"),
        ({"v_reset": None}, "spikes"),
        ({"surrogate": Triangular()}, "gradient"),
        ({"detach_reset": True}, "gradient"),
    ],
    ids=str,
)
@pytest.mark.parametrize("work", ["node", "linear-512"])
def test_another_neuron_is_caught(driver, monkeypatch, work, change, tensor):
    wrong = driver.SIDES["jellyplus torch"]._replace(make=partial(node, **change))
    monkeypatch.setitem(driver.SIDES, "jellyplus torch", wrong)
    with pytest.raises(AssertionError, match=f"jellyplus torch, compared with SpikingJelly 0.0.0.0.14: {tensor}"):
        driver.assert_equal(["jellyplus torch", driver.REFERENCE], in_process(driver, work))


def test_another_neuron_is_caught_in_the_training_step(driver, monkeypatch):
    wrong = driver.SIDES["jellyplus torch"]._replace(make=partial(node, v_threshold=0.6))
    monkeypatch.setitem(driver.SIDES, "jellyplus torch", wrong)
    with pytest.raises(AssertionError, match="jellyplus torch, compared"):
        driver.assert_equal(["jellyplus torch", driver.REFERENCE], in_process(driver, "step"))


def test_our_compiled_backend_is_compared_with_our_torch_backend(driver, monkeypatch):
    side = driver.SIDES["jellyplus cpp"]
    assert (side.reference, side.dtype) == ("jellyplus torch", torch.float32)
    monkeypatch.setitem(driver.SIDES, "jellyplus cpp", side._replace(make=partial(node, v_threshold=0.6)))
    with pytest.raises(AssertionError, match="jellyplus cpp, compared with jellyplus torch: spikes"):
        driver.assert_equal(["jellyplus cpp"], in_process(driver, "node"))


def test_every_peer_is_compared_in_float64(driver):
    peers = {name: side for name, side in driver.SIDES.items() if side.folder}
    assert len(peers) == 4
    assert {(side.reference, side.dtype) for side in peers.values()} == {(driver.REFERENCE, torch.float64)}


def test_compressed_activations_keep_less(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    activations = importlib.import_module("activations")
    monkeypatch.setattr(activations, "NETWORKS", {"CIFARNet": activations.model.cifarnet})
    monkeypatch.setattr(sys, "argv", ["activations.py", "--width", "4", "--batch", "8", "--repeats", "1"])
    activations.main()
    rows = [cells(line) for line in capsys.readouterr().out.splitlines() if line.startswith("| CIFARNet")]
    plain, compressed, checkpointed = (float(row[2]) for row in rows)
    assert compressed < plain * 0.7
    assert checkpointed < plain * 0.5


@pytest.mark.skipif(cpp_backend.obstacle() is not None, reason=f"backend='cpp' cannot run: {cpp_backend.obstacle()}")
def test_every_size_of_a_block_gives_the_same_bits(monkeypatch, capsys):
    """Which the benchmark asserts before it times."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    block_size = importlib.import_module("block_size")
    monkeypatch.setattr(block_size, "SIZES", (64, 128))
    monkeypatch.setattr(block_size, "SHAPES", ((10, 300),))
    monkeypatch.setattr(sys, "argv", ["block_size.py", "--repeats", "1"])
    block_size.main()
    rows = [cells(line) for line in capsys.readouterr().out.splitlines() if "[10, 300]" in line]
    assert [row[0] for row in rows] == ["Rectangular"] * 2 + ["Dspike"] * 2


@pytest.mark.skipif(cpp_backend.obstacle() is not None, reason=f"backend='cpp' cannot run: {cpp_backend.obstacle()}")
def test_a_norm_and_its_neurons_in_one_pass_keep_less(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark = importlib.import_module("norm_and_node")
    monkeypatch.setattr(benchmark, "LAYERS", ((2, 3, 4, 5, 5),))
    monkeypatch.setattr(benchmark, "WIDTHS", ((8, 4),))
    monkeypatch.setattr(benchmark, "NETWORKS", {"VGG-16": benchmark.model.vgg16_diet})
    monkeypatch.setattr(sys, "argv", ["norm_and_node.py", "--repeats", "1"])
    benchmark.main()
    printed = [cells(line) for line in capsys.readouterr().out.splitlines()]
    layers = [row for row in printed if row[0].startswith("[2,")]
    assert [row[3] for row in layers] == ["apart", "one pass", "ReLU"] * 4
    apart, joined, _ = (float(row[7]) for row in printed if row[0].startswith("VGG"))
    assert joined < 0.8 * apart
