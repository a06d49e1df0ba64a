"""``backend="auto"``: what runs a sequence, and what is said where it is not the fast one."""

import copy
import warnings

import pytest
import torch
from spikingjelly.activation_based import surrogate as sj_surrogate

from jellyplus import functional
from jellyplus.neuron import IterativeLIFNode, SRIFNode, backends
from jellyplus.neuron.cpp_backend import CppEngine
from jellyplus.neuron.torch_backend import TorchEngine
from jellyplus.surrogate import Dspike

needs_compiler = pytest.mark.skipif(bool(backends.obstacle("cpp")), reason="no C++ compiler")


@pytest.fixture(autouse=True)
def nothing_said_yet():
    backends._say_once.cache_clear()


def engine_of(x, fire=None):
    node = IterativeLIFNode(surrogate_function=fire)
    return type(backends.fastest(node.surrogate_function, node.dynamics, x))


@pytest.mark.parametrize("node", [IterativeLIFNode, SRIFNode])
def test_auto_is_the_default_and_a_choice_of_set_backend(node):
    net = torch.nn.Sequential(node(step_mode="m"))
    assert net[0].backend == "auto"
    functional.set_backend(net, "torch")
    functional.set_backend(net, "auto")
    assert net[0].backend == copy.deepcopy(net)[0].backend == "auto"
    assert "backend=auto" in repr(net)


@needs_compiler
def test_auto_runs_kernels_on_what_they_run_and_torch_in_silence_elsewhere():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert engine_of(torch.zeros(2, 3)) is CppEngine
        assert engine_of(torch.zeros(2, 3, dtype=torch.float64)) is TorchEngine
        assert engine_of(torch.zeros(2, 3, device="meta")) is TorchEngine


@needs_compiler
def test_auto_equals_kernels_in_float32_and_torch_in_float64():
    torch.manual_seed(0)
    for dtype, backend in ((torch.float32, "cpp"), (torch.float64, "torch")):
        x = 2 * torch.rand(5, 3, 7, dtype=dtype) - 0.4
        grads = []
        for name in ("auto", backend):
            leaf = x.clone().requires_grad_()
            IterativeLIFNode(surrogate_function=Dspike(3.0), step_mode="m", backend=name)(leaf).cumsum(
                0
            ).sum().backward()
            grads.append(leaf.grad)
        assert torch.equal(*grads)


@needs_compiler
def test_a_surrogate_without_kernel_code_runs_on_torch_which_is_said_once():
    with pytest.warns(
        UserWarning, match=r"'auto' runs torch, since cpp cannot run this surrogate: Erf has no CUDA code"
    ):
        assert engine_of(torch.zeros(2, 3), sj_surrogate.Erf()) is TorchEngine
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert engine_of(torch.zeros(2, 3), sj_surrogate.Erf()) is TorchEngine


def test_a_machine_without_compiler_runs_on_torch_which_is_said_once_and_a_name_stays_strict(monkeypatch):
    found = backends.Obstacle("no compiler", "install it")
    monkeypatch.setattr(backends, "obstacle", lambda backend: found if backend == "cpp" else None)
    with pytest.warns(UserWarning, match="'auto' runs torch, since cpp cannot run here: no compiler; install it"):
        assert engine_of(torch.zeros(2, 3)) is TorchEngine
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert IterativeLIFNode(step_mode="m")(torch.ones(2, 3)).sum() == 6
    with pytest.raises(ValueError, match="cannot run here: no compiler"):
        IterativeLIFNode(backend="cpp")


@needs_compiler
@pytest.mark.skipif(not hasattr(sj_surrogate.ATan, "cuda_codes"), reason="SpikingJelly 2.x's have no CUDA code")
@pytest.mark.parametrize(
    "name", ["ATan", "FakeNumericalGradient", "LeakyKReLU", "PiecewiseLeakyReLU", "QPseudoSpike", "S2NN", "Sigmoid"]
)
def test_every_surrogate_of_spikingjelly_with_cuda_code_runs_on_cpp(name):
    torch.manual_seed(0)
    x, weight = 2 * torch.rand(5, 3, 40) - 0.4, torch.randn(5, 3, 40)
    grads = []
    for backend in ("torch", "cpp"):
        node = IterativeLIFNode(surrogate_function=getattr(sj_surrogate, name)(), step_mode="m", backend=backend)
        leaf = x.clone().requires_grad_()
        (node(leaf) * weight).sum().backward()
        grads.append(leaf.grad)
    assert torch.allclose(*grads, rtol=1e-5, atol=1e-6)


@needs_compiler
def test_code_that_no_compiler_takes_is_the_surrogate_s_fault():
    class Broken(Dspike):
        def cuda_gradient(self, x):
            return "1f"

    node = IterativeLIFNode(surrogate_function=Broken(2.0), step_mode="m", backend="cpp")
    with pytest.raises(
        ValueError, match=r"the code \(cuda_codes\) of Broken cannot be built: .*error.*backend='torch'"
    ):
        node(torch.ones(2, 3))
