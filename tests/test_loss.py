"""IM-Loss is Eqs. 11 and 12 of Guo et al. 2022, by hand, by a step-by-step loop, and by what it is for."""

import copy
import io
import itertools
import weakref

import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from jellyplus import datasets, model
from jellyplus.functional import finite_difference_gradient, search_temperature
from jellyplus.loss import IMLoss, im_loss
from jellyplus.model import ResidualBlock
from jellyplus.neuron import IterativeLIFNode
from jellyplus.surrogate import Dspike, EvAF


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def node(**arguments):
    arguments = {"surrogate_function": Dspike(2.0), "step_mode": "m"} | arguments
    return IterativeLIFNode(**arguments)


def jelly_node(**arguments):
    return neuron.LIFNode(tau=4 / 3, decay_input=False, step_mode="m", **arguments)


def two_layers(seed=0, **arguments):
    torch.manual_seed(seed)
    linear = [layer.Linear(a, b, step_mode="m") for a, b in ((3, 4), (4, 5))]
    return nn.Sequential(linear[0], node(**arguments), linear[1], node(v_threshold=0.75, **arguments))


# --- the value ---


def two_neurons():
    """One neuron after the other: decay 0.5, thresholds 0.5 and 1, weight 0.75. A sequence of T = 4 as input.

    X   0.25  0.5    0.5  0.5  |  0.75 times the spikes:   0  0.75  0.75   0.75
    H   0.25  0.625  0.5  0.5  |                        H  0  0.75  1.125  0.75
    S   0     1      1    1    |                        S  0  0     1      0
    """
    net = nn.Sequential(node(decay=0.5, v_threshold=0.5), nn.Linear(1, 1, bias=False), node(decay=0.5, v_threshold=1.0))
    nn.init.constant_(net[1].weight, 0.75)
    return net, torch.tensor([0.25, 0.5, 0.5, 0.5]).view(4, 1, 1)


def test_the_membrane_variant_of_two_neurons_by_hand():
    """Means of H: 1.875 / 4 and 2.625 / 4. ((0.46875 - 0.5)^2 + (0.65625 - 1)^2) / 2 * 2."""
    net, x = two_neurons()
    loss = IMLoss(net)
    net(x)
    assert loss().item() == 0.0009765625 + 0.1181640625


def test_the_spikes_variant_of_two_neurons_by_hand():
    """Means of S: 3 / 4 and 1 / 4, the target 0.5 / 4. ((5 / 8)^2 + (1 / 8)^2) / 2 = 13 / 64."""
    net, x = two_neurons()
    loss = IMLoss(net, weight=1.0, variant="spikes")
    net(x)
    assert loss().item() == 13 / 64


@pytest.mark.parametrize("variant", ["membrane", "spikes"])
def test_the_weight_scales_value_and_gradient(variant):
    results = []
    for weight in (1.0, 8.0):
        net, x = two_neurons()
        loss = IMLoss(net, weight, variant)
        net(x)
        value = loss()
        (gradient,) = torch.autograd.grad(value, net[1].weight)
        results.append(torch.stack([value.detach(), gradient.squeeze()]))
    assert (results[0] != 0).all()
    assert torch.equal(8 * results[0], results[1])


def test_layers_of_different_size_weigh_the_same():
    """(0.5 - 1)^2 and (2 - 1.5)^2, and 0 for the last: 0.5 / 3, though the layers have 2, 6 and 1 values."""
    sequences = [torch.tensor([0.25, 0.75]), torch.full((2, 3), 2.0), torch.tensor([4.0])]
    assert im_loss(sequences, [1.0, 1.5, 4.0]).item() == pytest.approx(0.5 / 3)


def test_the_sum_of_many_half_precision_values_does_not_overflow():
    assert im_loss([torch.full((40_000,), 2.0, dtype=torch.float16)], [0.5]).item() == 2.25


# --- the gradient ---


