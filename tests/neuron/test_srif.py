"""SRIFNode against the InfLoR paper; the parity of its backends is in test_parity."""

import math

import pytest
import torch
from reference import normal
from spikingjelly.activation_based import functional

from jellyplus.neuron import IterativeLIFNode, SRIFNode
from jellyplus.surrogate import Dspike, Rectangular

FIG_2 = [1.5, 1.2, 1.5, 0.9, 1.4]  # inputs, in units of V_th


def spikes_of(node):
    x = torch.tensor(FIG_2, dtype=torch.float64)[:, None] * 0.5
    return node(x).flatten().tolist()


@pytest.mark.parametrize("rectify", [True, False])
def test_figure_2_three_spikes_where_hard_reset_gives_four(rectify):
    """H: 0.75 (fires, V = -0.25), 0.35, 1.1 (V = 0.1), 0.55 (V = -0.45), 0.25."""
    assert spikes_of(SRIFNode(rectify=rectify, step_mode="m")) == [1, 0, 1, 1, 0]
    assert spikes_of(IterativeLIFNode(decay=1.0, step_mode="m")) == [1, 1, 1, 0, 1]  # 0.45, then 1.15
    minus_v_th = IterativeLIFNode(decay=1.0, v_reset=None, step_mode="m")
    assert sum(spikes_of(minus_v_th)) == 5  # SpikingJelly's soft reset is not the paper's


@pytest.mark.parametrize("mode", ["s", "m"])
def test_rectifying_changes_no_spike(mode):
    x, results = normal(6, 5, 40, dtype=torch.float32), []
    for rectify in (True, False):
        node = SRIFNode(rectify=rectify, step_mode=mode)
        results.append(node(x) if mode == "m" else torch.stack([node(x_t) for x_t in x]))
    assert torch.equal(*results)
    assert 0.1 < results[0].mean() < 0.9


def test_the_gradient_by_hand():
    """One step at H = 0.7: dS/dH = g(phi(H) - 1/2) phi'(H); dV/dH = 1 - dS/dH, or 1 when detached."""
    span = 2 * math.tanh(1.5)
    over, slope = math.tanh(0.6) / span, 3 / math.cosh(0.6) ** 2 / span
    g = 2 / (2 * math.tanh(1)) / math.cosh(2 * over) ** 2  # Dspike with b = 2
    for detached in (False, True):
        for mode in ("s", "m"):
            node = SRIFNode(surrogate_function=Dspike(2.0), detach_reset=detached, step_mode=mode).double()
            x = torch.full((1, 1), 0.7, dtype=torch.float64, requires_grad=True)
            spikes = node(x)
            ds, dv = (torch.autograd.grad(y.sum(), x, retain_graph=True)[0].item() for y in (spikes, node.v))
            assert ds == pytest.approx(g * slope, rel=1e-6)
            assert dv == pytest.approx(1 if detached else 1 - g * slope, rel=1e-6)


def test_single_steps_equal_the_sequence():
    x, results = (normal(5, 3, 4) + 0.3).requires_grad_(), []
    for mode in ("s", "m"):
        node = SRIFNode(surrogate_function=Dspike(2.0), step_mode=mode)
        spikes = node(x) if mode == "m" else torch.stack([node(x_t) for x_t in x])
        results.append((spikes, node.v, *torch.autograd.grad((spikes * x.detach()).sum() + node.v.square().sum(), x)))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)


def test_h_seq_is_the_potential_before_rectification():
    node = SRIFNode(step_mode="m", store_h_seq=True)
    node(torch.tensor([[3.0], [0.25]]))
    assert node.h_seq.flatten().tolist() == [3.0, 2.25]  # 3 - 1 + 0.25


def test_another_threshold_needs_rectify_off():
    with pytest.raises(ValueError, match=r"rectify=True needs v_threshold 0.5, got 0.3"):
        SRIFNode(v_threshold=0.3)
    assert SRIFNode(v_threshold=0.3, rectify=False)(torch.tensor([0.3, 0.2])).tolist() == [1, 0]


def test_defaults_are_the_papers():
    node = SRIFNode()
    assert (node.decay, node.v_threshold, node.v_reset, node.rectify, node.detach_reset) == (
        1.0,
        0.5,
        None,
        True,
        False,
    )
    assert isinstance(node.surrogate_function, Rectangular)
    assert "rectify=True" in repr(node)


def test_reset_net_starts_anew_at_zero():
    node = SRIFNode(step_mode="m")
    node(torch.ones(2, 3))
    functional.reset_net(node)
    assert node.v == 0.0
