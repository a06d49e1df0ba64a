"""convert: outputs, potentials and gradients against SpikingJelly's own nodes and models."""

import copy
import doctest

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import sew_resnet, spiking_resnet, spiking_vgg
from torch import nn

from jellyplus import convert as module
from jellyplus.convert import ScaledInputLIFNode, convert
from jellyplus.functional import set_step_mode
from jellyplus.layer import ThresholdDependentBatchNorm2d
from jellyplus.neuron import IterativeLIFNode, Node
from jellyplus.surrogate import Dspike

RESETS = (0.0, None, -0.3)
NODES = {
    "if": lambda **kwargs: neuron.IFNode(**kwargs),
    "lif": lambda **kwargs: neuron.LIFNode(tau=1.7, **kwargs),
    "lif-no-decay-input": lambda **kwargs: neuron.LIFNode(tau=1.7, decay_input=False, **kwargs),
}


def run(net: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of two calls, the second from the potential that the first left, and the gradient of the input."""
    functional.reset_net(net)
    x = x.clone().requires_grad_()
    outputs = [net(x), net(x)]
    if any(y.requires_grad for y in outputs):
        sum((y * torch.linspace(-1, 2, y.numel()).view_as(y)).sum() for y in outputs).backward()
    return [*outputs, *([] if x.grad is None else [x.grad])]


def assert_equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    for left, right in zip(a, b, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("make", NODES.values(), ids=NODES)
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("detach_reset", [False, True])
@pytest.mark.parametrize("mode", ["s", "m"])
def test_nodes_equal_spikingjellys(make, v_reset, detach_reset, mode):
    arguments = {"v_threshold": 0.8, "v_reset": v_reset, "detach_reset": detach_reset, "step_mode": mode}
    node = make(surrogate_function=surrogate.ATan(), store_v_seq=mode == "m", **arguments)
    converted, report = convert(node)
    assert isinstance(converted, IterativeLIFNode)
    assert len(report.changed) == 1
    assert not report.unchanged
    x = 3 * torch.rand(6, 5, 7, dtype=torch.float64) - 0.3
    outputs = run(node, x)
    assert 0 < outputs[0].mean() < 1
    assert_equal(run(converted, x), outputs)
    assert_equal([converted.v], [node.v])
    if mode == "m":
        assert_equal([converted.v_seq], [node.v_seq])


def narrow_vgg(node, **kwargs):
    """Without the 120 million weights of its classifier."""
    with torch.device("meta"):
        net = spiking_vgg.spiking_vgg11_bn(spiking_neuron=node, **kwargs)
    for i, sizes in {0: (512 * 7 * 7, 16), 3: (16, 16), 6: (16, 3)}.items():
        net.classifier[i] = layer.Linear(*sizes)
    net.to_empty(device="cpu")
    for part in net.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    return net


MODELS = {
    "spiking_resnet": lambda node, **kwargs: spiking_resnet.spiking_resnet18(spiking_neuron=node, **kwargs),
    "sew_resnet": lambda node, **kwargs: sew_resnet.sew_resnet18(spiking_neuron=node, cnf="ADD", **kwargs),
    "spiking_vgg": narrow_vgg,
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("mode", ["s", "m"])
def test_spikingjellys_models(make, mode):
    torch.manual_seed(0)
    net = make(neuron.LIFNode, num_classes=3, surrogate_function=surrogate.Sigmoid(), detach_reset=True).double()
    set_step_mode(net, mode)
    for node in net.modules():
        if isinstance(node, neuron.LIFNode):
            node.v_threshold, node.tau = 0.1, 1.3
        if isinstance(node, nn.Dropout | layer.Dropout):
            node.p = 0.0
    converted, report = convert(net)
    x = torch.rand(*((2, 2) if mode == "m" else (2,)), 3, 32, 32, dtype=torch.float64)
    assert_equal(run(converted, x), run(net, x))  # in training
    norms = [old for old in net.modules() if isinstance(old, nn.BatchNorm2d)]
    factor = 0.1 if mode == "m" else 1.0
    for (name, old), new in zip(net.named_parameters(), converted.parameters(), strict=True):
        scaled = factor if new.dim() == 1 and name.endswith("weight") else 1.0
        torch.testing.assert_close(new.grad, old.grad * scaled, rtol=1e-7, atol=1e-10, msg=name)
    assert list(converted.state_dict()) == list(net.state_dict())
    assert not any(type(node) is neuron.LIFNode for node in converted.modules())
    tdbns = [new for new in converted.modules() if isinstance(new, ThresholdDependentBatchNorm2d)]
    assert len(tdbns) == (len(norms) if mode == "m" else 0)
    assert len(report.unchanged) == len(norms) - len(tdbns)
    assert_equal(run(converted.eval(), x)[:2], run(net.eval(), x)[:2])


def small(mode: str = "m", **kwargs: object) -> nn.Sequential:
    net = nn.Sequential(layer.Conv2d(1, 2, 3), layer.BatchNorm2d(2, **kwargs), neuron.IFNode(v_threshold=0.5)).double()
    set_step_mode(net, mode)
    return net


@pytest.mark.parametrize("momentum", [0.3, None])
def test_a_norm_keeps_what_it_has(momentum):
    net = small(eps=1e-3, momentum=momentum)
    net[1].weight.requires_grad_(False).uniform_()
    net[1].eval().register_forward_hook(lambda *_: calls.append(1))
    calls = []
    norm = convert(net, alpha=0.7)[0][1]
    assert (norm.alpha, norm.v_th, norm.eps, norm.momentum, norm.training) == (0.7, 0.5, 1e-3, momentum, False)
    torch.testing.assert_close(norm.weight * 0.35, net[1].weight)
    assert not norm.weight.requires_grad
    assert norm.weight.dtype == torch.float64
    norm(torch.rand(2, 3, 2, 4, 4).double())
    assert calls == [1]


def test_the_norms_argument():
    net, x = small(), torch.rand(3, 2, 1, 6, 6).double()
    before = net[:2](x)
    torch.testing.assert_close(convert(net, norm="scaled", alpha=0.5)[0][:2](x), before * 0.25)
    torch.testing.assert_close(convert(net, v_th=3.0)[0][:2](x), before)
    assert type(convert(net, norm="keep")[0][1]) is layer.BatchNorm2d


@pytest.mark.parametrize(
    ("norm", "reason"),
    [
        (layer.BatchNorm2d(2, affine=False, step_mode="m"), "affine"),
        (layer.BatchNorm2d(2, track_running_stats=False, step_mode="m"), "track_running_stats"),
        (layer.BatchNorm2d(2), "step mode 's'"),
        (layer.SeqToANNContainer(nn.BatchNorm2d(2)), "layer.BatchNorm2d"),
        (layer.BatchNorm1d(2, step_mode="m"), "layer.BatchNorm2d"),
    ],
)
def test_norms_that_stay_are_named_with_the_reason(norm, reason):
    converted, report = convert(nn.Sequential(norm, neuron.IFNode()))
    assert type(converted[0]) is type(norm)
    (text,) = report.unchanged.values()
    assert reason in text
    assert text in str(report)


class Named(neuron.LIFNode):
    """The same neuron with defaults of its own."""

    def __init__(self, tau: float = 3.0):
        super().__init__(tau=tau)
        self.title = "mine"


class Other(neuron.LIFNode):
    def single_step_forward(self, x):
        return x


def test_nodes_that_stay_are_named_with_the_reason():
    patched = neuron.IFNode()
    patched.forward = lambda x: x
    primitive = neuron.IFNode(surrogate_function=surrogate.ATan(spiking=False))
    net = nn.Sequential(neuron.ParametricLIFNode(), neuron.QIFNode(), Other(), patched, primitive, Named())
    converted, report = convert(net)
    assert list(report.changed) == ["5"]
    assert converted[5].title == "mine"
    texts = [report.unchanged[str(i)] for i in range(5)]
    words = ("ParametricLIFNode", "QIFNode", "overrides single_step_forward", "overrides forward", "spiking=False")
    assert all(word in text for word, text in zip(words, texts, strict=True)), texts
    assert [type(m) for m in converted][:5] == [type(m) for m in net][:5]


def test_shared_modules_and_surrogates_stay_shared_and_the_network_stays_as_it_is():
    function, calls = Dspike(), []
    node = neuron.IFNode(surrogate_function=function, step_mode="m")
    node.register_forward_hook(lambda *_: calls.append(1))
    net = nn.Sequential(node, node, neuron.LIFNode(surrogate_function=function, step_mode="m"), neuron.KLIFNode())
    net.nodes_by_name = {"first": node}
    net.eval()(torch.rand(3, 2, 4, requires_grad=True))  # the potentials left have a graph
    before = copy.copy(node.v)
    converted, _ = convert(net)
    assert converted[0] is converted[1] is converted.nodes_by_name["first"]
    assert converted[0].surrogate_function is converted[2].surrogate_function is not function
    assert net[0] is node
    assert torch.equal(node.v, before)
    assert not converted[0].training
    assert isinstance(converted[0].v, float)
    assert isinstance(converted[3].v, float)
    calls.clear()
    converted(torch.rand(3, 2, 4))
    assert calls == [1, 1]


def test_parametrised_weights():
    layers = (nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.utils.spectral_norm(nn.Linear(4, 4)))
    net = nn.Sequential(layers[0], neuron.IFNode(), layers[1], neuron.IFNode()).double()
    x = 3 * torch.rand(5, 4).double()
    net(x)
    net.eval()
    assert_equal(run(convert(net)[0], x)[:2], run(net, x)[:2])


def test_convert_again_changes_nothing_more():
    converted, _ = convert(small())
    again, report = convert(converted)
    assert [type(m) for m in again] == [type(m) for m in converted]
    assert report == ({}, {})


def test_a_backend_that_cannot_run_here_becomes_torch():
    node = neuron.IFNode(step_mode="m")
    if not hasattr(node, "backend"):
        pytest.skip("SpikingJelly 2.x has no backends")
    node._backend = "cupy"
    converted, report = convert(node)
    if converted.backend == "torch":
        assert "backend='cupy' cannot run here" in str(report)


def test_a_scaled_input_runs_without_a_state_of_its_own():
    node = ScaledInputLIFNode(0.5, 0.1, decay=0.5, v_threshold=1.0, v_reset=0.2)
    x = 3 * torch.rand(4)
    (spike,), (v, *_) = node.single_step_functional_forward((x,), (0.2, None))
    assert torch.equal(node(x), spike)
    assert torch.equal(node.v, v)
    assert isinstance(node, Node)
    assert "input_scale=0.5, input_offset=0.1" in repr(node)


@pytest.mark.parametrize(
    ("net", "arguments", "error", "words"),
    [
        ("net", {}, TypeError, "takes a network"),
        (nn.ReLU(), {"norm": "tdbn"}, ValueError, "norm must be 'equal'"),
        (nn.ReLU(), {"alpha": 0.0}, ValueError, "alpha must be a positive number"),
        (nn.ReLU(), {"v_th": float("nan")}, ValueError, "v_th must be a positive number"),
        (nn.DataParallel(nn.ReLU()), {}, ValueError, "wrapped in a DataParallel"),
        (torch.jit.trace(nn.ReLU(), torch.rand(1)), {}, ValueError, "before it is compiled"),
    ],
)
def test_bad_input(net, arguments, error, words):
    with pytest.raises(error, match=words):
        convert(net, **arguments)


def test_doctests():
    assert doctest.testmod(module).failed == 0
