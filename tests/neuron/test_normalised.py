"""A norm and the neurons behind it in one pass equal one after the other, and float64 step by step."""

import copy
import itertools
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from reference import SlowSRIF, SlowTruth, normal
from torch.utils.checkpoint import checkpoint

from jellyplus import functional, model
from jellyplus.layer import (
    ThresholdDependentBatchNorm1d,
    ThresholdDependentBatchNorm2d,
    ThresholdDependentBatchNorm3d,
)
from jellyplus.model import Layers
from jellyplus.neuron import IterativeLIFNode, SRIFNode, cpp_backend, normalised
from jellyplus.neuron.normalised import normalise_and_fire
from jellyplus.surrogate import Dspike, EvAF, Rectangular, Triangular

pytestmark = pytest.mark.skipif(
    cpp_backend.obstacle() is not None, reason=f"backend='cpp' cannot run: {cpp_backend.obstacle()}"
)
JOINED = "_NormalisedSequenceBackward"


class Form(NamedTuple):
    """A node and the slow one that it is to equal."""

    node: object
    slow: object


def lif(surrogate, v_reset, **options):
    def slow():
        return SlowTruth(
            0.25, v_threshold=0.5, v_reset=v_reset, surrogate_function=surrogate(), step_mode="m", **options
        )

    return Form(
        lambda: IterativeLIFNode(v_reset=v_reset, surrogate_function=surrogate(), step_mode="m", **options), slow
    )


def srif(surrogate, **options):
    return Form(
        lambda: SRIFNode(surrogate_function=surrogate(), step_mode="m", **options),
        lambda: SlowSRIF(True, surrogate_function=surrogate(), step_mode="m", **options),
    )


FORMS = {
    "hard": lif(Rectangular, 0.0),
    "hard, detached, dspike": lif(lambda: Dspike(2.0), 0.0, detach_reset=True),
    "soft, strict, triangular": lif(Triangular, None, strict=True),
    "soft, detached, evaf": lif(lambda: EvAF(2.0), None, detach_reset=True),
    "rectified": srif(Rectangular),
    "rectified, detached, dspike": srif(lambda: Dspike(2.0), detach_reset=True),
}
EVERY_FORM = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
# T below, at and above a segment of backward, and channels fewer and more than a block of neurons has
SHAPES = [(2, 4, 16, 8, 8), (8, 2, 5, 3, 3), (9, 3, 7, 5, 3), (17, 2, 3, 2, 2), (4, 2, 200, 3, 3), (1, 5, 130, 1, 1)]
NEAR = 1e-5  # a potential so near to the threshold, or to an edge of a window, may fall on either side of it


def channels_last(x):
    order = [0, 1, *range(3, x.dim()), 2]
    return x.permute(order).contiguous().permute(0, 1, -1, *range(2, x.dim() - 1))


def norm_of(channels, make=ThresholdDependentBatchNorm2d, **options):
    norm = make(0.7, 0.5, channels, **options)
    with torch.no_grad():
        norm.weight.copy_(1 + 0.3 * normal(channels, seed=1).tanh())
        norm.bias.copy_(0.3 * normal(channels, seed=2))
    return norm


def slow_outputs(norm, form, x, beside):
    """In float64, with torch's own batch norm: spikes and H."""
    folded = x.flatten(0, 1)
    weight, bias = norm.weight, norm.bias
    share = norm.momentum if norm.momentum is not None else 1 / (norm.num_batches_tracked.item() + 1)
    y = F.batch_norm(folded, norm.running_mean, norm.running_var, weight * 0.7 * 0.5, bias, True, share, norm.eps)
    y = y.view_as(x)
    node = form.slow()
    spikes = node(y if beside is None else y + beside)
    return spikes, torch.stack(node.h)


class Case(NamedTuple):
    norm: object
    x: torch.Tensor
    beside: torch.Tensor | None


def case(form, shape, with_beside, **options):
    """The first of which no potential is where rounding decides."""
    return next(filter(None, (_case(form, shape, with_beside, seed, options) for seed in itertools.count())))


def _case(form, shape, with_beside, seed, options):
    norm = norm_of(shape[2], **options)
    x = 1.5 * normal(*shape, seed=2 * seed) + 3 * normal(shape[2], seed=seed).view(-1, 1, 1)
    x = channels_last(x.float())
    beside = channels_last((normal(*shape, seed=2 * seed + 1) > 0.5).float()) if with_beside else None
    _, h = slow_outputs(copy.deepcopy(norm).double(), form, x.double(), beside.double() if with_beside else None)
    near = min((h - edge).abs().min() for edge in (0.0, 0.5, 1.0))
    return Case(norm, x, beside) if near > NEAR else None


