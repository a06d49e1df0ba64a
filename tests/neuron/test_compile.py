"""torch.compile, torch.export and torch.func over nodes: the numbers of the plain run, or a sentence."""

import copy

import pytest
import torch
from reference import normal
from spikingjelly.activation_based import surrogate
from spikingjelly.activation_based.model import spiking_resnet
from torch import nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

from jellyplus import functional, model
from jellyplus.loss import IMLoss
from jellyplus.model import attach_shortcuts
from jellyplus.neuron import IterativeLIFNode, SRIFNode
from jellyplus.neuron.cpp_backend import obstacle
from jellyplus.surrogate import Dspike, EvAF, Rectangular, Triangular

CPP = pytest.param("cpp", marks=pytest.mark.skipif(obstacle() is not None, reason=f"no cpp backend: {obstacle()}"))
BACKENDS = pytest.mark.parametrize("backend", ["torch", CPP])
NODES = {
    "hard": lambda **a: IterativeLIFNode(0.5, surrogate_function=Rectangular(2.0), **a),
    "hard, reset to 0.1": lambda **a: IterativeLIFNode(0.5, v_reset=0.1, surrogate_function=Triangular(0.7), **a),
    "hard, detached, strict": lambda **a: IterativeLIFNode(
        0.5, detach_reset=True, strict=True, surrogate_function=Dspike(3.0), **a
    ),
    "soft": lambda **a: IterativeLIFNode(0.5, v_reset=None, surrogate_function=EvAF(2.0), **a),
    "SRIF": lambda **a: SRIFNode(surrogate_function=Dspike(3.0), **a),
    "SRIF, detached": lambda **a: SRIFNode(rectify=False, detach_reset=True, surrogate_function=Triangular(0.7), **a),
}


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def layers(node, backend="torch"):
    torch.manual_seed(0)
    dtype, time_steps = (torch.float64, 3) if backend == "torch" else (torch.float32, 11)  # kernels: two segments
    return nn.Sequential(nn.Linear(6, 8), node, nn.Linear(8, 3)).to(dtype), 2 * normal(time_steps, 4, 6).to(dtype)


def compiled(net, backend="aot_eager", **how):
    return torch.compile(net, fullgraph=True, backend=backend, **how)


def run(function, net, x, passes=1):
    """Outputs, gradients, buffers and what stays on the nodes, after so many passes from a reset."""
    functional.reset_net(net)
    net.zero_grad()
    output = sum(function(x) for _ in range(passes))
    (output * normal(*output.shape, seed=1).to(output)).sum().backward()
    grads = {name: parameter.grad for name, parameter in net.named_parameters()}
    nodes = [module for module in net.modules() if hasattr(module, "memories")]
    left = [kept for node in nodes for kept in (*node.memories(), node.v_seq, node.h_seq)]
    return output, grads, dict(net.named_buffers()), left


def check(net, x, passes=1, rtol=1e-10, **how):
    plain = copy.deepcopy(net)
    made = run(compiled(net, **how), net, x, passes)
    torch.testing.assert_close(made, run(plain, plain, x, passes), rtol=rtol, atol=rtol)


@BACKENDS
@pytest.mark.parametrize("make", NODES.values(), ids=NODES)
def test_one_graph_gives_what_the_plain_run_gives(backend, make):
    node = make(step_mode="m", backend=backend, store_v_seq=True, store_h_seq=True)
    check(*layers(node, backend), passes=2, rtol=1e-10 if backend == "torch" else 1e-5)


@BACKENDS
def test_what_the_inductor_makes_too(backend):
    node = IterativeLIFNode(0.5, surrogate_function=Dspike(3.0), step_mode="m", backend=backend)
    check(*layers(node, backend), rtol=1e-10 if backend == "torch" else 1e-5, backend="inductor")


@pytest.mark.parametrize("make", NODES.values(), ids=NODES)
def test_single_steps(make):
    net, x = layers(make())
    check(net, x[0], passes=2)