def loop_loss(net, x):
    """Eq. 11 of a ``two_layers`` net from SpikingJelly's own dynamics, one time-step after the other under autograd."""
    jelly_steps = getattr(neuron, "SimpleLIFNode", neuron.LIFNode)  # 2.x: the one with hooks
    nodes = [
        jelly_steps(tau=4 / 3, decay_input=False, v_threshold=m.v_threshold, surrogate_function=m.surrogate_function)
        for m in (net[1], net[3])
    ]
    potentials = [[], []]
    for x_t in x:
        for i, jelly in enumerate(nodes):
            current = F.linear(x_t, net[2 * i].weight, net[2 * i].bias)
            jelly.v = jelly.v + torch.zeros_like(current)
            jelly.neuronal_charge(current)
            potentials[i].append(jelly.v)
            x_t = jelly.neuronal_fire()
            jelly.neuronal_reset(x_t)
    distances = [
        sum(h.sum() for h in hs) / (len(hs) * hs[0].numel()) - v for hs, v in zip(potentials, (0.5, 0.75), strict=True)
    ]
    return sum(distance**2 for distance in distances) / 2


@pytest.mark.parametrize(
    ("backend", "dtype"), [("torch", torch.float64), ("torch", torch.float32), ("cpp", torch.float32)]
)
def test_value_and_gradient_equal_a_loop_over_spikingjellys_dynamics(backend, dtype):
    net, x = two_layers(backend=backend).to(dtype), 2 * normal(6, 7, 3, dtype=dtype)
    loss = IMLoss(net, weight=1.0)
    spikes = net(x)
    assert 0.05 < spikes.mean() < 0.95
    expected = loop_loss(net, x)
    torch.testing.assert_close(loss(), expected)
    parameters = list(net.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    tight = {torch.float64: 1e-12, torch.float32: 2e-6}[dtype]
    for got, wanted in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
        assert wanted.abs().max() > 1e-3
        torch.testing.assert_close(got, wanted, rtol=tight, atol=tight)


@pytest.mark.parametrize("variant", ["membrane", "spikes"])
def test_the_gradient_equals_finite_differences_of_the_loss(variant):
    """Of a soft network: nodes give the surrogates' primitives, so that the loss is smooth."""
    net, x = two_layers(surrogate_function=EvAF(2.0, spiking=False)).double(), normal(4, 3, 3)
    loss = IMLoss(net, variant=variant)

    def value():
        functional.reset_net(net)
        net(x)
        return loss()

    for parameter in net.parameters():
        (gradient,) = torch.autograd.grad(value(), parameter)
        for i, got in enumerate(gradient.flatten().tolist()):
            values = []
            for step in (1e-5, -2e-5, 1e-5):
                values.append(value().item())
                with torch.no_grad():
                    parameter.view(-1)[i] += step
            assert got == pytest.approx((values[1] - values[2]) / 2e-5, abs=1e-9, rel=1e-6)


def test_the_spikes_variant_takes_spikingjellys_nodes():
    """The mean of its spikes against 0.5 / T, and the gradient of that mean through the node."""
    torch.manual_seed(0)
    net, x = (
        nn.Sequential(nn.Linear(3, 4), jelly_node(surrogate_function=surrogate.Sigmoid())),
        2 * normal(5, 6, 3).float(),
    )
    loss = IMLoss(net, weight=3.0, variant="spikes")
    spikes = net(x)
    rate = sum(spikes.flatten()) / spikes.numel()
    value = loss()
    assert value.item() == pytest.approx(3 * (rate.item() - 0.1) ** 2)
    (gradient,) = torch.autograd.grad(value, net[0].weight, retain_graph=True)
    (of_rate,) = torch.autograd.grad(rate, net[0].weight)
    torch.testing.assert_close(gradient, 6 * (rate.item() - 0.1) * of_rate)


# --- which layers ---


class Block(nn.Module):
    """A residual block, with a node inside its branch and another in the shortcut."""

    def __init__(self, make=node):
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(3, 3), nn.Sequential(make(), nn.Linear(3, 3)))
        self.shortcut = nn.Sequential(nn.Linear(3, 3), make())
        self.neuron = make()

    def forward(self, x):
        return self.neuron(self.branch(x) + self.shortcut(x))


def potential_term(m):
    return (m.h_seq.mean() - m.v_threshold) ** 2