def leaf(x, dtype=None):
    return (
        None
        if x is None
        else x.detach().to(dtype or x.dtype).clone(memory_format=torch.preserve_format).requires_grad_()
    )


def close(fast, slow):
    scale = slow.abs().max().clamp(min=1)
    torch.testing.assert_close(fast.double() / scale, slow / scale, rtol=0, atol=1e-5)


@EVERY_FORM
@pytest.mark.parametrize("with_beside", [False, True], ids=["alone", "beside"])
def test_outputs_gradients_and_statistics_are_those_in_float64(form, with_beside):
    for shape in SHAPES:
        norm, x, beside = case(form, shape, with_beside)
        slow_norm, node = copy.deepcopy(norm).double(), form.node()
        (fast_x, fast_beside), (slow_x, slow_beside) = ((leaf(x, t), leaf(beside, t)) for t in (None, torch.float64))
        spikes = normalise_and_fire(norm, node, fast_x, fast_beside)
        assert spikes.grad_fn.name() == JOINED
        expected, _ = slow_outputs(slow_norm, form, slow_x, slow_beside)
        assert torch.equal(spikes.double(), expected)
        grad = normal(*shape, seed=7)
        spikes.backward(grad.float())
        expected.backward(grad.float().double())
        close(fast_x.grad, slow_x.grad)
        close(norm.weight.grad, slow_norm.weight.grad)
        close(norm.bias.grad, slow_norm.bias.grad)
        close(norm.running_mean, slow_norm.running_mean)
        close(norm.running_var, slow_norm.running_var)
        assert norm.num_batches_tracked == 1
        if with_beside:
            close(fast_beside.grad, slow_beside.grad)


@pytest.mark.parametrize(
    ("make", "shape"), [(ThresholdDependentBatchNorm1d, (3, 9, 6)), (ThresholdDependentBatchNorm3d, (3, 2, 6, 4, 3, 2))]
)
def test_norms_of_other_dimensions(make, shape):
    x, norm, node = channels_last(normal(*shape).float()), norm_of(shape[2], make), IterativeLIFNode(step_mode="m")
    apart, other = copy.deepcopy(norm), leaf(x)
    (fast := normalise_and_fire(norm, node, x := leaf(x))).square().sum().backward()
    assert fast.grad_fn.name() == JOINED
    node.reset()
    (slow := node(apart(other))).square().sum().backward()
    assert torch.equal(fast, slow)
    close(x.grad, other.grad.double())


def test_running_statistics_of_equally_weighted_batches():
    form = FORMS["hard"]
    norm, x, _ = case(form, (2, 4, 3, 4, 4), False, momentum=None)
    slow = copy.deepcopy(norm).double()
    for factor in (1.0, 2.0, -0.5):
        normalise_and_fire(norm, form.node(), factor * x)
        slow_outputs(slow, form, factor * x.double(), None)
        slow.num_batches_tracked.add_(1)
    close(norm.running_mean, slow.running_mean)
    close(norm.running_var, slow.running_var)
    assert norm.num_batches_tracked == 3


def test_a_channel_far_from_zero_keeps_its_variance():
    x = channels_last(1000 + 0.1 * normal(2, 8, 3, 8, 8).float())
    norm = norm_of(3)
    normalise_and_fire(norm, IterativeLIFNode(step_mode="m"), x)
    expected = 0.9 + 0.1 * x.double().transpose(0, 2).flatten(1).var(1)
    torch.testing.assert_close(norm.running_var.double(), expected, rtol=1e-6, atol=0)


def test_what_is_not_a_number_is_not_hidden():
    x, norm = channels_last(normal(2, 3, 2, 2, 2).float()), norm_of(2)
    x[0, 0, 0] = torch.nan
    normalise_and_fire(norm, IterativeLIFNode(step_mode="m"), x)
    assert norm.running_mean.isnan().tolist() == norm.running_var.isnan().tolist() == [True, False]


