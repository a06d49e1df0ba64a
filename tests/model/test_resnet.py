"""The Dspike ResNet-18 has the paper's counts, its twin has its shapes, and time-steps are independent of T."""

import copy
import functools

import pytest
import torch
from spikingjelly.activation_based import functional
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from jellyplus.layer import ThresholdDependentBatchNorm2d
from jellyplus.model import ann, dspike_resnet18
from jellyplus.neuron import IterativeLIFNode
from jellyplus.surrogate import Dspike, Rectangular

ann_resnet18 = functools.partial(ann, dspike_resnet18)
BOTH = pytest.mark.parametrize("make", [dspike_resnet18, ann_resnet18], ids=["spiking", "ann"])


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(net, x):
    functional.reset_net(net)
    with torch.no_grad():
        return net(x)


def macs(net, x):
    """Multiply-accumulates, and those of the first convolution; torch counts two operations for each."""
    with FlopCounterMode(display=False, depth=3) as counter:
        run(net, x)
    counts = counter.get_flop_counts()
    return counter.get_total_flops() / 2, sum(counts[f"{type(net).__name__}.conv1"].values()) / 2


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def trained(time_steps=3, width=4, seed=0, **arguments):
    """In float64, with norms off their start values and statistics that have seen data; in evaluation mode."""
    torch.manual_seed(seed)
    net = dspike_resnet18(width=width, time_steps=time_steps, **arguments).double()
    for norm in (m for m in net.modules() if isinstance(m, ThresholdDependentBatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.7, 1.6)
        nn.init.normal_(norm.bias, 0.1, 0.1)
    channels = net.conv1.in_channels
    for i in range(25):
        run(net, 2 * images(1, 4, channels, 16, 16, seed=i))
    functional.reset_net(net)
    return net.eval()


def rates(net, x):
    seen = []
    handles = [
        m.register_forward_hook(lambda _, __, y: seen.append(y.mean().item()))
        for m in net.modules()
        if isinstance(m, IterativeLIFNode)
    ]
    run(net, x)
    for handle in handles:
        handle.remove()
    return seen


@BOTH
@pytest.mark.parametrize("stem", ["stride", "pool_before"])
def test_the_papers_parameters_and_operations(make, stem):
    """Dspike's Table 3: 187.37M; the first convolution is 32 * 32 * 64 * 27."""
    arguments = {"time_steps": 1} if make is dspike_resnet18 else {}
    net = make(stem=stem, **arguments)
    assert parameters(net) == 11_247_946
    total, first = macs(net, torch.zeros(1, 1, 3, 32, 32))
    assert first == 1_769_472
    assert round(total / 1e6, 2) == 187.37


@BOTH
def test_a_hundred_classes_add_ninety_rows_to_the_last_layer(make):
    """512 weights and a bias each: 11,247,946 + 90 * 513."""
    assert parameters(make(num_classes=100)) == 11_294_116


@BOTH
def test_width_scales_every_layer(make):
    """conv1, two stem convolutions with norms, four stages of two blocks, the linear layer, written out."""
    w, classes = 6, 7
    count = 27 * w + 2 * w + 2 * (9 * w * w + 2 * w)
    for before, c in ((w, w), (w, 2 * w), (2 * w, 4 * w), (4 * w, 8 * w)):
        count += 9 * before * c + 3 * 9 * c * c + 4 * 2 * c
        count += before * c + 2 * c if before != c else 0
    count += 8 * w * classes + classes
    assert parameters(make(width=w, num_classes=classes)) == count


def test_every_time_step_costs_the_same_but_the_first_layer_which_runs_once():
    net = dspike_resnet18(width=4, time_steps=1)
    one, first = macs(net, torch.zeros(1, 1, 3, 32, 32))
    net.time_steps = 3
    assert macs(net, torch.zeros(1, 1, 3, 32, 32))[0] == 3 * (one - first) + first


def test_event_frames_come_with_their_own_time():
    net, x = trained(time_steps=4, in_channels=2), 2 * images(4, 3, 2, 16, 16, seed=30)
    y = run(net, x)
    assert y.shape == (4, 3, 10)
    frames = [run(net, torch.cat([x[:t], torch.zeros_like(x[t:])]))[:t] for t in (1, 2, 3)]
    for t, part in enumerate(frames, start=1):
        assert torch.equal(part, y[:t])  # later frames do not reach back
    assert (y[2] - y[3]).abs().max() > 1e-3


def test_a_static_image_is_the_image_at_every_time_step():
    net, x = trained(), 2 * images(1, 3, 3, 16, 16, seed=30)
    y = run(net, x)
    assert y.shape == (3, 3, 10)
    torch.testing.assert_close(y, run(net, x.repeat(3, 1, 1, 1, 1)), rtol=1e-12, atol=1e-12)
    assert (y[0] - y[2]).abs().max() > 1e-3  # the neurons remember
    assert (y[:, 0] - y[:, 1]).abs().max() > 1e-3
    assert all(0.01 < rate < 0.7 for rate in rates(net, x))


def test_batch_before_time_is_refused_before_anything_has_changed():
    net = dspike_resnet18(time_steps=4, width=4).double()
    with pytest.raises(ValueError, match=r"runs 4 time-steps and the input has 2.*x\.transpose\(0, 1\)"):
        net(images(2, 4, 3, 16, 16))
    assert net.norm1.num_batches_tracked == 0
    assert net(images(2, 4, 3, 16, 16).transpose(0, 1)).shape[:2] == (4, 2)


def test_four_time_steps_are_the_first_four_of_six():
    """So that time inheritance starts exactly where the longer network was."""
    six = trained(time_steps=6)
    four = dspike_resnet18(width=4, time_steps=4).double().eval()
    four.load_state_dict(six.state_dict())
    x = 2 * images(1, 3, 3, 16, 16, seed=30)
    assert torch.equal(run(four, x), run(six, x)[:4])


def test_the_twins_parameters_have_the_same_names_shapes_and_order():
    spiking, ann = dspike_resnet18(width=4), ann_resnet18(width=4)
    assert [(n, p.shape) for n, p in ann.named_parameters()] == [(n, p.shape) for n, p in spiking.named_parameters()]
    buffers = dict(spiking.named_buffers())
    assert all(buffers[name].shape == b.shape for name, b in ann.named_buffers())
    assert not any(isinstance(m, (IterativeLIFNode, ThresholdDependentBatchNorm2d)) for m in ann.modules())


def test_the_twin_maps_images_to_classes():
    net = ann_resnet18(num_classes=5, width=4)
    y = net(torch.randn(1, 3, 3, 16, 16))
    assert y.shape == (1, 3, 5)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_training_reaches_every_parameter():
    torch.manual_seed(0)
    net = dspike_resnet18(width=4, time_steps=2)
    net(2 * torch.randn(1, 4, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net.conv1.weight.grad.abs().max() > 0


@BOTH
def test_a_state_dict_makes_the_same_network(make):
    torch.manual_seed(0)
    net, other = make(width=4), make(width=4)
    x = images(1, 2, 3, 16, 16).float()
    for _ in range(5):
        run(net, x)
    assert not torch.equal(run(net.eval(), x), run(other.eval(), x))
    other.load_state_dict(copy.deepcopy(net.state_dict()))
    assert torch.equal(run(other, x), run(net, x))
    assert not any(".v" in key or "h_seq" in key for key in net.state_dict())


def test_step_mode_s_equals_m_in_evaluation():
    net, x = trained(), 2 * images(3, 3, 3, 16, 16, seed=30)
    whole = run(net, x)
    functional.set_step_mode(net, "s")
    functional.reset_net(net)
    with torch.no_grad():
        single = torch.stack([net(x_t) for x_t in x])
    torch.testing.assert_close(single, whole, rtol=1e-10, atol=1e-10)


def test_the_defaults_are_dspike_and_tdbn_with_the_branches_alpha():
    net = dspike_resnet18(width=4)
    surrogates = [m.surrogate_function for m in net.modules() if isinstance(m, IterativeLIFNode)]
    assert len(surrogates) == len({id(s) for s in surrogates}) == 3 + 16
    assert all(isinstance(s, Dspike) for s in surrogates)
    alphas = {n: m.alpha for n, m in net.named_modules() if isinstance(m, ThresholdDependentBatchNorm2d)}
    branch = {n for n, alpha in alphas.items() if alpha != 1}
    assert branch == {n for n in alphas if n.endswith("branch.4") or "shortcut" in n}
    assert [alphas[n] ** 2 for n in branch] == [pytest.approx(0.5)] * 11


def test_neuron_and_norm_are_factories():
    net = dspike_resnet18(
        width=4,
        neuron=lambda: IterativeLIFNode(0.5, surrogate_function=Rectangular(), step_mode="m"),
        norm=lambda alpha, channels: ThresholdDependentBatchNorm2d(alpha, 0.7, channels),
        branch_alpha=0.9,
    )
    nodes = [m for m in net.modules() if isinstance(m, IterativeLIFNode)]
    norms = [m for m in net.modules() if isinstance(m, ThresholdDependentBatchNorm2d)]
    assert {(n.decay, type(n.surrogate_function)) for n in nodes} == {(0.5, Rectangular)}
    assert {n.v_th for n in norms} == {0.7}
    assert {n.alpha for n in norms} == {1.0, 0.9}
    assert not any(isinstance(m, (nn.ReLU, Dspike)) for m in net.modules())
