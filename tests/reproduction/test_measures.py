"""What figures show, against hand arithmetic, the same computed the slow way, and what theory says."""

import dataclasses
import functools
import math
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based.functional import reset_net

from jellyplus import datasets
from jellyplus._errors import InputError
from jellyplus.registry import MEASURES
from jellyplus.reproduction.measures.steps import _train as train_plain
from jellyplus.training.data import DataModule
from jellyplus.training.network import build_network, choose_backend
from jellyplus.training.recipe_files import load_run
from jellyplus.training.train import memory_format, train

RECIPES = Path(__file__).parents[2] / "recipes"
BINS = {"low": -3.05, "high": 4.05, "bins": 71}  # 0, where silent neurons are, is inside a bin


@functools.cache
def digits(examples=32):
    return datasets.load("digits").first(examples)


def recipe_of(name, **overrides):
    return load_run(name, "smoke", RECIPES, overrides).recipe


def network(recipe, seed=0):
    torch.manual_seed(seed)
    net = build_network(recipe, choose_backend(recipe, "cpu", say=False))
    return net.to(memory_format=memory_format(net)), DataModule(digits(), recipe, seed)


def measured(measure, /, *given, **settings):
    return MEASURES[measure].function(*given, **MEASURES[measure].check(settings, "test"))


def first_batch(data):
    x, labels, _ = next(iter(data.train_dataloader()))
    return x[None], labels


# --- Settings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"y": 1.0, "start": 0.0}, "key 'end' is missing"),
        ({"y": 1.0, "start": 0.0, "end": 1.0, "colour": 3}, "unknown key 'colour'"),
        ({"y": "one", "start": 0.0, "end": 1.0}, "key 'y' is 'one'"),
    ],
)
def test_settings_are_all_stated_and_of_their_type(settings, said):
    with pytest.raises(InputError, match=f"figure.yaml: {said}"):
        MEASURES["constant"].check(settings, "figure.yaml")


def test_settings_that_count_something_are_positive():
    with pytest.raises(InputError, match="key 'epoch_parts' is 0; it must be at least 1"):
        MEASURES["gradient_norms"].check({"epoch_parts": 0}, "figure.yaml")


def test_whole_numbers_are_taken_for_numbers():
    assert MEASURES["constant"].check({"y": 1, "start": 0, "end": 2}, "") == {"y": 1.0, "start": 0.0, "end": 2.0}


# --- Formulas


def at(curve, x):
    return float(np.interp(x, curve.x, curve.y))


def test_dspike_by_hand():
    curve = measured("surrogate_primitive", name="dspike", shape=3.0, v_threshold=0.5, span=0.75)
    expected = (math.tanh(-0.75) + math.tanh(1.5)) / (2 * math.tanh(1.5))  # Eq. 12 at u = 0.25
    assert curve.y[200] == pytest.approx(expected, abs=1e-12)  # a third of the way
    assert curve.x[200] == pytest.approx(0.25)
    assert (at(curve, -0.2), at(curve, 1.2)) == (0, 1)


def test_evaf_by_hand():
    curve = measured("surrogate_primitive", name="evaf", shape=2.0, v_threshold=0.5, span=2.0)
    assert at(curve, 1.0) == pytest.approx(math.tanh(1.0) / 2 + 0.5, abs=1e-5)  # Eq. 13 with u - V_th = 1/2


@pytest.mark.parametrize("name", ["dspike", "evaf"])
def test_surrogate_gradients_are_the_primitives_slopes(name):
    primitive, gradient = (
        measured(f"surrogate_{view}", name=name, shape=2.0, v_threshold=0.5, span=0.4)  # inside Dspike's window
        for view in ("primitive", "gradient")
    )
    slope = np.gradient(primitive.y, primitive.x)
    assert np.allclose(slope[1:-1], gradient.y[1:-1], atol=1e-4)


def test_a_spike_from_the_threshold_on():
    curve = measured("spike", v_threshold=0.5, span=1.0)
    assert all(y == (x >= 0.5) for x, y in zip(curve.x, curve.y, strict=True))


def test_a_constant():
    curve = measured("constant", y=0.5, start=0.0, end=3.0)
    assert (curve.x[0], curve.x[-1], set(curve.y)) == (0.0, 3.0, {0.5})