def test_potentials_can_be_stored_and_differentiated():
    form = lif(Rectangular, 0.0)
    norm, x, beside = case(form, (9, 2, 5, 3, 3), True)
    gradients = []
    for joined in (True, False):
        own, node, own_x, own_beside = copy.deepcopy(norm), form.node(), leaf(x), leaf(beside)
        node.store_h_seq = node.store_v_seq = True
        spikes = normalise_and_fire(own, node, own_x, own_beside) if joined else node(own(own_x) + own_beside)
        assert (spikes.grad_fn.name() == JOINED) is joined
        weights = (normal(*x.shape, seed=s).float() for s in range(4))
        outputs = (spikes, node.h_seq, node.v_seq)
        loss = sum((w * y).sum() for w, y in zip(weights, outputs, strict=False)) + node.v.square().sum()
        loss.backward()
        gradients.append([own_x.grad, own_beside.grad, own.weight.grad, own.bias.grad, node.v, node.h_seq, node.v_seq])
    for fast, slow in zip(*gradients, strict=True):
        close(fast, slow.double())


def _hooked(module):
    module.register_forward_hook(lambda *_: None)
    return module


class OwnNode(IterativeLIFNode):
    pass


class OwnNorm(ThresholdDependentBatchNorm2d):
    pass


def _learning(norm):
    norm.alpha = torch.nn.Parameter(torch.tensor(0.7))
    return norm


def _halving(norm):
    norm.normalise = lambda x, own=norm.normalise: own(x) / 2
    return norm


def _repeating(node):
    node.multi_step_forward = lambda x, own=node.multi_step_forward: own(x)
    return node


def _compiled(node):
    node.compile(backend="eager")
    return node


def _carrying(node):
    node(torch.zeros(1, 3, 4, 5, 5))
    return node


def _replaced(module):
    module.forward = module.forward
    return module


def node_m(**options):
    return IterativeLIFNode(step_mode="m", **options)


X = channels_last(normal(2, 3, 4, 5, 5).float())
APART = {
    "contiguous": lambda: (norm_of(4), node_m(), X.contiguous().detach()),
    "float64": lambda: (norm_of(4).double(), node_m(), X.double()),
    "bfloat16": lambda: (norm_of(4), node_m(), X.bfloat16()),
    "evaluation with gradients": lambda: (norm_of(4).eval(), node_m(), X.detach()),
    "torch": lambda: (norm_of(4), node_m(backend="torch"), X.detach()),
    "own node": lambda: (norm_of(4), OwnNode(step_mode="m"), X.detach()),
    "own norm": lambda: (norm_of(4, OwnNorm), node_m(), X.detach()),
    "torch's norm": lambda: (torch.nn.BatchNorm3d(3), node_m(), X.detach()),
    "hook on norm": lambda: (_hooked(norm_of(4)), node_m(), X.detach()),
    "hook on node": lambda: (norm_of(4), _hooked(node_m()), X.detach()),
    "another forward": lambda: (_replaced(norm_of(4)), node_m(), X.detach()),
    "normalise of its own": lambda: (_halving(norm_of(4)), node_m(), X.detach()),
    "forward of its own": lambda: (norm_of(4), _repeating(node_m()), X.detach()),
    "compiled node": lambda: (norm_of(4), _compiled(node_m()), X.detach()),
    "learned alpha": lambda: (_learning(norm_of(4)), node_m(), X.detach()),
    "potential carried on": lambda: (norm_of(4), _carrying(node_m()), X.detach()),
    "primitive": lambda: (norm_of(4), node_m(surrogate_function=Dspike(spiking=False)), X.detach()),
    "beside broadcast": lambda: (norm_of(4), node_m(), X.detach(), torch.ones(4, 1, 1)),
    "every other pixel": lambda: (norm_of(4), node_m(), X.detach()[..., ::2]),
}


@pytest.mark.filterwarnings("ignore:backend 'auto' runs torch")
@pytest.mark.parametrize("make", APART.values(), ids=APART)
def test_what_the_kernels_do_not_know_runs_one_after_the_other(make):
    norm, node, x, *beside = make()
    spikes = normalise_and_fire(norm, node, x.requires_grad_(), *beside)
    assert spikes.grad_fn.name() != JOINED
    norm, node, x, *beside = make()
    assert torch.equal(spikes, node(sum([norm(x), *beside])))


