"""Finite differences and the temperature search on networks that are not ours, against moving one element by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional as sj_functional
from spikingjelly.activation_based import layer, neuron
from spikingjelly.activation_based.model import sew_resnet, spiking_resnet, spiking_vgg
from torch import nn

from jellyplus.functional import finite_difference_gradient, search_temperature, set_temperature
from jellyplus.layer import ThresholdDependentBatchNorm2d
from jellyplus.neuron import IterativeLIFNode, SRIFNode
from jellyplus.surrogate import Dspike

T, N, K, EPSILON = 3, 4, 3, 0.2
TARGET = torch.tensor([1, 0, 2, 1])
ONE_AT_A_TIME, ALL = 1, 2**28

NODES = {
    "SpikingJelly LIF": lambda: neuron.LIFNode(tau=1.5, v_threshold=0.4, surrogate_function=Dspike(2.0)),
    "SpikingJelly IF, soft reset": lambda: neuron.IFNode(v_threshold=0.4, v_reset=None, surrogate_function=Dspike(2.0)),
    "ours": lambda: IterativeLIFNode(surrogate_function=Dspike(2.0)),
    "ours, soft reset": lambda: SRIFNode(surrogate_function=Dspike(2.0)),
}


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss(y):
    """Of [T, N, K], [N, T, K] and [N, K]: not linear, and different for every time-step and example."""
    return ((y.flatten() + 0.3).cos() * torch.linspace(0.5, 2, y.numel(), dtype=y.dtype)).sum() / 3


def truth(net, name, loss, x, indices, epsilon=EPSILON):
    """Each element moved on its own copy of the network."""
    differences = []
    for index in indices:
        values = []
        for step in (epsilon, -epsilon):
            twin = copy.deepcopy(net)
            sj_functional.reset_net(twin)
            with torch.no_grad():
                parameter = twin.get_parameter(name)
                place = torch.unravel_index(torch.tensor(index), parameter.shape)
                parameter[place] += step
                values.append(loss(twin(x)).item())
        differences.append((values[0] - values[1]) / (2 * epsilon))
    return torch.tensor(differences, dtype=torch.float64)


def assert_true(net, name, x, loss=loss, max_bytes=ALL, nonzero=True, **arguments):
    """At six elements evenly spaced, and at the largest."""
    net.passes[0] = 0
    result = finite_difference_gradient(net, name, loss, x, EPSILON, max_bytes, **arguments).flatten()
    used = net.passes[0]
    indices = {*torch.linspace(0, len(result) - 1, 6).round().int().tolist(), result.abs().argmax().item()}
    expected = truth(net, name, loss, x, indices)
    torch.testing.assert_close(result[list(indices)], expected, rtol=1e-9, atol=1e-9)
    assert not nonzero or expected.abs().max() > 1e-3
    return used


class Core(nn.Module):
    """Two convolutions, norms and nodes, and a linear layer on [N, 2, 6, 6], a time-step at a time or all at once."""

    def __init__(self, node, norm=layer.BatchNorm2d):
        super().__init__()
        torch.manual_seed(4)
        self.conv1, self.norm1, self.node1 = layer.Conv2d(2, 4, 3, padding=1), norm(4), node()
        self.conv2, self.norm2, self.node2 = layer.Conv2d(4, 4, 3, padding=1, groups=2), norm(4), node()
        self.fc = layer.Linear(4 * 9, K)

    def forward(self, x):
        x = self.node1(self.norm1(self.conv1(x)))
        x = self.node2(self.norm2(self.conv2(x)))
        x = F.max_pool3d(x, (1, 2, 2)).flatten(-3)
        return self.fc(x)


def trained(net):
    """Running statistics under which neurons fire in evaluation."""
    for norm in net.modules():
        if getattr(norm, "running_var", None) is not None:
            norm.running_var.fill_(0.1)
    return net


class Layout(nn.Module):
    """A network whose forward turns its input over to others as a function says, and counts its passes."""

    def __init__(self, forward, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.passes, self.way = [0], forward
        trained(self.double())

    def forward(self, x):
        self.passes[0] += 1
        return self.way(self, x)

    def __deepcopy__(self, memo):
        """Copies count on the same counter."""
        twin = Layout(self.way, **{name: copy.deepcopy(module, memo) for name, module in self.named_children()})
        for name, parameter in self._parameters.items():
            twin.register_parameter(name, copy.deepcopy(parameter, memo))
        for name, buffer in self._buffers.items():
            twin.register_buffer(name, buffer.clone())
        for norm, own in zip(twin.buffers(), self.buffers(), strict=True):
            norm.copy_(own)
        twin.passes = self.passes
        return twin.train(self.training)


def steps(net, x):
    """One time-step after the other, [T, N, *] to [T, N, K]."""
    return torch.stack([net.core(x[t]) for t in range(len(x))])


def repeated(x):
    return x.expand(T, *x.shape)


def in_steps(node):
    return {"core": Core(node)}


def at_once(node):
    core = Core(node)
    sj_functional.set_step_mode(core, "m")
    return {"core": core}


def with_tdbn(node):
    core = Core(node, lambda channels: ThresholdDependentBatchNorm2d(1.0, 0.5, channels))
    for module in core.modules():
        if hasattr(module, "step_mode"):
            module.step_mode = "m"
    return {"core": core}


class Flat(nn.Module):
    """torch's layers on [T * N, *], in SpikingJelly's containers, and nodes on [T, N, *]."""

    def __init__(self, node):
        super().__init__()
        torch.manual_seed(4)
        self.first = layer.SeqToANNContainer(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.node1, self.node2 = node(), node()
        self.second = layer.SeqToANNContainer(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.head = layer.SeqToANNContainer(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, K))
        self.node1.step_mode = self.node2.step_mode = "m"

    def forward(self, x):
        return self.head(self.node2(self.second(self.node1(self.first(x)))))


def flat(node):
    return {"core": Flat(node)}


def presented(net, x):
    """The first layers run once, the rest in a loop."""
    core = net.core
    current = core.norm1(core.conv1(x))
    return torch.stack(
        [core.fc(F.avg_pool2d(core.node2(core.conv2(core.node1(current))), 2).flatten(1)) for _ in range(T)]
    )


IMAGES, FRAMES, BATCH_FIRST = (N, 2, 6, 6), (T, N, 2, 6, 6), (N, T, 2, 6, 6)
CORE = ("core.conv1.weight", "core.conv1.bias", "core.norm1.weight", "core.conv2.weight", "core.fc.weight")
FLAT = ("core.first.0.weight", "core.first.1.bias", "core.second.0.weight", "core.head.2.weight")
#: modules, forward, shape of the input, and the parameters whose perturbations share a pass
LAYOUTS = {
    "images, repeated inside": (at_once, lambda net, x: net.core(repeated(x)), IMAGES, CORE),
    "frames": (at_once, lambda net, x: net.core(x), FRAMES, CORE),
    "frames, tdBN": (with_tdbn, lambda net, x: net.core(x), FRAMES, CORE),
    "frames, mean over time": (at_once, lambda net, x: net.core(x).mean(0), FRAMES, CORE),
    "batch first": (at_once, lambda net, x: net.core(x.transpose(0, 1)), BATCH_FIRST, CORE),
    "batch first, out too": (at_once, lambda net, x: net.core(x.transpose(0, 1)).transpose(0, 1), BATCH_FIRST, CORE),
    "batch first, mean": (at_once, lambda net, x: net.core(x.transpose(0, 1)).mean(0), BATCH_FIRST, CORE),
    "flattened": (flat, lambda net, x: net.core(x), FRAMES, FLAT),
    "flattened, images": (flat, lambda net, x: net.core(repeated(x)), IMAGES, FLAT),
    "flattened to the end": (flat, lambda net, x: net.core(repeated(x)).flatten(0, 1), IMAGES, FLAT),
    "an output that is no tensor": (at_once, lambda net, x: {"logits": net.core(x)}, FRAMES, ()),
    "loop over frames": (in_steps, steps, FRAMES, ()),
    "loop over a repeated image": (in_steps, lambda net, x: steps(net, repeated(x)), IMAGES, ()),
    "loop over frames, batch first": (in_steps, lambda net, x: steps(net, x.transpose(0, 1)), BATCH_FIRST, ()),
    "loop, mean over time": (in_steps, lambda net, x: steps(net, repeated(x)).mean(0), IMAGES, ()),
    "loop behind the first layer": (in_steps, presented, IMAGES, CORE[:3]),
}
STILL = {"core.conv1.bias", "core.first.0.bias"}  # a norm in training subtracts it


@pytest.mark.parametrize(("node", "training"), [("SpikingJelly LIF", True), ("ours, soft reset", False)])
@pytest.mark.parametrize("case", LAYOUTS)
def test_every_layout_is_true_and_passes_are_shared_where_they_can(case, node, training):
    make, forward, shape, shared = LAYOUTS[case]
    net, x = Layout(forward, **make(NODES[node])).train(training), 2 * uniform(*shape)

    def value(y):
        return loss(y["logits"] if isinstance(y, dict) else y)

    for name in (name for name in CORE + FLAT if name in dict(net.named_parameters())):
        if name == "core.conv1.weight" and training and case != "frames":
            continue  # a case in evaluation is enough for the largest
        passes = assert_true(net, name, x, value, nonzero=not (name in STILL and training))
        elements = net.get_parameter(name).numel()
        if elements > 4:  # with trial and checks it takes as many passes as four elements
            assert (passes < 2 * elements) == (name in shared)


@pytest.mark.parametrize("case", LAYOUTS)
def test_a_given_batch_dimension_changes_nothing(case):
    make, forward, shape, _ = LAYOUTS[case]
    net, x = Layout(forward, **make(NODES["ours"])).eval(), 2 * uniform(*shape)
    name = "core.first.1.bias" if make is flat else "core.norm1.weight"

    def value(y):
        return loss(y["logits"] if isinstance(y, dict) else y)

    for batch_dim in range(x.dim()):  # most are wrong
        assert_true(net, name, x, value, batch_dim=batch_dim)
    for batch_dim in (-1, x.dim()):
        with pytest.raises(ValueError, match=f"batch_dim must be a dimension of x, 0 to {x.dim() - 1}"):
            finite_difference_gradient(net, name, value, x, EPSILON, batch_dim=batch_dim)


# --- SpikingJelly's models ---


def small_vgg(**arguments):
    net = spiking_vgg.SpikingVGG([4, "M", 4], batch_norm=True, num_classes=K, init_weights=False, **arguments)
    net.avgpool = layer.AdaptiveAvgPool2d(2)
    net.classifier = nn.Sequential(layer.Linear(16, 6), arguments["spiking_neuron"](), layer.Linear(6, K))
    nn.init.uniform_(net.classifier[0].weight, -0.3, 0.6)  # so that its neurons fire
    return net


def resnet(module, **block):
    def make(**arguments):
        block_of_64, layers = module.BasicBlock, [1, 1, 1, 1]
        kind = module.SEWResNet if block else module.SpikingResNet
        return kind(block_of_64, layers, num_classes=K, **block, **arguments)

    return make


MODELS = {
    "VGG": (small_vgg, ("features.0.weight", "features.1.weight", "features.4.weight", "classifier.0.weight")),
    "ResNet": (resnet(spiking_resnet), ("bn1.weight", "fc.bias")),
    "SEW ResNet": (resnet(sew_resnet, cnf="ADD"), ("bn1.bias", "fc.bias")),
}


@pytest.mark.parametrize(
    ("model", "node", "step_mode", "training"),
    [
        *((model, "SpikingJelly LIF", "m", True) for model in MODELS),
        *((model, "ours", "m", False) for model in MODELS),
        ("VGG", "SpikingJelly LIF", "s", True),  # 2 k whole passes: one small model has all of it
        ("VGG", "ours", "s", False),
    ],
)
def test_spikingjellys_models(model, node, step_mode, training):
    make, names = MODELS[model]
    torch.manual_seed(6)
    core = make(spiking_neuron=lambda **_: NODES[node]())
    sj_functional.set_step_mode(core, step_mode)
    forward = steps if step_mode == "s" else lambda net, x: net.core(x)
    net, x = Layout(forward, core=core).train(training), 2 * uniform(2, 2, 3, 8, 8)
    for name in names:
        assert_true(net, f"core.{name}", x)


# --- What would meet ---


class Drifting(nn.Module):
    """Its threshold is a buffer that every pass moves, and no memory."""

    def __init__(self):
        super().__init__()
        self.register_buffer("threshold", torch.tensor(0.1))

    def forward(self, x):
        self.threshold = self.threshold + 0.1 * x.mean().abs()
        return x * (x.detach().abs() > self.threshold) * self.threshold


class OneMemory(neuron.IFNode):
    """One threshold for the whole batch, kept as a memory."""

    def __init__(self):
        super().__init__(v_threshold=0.4)
        self.register_memory("heat", torch.zeros((), dtype=torch.float64))

    def single_step_forward(self, x):
        self.heat = self.heat + x.mean()
        return super().single_step_forward(x - 0.1 * self.heat)


class Standardised(nn.Conv2d):
    """A convolution that is not linear in its weight."""

    def forward(self, x):
        weight = self.weight / self.weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, padding=1)


class HandWritten(nn.Module):
    """LIF neurons as a loop on [T, N, *], of local state."""

    threshold, highest = float("inf"), 0.0

    def forward(self, x):
        v, spikes = torch.zeros_like(x[0]), []
        for current in x:
            v = 0.5 * v + current
            self.highest = max(self.highest, v.max().item())
            spikes.append((v > self.threshold).to(x))
            v = v * (1 - spikes[-1])
        self.spikes = torch.stack(spikes)
        return self.spikes


def conv(**arguments):
    torch.manual_seed(8)
    return {"conv": nn.Conv2d(2, 3, 3, padding=1, **arguments), "fc": nn.Linear(3 * 36, K)}


def two(net, x):
    return net.fc(net.middle(net.conv(x)).flatten(1))


def hooked():
    modules = conv()
    modules["conv"].register_forward_hook(lambda module, inputs, y: 1.7 * y.relu())
    return modules | {"middle": nn.ReLU()}


def in_silence(net, x):
    """[N, T, 2, 6, 6] to [N, T, K], and neurons that have no module in a pass over time."""
    currents = net.conv(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (x.shape[1], x.shape[0]))
    return net.fc(net.middle(currents).flatten(2)).transpose(0, 1)


MEETING = {
    "a mean over the batch": (lambda: conv() | {"middle": nn.ReLU()}, lambda net, x: two(net, x - x.mean(0))),
    "a mean behind the layer": (
        lambda: conv() | {"middle": nn.ReLU()},
        lambda net, x: net.fc((net.conv(x) - net.conv.bias.mean()).relu().flatten(1)).softmax(0),
    ),
    "a functional norm": (
        conv,
        lambda net, x: net.fc(F.batch_norm(net.conv(x), None, None, training=True).relu().flatten(1)),
    ),
    "a norm without running statistics": (
        lambda: conv() | {"middle": nn.BatchNorm2d(3, track_running_stats=False)},
        lambda net, x: two(net, x).sin(),
    ),
    "a buffer that moves": (lambda: conv() | {"middle": Drifting()}, two),
    "one memory for the batch": (lambda: conv() | {"middle": OneMemory()}, two),
    "neurons that mix examples": (
        lambda: conv() | {"middle": neuron.IFNode(v_threshold=0.4)},
        lambda net, x: two(net, x).square() + net.middle.v.mean(),
    ),
}
#: whose parameter does more than move one output of one layer
ELSEWHERE = {
    "read by another": (
        lambda: conv() | {"middle": nn.ReLU()},
        lambda net, x: two(net, x) + F.conv2d(x, net.conv.weight).mean((2, 3)),
    ),
    "a layer that runs twice": (
        lambda: conv() | {"middle": nn.ReLU()},
        lambda net, x: two(net, x) * two(net, x.flip(-1)),
    ),
    "a layer called by its forward": (
        lambda: conv() | {"middle": nn.ReLU()},
        lambda net, x: net.fc(net.conv.forward(x).relu().flatten(1)),
    ),
    "a layer called by keyword": (
        lambda: conv() | {"middle": nn.ReLU()},
        lambda net, x: net.fc(net.conv(input=x).relu().flatten(1)),
    ),
    "a weight that is standardised": (lambda: conv() | {"conv": Standardised(2, 3, 3), "middle": nn.ReLU()}, two),
    "a hook that changes the output": (hooked, two),
}


def tied():
    modules = conv() | {"middle": nn.Conv2d(2, 3, 3, padding=1)}
    modules["middle"].weight = modules["conv"].weight
    return modules


ELSEWHERE["a weight of two layers"] = (
    tied,
    lambda net, x: net.fc((net.conv(x) * net.middle(x)).relu().flatten(1)),
)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", [*MEETING, *ELSEWHERE])
def test_what_would_meet_is_kept_apart(case, training):
    make, forward = (MEETING | ELSEWHERE)[case]
    net, x = Layout(forward, **make()).train(training), 2 * uniform(*IMAGES)
    for max_bytes in (ONE_AT_A_TIME, ALL):
        assert_true(net, "conv.weight", x, max_bytes=max_bytes)


@pytest.mark.parametrize("batch_dim", [None, 0])
@pytest.mark.parametrize(("examples", "steps"), [(2, 2), (1, 3), (4, 2), (4, 7)])
@pytest.mark.parametrize("way", [in_silence, lambda net, x: in_silence(net, x) + x.mean((2, 3, 4))[..., None]])
def test_silent_neurons_do_not_hide_that_time_is_no_batch(way, examples, steps, batch_dim):
    """Joined along time, one perturbation would leave its membrane potential to the next."""
    net, x = Layout(way, **conv(), middle=HandWritten()).eval(), uniform(examples, steps, 2, 6, 6)
    net(x)
    net.middle.threshold = 1.02 * net.middle.highest
    net(x)
    assert not net.middle.spikes.any()
    assert_true(net, "conv.weight", x, batch_dim=batch_dim)


@pytest.mark.parametrize(("batch_dim", "shared"), [(None, False), (0, True), (1, True)])
def test_without_neurons_two_dimensions_may_hold_and_a_given_one_is_shared(batch_dim, shared):
    net = Layout(lambda net, x: net.core(x), **at_once(nn.ReLU)).eval()
    assert (assert_true(net, "core.conv2.weight", uniform(*FRAMES), batch_dim=batch_dim) < 2 * 72) == shared


def test_a_parameter_of_neurons_starts_each_time_from_reset_neurons():
    node = neuron.ParametricLIFNode(init_tau=2.0, v_threshold=0.4, step_mode="m")
    net = Layout(lambda net, x: net.fc(net.node(net.conv(x)).flatten(2)), **at_once_conv(), node=node)
    assert_true(net, "node.w", 2 * uniform(*FRAMES))


def at_once_conv():
    torch.manual_seed(8)
    return {"conv": layer.Conv2d(2, 3, 3, padding=1, step_mode="m"), "fc": layer.Linear(108, K, step_mode="m")}


def test_a_parameter_of_the_network_itself():
    net = Layout(lambda net, x: net.core(repeated(x)) * net.scale, **at_once(NODES["ours"]))
    net.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert_true(net, "scale", 2 * uniform(*IMAGES))


def test_a_layer_of_several_inputs():
    torch.manual_seed(1)
    net = Layout(lambda net, x: net.mix(x[..., :4], x[..., 4:]), mix=nn.Bilinear(4, 2, K))
    assert_true(net, "mix.weight", uniform(N, 6))


def test_a_parameter_that_nobody_reads_has_no_gradient():
    net = Layout(lambda net, x: net.core(x), **at_once(NODES["ours"]), unused=nn.Linear(2, 2))
    assert finite_difference_gradient(net, "unused.bias", loss, uniform(*FRAMES)).eq(0).all()


@pytest.mark.parametrize("shape", [(T, N, 2, 6, 6), (N, 2, 6, 6)])
def test_time_in_place_of_a_batch_is_not_shared(shape):
    """A convolution that takes [T, C, H, W] as a batch, and nodes for which the first dimension is time."""
    net = Layout(
        lambda net, x: net.fc(net.node(net.conv(x)).flatten(1)),
        conv=nn.Conv2d(2, 3, 3, padding=1),
        node=IterativeLIFNode(step_mode="m"),
        fc=nn.Linear(108, K),
    )
    if len(shape) == 5:
        net.way = lambda net, x: torch.stack([net.fc(net.node(net.conv(f)).flatten(1)) for f in x])
    assert_true(net, "conv.weight", 2 * uniform(*shape))


@pytest.mark.parametrize(
    "noise", [lambda x: F.dropout(x, 0.5), lambda x: x + torch.randn_like(x), lambda x: torch.rand_like(x).le(x).to(x)]
)
@pytest.mark.parametrize("name", ["core.conv1.bias", "core.fc.bias"])
def test_a_random_network_is_refused(noise, name):
    for make, way in ((at_once, lambda net, x: net.core(noise(x))), (in_steps, lambda net, x: steps(net, noise(x)))):
        net = Layout(way, **make(NODES["ours"]))
        with pytest.raises(ValueError, match="the network draws random numbers"):
            finite_difference_gradient(net, name, loss, uniform(*FRAMES))


def test_an_error_of_the_network_is_its_own():
    net = Layout(lambda net, x: net.core(net.missing(x)), **at_once(NODES["ours"]))
    with pytest.raises(AttributeError, match="missing"):
        finite_difference_gradient(net, "core.fc.bias", loss, uniform(*FRAMES))


# --- the temperature search ---


@pytest.mark.parametrize(("node", "training"), [("SpikingJelly IF, soft reset", False), ("ours", True)])
@pytest.mark.parametrize("case", LAYOUTS)
def test_the_search_compares_true_gradients(case, node, training):
    make, forward, shape, _ = LAYOUTS[case]
    net, x = Layout(forward, **make(NODES[node])).train(training), 2 * uniform(*shape)
    name = "core.first.1.weight" if make is flat else "core.norm1.weight"

    def value(y):
        return loss(y["logits"] if isinstance(y, dict) else y)

    reference, similarities = truth(net, name, value, x, range(4)), []
    for b in (2.0, 1.5, 2.5):
        twin = copy.deepcopy(net)
        set_temperature(twin, b)
        for module in twin.modules():
            if isinstance(module, neuron.BaseNode):
                module.train()
        (gradient,) = torch.autograd.grad(value(twin(x)), twin.get_parameter(name))
        similarities.append(F.cosine_similarity(gradient, reference, dim=0).item())
    batch_dim = {IMAGES: 0, FRAMES: 1, BATCH_FIRST: 0}[shape]
    for arguments in ({}, {"batch_dim": batch_dim}):
        found = search_temperature(net, name, value, x, EPSILON, step=0.5, **arguments)
        assert found.candidates == (2.0, 1.5, 2.5)
        assert found.similarities == pytest.approx(similarities, rel=1e-6)
        assert all(module.training is training for module in net.modules())