def test_mpr_by_hand():
    curve = measured("rectified", span=2.0)
    root = 2.5 ** (1 / 3)  # Eq. 10 outside [0, 1]
    assert (curve.y[0], curve.y[-1]) == pytest.approx((1 - root, root))


# --- Simulations


def expected_over_normal(function, mean=0.5):
    z = np.linspace(mean - 8, mean + 8, 400_001)
    return float(np.trapezoid(function(z) * np.exp(-((z - mean) ** 2) / 2) / math.sqrt(2 * math.pi), z))


def phi(u):
    inside = np.tanh(3 * (u - 0.5)) / (2 * math.tanh(1.5)) + 0.5
    return np.where(u < 0, 1 - np.cbrt(1 - u), np.where(u > 1, np.cbrt(u), inside))


@pytest.mark.parametrize(("after", "u"), [(False, lambda z: z), (True, phi)])
def test_quantisation_error_of_a_normal_distribution(after, u):
    curve = measured("rectified_samples", samples=200_000, mean=0.5, deviation=1.0, after=after, **BINS)
    expected = expected_over_normal(lambda z: (u(z) - (z >= 0.5)) ** 2)
    assert curve.numbers["quantisation error"] == pytest.approx(expected, rel=0.02)
    assert sum(curve.y) * 0.1 == pytest.approx(1, abs=2e-3)


def test_density_before_mpr_is_normal():
    curve = measured("rectified_samples", samples=200_000, mean=0.5, deviation=1.0, after=False, **BINS)
    expected = [NormalDist(0.5, 1).pdf(x) for x in curve.x]
    assert np.abs(np.array(curve.y) - expected).max() < 0.02


DRIVEN = {"v_threshold": 1.0, "decay": 0.25, "time_steps": 6, "neurons": 50_000}


def simulated(variance, *, v_threshold, decay, time_steps, neurons):
    """u before reset at the last time-step, by an explicit loop with other random numbers."""
    rng, v = np.random.default_rng(1), np.zeros(neurons)
    for _ in range(time_steps):
        u = decay * v + math.sqrt(variance) * rng.standard_normal(neurons)
        v = np.where(u >= v_threshold, 0, u)
    return u


@pytest.mark.parametrize("variance", [0.25, 1.0])
def test_membrane_potentials_of_neurons_under_noise(variance):
    shown = {
        of: measured("membrane_potentials", variance=variance, of=of, **DRIVEN, **BINS) for of in ("input", "potential")
    }
    assert shown["input"].numbers["variance"] == pytest.approx(variance, rel=0.03)
    assert shown["potential"].numbers["variance"] == pytest.approx(simulated(variance, **DRIVEN).var(), rel=0.03)


def test_potential_is_the_input_where_nothing_carries_over():
    settings = DRIVEN | {"decay": 0.0}
    shown = [measured("membrane_potentials", variance=1.0, of=of, **settings, **BINS) for of in ("input", "potential")]
    assert shown[0] == shown[1]


def test_firing_rates_in_one_time_step():
    curve = measured("firing_rates", variance=1.0, **(DRIVEN | {"time_steps": 1}))
    silent, firing = curve.y
    assert curve.x == [0, 1]
    assert silent + firing == 50_000
    assert firing / 50_000 == pytest.approx(1 - NormalDist().cdf(1), rel=0.05)


def test_firing_rates_without_memory_are_binomial():
    curve = measured("firing_rates", variance=1.0, **(DRIVEN | {"decay": 0.0, "time_steps": 4}))
    p = 1 - NormalDist().cdf(1)
    expected = [50_000 * math.comb(4, k) * p**k * (1 - p) ** (4 - k) for k in range(5)]
    assert curve.x == [0, 0.25, 0.5, 0.75, 1]
    assert np.allclose(curve.y, expected, atol=5 * np.sqrt(expected) + 5)


PAPERS_INPUTS = (1.5, 1.2, 1.5, 0.9, 1.4)  # InfLoR, section 3.1, in units of V_th


