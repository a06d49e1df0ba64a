"""The adapter of examples/neurobench_adapter.py, in NeuroBench's harness where it is installed, and without it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from spikingjelly.activation_based import layer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from jellyplus import functional
from jellyplus.neuron import IterativeLIFNode, Node, SRIFNode
from jellyplus.op_counter import Convention, OperationCounter

N, T = 6, 3


def adapter():
    path = Path(__file__).parents[1] / "examples" / "neurobench_adapter.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.JellyplusModel


def network():
    """On pictures of numbers, [T, N, 1, 8, 8]."""
    torch.manual_seed(0)
    parts = (
        *(layer.Conv2d(1, 4, 3, padding=1), IterativeLIFNode()),
        *(layer.Conv2d(4, 5, 3, stride=2, padding=1), SRIFNode()),
        *(layer.Flatten(), layer.Linear(80, 10)),
    )
    net = nn.Sequential(*parts)
    functional.set_step_mode(net, "m")
    return net, 2 * torch.randn(N, T, 1, 8, 8)


class TorchModel:
    """What the adapter needs of NeuroBench's class of this name."""

    def __init__(self, net):
        self.net, self.activation_modules = net.eval(), []

    def add_activation_module(self, module):
        self.activation_modules.append(module)


def test_every_batch_starts_from_a_reset_and_has_the_examples_first(monkeypatch):
    models = ModuleType("neurobench.models")
    models.TorchModel = TorchModel
    monkeypatch.setitem(sys.modules, "neurobench", ModuleType("neurobench"))
    monkeypatch.setitem(sys.modules, "neurobench.models", models)
    net, x = network()
    model = adapter()(net)
    assert model.activation_modules == [Node]
    functional.reset_net(net)
    expected = net(x.transpose(0, 1))
    for _ in range(2):
        output = model(x)
        assert output.shape == (N, T, 10)
        for example, steps in enumerate(output):
            torch.testing.assert_close(steps, expected[:, example])


def test_the_harness_counts_what_our_counter_counts():
    benchmarks = pytest.importorskip("neurobench.benchmarks")
    metrics = pytest.importorskip("neurobench.metrics.workload")
    net, x = network()
    labels = torch.arange(N)
    harness = benchmarks.Benchmark(
        adapter()(net),
        DataLoader(TensorDataset(x, labels), batch_size=2),
        [],
        [lambda outputs: outputs.mean(1).argmax(-1)],
        [[], [metrics.SynapticOperations, metrics.ActivationSparsity, metrics.ClassificationAccuracy]],
    )
    found = harness.run(quiet=True)
    functional.reset_net(net)
    with torch.no_grad(), OperationCounter(net) as counter:
        outputs = net(x.transpose(0, 1))
    count = counter.count(convention=Convention(padded_taps=False))
    additions = sum(row.additions for row in count.layers if not row.multiplications)
    assert additions > 0
    assert found["SynapticOperations"] == pytest.approx(
        {"Effective_MACs": count.total.multiplications, "Effective_ACs": additions, "Dense": count.total.macs}
    )
    assert found["ActivationSparsity"] == pytest.approx(1 - count.firing_rate)
    assert found["ClassificationAccuracy"] == pytest.approx((outputs.mean(0).argmax(-1) == labels).float().mean())
