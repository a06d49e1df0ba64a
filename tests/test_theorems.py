"""Theorems 1 and 2 of Zheng et al. 2021 (tdBN), on small versions of benchmarks/theorems.py.

The worked example of InfLoR's Fig. 2 is in neuron/test_srif.py.
"""

import importlib.util
import math
from functools import partial
from pathlib import Path
from statistics import NormalDist

import pandas as pd
import pytest
import torch
from spikingjelly.activation_based import functional, layer

from jellyplus.layer import ThresholdDependentBatchNorm2d
from jellyplus.neuron import IterativeLIFNode

PATH = Path(__file__).parents[1] / "benchmarks" / "theorems.py"
SPEC = importlib.util.spec_from_file_location("theorems", PATH)
theorems = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(theorems)

NEURONS = 200_000  # a measured variance is off by a relative sqrt(2 / n) = 0.3 %
SMALL = {"seed": 0, "batch": 16}


def norms(decay, steps=1, T=4, **options):
    return theorems.gradient_norms(partial(theorems.plain_network, decay, **options), steps=steps, T=T, **SMALL)


# --- Theorem 1 ---


@pytest.mark.parametrize("decay", [0.0, 0.25, 0.5])
def test_theorem_1_with_tdbn_the_gradient_norm_drifts_by_less_than_ten_over_18_layers(decay):
    found = norms(decay, steps=3)
    assert found.shape == (18,)
    assert found.max() / found.min() < 10
    assert math.exp(17 * abs(theorems.log_slope(found))) < 10


@pytest.mark.parametrize("ratio", [1.0, 1.8, 2.0, 3.0])
def test_theorem_1_holds_for_a_window_near_twice_the_threshold_and_the_slope_is_the_expected_one(ratio):
    """The squared norm is multiplied by q / (ratio^2 p (1 - p)) with p = 0.158655, p (1 - p) = 0.133484 and, from a
    table of the normal distribution, q = P(0.5 < z < 1.5) = 0.241730, P(0.1 < z < 1.9) = 0.431456,
    P(0 < z < 2) = 0.477250, P(-0.5 < z < 2.5) = 0.685252; the slope is minus half the logarithm."""
    q = {1.0: 0.241730, 1.8: 0.431456, 2.0: 0.477250, 3.0: 0.685252}[ratio]
    slope = -math.log(q / (ratio**2 * 0.133484)) / 2
    assert theorems.expected_slope(ratio) == pytest.approx(slope, abs=1e-5)
    found = norms(0.0, window=ratio * theorems.V_THRESHOLD, T=1)
    assert theorems.log_slope(found) == pytest.approx(slope, abs=0.03)
    assert (theorems.drift(found) < 10) == (ratio in (1.8, 2.0))


def test_threshold_and_window_together_only_set_the_unit():
    """Twice both: tdBN's factor doubles and the surrogate's halves, and powers of two do not round."""
    one, other = norms(0.25, v_threshold=0.5, window=1.0), norms(0.25, v_threshold=1.0, window=2.0)
    torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


def test_without_decay_the_time_steps_are_alike():
    """The same image at each of them, and no state: the mean over time is any one of them."""
    torch.testing.assert_close(norms(0.0, T=1), norms(0.0, T=3), rtol=1e-3, atol=0)
    assert ((norms(0.5, T=1) / norms(0.5, T=3)).log().abs() > 0.01).any()


def test_the_network_is_the_papers_plain_one():
    net = theorems.plain_network(0.25, v_threshold=0.4, window=0.7, width=6)
    weights = [module.weight for module in net if isinstance(module, (layer.Conv2d, layer.Linear))]
    assert [tuple(weight.shape) for weight in weights] == [(6, 3, 3, 3), *[(6, 6, 3, 3)] * 18, (10, 6)]
    tdbn = [module for module in net if isinstance(module, ThresholdDependentBatchNorm2d)]
    nodes = [module for module in net if isinstance(module, IterativeLIFNode)]
    assert {(module.alpha, module.v_th) for module in tdbn} == {(1.0, 0.4)}
    assert {(node.decay, node.v_threshold, node.surrogate_function.width) for node in nodes} == {(0.25, 0.4, 0.7)}
    assert (len(tdbn), len(nodes)) == (19, 19)
    assert len({id(node) for node in nodes}) == 19
    assert not [m for m in theorems.plain_network(0.25, norm=False) if isinstance(m, ThresholdDependentBatchNorm2d)]