@pytest.mark.parametrize(
    ("reset", "h", "v", "fires_at"),
    [
        ("hard", [0.75, 0.6, 0.75, 0.45, 1.15], [0, 0, 0, 0.45, 0], [1, 2, 3, 5]),
        ("soft", [0.75, 0.35, 1.1, 0.55, 0.25], [-0.25, 0.35, 0.1, -0.45, 0.25], [1, 3, 4]),
    ],
)
def test_worked_example_of_hard_and_soft_reset(reset, h, v, fires_at):
    settings = {"reset": reset, "inputs": PAPERS_INPUTS, "v_threshold": 0.5}
    trace, spikes = measured("reset_trace", **settings), measured("reset_spikes", **settings)
    assert trace.x == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert trace.y == pytest.approx([0, *(value for pair in zip(h, v, strict=True) for value in pair)])
    assert trace.numbers == {"spikes": len(fires_at)}
    assert spikes.x == fires_at
    assert spikes.y == pytest.approx([h[t - 1] for t in fires_at])


# --- Histories


def test_course_of_a_run():
    history = ({"epoch": 0, "accuracy": 10.0}, {"epoch": 1, "accuracy": 30.0})
    curve = measured("course", history, of="accuracy")
    assert (curve.x, curve.y) == ([1.0, 2.0], [10.0, 30.0])


@pytest.mark.parametrize("entry", [{}, {"temperature": None}])  # None: it was not finite
def test_course_of_what_was_not_recorded(entry):
    with pytest.raises(InputError, match="recorded no temperature"):
        measured("course", [{"epoch": 0, "temperature": 1.0}, {"epoch": 1, **entry}], of="temperature")


def test_first_epoch_of_a_long_run_is_that_of_a_run_of_one(tmp_path):
    """IM-Loss's Fig. 2 takes a run of one epoch for the state after epoch 1."""
    histories = []
    for epochs in (1, 3):
        recipe = recipe_of("imloss/cifar10_cifarnet_t4_no_norm", schedule={"epochs": epochs})
        histories.append(train(recipe, digits(), 0, "cpu", tmp_path / str(epochs), None, "test").history[0])
    one, long = ({name: value for name, value in entry.items() if name != "time_s"} for entry in histories)
    assert one == long


# --- Training a little


@pytest.mark.parametrize("name", ["dspike/mnist_toy_rectangular", "dspike/mnist_toy_ann", "tdbn/cifar10_plain20"])
def test_steps_are_those_of_a_run(name, tmp_path):
    recipe = recipe_of(name)
    outcome = train(recipe, digits(), 0, "cpu", tmp_path / "state", None, "test")
    net, data = network(recipe)
    seen = []
    train_plain(net, data, 1, lambda step: seen.append((step.epoch, step.number)), None)
    assert seen == [(0, 0), (0, 1)]
    assert all(torch.equal(value, outcome.weights[key]) for key, value in net.state_dict().items())


def test_steps_are_not_taken_before_they_are_seen():
    net, data = network(recipe_of("dspike/mnist_toy_rectangular"))
    weights, seen = [net.conv1.weight.detach().clone()], []
    train_plain(net, data, 1, lambda step: weights.append(net.conv1.weight.detach().clone()) or seen.append(step), 1)
    (first,) = seen
    assert torch.equal(*weights)
    assert not torch.equal(net.conv1.weight, weights[0])
    assert (first.epoch, first.number, len(first.labels)) == (0, 0, 16)


@pytest.mark.parametrize(
    "name", ["dspike/cifar10_t6", "imloss/cifar10_cifarnet_t4", "shortcut/cifar10_resnet18_t2_evolutionary"]
)
def test_steps_refuse_methods_beyond_sgd(name):
    recipe = dataclasses.replace(recipe_of(name), initial_weights=None)
    with pytest.raises(InputError, match="trains with SGD alone, and the recipe has"):
        train_plain(*network(recipe), 1, lambda step: None, None)


def test_steps_stop_where_the_loss_is_not_finite():
    recipe = recipe_of("dspike/mnist_toy_ann", optimizer={"learning_rate": 60000.0}, schedule={"epochs": 30})
    with pytest.raises(InputError, match=r"the loss is (nan|inf) in epoch .*learning_rate in the figure's overrides"):
        train_plain(*network(recipe), 30, lambda step: None, None)


