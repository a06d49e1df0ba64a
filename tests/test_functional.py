"""Fusion, finite-difference gradients and the temperature search, each against a slower way to the same numbers."""

import copy
import weakref
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import functional as sj_functional
from spikingjelly.activation_based import layer as sj_layer
from spikingjelly.activation_based.base import StepModule
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from jellyplus import functional, temperature
from jellyplus.functional import finite_difference_gradient, fuse_tdbn, search_temperature, set_temperature
from jellyplus.layer import ThresholdDependentBatchNorm1d, ThresholdDependentBatchNorm2d
from jellyplus.model import dspike_resnet18, toy_cnn
from jellyplus.neuron import IterativeLIFNode
from jellyplus.surrogate import Dspike, Rectangular

TDBN = (ThresholdDependentBatchNorm1d, ThresholdDependentBatchNorm2d)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def node(**arguments):
    return IterativeLIFNode(surrogate_function=Dspike(2.0), step_mode="m", **arguments)


def forward(net, x):
    sj_functional.reset_net(net)
    with torch.no_grad():
        return net(x)


def trained(net, *inputs):
    """Scales and shifts off their start values, and running statistics that have seen data."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for norm in net.modules():
            if isinstance(norm, TDBN):
                norm.weight.copy_(0.7 + 0.9 * torch.rand(norm.weight.shape, generator=generator))
                norm.bias.copy_(0.1 + 0.1 * torch.randn(norm.bias.shape, generator=generator))
    for x in inputs:
        forward(net.train(), x)
    sj_functional.reset_net(net)
    return net


def record(modules, inputs=False):
    """Hooks that fill a list with what each module gives, or gets."""
    seen = []
    for module in modules:
        module.register_forward_hook(lambda _, x, y: seen.append((x[0] if inputs else y).detach().clone()))
    return seen


# --- fusion ---


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    net = dspike_resnet18(width=4, time_steps=3).double()
    return trained(net, *(normal(3, 4, 3, 16, 16, seed=i) * (1 + i % 3) for i in range(30)))


def nodes_of(net):
    return [m for m in net.modules() if isinstance(m, IterativeLIFNode)]


def test_a_fused_resnet_fires_the_same_without_any_norm(resnet):
    net, x = copy.deepcopy(resnet).eval(), 2 * normal(3, 4, 3, 16, 16, seed=99)
    fused = fuse_tdbn(net)
    assert not any(isinstance(m, (_BatchNorm, nn.GroupNorm, nn.LayerNorm)) for m in fused.modules())
    assert sum(isinstance(m, _BatchNorm) for m in net.modules()) == 3 + 16 + 3
    spikes = record(nodes_of(net))
    torch.testing.assert_close(forward(fused, x), forward(net, x), rtol=1e-9, atol=1e-9)
    assert 0.02 < torch.cat([s.flatten() for s in spikes]).mean() < 0.6
    assert all(s.any() for s in spikes)


def test_fusing_leaves_the_network_as_it_is(resnet):
    net = copy.deepcopy(resnet).train()
    net(normal(3, 2, 3, 16, 16))  # leaves neuron state, with its graph
    before, v = copy.deepcopy(net.state_dict()), [n.v for n in nodes_of(net)]
    fused = fuse_tdbn(net)
    assert net.training
    assert not fused.training
    assert before.keys() == net.state_dict().keys()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(now is then for now, then in zip([n.v for n in nodes_of(net)], v, strict=True))
    assert not {p.data_ptr() for p in fused.parameters()} & {p.data_ptr() for p in net.parameters()}


def test_in_float32_each_fused_layer_gives_the_same_pre_activation_for_the_same_spikes(resnet, record_property):
    net, x = copy.deepcopy(resnet).float().eval(), 2 * normal(3, 4, 3, 16, 16, seed=99, dtype=torch.float32)
    fused, made_by, pairs = fuse_tdbn(net), {}, []

    def after_convolution(name, inputs, output):
        made_by[id(output)] = (name, inputs[0], output)  # kept alive, so that ids stay unique

    def after_norm(inputs, output):
        name, layer_input, _ = made_by[id(inputs[0])]
        pairs.append((name, layer_input, output))

    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, i, o, name=name: after_convolution(name, i, o))
        elif isinstance(module, _BatchNorm):
            module.register_forward_hook(lambda _, i, o: after_norm(i, o))
    spikes, fused_spikes = record(nodes_of(net)), record(nodes_of(fused))
    forward(net, x)
    forward(fused, x)
    assert len(pairs) == 22
    for name, layer_input, pre_activation in pairs:
        with torch.no_grad():
            result = fused.get_submodule(name)(layer_input)
        assert (result - pre_activation).abs().max() < 1e-5 * pre_activation.abs().max(), name
    flipped = torch.cat([(a != b).flatten() for a, b in zip(spikes, fused_spikes, strict=True)]).double().mean().item()
    record_property("share of flipped spikes", flipped)
    print(f"share of flipped spikes in float32: {flipped:.2e}")
    assert flipped < 1e-2


def contained(*layers):
    return sj_layer.SeqToANNContainer(*layers)


SERIAL = {
    "linear": lambda: nn.Sequential(nn.Linear(5, 4), ThresholdDependentBatchNorm1d(0.7, 0.5, 4), node()),
    "spikingjelly's linear without bias": lambda: nn.Sequential(
        sj_layer.Linear(5, 4, bias=False, step_mode="m"), ThresholdDependentBatchNorm1d(1.0, 0.6, 4, eps=0.1), node()
    ),
    "convolution with bias": lambda: nn.Sequential(
        sj_layer.Conv2d(5, 4, 3, stride=2, padding=1, step_mode="m"), ThresholdDependentBatchNorm2d(1.0, 0.6, 4), node()
    ),
    "grouped convolution": lambda: nn.Sequential(
        sj_layer.Conv2d(5, 10, 3, groups=5, step_mode="m"), ThresholdDependentBatchNorm2d(1.0, 0.5, 10), node()
    ),
    "convolution in a container": lambda: nn.Sequential(
        contained(nn.Conv2d(5, 4, 3)), ThresholdDependentBatchNorm2d(1.0, 0.5, 4), node()
    ),
}


@pytest.mark.parametrize("case", SERIAL)
def test_fuses_the_layer_before(case):
    torch.manual_seed(1)
    shape = (3, 6, 5) if "linear" in case else (3, 2, 5, 6, 6)
    net = trained(SERIAL[case]().double(), *(normal(*shape, seed=i) for i in range(20))).eval()
    fused, x = fuse_tdbn(net), normal(*shape, seed=50)
    assert not any(isinstance(m, _BatchNorm) for m in fused.modules())
    pre_activations = [record([part[-1]], inputs=True) for part in (net, fused)]
    y = forward(net, x)
    torch.testing.assert_close(forward(fused, x), y, rtol=0, atol=0)
    torch.testing.assert_close(*pre_activations, rtol=1e-9, atol=1e-9)
    assert 0.02 < y.mean() < 0.8


OTHER_NORMS = {
    "spikingjelly's": lambda: sj_layer.BatchNorm2d(4, eps=0.1, step_mode="m"),
    "without weights": lambda: sj_layer.BatchNorm2d(4, affine=False, step_mode="m"),
    "tdBN": lambda: ThresholdDependentBatchNorm2d(0.7, 0.6, 4),
}


@pytest.mark.parametrize("case", OTHER_NORMS)
@pytest.mark.parametrize("bias", [True, False])
def test_every_batch_norm_fuses_where_it_is_asked_for(case, bias):
    torch.manual_seed(1)
    layers = [sj_layer.Conv2d(5, 4, 3, bias=bias, step_mode="m"), OTHER_NORMS[case]()]
    net = nn.Sequential(*layers).double()
    for i in range(20):
        net(normal(3, 2, 5, 6, 6, seed=i))
    with torch.no_grad():
        for parameter in net[1].parameters():
            parameter.copy_(1 + normal(4, seed=8) / 2)
    x = normal(3, 2, 5, 6, 6, seed=50)
    fused = functional.fuse_norms(net)
    assert not any(isinstance(m, _BatchNorm) for m in fused.modules())
    torch.testing.assert_close(fused(x), net.eval()(x), rtol=1e-9, atol=1e-9)
    assert isinstance(fuse_tdbn(net)[1], nn.Identity) == (case == "tdBN")


def test_a_norm_that_keeps_no_statistics_does_not_fuse():
    with pytest.raises(ValueError, match="cannot fuse 1: it has no running statistics"):
        functional.fuse_norms(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False)))


def test_a_network_in_step_mode_s_fuses(resnet):
    net = copy.deepcopy(resnet).eval()
    sj_functional.set_step_mode(net, "s")
    x = 2 * normal(4, 3, 16, 16, seed=99)
    torch.testing.assert_close(forward(fuse_tdbn(net), x), forward(net, x), rtol=1e-9, atol=1e-9)


class Wired(nn.Module):
    """Convolutions and norms joined by a given function."""

    def __init__(self, wiring):
        super().__init__()
        self.conv, self.other = (sj_layer.Conv2d(2, 2, 3, padding=1, step_mode="m") for _ in range(2))
        self.norm, self.other_norm = (ThresholdDependentBatchNorm2d(1.0, 0.5, 2) for _ in range(2))
        self.wiring = wiring

    def forward(self, x):
        return self.wiring(self, x)


def residual(net, x):
    y = net.conv(x)
    return net.norm(y) + y


UNFUSABLE = {
    "an output used twice": residual,
    "a norm of the input": lambda net, x: net.norm(x),
    "a norm of a sum": lambda net, x: net.norm(net.conv(x) + net.other(x)),
    "a layer that feeds two norms": lambda net, x: net.other_norm(net.conv(net.norm(net.conv(x)))),
    "a layer that also runs without a norm": lambda net, x: net.conv(net.norm(net.conv(x))),
    "a norm that follows two layers": lambda net, x: net.norm(net.other(net.norm(net.conv(x)))),
}


@pytest.mark.parametrize("case", UNFUSABLE)
def test_what_cannot_be_fused_raises(case):
    with pytest.raises(ValueError, match="cannot fuse"):
        fuse_tdbn(Wired(UNFUSABLE[case]))


def test_a_transposed_convolution_raises():
    net = nn.Sequential(sj_layer.ConvTranspose2d(2, 2, 3, step_mode="m"), ThresholdDependentBatchNorm2d(1.0, 0.5, 2))
    with pytest.raises(ValueError, match="transposed"):
        fuse_tdbn(net)


COMPUTED = {
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "pruned bias": lambda layer: prune.l1_unstructured(layer, "bias", 0.5),
    "weight norm by hooks": nn.utils.weight_norm,
    "weight norm": nn.utils.parametrizations.weight_norm,
    "spectral norm by hooks": nn.utils.spectral_norm,
    "spectral norm": nn.utils.parametrizations.spectral_norm,
    "orthogonal": nn.utils.parametrizations.orthogonal,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("case", COMPUTED)
@pytest.mark.parametrize("container", [nn.Sequential, lambda layer: layer], ids=["contained", "bare"])
def test_weights_that_are_computed_raise_with_the_remedy(case, container):
    net = nn.Sequential(container(nn.Linear(3, 2)), ThresholdDependentBatchNorm1d(1.0, 0.5, 2))
    COMPUTED[case](next(m for m in net.modules() if isinstance(m, nn.Linear)))
    with pytest.raises(ValueError, match=r"cannot fuse 0.*prune\.remove.*remove_parametrizations"):
        fuse_tdbn(net)


def test_a_parametrised_layer_elsewhere_stays():
    head = nn.utils.parametrizations.orthogonal(nn.Linear(2, 2))
    net = nn.Sequential(nn.Linear(3, 2), ThresholdDependentBatchNorm1d(1.0, 0.5, 2), head).eval()
    x = torch.randn(4, 5, 3)
    torch.testing.assert_close(fuse_tdbn(net)(x), net(x))


# --- finite differences ---

TARGET = torch.tensor([1, 0, 2])


def loss(y):
    return nn.functional.cross_entropy(y.mean(0), TARGET)


def small_net(bias=False, stride=1):
    """Conv, tdBN, node, conv, tdBN, node, linear on [T, N, 2, 6, 6]; linear.weight and norm weights are few."""
    torch.manual_seed(5)
    net = nn.Sequential(
        sj_layer.Conv2d(2, 3, 3, padding=1, stride=stride, bias=bias, step_mode="m"),
        ThresholdDependentBatchNorm2d(1.0, 0.5, 3),
        node(v_reset=None),
        sj_layer.Conv2d(3, 2, 3, padding=1, step_mode="m"),
        ThresholdDependentBatchNorm2d(0.8, 0.5, 2),
        node(),
        sj_layer.AdaptiveAvgPool2d(1, step_mode="m"),
        nn.Flatten(2),
        sj_layer.Linear(2, 3, step_mode="m"),
    ).double()
    return trained(net, *(normal(2, 3, 2, 6, 6, seed=i) for i in range(10)))


def naive(net, name, loss, x, epsilon):
    """Two whole passes for each element, each on its own copy from the same state dict."""
    start, gradient = copy.deepcopy(net.state_dict()), []
    for i in range(net.get_parameter(name).numel()):
        values = []
        for step in (epsilon, -epsilon):
            twin = copy.deepcopy(net)
            twin.load_state_dict(start)
            with torch.no_grad():
                twin.get_parameter(name).view(-1)[i] += step
            values.append(loss(forward(twin, x)).item())
        gradient.append((values[0] - values[1]) / (2 * epsilon))
    return torch.tensor(gradient, dtype=torch.float64).view_as(net.get_parameter(name))


ONE_AT_A_TIME, SOME, ALL = 1, 50_000, 2**30
OWNERS = {
    "first convolution": ("0.weight", {}),
    "first convolution, strided": ("0.weight", {"stride": 2}),
    "first convolution, with bias": ("0.weight", {"bias": True, "stride": 2}),
    "bias of a convolution": ("0.bias", {"bias": True}),
    "second convolution": ("3.weight", {}),
    "scale of a norm": ("1.weight", {}),
    "shift of a norm": ("4.bias", {}),
    "linear": ("8.weight", {}),
    "bias of a linear layer": ("8.bias", {}),
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", OWNERS)
def test_equals_the_naive_loop_however_many_run_at_a_time(case, training):
    name, arguments = OWNERS[case]
    net, x = small_net(**arguments).train(training), normal(2, 3, 2, 6, 6, seed=40)
    expected = naive(net, name, loss, x, 0.2)
    cancelled = name == "0.bias" and training  # the norm subtracts it
    assert cancelled or expected.abs().max() > 1e-3
    for max_bytes in (ONE_AT_A_TIME, SOME, ALL):
        result = finite_difference_gradient(net, name, loss, x, 0.2, max_bytes)
        torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)


class Toy(nn.Module):
    """Convolution, neurons, pooling and a linear layer on [T, N, 1, 6, 6], joined by a given function."""

    def __init__(self, wiring):
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.twin = (sj_layer.Conv2d(1, 3, 3, padding=1, step_mode="m") for _ in range(2))
        self.norm = ThresholdDependentBatchNorm2d(1.0, 0.5, 3)
        self.node, self.pool, self.flatten = node(), sj_layer.AvgPool2d(2, step_mode="m"), nn.Flatten(2)
        self.most, self.mean = sj_layer.MaxPool2d(2, 1, step_mode="m"), sj_layer.AdaptiveAvgPool2d(3, step_mode="m")
        self.rows, self.cube, self.mixing = nn.Flatten(3), nn.AvgPool3d((3, 1, 1), 1, (1, 0, 0)), MixingNode(0.25)
        self.relu, self.norm_of_all = nn.ReLU(inplace=True), nn.GroupNorm(1, 3)
        self.fc, self.side, self.row = (sj_layer.Linear(n, 3, step_mode="m") for n in (27, 27, 9))
        self.wiring = wiring

    def forward(self, x):
        return self.wiring(self, x)


class MixingNode(IterativeLIFNode):
    """Neurons that inhibit those of the other channels."""

    def multi_step_forward(self, x_seq):
        return super().multi_step_forward(x_seq - 0.2 * x_seq.mean(2, keepdim=True))


def plain(net, x):
    return net.fc(net.flatten(net.pool(net.node(net.conv(x)))))


def ends(net, spikes):
    return net.fc(net.flatten(net.pool(spikes)))


def changed(tensor, change):
    change(tensor)
    return tensor


APART = {
    "plain": plain,
    "a norm": lambda net, x: net.fc(net.flatten(net.pool(net.node(net.norm(net.conv(x)))))),
    "a norm last": lambda net, x: net.fc(net.flatten(net.norm(net.pool(net.node(net.conv(x)))))),
    "three kinds of pooling": lambda net, x: net.fc(net.flatten(net.mean(net.most(net.node(net.conv(x)))))),
    "another layer before": lambda net, x: plain(net, net.twin(x)[:, :, :1]),
    "an output at every time-step": lambda net, x: ends(net, net.node(net.conv(x[:1]).expand(2, -1, -1, -1, -1))),
    "spikes at every time-step": lambda net, x: ends(net, net.node(net.conv(x[:1])).expand(2, -1, -1, -1, -1)),
    "logits at every time-step": lambda net, x: plain(net, x[:1]).expand(2, -1, -1),
    "what is looked at": lambda net, x: ends(net, changed(net.node(net.conv(x)), torch.mean)),
}
MET = {
    "an output used twice": lambda net, x: ends(net, net.node((y := net.conv(x)) + y.mean(2, keepdim=True))),
    "a sum before the last layer": lambda net, x: net.fc(
        (f := net.flatten(net.pool(net.node(net.conv(x))))) + f * f[..., :1]
    ),
    "two linear layers": lambda net, x: net.fc(f := net.flatten(net.pool(net.node(net.conv(x))))) * net.side(f),
    "another way to the output": lambda net, x: (
        ends(net, net.node(y := net.conv(x))) + net.twin(y[:, :, :1] * y[:, :, 1:2]).mean((3, 4))
    ),
    "a change in place": lambda net, x: ends(net, changed(net.node(net.conv(x)), lambda s: s.sub_(s.mean(2, True)))),
    "a change of what is expanded": lambda net, x: ends(
        net, net.node(changed(net.conv(x[:1]), lambda y: y.sub_(y.mean(2, True))).expand(2, -1, -1, -1, -1))
    ),
    "a change of the output": lambda net, x: changed(plain(net, x), lambda y: y.square_().mul_(y.sum(-1, True))),
    "a transposition": lambda net, x: ends(net, net.node(net.conv(x)).transpose(3, 4)),
    "a module that changes in place": lambda net, x: ends(net, net.relu(net.node(net.conv(x)))),
    "a second pass through a module": lambda net, x: net.fc(
        net.flatten(net.mean(net.node(net.mean(net.node(net.mean(net.conv(x)))))))
    ),
    "a pool that is shared": lambda net, x: net.fc(net.flatten(net.mean(net.most(net.mean(net.conv(x)))))),
    "neurons that ran before": lambda net, x: ends(net, net.node(net.conv(net.node(net.twin(x))[:, :, :1]))),
    "a grouped convolution": lambda net, x: ends(net, net.node(net.conv(net.twin(x)))),
    "rows as features": lambda net, x: net.row(net.rows(net.pool(net.node(net.conv(x))))),
    "channels pooled": lambda net, x: net.fc(net.flatten(net.pool(net.cube(net.node(net.conv(x)))))),
    "channels normalised": lambda net, x: ends(
        net, net.node(sj_functional.seq_to_ann_forward(net.conv(x), net.norm_of_all))
    ),
    "neurons that mix": lambda net, x: ends(net, net.mixing(net.conv(x))),
}  # fmt: skip


@pytest.fixture
def runs(monkeypatch):
    """The number of sequences that neurons have run."""
    counted, original = [], IterativeLIFNode.multi_step_forward
    monkeypatch.setattr(IterativeLIFNode, "multi_step_forward", lambda self, x: counted.append(1) or original(self, x))
    return counted


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", APART)
def test_channels_that_stay_apart_move_together(case, training, runs):
    net, x = trained(Toy(APART[case]).double(), normal(2, 3, 1, 6, 6)).train(training), normal(2, 3, 1, 6, 6, seed=40)
    expected = naive(net, "conv.weight", loss, x, 0.2)
    assert expected.abs().max() > 1e-3
    for max_bytes, passes in ((ONE_AT_A_TIME, 2 * 9), (ALL, 1)):
        runs.clear()
        result = finite_difference_gradient(net, "conv.weight", loss, x, 0.2, max_bytes)
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
        assert len(runs) == 1 + passes


@pytest.mark.parametrize("case", [*MET, "a hook that mixes"])
def test_channels_that_meet_do_not(case):
    net, x = Toy(MET.get(case, plain)).double(), normal(2, 3, 1, 6, 6, seed=40)
    if case == "a grouped convolution":
        net.conv = sj_layer.Conv2d(3, 3, 3, padding=1, groups=3, step_mode="m").double()
    if case == "a hook that mixes":
        net.node.register_forward_hook(lambda module, inputs, spikes: spikes.cumsum(2))

    def growing(y):
        return y.exp().mean()

    expected = naive(net, "conv.weight", growing, x, 0.2)
    assert expected.abs().max() > 1e-3
    result = finite_difference_gradient(net, "conv.weight", growing, x, 0.2)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_papers_toy_takes_2_passes_for_each_of_9_weights(dtype, runs):
    """A hook, under which the channels move one after the other, makes no difference but rounding."""
    torch.manual_seed(0)
    net = toy_cnn(width=6, time_steps=4, input_size=8, num_classes=3).to(dtype)
    x = normal(1, 3, 1, 8, 8, dtype=dtype).relu()
    result = finite_difference_gradient(net, "conv1.weight", loss, x, 0.1, ONE_AT_A_TIME)
    assert len(runs) == 1 + 2 * 9
    net.neuron1.register_forward_hook(lambda *_: None)
    expected = finite_difference_gradient(net, "conv1.weight", loss, x, 0.1, ONE_AT_A_TIME)
    assert len(runs) == 1 + 2 * 9 + 1 + 2 * 54
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(result, expected, rtol=0, atol=tolerance)
    assert (expected != 0).float().mean() > 0.5


def test_channels_that_move_together_are_contiguous_in_any_memory_format(monkeypatch):
    """What is taken channel by channel is copied every time where the channels lie last: half of all time."""
    seen, original = [], IterativeLIFNode.multi_step_forward

    def spied(self, x_seq):
        seen.append(x_seq[0].is_contiguous())  # all time-steps are one
        return original(self, x_seq)

    monkeypatch.setattr(IterativeLIFNode, "multi_step_forward", spied)
    net, x = toy_cnn(width=6, time_steps=4, input_size=8, num_classes=3).double(), normal(1, 3, 1, 8, 8).relu()
    expected = finite_difference_gradient(net, "conv1.weight", loss, x)
    seen.clear()
    result = finite_difference_gradient(net.to(memory_format=torch.channels_last), "conv1.weight", loss, x)
    assert seen[0] is False  # the trial
    assert all(seen[1:])
    torch.testing.assert_close(result, expected, rtol=1e-8, atol=1e-12)


@settings(max_examples=8)
@given(
    kernel=st.sampled_from([1, 2, 3]),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    padding_mode=st.sampled_from(["zeros", "circular"]),
    training=st.booleans(),
)
def test_equals_the_naive_loop_for_any_convolution(kernel, stride, padding, dilation, groups, padding_mode, training):
    torch.manual_seed(2)
    net = nn.Sequential(
        sj_layer.Conv2d(2, 2, kernel, stride, padding, dilation, groups, padding_mode=padding_mode, step_mode="m"),
        ThresholdDependentBatchNorm2d(1.0, 0.5, 2),
        node(),
        nn.Flatten(2),
    )
    net.double().train(training)
    net[2].surrogate_function.set_spiking_mode(False)  # smooth, so that every difference is there
    x, weights = normal(2, 2, 2, 6, 6), normal(8, 5000, seed=1)

    def weighted(y):
        return (y.flatten(0, 1) * weights[: y.shape[0] * y.shape[1], : y.shape[2]]).sum()

    expected = naive(net, "0.weight", weighted, x, 0.1)
    result = finite_difference_gradient(net, "0.weight", weighted, x, 0.1, ALL)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
    assert (training and net[0].weight[0].numel() == 1) or expected.abs().max() > 0.1  # the norm cancels a lone weight


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_equals_the_naive_loop_on_the_resnet_with_a_static_image(training):
    """The owner runs once, its output is presented at every time-step."""
    torch.manual_seed(1)
    net = dspike_resnet18(num_classes=3, in_channels=1, width=2, time_steps=2).double()
    trained(net, *(2 * normal(1, 3, 1, 16, 16, seed=i) for i in range(10))).train(training)
    x = 2 * normal(1, 3, 1, 16, 16, seed=40)
    expected = naive(net, "conv1.weight", loss, x, 0.2)
    result = finite_difference_gradient(net, "conv1.weight", loss, x, 0.2, 20 * x.nbytes * 2)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)
    assert expected.abs().max() > 1e-3


def test_batch_dimension_0_serves_a_net_without_time():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)).double()
    x = normal(3, 2, 6, 6)

    def no_time(y):
        return nn.functional.cross_entropy(y, TARGET)

    result = finite_difference_gradient(net, "0.weight", no_time, x, 0.05, batch_dim=0)
    torch.testing.assert_close(result, naive(net, "0.weight", no_time, x, 0.05), rtol=1e-9, atol=1e-9)


def test_approaches_autograd_for_a_smooth_network():
    """Central differences err by epsilon^2."""
    torch.manual_seed(0)
    net = nn.Sequential(
        sj_layer.Conv2d(2, 3, 3, step_mode="m"), node(), nn.Flatten(2), sj_layer.Linear(48, 3, step_mode="m")
    ).double()
    net[1].surrogate_function.set_spiking_mode(False)
    x = 0.2 * normal(2, 3, 2, 6, 6)
    (gradient,) = torch.autograd.grad(loss(net(x)), net[0].weight)
    result = finite_difference_gradient(net, "0.weight", loss, x, epsilon=1e-4)
    assert (result - gradient).norm() < 1e-2 * gradient.norm()


def small_net_and_dropout():
    return small_net().append(sj_layer.Dropout(0.5, step_mode="m")), 2, ("0.weight", "1.weight")


def toy():
    return Toy(APART["a norm"]).double(), 1, ("conv.weight", "norm.weight")


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("index", [0, 1], ids=["convolution", "norm"])
@pytest.mark.parametrize("make", [small_net_and_dropout, toy])
def test_network_state_and_random_state_are_left_alone(make, index, training):
    net, channels, names = make()
    name, x = names[index], normal(2, 3, channels, 6, 6, seed=40)
    net.train(training)
    for module in net.modules():
        if isinstance(module, sj_layer.Dropout):
            module.eval()
    net(x)  # leaves neuron state, with its graph
    nodes = [m for m in net.modules() if isinstance(m, IterativeLIFNode)]
    before, v = copy.deepcopy(net.state_dict()), [n.v for n in nodes]
    flags, forwards = [m.training for m in net.modules()], [m.forward.__func__ for m in net.modules()]
    random, x_before = torch.get_rng_state(), x.clone()

    def random_loss(y):
        torch.rand(3)
        return loss(y)

    finite_difference_gradient(net, name, random_loss, x, 0.2)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, x_before)
    assert before.keys() == net.state_dict().keys()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(n.v is then for n, then in zip(nodes, v, strict=True))
    assert [m.training for m in net.modules()] == flags
    assert [m.forward.__func__ for m in net.modules()] == forwards
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert torch.is_grad_enabled()


def flops(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("max_bytes", [ONE_AT_A_TIME, ALL])
def test_takes_fewer_operations_than_two_passes_for_each_element(max_bytes):
    net, x = small_net(), normal(2, 3, 2, 6, 6)
    whole = flops(lambda: forward(net, x))
    first = flops(lambda: forward(net[0], x))
    k = net[0].weight.numel()
    used = flops(lambda: finite_difference_gradient(net, "0.weight", loss, x, 0.1, max_bytes))
    assert used < 2 * k * whole
    # the first layer runs a few times in all: the trial, the unmoved output, and one channel for each element
    shifts = k * first / net[0].out_channels
    # before passes are shared, four examples pass, four others, and all eight
    check = 0 if max_bytes == ONE_AT_A_TIME else (4 + 4 + 8) / x.shape[1] * whole
    assert used <= 2 * k * (whole - first) + whole + first + shifts + check


class Alive(TorchDispatchMode):
    """Bytes of the storages that operators made under this mode and that are still alive; ``peak`` is their maximum."""

    def __init__(self):
        super().__init__()
        self.sizes, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.sizes and key not in given:
                    self.sizes[key] = storage.nbytes()
                    weakref.finalize(storage, self.sizes.pop, key, None)
        self.peak = max(self.peak, sum(self.sizes.values()))
        return result


def peak(run):
    with Alive() as alive:
        run()
    return alive.peak


def test_the_memory_meter_counts_what_is_alive():
    def run():
        a = torch.zeros(1000)  # 4000 bytes
        b = a + 1  # 8000
        del a
        c = b.view(10, 100) * 2  # 8000
        del b
        return c.sum()

    assert 8000 <= peak(run) < 8100


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", ["0.weight", "3.weight"])
def test_the_working_set_stays_within_max_bytes(name, training):
    """Beside what one perturbation at a time takes, which is the least there is."""
    net, x = small_net().train(training), normal(2, 8, 2, 12, 12)

    def peak_within(max_bytes):
        return peak(lambda: finite_difference_gradient(net, name, lambda y: y.square().sum(), x, 0.1, max_bytes))

    bounds = [40 * x.nbytes, 80 * x.nbytes, 240 * x.nbytes]  # a few perturbations at a time, many, nearly all
    least, peaks = peak_within(ONE_AT_A_TIME), [peak_within(bound) for bound in bounds]
    print(f"one at a time {least:,} bytes; " + "; ".join(f"{p:,} of {b:,}" for p, b in zip(peaks, bounds, strict=True)))
    assert all(p <= least + bound for p, bound in zip(peaks, bounds, strict=True))
    assert least < peaks[0] < peaks[1] < peaks[2]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_so_does_that_of_channels_that_move_together(training):
    """There are 2 x 9 passes."""
    net, x = Toy(APART["a norm"]).double().train(training), normal(2, 8, 1, 6, 6)

    def peak_within(max_bytes):
        return peak(
            lambda: finite_difference_gradient(net, "conv.weight", lambda y: y.square().sum(), x, 0.1, max_bytes)
        )

    bounds = [40 * x.nbytes, 80 * x.nbytes, 240 * x.nbytes]
    least, peaks = peak_within(ONE_AT_A_TIME), [peak_within(bound) for bound in bounds]
    assert all(p <= least + bound for p, bound in zip(peaks, bounds, strict=True))
    assert least < peaks[0] < peaks[1] < peaks[2]


def test_a_wide_fan_in_stays_within_max_bytes():
    """144 weights for each of two output channels: a copy of the input shifted for each is 9 inputs large."""
    net = nn.Sequential(sj_layer.Conv2d(16, 2, 3, padding=1, step_mode="m"), node(), nn.Flatten(2)).double()
    x = normal(2, 8, 16, 12, 12)
    bound = 6 * x.nbytes
    assert peak(lambda: finite_difference_gradient(net, "0.weight", torch.sum, x, 0.1, bound)) <= bound


def test_an_unknown_parameter_raises():
    with pytest.raises(ValueError, match=r"no parameter '9.weight'"):
        finite_difference_gradient(small_net(), "9.weight", loss, normal(2, 3, 2, 6, 6))


@pytest.mark.parametrize("dropout", [nn.Dropout(0.5), sj_layer.Dropout(0.5), nn.AlphaDropout(0.1)])
def test_dropout_raises_in_training_and_is_nothing_in_evaluation(dropout):
    net, x = small_net().append(copy.deepcopy(dropout)), normal(2, 3, 2, 6, 6)
    with pytest.raises(ValueError, match=r"9 into evaluation mode"):
        finite_difference_gradient(net.train(), "8.bias", loss, x)
    assert finite_difference_gradient(net.eval(), "8.bias", loss, x).abs().max() > 0


def test_a_module_that_runs_twice_is_moved_in_whole_passes():
    torch.manual_seed(0)
    conv = sj_layer.Conv2d(2, 2, 1, step_mode="m")
    net, x = nn.Sequential(conv, node(), conv, nn.Flatten(2)).double(), 2 * normal(2, 3, 2, 3, 3)
    expected = naive(net, "0.weight", loss_of_features, x, 0.2)
    assert expected.abs().max() > 1e-3
    result = finite_difference_gradient(net, "0.weight", loss_of_features, x, 0.2, ALL)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)


def loss_of_features(y):
    return y.square().mean()


# --- the temperature search ---


def graded_net(b):
    """One input of 1, 49 neurons with potentials from 0.02 to 0.98, T = 1; the loss counts spikes.

    The finite difference at w is 1 / (2 epsilon) where |w - 0.5| <= epsilon and 0 elsewhere: a window as wide as
    epsilon, so a wide one looks like a flat Dspike and a narrow one like a steep Dspike.
    """
    net = nn.Sequential(
        sj_layer.Linear(1, 49, bias=False, step_mode="m"), IterativeLIFNode(surrogate_function=Dspike(b), step_mode="m")
    ).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.linspace(0.02, 0.98, 49)[:, None])
    return net, torch.ones(1, 1, 1, dtype=torch.float64)


@pytest.mark.parametrize(("epsilon", "expected"), [(0.45, 2.0), (0.1, 4.0)], ids=["wide moves b down", "narrow up"])
def test_b_moves_towards_the_window_that_the_finite_differences_see(epsilon, expected):
    net, x = graded_net(3.0)
    found = search_temperature(net, "0.weight", torch.sum, x, epsilon=epsilon, step=1.0)
    assert found.temperature == expected
    assert found.candidates == (3.0, 2.0, 4.0)
    # the cosine by hand: gradient of candidate b is sech^2(b x) up to a factor, the reference 1 inside the window
    offsets = torch.linspace(0.02, 0.98, 49, dtype=torch.float64) - 0.5
    inside = (offsets.abs() <= epsilon).double()
    for b, similarity in zip(found.candidates, found.similarities, strict=True):
        slope = 1 / torch.cosh(b * offsets) ** 2
        assert similarity == pytest.approx((slope @ inside / (slope.norm() * inside.norm())).item(), abs=1e-4)
    assert found.similarities[found.candidates.index(expected)] == max(found.similarities)


@pytest.mark.parametrize("planted", [0.5, 1.5, 2.5])
def test_b_moves_to_the_temperature_whose_gradient_is_the_reference(planted, monkeypatch):
    net, x = small_net(), normal(2, 3, 2, 6, 6)
    set_temperature(net, 1.5)
    twin = copy.deepcopy(net)
    set_temperature(twin, planted)
    reference = torch.autograd.grad(loss(twin(x)), twin[0].weight)[0]
    assert reference.norm() > 0
    of = Mock(side_effect=lambda elements: 3 * reference.flatten()[elements], at_once=False)
    monkeypatch.setattr(temperature, "Differences", lambda *_: of)
    found = search_temperature(net, "0.weight", loss, x, step=1.0)
    assert found.temperature == planted
    assert max(found.similarities) == pytest.approx(1)
    assert sorted(found.similarities)[1] < 1 - 1e-6


@pytest.mark.parametrize(
    ("b", "step", "candidates"),
    [
        (1.0, 0.25, (1.0, 0.75, 1.25)),
        (0.25, 0.25, (0.25, 0.5)),
        (0.375, 0.25, (0.375, 0.125, 0.625)),
        (0.1, 0.4, (0.5,)),
    ],
)
def test_candidates_under_half_a_step_are_dropped(b, step, candidates):
    """0.375 - 0.25 = step / 2 is kept; 0 and 0.1 < 0.2 are not."""
    assert functional.temperature_candidates(b, step) == candidates


def test_a_tie_keeps_b():
    """No neuron is within epsilon of the threshold, so the reference is 0 and every cosine is 0."""
    net, x = graded_net(3.0)
    with torch.no_grad():
        net[0].weight.add_(0.01)
    found = search_temperature(net, "0.weight", torch.sum, x, epsilon=1e-6, step=1.0)
    assert found.similarities == (0, 0, 0)
    assert found.temperature == 3.0


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_search_leaves_the_network_as_it_is(training):
    net, x = small_net().train(training), normal(2, 3, 2, 6, 6)
    net(x)
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    v = [m.v for m in net.modules() if isinstance(m, IterativeLIFNode)]
    found = search_temperature(net, "0.weight", loss, x, step=0.5)
    assert found.candidates == (2.0, 1.5, 2.5)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(m.v is v[i] for i, m in enumerate(m for m in net.modules() if isinstance(m, IterativeLIFNode)))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in net.parameters())
    assert net.training is training


def test_temperatures_that_differ_raise():
    net, x = small_net(), normal(2, 3, 2, 6, 6)
    net[2].surrogate_function.temperature.fill_(5.0)
    with pytest.raises(ValueError, match="2 temperatures"):
        search_temperature(net, "0.weight", loss, x)


def test_a_network_without_dspike_raises():
    net = nn.Sequential(IterativeLIFNode(surrogate_function=Rectangular()))
    with pytest.raises(ValueError, match="no Dspike"):
        search_temperature(net, "0.weight", loss, normal(1, 1, 1))
    with pytest.raises(ValueError, match="no Dspike"):
        set_temperature(net, 1.0)


def test_set_temperature_reaches_every_dspike_in_place():
    net = small_net()
    buffers = [m.temperature for m in net.modules() if isinstance(m, Dspike)]
    set_temperature(net, 4.5)
    assert [b.item() for b in buffers] == [4.5, 4.5]
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive"):
            set_temperature(net, wrong)
    assert buffers[0] == 4.5


def test_spikingjellys_containers_need_the_tracer_to_stop_at_steps():
    """fuse_tdbn sees SpikingJelly's layers as single operations because they are StepModules."""
    assert issubclass(sj_layer.SeqToANNContainer, StepModule)
    assert issubclass(sj_layer.Conv2d, StepModule)