def test_only_nodes_inside_residual_branches_are_exempt():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 3), node(), Block(), nn.Sequential(Block()), node(v_threshold=0.9))
    loss = IMLoss(net, weight=1.0)
    net(normal(3, 4, 3).float())
    blocks = net[2], net[3][0]
    counted = [net[1], *(m for b in blocks for m in (b.shortcut[1], b.neuron)), net[4]]
    torch.testing.assert_close(loss(), sum(potential_term(m) for m in counted) / 6)
    assert all(b.branch[1][0].h_seq is None for b in blocks)
    assert "layers=6" in repr(loss)


def test_the_blocks_of_our_own_residual_networks_are_exempt():
    branch = nn.Sequential(nn.Linear(3, 3), node(), nn.Linear(3, 3))
    block = ResidualBlock(branch, nn.Identity(), node())
    loss = IMLoss(block, weight=1.0)
    block(normal(3, 4, 3).float())
    torch.testing.assert_close(loss(), potential_term(block.neuron))


def test_a_list_of_nodes_overrides_the_choice():
    net = nn.Sequential(node(), Block())
    inner = net[1].branch[1][0]
    loss = IMLoss(net, weight=1.0, nodes=iter([inner]))
    net(normal(3, 4, 3).float())
    torch.testing.assert_close(loss(), potential_term(inner))
    assert net[0].h_seq is None


# --- the authors' code ---


def loop_over_the_public_code(net, x):
    """The public code's loss of a ``resnet20``, as its authors gather it, layer by layer with the layer's own modules.

    Every neuron of the stem adds its spikes' term, every block that of the sum that its last neuron gets; the first and
    the last term are dropped.
    """
    x = net.norm1(net.conv1(x)).expand(net.time_steps, -1, -1, -1, -1)
    terms, spikes = [], net.neuron1(x)
    terms.append((sum(s.mean() for s in spikes) / len(spikes) - 0.5 / len(spikes)) ** 2)
    for module in net.stem:
        spikes = module(spikes)
        if isinstance(module, IterativeLIFNode):
            terms.append((sum(s.mean() for s in spikes) / len(spikes) - 0.5 / len(spikes)) ** 2)
    for stage in net.stages:
        for block in stage:
            total = block.branch(spikes) + block.shortcut(spikes)
            terms.append((sum(s.mean() for s in total) / len(total) - 0.5 / len(total)) ** 2)
            spikes = block.neuron(total)
    return sum(terms[1:-1]) / (len(terms) - 2)


def test_the_official_variant_is_the_public_codes_in_residual_networks():
    torch.manual_seed(0)
    net = model.resnet20(width=4, time_steps=3, blocks=(1, 2, 1)).double()
    x, loss = normal(1, 5, 3, 8, 8), IMLoss(net, weight=0.005, variant="official")
    assert "layers=5" in repr(loss)  # 3 in the stem and 4 blocks, without the first and the last
    net(x)
    value, parameters = loss(), [net.conv1.weight, net.stages[0][0].branch[0].weight, net.stages[1][1].branch[3].weight]
    got = torch.autograd.grad(value, parameters)
    functional.reset_net(net)
    expected = 0.005 * loop_over_the_public_code(net, x)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
    assert value > 1e-6
    for one, other in zip(got, torch.autograd.grad(expected, parameters), strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-15)


def test_the_official_variant_without_blocks_is_the_spikes_of_all_layers_but_two():
    net, x = nn.Sequential(*(node(v_threshold=v) for v in (0.5, 0.4, 0.3, 0.6))), 2 * normal(4, 5, 6).float()
    official, spikes = IMLoss(net, 1.0, "official"), IMLoss(net, 1.0, "spikes", nodes=[net[1], net[2]])
    net(x)
    assert official() == spikes() > 0
    assert IMLoss(net, 1.0, "official", nodes=[net[0]]).extra_repr().endswith("layers=1: 0")  # a list is taken as it is
    with pytest.raises(ValueError, match="no layer to restrict"):
        IMLoss(net[:2], variant="official")