def test_the_norms_are_those_of_the_gradients_along_two_steps_of_training():
    """The first update with momentum is minus the learning rate times the gradient."""
    data = theorems.datasets.load("digits")
    order = theorems.EpochOrder(len(data.train), 0).indices(epoch=0)
    torch.manual_seed(0)
    net, expected = theorems.plain_network(0.25), []
    weights = [module.weight for module in net if isinstance(module, layer.Conv2d)][1:]
    for indices in (order[:16], order[16:32]):
        x = theorems.normalisation(data)(data.train.inputs[indices]).repeat(2, 1, 1, 1, 1)
        loss = torch.nn.functional.nll_loss(net(x).mean(0).log_softmax(1), data.train.labels[indices])
        gradients = dict(zip(net.parameters(), torch.autograd.grad(loss, net.parameters()), strict=True))
        expected.append([gradients[weight].square().sum().sqrt().item() for weight in weights])
        with torch.no_grad():
            for parameter, gradient in gradients.items():
                parameter -= 0.1 * gradient
        functional.reset_net(net)
    assert norms(0.25, T=2).tolist() == pytest.approx(expected[0], rel=1e-4)
    # rounding may flip a spike in the second step
    assert norms(0.25, steps=2, T=2).tolist() == pytest.approx(torch.tensor(expected).mean(0).tolist(), rel=2e-3)


def test_by_default_it_is_the_first_sixth_of_an_epoch(monkeypatch):
    """1,437 scans are 20 full batches of 70, and a sixth of them is three."""
    seen = []
    monkeypatch.setattr(theorems.F, "cross_entropy", lambda y, labels: seen.append(len(labels)) or y.square().sum())
    theorems.gradient_norms(partial(theorems.plain_network, 0.25, width=2), seed=0, T=1, batch=70)
    assert seen == [70, 70, 70]


def test_a_seed_gives_the_same_norms_and_leaves_the_random_state():
    before = torch.get_rng_state()
    one, again, later = norms(0.25), norms(0.25), norms(0.25, steps=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, again)
    assert not torch.equal(one, later)
    other = theorems.gradient_norms(lambda: theorems.plain_network(0.25), seed=1, steps=1, batch=16)
    assert not torch.equal(one, other)


def test_slope_and_drift_by_hand():
    """e^0, e^0.1, e^0.2, e^0.3; then ln = 0, 0, 3: the layers -1, 0, 1 give 3 / 2."""
    assert theorems.log_slope(torch.tensor([0.0, 0.1, 0.2, 0.3]).double().exp()) == pytest.approx(0.1)
    assert theorems.log_slope(torch.tensor([0.0, 0.0, 3.0]).double().exp()) == pytest.approx(1.5)
    assert theorems.drift(torch.tensor([2.0, 8.0, 4.0])) == 4


def test_a_silent_network_has_no_slope_and_an_infinite_drift():
    found = norms(0.25, T=2, norm=False, initialise=theorems.torchs)
    assert found.tolist() == [0] * 18
    assert math.isnan(theorems.log_slope(found))
    assert theorems.drift(found) == math.inf


# --- Theorem 2 ---


def ratio(variance, v_threshold, decay, T=10):
    x, u = theorems.potential(variance, v_threshold, decay, T, NEURONS)
    return (u.var() / x.var()).item()


def test_theorem_2_the_variance_of_the_potential_is_proportional_to_that_of_the_input():
    """Fig. 3: V_th = 1, decay 0.25. Within 5 %, of one another and of Eq. 26's 1 + 0.25^2."""
    ratios = [ratio(variance, 1.0, 0.25) for variance in (1 / 4, 1 / 2, 1.0)]
    assert max(ratios) / min(ratios) < 1.05
    assert ratios == pytest.approx([1.0625] * 3, rel=0.05)
    assert min(ratios) > 1.02  # it is not that of x itself


