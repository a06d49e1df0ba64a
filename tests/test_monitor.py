"""Monitors see what the network does, of every batch, and leave it as it was."""

import copy
import math

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from spikingjelly.activation_based.model import spiking_resnet
from torch import nn

from jellyplus.layer import ThresholdDependentBatchNorm2d
from jellyplus.loss import IMLoss
from jellyplus.monitor import (
    Distribution,
    FiringRates,
    GradientHistogram,
    GradientNorm,
    JacobianTrace,
    MembranePotential,
    SpikeEntropy,
    SpikeRate,
)
from jellyplus.neuron import IterativeLIFNode, SRIFNode, backends

T = 3
EDGES = [-1.0, -0.25, 0.0, 0.5, 1.0, 1.5]
BACKENDS = pytest.mark.parametrize("backend", ["torch", "cpp"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def skip_without(backend):
    if found := backends.obstacle(backend):
        pytest.skip(str(found))


def small(backend="torch", step_mode="m"):
    """A convolution, a node, a linear layer and a node."""
    torch.manual_seed(1)
    net = nn.Sequential(
        layer.Conv2d(2, 3, 3, padding=1),
        IterativeLIFNode(backend=backend),
        layer.Flatten(),
        layer.Linear(3 * 4 * 4, 5),
        SRIFNode(backend=backend),
    )
    functional.set_step_mode(net, step_mode)
    return net


def sequence(n=7):
    return 2 * torch.randn(T, n, 2, 4, 4)


def run(net, x):
    """One batch [T, N, *] through a network in either step mode."""
    functional.reset_net(net)
    return net(x) if net[0].step_mode == "m" else torch.stack([net(x_t) for x_t in x])


def hooks(net):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()) + sum(
        len(p._backward_hooks or ()) for p in net.parameters()
    )


# --- Distribution ------------------------------------------------------------------------------------------------


def test_a_distribution_in_uneven_batches_is_numpys_of_all_at_once():
    x = torch.randn(1001)
    x[:6] = torch.tensor(EDGES)  # on every edge
    distribution = Distribution(EDGES)
    for part in x.split([1, 600, 0, 37, 363]):
        distribution.add(part.view(-1, 1))
    values = x.double().numpy()
    assert distribution.counts == np.histogram(values, EDGES)[0].tolist()
    assert (distribution.underflow, distribution.overflow) == ((values < -1).sum(), (values > 1.5).sum())
    assert distribution.count == 1001
    assert distribution.mean == pytest.approx(values.mean(), rel=1e-12)
    assert distribution.variance == pytest.approx(values.var(), rel=1e-12)


def test_edges_belong_to_the_bin_on_their_right_and_the_last_one_to_the_last_bin():
    distribution = Distribution([0, 1, 2])
    distribution.add(torch.tensor([0.0, 1.0, 2.0, math.inf, -math.inf, math.nan]))
    assert (distribution.counts, distribution.underflow, distribution.overflow) == ([1, 2], 1, 2)


def test_the_variance_survives_a_large_mean():
    """10^8 + (0, 1, 2, 3): variance 1.25; 10^16 in a sum of squares would leave no digit of it."""
    distribution = Distribution([0, 1])
    for value in range(4):
        distribution.add(torch.tensor([1e8 + value], dtype=torch.float64))
    assert distribution.variance == pytest.approx(1.25, rel=1e-6)
    assert distribution.mean == 1e8 + 1.5


def test_an_empty_distribution_has_no_mean():
    distribution = Distribution(EDGES)
    distribution.add(torch.empty(0))
    assert distribution.count == 0
    assert math.isnan(distribution.mean)
    assert math.isnan(distribution.variance)


@pytest.mark.parametrize("edges", [[], [0.0], [0.0, 0.0], [1.0, 0.0], [0.0, math.nan], [[0.0, 1.0]]])
def test_bad_edges_are_refused(edges):
    with pytest.raises(ValueError, match="bin_edges must be two or more increasing numbers"):
        Distribution(edges)


# --- SpikeRate ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode, IterativeLIFNode])
def test_planted_spikes(make):
    """Inputs of 10 fire, inputs of 0 do not: 4 of 6, then 1 of 3; 5 of 9 in all, and 10 / 9 spikes in two steps."""
    net = nn.Sequential(make(step_mode="m"))
    with torch.no_grad(), SpikeRate(net) as monitor:
        net(10 * torch.tensor([[[1.0, 0, 0]], [[1, 1, 1]]]))
        functional.reset_net(net)
        net(10 * torch.tensor([[[0.0, 1, 0]]]))
    assert monitor.rates == {"0": 5 / 9}
    assert monitor.spikes_per_neuron(2) == {"0": 10 / 9}
    with pytest.raises(ValueError, match="time_steps is None, and the passes had 1 and 2 time-steps: give theirs"):
        monitor.spikes_per_neuron()


def test_the_time_steps_of_spikes_per_neuron_are_those_of_the_passes():
    """Two spikes in 4 time-steps at threshold 1: with 8 typed by hand they were four."""
    net, x = nn.Sequential(neuron.IFNode(step_mode="m")), torch.full((4, 1, 1), 0.5)
    with torch.no_grad(), SpikeRate(net) as monitor:
        net(x)
    assert monitor.spikes_per_neuron() == monitor.spikes_per_neuron(4) == {"0": 2}
    with pytest.raises(ValueError, match="time_steps is 8, and the passes had 4 time-steps: give theirs"):
        monitor.spikes_per_neuron(8)
    functional.set_step_mode(net, "s")
    with torch.no_grad(), SpikeRate(net) as monitor:
        functional.reset_net(net)
        for x_t in x:
            net(x_t)
    assert monitor.spikes_per_neuron(4) == {"0": 2}
    with pytest.raises(ValueError, match="the passes had an unknown number of time-steps: give theirs"):
        monitor.spikes_per_neuron()


@BACKENDS
def test_rates_are_those_of_all_outputs_in_every_step_mode_and_batching(backend):
    skip_without(backend)
    x, net = sequence(), small(backend)
    first = nn.Sequential(*list(net)[:2])
    with torch.no_grad():
        spikes = {"1": run(first, x), "4": run(net, x)}
    expected = {name: sum(s.flatten().tolist()) / s.numel() for name, s in spikes.items()}
    assert all(0.1 < rate < 0.9 for rate in expected.values())
    for step_mode in ("m", "s"):
        for sizes in ([7], [1, 4, 2]):
            net = small(backend, step_mode)
            with torch.no_grad(), SpikeRate(net) as monitor:
                for part in x.split(sizes, dim=1):
                    run(net, part)
            assert monitor.rates == pytest.approx(expected, rel=1e-12)


class Recorder(neuron.IFNode):
    """SpikingJelly's node, which keeps what it gives; its own monitor cannot be imported without tensorboard."""

    def forward(self, *args):
        spikes = super().forward(*args)
        self.__dict__.setdefault("given", []).append(spikes.clone())
        return spikes


@pytest.mark.parametrize("step_mode", ["m", "s"])
def test_spikingjellys_own_model(step_mode):
    net = spiking_resnet.spiking_resnet18(spiking_neuron=Recorder, num_classes=4).eval()
    functional.set_step_mode(net, step_mode)
    x = 4 * torch.rand(2, 1, 3, 16, 16)
    with torch.no_grad(), SpikeRate(net) as monitor:
        _ = net(x) if step_mode == "m" else [net(x_t) for x_t in x]
    assert len(monitor.rates) == 17
    for name, rate in monitor.rates.items():
        given = torch.stack(net.get_submodule(name).given)
        assert rate == given.sum().item() / given.numel()
    assert monitor.rates["sn1"] > 0


@torch.no_grad()
def test_firing_rates_are_those_of_single_neurons():
    """Each neuron's spikes counted one by one, over two batches of different sizes."""
    net, edges, batches = small(), [0.0, 0.2, 0.5, 0.9, 1.0], [sequence(3), sequence(2)]
    with FiringRates(net, edges) as monitor:
        for x in batches:
            run(net, x)
    for layers, name in ((2, "1"), (5, "4")):
        trains = [train for x in batches for train in run(net[:layers], x).reshape(T, -1).T.tolist()]
        rates = [sum(train) / T for train in trains]
        found = monitor.distributions[name]
        assert found.counts == np.histogram(rates, edges)[0].tolist()
        assert found.count == len(rates)
        assert len(set(rates)) > 1


def test_firing_rates_need_whole_sequences():
    net = small(step_mode="s")
    with pytest.raises(ValueError, match="one time-step at a time"), FiringRates(net, [0.0, 1.0]):
        run(net, sequence())
    assert hooks(net) == 0


@BACKENDS
def test_entropies_are_those_of_all_spikes_whatever_the_batches(backend):
    """By counting; a mean of the batches' entropies would be lower, since entropy is concave."""
    skip_without(backend)
    x, net = sequence(), small(backend)
    spikes = run(net, x)
    share = spikes.count_nonzero().item() / spikes.numel()
    expected = sum(-p * math.log2(p) for p in (share, 1 - share))
    with torch.no_grad(), SpikeEntropy(net) as monitor:
        for part in x.split([1, 2, 4], dim=1):
            run(net, part)
    assert monitor.entropies["4"] == pytest.approx(expected)
    assert 0 < expected < 1


@pytest.mark.parametrize(("level", "bits"), [(0.0, 0.0), (2.0, 0.0), (None, 1.0)])
def test_entropy_is_nothing_where_none_or_all_fire_and_one_bit_where_half_do(level, bits):
    net = nn.Sequential(IterativeLIFNode(step_mode="m"))
    x = torch.tensor([[0.0, 2.0], [2.0, 0.0]]) if level is None else torch.full((2, 2), level)
    with torch.no_grad(), SpikeEntropy(net) as monitor:
        net(x)
    assert monitor.entropies == {"0": bits}


def test_a_node_that_did_not_run_has_no_rate():
    net = small()
    with torch.no_grad(), SpikeRate(net) as monitor:
        net[1](torch.ones(T, 1, 2))
    assert monitor.rates["1"] > 0
    assert math.isnan(monitor.rates["4"])


# --- MembranePotential -------------------------------------------------------------------------------------------


def rectified(u):
    """Eq. 10 for one number."""
    if u < 0:
        return 1 - (1 - u) ** (1 / 3)
    return math.tanh(3 * (u - 0.5)) / (2 * math.tanh(1.5)) + 0.5 if u <= 1 else u ** (1 / 3)


def charged(x, decay, spike_size):
    """H of every neuron and time-step, one number at a time; reset to 0, or by ``spike_size``."""
    potentials = []
    for inputs in x.flatten(1).T.double().tolist():
        v = 0.0
        for value in inputs:
            h = decay * v + value
            potentials.append(h)
            v = h if h < 0.5 else 0.0 if spike_size is None else h - spike_size
    return np.array(potentials)


def equal(distribution, values):
    assert distribution.counts == np.histogram(values, EDGES)[0].tolist()
    assert distribution.underflow == (values < EDGES[0]).sum()
    assert distribution.overflow == (values > EDGES[-1]).sum()
    assert distribution.mean == pytest.approx(values.mean(), rel=1e-5)
    assert distribution.variance == pytest.approx(values.var(), rel=1e-5)


@BACKENDS
@pytest.mark.parametrize(
    ("make", "decay", "spike_size"),
    [(IterativeLIFNode, 0.25, None), (SRIFNode, 1.0, 1.0), (lambda **k: SRIFNode(rectify=False, **k), 1.0, 1.0)],
    ids=["lif", "srif", "srif without mpr"],
)
@pytest.mark.parametrize("sizes", [[7], [2, 4, 1]], ids=str)
def test_potentials_and_quantisation_error_are_the_loops(backend, make, decay, spike_size, sizes):
    skip_without(backend)
    net, x = nn.Sequential(make(step_mode="m", backend=backend)), torch.randn(T, 7, 30)
    with torch.no_grad(), MembranePotential(net, EDGES) as monitor:
        for part in x.split(sizes, dim=1):
            run_alone(net, part)
    (potential,) = monitor.potentials.values()
    h = charged(x, decay, spike_size)
    phi = np.array([rectified(u) for u in h])
    equal(potential.input, x.double().numpy())
    equal(potential.before, h)
    equal(potential.after, phi)
    assert potential.error_before == pytest.approx(sum((u - (u >= 0.5)) ** 2 for u in h) / len(h), rel=1e-5)
    assert potential.error_after == pytest.approx(
        sum((p - (u >= 0.5)) ** 2 for u, p in zip(h, phi, strict=True)) / len(h), rel=1e-5
    )
    assert potential.error_after < potential.error_before  # spike approaching


def run_alone(net, x):
    functional.reset_net(net)
    return net(x)


def test_the_spike_is_that_of_h_at_any_threshold():
    """V_th = 0.3, H = 0.35: it fires, o = 1, although phi(0.35) = 0.26. Before (0.65)^2, after (1 - 0.2650)^2."""
    net = nn.Sequential(IterativeLIFNode(v_threshold=0.3, step_mode="m"))
    with torch.no_grad(), MembranePotential(net, EDGES) as monitor:
        net(torch.tensor([[0.35]]))
    phi = math.tanh(-0.45) / (2 * math.tanh(1.5)) + 0.5
    assert phi < 0.3
    assert monitor.potentials["0"].error_before == pytest.approx(0.4225, rel=1e-6)
    assert monitor.potentials["0"].error_after == pytest.approx((1 - phi) ** 2, rel=1e-6)


def test_only_the_named_nodes_are_watched():
    net = nn.Sequential(small(), neuron.IFNode())
    with torch.no_grad(), MembranePotential(net, EDGES, names=["0.1"]) as monitor:
        run(net[0], sequence(2))
    assert list(monitor.potentials) == ["0.1"]
    assert monitor.potentials["0.1"].before.count == T * 2 * 3 * 4 * 4
    assert hooks(net) == 0


def test_nodes_without_a_potential_are_refused_and_nothing_stays_attached():
    net = nn.Sequential(small(), neuron.IFNode())
    functional.set_step_mode(net, "m")
    with pytest.raises(ValueError, match=r"node '1', a IFNode.*use jellyplus.neuron"), MembranePotential(net, EDGES):
        pass
    assert hooks(net) == 0
    single = small(step_mode="s")
    with pytest.raises(ValueError, match=r"node '1' .*set_step_mode\(net, 'm'\)"), MembranePotential(single, EDGES):
        pass
    net = small()
    with MembranePotential(net, EDGES):
        functional.set_step_mode(net, "s")
        with pytest.raises(ValueError, match=r"set_step_mode\(net, 'm'\)"):
            run(net, sequence(1))
    with pytest.raises(ValueError, match="no node '7': its nodes are '1', '4'"):
        MembranePotential(net, EDGES, names=["7"])


@pytest.mark.parametrize("wanted", [True, False])
def test_h_is_kept_only_where_it_was_wanted(wanted):
    net = small()
    net[1].store_h_seq = wanted
    with MembranePotential(net, EDGES):
        run(net, sequence())
        assert (net[1].h_seq is not None) == wanted
        assert net[4].h_seq is None
    assert (net[1].store_h_seq, net[4].store_h_seq) == (wanted, False)
    if wanted:
        assert net[1].h_seq.grad_fn is not None


def test_store_h_seq_is_restored_after_a_pass_that_fails():
    net = small()
    run(net, sequence(3))
    with pytest.raises(ValueError, match="reset_net"), MembranePotential(net, EDGES):
        net(sequence(2))
    assert not net[1].store_h_seq
    assert hooks(net) == 0


@pytest.mark.parametrize("training", [True, False])
def test_im_loss_on_the_same_nodes_sets_store_h_seq_before_every_pass(training):
    x, results = sequence(), []
    for watch in (False, True):
        net = small().train(training)
        loss = IMLoss(net)
        with MembranePotential(net, EDGES) if watch else SpikeRate(net) as monitor:
            out = run(net, x)
            if training:
                (loss() + out.mean()).backward()
        results.append([p.grad for p in net.parameters()])
        assert not watch or monitor.potentials["4"].before.count == T * 7 * 5
    if training:
        for a, b in zip(*results, strict=True):
            assert torch.equal(a, b)


# --- Gradients ---------------------------------------------------------------------------------------------------


def test_norms_are_means_over_backward_passes_of_what_each_adds():
    """y = w . x: gradients (3, 4) and (5, 12) + (0, 0), norms 5 and 13, mean 9, although .grad accumulates."""
    net = nn.Sequential(nn.Linear(2, 1))
    with GradientNorm(net) as monitor:
        net(torch.tensor([[3.0, 4.0]])).sum().backward()
        net(torch.tensor([[5.0, 12.0], [0.0, 0.0]])).sum().backward()
    assert monitor.norms == {"0": 9.0}
    assert net[0].weight.grad.tolist() == [[8.0, 16.0]]


@BACKENDS
@pytest.mark.parametrize("step_mode", ["m", "s"])
def test_norms_and_histograms_are_those_of_the_gradients(backend, step_mode):
    """In step mode 's' a weight is used T times and its gradient still counted once, as a whole."""
    skip_without(backend)
    edges = [-0.05, -0.01, 0.0, 0.01, 0.05]
    x, net = sequence(), small(backend, step_mode)
    norms, elements = [], []
    with GradientNorm(net) as monitor, GradientHistogram(net, "0.weight", edges) as histogram:
        for part in x.split([2, 5], dim=1):
            net.zero_grad()
            run(net, part).square().mean().backward()
            norms.append({name: math.sqrt(sum(g**2 for g in grads(net[int(name)]))) for name in ("0", "3")})
            elements += grads(net[0])
    assert monitor.norms == pytest.approx({name: (norms[0][name] + norms[1][name]) / 2 for name in ("0", "3")})
    assert all(norm > 0 for norm in monitor.norms.values())
    distribution = histogram.distribution
    assert distribution.counts == np.histogram(elements, edges)[0].tolist()
    assert distribution.count == len(elements) == 2 * 54
    assert distribution.variance == pytest.approx(np.var(elements), rel=1e-6)


def grads(module):
    return module.weight.grad.double().flatten().tolist()


def test_frozen_weights_have_no_gradient_to_watch():
    net = small()
    net[0].weight.requires_grad_(False)
    with GradientNorm(net) as monitor:
        run(net, sequence()).sum().backward()
    assert list(monitor.norms) == ["3"]
    for name in ("0.weight", "weight"):
        with pytest.raises(ValueError, match=f"no parameter '{name}' with a gradient"):
            GradientHistogram(net, name, EDGES)
    assert math.isnan(GradientNorm(net).norms["3"])


# --- Jacobians ---------------------------------------------------------------------------------------------------


def blocks_of(decay, training=True):
    """Two blocks between three tdBN, in double precision: a neuron, a convolution and the norm."""
    torch.manual_seed(2)
    net = nn.Sequential(
        layer.Conv2d(2, 3, 3, padding=1, bias=False),
        ThresholdDependentBatchNorm2d(1.0, 0.5, 3),
        IterativeLIFNode(decay),
        layer.Conv2d(3, 2, 3, padding=1, bias=False),
        ThresholdDependentBatchNorm2d(1.0, 0.5, 2),
        IterativeLIFNode(decay),
        layer.Conv2d(2, 4, 3, padding=1, stride=2, bias=False),
        ThresholdDependentBatchNorm2d(1.0, 0.5, 4),
    )
    functional.set_step_mode(net, "m")
    net[1].momentum = net[4].momentum = net[7].momentum = 1.0  # the running statistics are those of this pass
    run(net.double(), torch.randn(T, 2, 2, 4, 4, dtype=torch.float64))
    return net.train(training)


BLOCKS = [("1", "4"), ("4", "7")]


def exact_traces(net, x):
    """By torch.autograd.functional.jacobian, with the tensor that each block begins with as an input of its own."""
    found = []
    for start, end in BLOCKS:
        functional.reset_net(net)
        head, block = net[: int(start) + 1], net[int(start) + 1 : int(end) + 1]
        begin = head(x).detach()
        jacobian = torch.autograd.functional.jacobian(lambda u: block(reset(block, u)), begin)  # noqa: B023
        size = jacobian.shape[: begin.dim()].numel()
        square = jacobian.reshape(size, -1) @ jacobian.reshape(size, -1).T
        found.append(square.trace().item() / size)
    return dict(zip(BLOCKS, found, strict=True))


def reset(block, u):
    functional.reset_net(block)
    return u


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("training", [True, False])
def test_traces_are_those_of_the_jacobian(decay, training):
    x = torch.randn(T, 2, 2, 4, 4, dtype=torch.float64)
    net = blocks_of(decay, training)
    expected = exact_traces(net, x)
    with JacobianTrace(net, probes=None) as exact, JacobianTrace(net, BLOCKS, probes=500) as drawn:
        run(net, x)
    assert exact.traces == pytest.approx(expected, rel=1e-12)
    assert drawn.traces == pytest.approx(expected, rel=0.05)
    assert all(trace > 0.05 for trace in expected.values())


def test_traces_are_means_over_time_steps_where_nothing_carries_over():
    """The theorem's J is that of one time-step: decay 0, and statistics that do not react."""
    x = torch.randn(T, 2, 2, 4, 4, dtype=torch.float64)
    net = blocks_of(0.0, training=False)
    found = []
    for part in [x, *x.split(1)]:
        with JacobianTrace(net, probes=None) as monitor:
            run(net, part)
        found.append(monitor.traces["1", "4"])
    whole, *steps = found
    assert whole == pytest.approx(sum(steps) / T, rel=1e-12)
    assert len({round(step, 6) for step in steps}) > 1


def test_traces_are_means_over_passes_and_leave_the_random_state():
    """By hand: J is (3, 4), then (0, 1), and |J^T z|^2 is 25, then 1, for five examples and whatever signs z has."""
    net = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
    before = torch.get_rng_state()
    with JacobianTrace(net, [("0", "1")]) as monitor:
        assert math.isnan(monitor.traces["0", "1"])
        for weight in ([3.0, 4.0], [0.0, 1.0]):
            net[1].weight.data.copy_(torch.tensor([weight]))
            net(torch.ones(5, 1))
    assert monitor.traces == {("0", "1"): pytest.approx(13)}
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "no two tdBN with a block between them"),
        ({"blocks": [("0", "9")]}, "no module '9'"),
        ({"blocks": []}, "give blocks"),
        ({"blocks": [("0", "3")], "probes": 0}, "probes is 0"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        JacobianTrace(small(), **arguments)


def test_passes_without_a_jacobian_are_refused_and_nothing_stays_attached():
    net = small()
    with pytest.raises(ValueError, match="'0' does not depend on that of '3'"), JacobianTrace(net, [("3", "0")]):
        run(net, sequence())
    with pytest.raises(ValueError, match="gradients enabled"), torch.no_grad(), JacobianTrace(net, [("0", "3")]):
        run(net, sequence())
    assert hooks(net) == 0


# --- All of them -------------------------------------------------------------------------------------------------


def every_monitor(net):
    return [
        SpikeRate(net),
        SpikeEntropy(net),
        FiringRates(net, EDGES),
        MembranePotential(net, EDGES),
        GradientNorm(net),
        GradientHistogram(net, "0.weight", EDGES),
        JacobianTrace(net, [("0", "3")]),
    ]


@BACKENDS
def test_training_inside_gives_identical_spikes_and_gradients(backend):
    skip_without(backend)
    x, results = sequence(), []
    for watch in (False, True):
        net = small(backend)
        monitors = every_monitor(net) if watch else []
        for monitor in monitors:
            monitor.__enter__()
        spikes = run(net, x)
        spikes.square().mean().backward()
        for monitor in reversed(monitors):
            monitor.__exit__(None, None, None)
        results.append([spikes, *(p.grad for p in net.parameters())])
    for without, inside in zip(*results, strict=True):
        assert torch.equal(without, inside)


@pytest.mark.parametrize("which", range(7))
def test_hooks_live_as_long_as_the_block_and_counting_goes_on_in_the_next(which):
    net = small()
    monitor = every_monitor(net)[which]
    counts = []
    for _ in range(2):
        with monitor:
            assert hooks(net) > 0
            with pytest.raises(ValueError, match="watches already"), monitor:
                pass
            run(net, sequence()).sum().backward()
        assert hooks(net) == 0
        run(net, sequence()).sum().backward()
        counts.append(seen(monitor))
    assert counts[1] == 2 * counts[0] > 0
    with pytest.raises(RuntimeError, match="stop"), monitor:
        raise RuntimeError("stop")
    assert hooks(net) == 0


def seen(monitor):
    if isinstance(monitor, MembranePotential):
        return monitor.potentials["4"].after.count
    if isinstance(monitor, GradientHistogram):
        return monitor.distribution.count
    if isinstance(monitor, FiringRates):
        return monitor.distributions["4"].count
    return next(iter(monitor._means.values())).count


COMPILED = {
    "wrapped": lambda net: torch.compile(net, backend="eager"),
    "in place": lambda net: net.compile(backend="eager") or net,
    "a part": lambda net: net.append(torch.compile(nn.Sequential(*(net.pop(2) for _ in range(3))), backend="eager")),
    "a function": lambda net: torch.compile(lambda x: net(x), backend="eager"),
}
NAMED_BY_PART = {"1": "1", "4": "2.2", "0": "0", "3": "2.1", "0.weight": "0.weight"}


def values(monitor):
    """What a monitor found, by the names that it gives."""
    found = next(name for name in ("potentials", "distributions", "norms", "traces", "rates") if hasattr(monitor, name))
    return {
        name: getattr(value, "mean", getattr(getattr(value, "after", 0), "mean", value))
        for name, value in getattr(monitor, found).items()
    }


@pytest.mark.parametrize("how", COMPILED)
def test_a_compiled_network_is_watched_as_it_was_before_by_its_own_names(how):
    """Compiled code has no hooks in it: rates were nan, and the first of these names was ``_orig_mod.1``."""
    x = sequence()
    net = small()
    with SpikeRate(net) as rates, GradientNorm(net) as norms, MembranePotential(net, EDGES) as potentials:
        run(net, x).sum().backward()
    expected = [values(monitor) for monitor in (rates, norms, potentials)]
    net = small()
    compiled = COMPILED[how](net)
    functional.reset_net(net)
    compiled(x)
    functional.reset_net(net)
    watched = net if how == "a function" else compiled
    monitors = SpikeRate(watched), GradientNorm(watched), MembranePotential(watched, EDGES)
    with monitors[0], monitors[1], monitors[2]:
        compiled(x).sum().backward()
    names = NAMED_BY_PART if how == "a part" else {name: name for name in NAMED_BY_PART}
    for monitor, of_uncompiled in zip(monitors, expected, strict=True):
        assert values(monitor) == {names[name]: pytest.approx(value) for name, value in of_uncompiled.items()}


def test_names_that_are_given_may_be_those_of_the_compiled_network():
    net, x = torch.compile(small(), backend="eager"), sequence()
    watch = [
        MembranePotential(net, EDGES, ["_orig_mod.4"]),
        JacobianTrace(net, [("_orig_mod.0", "_orig_mod.3")]),
        GradientHistogram(net, "_orig_mod.0.weight", EDGES),
    ]
    with watch[0], watch[1], watch[2]:
        net(x).sum().backward()
    assert list(watch[0].potentials) == ["4"]
    assert list(watch[1].traces) == [("0", "3")]
    assert watch[1].traces["0", "3"] > 0
    assert watch[2].distribution.count == 3 * 2 * 9


def test_what_is_compiled_inside_the_block_counts_inside_alone_and_compiling_works_behind_it():
    net, x = small(), sequence()
    compiled_graphs = []

    def backend(graph, inputs):
        compiled_graphs.append(graph)
        return graph.forward

    first, second = SpikeRate(net), SpikeRate(net)
    first.__enter__(), second.__enter__()
    net.compile(backend=backend)
    functional.reset_net(net)
    net(x)
    seen_inside = first._means["1"].count
    first.__exit__(), second.__exit__()  # not the last that was entered first
    assert not compiled_graphs
    functional.reset_net(net)
    net(x)
    assert compiled_graphs
    assert first._means["1"].count == seen_inside > 0


def test_a_copy_of_the_network_made_inside_is_not_counted():
    """The temperature search and finite differences run on copies."""
    net = small()
    with SpikeRate(net) as rates, MembranePotential(net, EDGES) as potentials:
        run(net, sequence())
        before = rates.rates, potentials.potentials["1"].before.count
        run(copy.deepcopy(net), torch.zeros(T, 2, 2, 4, 4))
    assert (rates.rates, potentials.potentials["1"].before.count) == before


def test_a_network_without_nodes_is_refused():
    for make in (SpikeRate, lambda net: MembranePotential(net, EDGES)):
        with pytest.raises(ValueError, match="no SpikingJelly node"):
            make(nn.Linear(1, 1))
