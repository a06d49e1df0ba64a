"""Each surrogate is one function in three views: primitive, gradient and CUDA code agree."""

import copy
import ctypes
import math
import shutil
import subprocess

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from jellyplus import _compat, surrogate
from jellyplus.surrogate import Dspike, EvAF, Rectangular, Triangular

# (the surrogate, the points where its gradient is not smooth)
CASES = {
    **{f"rectangular-{w}": (lambda w=w: Rectangular(width=w), [-w / 2, w / 2]) for w in (0.8, 1.0, 2.5)},
    **{
        f"triangular-{g}-{v}": (lambda g=g, v=v: Triangular(gamma=g, v_threshold=v), [-v, 0, v])
        for g, v in ((1.0, 0.5), (0.7, 0.3), (2.0, 1.25))
    },
    **{f"dspike-{b}": (lambda b=b: Dspike(temperature=b), [-0.5, 0.5]) for b in (0.2, 1.0, 3.0, 10.0)},
    **{f"evaf-{k}": (lambda k=k: EvAF(k=k), []) for k in (0.7, 1.0, 3.0, 10.0)},
}
EVERY = pytest.mark.parametrize("case", CASES)
POINTS, SHAPES = st.floats(-2, 2), st.floats(0.1, 10)  # H - V_th, and any of the shape parameters
EVOLVING = [(Dspike, "temperature"), (EvAF, "k")]  # those with a buffer that training changes


def away(x, kinks, distance):
    """The points of x that are further than this from every kink."""
    return x[((x.double()[:, None] - torch.tensor(kinks, dtype=torch.float64)).abs() > distance).all(1)]


def test_every_public_surrogate_is_among_the_cases():
    public = {getattr(surrogate, name) for name in surrogate.__all__} - {surrogate.Surrogate}
    assert public == {type(make()) for make, _ in CASES.values()}


@EVERY
def test_gradient_is_the_slope_of_the_primitive(case):
    make, kinks = CASES[case]
    function, h = make().double(), 1e-6
    x = away(torch.linspace(-2, 2, 4001, dtype=torch.float64) + 1.7e-4, kinks, 2 * h)
    slope = (function.primitive(x + h) - function.primitive(x - h)) / (2 * h)
    torch.testing.assert_close(function.gradient(x), slope, rtol=1e-6, atol=1e-8)
    assert slope.max() > 0.3


# (the surrogate of two numbers, of which it may use one; the points where its gradient is not smooth)
FAMILIES = {
    "rectangular": (lambda a, _: Rectangular(a), lambda a, _: [-a / 2, a / 2]),
    "triangular": (Triangular, lambda _, v: [-v, 0, v]),
    "dspike": (lambda b, _: Dspike(b), lambda *_: [-0.5, 0.5]),
    "evaf": (lambda k, _: EvAF(k), lambda *_: []),
}


@pytest.mark.parametrize("family", FAMILIES)
@given(x=POINTS, shape=SHAPES, other=SHAPES)
def test_gradient_is_the_slope_of_the_primitive_for_any_shape(family, x, shape, other):
    """By finite differences, off by h^2 of the third derivative and 2^-53 / h, and by torch's own differentiation."""
    make, kinks = FAMILIES[family]
    h = 1e-6
    assume(all(abs(x - kink) > 2 * h for kink in kinks(shape, other)))
    function, at = make(shape, other).double(), torch.tensor([x, x - h, x + h], dtype=torch.float64, requires_grad=True)
    value = function.primitive(at)
    gradient = function.gradient(at.detach())[0].item()
    assert gradient == pytest.approx((value[2] - value[1]).item() / (2 * h), rel=1e-6, abs=1e-7)
    assert gradient == pytest.approx(torch.autograd.grad(value[0], at)[0][0].item(), rel=1e-12, abs=1e-13)


@EVERY
def test_autograd_gives_the_gradient_whether_it_fires_or_not(case):
    x = torch.linspace(-1.3, 1.3, 53, dtype=torch.float64, requires_grad=True)
    for spiking in (True, False):
        function = CASES[case][0]()
        function.set_spiking_mode(spiking)
        weights = torch.arange(1.0, 54)
        y = function(x)
        (grad,) = torch.autograd.grad((weights * y).sum(), x)
        assert torch.equal(y.detach(), (x >= 0).double() if spiking else function.primitive(x.detach()))
        torch.testing.assert_close(grad, weights * function.gradient(x.detach()), rtol=1e-12, atol=0)


