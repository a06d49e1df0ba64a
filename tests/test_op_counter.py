"""Operations are counted as by hand and as in loops over taps, and the papers' rows come out of them."""

import dataclasses
import importlib.util
import io
import itertools
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from spikingjelly.activation_based.model import spiking_resnet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import ResNet18_Weights

from jellyplus import model
from jellyplus.monitor import SpikeRate
from jellyplus.neuron import IterativeLIFNode, backends
from jellyplus.op_counter import CONVENTIONS, Convention, OperationCounter, Tallies, Tally, energy_table

SPEC = importlib.util.spec_from_file_location("operations", Path(__file__).parents[1] / "benchmarks" / "operations.py")
operations = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(operations)

PAPERS = Convention()
INSIDE = Convention(padded_taps=False)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def spikes(*shape, rate=0.3):
    return (torch.rand(*shape) < rate).float()


@torch.no_grad()
def count(net, x, convention=PAPERS, examples=1, time_steps=1):
    with OperationCounter(net) as counter:
        net(x)
    return counter.count(examples, time_steps, convention)


def one(net, x, convention=PAPERS, **arguments):
    (row,) = count(net, x, convention, **arguments).layers
    return row


# --- By hand -----------------------------------------------------------------------------------------------------


def image(size, *places):
    x = torch.zeros(1, 1, size, size)
    for row, column in places:
        x[0, 0, row, column] = 1
    return x


def test_a_2x2_convolution_without_padding():
    """3x3 image, 2x2 outputs of 4 taps: 16 MACs. The corner is read once, the centre 4 times: 5 additions, exactly.

    By rate they are 2 / 9 of 16.
    """
    conv, x = nn.Conv2d(1, 1, 2, bias=False), image(3, (0, 0), (1, 1))
    exact, papers = one(conv, x, INSIDE), one(conv, x, PAPERS)
    assert (exact.macs, exact.additions, exact.multiplications) == (16, 5, 0)
    assert (papers.macs, papers.additions, papers.multiplications) == (16, pytest.approx(32 / 9), 0)
    assert exact.spike_rate == papers.spike_rate == 2 / 9


def test_a_2x2_convolution_with_padded_taps():
    """Padded by 1, 4x4 outputs of 4 taps are 64 MACs, and each of the 9 pixels is read 4 times: 36 are inside."""
    conv, x = nn.Conv2d(1, 1, 2, padding=1, bias=False), image(3, (0, 0), (1, 1))
    exact, papers = one(conv, x, INSIDE), one(conv, x, PAPERS)
    assert (exact.macs, exact.additions) == (36, 8)
    assert (papers.macs, papers.additions) == (64, pytest.approx(128 / 9))


def test_a_layer_that_multiplies_is_charged_for_every_mac():
    """A pixel of 0.5 makes it multiply: 16 of each, 16 x 5.5 pJ; 16 x 4.6 pJ where its additions do not count."""
    conv, x = nn.Conv2d(1, 1, 2), 0.5 * image(3, (1, 1))
    row = one(conv, x)
    assert (row.additions, row.multiplications, row.energy_pj) == (16, 16, pytest.approx(88))
    row = one(conv, x, Convention(additions_of_multiplying=False))
    assert (row.additions, row.multiplications, row.energy_pj) == (0, 16, pytest.approx(73.6))


def test_every_setting_of_the_energy():
    """4 inputs, 3 outputs, 2 spikes: 6 additions of 2 pJ; all 12 MACs at 2 + 10 pJ where named."""
    linear, x = nn.Sequential(nn.Linear(4, 3)), torch.tensor([[1.0, 0, 0, 1]])
    dear = Convention(pj_per_addition=2, pj_per_multiplication=10)
    assert one(linear, x, dear)[2:] == (12, 0.5, 6, 0, 12)
    assert one(linear, x, dataclasses.replace(dear, multiplying=("0",)))[2:] == (12, 0.5, 12, 12, 144)


def test_only_zeros_and_ones_are_spikes_unless_the_convention_names_the_layers():
    linear = nn.Sequential(nn.Linear(4, 3))
    for value in (0.5, 2.0, -1.0):
        x = torch.tensor([[1.0, value, 0, 0]])
        assert one(linear, x).multiplications == 12
        assert one(linear, x, Convention(multiplying=()))[4:6] == (6, 0)


def test_one_batch_of_many_that_is_not_binary_makes_a_layer_multiply():
    linear = nn.Sequential(nn.Linear(4, 3))
    with OperationCounter(linear) as counter, torch.no_grad():
        for last in (1.0, 0.5, 1.0):
            linear(torch.tensor([[1.0, 0, 0, last]]))
    (row,) = counter.count(3, 1).layers
    assert (row.spike_rate, row.multiplications) == (0.5, 12)


def test_two_layers_by_hand_under_each_convention():
    """4 inputs to 3 neurons to 2 outputs, T = 2: 24 and 12 MACs. A spike image (1, 0, 0, 1) at both time-steps.

    Every weight of the first layer is 1, so all 3 neurons fire each time: H = 2. The first layer would add 2 x 2 x 3 =
    12 times, the second 2 x 3 x 2 = 12 times. What multiplies has all of its MACs in either column.
    """
    net = nn.Sequential(nn.Linear(4, 3, bias=False), IterativeLIFNode(step_mode="m"), nn.Linear(3, 2))
    nn.init.ones_(net[0].weight)
    by_name = {
        name: count(net, torch.tensor([1.0, 0, 0, 1]).expand(2, 1, 4), convention, 1, 2)
        for name, convention in CONVENTIONS.items()
    }
    operations = {name: (found.total.additions, found.total.multiplications) for name, found in by_name.items()}
    assert operations == {"default": (12 + 12, 0), "dspike": (24 + 12, 24), "tdbn": (24 + 12, 24 + 12)}
    energies = {name: found.total.energy_pj for name, found in by_name.items()}
    # 24 x 0.9; 36 x 0.9 + 24 x 4.6; 36 x 5.5
    assert energies == pytest.approx({"default": 21.6, "dspike": 142.8, "tdbn": 198.0})
    assert by_name["default"].firing_rate == 1


