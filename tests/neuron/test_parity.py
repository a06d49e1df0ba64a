"""Every backend, in every type it runs, equals SpikingJelly's step-by-step loop under autograd.

The CUDA kernels run on the CPU (see cuda_on_cpu). Spikes are equal without exception. The loop runs in float64 for
torch's float64 and in float32 for float32; for the kernels' float16 and bfloat16 too, since half precision is how they
store sequences and not how they compute: there the loop's input is the same, its state is rounded between calls, and
its outputs once.
"""

import contextlib
import itertools
from typing import NamedTuple

import cuda_on_cpu
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import SlowSRIF, SlowTruth, normal
from spikingjelly.activation_based import functional
from spikingjelly.activation_based import surrogate as sj_surrogate

from jellyplus.neuron import IterativeLIFNode, SRIFNode, cpp_backend
from jellyplus.surrogate import Dspike, EvAF, Rectangular, Triangular

#: Relative, and absolute for values around one. float32: a few roundings of 2^-24 through five time-steps and a
#: library's tanh. float16: one rounding of the result (2^-11), one of dL/dV between calls, on gradients of some tens;
#: bfloat16: the same (2^-8).
TOLERANCE = {torch.float64: (1e-10, 1e-10), torch.float32: (2e-5, 2e-5)}
TOLERANCE |= {torch.float16: (2**-9, 2**-7), torch.bfloat16: (2**-6, 2**-4)}
WITHOUT_COMPILER = pytest.mark.skipif(
    cpp_backend.obstacle() is not None, reason=f"backend='cpp' cannot run: {cpp_backend.obstacle()}"
)
WITHOUT_GPP = pytest.mark.skipif(cuda_on_cpu.MISSING is not None, reason=str(cuda_on_cpu.MISSING))
RUNS = [
    pytest.param("torch", torch.float64, id="torch-float64"),
    pytest.param("torch", torch.float32, id="torch-float32"),
    pytest.param("cpp", torch.float32, id="cpp-float32", marks=WITHOUT_COMPILER),
    pytest.param("cpp", torch.bfloat16, id="cpp-bfloat16", marks=WITHOUT_COMPILER),
    pytest.param("cupy", torch.float32, id="cupy-float32", marks=WITHOUT_GPP),
    pytest.param("cupy", torch.float16, id="cupy-float16", marks=WITHOUT_GPP),
    pytest.param("cupy", torch.bfloat16, id="cupy-bfloat16", marks=WITHOUT_GPP),
]
EVERY_RUN = pytest.mark.parametrize(("backend", "dtype"), RUNS)
KERNELS = pytest.mark.parametrize(("backend", "dtype"), RUNS[2:])
SURROGATES = {
    "rectangular": lambda: Rectangular(width=0.8),
    "triangular": lambda: Triangular(gamma=0.7),
    "dspike": lambda: Dspike(3.0),
    "evaf": lambda: EvAF(2.0),
}
if hasattr(sj_surrogate.ATan, "cuda_codes"):  # not in 2.x, where the kernels refuse them
    SURROGATES |= {"sj-atan": lambda: sj_surrogate.ATan(), "sj-sigmoid": lambda: sj_surrogate.Sigmoid(alpha=3.0)}


def lif(v_reset, v_threshold=0.6, decay=0.25):
    constants = {"v_reset": v_reset, "v_threshold": v_threshold}
    return lambda **a: IterativeLIFNode(decay, **constants, **a), lambda **a: SlowTruth(decay, **constants, **a)


def srif(rectify):
    return lambda **a: SRIFNode(rectify=rectify, **a), lambda **a: SlowSRIF(rectify, **a)


NODES = {
    "hard": lif(0.0),
    "hard-to-0.1": lif(0.1),
    "soft": lif(None),
    "if": lif(0.0, decay=1.0),
    "srif": srif(False),
    "srif-rectified": srif(True),
}


@pytest.fixture(autouse=True)
def cuda(monkeypatch):
    with cuda_on_cpu.installed(monkeypatch):
        yield