def test_spiking_false_is_a_constructor_argument():
    for function in (Rectangular(spiking=False), Triangular(spiking=False), Dspike(spiking=False), EvAF(spiking=False)):
        assert 0 < function(torch.tensor(0.1)) < 1


def test_fires_at_equality():
    for function in (Dspike(), EvAF()):
        assert function(torch.tensor([-1e-30, 0.0, 1e-30])).tolist() == [0, 1, 1]


# --- the papers' numbers ---


def test_the_gradient_at_the_threshold_is_the_papers_peak():
    """1/a, gamma, b / (2 tanh(b/2)) with tanh(3/2) = 0.905148 and tanh(1/2) = 0.462117, and k/2."""
    threshold = torch.zeros(1, dtype=torch.float64)
    functions = [Rectangular(2.5), Triangular(0.7, 0.3), Dspike(3.0).double(), Dspike().double(), EvAF(3.0).double()]
    peaks = [function.gradient(threshold).item() for function in functions]
    assert peaks == pytest.approx([0.4, 0.7, 1.657187, 1.081977, 1.5], abs=1e-6)


def test_the_rectangular_window_is_open():
    """Eq. 7: 1/a for |x| < a/2, so 0 on the edge."""
    below = math.nextafter(0.4, 0)
    x = torch.tensor([-0.4, -below, 0.0, below, 0.4], dtype=torch.float64)
    assert Rectangular(width=0.8).gradient(x).tolist() == [0, 1.25, 1.25, 1.25, 0]
    assert Rectangular().gradient(torch.tensor([-0.5, 0.5, 0.49])).tolist() == [0, 0, 1]


def test_the_dspike_window_is_closed():
    """Eq. 11 is the tanh for 0 <= u <= 1: on the edge b (1 - tanh^2(b/2)) / (2 tanh(b/2)), b = 2: 0.551441."""
    x = torch.tensor([-0.5, 0.5, -math.nextafter(0.5, 1), math.nextafter(0.5, 1)], dtype=torch.float64)
    assert Dspike(2.0).gradient(x).tolist() == pytest.approx([0.551441, 0.551441, 0, 0], abs=1e-6)


def test_triangular_by_hand():
    """Eq. 8, gamma = 0.6, V_th = 0.4: 0.6 max(0, 1 - |x| / 0.4), and the area under it up to x."""
    function = Triangular(gamma=0.6, v_threshold=0.4).double()
    x = torch.tensor([-0.5, -0.4, -0.3, 0.0, 0.1, 0.2, 0.4, 1.0], dtype=torch.float64)
    assert function.gradient(x).tolist() == pytest.approx([0, 0, 0.15, 0.6, 0.45, 0.3, 0, 0])
    # the triangle's area is gamma V_th = 0.24; left of -0.3: 0.1 * 0.15 / 2; right of 0.2: 0.2 * 0.3 / 2 is missing
    assert function.primitive(x).tolist() == pytest.approx([0, 0, 0.0075, 0.12, 0.1725, 0.21, 0.24, 0.24])


@pytest.mark.parametrize("b", [0.1, 1.0, 5.0, 30.0])
def test_dspike_runs_from_0_to_1(b):
    """Dspike(0) = 0 and Dspike(1) = 1 in the paper's u = x + 0.5, symmetric about (0.5, 0.5), flat outside."""
    function = Dspike(b).double()
    u = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0], dtype=torch.float64)
    assert function.primitive(u - 0.5).tolist() == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-15)


@given(b=st.floats(1e-3, 1))
def test_lemma_4_1_a_small_temperature_gives_the_line(b):
    """Dspike(u) to u: with x = u - 1/2 they differ by b^2 (x / 12 - x^3 / 3) + ..., at most 0.0161 b^2, at x = 0.289;
    the gradient is 1 + b^2 (1 / 12 - x^2) + ..., at most b^2 / 6 from 1, on the edges."""
    u, function = torch.linspace(0, 1, 101, dtype=torch.float64), Dspike(b).double()
    assert (function.primitive(u - 0.5) - u).abs().max() < 0.0162 * b * b + 1e-12
    assert (function.gradient(u - 0.5) - 1).abs().max() < b * b / 5.9 + 1e-12


