"""The multi-step node equals SpikingJelly's step-by-step loop under autograd, keeps its input only, and copies."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import SlowTruth, normal
from spikingjelly.activation_based import functional, neuron
from spikingjelly.activation_based import surrogate as sj_surrogate
from torch import nn

from jellyplus import _compat
from jellyplus.neuron import IterativeLIFNode
from jellyplus.surrogate import Dspike, Rectangular, Surrogate, Triangular


class StraightThrough(torch.autograd.Function):
    """Backward hands on the very gradient it was given."""

    @staticmethod
    def forward(_, x):
        return (x >= 0).to(x)

    @staticmethod
    def backward(_, grad):
        return grad


SURROGATES = {
    "rectangular": lambda: Rectangular(width=0.8),
    "triangular": lambda: Triangular(),
    "dspike": lambda: Dspike(3.0),
    "dspike-soft": lambda: Dspike(2.0, spiking=False),
    "sj-atan": lambda: sj_surrogate.ATan(),
    "sj-sigmoid": lambda: sj_surrogate.Sigmoid(alpha=3.0),
}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def weighted(sequences, seed=100):
    """A loss that depends on every element of every sequence, with a slope that differs from place to place."""
    return sum(
        (normal(*s.shape, seed=seed + i, dtype=s.dtype) * (s + 0.5 * s * s)).sum() for i, s in enumerate(sequences)
    )


def two_calls(node, inputs, run):
    """Outputs of two calls with the state carried over, and the gradients of a loss over all of them."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    outputs = [part for x in inputs for part in run(node, x)]
    return outputs, torch.autograd.grad(weighted(outputs), inputs)


def run_fast(node, x):
    spikes = node(x)
    return spikes, node.v_seq, node.h_seq, node.v


def run_slow(node, x):
    node.h = []
    spikes = node(x)
    return spikes, node.v_seq, torch.stack(node.h), node.v


def run_single_steps(node, x):
    """Step mode 's' by hand; H is not visible there, V is."""
    steps = [(node(x_t), node.v) for x_t in x]
    return torch.stack([s for s, _ in steps]), torch.stack([v for _, v in steps]), node.v


def run_fast_without_h(node, x):
    return node(x), node.v_seq, node.v


def check_parity(fast, slow, inputs, dtype, run_a=run_fast, run_b=run_slow):
    inputs = [x.to(dtype) for x in inputs]
    (outputs, grads), (expected, expected_grads) = two_calls(fast, inputs, run_a), two_calls(slow, inputs, run_b)
    tolerance = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    per_call = len(outputs) // 2
    if fast.surrogate_function.spiking:
        for spikes, truth in zip(outputs[::per_call], expected[::per_call], strict=True):
            torch.testing.assert_close(spikes, truth, rtol=0, atol=0)
        assert 0.1 < torch.cat([s.flatten() for s in outputs[::per_call]]).mean() < 0.9
    torch.testing.assert_close(outputs, expected, **tolerance)
    torch.testing.assert_close(grads, expected_grads, **tolerance)
    assert all(g.count_nonzero() > g.numel() / 4 for g in grads)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("detach_reset", [True, False], ids=["detached", "attached"])
@pytest.mark.parametrize("v_reset", [0.0, None, 0.1])
def test_the_sequence_equals_spikingjellys_loop_under_autograd(
    v_reset, detach_reset, surrogate, steps, dtype, training
):
    shape = {"v_threshold": 0.6, "v_reset": v_reset, "detach_reset": detach_reset, "step_mode": "m"}
    fast = IterativeLIFNode(
        0.3, surrogate_function=SURROGATES[surrogate](), store_v_seq=True, store_h_seq=True, **shape
    ).train(training)
    slow = SlowTruth(0.3, surrogate_function=SURROGATES[surrogate](), **shape).train(training)
    inputs = [normal(steps, 3, 4, seed=seed) + 0.4 for seed in (1, 2)]
    check_parity(fast, slow, inputs, dtype)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("detach_reset", [True, False], ids=["detached", "attached"])