@contextlib.contextmanager
def kernels_run(backend):
    """The CUDA kernels are launched inside, once in each direction for each of two calls, or not at all."""
    before = cuda_on_cpu.launches.total()
    yield
    assert cuda_on_cpu.launches.total() - before == (4 if backend == "cupy" else 0)


def grid(*shape, seed):
    """Multiples of 1/16 around 0.4, exact in half precision: so are the potentials, and none is near V_th = 0.6."""
    return (normal(*shape, seed=seed) * 16 + 6.4).round() / 16


def two_calls(node, inputs, incoming, rounded_to=None):
    """Outputs of two calls with the state carried over, and the gradients of the inputs."""
    inputs, outputs = [x.clone().requires_grad_() for x in inputs], []
    for x in inputs:
        if rounded_to is not None and isinstance(node.v, torch.Tensor):
            node.v = node.v + (node.v.to(rounded_to).to(node.v) - node.v).detach()
        node.h = []
        spikes = node(x)
        stored = [getattr(node, "h_seq", None), getattr(node, "v_seq", None)]
        if node.h:
            stored[0] = torch.stack(node.h)
        outputs.append((spikes, node.v, *stored))
    pairs = zip([y for call in outputs for y in call], [g for call in incoming for g in call], strict=True)
    wanted, gradients = zip(*[(y, g.to(y)) for y, g in pairs if g is not None], strict=True)
    return outputs, torch.autograd.grad(wanted, inputs, gradients)


class Truth(NamedTuple):
    """What the loop gives for two calls in the type of the kernels: what goes in, and what comes out."""

    inputs: list[torch.Tensor]
    incoming: list[tuple]
    outputs: list[tuple]
    grads: tuple[torch.Tensor, ...]


def truth(slow, dtype, shape, stored):
    """Of the slow node; incoming gradients for the spikes, the last V and what is stored."""
    inputs = [grid(*shape, seed=seed).to(dtype) for seed in (1, 2)]
    wide = torch.promote_types(dtype, torch.float32)
    gradients = [[(normal(*shape, seed=10 + 4 * call + i) * 16).round() / 16 for i in range(3)] for call in (0, 1)]
    incoming = [(s, s[0] * 0.5, h if stored else None, v if stored else None) for s, h, v in gradients]
    return Truth(inputs, incoming, *two_calls(slow, [x.to(wide) for x in inputs], incoming, dtype))


def compare(fast, expected, backend):
    """Outputs and gradients of two calls of the fast node; returns its spikes and gradients."""
    dtype = expected.inputs[0].dtype
    wide = torch.promote_types(dtype, torch.float32)
    with kernels_run(backend):
        outputs, grads = two_calls(fast, expected.inputs, expected.incoming)
    rtol, atol = TOLERANCE[dtype]
    for got, wanted in zip(outputs, expected.outputs, strict=True):
        assert all(y is None or y.dtype == dtype for y in got)
        assert torch.equal(got[0].to(wide), wanted[0])
        for y, true in zip(got[1:], wanted[1:], strict=True):
            if y is not None:
                torch.testing.assert_close(y.to(wide), true, rtol=rtol, atol=atol)
    for grad, true in zip(grads, expected.grads, strict=True):
        assert grad.dtype == dtype
        torch.testing.assert_close(grad.to(wide), true, rtol=rtol, atol=atol)
    return torch.cat([y[0].flatten() for y in outputs]), torch.cat([g.flatten() for g in grads])


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("detach_reset", [True, False], ids=["detached", "attached"])
@pytest.mark.parametrize("node", NODES)
@EVERY_RUN
def test_every_backend_equals_spikingjellys_loop_under_autograd(backend, dtype, node, detach_reset, surrogate):
    """For one, two and five time-steps, with sequences stored and not, in training and in evaluation."""
    make_fast, make_slow = NODES[node]
    shared = {"detach_reset": detach_reset, "step_mode": "m"}
    for steps, stored in itertools.product((1, 2, 5), (True, False)):
        slow = make_slow(surrogate_function=SURROGATES[surrogate](), **shared).train(stored)  # in both modes, in turn
        expected = truth(slow, dtype, (steps, 3, 5), stored)
        for training in (True, False):
            fire, keep = SURROGATES[surrogate](), {"store_v_seq": stored, "store_h_seq": stored}
            fast = make_fast(surrogate_function=fire, backend=backend, **keep, **shared).train(training)
            with noted(f"{steps=}, {stored=}, {training=}"):
                spikes, grads = compare(fast, expected, backend)
                assert 0.1 < spikes.mean() < 0.9
                assert grads.count_nonzero() > grads.numel() / 4