def test_pictures_multiply_in_the_first_layer_and_sums_of_spikes_by_what_was_measured_alone():
    """4 MACs for each layer of 2 inputs and 2 outputs. The second gets 0 or 1, the third the sum of two, 0 or 2."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Threshold(math.inf, 1.0), nn.Linear(2, 2), nn.Threshold(math.inf, 2.0))
    net.extend([nn.Linear(2, 2), nn.Threshold(math.inf, 1.0), nn.Linear(2, 2), IterativeLIFNode()])
    found = {name: count(net, torch.rand(1, 2), convention) for name, convention in CONVENTIONS.items()}
    multiplying = {name: [row.name for row in of.layers if row.multiplications] for name, of in found.items()}
    assert multiplying == {"default": ["0", "4"], "dspike": ["0"], "tdbn": ["0", "6"]}


def test_in_an_ann_every_layer_multiplies_whatever_the_convention():
    net = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 2))
    for convention in CONVENTIONS.values():
        total = count(net, torch.rand(5, 4), convention, examples=5).total
        assert (total.macs, total.additions, total.multiplications) == (18, 18, 18)


def test_one_energy_of_an_operation_for_all_conventions():
    charges = {(c.pj_per_addition, c.pj_per_multiplication) for c in CONVENTIONS.values()}
    assert charges == {(0.9, 4.6)}


# --- Loops over taps ---------------------------------------------------------------------------------------------

CONVOLUTIONS = {
    "1d": nn.Conv1d(2, 3, 3, padding=2),
    "2d": nn.Conv2d(3, 4, 3, padding=1),
    "3d": nn.Conv3d(2, 2, (2, 1, 3), padding=(0, 1, 1), stride=(1, 2, 1)),
    "stride": nn.Conv2d(2, 3, 3, stride=2, padding=1),
    "1x1 with stride": nn.Conv2d(2, 3, 1, stride=2),
    "dilation": nn.Conv2d(2, 3, (3, 2), dilation=(2, 3), padding=(2, 1)),
    "groups": nn.Conv2d(4, 6, 3, groups=2, padding=1),
    "depthwise": nn.Conv2d(4, 4, 3, groups=4),
    "each way another": nn.Conv2d(2, 3, (1, 4), stride=(2, 1), padding=(0, 3), dilation=(1, 2)),
    "same, even": nn.Conv2d(2, 3, (4, 2), padding="same", dilation=2),
    "same, uneven": nn.Conv1d(2, 3, 4, padding="same"),
    "valid": nn.Conv2d(2, 3, 2, padding="valid"),
    "circular": nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
    "reflect": nn.Conv2d(2, 3, 3, padding=2, padding_mode="reflect"),
    "replicate": nn.Conv2d(2, 3, 3, padding=2, padding_mode="replicate"),
}


def taken_from(place, size, mode):
    """The pixel that a padded place shows, or None for a zero."""
    if 0 <= place < size:
        return place
    if mode == "zeros":
        return None
    if mode == "circular":
        return place % size
    nearest = min(max(place, 0), size - 1)
    return nearest if mode == "replicate" else 2 * nearest - place


def loop(conv, x):
    """MACs with padding, MACs inside and additions: every tap of every output of every example."""
    with_padding = inside = additions = 0
    space = x.shape[2:]
    offset = [0] * len(space) if conv.padding == "valid" else conv.padding
    if conv.padding == "same":  # the smaller half first
        offset = [d * (k - 1) // 2 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    outputs, outside = conv(x).shape[2:], conv.out_channels // conv.groups
    for n, c in itertools.product(range(len(x)), range(x.shape[1])):
        for output in itertools.product(*map(range, outputs)):
            for tap in itertools.product(*map(range, conv.kernel_size)):
                each = zip(output, conv.stride, tap, conv.dilation, offset, space, strict=True)
                pixel = [taken_from(o * s + t * d - p, size, conv.padding_mode) for o, s, t, d, p, size in each]
                with_padding += outside
                if None not in pixel:
                    inside += outside
                    additions += outside * (x[(n, c, *pixel)] != 0).item()
    return with_padding, inside, additions


@pytest.mark.filterwarnings("ignore:Using padding=.same.:UserWarning")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_are_counted_as_in_a_loop_over_taps(name):
    conv = CONVOLUTIONS[name]
    x = spikes(2, conv.in_channels, *(4, 6, 5)[: len(conv.kernel_size)])
    with_padding, inside, additions = loop(conv, x)
    rate = x.mean().item()
    papers, exact = one(conv, x, PAPERS, examples=2), one(conv, x, INSIDE, examples=2)
    assert papers.macs == with_padding / 2
    assert papers.additions == pytest.approx(rate * with_padding / 2)
    assert (exact.macs, exact.additions) == (inside / 2, additions / 2)
    assert exact.spike_rate == pytest.approx(rate)


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 7, 5), (3, 2, 7, 5)], ids=str)
def test_linear_layers_over_any_leading_dimensions(shape):
    """The first of them are the examples."""
    linear, x, examples = nn.Linear(5, 4), spikes(*shape), shape[0] if len(shape) > 1 else 1
    rows = [one(linear, x, convention, examples=examples) for convention in (PAPERS, INSIDE)]
    for row in rows:
        assert row.macs * examples == 4 * x.numel()
        assert row.additions * examples == pytest.approx(4 * x.sum().item())


def test_an_image_without_a_batch():
    x = spikes(1, 2, 5, 5)
    conv = nn.Conv2d(2, 3, 3, padding=1)
    assert one(conv, x[0], INSIDE) == one(conv, x, INSIDE)


# --- Networks ----------------------------------------------------------------------------------------------------

T = 3


def small(step_mode="m", backend="torch", container=False):
    torch.manual_seed(1)
    first, second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3, stride=2, padding=1)
    if not container:
        first, second = layer.Conv2d(2, 4, 3, padding=1), layer.Conv2d(4, 3, 3, stride=2, padding=1)
        torch.manual_seed(1)
        first.reset_parameters(), second.reset_parameters()
    wrap = layer.SeqToANNContainer if container else nn.Sequential
    net = nn.Sequential(
        wrap(first),
        IterativeLIFNode(backend=backend),
        wrap(second),
        IterativeLIFNode(backend=backend),
        wrap(nn.Flatten() if container else layer.Flatten(), (nn.Linear if container else layer.Linear)(3 * 3 * 3, 5)),
    )
    torch.manual_seed(2)
    net[4][1].reset_parameters()
    for module in net.modules():
        if hasattr(module, "step_mode") and not isinstance(module, layer.SeqToANNContainer):
            module.step_mode = step_mode
    return net


@torch.no_grad()
def run(net, x):
    functional.reset_net(net)
    return [net(x_t) for x_t in x] if net[1].step_mode == "s" else net(x)


def counted(net, x, sizes, convention):
    with OperationCounter(net) as counter:
        for part in x.split(sizes, dim=1):
            run(net, part)
    return counter.count(x.shape[1], T, convention)


@pytest.mark.parametrize("convention", [PAPERS, INSIDE], ids=["papers", "inside"])
def test_step_modes_containers_batchings_and_backends_agree(convention):
    x = 2 * torch.randn(T, 5, 2, 6, 6)
    whole = counted(small(), x, [5], convention)
    # 6x6: 2 x 4 x 9 x 36 MACs; 3x3: 4 x 3 x 9 x 9; 27 x 5; each T times
    if convention is PAPERS:
        assert [row.macs for row in whole.layers] == [T * 2592, T * 972, T * 135]
    assert [row.name for row in whole.layers] == ["0.0", "2.0", "4.1"]
    assert whole.layers[0].multiplications == whole.layers[0].macs
    for row in whole.layers[1:]:
        assert 0.02 < row.spike_rate < 0.9
        assert row.multiplications == 0
        assert 0 < row.additions < row.macs
    variants = {
        "s": (small("s"), [5]),
        "batches": (small(), [1, 3, 1]),
        "container": (small(container=True), [5]),
    }
    if not backends.obstacle("cpp"):
        variants["cpp"] = (small(backend="cpp"), [2, 3])
    for name, (net, sizes) in variants.items():
        assert counted(net, x, sizes, convention) == whole, name


@pytest.mark.parametrize("spiking", [True, False])
def test_a_compiled_network_has_the_operations_of_the_network(spiking):
    """It had none: "no layer has run"."""
    net = small() if spiking else nn.Sequential(nn.Flatten(), nn.Linear(72, 3), nn.ReLU())
    x = torch.randn(*((T, 2) if spiking else (2,)), 2, 6, 6)
    expected = count(net, x, examples=2, time_steps=T if spiking else 1)
    wrapped = torch.compile(net, backend="eager")
    for watched, called in ((wrapped, wrapped), (wrapped, net), (net, wrapped)):
        functional.reset_net(net)
        with torch.no_grad(), OperationCounter(watched) as counter:
            called(x)
        assert counter.count() == expected
    net.compile(backend="eager")
    functional.reset_net(net)
    assert count(net, x, examples=2, time_steps=T if spiking else 1) == expected


def test_spikingjelly_2_counts_the_same():
    """Its synaptic operations are our exact additions, its MACs, of the layer that pictures feed, ours with padding."""
    theirs = pytest.importorskip("spikingjelly.activation_based.op_counter", reason="SpikingJelly 0.0.0.0.14 has none")
    net, x = small().requires_grad_(False), 2 * torch.randn(T, 5, 2, 6, 6)
    synaptic, multiplying = theirs.SynOpCounter(), theirs.MACCounter()
    with theirs.DispatchCounterMode([synaptic, multiplying]):
        net(x)
    functional.reset_net(net)
    exact, papers = count(net, x, INSIDE, 5, T), count(net, x, PAPERS, 5, T)
    additions = sum(row.additions for row in exact.layers if not row.multiplications)
    assert 5 * additions == pytest.approx(synaptic.get_total())
    assert 5 * papers.total.multiplications == multiplying.get_total()
    assert all(row.additions for row in exact.layers)


def test_a_layer_that_runs_twice_adds_up_under_its_first_name():
    linear = nn.Linear(4, 4)
    net = nn.Sequential(linear, nn.Threshold(0, 0), linear)
    row = one(net, spikes(2, 4), examples=2)
    assert (row.name, row.macs) == ("0", 32)


def test_spikingjellys_own_resnet18_has_torchvisions_macs():
    """Torchvision publishes 1.814 thousand million multiply-accumulates at 224x224 for the same architecture."""
    net = spiking_resnet.spiking_resnet18(spiking_neuron=neuron.IFNode).eval()
    result = count(net, torch.rand(1, 3, 224, 224))
    assert round(result.total.macs / 1e9, 3) == ResNet18_Weights.IMAGENET1K_V1.meta["_ops"]
    assert len(result.layers) == 21
    assert [row.name for row in result.layers if row.multiplications] == ["conv1"]  # max pooling, and fc hears nothing
    assert result.layers[-1].spike_rate == 0


# --- Examples, told apart -----------------------------------------------------------------------------------------

LAYOUTS = {
    "m": {},
    "s": {"step_mode": "s"},
    "container": {"container": True},
    "static images": {},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("convention", [*CONVENTIONS.values(), INSIDE], ids=[*CONVENTIONS, "inside"])
def test_the_standard_error_is_that_of_a_loop_over_examples(layout, convention):
    """Mean, and deviation / sqrt(n), of the energies of 7 passes of one example each."""
    net, x = (
        small(**LAYOUTS[layout]),
        2 * torch.rand(1, 7, 1, 1, 1) * torch.randn(1 if "static" in layout else T, 7, 2, 6, 6),
    )
    if "static" in layout:
        net[0].add_module("every time-step", Repeated())
    found = counted(net, x, [7] if layout == "s" else [4, 1, 2], convention)
    alone = [counted(net, x[:, i : i + 1], [1], convention).total for i in range(7)]
    energies = torch.tensor([total.energy_pj for total in alone], dtype=torch.float64)
    additions = torch.tensor([total.additions for total in alone], dtype=torch.float64)
    assert found.total.energy_pj == pytest.approx(energies.mean().item())
    assert found.energy_error_pj == pytest.approx(energies.std().item() / 7**0.5, rel=1e-9)
    assert found.additions_error == pytest.approx(additions.std().item() / 7**0.5, rel=1e-9)
    assert found.energy_error_pj > 0


class Repeated(nn.Module):
    """What a static image gave, at every time-step."""

    def forward(self, x):
        return x.expand(T, -1, -1, -1, -1)


def test_the_standard_error_by_hand():
    """2 and 4 spikes, each read by 3 outputs: 6 and 12 additions; deviation 3 sqrt(2), over sqrt(2): 3, 2.7 pJ."""
    net = nn.Sequential(nn.Linear(4, 3))
    found = count(net, torch.tensor([[1.0, 0, 0, 1], [1, 1, 1, 1]]), examples=2)
    assert (found.total.additions, found.additions_error) == (9, pytest.approx(3))
    assert found.energy_error_pj == pytest.approx(2.7)
    assert "mean of 2, standard error 2.7e-06 uJ" in str(found)
    assert count(net, torch.ones(1, 4)).additions_error is None


def test_tokens_of_an_example_belong_together():
    """[T, N, L, F], and T and N together as in a container; no layout of a transformer changes the mean."""
    net, x = nn.Sequential(IterativeLIFNode(step_mode="m"), layer.Linear(4, 3, step_mode="m")), torch.rand(2, 3, 5, 4)
    with OperationCounter(net) as counter:
        net(x)
    with OperationCounter(net) as flat:
        functional.reset_net(net)
        net[1](net[0](x).flatten(0, 1))
    found, again = counter.count(), flat.count()
    assert (found.examples, found.time_steps, found.layers) == (3, 2, again.layers)
    assert found.additions_error == pytest.approx(again.additions_error)
    assert found.additions_error > 0
    with OperationCounter(net) as mixed:
        functional.reset_net(net)
        net[1](net[0](x).transpose(1, 2).flatten(1, 2)[:, :7])
    assert mixed._by_example(2) is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_number_of_examples_is_the_networks_and_another_is_refused(layout):
    """1 instead of 256 once gave 256 times the energy."""
    net, x = small(**LAYOUTS[layout]), torch.randn(1 if "static" in layout else T, 8, 2, 6, 6)
    if "static" in layout:
        net[0].add_module("every time-step", Repeated())
    with OperationCounter(net) as counter:
        run(net, x)
        run(net, x)
    found = counter.count(time_steps=T)
    assert (found.examples, found.time_steps) == (16, T)
    assert found == counter.count(16, T)
    for wrong in (1, 8, 15, 16 * T):
        with pytest.raises(ValueError, match=f"examples is {wrong}, and the network saw 16"):
            counter.count(wrong, T)
    assert counter.count() == found
    if layout == "s":
        for wrong in (2, 4):
            with pytest.raises(ValueError, match=f"time_steps is {wrong}, and the network ran 3 of them"):
                counter.count(time_steps=wrong)
        with pytest.raises(ValueError, match="examples is 16, and the network saw 48"):
            counter.count(16, 1)
    else:
        with pytest.raises(ValueError, match="time_steps is 1, and the network ran 3 of them"):
            counter.count(time_steps=1)


class Loop(nn.Module):
    """The loop that most users write: T time-steps of one picture in step mode 's', and the mean of the outputs."""

    def __init__(self, node):
        super().__init__()
        self.layers = nn.Sequential(layer.Conv2d(1, 2, 3, bias=False), node(), nn.Flatten(), layer.Linear(8, 3), node())

    def forward(self, x):
        return sum(self.layers(x) for _ in range(T)) / T


@pytest.mark.parametrize("node", [neuron.IFNode, neuron.LIFNode, IterativeLIFNode], ids=lambda node: node.__name__)
def test_in_step_mode_s_time_steps_are_the_passes_between_resets(node):
    """4 x 4 pixels, 2 x 2 outputs of 9 taps and 2 channels are 72 MACs, and 24 of the linear layer, at each of T = 3.

    Of 2 and 5 examples; also where the network is called T times, and where its own loop calls its layers.
    """
    net, batches = Loop(node), [torch.rand(2, 1, 4, 4), torch.rand(5, 1, 4, 4)]
    with torch.no_grad(), OperationCounter(net) as inside, OperationCounter(net.layers) as outside:
        for x in batches:
            net(x)
            functional.reset_net(net)
    for counter in (inside, outside):
        found = counter.count()
        assert (found.examples, found.time_steps) == (7, T)
        assert [row.macs for row in found.layers] == [T * 72, T * 24]


def test_passes_without_a_reset_are_the_time_steps_of_the_same_examples_unless_they_are_stated():
    net, x = Loop(IterativeLIFNode), torch.rand(2, 1, 4, 4)
    with torch.no_grad(), OperationCounter(net) as counter:
        net(x), net(x)
    assert (counter.count().examples, counter.count().time_steps) == (2, 2 * T)
    assert counter.count(time_steps=T).examples == 4


def test_batches_of_several_time_steps_have_no_t():
    for net in (small("s"), small()):
        with OperationCounter(net) as counter:
            run(net, torch.randn(2, 1, 2, 6, 6)), run(net, torch.randn(3, 1, 2, 6, 6))
        with pytest.raises(ValueError, match="batches ran 2 and 3 time-steps: count those of one T at a time"):
            counter.count()


def test_a_node_that_runs_twice_in_a_pass_has_seen_its_examples_once():
    """2 x 2 MACs each of two layers and T = 2; it were 12 examples, each of half the operations."""
    node = IterativeLIFNode(step_mode="m")
    net = nn.Sequential(layer.Linear(2, 2, step_mode="m"), node, layer.Linear(2, 2, step_mode="m"), node)
    with torch.no_grad(), OperationCounter(net) as counter:
        for _ in range(3):
            net(torch.rand(2, 2, 2))
            functional.reset_net(net)
    assert counter.count().examples == 6
    assert [row.macs for row in counter.count().layers] == [8, 8]


def test_the_number_of_examples_of_an_ann_and_of_a_network_that_is_not_spikingjellys():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with OperationCounter(net) as counter:
        net(torch.rand(256, 2))
    assert (counter.count().examples, counter.count().total.macs) == (256, 8)
    with pytest.raises(ValueError, match="examples is 1, and the network saw 256"):
        counter.count(examples=1)
    with OperationCounter(Static()) as counter:
        counter._net(torch.rand(2, 2))
    with pytest.raises(ValueError, match="do not tell examples from time-steps: give examples"):
        counter.count(time_steps=T)
    with pytest.raises(ValueError, match=r"examples is 1, and the network saw 0\.666667 or 2"):
        counter.count(1, T)
    assert counter.count(2, T).additions_error is None


def test_an_image_without_a_batch_is_no_batch_of_channels():
    net = nn.Sequential(nn.Conv2d(2, 4, 3), IterativeLIFNode())
    with OperationCounter(net) as counter:
        net(torch.rand(2, 5, 5))
    with pytest.raises(ValueError, match="the neurons saw 4 examples and layer '0' 1 inputs: show the network batches"):
        counter.count(time_steps=1)


def test_the_firing_rate_is_the_nodes_own():
    """Of 4 x 36 and 3 x 9 neurons; the spike rate has the picture in it, of which every pixel counts."""
    net = small()
    with torch.no_grad(), OperationCounter(net) as counter, SpikeRate(net) as monitor:
        net(2 * torch.randn(T, 5, 2, 6, 6))
    first, second = monitor.rates.values()
    found = counter.count()
    assert found.firing_rate == pytest.approx((144 * first + 27 * second) / 171)
    assert found.layers[0].spike_rate == 1
    assert f"firing rate of the neurons {found.firing_rate:.4f}" in str(found)
    assert found.firing_rates == {"1": pytest.approx(first), "3": pytest.approx(second)}
    assert f"| neurons | firing rate |\n|---|---|\n| 1 | {first:.4f} |\n| 3 | {second:.4f} |\n" in str(found)
    ann = count(nn.Sequential(nn.Linear(2, 2)), torch.ones(1, 2))
    assert (ann.firing_rate, ann.firing_rates) == (None, {})


def test_firing_rates_of_spikingjellys_nodes_by_hand():
    """An IF node of threshold 1 and input 0.5 fires at every second of 4 time-steps, one of input 1 at each.

    2 of 8 and 4 of 4 outputs of the first node, whose two neurons have inputs 0.5 and 0; of the second, one neuron.
    """
    net = nn.Sequential(layer.Linear(1, 2, bias=False), neuron.IFNode(), layer.Linear(2, 1), neuron.IFNode())
    net[0].weight.data = torch.tensor([[0.5], [0.0]])
    nn.init.zeros_(net[2].weight), nn.init.ones_(net[2].bias)
    with torch.no_grad(), OperationCounter(net) as counter:
        for _ in range(4):
            net(torch.ones(1, 1))
    found = counter.count()
    assert (found.firing_rates, found.firing_rate) == ({"1": 0.25, "3": 1.0}, 6 / 12)


# --- Static images -----------------------------------------------------------------------------------------------


class Static(nn.Module):
    """An encoder that runs once, a spike layer that runs T times, a decoder of the mean over time that runs once."""

    def __init__(self):
        super().__init__()
        self.spiking = nn.Linear(4, 4)
        self.encoder = nn.Linear(2, 4)
        self.decoder = nn.Linear(4, 3)

    def forward(self, x):
        drive = self.encoder(x).expand(T, -1, -1)
        return self.decoder((self.spiking((drive > 0).float()) > 0).float().mean(0))


def test_what_ran_once_before_the_first_that_ran_more_often_counts_at_every_time_step():
    x = torch.rand(2, 2)
    result = count(Static(), x, examples=2, time_steps=T)
    assert [(row.name, row.macs) for row in result.layers] == [("encoder", T * 8), ("spiking", T * 16), ("decoder", 12)]
    assert result.layers[0].multiplications == T * 8
    exact = count(Static(), x, INSIDE, examples=2, time_steps=T).layers[0]
    assert (exact.macs, exact.additions) == (T * 8, T * 8)
    as_run = count(Static(), x, Convention(repeat_static=False), examples=2, time_steps=T)
    assert [row.macs for row in as_run.layers] == [8, T * 16, 12]


def test_exact_additions_of_a_static_layer_are_repeated_too():
    """Binary images: 2 spikes x 4 outputs, at each of T time-steps."""
    result = count(Static(), torch.ones(1, 2), INSIDE, time_steps=T)
    assert result.layers[0][4:6] == (T * 8, 0)


# --- A network and its ANN twin ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("convention", "picojoule"), [("default", 21.6), ("dspike", 142.8), ("tdbn", 198.0)])
def test_a_network_its_twin_and_their_ratio_by_hand(convention, picojoule):
    """The network of the conventions' test. Its twin has 12 and 6 MACs, at one time-step: 18 x 5.5 pJ are 99."""
    net = nn.Sequential(nn.Linear(4, 3, bias=False), IterativeLIFNode(step_mode="m"), nn.Linear(3, 2))
    nn.init.ones_(net[0].weight)
    table = energy_table(net, torch.tensor([1.0, 0, 0, 1]).expand(2, 1, 4), CONVENTIONS[convention])
    assert (table["energy (uJ)"] * 1e6).to_dict() == pytest.approx(
        {"SNN": picojoule, "ANN twin": 99.0, "ANN / SNN": 99 / picojoule * 1e6}
    )
    assert table["MACs (M)"][:2].mul(1e6).tolist() == pytest.approx([36, 18])
    assert table["time-steps"][:2].tolist() == [2, 1]
    assert (table["firing rate"]["SNN"], table.attrs["examples"]) == (1, 1)
    assert table.attrs["convention"] == str(CONVENTIONS[convention])