BESIDE = {  # of the shape of X, which is [2, 3, 4, 5, 5]
    "contiguous": lambda: normal(2, 3, 4, 5, 5),
    "one image at all time-steps": lambda: channels_last(normal(1, 3, 4, 5, 5)).expand(2, -1, -1, -1, -1),
    "every other time-step": lambda: channels_last(normal(4, 3, 4, 5, 5))[::2],
    "a part of the batch": lambda: channels_last(normal(2, 7, 4, 5, 5))[:, 2:5],
    "a part of the channels": lambda: channels_last(normal(2, 3, 9, 5, 5))[:, :, 3:7],
    "one for all": lambda: normal(1, 1, 1, 1, 1).expand(2, 3, 4, 5, 5),
    "examples before time-steps": lambda: channels_last(normal(3, 2, 4, 5, 5)).transpose(0, 1),
}


@pytest.mark.parametrize("make", BESIDE.values(), ids=BESIDE)
def test_what_is_beside_may_lie_anyhow(make):
    found = []
    for joined in (True, False):
        norm, node, x, beside = norm_of(4), node_m(), leaf(X), make().float().requires_grad_()
        spikes = normalise_and_fire(norm, node, x, beside) if joined else node(norm(x) + beside)
        assert (spikes.grad_fn.name() == JOINED) is joined
        spikes.backward(normal(2, 3, 4, 5, 5, seed=7).float())
        found.append((spikes, x.grad, beside.grad, norm.weight.grad))
    for fast, slow in zip(*found, strict=True):
        close(fast, slow.double())


def test_channels_are_those_of_the_input_where_a_norm_was_pruned():
    norm = norm_of(8)
    norm.weight, norm.bias = (torch.nn.Parameter(own.data[:4].clone()) for own in (norm.weight, norm.bias))
    norm.running_mean, norm.running_var = norm.running_mean[:4].clone(), norm.running_var[:4].clone()
    apart = copy.deepcopy(norm)
    assert torch.equal(normalise_and_fire(norm, node_m(), X), node_m()(apart(X)))
    close(norm.running_var, apart.running_var.double())


@pytest.mark.parametrize("norm_in_front", [True, False])
def test_what_is_kept_may_come_back_in_another_layout(norm_in_front):
    """As from a file; with T = 9, so that the potentials that the kernels keep are in it."""
    grads = []
    for pack in (lambda tensor: tensor, torch.Tensor.contiguous):
        x, node = leaf(channels_last(normal(9, 3, 4, 5, 5).float())), node_m()
        beside = leaf(channels_last(normal(9, 3, 4, 5, 5, seed=1).float()))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            spikes = normalise_and_fire(norm_of(4), node, x, beside) if norm_in_front else node(x + beside)
        spikes.backward(normal(9, 3, 4, 5, 5, seed=2).float())
        grads.append((x.grad, beside.grad))
    assert all(map(torch.equal, *grads))


class Tripled(torch.nn.Sequential):
    def forward(self, x):
        return 3 * super().forward(x)


@pytest.mark.parametrize("branch", [Tripled(norm_of(4)), torch.nn.Sequential(), norm_of(4)])
def test_a_block_runs_whatever_branch_it_is_given(branch):
    block = model.ResidualBlock(branch, torch.nn.Identity(), node_m())
    expected = node_m()(copy.deepcopy(branch)(X) + X)
    assert torch.equal(block(X), expected)


def test_one_number_a_channel_is_refused_as_by_torch():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        normalise_and_fire(norm_of(4), node_m(), torch.rand(1, 1, 4, 1, 1))


def test_a_hook_on_all_modules_sees_the_norm():
    seen = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module)))
    try:
        assert normalise_and_fire(norm_of(4), node_m(), leaf(X)).grad_fn.name() != JOINED
    finally:
        handle.remove()
    assert seen == [ThresholdDependentBatchNorm2d, IterativeLIFNode]
    assert normalise_and_fire(norm_of(4), node_m(), leaf(X)).grad_fn.name() == JOINED


def test_several_processes_take_their_statistics_together(monkeypatch):
    monkeypatch.setattr(normalised, "processes", lambda: 2)
    assert normalise_and_fire(norm_of(4), node_m(), leaf(X)).grad_fn.name() != JOINED