@given(b=st.floats(0.1, 5000), u=st.floats(-1, 2))
def test_lemma_4_1_a_large_temperature_gives_the_step(b, u):
    """For x = u - 1/2 > 0, 1 - Dspike = (1 - tanh(b x) / tanh(b/2)) / 2 <= (1 - tanh(b x)) / 2 < exp(-2 b x)."""
    value = Dspike(b).double().primitive(torch.tensor(u - 0.5, dtype=torch.float64)).item()
    assert abs(value - (u > 0.5)) <= math.exp(-1.999999 * b * abs(u - 0.5)) + 1e-15  # b is kept in single precision
    assert Dspike(b).double().primitive(torch.zeros((), dtype=torch.float64)) == 0.5


def test_evaf_by_hand():
    """Eq. 13, k = 4. tanh(ln 2) = (4 - 1) / (4 + 1) = 3/5 and tanh(ln 3) = (9 - 1) / (9 + 1) = 4/5, so at
    x = ln 2 / 4: g = 0.3 + 0.5 and g' = 2 (1 - 9/25); at x = -ln 3 / 4: g = -0.4 + 0.5 and g' = 2 (1 - 16/25)."""
    function = EvAF(k=4.0).double()
    x = torch.tensor([-math.log(3) / 4, 0, math.log(2) / 4], dtype=torch.float64)
    assert function.primitive(x).tolist() == pytest.approx([0.1, 0.5, 0.8])
    assert function.gradient(x).tolist() == pytest.approx([0.72, 2, 1.28])


@given(u=POINTS, v_threshold=SHAPES, k=SHAPES)
def test_evafs_gradient_is_the_derivative_of_equation_13(u, v_threshold, k):
    """Eq. 13 in the membrane potential u, as printed, against what backward gives through the spike."""
    u, function = torch.tensor(u, dtype=torch.float64, requires_grad=True), EvAF(k).double()
    (expected,) = torch.autograd.grad(torch.tanh(function.k.item() * (u - v_threshold)) / 2 + 1 / 2, u)
    (gradient,) = torch.autograd.grad(function(u - v_threshold), u)
    assert gradient.item() == pytest.approx(expected.item(), rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("k", [0.25, 1.0, 3.0, 10.0])
def test_evaf_is_a_logistic_function(k):
    """tanh(y) / 2 + 1/2 = 1 / (1 + exp(-2 y)): from 0 to 1, symmetric, with its peak k/2 at V_th and no window."""
    function, points = EvAF(k).double(), [-1.5, -0.5, -0.1, 0.0, 0.2, 0.5, 1.5]
    logistic = [1 / (1 + math.exp(-2 * k * x)) for x in points]
    x = torch.tensor(points, dtype=torch.float64)
    assert function.primitive(x).tolist() == pytest.approx(logistic, rel=1e-9, abs=1e-15)
    assert function.gradient(x).tolist() == pytest.approx([2 * k * p * (1 - p) for p in logistic], rel=1e-9, abs=1e-14)
    assert function.gradient(torch.zeros(1, dtype=torch.float64)).item() == k / 2
    far = torch.tensor([-1e3, 1e3, -math.inf, math.inf], dtype=torch.float64)
    assert function.primitive(far).tolist() == [0, 1, 0, 1]
    assert function.gradient(far).tolist() == [0, 0, 0, 0]
    x = torch.linspace(-80, 80, 2**16 + 1, dtype=torch.float64)
    assert torch.trapezoid(function.gradient(x), x).item() == pytest.approx(1)


def test_a_large_k_gives_the_step_and_a_small_one_an_even_gradient():
    """Fig. 3 of the IM-Loss paper; near 0 the gradient is k/2 (1 - (k x)^2 + ...)."""
    x = torch.tensor([-1.0, -0.01, 0.0, 0.01, 1.0], dtype=torch.float64)
    assert EvAF(5000.0).primitive(x).tolist() == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-12)
    assert EvAF(0.01).double().gradient(x).tolist() == pytest.approx([0.005] * 5, rel=1.1e-4)


