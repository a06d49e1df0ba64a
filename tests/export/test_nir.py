"""A network's NIR graph, read back from its file: run by NIR's own equations, and by SpikingJelly 2's importer."""

import graphlib
import importlib
import sys
from pathlib import Path

import nir
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional as sj_functional
from spikingjelly.activation_based import layer as sj_layer
from spikingjelly.activation_based import neuron as sj_neuron
from torch import nn

from jellyplus import model
from jellyplus.convert import ScaledInputLIFNode
from jellyplus.export import to_nir
from jellyplus.layer import ThresholdDependentBatchNorm1d
from jellyplus.model import attach_shortcuts, resnet20, resnet20_he
from jellyplus.neuron import IterativeLIFNode, SRIFNode

DT = 1e-3
T, N = 6, 3


class Euler:
    """A graph by NIR's own equations, in float64; it starts at the reset, and fires at the threshold."""

    def __init__(self, graph):
        self.graph = graph
        self.inputs = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}
        self.order = list(graphlib.TopologicalSorter(self.inputs).static_order())
        self.v = {}
        self.spikes = 0.0

    def __call__(self, x):
        values = {}
        for name in self.order:
            node = self.graph.nodes[name]
            total = x.double() if isinstance(node, nir.Input) else sum(values[a] for a in self.inputs[name])
            values[name] = getattr(self, type(node).__name__.lower())(name, node, total)
        return values["output"]

    def input(self, name, node, x):
        assert tuple(node.input_type["input"]) == tuple(x.shape[1:])
        return x

    def output(self, name, node, x):
        assert tuple(node.output_type["output"]) == tuple(x.shape[1:])
        return x

    def linear(self, name, node, x):
        return F.linear(x, tensor(node.weight))

    def affine(self, name, node, x):
        return F.linear(x, tensor(node.weight), tensor(node.bias))

    def conv1d(self, name, node, x):
        return F.conv1d(x, tensor(node.weight), tensor(node.bias), int(node.stride), padding(node), int(node.dilation))

    def conv2d(self, name, node, x):
        stride, dilation = pair(node.stride), pair(node.dilation)
        return F.conv2d(x, tensor(node.weight), tensor(node.bias), stride, padding(node), dilation)

    def avgpool2d(self, name, node, x):
        return F.avg_pool2d(x, pair(node.kernel_size), pair(node.stride), pair(node.padding))

    def flatten(self, name, node, x):
        assert tuple(node.input_type["input"]) == tuple(x.shape[1:])
        start, end = int(node.start_dim), int(node.end_dim)
        return x.flatten(start + 1, end + 1 if end >= 0 else end)

    def lif(self, name, node, x):
        v = self.v.get(name, tensor(node.v_reset))
        slope = (tensor(node.v_leak) - v + tensor(node.r) * x) / tensor(node.tau)
        return self.fire(name, node, v + DT * slope)

    def if_(self, name, node, x):
        return self.fire(name, node, self.v.get(name, tensor(node.v_reset)) + DT * tensor(node.r) * x)

    def fire(self, name, node, v):
        spike = (v > tensor(node.v_threshold) - 1e-12).double()  # where a potential meets it, ours fires
        self.v[name] = torch.where(spike > 0, tensor(node.v_reset), v)
        self.spikes += spike.sum().item()
        return spike


setattr(Euler, "if", Euler.if_)


def tensor(array):
    return torch.from_numpy(np.asarray(array, np.float64))


def pair(value):
    return tuple(int(v) for v in value)


def padding(node):
    value = node.padding
    if isinstance(value, (str, bytes)):
        return value if isinstance(value, str) else value.decode()
    return int(value) if np.ndim(value) == 0 else pair(value)


def from_file(graph, folder):
    nir.write(folder / "net.nir", graph)
    return nir.read(folder / "net.nir")


def settled(net):
    """Weights and running statistics with which neurons fire, in evaluation, at rest, in float64."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.weight.copy_(0.8 + torch.rand(module.weight.shape, generator=generator))
                module.bias.copy_(0.3 + 0.2 * torch.randn(module.bias.shape, generator=generator))
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    return net.double().eval()


def outputs(net, x):
    sj_functional.reset_net(net)
    with torch.no_grad():
        y = net(x) if mode_of(net) == "m" else torch.stack([net(step) for step in x])
    sj_functional.reset_net(net)
    return y


def mode_of(net):
    return next((module.step_mode for module in net.modules() if hasattr(module, "step_mode")), "s")


class Own(nn.Module):
    """Functions in ``forward``, an input that nobody gives, and layers with names of NIR's."""

    def __init__(self):
        super().__init__()
        self.input = sj_layer.Conv2d(2, 4, 3, padding="same", step_mode="s")
        self.flatten = IterativeLIFNode(decay=0.9, v_threshold=0.3)
        self.add = sj_layer.Conv2d(4, 4, 1, bias=False, step_mode="s")
        self.drop = nn.Dropout(0.5)
        self.output = nn.Linear(4 * 8 * 8, 5)

    def forward(self, x, mask=None):
        x = self.flatten(self.input(x))
        x = self.drop(self.add(x) + x)
        return self.output(x.flatten(1))