class Expanding(nn.Module):
    """A network in step mode 'm' that shows itself a picture T times, as SpikingJelly's tutorials do."""

    def __init__(self):
        super().__init__()
        self.layers = small()

    def forward(self, x):
        return self.layers(x.unsqueeze(0).repeat(T, 1, 1, 1, 1)).mean(0)


def own():
    return model.resnet19(width=4, time_steps=T, num_classes=10)


def zoo(step_mode):
    net = spiking_resnet.spiking_resnet18(spiking_neuron=neuron.LIFNode)
    functional.set_step_mode(net, step_mode)
    return net


#: A network, its input, what shows its twin one time-step, and the part of the twin's operations that it then has.
NETWORKS = {
    "zoo, m": (lambda: zoo("m"), torch.rand(T, 2, 3, 32, 32), lambda x: x[:1], 1),
    "zoo, s": (lambda: zoo("s"), [torch.rand(2, 3, 32, 32)] * T, lambda x: x[0], 1),
    "ours, static": (own, torch.rand(1, 2, 3, 16, 16), lambda x: x, 1),
    "ours": (own, torch.rand(T, 2, 3, 16, 16), lambda x: x[:1], 1),
    "loop": (lambda: Loop(IterativeLIFNode), torch.rand(2, 1, 4, 4), lambda x: x, T),
    "expanding": (Expanding, torch.rand(2, 2, 6, 6), lambda x: x, T),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_twin_has_the_operations_of_the_twin_that_runs_and_torchs_floating_point_operations(name):
    """Torch counts two for each multiply-accumulate; a twin whose code repeats the picture runs T times."""
    make, inputs, one_step, repeated = NETWORKS[name]
    net = make()
    for convention in CONVENTIONS.values():
        table = energy_table(net, inputs, convention)
        twin = model.ann(net).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as flops, OperationCounter(twin) as counter:
            twin(one_step(inputs))
        macs = flops.get_total_flops() / 2 / 2 / repeated  # of each of two examples
        assert table["MACs (M)"]["ANN twin"] == pytest.approx(macs / 1e6)
        assert table["energy (uJ)"]["ANN twin"] == pytest.approx(5.5e-6 * macs)
        measured = counter.measurement()
        assert sum(tally.macs_with_padding for tally in measured.layers) == 2 * repeated * macs
        if repeated == 1:
            assert measured.count(convention).total.energy_pj == pytest.approx(5.5 * macs)
        energies = table["energy (uJ)"]
        assert energies["ANN / SNN"] == pytest.approx(energies["ANN twin"] / energies["SNN"])
        assert table["time-steps"]["SNN"] == T


def test_the_networks_row_is_its_count_and_a_layer_that_runs_once_runs_once_in_the_twin():
    net, x = Static(), torch.rand(2, 2)
    with torch.no_grad(), OperationCounter(net) as counter:
        net(x)
    measured = counter.measurement(2, T)
    assert [row.macs for row in measured.count_ann().layers] == [8, 16, 12]
    assert measured.energy_table()["energy (uJ)"]["SNN"] == measured.count().total.energy_pj / 1e6
    inside = measured.count_ann(Convention(padded_taps=False, additions_of_multiplying=False))
    assert inside.total.energy_pj == pytest.approx(36 * 4.6)


def test_batches_in_step_mode_m_are_as_one_and_the_network_is_left_as_it_was():
    net, x = small(), 2 * torch.randn(T, 5, 2, 6, 6)
    net.append(layer.Dropout(0.5, step_mode="m"))
    net[0].eval()
    whole = energy_table(net, x)
    assert whole.equals(energy_table(net, iter(x.split([1, 3, 1], dim=1))))
    functional.set_step_mode(net, "s")
    assert whole.equals(energy_table(net, list(x)))
    with OperationCounter(net) as counter:
        run(net.eval(), x)
    assert counter.measurement().energy_table().equals(whole)
    net.train(), net[0].eval()
    energy_table(net, list(x))
    assert [module.training for module in net] == [False, *[True] * 5]
    assert not isinstance(net[1].v, torch.Tensor)
    assert 0 < whole["standard error (uJ)"]["SNN"] < whole["energy (uJ)"]["SNN"]


def test_csv_and_latex_of_an_energy_table():
    table = energy_table(small(), torch.randn(T, 2, 2, 6, 6))
    assert pd.read_csv(io.StringIO(table.to_csv()), index_col=0).equals(table)
    latex = table.to_latex(float_format="%.3g", na_rep="--")
    assert f"& {table['energy (uJ)']['SNN']:.3g} &" in latex
    assert not set(latex.replace(" & ", "").replace(r"\\", "")) & set("_%#^$&")


def test_an_ann_has_no_twin():
    with pytest.raises(ValueError, match="no SpikingJelly node has run, and T = 1: the network is an ANN itself"):
        energy_table(nn.Sequential(nn.Linear(2, 2)), torch.rand(1, 2))


# --- Results and errors ------------------------------------------------------------------------------------------


def test_one_measurement_serves_every_convention_and_later_counts():
    net = small()
    with OperationCounter(net) as counter:
        run(net, torch.randn(T, 2, 2, 6, 6))
    assert counter.count(2, T, PAPERS).total.macs == T * (2592 + 972 + 135)
    assert counter.count(2, T, Convention(multiplying=("2.0", "4.1"))).total.multiplications == T * (972 + 135)
    with counter:
        run(net, torch.randn(T, 3, 2, 6, 6))
    assert counter.count(5, T).total.macs == T * (2592 + 972 + 135)


def test_the_total_is_the_sum_and_its_rate_the_mean_weighted_by_macs():
    net = nn.Sequential(nn.Linear(4, 3), nn.Threshold(math.inf, 1.0), nn.Linear(3, 2))
    total = count(net, torch.tensor([[1.0, 0, 0, 0]])).total
    # 12 MACs at rate 1/4 and 6 at rate 1: 9 additions, 8.1 pJ
    assert total == ("total", "", 18, 0.5, 9, 0, pytest.approx(8.1))


def test_the_table_has_a_row_for_each_layer_and_says_its_convention():
    text = str(count(nn.Sequential(nn.Linear(1000, 3)), 0.5 * torch.ones(1, 1000), INSIDE))
    assert "| 0 | Linear | 3,000 | 1.0000 | 3,000 | 3,000 | 0.0165 |" in text  # 3,000 x 5.5 pJ
    for words in ("T = 1, mean of 1", "taps on the padding not counted", "layers with non-binary input", "0.9 pJ"):
        assert words in text
    words = str(Convention(multiplying=("conv1", "fc"), repeat_static=False, additions_of_multiplying=False))
    assert "multiplying: conv1, fc; their additions not counted" in words
    assert "static layers counted as often as they run" in words
    assert "multiplying: none" in str(Convention(multiplying=()))


def test_hooks_are_gone_after_the_block_and_nothing_changes_inside():
    net, x = small(), torch.randn(T, 2, 2, 6, 6)
    results = []
    for counter in (None, OperationCounter(net)):
        net.zero_grad()
        functional.reset_net(net)
        if counter is None:
            net(x).square().sum().backward()
        else:
            with counter:
                net(x).square().sum().backward()
        results.append([p.grad.clone() for p in net.parameters()])
    assert all(map(torch.equal, *results))
    before = counter.count(2, T)
    run(net, x)
    assert counter.count(2, T) == before
    with pytest.raises(RuntimeError, match="stop"), counter:
        raise RuntimeError("stop")
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize(
    "module",
    [
        nn.ConvTranspose2d(1, 1, 2),
        layer.ConvTranspose2d(1, 1, 2),
        nn.LSTM(2, 2),
        nn.GRUCell(2, 2),
        nn.MultiheadAttention(4, 1),
        nn.Bilinear(2, 2, 2),
        layer.DropConnectLinear(2, 2),
    ],
    ids=lambda module: type(module).__name__,
)
def test_layers_that_cannot_be_counted_are_refused(module):
    with pytest.raises(ValueError, match=f"operations of '1', a {type(module).__name__}, cannot be counted"):
        OperationCounter(nn.Sequential(nn.Linear(2, 2), module))


def test_counts_that_make_no_sense_are_refused():
    net = nn.Sequential(nn.Linear(2, 2))
    with OperationCounter(net) as counter:
        pass
    with pytest.raises(ValueError, match="run the network inside the with-block"):
        counter.count(1, 1)
    with counter:
        net(torch.ones(1, 2))
    for examples, time_steps in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match=f"must be 1 or more, got {examples} and {time_steps}"):
            counter.count(examples, time_steps)
    with pytest.raises(ValueError, match="no layer 'conv1' has run: those that have are 0"):
        counter.count(1, 1, Convention(multiplying=("0", "conv1")))
    with pytest.raises(ValueError, match="multiplying='conv1': give 'first' or 'first and last', or a tuple of names"):
        Convention(multiplying="conv1")
    for wrong in ({"runs": 0}, {"inputs": 0}, {"nonzeros": -1}, {"macs": 2**63}):
        tally = {"runs": 1, "inputs": 1, "nonzeros": 1, "macs_with_padding": 1, "macs": 1, "additions": 1} | wrong
        with pytest.raises(ValueError, match="is of no layer that ran"):
            Tally("a", "Linear", binary=True, **tally)
    with pytest.raises(ValueError, match="no convolution or linear layer has run"):
        Tallies((), 1, 1, None)