def test_gradient_norms_of_the_first_step():
    net, data = network(recipe_of("tdbn/cifar10_plain20"))
    twin, _ = network(data.recipe)
    x, labels = first_batch(data)
    F.cross_entropy(twin.train()(x).mean(0), labels).backward()
    norms = [p.grad.double().square().sum().sqrt().item() for p in twin.parameters() if p.dim() == 4]
    curve = measured("gradient_norms", net, data, epoch_parts=2)  # of two steps
    assert len(norms) == 19
    assert curve.x == list(range(1, 19))
    assert curve.y == pytest.approx(norms[1:], rel=1e-4)
    slope, _ = np.polyfit(curve.x, np.log(curve.y), 1)
    assert curve.numbers["slope of ln per layer"] == pytest.approx(slope)


def test_jacobian_traces_of_the_first_step():
    """Of the last block, with other signs, by the autograd graph of a twin."""
    net, data = network(recipe_of("tdbn/cifar10_plain20"))
    twin, _ = network(data.recipe)
    x, _ = first_batch(data)
    ends = [module for module in twin.train().modules() if hasattr(module, "v_th")][-2:]
    outputs = []
    for norm in ends:
        norm.register_forward_hook(lambda _, __, output: outputs.append(output))
    twin(x)
    before, after = outputs
    generator = torch.Generator().manual_seed(1)
    signs = [torch.randint(2, after.shape, generator=generator) * 2.0 - 1 for _ in range(100)]
    squares = [torch.autograd.grad(after, before, z, retain_graph=True)[0].square().sum().item() for z in signs]
    curve = measured("jacobian_traces", net, data, probes=100, epoch_parts=2)  # of two steps
    assert curve.x == list(range(1, 19))
    assert curve.y[-1] == pytest.approx(np.mean(squares) / after.numel(), rel=0.05)
    assert curve.numbers == {"mean": pytest.approx(np.mean(curve.y))}


def test_gradient_histogram_of_the_first_step():
    net, data = network(recipe_of("dspike/mnist_toy_rectangular"))
    twin, _ = network(data.recipe)
    x, labels = first_batch(data)
    F.cross_entropy(twin.train()(x).mean(0), labels).backward()
    grad = twin.conv1.weight.grad.flatten().double()
    settings = {"parameter": "conv1.weight", "epoch_parts": 2, "low": -0.02, "high": 0.02, "bins": 8}
    curve = measured("gradient_histogram", net, data, **settings)
    counts, _ = np.histogram(grad.numpy(), bins=8, range=(-0.02, 0.02))
    assert 0 < counts.sum() < grad.numel()  # some lie outside
    assert curve.y == pytest.approx(list(counts / grad.numel() / 0.005))
    assert curve.numbers["deviation"] == pytest.approx(grad.std(correction=0).item(), rel=1e-5)


def naive_differences(net, x, labels, epsilon):
    """Eq. 10, one element after the other."""

    def loss(move):
        weight = net.conv1.weight.detach() + move
        reset_net(net)
        y = torch.func.functional_call(net, {"conv1.weight": weight}, x)
        return F.cross_entropy(y.mean(0), labels).item()

    moves = epsilon * torch.eye(net.conv1.weight.numel()).view(-1, *net.conv1.weight.shape)
    with torch.no_grad():
        return torch.tensor([(loss(move) - loss(-move)) / (2 * epsilon) for move in moves])


@pytest.mark.parametrize("name", ["dspike/mnist_toy_rectangular", "dspike/mnist_toy_ann"])
def test_similarity_of_gradients_and_differences(name):
    net, data = network(recipe_of(name))
    twin, _ = network(data.recipe)
    x, labels = first_batch(data)
    differences = naive_differences(twin.train(), x, labels, 0.1)
    reset_net(twin)
    F.cross_entropy(twin(x).mean(0), labels).backward()
    expected = F.cosine_similarity(twin.conv1.weight.grad.flatten(), differences, dim=0).item()
    curve = measured("gradient_similarity", net, data, parameter="conv1.weight", epsilon=0.1, iterations=1)
    assert (curve.x, curve.y) == ([1.0], pytest.approx([expected], abs=1e-3))
    assert expected > (0.9 if data.recipe.neuron is None else 0)


def test_similarity_has_a_value_for_each_epoch():
    recipe = recipe_of("dspike/mnist_toy_rectangular", schedule={"epochs": 2})
    curve = measured("gradient_similarity", *network(recipe), parameter="conv1.weight", epsilon=0.1, iterations=100)
    assert curve.x == [1.0, 2.0]


