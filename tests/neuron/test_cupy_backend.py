"""CuPy's side of the kernels: what is compiled when, how it is launched, and what is said where CuPy cannot run."""

import contextlib
import re

import cuda_on_cpu
import numpy as np
import pytest
import torch

from jellyplus.neuron import IterativeLIFNode, SRIFNode, backends, cupy_backend
from jellyplus.surrogate import Dspike, Rectangular

pytestmark = pytest.mark.skipif(cuda_on_cpu.MISSING is not None, reason=str(cuda_on_cpu.MISSING))


@pytest.fixture
def cuda(monkeypatch):
    with cuda_on_cpu.installed(monkeypatch) as patch:
        yield patch


def node(**arguments):
    return IterativeLIFNode(step_mode="m", backend="cupy", **arguments)


# --- SpikingJelly's own kernels ---


@pytest.fixture
def spikingjellys(monkeypatch):
    """Their kernels on the CPU: CuPy and the device are stood in for, nothing else."""
    pytest.importorskip("spikingjelly.activation_based.auto_cuda", reason="SpikingJelly 2.x has no CuPy kernels")
    from spikingjelly.activation_based import cuda_utils
    from spikingjelly.activation_based.auto_cuda import base, neuron_kernel

    for module in (base, neuron_kernel):
        monkeypatch.setattr(module, "cupy", cuda_on_cpu.cupy)
    monkeypatch.setattr(cuda_utils, "DeviceEnvironment", lambda device: contextlib.nullcontext())
    return neuron_kernel


def run_theirs(kernels, forward_kernel, backward_kernel, x, grad):
    x = x.clone().requires_grad_()
    v = torch.zeros_like(x[0])
    spikes, v_seq = kernels.LIFNodeATGF.apply(x, v, 0.5, 0.0, 0.75, forward_kernel, backward_kernel)
    return spikes, v_seq, torch.autograd.grad(spikes, x, grad)[0]


@pytest.mark.skipif(hasattr(np, "int"), reason="numpy < 1.24 still has np.int")
def test_spikingjellys_kernels_crash_at_the_check_of_their_arguments(spikingjellys):
    """auto_cuda/base.py:249; our kernels subclass CKernel2D and pass no cupy.ndarray."""
    kernel = spikingjellys.LIFNodeFPTTKernel(decay_input=False, hard_reset=True, dtype="float")
    with pytest.raises(AttributeError, match=r"module 'numpy' has no attribute 'int'"):
        run_theirs(spikingjellys, kernel, None, torch.zeros(2, 3), torch.zeros(2, 3))