def fire(x):
    """A user's own: a function, no module, its gradient a sigmoid's."""
    soft = torch.sigmoid(4 * x)
    return (x >= 0).to(x) + soft - soft.detach()


@pytest.mark.parametrize(
    "function",
    [fire, surrogate.ATan(), surrogate.Sigmoid(), Dspike(2.0, spiking=False)],
    ids=["own", "ATan", "Sigmoid", "primitive"],
)
def test_surrogates_of_other_makes_are_traced(function):
    check(*layers(IterativeLIFNode(0.5, surrogate_function=function, step_mode="m")))


@BACKENDS
def test_neither_the_batch_nor_a_temperature_compiles_again(backend):
    net, x = layers(IterativeLIFNode(surrogate_function=Dspike(1.0), step_mode="m", backend=backend), backend)
    function, plain = compiled(net, dynamic=True), copy.deepcopy(net)
    for batch, temperature in ((4, 1.0), (3, 2.0), (2, 5.0)):
        for each in (net, plain):
            functional.set_temperature(each, temperature)
        part = x[:, :batch].clone()
        torch.testing.assert_close(run(function, net, part), run(plain, plain, part))
    assert counters["stats"]["unique_graphs"] == 1


@BACKENDS
@pytest.mark.parametrize("constant", ["decay", "v_threshold", "strict"])
def test_a_constant_that_changes_is_read_anew(backend, constant):
    net, x = layers(IterativeLIFNode(0.5, surrogate_function=EvAF(), step_mode="m", backend=backend), backend)
    function, plain = compiled(net), copy.deepcopy(net)
    x = x.round(decimals=1)
    run(function, net, x)
    for each in (net, plain):
        setattr(each[1], constant, {"decay": 0.25, "v_threshold": 0.75, "strict": True}[constant])
    torch.testing.assert_close(run(function, net, x), run(plain, plain, x))


@pytest.mark.parametrize("name", ["cifarnet", "resnet19", "dspike_resnet18"])
def test_architectures(name):
    torch.manual_seed(0)
    make = model.ARCHITECTURES[name]
    net = make(num_classes=10, width=8, time_steps=2).double()
    check(net, normal(1, 2, 3, 32, 32), rtol=1e-8, backend="eager")


def test_an_architecture_of_compiled_neurons_with_shortcuts():
    if found := obstacle():
        pytest.skip(f"no cpp backend: {found}")
    torch.manual_seed(0)
    net = attach_shortcuts(model.resnet20(num_classes=10, width=8, time_steps=2))
    functional.set_backend(net, "cpp", IterativeLIFNode)
    check(net, normal(1, 2, 3, 32, 32).float(), rtol=1e-4, backend="eager")


def test_spikingjellys_own_model():
    torch.manual_seed(0)
    net = spiking_resnet.spiking_resnet18(spiking_neuron=IterativeLIFNode, num_classes=10, step_mode="m").double()
    functional.set_step_mode(net, "m")
    check(net, normal(2, 2, 3, 32, 32), rtol=1e-8, backend="eager")


def test_im_loss_of_a_compiled_network():
    grads = []
    for compiles in (True, False):
        net, x = layers(IterativeLIFNode(surrogate_function=EvAF(), step_mode="m"))
        loss = IMLoss(net)
        function = compiled(net) if compiles else net
        (function(x).sum() + loss()).backward()
        grads.append([parameter.grad for parameter in net.parameters()])
    torch.testing.assert_close(*grads)


def test_in_evaluation_without_gradients():
    net, x = layers(IterativeLIFNode(0.5, step_mode="m"))
    with torch.no_grad():
        output = compiled(net.eval())(x)
        functional.reset_net(net)
        torch.testing.assert_close(output, net(x))


