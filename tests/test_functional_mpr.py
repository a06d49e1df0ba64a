"""The membrane potential rectifier (InfLoR, Eq. 10): its values, its gradient, what the paper asks of it, CUDA code."""

import ctypes
import math
import shutil
import subprocess

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jellyplus.functional import membrane_potential_rectify as rectify
from jellyplus.functional import membrane_potential_rectify_gradient as rectify_gradient
from jellyplus.neuron.rectifier import cuda_rectified_over_half, cuda_rectify_gradient, rectified_over_half
from jellyplus.surrogate import Dspike

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
HALF = 0.5
WIDTHS = pytest.mark.parametrize(("width", "dtype"), [(16, torch.float16), (32, torch.float32), (64, torch.float64)])


def eq10(u):
    """Eq. 10 for one Python float."""
    if u < 0:
        return 1 - (1 - u) ** (1 / 3)
    if u > 1:
        return u ** (1 / 3)
    return math.tanh(3 * (u - 1 / 2)) / (2 * math.tanh(3 / 2)) + 1 / 2


def neighbours(dtype, *centres):
    """Points and the numbers next to them in this dtype, 20 on each side."""
    points = torch.tensor(centres, dtype=dtype)
    found = [points]
    for end in (-math.inf, math.inf):
        p = points
        for _ in range(20):
            p = torch.nextafter(p, torch.full_like(p, end))
            found.append(p)
    return torch.cat(found).sort().values


def dense(dtype):
    """Both signs over the whole range of sizes, close around 1/2 and the joints, and the unit interval."""
    sizes = torch.logspace(-12, 4, 20001, dtype=torch.float64)
    grid = torch.cat([sizes, -sizes, 0.5 + sizes, 0.5 - sizes, torch.linspace(-3, 4, 50001, dtype=torch.float64)])
    return torch.cat([grid.to(dtype), neighbours(dtype, 0.5, 0.0, 1.0)])


# --- values ---