def sequence():
    return nn.Sequential(
        sj_layer.Conv1d(3, 8, 5, stride=2, padding=1, dilation=2, step_mode="m"),
        sj_neuron.LIFNode(tau=3.0, v_threshold=0.4, v_reset=-0.1, step_mode="m"),
        sj_layer.Flatten(step_mode="m"),
        sj_layer.Linear(8 * 6, 7, bias=False, step_mode="m"),
        ThresholdDependentBatchNorm1d(1.0, 0.5, 7),
        sj_neuron.IFNode(v_threshold=0.6, step_mode="m"),
    )


def contained():
    return nn.Sequential(
        sj_layer.SeqToANNContainer(
            nn.Conv2d(2, 4, 3, stride=(1, 2), padding=(1, 1), bias=False), nn.BatchNorm2d(4, eps=0.01)
        ),
        IterativeLIFNode(decay=0.0, v_threshold=0.4, step_mode="m"),
        sj_layer.AvgPool2d((2, 1), padding=(1, 0), step_mode="m"),
        sj_layer.SeqToANNContainer(nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten()),
        IterativeLIFNode(decay=1.0, v_threshold=0.2, v_reset=0.05, step_mode="m"),
    )


def block_by_zero_padding():
    return resnet20_he(num_classes=5, in_channels=2, width=4, time_steps=T)


NETS = {
    "conv1d, SpikingJelly's LIF and IF, tdBN": (sequence, (3, 17)),
    "containers, no leak and no memory": (contained, (2, 8, 8)),
    "functions and names of one's own": (Own, (2, 8, 8)),
    "the comparison's network": (lambda: resnet20(5, 2, width=4, time_steps=T), (2, 16, 16)),
    "channels of zeros": (block_by_zero_padding, (2, 16, 16)),
}


def made(case):
    make, shape = NETS[case]
    torch.manual_seed(3)
    x = 2 * torch.rand(T, N, *shape, dtype=torch.float64)
    return settled(make()), x


@pytest.mark.parametrize("case", NETS)
def test_a_graph_from_its_file_gives_what_the_network_gives(case, tmp_path):
    net, x = made(case)
    expected = outputs(net, x)
    run = Euler(from_file(to_nir(net, x[0], DT), tmp_path))
    actual = torch.stack([run(step) for step in x])
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    assert run.spikes > 50
    assert expected.std() > 0.01


