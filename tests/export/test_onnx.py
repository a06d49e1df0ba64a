"""A network's ONNX file, run by onnxruntime, beside the network."""

import sys

import onnxruntime
import pytest
import torch
from spikingjelly.activation_based import functional as sj_functional
from spikingjelly.activation_based import layer as sj_layer
from spikingjelly.activation_based import neuron as sj_neuron
from torch import nn

from jellyplus.export import to_onnx
from jellyplus.functional import fuse_norms
from jellyplus.layer import ThresholdDependentBatchNorm2d
from jellyplus.model import resnet20
from jellyplus.neuron import IterativeLIFNode, SRIFNode
from jellyplus.surrogate import Dspike

NODES = {
    "iterative LIF": IterativeLIFNode(surrogate_function=Dspike(3.0), step_mode="m"),
    "strict, reset to 0.1": IterativeLIFNode(0.6, 0.4, 0.1, step_mode="m", strict=True),
    "soft reset": IterativeLIFNode(v_reset=None, step_mode="m", backend="torch"),
    "SRIF with MPR": SRIFNode(step_mode="m"),
    "SpikingJelly's LIF": sj_neuron.LIFNode(tau=1.5, v_threshold=0.3, step_mode="m"),
}


class AllNodes(nn.Module):
    """Each kind of node behind the same layers; their spikes side by side."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            sj_layer.Conv2d(2, 4, 3, padding=1, bias=False, step_mode="m"),
            ThresholdDependentBatchNorm2d(1.0, 0.5, 4),
            sj_layer.MaxPool2d(2, step_mode="m"),
            sj_layer.SeqToANNContainer(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6, momentum=1.0)),
        )
        self.nodes = nn.ModuleList(NODES.values())

    def forward(self, x):
        x = self.layers(x)
        return torch.stack([node(x) for node in self.nodes])


def settled(net, x):
    for _ in range(5):
        sj_functional.reset_net(net.train())
        net(x)
    sj_functional.reset_net(net)
    return net.eval()


def run(path, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    (y,) = onnxruntime.InferenceSession(path, options).run(["y"], {"x": x.numpy()})
    return torch.from_numpy(y)


def outputs(net, x):
    sj_functional.reset_net(net)
    with torch.no_grad():
        return net(x)


@pytest.fixture(scope="module")
def all_nodes(tmp_path_factory):
    """The network, its input, and its file."""
    torch.manual_seed(1)
    x = torch.randn(5, 4, 2, 8, 8)
    net = settled(AllNodes(), x)
    net.train()(x)
    potentials = [node.v for node in net.nodes]
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    to_onnx(net, x, path)
    assert net.training
    assert all(node.v is potential for node, potential in zip(net.nodes, potentials, strict=True))
    assert net.nodes[2].backend == "torch"
    return net.eval(), x, path


@pytest.mark.parametrize("kind", NODES)
def test_spikes_are_the_networks(kind, all_nodes):
    net, x, path = all_nodes
    node = list(NODES).index(kind)
    expected, actual = outputs(net, x)[node], run(path, x)[node]
    assert 0.02 < expected.mean() < 0.98
    assert (actual != expected).double().mean() < 0.002  # within rounding of the threshold


def test_an_architecture_takes_batches_of_any_size_and_carries_nothing_on(tmp_path):
    torch.manual_seed(2)
    net = settled(resnet20(5, 2, width=2, time_steps=3, blocks=(1, 1)), torch.randn(1, 8, 2, 16, 16))
    to_onnx(fuse_norms(net), torch.randn(1, 1, 2, 16, 16), tmp_path / "net.onnx")
    for batch in (1, 7, 7):
        x = torch.randn(1, batch, 2, 16, 16)
        torch.testing.assert_close(run(tmp_path / "net.onnx", x), outputs(net, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("library", ["onnx", "onnxscript"])
def test_the_extra_is_named(library, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=r'pip install -e "\.\[onnx\]"'):
        to_onnx(nn.Linear(2, 2), torch.rand(5, 4, 2), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