@pytest.mark.parametrize("n", [1, 64])
def test_it_is_equation_10(n):
    points = [i / n for i in range(-9 * n, 10 * n + 1)]
    u = torch.tensor(points, dtype=torch.float64)
    expected = torch.tensor([eq10(p) for p in points], dtype=torch.float64)
    torch.testing.assert_close(rectify(u), expected, rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(rectified_over_half(u), expected - 0.5, rtol=1e-15, atol=1e-15)


def test_it_by_hand():
    """1 - 8^(1/3), 1 - 27^(1/3), 8^(1/3), 27^(1/3). With e^(3/2) = E, tanh(3/2) = (E^2 - 1) / (E^2 + 1) = 0.905148,
    and at u = 3/4 tanh(3/4) = (E - 1) / (E + 1) = 0.635149: 0.635149 / 1.810296 + 0.5 = 0.850854."""
    u = torch.tensor([-7, -26, 8, 27, 0, 0.5, 1, 0.75], dtype=torch.float64)
    assert rectify(u).tolist() == pytest.approx([-1, -2, 2, 3, 0, 0.5, 1, 0.850854], abs=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_continuous_at_the_joints(dtype):
    """Over neighbouring numbers it moves by at most the slope there, 1/3, plus its own rounding, an eps or two."""
    eps = torch.finfo(dtype).eps
    for joint in (0.0, 1.0):
        value = rectify(neighbours(dtype, joint))
        assert (value - joint).abs().max() <= 20 * eps * 0.34 + 2 * eps


def test_the_joints_meet_in_double_precision():
    tiny = torch.tensor([-1e-14, 0, 1e-14], dtype=torch.float64)
    assert rectify(tiny).tolist() == pytest.approx([0, 0, 0], abs=1e-14)
    assert rectify(1 + tiny).tolist() == pytest.approx([1, 1, 1], abs=1e-14)


def test_it_is_symmetric():
    u = dense(torch.float64)
    torch.testing.assert_close(rectify(u) + rectify(1 - u), torch.ones_like(u), rtol=0, atol=1e-14)
    torch.testing.assert_close(rectified_over_half(u), -rectified_over_half(1 - u), rtol=1e-14, atol=1e-14)


def test_on_the_unit_interval_it_is_dspike_with_temperature_3():
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)
    function = Dspike(3.0).double()
    torch.testing.assert_close(rectify(u), function.primitive(u - 0.5), rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(rectify_gradient(u), function.gradient(u - 0.5), rtol=1e-13, atol=0)


@pytest.mark.parametrize("function", [rectify, rectified_over_half, rectify_gradient])
@pytest.mark.parametrize("dtype", DTYPES)
def test_shape_and_dtype_are_kept_and_the_value_is_that_of_double_precision(function, dtype):
    """The cube root's exponent is rounded too: log(10^4) / 2 times eps on top of the rounding of a few operations."""
    u = dense(dtype)
    value, eps = function(u), torch.finfo(dtype).eps
    assert value.dtype == dtype
    # rounded u - 1/2 and 3 (u - 1/2) move the tanh by a few eps; right of the joints float and double agree which
    torch.testing.assert_close(value.double(), function(u.double()), rtol=8 * eps, atol=8 * eps)
    for shape in ((), (0, 3), (2, 3, 4)):
        x = torch.full(shape, 0.25, dtype=dtype)
        assert function(x).shape == shape
        assert (x == 0.25).all()


def test_infinities_and_nan():
    u = torch.tensor([-math.inf, math.inf, math.nan])
    assert rectify(u).tolist() == pytest.approx([-math.inf, math.inf, math.nan], nan_ok=True)
    assert rectify_gradient(u).tolist() == pytest.approx([0, 0, math.nan], nan_ok=True)


# --- gradient ---


def test_the_gradient_by_hand():
    """8^(-2/3) / 3 = 1/12 and 27^(-2/3) / 3 = 1/27; at 1/2 it is 3 / (2 tanh(3/2)) = 3 / 1.810296 = 1.657187;
    at 0 and 1 that times 1 - 0.905148^2 = 0.180707, 0.299465."""
    u = torch.tensor([-7, 8, -26, 27, 0.5, 0, 1], dtype=torch.float64)
    expected = [1 / 12, 1 / 12, 1 / 27, 1 / 27, 1.657187, 0.299465, 0.299465]
    assert rectify_gradient(u).tolist() == pytest.approx(expected, abs=1e-6)


def test_the_gradient_is_the_slope():
    h = 1e-6
    u = torch.linspace(-8, 9, 17001, dtype=torch.float64) + 3.1e-4
    u = u[torch.minimum(u.abs(), (u - 1).abs()) > 2 * h]
    slope = (rectify(u + h) - rectify(u - h)) / (2 * h)
    torch.testing.assert_close(rectify_gradient(u), slope, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("function", [rectify, rectified_over_half])
@pytest.mark.parametrize("dtype", DTYPES)
def test_autograd_gives_the_gradient_everywhere(function, dtype):
    """Also at the joints and the numbers next to them, and where a fractional power would have no gradient."""
    extremes = torch.tensor([-6e4, 6e4, -1e-7, 1e-7, -0.0], dtype=dtype)
    u = torch.cat([dense(dtype), extremes]).requires_grad_()
    (gradient,) = torch.autograd.grad(function(u).sum(), u)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient, rectify_gradient(u.detach()), rtol=16 * eps, atol=16 * eps)


def test_at_the_joints_autograd_takes_the_middle_piece():
    """0.299465, see above; the numbers next to them outside [0, 1] have 1/3."""
    u = torch.tensor([0.0, 1.0, -5e-324, math.nextafter(1, 2)], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(rectify(u).sum(), u)
    expected = pytest.approx([0.299465, 0.299465, 1 / 3, 1 / 3], abs=1e-6)
    assert gradient.tolist() == expected
    assert rectify_gradient(u.detach()).tolist() == expected


def test_autograd_at_infinity_is_zero():
    u = torch.tensor([-math.inf, math.inf], requires_grad=True)
    (gradient,) = torch.autograd.grad(rectify(u).sum(), u)
    assert gradient.tolist() == [0, 0]


# --- the paper's two principles ---


def potentials(width):
    """Any float of that width, often in and around the unit interval."""
    return st.floats(allow_nan=False, width=width) | st.floats(-1, 2, width=width)


@pytest.mark.parametrize("dtype", DTYPES)
def test_firing_is_invariant_at_one_half(dtype):
    """In its own precision: no membrane potential changes sides, however near to the threshold."""
    u = dense(dtype)
    fires = u >= HALF
    assert fires.any()
    assert not fires.all()
    assert torch.equal(torch.sign(rectified_over_half(u)), torch.sign(u - HALF))
    assert torch.equal(rectified_over_half(u) >= 0, fires)
    assert torch.equal(rectify(u) >= HALF, fires)


@WIDTHS
@given(data=st.data())
def test_firing_is_invariant_for_any_number(width, dtype, data):
    u = torch.tensor(data.draw(potentials(width)), dtype=dtype)
    assert torch.sign(rectified_over_half(u)) == torch.sign(u - HALF)
    assert (rectify(u) >= HALF) == (u >= HALF)


def test_firing_is_invariant_for_every_half_precision_number():
    u = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.float16)
    u = u[u.isfinite()]
    assert torch.equal(torch.sign(rectified_over_half(u)), torch.sign(u - HALF))


@pytest.mark.parametrize("dtype", DTYPES)
def test_over_half_does_not_cancel_next_to_the_threshold(dtype):
    """The slope there is 1.657187; phi itself, rounded near 1/2, would be off by a fifth on the nearest numbers."""
    u = neighbours(dtype, HALF)
    u = u[(u - HALF).abs() < 3 * torch.finfo(dtype).eps]
    expected = 1.657187 * (u.double() - HALF)
    torch.testing.assert_close(rectified_over_half(u).double(), expected, rtol=2e-2, atol=0)


def test_firing_is_not_invariant_at_another_threshold():
    """V_th = 0.3: tanh(3 (u - 0.5)) = -0.2 * 1.810296 where u = 0.5 - 0.379254 / 3 = 0.373582; up to there MPR
    silences neurons that would have fired."""
    u = torch.linspace(-1, 2, 300_001, dtype=torch.float64)
    changed = u[(u >= 0.3) != (rectified_over_half(u) >= 0.3 - HALF)]
    assert (changed.min().item(), changed.max().item()) == pytest.approx((0.3, 0.373582), abs=2e-5)
    assert rectify(torch.tensor(0.35)) < 0.3


def test_it_approaches_the_spike():
    """|phi(u) - o| <= |u - o| with o = [u >= 1/2]: everywhere, and with equality at 0, 1/2 and 1 alone."""
    u = dense(torch.float64)
    spike = (u >= HALF).double()
    gain = (u - spike).abs() - (rectify(u) - spike).abs()
    assert gain.min() >= -1e-15
    away = torch.stack([u.abs(), (u - HALF).abs(), (u - 1).abs()]).amin(0) > 1e-9
    assert (gain[away] > 0).all()
    assert rectify(torch.tensor([0.0, 0.5, 1.0])).tolist() == [0, 0.5, 1]


@WIDTHS
@given(data=st.data())
def test_no_number_is_farther_from_the_spike_than_before(width, dtype, data):
    """A few roundings of phi, near 0 relative to 1/2, are allowed for."""
    u = torch.tensor(data.draw(potentials(width)), dtype=dtype)
    spike = (u >= HALF).to(dtype)
    assert (rectify(u) - spike).abs() <= (u - spike).abs() + 2 * torch.finfo(dtype).eps


def test_it_does_not_approach_the_spike_at_another_threshold():
    """V_th = 0.3, u = 0.4 fires, o = 1: tanh(-0.3) = -0.291313, so phi = 0.5 - 0.291313 / 1.810296 = 0.339080."""
    value = rectify(torch.tensor(0.4)).item()
    assert value == pytest.approx(0.339080, abs=1e-6)
    assert 1 - value > 1 - 0.4


def test_a_normal_distribution_becomes_two_heaps():
    """Fig. 4: N(1/2, 1), most dense at 1/2, is most dense near 0 and 1 once it is rectified."""
    u = 0.5 + torch.randn(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before, after = (torch.histc(x, 21, -0.55, 1.55) for x in (u, rectify(u)))  # 0.1 wide; the middle one at 0.5
    assert before[10] > 0.9 * before.max()
    assert after[5] > 2 * after[10]
    assert after[15] > 2 * after[10]


# --- the CUDA code, run on this machine ---

KERNEL = """
extern "C" void {name}(const float *us, float *out, int n) {{
    for (int i = 0; i < n; i++) {{ const float h = us[i]; out[i] = {expression}; }}
}}
extern "C" void {name}_twice_less_one(const float *us, float *out, int n) {{
    for (int i = 0; i < n; i++) {{ const float h = us[i]; out[i] = 2.0f * {expression} - 1.0f; }}
}}
"""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """The emitted expressions, verbatim, in one shared library."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is missing: the CUDA code cannot be compiled here")
    folder = tmp_path_factory.mktemp("cuda_rectifier")
    source = "#include <cmath>\n" + KERNEL.format(name="value", expression=cuda_rectified_over_half("h"))
    source += KERNEL.format(name="slope", expression=cuda_rectify_gradient("h"))
    (folder / "k.cpp").write_text(source)
    command = ["g++", "-Wall", "-Wdouble-promotion", "-Wfloat-conversion", "-Werror", "-shared", "-fPIC", "-O1"]
    subprocess.run([*command, "-ffp-contract=off", "-o", folder / "k.so", folder / "k.cpp"], check=True)
    return ctypes.CDLL(str(folder / "k.so"))


def launch(kernels, name, u):
    u, out = u.contiguous(), torch.empty_like(u)
    getattr(kernels, name)(ctypes.c_void_p(u.data_ptr()), ctypes.c_void_p(out.data_ptr()), u.numel())
    return out


@pytest.mark.parametrize(("name", "function"), [("value", rectified_over_half), ("slope", rectify_gradient)])
def test_cuda_code_is_the_function(kernels, name, function):
    u = torch.cat([dense(torch.float32), torch.tensor([-math.inf, math.inf, math.nan, 0.0, 1.0, -0.0])])
    result = launch(kernels, name, u)
    torch.testing.assert_close(result, function(u), rtol=2e-6, atol=5e-7, equal_nan=True)
    # parenthesised as a whole
    torch.testing.assert_close(
        launch(kernels, f"{name}_twice_less_one", u), 2 * result - 1, rtol=0, atol=0, equal_nan=True
    )


def test_cuda_code_fires_as_the_membrane_potential_does(kernels):
    u = dense(torch.float32)
    assert torch.equal(torch.sign(launch(kernels, "value", u)), torch.sign(u - HALF))


def test_cuda_code_is_symmetric_at_the_joints(kernels):
    u = torch.tensor([0.0, 1.0])
    assert launch(kernels, "value", u).tolist() == pytest.approx([-0.5, 0.5], abs=1e-7)
    assert launch(kernels, "slope", u).tolist() == pytest.approx([0.299465, 0.299465], abs=1e-6)