@pytest.mark.parametrize("decay", [0.25, 0.5])
def test_theorem_2_is_exact_while_sigma_over_the_threshold_is_constant(decay):
    ratios = [ratio(variance, 2 * math.sqrt(variance), decay) for variance in (1 / 4, 1 / 2, 1.0, 2.0)]
    assert ratios == pytest.approx([ratios[0]] * 4, rel=1e-9)


@pytest.mark.parametrize("decay", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("variance", [1 / 4, 1 / 2, 1.0])
def test_theorem_2_after_two_time_steps_is_the_variance_of_a_truncated_normal(decay, variance):
    """u = x_2 + decay z with z = x_1 where that is below c = V_th / sigma, else 0, in units of sigma:
    E[z] = -phi(c) and E[z^2] = Phi(c) - c phi(c). So the proportionality bends with c."""
    c, normal = 1 / math.sqrt(variance), NormalDist()
    carried = normal.cdf(c) - c * normal.pdf(c) - normal.pdf(c) ** 2
    assert ratio(variance, 1.0, decay, T=2) == pytest.approx(1 + decay**2 * carried, rel=0.01)


@pytest.mark.parametrize("decay", [0.0, 0.25, 0.5])
def test_theorem_2_without_firing_is_the_geometric_series(decay):
    """Eq. 25 in full: 1 + d^2 + d^4 + ... + d^18."""
    x, u = theorems.potential(1.0, 1e9, decay, n=NEURONS)
    assert torch.equal(x, u) == (decay == 0)
    assert ratio(1.0, 1e9, decay) == pytest.approx(sum(decay ** (2 * k) for k in range(10)), rel=0.01)


# --- the page ---


def gradients_page(drift):
    row = {"norm": "tdBN", "decay": 0.25, "slope": 0.01, "least": 0.0, "most": 0.02, "drift": drift}
    contrast = {**row, "norm": "none", "slope": math.nan, "drift": math.inf}
    return pd.DataFrame([{**one, "first of 18": 0.1, "last of 18": 0.2} for one in (row, contrast)])


def potentials_page(last):
    rows = [{"decay": 0.25, "V_th": "1", "var(x)": x, "var(u)": x * r} for x, r in ((0.25, 1.05), (1.0, last))]
    return pd.DataFrame(
        [
            {**row, "var(u) / var(x)": row["var(u)"] / row["var(x)"], "mean(u) / sigma": 0.0, "fires": 0.1}
            for row in rows
        ]
    )


@pytest.mark.parametrize(
    ("drift", "last", "expected"),
    [
        (9.9, 1.1, []),
        (10.1, 1.1, ["drift above 10: 10.10 at decay 0.25"]),
        (math.inf, 1.1, ["drift above 10: inf at decay 0.25"]),
        (math.nan, 1.1, ["drift above 10: nan at decay 0.25"]),
        (2.0, 1.11, ["var(u) / var(x) spreads by 5.7%, V_th = 1"]),
    ],
)
def test_a_broken_limit_is_a_fault_that_the_page_names(drift, last, expected):
    """Networks without a norm have no limit. 1.1 / 1.05 is 4.8 % above, 1.11 / 1.05 5.7 %."""
    gradients, potentials = gradients_page(drift), potentials_page(last)
    found = theorems.faults(gradients, potentials)
    assert [fault.removeprefix("* ") for fault in found] == expected
    columns = {f"{what} at {decay}": 2.0 for what in ("slope", "drift") for decay in theorems.DECAYS}
    ratios = pd.DataFrame([{"a / V_th": 7.0, **columns}, {"a / V_th": 8.0, **columns, "drift at 0.5": 11.0}])
    text = theorems.page(gradients, ratios, potentials)
    assert all(fault in text for fault in found)
    assert "the drift for a / V_th = 7." in text
    assert "| none " in text  # for a slope that does not exist