@contextlib.contextmanager
def noted(case):
    """An error inside says of which case it is."""
    try:
        yield
    except Exception as error:
        error.add_note(case)
        raise


@settings(max_examples=30)
@given(
    shape=st.integers(1, 20).flatmap(
        lambda steps: st.lists(st.integers(1, 7), min_size=1, max_size=4).map(lambda rest: (steps, *rest))
    ),
    node=st.sampled_from(sorted(NODES)),
    decay=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    v_reset=st.sampled_from([0.0, None, -0.25]),
    stored=st.booleans(),
)
@EVERY_RUN
def test_parity_holds_for_any_shape(backend, dtype, shape, node, decay, v_reset, stored):
    """Odd numbers of neurons too, and sequences longer than what backward charges again at once."""
    make_fast, make_slow = NODES[node] if "srif" in node else lif(v_reset, decay=decay)
    fast = make_fast(
        surrogate_function=Dspike(2.0), step_mode="m", backend=backend, store_v_seq=stored, store_h_seq=stored
    )
    slow = make_slow(surrogate_function=Dspike(2.0), step_mode="m")
    compare(fast, truth(slow, dtype, shape, stored), backend)


@pytest.mark.parametrize("shape", [(3, 700), (2, 1023), (9, 1025), (2, 2, 1500)], ids=str)
@KERNELS
def test_parity_holds_over_several_blocks_of_neurons(backend, dtype, shape):
    """A CUDA block has 256 threads, one on the CPU 1,024 neurons."""
    make_fast, make_slow = NODES["hard-to-0.1"]
    fast = make_fast(surrogate_function=EvAF(2.0), step_mode="m", backend=backend, store_v_seq=True, store_h_seq=True)
    slow = make_slow(surrogate_function=EvAF(2.0), step_mode="m")
    compare(fast, truth(slow, dtype, shape, stored=True), backend)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_nothing(threads):
    before, outputs = torch.get_num_threads(), []
    try:
        for number in (1, threads):
            torch.set_num_threads(number)
            node = IterativeLIFNode(surrogate_function=Dspike(2.0), step_mode="m", backend="cpp")
            x = normal(10, 5000, dtype=torch.float32).requires_grad_()
            spikes = node(x)
            outputs.append((spikes, *torch.autograd.grad(spikes.square().sum() + node.v.sum(), x)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))


BFLOAT16 = pytest.mark.parametrize(
    "backend", [pytest.param("cpp", marks=WITHOUT_COMPILER), pytest.param("cupy", marks=WITHOUT_GPP)]
)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("node", NODES)
@BFLOAT16
def test_bfloat16_is_float32_rounded_once(backend, node, surrogate):
    """Bit for bit, on inputs that are not on a grid; several blocks of neurons and an odd number of them."""
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        fast = NODES[node][0](surrogate_function=SURROGATES[surrogate](), step_mode="m", backend=backend)
        fast.store_v_seq = fast.store_h_seq = True
        fast.v = normal(1029, seed=1).bfloat16().to(dtype)
        x = normal(19, 1029, seed=2).bfloat16().to(dtype).requires_grad_()
        outputs = fast(x), fast.v, fast.h_seq, fast.v_seq
        incoming = [normal(*y.shape, seed=3 + i).bfloat16().to(dtype) for i, y in enumerate(outputs)]
        results.append((*outputs, *torch.autograd.grad(outputs, x, incoming)))
    for half, single in zip(*results, strict=True):
        assert torch.equal(half, single.bfloat16())