@pytest.mark.parametrize("v_reset", [0.0, None, 0.1])
def test_single_steps_equal_the_sequence(v_reset, detach_reset, surrogate):
    shape = {"decay": 0.3, "v_threshold": 0.6, "v_reset": v_reset, "detach_reset": detach_reset}
    fast = IterativeLIFNode(surrogate_function=SURROGATES[surrogate](), step_mode="m", store_v_seq=True, **shape)
    single = IterativeLIFNode(surrogate_function=SURROGATES[surrogate](), step_mode="s", **shape)
    inputs = [normal(4, 3, 4, seed=seed) + 0.4 for seed in (1, 2)]
    check_parity(fast, single, inputs, torch.float64, run_fast_without_h, run_single_steps)


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 4)).flatmap(
        lambda t: st.lists(st.integers(1, 3), min_size=1, max_size=4).map(lambda rest: (*t, *rest))
    ),
    v_reset=st.sampled_from([0.0, None, -0.2]),
    decay=st.floats(0.0, 1.0),
    surrogate=st.sampled_from(["rectangular", "dspike"]),
)
def test_parity_holds_for_any_shape_and_decay(shape, v_reset, decay, surrogate):
    node = {"v_threshold": 0.6, "v_reset": v_reset, "step_mode": "m"}
    stored = {"store_v_seq": True, "store_h_seq": True}
    fast = IterativeLIFNode(decay, surrogate_function=SURROGATES[surrogate](), **stored, **node)
    slow = SlowTruth(decay, surrogate_function=SURROGATES[surrogate](), **node)
    inputs = [normal(*shape, seed=seed) for seed in (3, 4)]
    (outputs, grads), (expected, expected_grads) = two_calls(fast, inputs, run_fast), two_calls(slow, inputs, run_slow)
    torch.testing.assert_close(outputs, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("neurons", [1, 7, 12, 24], ids="blocks of {}".format)
def test_parity_holds_when_the_neurons_run_in_several_blocks(monkeypatch, neurons):
    monkeypatch.setattr("jellyplus.neuron.torch_backend._BLOCK", neurons)
    arguments = {"v_reset": 0.1, "surrogate_function": Dspike(2.0), "step_mode": "m"}
    fast = IterativeLIFNode(0.4, v_threshold=0.6, store_v_seq=True, store_h_seq=True, **arguments)
    slow = SlowTruth(0.4, v_threshold=0.6, **arguments)
    inputs = [normal(3, 2, 3, 4, seed=seed) for seed in (1, 2)]
    check_parity(fast, slow, inputs, torch.float64, run_b=run_slow)


@pytest.mark.parametrize("v_reset", [0.0, None, 0.1])
def test_a_firing_function_that_hands_its_gradient_on_has_the_loops_gradient(v_reset):
    shape = {"v_threshold": 0.6, "v_reset": v_reset, "surrogate_function": StraightThrough.apply, "step_mode": "m"}
    grads = []
    for node in (IterativeLIFNode(0.3, **shape), SlowTruth(0.3, **shape)):
        x = (normal(4, 3, 5) + 0.4).requires_grad_()
        grads.append(torch.autograd.grad(weighted([node(x), node.v]), x)[0])
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("v_reset", [0.0, None, 0.1])
def test_backward_runs_twice_and_leaves_input_and_incoming_gradients_alone(v_reset, surrogate):
    node = IterativeLIFNode(
        0.3, 0.6, v_reset, SURROGATES[surrogate](), step_mode="m", store_v_seq=True, store_h_seq=True
    )
    node(normal(4, 3, 5) + 0.4)
    node.v = node.v.detach().requires_grad_()
    v, x = node.v, (normal(4, 3, 5, seed=1) + 0.4).requires_grad_()
    outputs = [node(x), node.v_seq, node.h_seq, node.v]
    incoming = [normal(*y.shape, seed=i) for i, y in enumerate(outputs)]
    before = [t.clone() for t in (x, v, *outputs, *incoming)]
    first, second = (torch.autograd.grad(outputs, (x, v), incoming, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a, b) for a, b in zip((x, v, *outputs, *incoming), before, strict=True))


@pytest.mark.parametrize("wanted", ["spikes", "v_seq", "h_seq", "v"])
def test_a_loss_on_one_output_alone_has_the_loops_gradient(wanted):
    """Outputs outside the loss arrive in backward as None."""
    index = ["spikes", "v_seq", "h_seq", "v"].index(wanted)
    shape = {"v_threshold": 0.6, "v_reset": 0.1, "step_mode": "m"}
    fast = IterativeLIFNode(0.3, surrogate_function=Dspike(2.0), store_v_seq=True, store_h_seq=True, **shape)
    slow = SlowTruth(0.3, surrogate_function=Dspike(2.0), **shape)
    grads = []
    for node, run in ((fast, run_fast), (slow, run_slow)):
        x = (normal(4, 3, 4) + 0.4).requires_grad_()
        grads.append(torch.autograd.grad(weighted([run(node, x)[index]]), x)[0])
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)
    assert grads[0].count_nonzero() > 0


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("v_reset", [0.0, None])
def test_decay_a_quarter_is_spikingjellys_lif_with_tau_four_thirds(v_reset, mode):
    shape = {"v_threshold": 0.5, "v_reset": v_reset, "step_mode": "m"}
    theirs = neuron.LIFNode(tau=4 / 3, decay_input=False, surrogate_function=sj_surrogate.ATan(), **shape)
    ours = IterativeLIFNode(surrogate_function=sj_surrogate.ATan(), **shape)
    functional.set_step_mode(ours, mode)
    results = []
    for node, single in ((ours, mode == "s"), (theirs, False)):
        x = (normal(6, 5, 7) + 0.3).requires_grad_()
        spikes = torch.stack([node(x_t) for x_t in x]) if single else node(x)
        results.append((spikes, *torch.autograd.grad(weighted([spikes, node.v]), x)))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-10, atol=1e-10)