def test_a_recomputation_of_compiled_code_is_refused():
    net, x = layers(IterativeLIFNode(0.5, surrogate_function=EvAF(), step_mode="m"))
    function = compiled(net)
    function(x)
    function(x)  # there is code for a potential that was carried on
    functional.reset_net(net)
    with pytest.raises(RuntimeError, match=r"compiled node.*reset_net"):
        checkpoint(function, x, use_reentrant=False).sum().backward()


def test_a_recomputation_that_resets_by_itself_is_right():
    net, x = layers(IterativeLIFNode(0.5, surrogate_function=EvAF(), step_mode="m"))
    plain, function = copy.deepcopy(net), compiled(net)

    def from_reset(x):
        functional.reset_net(net)
        return function(x)

    made = run(lambda x: checkpoint(from_reset, x, use_reentrant=False), net, x)
    torch.testing.assert_close(made[:2], run(plain, plain, x)[:2])


@BACKENDS
@pytest.mark.parametrize("strict", [True, False])
def test_export_in_evaluation(backend, strict):
    net, x = layers(IterativeLIFNode(0.5, step_mode="m", backend=backend), backend)
    exported = torch.export.export(net.eval(), (x,), strict=strict)
    functional.reset_net(net)
    torch.testing.assert_close(exported.module()(x), net(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_a_trace_is_of_operations():
    node, (x, y) = IterativeLIFNode(0.5, step_mode="m"), (normal(4, 3, 5, seed=s).float() for s in (1, 2))
    traced = torch.jit.trace(node, (x,), check_trace=False)
    functional.reset_net(node)
    assert torch.equal(traced(y), node(y))


def test_functional_gradients_are_those_of_the_plain_run():
    net, x = layers(IterativeLIFNode(0.5, surrogate_function=Dspike(3.0), step_mode="m"))
    parameters = dict(net.named_parameters())

    def loss(parameters, x):
        functional.reset_net(net)
        return torch.func.functional_call(net, parameters, (x,)).square().sum()

    whole = torch.func.grad(loss)(parameters, x)
    of_each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))(parameters, x.unsqueeze(2))
    functional.reset_net(net)
    net(x).square().sum().backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(whole[name], parameter.grad)
        torch.testing.assert_close(of_each[name].sum(0), parameter.grad)


def test_a_product_with_the_jacobian_is_that_of_its_transpose():
    net, x = layers(IterativeLIFNode(0.5, surrogate_function=Dspike(3.0), step_mode="m"))

    def output(x):
        functional.reset_net(net)
        return net(x)

    direction = normal(*x.shape, seed=2)
    spikes, moved = torch.func.jvp(output, (x,), (direction,))
    weights = normal(*spikes.shape, seed=3)
    (gradient,) = torch.autograd.grad(output(x.requires_grad_()), x, weights)
    torch.testing.assert_close((moved * weights).sum(), (gradient * direction).sum())


@pytest.mark.skipif(obstacle() is not None, reason=f"no cpp backend: {obstacle()}")
def test_kernels_are_no_functions_of_torch_func():
    net, x = layers(IterativeLIFNode(step_mode="m", backend="cpp"), "cpp")
    with pytest.raises(ValueError, match=r"torch\.func.*set_backend"):
        torch.func.grad(lambda x: net(x).sum())(x)


@pytest.mark.skipif(obstacle() is not None, reason=f"no cpp backend: {obstacle()}")
@pytest.mark.parametrize("time_steps", [2, 11])  # without and with checkpoints
@pytest.mark.parametrize("carried", [True, False])
def test_the_operator_keeps_torchs_rules(time_steps, carried):
    node = IterativeLIFNode(surrogate_function=Dspike(3.0), backend="cpp")
    text = node.surrogate_function.cuda_codes("const float slope", "over_threshold", "float")
    x = normal(time_steps, 3, 5).float().requires_grad_()
    v = normal(3, 5, seed=1).float().requires_grad_() if carried else None
    arguments = (x, v, 0.25, "cpp", text, node.surrogate_function.parameter, *node.dynamics, True, True, True)
    torch.library.opcheck(torch.ops.jellyplus.sequence.default, arguments)