# --- numbers and modules ---


@EVERY
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 4e-3), (torch.bfloat16, 4e-2)])
def test_lower_precision_keeps_its_dtype_and_the_value(case, dtype, tolerance):
    """Rounding of the dtype (2^-24, 2^-11, 2^-9), times the steepness, at most 10."""
    make, kinks = CASES[case]
    x = away(torch.linspace(-1.5, 1.5, 97).to(dtype), kinks, 1e-2)
    for view in ("gradient", "primitive", "fire"):
        value, exact = getattr(make(), view)(x), getattr(make().double(), view)(x.double())
        assert value.dtype == dtype
        torch.testing.assert_close(value.double(), exact, rtol=tolerance * 10, atol=tolerance * 10)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize(
    ("cls", "name"),
    [(Rectangular, "width"), (Triangular, "gamma"), (Triangular, "v_threshold"), (Dspike, "temperature"), (EvAF, "k")],
)
def test_a_shape_that_is_no_positive_number_raises(cls, name, value):
    with pytest.raises(ValueError, match=name):
        cls(**{name: value})


@pytest.mark.parametrize(("cls", "name"), EVOLVING)
def test_the_parameter_is_saved_and_moves_with_the_module(cls, name):
    function = cls(2.5)
    assert list(function.state_dict()) == [name]
    assert not list(function.parameters())
    other = cls()
    assert other.parameter.item() == 1
    other.load_state_dict(function.state_dict())
    assert other.parameter.item() == 2.5
    assert copy.deepcopy(function).double().parameter.dtype == torch.float64
    assert copy.deepcopy(function).to("meta").parameter.is_meta
    assert function.parameter is getattr(function, name)
    assert f"{name}=2.5" in repr(function)
    assert Rectangular().parameter is None


SLOPE = {
    Dspike: lambda b, x: b / (2 * math.tanh(b / 2) * math.cosh(x * b) ** 2),
    EvAF: lambda k, x: k / (2 * math.cosh(k * x) ** 2),
}


@pytest.mark.parametrize(("cls", "name"), EVOLVING)
def test_the_parameter_is_not_saved_by_the_forward_pass(cls, name):
    function, x = cls(1.0).double(), torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    y = function(x)
    grads = []
    for value in (1.0, 6.0):
        getattr(function, name).fill_(value)
        grads.append(torch.autograd.grad(y, x, retain_graph=True)[0].item())
    assert grads == pytest.approx([SLOPE[cls](value, 0.3) for value in (1.0, 6.0)])


# --- the CUDA code, run on this machine ---