def test_default_arguments_are_the_papers():
    node = IterativeLIFNode()
    assert (node.decay, node.v_threshold, node.v_reset, node.detach_reset) == (0.25, 0.5, 0.0, False)
    assert (node.step_mode, node.backend, node.store_v_seq, node.store_h_seq) == ("s", "auto", False, False)
    assert (type(node.surrogate_function), node.surrogate_function.width) == (Rectangular, 1.0)


def test_each_default_surrogate_is_fresh():
    assert IterativeLIFNode().surrogate_function is not IterativeLIFNode().surrogate_function


@pytest.mark.parametrize("mode", ["s", "m"])
def test_fires_at_equality(mode):
    node = IterativeLIFNode(step_mode=mode)
    x = torch.tensor([0.5, 0.5 - 2**-25, 0.5 + 2**-24])
    spikes = node(x[None])[0] if mode == "m" else node(x)
    assert spikes.tolist() == [1.0, 0.0, 1.0]


# H = 0.4; 0.5 * 0.4 + 0.4 = 0.6 fires; then hard: V = 0.1, H = 0.05 + 0.2 = 0.25; soft: V = 0, H = 0.2
HAND = {0.1: ([0.4, 0.6, 0.25], [0.4, 0.1, 0.25]), None: ([0.4, 0.6, 0.2], [0.4, 0.0, 0.2])}


@pytest.mark.parametrize("v_reset", HAND)
def test_stored_sequences_are_the_potentials_before_and_after_reset(v_reset):
    node = IterativeLIFNode(0.5, 0.6, v_reset, step_mode="m", store_v_seq=True, store_h_seq=True)
    # a potential of V_reset = 0.1 at the start adds 0.05 to the first charge
    first = 0.35 if v_reset == 0.1 else 0.4
    x = torch.tensor([[first], [0.4], [0.2]], dtype=torch.float64)
    assert node(x).flatten().tolist() == [0.0, 1.0, 0.0]
    h, v = (torch.tensor(values, dtype=torch.float64).view(3, 1) for values in HAND[v_reset])
    torch.testing.assert_close(node.h_seq, h)
    torch.testing.assert_close(node.v_seq, v)
    assert torch.equal(node.v, node.v_seq[-1])