@pytest.mark.parametrize("node", NODES)
def test_torchs_bfloat16_is_that_of_the_loop_in_bfloat16(node):
    """It computes in the input's type, as step mode 's' does."""
    fast, slow = (make(surrogate_function=Dspike(2.0), step_mode="m") for make in NODES[node])
    x = grid(5, 40, seed=1).bfloat16()
    assert torch.equal(fast(x), slow(x))
    assert fast.v.dtype == torch.bfloat16
    torch.testing.assert_close(fast.v, slow.v, rtol=2**-7, atol=2**-7)


@BFLOAT16
def test_conversion_to_bfloat16_is_torchs(backend):
    """H = V + X, written to h_seq, over all signs and exponents, ties and NaN."""
    bits = torch.arange(-(2**31), 2**31, 2**15 - 5, dtype=torch.int64).to(torch.int32)
    ties = torch.arange(-(2**31), 2**31, 2**15, dtype=torch.int64).to(torch.int32)
    v = torch.cat([bits, ties]).view(torch.float32)
    v = v[v.isnan() | (v.abs() > 2**-126) | (v == 0)]  # CuPy's options take smaller ones for zero
    v = v[v.isnan() | v.bfloat16().isfinite()]
    node = IterativeLIFNode(1.0, torch.finfo().max, 0.0, step_mode="m", backend=backend, store_h_seq=True)
    h = torch.stack([v.bfloat16(), (v - v.bfloat16().float()).bfloat16()])  # H[1] = v where its lower half has 8 bits
    node(h)
    expected = torch.stack([h[0], (h[0].float() + h[1].float()).bfloat16()])
    assert torch.equal(node.h_seq.isnan(), expected.isnan())
    assert torch.equal(node.h_seq.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("surrogate", ["rectangular", "triangular", "dspike", "evaf"])
@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize(
    "backend",
    ["torch", pytest.param("cpp", marks=WITHOUT_COMPILER), pytest.param("cupy", marks=WITHOUT_GPP)],
)
def test_under_autocast_bfloat16_goes_in_and_comes_out(backend, node, surrogate, mode):
    linear = torch.nn.Linear(7, 5)
    fast = NODES[node][0](surrogate_function=SURROGATES[surrogate](), step_mode=mode, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = linear(normal(3, 4, 7, dtype=torch.float32) * 3)
        spikes = fast(x)
    assert x.dtype == spikes.dtype == fast.v.dtype == torch.bfloat16
    spikes.float().sum().backward()
    assert linear.weight.grad.dtype == torch.float32
    assert linear.weight.grad.count_nonzero() > 0


@EVERY_RUN
def test_a_neuron_exactly_at_the_threshold_fires(backend, dtype):
    node = IterativeLIFNode(0.5, 0.5, None, step_mode="m", backend=backend, store_v_seq=True)
    x = torch.tensor([[0.5, 0.499], [0.5, 0.5]], dtype=dtype)
    assert node(x).tolist() == [[1, 0], [1, 1]]
    srif = SRIFNode(step_mode="m", backend=backend)
    assert srif(torch.tensor([[0.5, 0.499]], dtype=dtype)).tolist() == [[1, 0]]


@EVERY_RUN
def test_but_a_strict_one_does_not(backend, dtype):
    node = IterativeLIFNode(0.5, 0.5, None, step_mode="m", backend=backend, strict=True)
    x = torch.tensor([[0.5, 0.51], [0.25, 0.5]], dtype=dtype)  # H: 0.5, then 0.5 * 0.5 + 0.25
    assert node(x).tolist() == [[0, 1], [0, 1]]
    for rectify in (True, False):
        srif = SRIFNode(step_mode="m", backend=backend, rectify=rectify, strict=True)
        assert srif(torch.tensor([[0.5, 0.51]], dtype=dtype)).tolist() == [[0, 1]]


STRICT = {name: NODES[name] for name in ("srif", "srif-rectified")}
STRICT |= {"hard": lif(0.0, 0.5), "hard-to-0.125": lif(0.125, 0.5), "soft": lif(None, 0.5), "if": lif(0.0, 0.5, 1.0)}


@pytest.mark.parametrize("surrogate", sorted({"rectangular", "dspike", "sj-atan"} & SURROGATES.keys()))
@pytest.mark.parametrize("detach_reset", [True, False], ids=["detached", "attached"])
@pytest.mark.parametrize("node", STRICT)
@EVERY_RUN
def test_a_strict_node_is_silent_at_the_threshold_and_else_equals_the_loop(
    backend, dtype, node, detach_reset, surrogate
):
    make_fast, make_slow = STRICT[node]
    shared = {"detach_reset": detach_reset, "strict": True, "step_mode": "m"}
    stored = {"store_v_seq": True, "store_h_seq": True}
    fast = make_fast(surrogate_function=SURROGATES[surrogate](), backend=backend, **stored, **shared)
    slow = make_slow(surrogate_function=SURROGATES[surrogate](), **shared)
    compare(fast, truth(slow, dtype, (5, 30, 5), stored=True), backend)
    assert (grid(5, 30, 5, seed=1)[0] == 0.5).any()  # H of the first time-step is X


@pytest.mark.parametrize("node", STRICT)
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_strict_firing_is_the_same_step_by_step(node, surrogate):
    nodes = [
        STRICT[node][0](surrogate_function=SURROGATES[surrogate](), strict=True, step_mode=mode) for mode in ("s", "m")
    ]
    xs = [grid(6, 40, seed=5).requires_grad_() for _ in nodes]
    spikes = torch.stack([nodes[0](x) for x in xs[0]]), nodes[1](xs[1])
    assert torch.equal(*spikes)
    grads = [torch.autograd.grad((s * grid(6, 40, seed=6)).sum(), x)[0] for s, x in zip(spikes, xs, strict=True)]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


def test_where_nothing_fires_strict_changes_nothing():
    """A primitive (spiking=False) has a value at the threshold and no spike."""
    x = torch.tensor([[0.5], [0.25]], dtype=torch.float64)
    for mode in ("s", "m"):
        outputs = []
        for strict in (True, False):
            node = IterativeLIFNode(surrogate_function=Dspike(3.0, spiking=False), strict=strict, step_mode=mode)
            outputs.append(node(x) if mode == "m" else node(x[0]))
        assert torch.equal(*outputs)
        assert outputs[0].flatten()[0] == 0.5


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels-last": lambda x: x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2]),
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "strided": lambda x: torch.stack([x, -x], dim=-1)[..., 0],
    "expanded": lambda x: x[:1].expand(x.shape),
    "offset": lambda x: torch.cat([x.new_ones(1), x.flatten()])[1:].view(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@EVERY_RUN
def test_the_layout_of_the_input_does_not_change_the_numbers(backend, dtype, layout):
    """Nor that of the incoming gradient; offset: half2 pointers off their alignment."""
    x = LAYOUTS[layout](grid(3, 2, 3, 4, 6, seed=1).to(dtype))
    results = []
    for x_seq in (x, x.contiguous()):
        for incoming in (normal(*x.shape, dtype=dtype), LAYOUTS[layout](normal(*x.shape, dtype=dtype))):
            node = IterativeLIFNode(surrogate_function=Dspike(2.0), step_mode="m", backend=backend)
            leaf = x_seq.detach().requires_grad_()
            spikes = node(leaf)
            grad = torch.autograd.grad(spikes, leaf, incoming)[0]
            results.append((spikes, node.v, grad))
    for i in range(2):  # the two incoming gradients are equal but where it is expanded
        assert all(torch.equal(a, b) for a, b in zip(results[i], results[i + 2], strict=True))


@EVERY_RUN
def test_channels_last_stays_channels_last(backend, dtype):
    x = LAYOUTS["channels-last"](grid(4, 2, 3, 4, 5, seed=1).to(dtype)).requires_grad_()
    node = IterativeLIFNode(step_mode="m", backend=backend, store_h_seq=True)
    spikes = node(x)
    (grad,) = torch.autograd.grad(spikes.sum(), x)
    for sequence in (spikes, node.h_seq, grad):
        assert sequence.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("wanted", ["spikes", "v", "h_seq", "v_seq"])
@KERNELS
def test_a_loss_on_one_output_alone_has_the_loops_gradient(backend, dtype, wanted):
    """Outputs outside the loss arrive in backward as null pointers."""
    make_fast, make_slow = NODES["soft"]
    fast = make_fast(surrogate_function=Dspike(2.0), step_mode="m", backend=backend, store_v_seq=True, store_h_seq=True)
    slow = make_slow(surrogate_function=Dspike(2.0), step_mode="m")
    index, grads = ["spikes", "v", "h_seq", "v_seq"].index(wanted), []
    for node in (fast, slow):
        x = grid(11, 3, 5, seed=3).to(dtype if node is fast else torch.float32).requires_grad_()
        node.h = []
        spikes = node(x)
        h_seq = node.h_seq if node is fast else torch.stack(node.h)
        y = (spikes, node.v, h_seq, node.v_seq)[index]
        grads.append(torch.autograd.grad(y, x, (normal(*y.shape) * 4).round().to(y))[0].float())
    torch.testing.assert_close(*grads, rtol=TOLERANCE[dtype][0], atol=TOLERANCE[dtype][1])
    assert grads[0].count_nonzero() > 0


@KERNELS
def test_backward_runs_twice_and_sees_a_new_parameter_without_a_new_kernel(backend, dtype):
    """The parameter reaches the kernel as a pointer to its buffer, read when the kernel runs."""
    node = IterativeLIFNode(surrogate_function=Dspike(1.0), step_mode="m", backend=backend)
    x = torch.full((1, 3), 0.75, dtype=dtype, requires_grad=True)
    spikes, grads = node(x), []
    torch.autograd.grad(spikes.sum(), x, retain_graph=True)
    built = cuda_on_cpu._built.cache_info().misses, cpp_backend._library.cache_info().misses
    for temperature in (1.0, 4.0, 1.0):
        node.surrogate_function.temperature.fill_(temperature)
        grads.append(torch.autograd.grad(spikes.sum(), x, retain_graph=True)[0][0, 0].item())
    # b / (2 tanh(b / 2) cosh^2(b / 4)) at b = 1 and b = 4
    assert grads == pytest.approx([1.0176, 0.8713, 1.0176], rel=2e-3)
    assert (cuda_on_cpu._built.cache_info().misses, cpp_backend._library.cache_info().misses) == built


@KERNELS
def test_what_is_kept_is_the_input_and_a_potential_every_eight_time_steps(backend, dtype):
    kept = {}
    x = grid(20, 6, seed=1).to(dtype).requires_grad_()
    node = IterativeLIFNode(step_mode="m", backend=backend)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        node(x)
    assert sorted(t.nbytes for t in kept.values()) == sorted([x.nbytes, 2 * 6 * 4])


@KERNELS
def test_one_image_at_every_time_step_is_neither_copied_nor_kept_more_than_once(backend, dtype):
    kept = []
    image = grid(1, 3, 4, seed=1).to(dtype).requires_grad_()
    node = IterativeLIFNode(step_mode="m", backend=backend)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        node(image.expand(6, 3, 4))
    assert [t.untyped_storage().data_ptr() for t in kept] == [image.untyped_storage().data_ptr()]


@KERNELS
def test_nothing_is_kept_where_no_gradient_is_wanted(backend, dtype):
    node = IterativeLIFNode(step_mode="m", backend=backend)
    with torch.no_grad():
        assert node(grid(20, 6, seed=1).to(dtype)).grad_fn is None


@KERNELS
def test_an_input_of_no_neurons_gives_none(backend, dtype):
    x = torch.zeros(2, 0, 3, dtype=dtype, requires_grad=True)
    node = IterativeLIFNode(step_mode="m", backend=backend)
    assert torch.autograd.grad(node(x).sum(), x)[0].shape == (2, 0, 3)


@EVERY_RUN
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "lean"])
@pytest.mark.parametrize("channels_last", [True, False], ids=["channels-last", "contiguous"])
@pytest.mark.parametrize("node", ["hard", "srif-rectified"])
def test_truncated_training_has_the_loops_gradient(backend, dtype, stored, channels_last, node):
    """detach_net between two calls: no gradient passes from the second to the first."""
    inputs = [grid(5, 2, 3, 2, 2, seed=seed).to(dtype) for seed in (1, 2)]
    if channels_last:
        inputs = [x.movedim(2, -1).contiguous().movedim(-1, 2) for x in inputs]
    fast, slow = (make(step_mode="m", surrogate_function=EvAF(2.0)) for make in NODES[node])
    fast.backend, fast.store_h_seq, fast.store_v_seq = backend, stored, stored
    grads = truncated(fast, inputs, dtype)
    assert all(memory is None or memory.grad_fn is None for memory in fast.memories())
    truths = truncated(slow, [x.to(torch.promote_types(dtype, torch.float32)) for x in inputs], dtype)
    rtol, atol = TOLERANCE[dtype]
    for grad, truth in zip(grads, truths, strict=True):
        torch.testing.assert_close(grad.to(truth), truth, rtol=rtol, atol=atol)


def truncated(node, inputs, rounded_to):
    """The gradients of both inputs of a loss over both calls, the state detached between them."""
    inputs, outputs = [x.clone().requires_grad_() for x in inputs], []
    for x in inputs:
        outputs += [node(x), node.v * 1]
        functional.detach_net(node)
        node.v = node.v.to(rounded_to).to(x)
    incoming = [grid(*y.shape, seed=10 + i).to(y) for i, y in enumerate(outputs)]
    return torch.autograd.grad(outputs, inputs, incoming)


@EVERY_RUN
def test_a_backward_pass_into_the_batch_before_names_reset_net(backend, dtype):
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), NODES["hard"][0](step_mode="m", backend=backend)).to(dtype)
    net(grid(5, 2, 3, seed=1).to(dtype)).sum().backward()
    spikes = net(grid(5, 2, 3, seed=2).to(dtype))
    with pytest.raises(RuntimeError, match=r"reset_net\(net\) between batches"):
        spikes.sum().backward()