# --- The papers' rows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("additions", "multiplications", "millijoule", "printed"),
    [
        (2285e6, 2285e6, 12.5675, "12.6"),  # ANN ResNet-19; the paper prints J
        (187e6, 187e6, 1.0285, "1.03"),  # ANN ResNet-18; the paper prints J
        (142e6, 8.80e6, 0.16828, "0.168"),  # Diet-SNN, from here on the paper prints mJ: 168
        (360e6, 6.8e6, 0.35528, "0.355"),  # tdBN
        (71.2e6, 3.52e6, 0.080272, "0.0803"),  # Dspike
    ],
)
def test_dspike_table_3_energies_follow_from_its_counts_in_units_a_thousandth_of_those_printed(
    additions, multiplications, millijoule, printed
):
    energy = PAPERS.energy_pj(additions, multiplications) / 1e9
    assert energy == pytest.approx(millijoule, rel=1e-12)
    assert f"{energy:.3g}" == printed


def ann_row(constructor, shape, **arguments):
    """One picture through the ReLU twin: every layer multiplies, so that additions equal multiplications."""
    net = model.ann(constructor, **arguments).eval()
    total = count(net, torch.rand(1, 1, *shape)).total
    assert total.macs == total.additions == total.multiplications
    return total


def test_dspike_table_3_ann_rows_come_from_the_networks():
    """187.37M is printed as 187M, 2285.37M as 2285M; truncating and rounding agree."""
    assert ann_row(model.dspike_resnet18, (3, 32, 32)).macs == pytest.approx(187.37e6, abs=5e3)
    assert ann_row(model.resnet19, (3, 32, 32)).macs == pytest.approx(2285.37e6, abs=5e3)