def test_h_seq_is_attached_to_the_graph():
    """dH[2]/dX[1] = decay where nothing fires, and 1 within a time-step."""
    node = IterativeLIFNode(0.25, v_reset=None, detach_reset=True, step_mode="m", store_h_seq=True)
    x = torch.zeros(3, 1, requires_grad=True)
    node(x)
    (grad,) = torch.autograd.grad(node.h_seq[2, 0], x)
    assert grad.flatten().tolist() == [0.0625, 0.25, 1.0]


def test_reset_net_drops_state_and_stored_sequences():
    node = IterativeLIFNode(v_reset=0.1, step_mode="m", store_v_seq=True, store_h_seq=True)
    node(normal(2, 3))
    assert node.h_seq is not None
    assert node.v_seq is not None
    functional.reset_net(node)
    assert (node.v, node.h_seq, node.v_seq) == (0.1, None, None)


def test_sequences_are_not_kept_unless_asked_for():
    node = IterativeLIFNode(step_mode="m")
    node(normal(2, 3))
    assert node.h_seq is None
    assert getattr(node, "v_seq", None) is None


@pytest.mark.parametrize("expanded", [False, True], ids=["dense", "expanded"])
def test_channels_last_stays_channels_last(expanded):
    if expanded:
        x = normal(1, 2, 3, 4, 5).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        x = x.unflatten(0, (1, 2)).expand(4, -1, -1, -1, -1)
        assert x.stride(0) == 0
    else:
        x = normal(8, 3, 4, 5).contiguous(memory_format=torch.channels_last).unflatten(0, (4, 2))
    x = x.detach().requires_grad_()
    node = IterativeLIFNode(step_mode="m", store_v_seq=True, store_h_seq=True)
    spikes = node(x)
    (grad,) = torch.autograd.grad(spikes.sum(), x)
    for sequence in (spikes, node.h_seq, node.v_seq, grad):
        assert sequence.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    assert node.v.is_contiguous(memory_format=torch.channels_last)
    functional.reset_net(node)
    assert torch.equal(spikes, node(x.detach().contiguous()))  # and the numbers do not depend on the layout


def saved_tensors(run):
    """What autograd keeps for backward, one entry per memory."""
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t
    ):
        output = run()
    return output, kept


def test_backward_keeps_the_input_and_nothing_else():
    x = normal(4, 3, 5, seed=1).requires_grad_()
    node = IterativeLIFNode(surrogate_function=Dspike(2.0), step_mode="m")
    y, kept = saved_tensors(lambda: node(x))
    assert list(kept) == [x.untyped_storage().data_ptr()]

    attributes = {name: getattr(y.grad_fn, name) for name in vars(y.grad_fn)}
    leaves = [leaf for value in attributes.values() for leaf in (value if isinstance(value, tuple) else (value,))]
    assert attributes
    assert not any(isinstance(leaf, torch.Tensor) for leaf in leaves)


def test_backward_keeps_at_most_half_of_spikingjellys_bytes():
    counts = []
    lif = neuron.LIFNode(
        tau=4 / 3, decay_input=False, v_threshold=0.5, surrogate_function=sj_surrogate.Sigmoid(), step_mode="m"
    )
    for node in (IterativeLIFNode(surrogate_function=sj_surrogate.Sigmoid(), step_mode="m"), lif):
        x = normal(4, 64, 64, seed=1).requires_grad_()
        counts.append(sum(t.nbytes for t in saved_tensors(lambda node=node, x=x: node(x))[1].values()))
    assert counts[0] == 4 * 64 * 64 * 8
    assert counts[0] <= counts[1] / 2