HEADER = r"""
#include <cmath>
struct half2 { float low, high; };  // two floats that hold halves
static float to_half(float f) {     // nearest even, 11 significant bits, subnormals from 2^-14
    int e;
    std::frexp(f, &e);
    e = e < -13 ? -13 : e;
    return std::ldexp(std::nearbyint(std::ldexp(f, 11 - e)), e - 11);
}
static inline float __low2float(half2 h) { return h.low; }
static inline float __high2float(half2 h) { return h.high; }
static inline half2 __floats2half2_rn(float a, float b) { return {to_half(a), to_half(b)}; }
"""
KERNEL = """
extern "C" void {name}(const {dtype} *over_th, {dtype} *out, const float *surrogate_parameter, int n) {{
    for (int i = 0; i < n; i++) {{
        const {dtype} x = over_th[i];
        {statement}
        out[i] = grad_s_to_h;
    }}
}}
"""
EXPRESSION = """
extern "C" void {name}(const float *over_th, float *out, const float *surrogate_parameter, int n) {{
    for (int i = 0; i < n; i++) {{
        const float h = over_th[i], v = 0.25f;
        out[i] = {gradient};
    }}
}}
"""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """Every emitted statement, verbatim, in one shared library."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is missing: the CUDA code cannot be compiled here")
    folder, source = tmp_path_factory.mktemp("cuda_codes"), HEADER
    for i, make in enumerate(make for make, _ in CASES.values()):
        for dtype in ("float", "half2"):
            statement = make().cuda_codes(y=f"const {dtype} grad_s_to_h", x="x", dtype=dtype)
            source += KERNEL.format(name=f"{dtype}_{i}", dtype=dtype, statement=statement)
        source += EXPRESSION.format(name=f"expression_{i}", gradient=make().cuda_gradient("h - v"))
    (folder / "k.cpp").write_text(source)
    subprocess.run(
        ["g++", "-shared", "-fPIC", "-O1", "-ffp-contract=off", "-o", folder / "k.so", folder / "k.cpp"], check=True
    )
    return ctypes.CDLL(str(folder / "k.so"))


def launch(kernels, name, function, x):
    out = torch.empty_like(x)
    pointer = None if function.parameter is None else function.parameter.data_ptr()
    arguments = [ctypes.c_void_p(p) for p in (x.data_ptr(), out.data_ptr(), pointer)]
    getattr(kernels, name)(*arguments, x.numel() // (2 if name.startswith("half2") else 1))
    return out


def grid(kinks):
    """Even in number; with the window edges and their two neighbours in float."""
    edges = torch.tensor(kinks, dtype=torch.float32)
    up, down = edges.nextafter(torch.tensor(9.0)), edges.nextafter(torch.tensor(-9.0))
    points = torch.cat([torch.linspace(-2, 2, 2001), edges, up, down])
    return points[: points.numel() // 2 * 2].contiguous()


@EVERY
def test_cuda_code_for_float_is_the_gradient(case, kernels):
    make, kinks = CASES[case]
    function, x = make(), grid(kinks)
    result = launch(kernels, f"float_{list(CASES).index(case)}", function, x)
    torch.testing.assert_close(result, function.gradient(x), rtol=1e-6, atol=1e-6 * function.gradient(x).max().item())
    assert result.max() > 0.3


@EVERY
def test_cuda_code_for_half2_is_the_gradient_in_both_lanes(case, kernels):
    """Lanes are computed in float and rounded once: 2^-11 relative, a second 2^-11 where float rounding tips it.

    1 - tanh^2 keeps a few 2^-24 of the peak as absolute error, which shows in the tails.
    """
    make, kinks = CASES[case]
    function, x = make(), grid(kinks).half().float()
    result = launch(kernels, f"half2_{list(CASES).index(case)}", function, x)
    expected = function.gradient(x)
    torch.testing.assert_close(result, expected, rtol=2**-10, atol=2**-24 + 2**-22 * expected.max().item())
    assert torch.equal(result, result.half().float())
    assert result.max() > 0.3


@EVERY
def test_the_cuda_gradient_takes_an_expression(case, kernels):
    function, h = CASES[case][0](), torch.linspace(-1, 1, 401) + 1e-4
    result, expected = (
        launch(kernels, f"expression_{list(CASES).index(case)}", function, h),
        function.gradient(h - 0.25),
    )
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6 * expected.max().item())


@pytest.mark.parametrize(("cls", "case"), [(Dspike, "dspike-1.0"), (EvAF, "evaf-1.0")])
def test_a_running_kernel_sees_a_new_parameter(cls, case, kernels):
    function, x, name = cls(1.0), torch.linspace(-0.6, 0.6, 101), f"float_{list(CASES).index(case)}"
    before = launch(kernels, name, function, x)
    function.parameter.fill_(5.0)
    after = launch(kernels, name, function, x)
    torch.testing.assert_close(after, cls(5.0).gradient(x), rtol=1e-5, atol=1e-6)
    assert (after - before).abs().max() > 1


@EVERY
def test_cuda_code_is_for_float_and_half2_only(case):
    function = CASES[case][0]()
    for dtype in ("double", "half", "fp32"):
        with pytest.raises(NotImplementedError, match=dtype):
            function.cuda_codes(y="y", x="x", dtype=dtype)


def test_spikingjellys_base_leaves_cuda_code_to_us():
    """Why the text is ours: the base with named parameters has none (0.0.0.0.14, surrogate.py:175; 2.x)."""
    with pytest.raises((NotImplementedError, AttributeError)):
        _compat.SurrogateFunctionBase(spiking=True).cuda_codes("y", "x", "float")


@pytest.mark.parametrize("function", [Dspike, EvAF])
def test_without_memory_there_is_no_value_to_show(function):
    assert "=meta, spiking=True" in repr(function().to("meta"))
    with torch.device("meta"):
        assert "=meta, spiking=True" in repr(function())
