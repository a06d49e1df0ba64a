"""The search that compares no more elements than it needs: against the whole one, plain loops and repeated draws."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import layer as sj_layer
from torch import nn

from jellyplus import temperature
from jellyplus.finite_differences import Differences, finite_difference_gradient
from jellyplus.functional import search_temperature
from jellyplus.model import dspike_resnet18, toy_cnn
from jellyplus.neuron import IterativeLIFNode
from jellyplus.surrogate import Dspike

EPSILON = 0.1


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def node(b=2.0):
    return IterativeLIFNode(surrogate_function=Dspike(b), step_mode="m")


def graded(b, elements=200):
    """One neuron a weight, with potentials from 0 to 1 and T = 1; the loss counts spikes."""
    net = nn.Sequential(sj_layer.Linear(1, elements, bias=False, step_mode="m"), node(b)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.linspace(0.0, 1.0, elements)[:, None] + 1e-3)
    return net, torch.ones(1, 1, 1, dtype=torch.float64)


class Twice(nn.Module):
    """Runs its layer twice, so that the parameter itself has to move."""

    def __init__(self):
        super().__init__()
        self.layer, self.node = sj_layer.Linear(3, 3, step_mode="m"), nn.Tanh()

    def forward(self, x):
        return self.node(self.layer(self.node(self.layer(x))))


class Counts(nn.Module):
    """Its passes differ, where its buffer is not put back."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(1.0, 2.0, 12).view(4, 3))
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes += 1
        return torch.nn.functional.linear(x, self.weight * self.passes)


def residual():
    return dspike_resnet18(num_classes=3, in_channels=2, width=2, time_steps=2, neuron=node)


NETS = {
    "a convolution before a deep network": (residual, "conv1.weight", (1, 3, 2, 8, 8)),
    "a norm": (residual, "norm1.weight", (1, 3, 2, 8, 8)),
    "a buffer that each pass moves": (lambda: nn.Sequential(Counts()), "0.weight", (2, 3, 3)),
    "channels apart up to the output": (lambda: toy_cnn(width=2, input_size=8), "conv1.weight", (1, 3, 1, 8, 8)),
    "a layer that runs twice": (Twice, "layer.weight", (2, 3, 3)),
}


def loss(y):
    return y.mean(0).square().mean() + y.mean()


@pytest.mark.parametrize("case", NETS)
def test_elements_in_any_order_and_number_have_the_differences_of_all(case):
    make, name, shape = NETS[case]
    torch.manual_seed(0)
    net, x = make().double(), 2 * uniform(*shape)
    whole = finite_difference_gradient(net, name, loss, x, EPSILON).flatten()
    assert whole.count_nonzero() > 1
    of = Differences(net, name, loss, x, EPSILON, 2**26, None)
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(1))
    for chunk in order.split(5):
        assert torch.allclose(of(chunk), whole[chunk], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("epsilon", "expected"), [(0.45, 2.0), (0.1, 4.0)])
def test_a_clear_lead_is_seen_early_and_the_choice_is_that_of_all(epsilon, expected):
    net, x = graded(3.0)
    seen = Counter()

    def counted(y):
        seen["losses"] += 1
        return y.sum()

    for seed in range(20):
        seen.clear()
        found = search_temperature(net, "0.weight", counted, x, epsilon, 1.0, lead=2.0, seed=seed)
        assert found.temperature == expected
        assert found.elements <= 100
        assert seen["losses"] == 2 * found.elements + 1  # and the one that all candidates share
        others = [i for i, b in enumerate(found.candidates) if b != expected]
        best = max(found.similarities)
        assert all(best - found.similarities[i] > 2 * found.errors[i] > 0 for i in others)


def test_a_lead_that_nothing_has_compares_all_elements():
    net, x = graded(3.0)
    whole = search_temperature(net, "0.weight", torch.sum, x, 0.45, 1.0)
    found = search_temperature(net, "0.weight", torch.sum, x, 0.45, 1.0, lead=1e9)
    assert found.similarities == pytest.approx(whole.similarities, rel=1e-12)
    assert found[0::3] == whole[0::3] == (2.0, 200)
    assert found.errors == whole.errors == (0, 0, 0)


def test_a_tie_and_few_elements_are_compared_to_the_end():
    net, x = graded(3.0)
    tied = search_temperature(net, "0.weight", torch.sum, x, 1e-6, 1.0, lead=0.1)
    assert (tied.temperature, tied.similarities, tied.elements) == (3.0, (0, 0, 0), 200)
    few, x = graded(3.0, elements=10)
    assert search_temperature(few, "0.weight", torch.sum, x, 0.45, 1.0, lead=0.1).elements == 10


def test_where_all_elements_cost_no_more_than_some_all_are_compared():
    net, x = toy_cnn(width=8, input_size=8, neuron=node), uniform(1, 3, 1, 8, 8).float()
    seen = []

    def counted(y):
        seen.append(y)
        return loss(y)

    whole = search_temperature(net, "conv1.weight", counted, x, EPSILON, 0.5)
    passes = len(seen)
    found = search_temperature(net, "conv1.weight", counted, x, EPSILON, 0.5, lead=0.1)
    assert (found.temperature, found.elements, found.errors) == (whole.temperature, 72, (0, 0, 0))
    assert len(seen) == 2 * passes


def test_the_order_is_that_of_the_seed_and_the_callers_random_numbers_stay():
    net, x = graded(3.0)
    before = torch.get_rng_state()
    found = [search_temperature(net, "0.weight", torch.sum, x, 0.45, 1.0, lead=2.0, seed=s) for s in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert torch.equal(torch.get_rng_state(), before)


def cosine(a, b):
    return (a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum())


def test_errors_are_those_of_the_jackknife_in_loops():
    gradients, reference = uniform(3, 12), uniform(12, seed=1)
    found = temperature._errors_of_lead(gradients, reference, 1, 48)
    g, r = gradients.numpy(), reference.numpy()
    for candidate, error in enumerate(found):
        without = [
            cosine(np.delete(g[1], i), np.delete(r, i)) - cosine(np.delete(g[candidate], i), np.delete(r, i))
            for i in range(12)
        ]
        squares = sum((value - sum(without) / 12) ** 2 for value in without)
        assert error == pytest.approx(math.sqrt(11 / 12 * squares * (1 - 12 / 48)), abs=1e-12)
    assert temperature._errors_of_lead(gradients, reference, 1, 12) == [0, 0, 0]


@pytest.mark.parametrize("n", [60, 240])
def test_errors_are_how_far_leads_of_repeated_draws_lie_apart(n):
    """Of a population of 400; with 240 drawn, without replacement, they are closer together."""
    random = np.random.RandomState(0)
    reference = torch.from_numpy(random.randn(400))
    gradients = torch.stack([reference + scale * torch.from_numpy(random.randn(400)) for scale in (0.8, 1.0)])
    leads, errors = [], []
    for seed in range(400):
        drawn = torch.from_numpy(np.random.RandomState(seed).permutation(400)[:n])
        g, r = gradients[:, drawn], reference[drawn]
        leads.append(cosine(g[0], r) - cosine(g[1], r))
        errors.append(temperature._errors_of_lead(g, r, 0, 400)[1])
    assert np.std(leads) == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=0.15)


@pytest.mark.parametrize("lead", [0, -1.0, math.nan])
def test_a_lead_that_is_not_positive_raises(lead):
    net, x = graded(3.0)
    with pytest.raises(ValueError, match="lead must be a positive number of standard errors, or None"):
        search_temperature(net, "0.weight", torch.sum, x, lead=lead)