def test_a_carried_state_is_the_only_other_thing_kept():
    node = IterativeLIFNode(step_mode="m")
    node(normal(4, 3))
    x = normal(4, 3, seed=1).requires_grad_()
    carried = node.v
    _, kept = saved_tensors(lambda: node(x))
    assert set(kept) == {x.untyped_storage().data_ptr(), carried.untyped_storage().data_ptr()}


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize(("before", "now"), [((3, 4), (2, 4)), ((1, 4), (3, 4)), ((3, 4), (1, 4)), ((3, 4), (3, 1))])
def test_state_of_another_shape_raises_and_names_reset_net(before, now, mode):
    node = IterativeLIFNode(step_mode=mode)
    sequence = (2,) if mode == "m" else ()
    node(normal(*sequence, *before))
    with pytest.raises(ValueError, match="reset_net"):
        node(normal(*sequence, *now))
    functional.reset_net(node)
    assert node(normal(*sequence, *now)).shape == (*sequence, *now)


@pytest.mark.parametrize("shape", [(0, 3), ()])
def test_a_sequence_without_time_steps_raises(shape):
    with pytest.raises(ValueError, match="T >= 1"):
        IterativeLIFNode(step_mode="m")(torch.zeros(shape))


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64], ids=str)
def test_integers_and_booleans_are_numbers(mode, dtype):
    x = normal(4, 3, 5).abs().round().to(dtype)
    run = {"m": lambda node, x: node(x), "s": lambda node, x: torch.stack([node(x_t) for x_t in x])}[mode]
    node, other = (IterativeLIFNode(0.5, step_mode=mode, v_threshold=1.2) for _ in range(2))
    for _ in range(2):  # the second call starts from a potential
        spikes = run(node, x)
        assert spikes.dtype == torch.float32
        assert torch.equal(spikes, run(other, x.float()))
    assert 0 < spikes.mean() < 1


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))], ids=["copy", "pickle"])
@pytest.mark.parametrize("after_forward", [False, True])
@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_node_can_be_copied_with_its_state(mode, after_forward, duplicate):
    node = IterativeLIFNode(0.3, surrogate_function=Dspike(2.0), step_mode=mode, store_v_seq=True, store_h_seq=True)
    x = (normal(2, 3, 4) + 0.3).requires_grad_()
    if after_forward:
        node(x)
        assert node.v.grad_fn is not None
    twin = duplicate(node)
    if after_forward:
        assert node.v.grad_fn is not None  # copying took nothing from the original
        assert torch.equal(twin.v, node.v)
        assert twin.v.data_ptr() != node.v.data_ptr()
    assert torch.equal(twin(x), node(x))
    assert torch.equal(twin.v, node.v)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_state_dict_holds_the_temperature_and_no_membrane_potential(mode):
    node = IterativeLIFNode(surrogate_function=Dspike(2.0), step_mode=mode)
    before = copy.deepcopy(node.state_dict())
    node((normal(2, 3) + 0.3).requires_grad_())
    after = node.state_dict()
    assert before == after == {"surrogate_function.temperature": torch.tensor(2.0)}
    other = IterativeLIFNode(surrogate_function=Dspike(7.0))
    other.load_state_dict(after)
    assert other.surrogate_function.temperature == 2.0


@pytest.mark.parametrize("mode", ["s", "m"])
def test_an_unknown_backend_raises_with_the_known_ones(mode):
    with pytest.raises(ValueError, match=r"unknown backend 'tpu'.*'torch'"):
        IterativeLIFNode(step_mode=mode, backend="tpu")
    node = IterativeLIFNode(step_mode=mode)
    with pytest.raises(ValueError, match="unknown backend 'tpu'"):
        node.backend = "tpu"
    assert node.backend == "auto"


def test_the_order_of_step_mode_and_backend_does_not_matter():
    one, other = nn.Sequential(IterativeLIFNode()), nn.Sequential(IterativeLIFNode())
    functional.set_step_mode(one, "m")
    _compat.set_backend(one, "torch")
    _compat.set_backend(other, "torch")
    functional.set_step_mode(other, "m")
    assert (one[0].step_mode, one[0].backend) == (other[0].step_mode, other[0].backend) == ("m", "torch")
    assert IterativeLIFNode(step_mode="s").supported_backends == IterativeLIFNode(step_mode="m").supported_backends