def test_means_per_channel_by_hand():
    """Channels with means 0.25 and 1 about 0.5: (0.0625 + 0.25) / 2; one of three features: 0, 0.25 and 1, / 3."""
    images = torch.tensor([[0.0, 0.5], [1.5, 0.5]]).view(1, 1, 2, 2, 1)
    features = torch.tensor([[0.5, 0.0, 1.0], [0.5, 0.0, 2.0]]).view(2, 1, 3)
    value = im_loss([images, features], targets=[0.5, 0.5], per_channel=True)
    assert value.item() == pytest.approx((0.15625 + 1.25 / 3) / 2)


def test_a_network_with_means_per_channel_sees_channels_that_cancel():
    net = nn.Sequential(node(decay=0.0, v_threshold=0.5))
    losses = [IMLoss(net, 1.0, per_channel=per_channel) for per_channel in (False, True)]
    net(torch.tensor([[[0.25, 0.75]]]))
    assert [loss().item() for loss in losses] == [0.0, 0.0625]


# --- errors ---


def test_what_cannot_be_restricted_raises():
    with pytest.raises(ValueError, match="unknown variant 'spike'"):
        IMLoss(nn.Sequential(node()), variant="spike")
    for net, nodes in ((nn.Linear(1, 1), None), (nn.Sequential(node()), [])):
        with pytest.raises(ValueError, match="no layer to restrict"):
            IMLoss(net, nodes=nodes)
    with pytest.raises(ValueError, match="the network has no IterativeLIFNode given in nodes"):
        IMLoss(nn.Sequential(node()), nodes=[node()])


def test_a_node_that_cannot_give_its_potential_raises_and_nothing_stays_attached():
    net = nn.Sequential(node(), neuron.ParametricLIFNode(step_mode="m"))
    with pytest.raises(
        ValueError, match=r"'1', a ParametricLIFNode, does not give .* \(only .*\): .* variant='spikes'"
    ):
        IMLoss(net)
    assert not net[0]._forward_pre_hooks


@pytest.mark.parametrize("variant", ["membrane", "spikes"])
def test_reading_without_a_training_pass_raises(variant):
    net, x = two_neurons()
    loss = IMLoss(net, variant=variant)

    def refuses():
        with pytest.raises(ValueError, match=r"'0' has nothing for IM-Loss to read: .* before reset_net"):
            loss()

    refuses()
    net(x)
    loss()
    functional.reset_net(net)
    refuses()
    net.eval()(x)
    refuses()
    functional.reset_net(net)
    with torch.no_grad():
        net.train()(x)
    refuses()


# --- other nodes, step mode 's', and the choice of nodes ---


LIF = {
    "as it comes": {},
    "input as it is": {"decay_input": False, "tau": 4.0},
    "reset to 0.2": {"v_reset": 0.2, "v_threshold": 0.7},
    "soft": {"v_reset": None, "tau": 3.0},
    "soft, detached": {"v_reset": None, "decay_input": False, "detach_reset": True},
    "detached": {"detach_reset": True},
    "IF": {"if": True},
    "ours": {"ours": True},
}


def net_of(kind, mode):
    torch.manual_seed(3)
    arguments = dict(LIF[kind]) | {"surrogate_function": surrogate.Sigmoid(alpha=2.0), "step_mode": mode}

    def make():
        if arguments.pop("ours", False):
            return node(step_mode=mode, surrogate_function=surrogate.Sigmoid(alpha=2.0))
        return (neuron.IFNode if arguments.pop("if", False) else neuron.LIFNode)(**arguments)

    first = make()
    second = copy.deepcopy(first)
    return nn.Sequential(nn.Linear(3, 6), first, nn.Linear(6, 5), second).double()


