"""The bytes that benchmarks/bytes_moved.py counts are those of hand arithmetic, for both sides and both types."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest
import torch

PATH = Path(__file__).parents[1] / "benchmarks" / "bytes_moved.py"
SPEC = importlib.util.spec_from_file_location("bytes_moved", PATH)
bytes_moved = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(bytes_moved)

pytestmark = pytest.mark.skipif(
    bytes_moved.cuda_on_cpu.MISSING is not None, reason=str(bytes_moved.cuda_on_cpu.MISSING)
)
F32, F16 = torch.float32, torch.float16


def launched(parameters, body, *tensors):
    """(loads, stores) of one launch of eight threads."""
    text = f'#include <cuda_fp16.h>\nextern "C" __global__ void f({parameters}) {{ const int i = threadIdx.x; {body} }}'
    bytes_moved.moved.clear()
    bytes_moved.CountingKernel(text, "f")((1,), (8,), tuple(tensor.data_ptr() for tensor in tensors))
    return bytes_moved.moved["loads"], bytes_moved.moved["stores"]


def torch_bytes(work):
    bytes_moved.moved.clear()
    with bytes_moved.TorchMeter():
        work()
    return bytes_moved.moved["torch"]


def per_neuron(counter, n):
    """Loads, stores and torch's bytes per neuron; the few bytes of SpikingJelly's scalars vanish."""
    return [round(counter[kind] / n, 1) for kind in ("loads", "stores", "torch")]


def test_a_byte_counts_once_as_loaded_and_once_as_stored_and_not_as_loaded_once_it_is_stored():
    body = "y[i] = x[i]; z[i] = y[i] + x[i] + z[i]; z[i] = z[i] + 1.0f;"
    x, y, z = torch.ones(3, 8)
    assert launched("const float * x, float * y, float * z", body, x, y, z) == (8 * 4 * 2, 8 * 4 * 2)  # x, z; y, z
    assert z.tolist() == [4.0] * 8


def test_what_no_thread_touches_is_not_counted():
    x, y = torch.ones(2, 8)
    assert launched("const float * x, float * y", "if (i % 2) y[i] = x[0];", x, y) == (4, 4 * 4)


def test_local_arrays_are_not_memory():
    x, y = torch.ones(2, 64)
    body = "float a[8]; for (int k = 0; k < 8; k++) a[k] = x[8 * i + k]; y[i] = a[(int)x[i]];"
    assert launched("const float * x, float * y", body, x, y) == (64 * 4, 8 * 4)


def test_a_scalar_behind_a_reference_is_loaded_once():
    x, y = torch.ones(2, 8)
    assert launched("const float & x, float * y", "y[i] = x;", x, y) == (4, 8 * 4)


@pytest.mark.parametrize(
    "body",
    ["y[i] = x[i];", "y[i] = __hadd2(x[i], x[i]);", "y[i] = __hfma2(y[i], x[i], x[i]);"],
    ids=["copy", "sum", "read and written"],
)
def test_half2_is_four_bytes_read_and_written(body):
    x, y = torch.ones(2, 16, dtype=F16)
    loads = 64 if "fma" in body else 32
    assert launched("const half2 * x, half2 * y", body, x, y) == (loads, 32)


def test_both_lanes_of_half2_are_computed():
    x, y = torch.arange(32, dtype=F16).reshape(2, 16) / 8
    expected = x * y + x
    launched("const half2 * x, half2 * y", "y[i] = __hfma2(y[i], x[i], x[i]);", x, y)
    torch.testing.assert_close(y, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda x: torch.zeros(3, 4), 48),
        (lambda x: torch.zeros_like(x), 48),
        (lambda x: torch.full_like(x, 1.0), 48),
        (lambda x: x.zero_(), 48),
        (lambda x: x.fill_(2.0), 48),
        (lambda x: x.clone(), 96),
        (lambda x: x.copy_(torch.empty(3, 4)), 96),
        (lambda x: x.mul_(2.0), 96),
        (lambda x: x + x[:1], 48 + 16 + 48),
        (lambda x: x.t().contiguous(), 96),
        (lambda x: torch.cat((x, x[:1])), 64 + 64),
        (lambda x: x[:1].expand(3, 4).clone(), 16 + 48),
        (lambda x: torch.add(x, x, out=torch.empty(3, 4)), 48 * 3),  # each operand is read
        (lambda x: x.half(), 48 + 24),
        (lambda x: (x.view(4, 3), x.t(), x[1:], x.detach(), x.flatten(), torch.split(x, 1)), 0),
        (lambda x: (torch.empty(3, 4), torch.empty_like(x), x.new_empty(5)), 0),
        (lambda x: x.contiguous(), 0),
    ],
)
def test_torchs_operations_move_what_they_read_and_write(work, expected):
    x = torch.ones(3, 4)
    assert torch_bytes(lambda: work(x)) == expected


def test_backward_is_counted_too():
    x = torch.ones(3, 4, requires_grad=True)
    y = x * 2.0
    assert torch_bytes(lambda: torch.autograd.grad(y, x, torch.ones(3, 4))) >= 96  # the gradient read and written


# For T = 4 and one neuron, in elements. Ours: x, the spikes and the last V; then x, the gradient in and out.
# Theirs, forward: loads x and V; stores H, S and V; V is filled (1), three sequences zeroed (12), V put in front of
# one (5 read, 5 written), the last V cloned (2). Backward: loads two gradients and H, stores x's and V's gradient; a
# gradient of V zeroed (4), and the outgoing ones (5).
RESET = {
    "ours": ([4, 5, 0], [8, 4, 0]),
    "theirs": ([5, 12, 25], [12, 5, 9]),
}
# Ours: V is read in both directions, and its gradient is made from x's first one. Theirs: V needs no filling.
CARRIED = {
    "ours": ([5, 5, 0], [9, 4, 2]),
    "theirs": ([5, 12, 24], [12, 5, 9]),
}


@pytest.mark.parametrize("dtype", [F32, F16], ids=["float32", "float16"])
@pytest.mark.parametrize(("state", "expected"), [("reset", RESET), ("carried", CARRIED)], ids=["reset", "carried"])
@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_the_node_moves_what_hand_arithmetic_says(side, state, expected, dtype):
    n = 1024
    passed = bytes_moved.run(getattr(bytes_moved, side), state, dtype, T=4, n=n)
    forward, backward = ([dtype.itemsize * count for count in counts] for counts in expected[side])
    assert per_neuron(passed.forward, n) == forward
    assert per_neuron(passed.backward, n) == backward


def test_ours_stores_h_where_it_is_wanted():
    passed = bytes_moved.run(lambda: bytes_moved.ours(store_h_seq=True), "H", F32, T=4, n=1024)
    assert per_neuron(passed.forward, 1024) == [16, 36, 0]
    assert per_neuron(passed.backward, 1024) == [32, 16, 0]


def test_ours_stores_and_loads_v_between_segments():
    passed = bytes_moved.run(bytes_moved.ours, "reset", F32, T=20, n=1024)  # two V, of steps 8 and 16, and the last
    assert per_neuron(passed.forward, 1024) == [80, 80 + 12, 0]
    assert per_neuron(passed.backward, 1024) == [160 + 8, 80, 0]


@pytest.mark.parametrize("dtype", [F32, F16], ids=["float32", "float16"])
def test_both_sides_compute_the_same(dtype):
    one, other = (bytes_moved.run(side, "carried", dtype, T=4, n=64) for side in (bytes_moved.ours, bytes_moved.theirs))
    assert torch.equal(one.spikes, other.spikes)
    assert 0 < one.spikes.mean() < 1
    assert one.gradient.count_nonzero() > 64
    torch.testing.assert_close(one.gradient, other.gradient)


@pytest.mark.parametrize("dtype", [F32, F16], ids=["float32", "float16"])
def test_ours_moves_at_most_half_of_theirs(dtype):
    frame = pd.DataFrame(bytes_moved.rows("reset", dtype, 4))
    assert frame["direction"].tolist() == ["forward", "backward", "forward + backward"]
    assert (frame["ours / theirs"] <= 0.5).all()
    assert bytes_moved.faults(frame) == []
    assert frame["least"].tolist() == [count * dtype.itemsize for count in (2, 3, 5)]
    assert frame["above"].tolist() == pytest.approx([0.125, 0.0, 0.05])  # the last V


def test_a_pass_above_half_is_a_fault_that_the_page_names():
    frame = pd.DataFrame(bytes_moved.rows("reset", F32, 4))
    frame.loc[1, "ours / theirs"] = 0.501  # backward alone may be
    assert bytes_moved.faults(frame) == []
    frame.loc[2, "ours / theirs"] = 0.501
    (fault,) = bytes_moved.faults(frame)
    assert "reset, float32, T = 4, forward + backward" in fault
    assert fault in bytes_moved.page(frame)