class Learnable(nn.Module):
    """A firing function with a parameter of its own."""

    spiking = True

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return torch.sigmoid(self.slope * x)


class LearnableSigmoid(Surrogate):
    """One of ours with a slope that is learnt."""

    def __init__(self, slope=2.0, spiking=True):
        super().__init__(spiking)
        self.slope = nn.Parameter(torch.tensor(slope))

    def primitive(self, x):
        return torch.sigmoid(self.slope * x)

    def gradient_(self, x):
        rising = torch.sigmoid(self.slope * x)
        return x.copy_(self.slope * rising * (1 - rising))

    def cuda_gradient(self, x):
        return "0.0f"


def gradients_of(surrogate, mode, **options):
    """Of the input and of the surrogate's slope, in float64."""
    node = IterativeLIFNode(0.5, surrogate_function=surrogate.double(), step_mode=mode, **options)
    torch.manual_seed(0)
    x = (2 * torch.rand(5, 3, 7, dtype=torch.float64) - 0.4).requires_grad_()
    spikes = node(x) if mode == "m" else torch.stack([node(step) for step in x])
    (spikes * torch.linspace(-1, 2, spikes.numel(), dtype=spikes.dtype).view_as(spikes)).sum().backward()
    return x.grad, surrogate.slope.grad


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("surrogate", [Learnable, LearnableSigmoid])
def test_parameters_of_a_surrogate_train_in_both_step_modes(surrogate, backend):
    (x, slope), (x_m, slope_m) = gradients_of(surrogate(), "s"), gradients_of(surrogate(), "m", backend=backend)
    assert slope != 0
    assert torch.allclose(slope, slope_m, rtol=1e-12, atol=0)
    assert torch.allclose(x, x_m, rtol=1e-12, atol=1e-12)


def test_the_gradient_of_a_learnt_shape_is_that_of_the_primitive_and_the_input_s_is_the_surrogate_s():
    smooth = LearnableSigmoid().double()
    x = torch.tensor([-0.4, 0.0, 0.3, 0.7], dtype=torch.float64, requires_grad=True)
    assert smooth(x).tolist() == [0, 1, 1, 1]
    smooth(x).sum().backward()
    with torch.no_grad():
        above, below = (torch.sigmoid(slope * x).sum() for slope in (2 + 1e-6, 2 - 1e-6))
        assert torch.allclose(smooth.slope.grad, (above - below) / 2e-6, rtol=1e-8)
        assert torch.equal(x.grad, smooth.gradient(x))
    soft = LearnableSigmoid(spiking=False).double()
    assert torch.equal(soft(x), soft.primitive(x))
    assert torch.autograd.gradcheck(soft, (x,))


def test_kernels_train_no_parameter_of_a_surrogate_and_say_so():
    node = IterativeLIFNode(surrogate_function=LearnableSigmoid(), step_mode="m")
    node._backend = "cpp"  # whether or not there is a compiler
    with pytest.raises(ValueError, match="does not train parameters of the surrogate itself: use backend='auto'"):
        node(torch.ones(2, 3))


def dspike_slope(x, b):
    """tanh' = sech^2, in Python floats."""
    return b / math.cosh(b * x) ** 2 / (2 * math.tanh(b / 2))


@pytest.mark.parametrize("mode", ["s", "m"])
def test_the_temperature_is_read_when_backward_runs(mode):
    """One graph, two temperatures: T = 1, so the gradient is the slope at H = 0.8."""
    node = IterativeLIFNode(surrogate_function=Dspike(1.0), step_mode=mode).double()
    x = torch.full((1, 1), 0.8, dtype=torch.float64, requires_grad=True)
    spikes = node(x)
    for b in (4.0, 2.0, 4.0):
        node.surrogate_function.temperature.fill_(b)
        (grad,) = torch.autograd.grad(spikes.sum(), x, retain_graph=True)
        assert grad.item() == pytest.approx(dspike_slope(0.8 - 0.5, b), abs=1e-12)