@pytest.mark.parametrize(
    ("node", "expected"),  # by hand: tau, R, v_leak, and where it resets
    [
        (IterativeLIFNode(decay=0.75, v_threshold=0.4), (4e-3, 4.0, 0.0, 0.0)),
        (sj_neuron.LIFNode(tau=4.0, v_reset=-0.1), (4e-3, 1.0, -0.1, -0.1)),  # tau dV/dt = -(V - V_reset) + X
        (sj_neuron.LIFNode(tau=4.0, decay_input=False, v_reset=-0.1), (4e-3, 4.0, -0.1, -0.1)),
    ],
)
def test_the_constants_are_those_of_the_differential_equation(node, expected):
    lif = to_nir(nn.Sequential(nn.Identity(), node), torch.zeros(1, 2), dt=1e-3).nodes["1"]
    found = np.stack([lif.tau, lif.r, lif.v_leak, lif.v_reset])
    np.testing.assert_allclose(found, np.broadcast_to(np.array(expected)[:, None], (4, 2)), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", model.ARCHITECTURES)
def test_every_architecture_can_be_written(name, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "model")
    narrow = importlib.import_module("narrow")
    torch.manual_seed(0)
    net = settled(narrow.make(name))
    x = narrow.images(name, frames=net.time_steps, batch=2)
    expected, run = outputs(net, x), Euler(to_nir(net, x[0], DT))
    torch.testing.assert_close(torch.stack([run(step) for step in x]), expected, rtol=1e-9, atol=1e-9)
    assert run.spikes > 50


@pytest.mark.parametrize("case", NETS)
def test_spikingjelly_2_reads_it(case, tmp_path):
    exchange = pytest.importorskip("spikingjelly.activation_based.nir_exchange", reason="only SpikingJelly 2 has one")
    if case in ("conv1d, SpikingJelly's LIF and IF, tdBN", "containers, no leak and no memory"):
        pytest.skip("its LIF has a leak, and leaks to where it resets")
    net, x = made(case)
    expected = outputs(net, x)
    nir.write(tmp_path / "net.nir", to_nir(net, x[0], DT))
    theirs, state = exchange.import_from_nir(tmp_path / "net.nir", dt=DT, dtype=torch.float64), None
    for step, y in zip(x, expected, strict=True):
        actual, state = theirs(step, state)
        torch.testing.assert_close(actual.detach(), y, rtol=1e-9, atol=1e-9)


def test_the_network_stays_as_it_is():
    net = resnet20(5, 2, width=4, time_steps=T)
    x = torch.rand(T, N, 2, 16, 16)
    net(x)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    potential = net.neuron1.v
    to_nir(net, x[0])
    assert net.training
    assert net.step_mode == "m"
    assert net.neuron1.v is potential
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_shortcut_branches_are_no_part_of_it():
    net, x = made("the comparison's network")
    plain_graph = to_nir(net, x[0], DT)
    with_branches = to_nir(attach_shortcuts(net, num_classes=5), x[0], DT)
    assert with_branches.nodes.keys() == plain_graph.nodes.keys()


class Refused(nn.Module):
    def __init__(self, function, *layers):
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


REFUSED = {
    "soft reset": nn.Sequential(nn.Flatten(), IterativeLIFNode(v_reset=None)),
    "SRIFNode is no LIF": nn.Sequential(nn.Flatten(), SRIFNode()),
    "ParametricLIFNode is not among": nn.Sequential(sj_neuron.ParametricLIFNode()),
    "MaxPool2d is not among": nn.Sequential(sj_layer.MaxPool2d(2)),
    "ReLU is not among": nn.Sequential(nn.ReLU()),
    "in groups": nn.Sequential(nn.Conv2d(2, 4, 3, groups=2)),
    "not square": nn.Sequential(nn.Conv2d(2, 4, (3, 5))),
    "padded with something else": nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular")),
    "windows of different sizes": nn.Sequential(nn.AdaptiveAvgPool2d(3)),
    "parts of windows": nn.Sequential(sj_layer.AvgPool2d(3, ceil_mode=True)),
    "divisor": nn.Sequential(nn.AvgPool2d(2, padding=1, count_include_pad=False)),
    "of the last of 3 dimensions": nn.Sequential(nn.Linear(8, 2)),
    "flattening of the batch": nn.Sequential(nn.Flatten(0)),
    "add: it adds a tensor to itself": Refused(lambda x: x + x),
    "the network does: it adds a tensor to itself": Refused(lambda x, conv: (conv(x) + x) + x, nn.Conv2d(2, 2, 1)),
    "something else than two tensors": Refused(lambda x: x + 1.0),
    "tensors of shapes": Refused(lambda x, pool: x + pool(x), nn.AvgPool2d(8)),
    "no word for mean": Refused(lambda x: x.mean(0)),
    "runs each layer once": Refused(lambda x, conv: conv(conv(x)), nn.Conv2d(2, 2, 1)),
    "it is not one tensor": Refused(lambda x, conv: (x, conv(x)), nn.Conv2d(2, 2, 1)),
    "lets potentials grow": nn.Sequential(IterativeLIFNode(decay=1.5)),
    "input offset": nn.Sequential(ScaledInputLIFNode(1.0, 0.1, decay=1.0)),
    "cannot fuse 0": nn.Sequential(sj_layer.BatchNorm2d(2)),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_nir_cannot_say_is_refused_by_name(sentence):
    with pytest.raises(ValueError, match=sentence):
        to_nir(REFUSED[sentence], torch.rand(1, 2, 8, 8))


def test_an_input_that_does_not_fit_fails_as_in_the_network(capsys):
    with pytest.raises(RuntimeError, match="expected input"):
        to_nir(nn.Sequential(nn.Conv2d(2, 2, 1)), torch.rand(1, 3, 8, 8))
    assert not capsys.readouterr().err


@pytest.mark.parametrize("dt", [0.0, -1.0, float("nan")])
def test_a_time_step_takes_time(dt):
    with pytest.raises(ValueError, match="dt must be a positive"):
        to_nir(nn.Sequential(nn.Linear(2, 2)), torch.rand(1, 2), dt)


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(ImportError, match=r'pip install -e "\.\[nir\]"'):
        to_nir(nn.Sequential(nn.Linear(2, 2)), torch.rand(1, 2))