def slow_loss(net, x):
    """Eq. 11 by the nodes' definitions, step by step, with nothing of SpikingJelly's but the surrogate."""
    means, signal = [], list(x)
    for linear, lif in ((net[0], net[1]), (net[2], net[3])):
        v, hs, spikes = None, [], []
        for x_t in signal:
            current, rest = linear(x_t), 0.0 if lif.v_reset is None else lif.v_reset
            v = torch.full_like(current, rest) if v is None else v
            if isinstance(lif, neuron.IFNode):
                h = v + current
            elif isinstance(lif, neuron.LIFNode):
                h = v + (current - (v - rest)) / lif.tau if lif.decay_input else v - (v - rest) / lif.tau + current
            else:
                h = lif.decay * v + current
            s = lif.surrogate_function(h - lif.v_threshold)
            off = s.detach() if lif.detach_reset else s
            v = h - off * lif.v_threshold if lif.v_reset is None else h * (1 - off) + off * lif.v_reset
            hs.append(h)
            spikes.append(s)
        means.append((torch.stack(hs).mean() - lif.v_threshold) ** 2)
        signal = spikes
    return sum(means) / 2


def pass_of(net, x):
    return net(x) if net[1].step_mode == "m" else torch.stack([net(x_t) for x_t in x])


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("kind", LIF)
def test_potentials_of_spikingjellys_nodes_and_of_single_steps(kind, mode):
    net, x = net_of(kind, mode), 3 * normal(5, 4, 3)
    loss = IMLoss(net, weight=1.0)
    for _ in range(2):
        functional.reset_net(net)
        pass_of(net, x)
        value, expected = loss(), slow_loss(net, x)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
        wanted = torch.autograd.grad(expected, list(net.parameters()))
        for got, want in zip(torch.autograd.grad(value, list(net.parameters())), wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-14)
    loss.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net)


@pytest.mark.parametrize("variant", ["membrane", "spikes", "official"])
def test_single_steps_give_what_the_sequence_gives(variant):
    losses = []
    for mode in ("s", "m"):
        net, x = net_of("as it comes", mode), 3 * normal(5, 4, 3)
        loss = IMLoss(net, 1.0, variant, nodes=["1", net[3]])
        pass_of(net, x)
        losses.append(loss())
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    assert losses[0] > 0


def test_steps_after_the_loss_was_computed_begin_anew():
    """Truncated training: the graph of the steps before is gone."""
    net, x = net_of("as it comes", "s"), 3 * normal(6, 4, 3)
    loss, values = IMLoss(net, weight=1.0), []
    for part in (x[:3], x[3:]):
        pass_of(net, part)
        value = loss()
        assert loss() == value
        value.backward()
        values.append(value.item())
        functional.detach_net(net)
    functional.reset_net(net)
    pass_of(net, x)
    h = [m.h_seq.read() for m in (net[1], net[3])]
    expected = [sum((each[part].mean() - 1) ** 2 for each in h) / 2 for part in (slice(3), slice(3, 6))]
    assert values == pytest.approx([e.item() for e in expected], rel=1e-12)


def test_a_copy_of_single_steps_begins_anew():
    net = net_of("ours", "s")
    loss = IMLoss(net)
    pass_of(net, normal(2, 4, 3))
    other = copy.deepcopy(net)
    assert not other[1].h_seq
    assert len(net[1].h_seq) == 2
    assert loss() > 0


SEW_OF_18 = ["sn1", "layer2.0.downsample_sn", "layer3.0.downsample_sn", "layer4.0.downsample_sn"]


def test_spikingjellys_own_residual_blocks_are_known():
    sew_resnet = pytest.importorskip("spikingjelly.activation_based.model.sew_resnet")
    from spikingjelly.activation_based.model import spiking_resnet

    sew = sew_resnet.sew_resnet18(spiking_neuron=neuron.IFNode, cnf="ADD", num_classes=3)
    assert list(IMLoss(sew).nodes) == SEW_OF_18
    for make, last in ((spiking_resnet.spiking_resnet18, "sn2"), (spiking_resnet.spiking_resnet50, "sn3")):
        net = make(spiking_neuron=neuron.IFNode, num_classes=3)
        blocks = [name for name, module in net.named_modules() if type(module).__name__ in ("BasicBlock", "Bottleneck")]
        loss = IMLoss(net)
        assert list(loss.nodes) == ["sn1", *(f"{name}.{last}" for name in blocks)]
        assert loss.nodes["sn1"] is net.sn1
        assert f"layers={len(blocks) + 1}: sn1, layer1.0.{last}, " in repr(loss)
    official = IMLoss(net, variant="official")
    assert set(official._kept.values()) == {"input_seq"}  # all that is left fire on sums