@KERNELS
def test_a_state_of_another_type_raises_and_names_reset_net(backend, dtype):
    node = IterativeLIFNode(step_mode="m", backend=backend)
    node(torch.zeros(2, 3, dtype=dtype))
    node.v = node.v.double()
    with pytest.raises(ValueError, match=r"float64.*reset_net"):
        node(torch.zeros(2, 3, dtype=dtype))


@KERNELS
def test_a_type_that_the_kernels_do_not_run_raises(backend, dtype):
    node = IterativeLIFNode(step_mode="m", backend=backend)
    for other in {"cpp": (torch.float64, torch.float16), "cupy": (torch.float64,)}[backend]:
        with pytest.raises(ValueError, match=rf"backend='{backend}' runs float32.*{other}.*backend='torch'"):
            node(torch.zeros(2, 3, dtype=other))


@KERNELS
def test_a_surrogate_that_the_kernels_cannot_run_raises(backend, dtype):
    for fire, reason in (
        (torch.sigmoid, "sigmoid has no CUDA code"),
        (sj_surrogate.Erf(), "Erf has no CUDA code"),
        (Dspike(spiking=False), "spiking=False"),
    ):
        node = IterativeLIFNode(surrogate_function=fire, step_mode="m", backend=backend)
        with pytest.raises(ValueError, match=reason):
            node(torch.zeros(2, 3, dtype=dtype))


@pytest.mark.skipif(not hasattr(functional, "set_backend"), reason="SpikingJelly 2.x has no set_backend")
@KERNELS
def test_spikingjellys_own_set_backend_switches(backend, dtype, caplog):
    net = torch.nn.Sequential(IterativeLIFNode(step_mode="m"), SRIFNode(step_mode="m"))
    functional.set_backend(net, backend)
    assert [node.backend for node in net] == [backend] * 2
    assert not caplog.records
    net(grid(2, 3, seed=1).to(dtype))