def truncated(value, digits=1):
    """To ``digits`` behind the point of its power of ten: 2.285e9 to 2.2e9."""
    unit = 10 ** (math.floor(math.log10(value)) - digits)
    return value // unit * unit


def test_tdbn_table_6_ann_rows_are_truncated():
    """2.285e9 and 1.447e10 are printed as 2.2e9 and 1.4e10; rounding would give 2.3e9 for the first."""
    small = ann_row(model.resnet19, (3, 32, 32)).macs
    assert truncated(small) == 2.2e9
    assert float(f"{small:.1e}") == 2.3e9
    large = ann_row(model.tdbn_resnet34, (3, 224, 224), width=128, num_classes=1000).macs
    assert large == pytest.approx(14_469e6, abs=5e5)
    assert truncated(large) == 1.4e10


def test_our_dspike_resnet18_multiplies_in_the_first_layer_as_printed_and_adds_what_its_spikes_ask_for():
    """3 x 64 x 9 x 32 x 32 = 1,769,472, twice: 3,538,944; the paper prints 2 x 1.76M = 3.52M."""
    net = model.dspike_resnet18(time_steps=2)
    with OperationCounter(net) as counter, torch.no_grad():
        net(torch.rand(1, 2, 3, 32, 32))
    result = counter.count(2, 2, CONVENTIONS["dspike"])
    assert result.layers == counter.count(2, 2, Convention(multiplying=("conv1",))).layers
    assert result.total.multiplications == 2 * 1_769_472
    assert result.total.macs == pytest.approx(2 * 187.37e6, abs=1e4)
    first, *others = result.layers
    assert first.name == "conv1"
    assert result.total.additions == pytest.approx(first.macs + sum(r.spike_rate * r.macs for r in others))
    assert 0.02 < sum(row.additions for row in others) / result.total.macs < 0.5
    measured = {row.name for row in counter.count(2, 2).layers if row.multiplications}
    pooled = {name for name in measured if "shortcut" in name}
    assert measured == {"conv1", "fc"} | pooled
    assert len(pooled) == 3