def test_the_blocks_of_membrane_shortcuts_are_known():
    ms_resnet = pytest.importorskip("spikingjelly.activation_based.model.ms_resnet", reason="not in 0.0.0.0.14")
    net = ms_resnet.ms_resnet18(num_classes=3)
    nodes = list(IMLoss(net, variant="spikes").nodes)
    assert nodes
    assert all(name.endswith("spike1") or "spike" not in name for name in nodes)
    blocks = [module for module in net.modules() if hasattr(module, "spike1")]
    assert sum(name.endswith("spike1") for name in nodes) == len(blocks) > 0


def test_what_is_named_must_be_a_node_of_the_network():
    net = two_layers()
    with pytest.raises(ValueError, match="the network has no module 'layer9': choose from"):
        IMLoss(net, nodes=["layer9"])
    with pytest.raises(ValueError, match="the module '0', a Linear, is no spiking node"):
        IMLoss(net, nodes=["0"])
    assert list(IMLoss(net, nodes=["3", net[1]]).nodes) == ["3", "1"]


# --- what it leaves alone ---


def test_it_has_no_parameters_and_no_state():
    net = two_layers()
    names = list(net.state_dict())
    loss = IMLoss(net)
    both = nn.ModuleDict({"net": net, "loss": loss})
    assert not list(loss.parameters())
    assert not loss.state_dict()
    assert [name.removeprefix("net.") for name in both.state_dict()] == names == list(net.state_dict())


def test_evaluation_keeps_no_potentials_and_a_reset_frees_them():
    net, x = two_layers(store_h_seq=True), normal(5, 4, 3).float()
    loss = IMLoss(net)
    net(x)
    loss().backward()
    kept = weakref.ref(net[1].h_seq)
    functional.reset_net(net)
    assert kept() is None
    net.eval()(x)
    assert net[1].h_seq is None
    assert net[3].h_seq is None


def test_closing_removes_the_hooks_and_restores_what_the_nodes_kept():
    net, x = nn.Sequential(node(store_h_seq=True), node()), normal(2, 3, 4)
    with IMLoss(net) as loss:
        net(x)
        assert net[1].h_seq is not None
        loss()
    for _ in range(2):
        loss.close()
        assert [m.store_h_seq for m in net] == [True, False]
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in net)
    functional.reset_net(net.eval())
    net(x)
    assert net[0].h_seq is not None
    assert net[1].h_seq is None


def test_closing_drops_the_inputs_of_blocks_too_and_evaluation_keeps_none():
    block = ResidualBlock(nn.Sequential(nn.Linear(3, 3)), nn.Identity(), node())
    loss = IMLoss(block, variant="official", nodes=[block.neuron])
    block(normal(3, 4, 3).float())
    assert block.neuron.input_seq.shape == (3, 4, 3)
    functional.reset_net(block)
    assert block.neuron.input_seq is None
    block.eval()(normal(3, 4, 3).float())
    assert block.neuron.input_seq is None
    loss.close()
    assert not block.neuron._forward_pre_hooks


def test_closing_the_spikes_variant_drops_the_spikes_and_another_may_follow():
    net, x = nn.Sequential(jelly_node()), normal(2, 3, 4).float()
    values = []
    for _ in range(2):
        with IMLoss(net, variant="spikes") as loss:
            net(x)
            values.append(loss().item())
        functional.reset_net(net)
        assert not net[0]._forward_hooks
        net(x)
        assert net[0].spike_seq is None
        functional.reset_net(net)
    assert values[0] == values[1] > 0