# --- A network on the test data


def test_spike_rates_of_all_test_examples():
    net, data = network(recipe_of("dspike/mnist_toy_rectangular"))
    net.eval()
    x = data.test_sample(len(data.data.test))
    with torch.no_grad():
        spikes = net.neuron1(net.conv1(x[None]).expand(4, -1, -1, -1, -1))
    expected = spikes.mean().item()
    assert 0 < expected < 1
    for name in ("spike_rates", "spike_rates_untrained"):
        curve = measured(name, net, data)
        assert (curve.x, curve.y) == ([1.0], pytest.approx([expected], rel=1e-5))
    assert measured("spikes_per_neuron", net, data).y == pytest.approx([4 * expected], rel=1e-5)


def test_entropies_are_those_of_the_spike_rates():
    """Of p and 1 - p, by torch's own cross-entropy, which is in nats."""
    net, data = network(recipe_of("imloss/cifar10_cifarnet_t4"))
    p = torch.tensor(measured("spike_rates", net, data).y, dtype=torch.float64)
    expected = F.binary_cross_entropy(p, p, reduction="none") / math.log(2)
    assert expected.max() > 0.1
    for name in ("spike_entropies", "spike_entropies_untrained"):
        assert measured(name, net, data).y == pytest.approx(expected.tolist())


def test_layers_come_in_the_order_of_the_network():
    net, data = network(recipe_of("imloss/cifar10_cifarnet_t4"))
    nodes = [name for name, module in net.named_modules() if hasattr(module, "surrogate_function")]
    with torch.no_grad():
        net.get_submodule(nodes[2]).v_threshold = 1e9  # silences what follows too
    curve = measured("spike_rates", net, data)
    assert [y > 0 for y in curve.y[:3]] == [True, True, False]
    assert len(curve.y) == len(nodes) == 7


LAYER = "stages.0.1.branch.2"


def potentials_of(net, data, layer=LAYER):
    node, seen = net.get_submodule(layer), []
    node.register_forward_hook(lambda node, inputs, _: seen.append(node.h_seq))
    node.store_h_seq = True
    with torch.no_grad():
        net.eval()(data.test_sample(len(data.data.test))[None])
    return seen[0].flatten().double().numpy()


def second_block():
    return network(recipe_of("inflor/cifar10_resnet20_t4"))


def test_potentials_of_a_layer_before_and_after_mpr():
    net, data = second_block()
    u = potentials_of(second_block()[0], data)
    for after, shown in ((False, u), (True, phi(u))):
        curve = measured("layer_potentials", net, data, layer=LAYER, after=after, **BINS)
        counts, _ = np.histogram(shown, bins=71, range=(-3.05, 4.05))
        assert np.abs(np.array(curve.y) - counts / len(shown) / 0.1).max() < 0.02
        expected = ((shown - (u >= 0.5)) ** 2).mean()
        assert curve.numbers["quantisation error"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("settings", "layer"), [({}, LAYER), ({"second_block": "stage"}, "stages.1.0.branch.2")])
def test_quantisation_error_is_that_of_the_second_block(settings, layer):
    """Of the second residual block, or of the second stage."""
    net, data = second_block()
    u = potentials_of(second_block()[0], data, layer)
    numbers = measured("quantisation_error", net, data, **settings).numbers
    before, after = ((shown - (u >= 0.5)) ** 2 for shown in (u, phi(u)))
    assert numbers == pytest.approx({"before": before.mean(), "after": after.mean()}, rel=1e-4)


def test_a_setting_with_a_default_is_left_out_where_it_holds_it():
    check = MEASURES["quantisation_error"].check
    assert check({}, "here") == check({"second_block": "residual"}, "here") == {}
    assert check({"second_block": "stage"}, "here") == {"second_block": "stage"}
    with pytest.raises(InputError, match="here: key 'second_block' is 'first'; it must be one of 'residual', 'stage'"):
        check({"second_block": "first"}, "here")


def test_an_unknown_layer_is_named():
    with pytest.raises(ValueError, match=r"no node 'stages\.9'"):
        measured("layer_potentials", *second_block(), layer="stages.9", after=False, **BINS)