@pytest.mark.parametrize("training", [True, False])
def test_without_a_graph(training, monkeypatch):
    own, other = norm_of(4).train(training), norm_of(4).train(training)
    runs = []
    monkeypatch.setattr(normalised, "_run", lambda *a, run=normalised._run: runs.append(a) or run(*a))
    with torch.no_grad():
        for norm in (own, other):
            norm.running_mean.copy_(0.1 * normal(4, seed=3))
            norm.running_var.copy_(1 + 0.5 * normal(4, seed=4).tanh())
        spikes, expected = normalise_and_fire(own, node_m(), X), node_m()(other(X))
    assert len(runs) == 1
    assert torch.equal(spikes, expected)
    for fast, slow in zip(own.buffers(), other.buffers(), strict=True):
        close(fast, slow.double())


def test_threads_change_rounding_alone():
    x = channels_last(normal(4, 8, 6, 32, 32).float())
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 1, 2, 3):
            torch.set_num_threads(threads)
            norm, own = norm_of(6), leaf(x)
            normalise_and_fire(norm, node_m(), own).square().sum().backward()
            found.append((own.grad, norm.weight.grad, norm.running_var))
    finally:
        torch.set_num_threads(before)
    first, again, *others = found
    assert all(map(torch.equal, first, again))
    for other in others:
        for a, b in zip(first, other, strict=True):
            close(a, b.double())


def test_checkpointed_layers_run_in_one_pass_again():
    net = Layers(norm_of(4), node_m())
    grads = []
    for run in (net, lambda x: checkpoint(net, x, use_reentrant=False)):
        functional.reset_net(net)
        net.zero_grad()
        x = leaf(X)
        run(x).square().sum().backward()
        grads.append((x.grad, net[0].weight.grad.clone()))
    assert all(map(torch.equal, *grads))


def kept(net, x):
    """The bytes that the graph keeps and that are no weights, each storage once."""
    functional.reset_net(net)
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = net(x)
    for parameter in net.parameters():
        storages.pop(parameter.data_ptr(), None)
    return sum(storages.values()), y


@pytest.fixture
def apart(monkeypatch):
    """Makes norms and nodes run one after the other."""
    return lambda: monkeypatch.setattr(normalised, "_can_be_joined", lambda *_: False)


def graph_nodes(y):
    names, waiting, seen = [], [y.grad_fn], set()
    while waiting:
        if (node := waiting.pop()) is not None and node not in seen:
            seen.add(node)
            names.append(node.name())
            waiting += [before for before, _ in node.next_functions]
    return names


NETWORKS = {  # and how many norms stand behind the encoder or in a shortcut, where no neuron follows at once
    "plain": (lambda: model.plain(width=8, time_steps=2, depth=6), 1),
    "cifarnet": (lambda: model.cifarnet(width=8, time_steps=2), 1),
    "vgg16_diet": (lambda: model.vgg16_diet(width=8, time_steps=2), 1),
    "resnet20": (lambda: model.resnet20(width=8, time_steps=2), None),
    "dspike_resnet18": (lambda: model.dspike_resnet18(width=8, time_steps=2), None),
    "tdbn_resnet50": (lambda: model.tdbn_resnet50(width=8, time_steps=2), None),
}


@pytest.mark.parametrize(("make", "left"), NETWORKS.values(), ids=NETWORKS)
def test_architectures_run_their_norms_and_neurons_in_one_pass(make, left, apart):
    torch.manual_seed(0)
    net = make().to(memory_format=torch.channels_last)
    x = normal(1, 2, 3, 32, 32).float()
    names = graph_nodes(net(x))
    norms = sum(isinstance(module, ThresholdDependentBatchNorm2d) for module in net.modules())
    shortcuts = sum(name.endswith("shortcut") for name, module in net.named_modules() if list(module.children()))
    assert names.count(JOINED) == norms - (1 + shortcuts if left is None else left) > 3
    joined_bytes, _ = kept(net, x)
    apart()
    apart_bytes, y = kept(net, x)
    assert JOINED not in graph_nodes(y)
    assert joined_bytes < 0.8 * apart_bytes


def test_layers_are_torchs_sequential():
    torch.manual_seed(0)
    layers = Layers(torch.nn.Conv3d(3, 3, 1), node_m(), torch.nn.Identity(), node_m(), torch.nn.Flatten())
    x = torch.rand(2, 3, 4, 5, 5)
    functional.reset_net(layers)
    expected = torch.nn.Sequential(*layers)(x)
    functional.reset_net(layers)
    assert torch.equal(layers(input=x), expected)
    assert list(layers.state_dict()) == list(torch.nn.Sequential(*layers).state_dict())