def test_ours_equal_spikingjellys_kernels_with_that_check_left_out(spikingjellys, cuda):
    class Unchecked:
        def check_ctypes(self, py_dict):
            pass

    class Forward(Unchecked, spikingjellys.LIFNodeFPTTKernel):
        pass

    class Backward(Unchecked, spikingjellys.LIFNodeBPTTKernel):
        pass

    x = (torch.randint(-40, 60, (5, 33), generator=torch.Generator().manual_seed(0)) * 2 + 1) / 32
    grad = torch.randn(5, 33, generator=torch.Generator().manual_seed(1))
    backward = Backward(False, Rectangular().cuda_codes, hard_reset=True, detach_reset=False, dtype="float")
    theirs = run_theirs(spikingjellys, Forward(False, hard_reset=True, dtype="float"), backward, x, grad)
    ours = node(store_v_seq=True)
    leaf = x.clone().requires_grad_()
    spikes = ours(leaf)
    assert torch.equal(spikes, theirs[0])
    torch.testing.assert_close(ours.v_seq, theirs[1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(spikes, leaf, grad)[0], theirs[2], rtol=1e-5, atol=1e-5)
    assert 0.1 < spikes.mean() < 0.9


# --- compiling and launching ---


def test_a_kernel_is_made_once_for_each_configuration(cuda):
    made = []
    cuda.setattr(cuda_on_cpu.cupy, "RawKernel", lambda *a, **k: made.append(a[1]) or cuda_on_cpu.RawKernel(*a, **k))
    for _ in range(3):
        for fire in (Rectangular(), Dspike(2.0), Dspike(3.0)):
            for v_th in (0.5, 0.7):  # constants are arguments
                for steps in (2, 9):
                    x = torch.ones(steps, 3, requires_grad=True)
                    node(surrogate_function=fire, v_threshold=v_th)(x).sum().backward()
    assert made == ["node_forward_float_hard", *["node_backward_float_hard"] * 2]


def test_products_and_sums_are_joined_only_where_the_text_says_so():
    """And nothing is approximated: SpikingJelly's -use_fast_math is not among the options."""
    assert cupy_backend.NodeKernel.options == ("--std=c++17", "--fmad=false")


def test_arguments_have_the_size_of_the_kernels_parameters(cuda):
    """CuPy packs a Python int in 8 bytes and a float as double, whatever the kernel takes."""
    calls = []
    cuda.setattr(cuda_on_cpu.RawKernel, "__call__", lambda self, *a, **k: calls.append((self, a, k)))
    node()(torch.zeros(3, 700))
    ((kernel, (grid, block, values), _),) = calls
    assert (grid, block) == ((3,), (256,))
    types = dict(zip(sorted(cupy_backend.PARAMETERS["forward"]), map(type, values), strict=True))
    assert types["n"] is np.int64
    assert types["T"] is np.int32
    assert {types[name] for name in ("decay", "v_th", "reset_to", "v_start")} == {np.float32}
    assert {types[name] for name in ("x_seq", "spike_seq", "v_init", "h_seq")} == {int}
    assert "T, " in kernel.code


def test_a_launch_is_on_torchs_stream_and_puts_the_device_back(cuda):
    events = []

    @contextlib.contextmanager
    def environment(index):
        events.append(("enter", index))
        yield
        events.append(("leave", index))

    cuda.setattr(cupy_backend, "DeviceEnvironment", environment)
    cuda.setattr(cupy_backend, "_stream", lambda device: f"torch's stream of {device}")
    cuda.setattr(cuda_on_cpu.RawKernel, "__call__", lambda *a, stream: events.append(stream))
    node()(torch.zeros(2, 3))
    assert events == [("enter", None), "torch's stream of cpu", ("leave", None)]


def test_the_stream_is_torchs_current_one(monkeypatch):
    class Stream:
        cuda_stream = 1234

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream)
    assert cupy_backend._stream(torch.device("cuda", 1)).ptr == 1234


def test_under_autocast_half_goes_in_and_half_comes_out(cuda):
    linear, before = torch.nn.Linear(7, 5), cuda_on_cpu.launches.copy()
    lif, seen = node(), []
    lif.register_forward_hook(lambda _, inputs, y: seen.extend((inputs[0].dtype, y.dtype)))
    x = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.float16):
        spikes = lif(linear(x))
    spikes.float().sum().backward()
    assert seen == [torch.float16, torch.float16]
    assert lif.v.dtype == torch.float16
    assert set(cuda_on_cpu.launches - before) == {"node_forward_half2_hard", "node_backward_half2_hard"}
    assert linear.weight.grad.dtype == torch.float32
    assert linear.weight.grad.count_nonzero() > 0


def test_a_temperature_in_half_precision_is_read_rightly(cuda):
    """net.half() turns the buffer into half, and the kernel reads a float."""
    lif = node(surrogate_function=Dspike(4.0)).half()
    x = torch.full((1, 2), 0.75, dtype=torch.float16, requires_grad=True)
    assert torch.autograd.grad(lif(x).sum(), x)[0][0].tolist() == pytest.approx([0.8713] * 2, rel=1e-3)


def test_a_temperature_on_another_device_raises(cuda):
    lif = node(surrogate_function=Dspike(4.0))
    lif.surrogate_function.to("meta")
    x = torch.ones(1, 2, requires_grad=True)
    with pytest.raises(ValueError, match=r"the parameter of Dspike is on meta, the input on cpu: move the net"):
        lif(x).sum().backward()


def test_a_tensor_of_the_cpu_raises_without_the_stand_in(monkeypatch):
    monkeypatch.setattr(cupy_backend, "obstacle", lambda: None)
    with pytest.raises(ValueError, match=r"backend='cupy' runs on cuda tensors and the input is on cpu"):
        node()(torch.zeros(2, 3))


def test_every_kernel_has_a_text_of_its_own():
    kernels = list(cupy_backend.all_kernels())
    assert len({kernel.full_codes for kernel in kernels}) == len(kernels) == 3 * (2 + 4 * 6)
    for kernel in kernels:
        assert re.search(rf'extern "C" __global__\s+void {kernel.kernel_name}\(', kernel.full_codes)