@pytest.mark.parametrize("variant", ["membrane", "spikes"])
def test_a_copy_neither_disturbs_the_original_nor_is_read(variant):
    net, x = two_layers(), normal(5, 4, 3).float()
    loss = IMLoss(net, variant=variant)
    net(x)
    expected = torch.autograd.grad(loss(), net[0].weight, retain_graph=True)
    other = copy.deepcopy(net)
    functional.reset_net(other)
    other(3 * x)
    other.eval()(x + 1)
    arguments = (net, "0.weight", lambda y: y.square().mean(), x)
    difference, found = finite_difference_gradient(*arguments), search_temperature(*arguments)
    assert torch.equal(torch.autograd.grad(loss(), net[0].weight, retain_graph=True)[0], expected[0])
    loss.close()
    functional.reset_net(net)
    assert torch.equal(finite_difference_gradient(*arguments), difference)
    assert search_temperature(*arguments) == found


def test_the_network_can_be_pickled_while_it_is_attached():
    net, x = two_layers(), normal(5, 4, 3).float()
    loss = IMLoss(net)
    expected, file = net(x), io.BytesIO()
    loss()
    torch.save(net, file)
    file.seek(0)
    other = torch.load(file, weights_only=False)
    functional.reset_net(other)
    assert torch.equal(other(x), expected)


# --- what it is for (section 4.2) ---

ITERATIONS = 200


class Deep:
    """A 19-layer network on the embedded digits, neither norm nor bias: 18 convolutions and a linear decoding layer.

    All weights are as torch initialises them, nothing is scaled to the network. Spikes get fewer from layer to layer,
    and from the third on there are none. T = 2, batches of 16 images; the surrogate is the paper's at its start,
    EvAF with k = 1, which lets gradients through silent neurons; SGD with learning rate 0.1 and momentum 0.9.
    """

    def __init__(self, weight):
        torch.manual_seed(0)
        channels = [3, *[16] * 18]
        blocks = [self.block(a, b, pool=i in (1, 3)) for i, (a, b) in enumerate(itertools.pairwise(channels), 1)]
        readout = [layer.AdaptiveAvgPool2d(1, step_mode="m"), layer.Flatten(step_mode="m")]
        self.net = nn.Sequential(*blocks, *readout, layer.Linear(16, 10, bias=False, step_mode="m"))
        self.im_loss = IMLoss(self.net, weight) if weight else None
        data = datasets.load("digits")
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
        self.inputs, self.labels = (data.train.inputs / 255 - mean) / std, data.train.labels

    @staticmethod
    def block(in_channels, channels, pool):
        convolution = layer.Conv2d(in_channels, channels, 3, padding=1, bias=False, step_mode="m")
        return nn.Sequential(convolution, node(surrogate_function=EvAF()), *[layer.AvgPool2d(2, step_mode="m")] * pool)

    def forward(self, examples):
        """The mean output, and how often each of the 18 layers of neurons fires."""
        rates = []
        handles = [b[1].register_forward_hook(lambda m, x, y: rates.append(y.mean().item())) for b in self.net[:18]]
        functional.reset_net(self.net)
        y = self.net(self.inputs[examples].expand(2, -1, -1, -1, -1)).mean(0)
        for handle in handles:
            handle.remove()
        return y, rates

    def rates(self):
        with torch.no_grad():
            return self.forward(slice(0, 512))[1]

    def train(self):
        """The first iteration in which every layer spikes, or None."""
        optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        generator, first = torch.Generator().manual_seed(0), None
        for iteration in range(ITERATIONS + 1):
            examples = torch.randint(len(self.labels), (16,), generator=generator)
            y, rates = self.forward(examples)
            if first is None and min(rates) > 0:
                first = iteration
            loss = F.cross_entropy(y, self.labels[examples]) + (self.im_loss() if self.im_loss else 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return first


def test_im_loss_makes_every_layer_of_a_silent_deep_network_spike(record_property):
    with_it, without = Deep(weight=2.0), Deep(weight=0.0)
    at_first = with_it.rates()
    assert without.rates() == at_first
    assert at_first[0] > 0.05
    assert at_first[4:] == [0.0] * 14
    iteration = with_it.train()
    record_property("first iteration in which every layer spikes", iteration)
    print(f"with IM-Loss every layer spikes for the first time in iteration {iteration}")
    assert 0 < iteration <= ITERATIONS
    assert min(with_it.rates()) > 0.05
    assert without.train() is None
    assert without.rates()[4:] == [0.0] * 14