def test_tdbns_resnet19_multiplies_in_the_first_and_the_last_layer():
    """T = 6: 6 x (3 x 128 x 9 x 32 x 32 + 256 x 10) = 21.25M.

    By measured inputs it would be 22.02M: the hidden layer of 512 x 256 is fed by averages, and the last by spikes.
    """
    net = model.resnet19(time_steps=6).eval()
    with OperationCounter(net) as counter, torch.no_grad():
        net(torch.rand(1, 1, 3, 32, 32))
    total = counter.count(convention=CONVENTIONS["tdbn"]).total
    assert total.multiplications == 6 * (3_538_944 + 2_560) == 21_249_024
    assert counter.count(convention=CONVENTIONS["dspike"]).total.multiplications == 6 * 3_538_944
    by_name = Convention(multiplying=("conv1", "head.2"))
    assert counter.count(convention=by_name).total.multiplications == 6 * (3_538_944 + 512 * 256) == 22_020_096


@pytest.mark.parametrize(
    ("printed", "value", "how"),
    [
        ("2.2e9", 2.285e9, "truncated"),
        ("2.3e9", 2.285e9, "rounded"),
        ("1.4e10", 1.447e10, "rounded or truncated"),
        ("8.80", 8.8, "rounded or truncated"),
        ("6.8", 34 * 2 / 10, "rounded or truncated"),
        ("12.6", 12.5675, "rounded"),
        ("12.6", 12567.5, "differs"),
        ("3.52", 3.538944, "differs"),
    ],
)
def test_the_benchmark_says_how_a_printed_number_comes_about(printed, value, how):
    assert operations.Cell("", "", "", printed, "", "", value, "").how == how


def test_the_committed_page_has_every_printed_cell_and_no_fault():
    page = (Path(operations.__file__).with_suffix(".md")).read_text()
    for row, (additions, multiplications, energy, unit) in operations.TABLE_3.items():
        lines = [line for line in page.splitlines() if line.startswith("| Dspike 3") and f" {row} " in line]
        printed = " ".join(line.split("|")[4].strip() for line in lines)
        assert f"{energy} {unit}" in printed
        assert f"{multiplications} M" in printed
        assert row.startswith(("Diet", "Dspike")) or f"{additions} M" in printed
    assert "differs" not in page
    assert "An untrained network's spikes, not the paper's" in page