# --- where CuPy cannot run ---


def test_a_node_says_why_cupy_cannot_run(monkeypatch):
    found = backends.Obstacle("ImportError: libcudart.so.12: cannot open shared object file", "install it")
    monkeypatch.setattr(cupy_backend, "obstacle", lambda: found)
    for make in (IterativeLIFNode, SRIFNode):
        with pytest.raises(ValueError, match=r"backend='cupy' cannot run here: ImportError: libcudart.*; install it"):
            make(backend="cupy")
    lif = IterativeLIFNode(step_mode="m")
    with pytest.raises(ValueError, match="libcudart"):
        lif.backend = "cupy"
    lif._backend = "cupy"  # as when a network from another machine is unpickled
    with pytest.raises(ValueError, match="libcudart"):
        lif(torch.zeros(2, 3))


ERRORS = {
    ("ModuleNotFoundError", "No module named 'cupy'"): "install",
    ("CUDARuntimeError", "cudaErrorInsufficientDriver: CUDA driver version is insufficient"): "driver",
    ("CUDARuntimeError", "cudaErrorNoDevice: no CUDA-capable device is detected"): "CUDA_VISIBLE_DEVICES",
    ("RuntimeError", "CuPy failed to load libnvrtc.so.13: OSError: no such file"): "[ctk]",
    ("CompileException", 'cannot open source file "cuda_fp16.h"'): "nvidia-cuda-runtime",
    ("CompileException", "nvrtc: error: invalid value for --gpu-architecture (-arch)"): "knows this GPU",
    ("PermissionError", "[Errno 13] Permission denied: '.cupy/kernel_cache'"): "CUPY_CACHE_DIR",
    ("AttributeError", "module 'cupy' has no attribute 'RawKernel'"): "empty folder",
    ("ImportError", "Failed to import CuPy. Original error: numpy.core.multiarray failed"): "uninstall every CuPy",
}


@pytest.mark.parametrize(("kind", "message"), ERRORS)
def test_the_original_error_is_shown_and_what_to_do_first(monkeypatch, kind, message):
    """Kinds and messages as CuPy 13 and 14 give them."""
    missing = kind == "ModuleNotFoundError"
    error = ModuleNotFoundError(message, name="cupy") if missing else type(kind, (Exception,), {})(message)
    monkeypatch.setattr(cupy_backend, "_import_error", error)
    found = cupy_backend.obstacle.__wrapped__()
    assert found.reason == f"{kind}: {message}"
    assert ERRORS[kind, message] in found.remedy


def test_a_torch_without_cuda_is_an_obstacle_too(monkeypatch):
    monkeypatch.setattr(cupy_backend, "_import_error", None)
    monkeypatch.setattr(cupy_backend, "_compile_error", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch.cuda.is_available() is False" in str(cupy_backend.obstacle.__wrapped__())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cupy_backend.obstacle.__wrapped__() is None


def test_what_cupy_raises_when_it_compiles_is_an_obstacle(monkeypatch):
    class Failing(cuda_on_cpu.RawKernel):
        def compile(self):
            raise RuntimeError("cudaErrorNoDevice")

    monkeypatch.setattr(cupy_backend, "_import_error", None)
    monkeypatch.setattr(cupy_backend, "cupy", type("cupy", (), {"RawKernel": Failing}))
    assert cupy_backend.obstacle.__wrapped__().reason == "RuntimeError: cudaErrorNoDevice"


@pytest.mark.parametrize(
    ("device", "missing", "expected"),
    [
        ("cuda", (), "cupy"),
        ("cuda", ("cupy",), "torch"),
        ("cpu", (), "cpp"),
        ("cpu", ("cpp",), "torch"),
        ("meta", (), "torch"),
    ],
)
def test_auto_is_the_fastest_that_runs_and_says_why(monkeypatch, device, missing, expected):
    for module, name in ((cupy_backend, "cupy"), (backends.cpp_backend, "cpp")):
        found = backends.Obstacle("the reason", "the remedy") if name in missing else None
        monkeypatch.setattr(module, "obstacle", lambda found=found: found)
    backend, why = backends.choose(torch.device(device))
    assert backend == expected
    assert ("the reason; the remedy" in why) == bool(missing)
