"""Every CUDA kernel compiles for sm_80 and sm_90, without a device: no warning, no spill, no stack frame."""

import importlib.util
import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC's bindings are not installed: pip install cuda-bindings")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SPEC = importlib.util.spec_from_file_location("compile_kernels", BENCHMARKS / "compile_kernels.py")
compile_kernels = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(compile_kernels)

REASON = compile_kernels.missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@pytest.fixture(scope="module")
def kernels():
    return list(compile_kernels.all_kernels())


@pytest.fixture(scope="module")
def compiled(kernels):
    """A kernel that does not compile is an error here, with the log."""
    return list(compile_kernels.compile_all(kernels))


def kernel(body, name="f", before="", options=()):
    """One that is handed x and y."""
    text = f'{before}\nextern "C" __global__ void {name}(const float *x, float *y) {{ {body} }}'
    return SimpleNamespace(kernel_name=name, full_codes=text, options=options)


def faults(*arguments, **named):
    return [
        compile_kernels.faults(compile_kernels.compile_kernel(kernel(*arguments, **named), architecture))
        for architecture in compile_kernels.architectures()
    ]


def bad(compiled, is_bad):
    """Labels, architectures and the numbers of those that are."""
    return [(*compile_kernels.label(one.kernel), *one[1:]) for one in compiled if is_bad(one)]


def test_every_kernel_compiles_for_every_architecture(kernels, compiled):
    architectures = compile_kernels.architectures()
    assert {"sm_80", "sm_90"} <= set(architectures)
    assert kernels
    assert [(one.kernel, one.architecture) for one in compiled] == list(itertools.product(kernels, architectures))


def test_every_kernel_has_a_label_of_its_own(kernels):
    assert len({compile_kernels.label(kernel) for kernel in kernels}) == len(kernels)


def test_no_kernel_warns(compiled):
    assert not bad(compiled, lambda one: one.warnings)


def test_no_kernel_spills_registers_or_needs_a_stack_frame(compiled):
    assert not bad(compiled, lambda one: one.spill or one.stack)


def test_no_kernel_needs_more_than_64_registers(compiled):
    assert not bad(compiled, lambda one: not 0 < one.registers <= 64)


def test_the_committed_table_has_a_row_for_every_kernel_and_no_other(kernels):
    lines = (BENCHMARKS / "kernels.md").read_text().splitlines()
    _, _, *rows = [tuple(cell.strip() for cell in line.split("|")[1:4]) for line in lines if line.startswith("|")]
    assert rows == [compile_kernels.label(kernel) for kernel in kernels], "run: python benchmarks/compile_kernels.py"


def test_a_sound_kernel_has_no_fault():
    assert not any(faults("y[threadIdx.x] = 2.0f * x[threadIdx.x];"))


def test_a_text_that_is_not_cuda_is_refused_with_nvrtcs_log():
    with pytest.raises(compile_kernels.CompileError, match=r'(?s)f for compute_80.*"undeclared" is undefined'):
        faults("y[0] = undeclared;")


def test_ptx_that_is_wrong_is_refused_with_ptxas_log():
    with pytest.raises(compile_kernels.CompileError, match=r"(?s)f for sm_80.*ptxas.*nonsense"):
        faults('asm volatile("nonsense;");')


def test_a_warning_is_a_fault():
    for found in faults("int unused = 1;"):
        assert len(found) == 1
        assert 'variable "unused" was declared but never referenced' in found[0]


# y may lie over x: all 96 values are read before the first is written
KEEPS_96 = """
    float kept[96];
    #pragma unroll
    for (int i = 0; i < 96; i++) kept[i] = x[i];
    #pragma unroll
    for (int i = 0; i < 96; i++) y[i] = kept[95 - i];
"""


def test_spilled_registers_are_a_fault():
    text = kernel(KEEPS_96)
    text.full_codes = text.full_codes.replace("void f", "void __launch_bounds__(1024, 2) f")  # 32 registers each
    for architecture in compile_kernels.architectures():
        found = compile_kernels.compile_kernel(text, architecture)
        assert found.spill > 0
        assert any("bytes of spills" in fault for fault in compile_kernels.faults(found))


def test_more_than_64_registers_are_a_fault():
    for found in faults(KEEPS_96):
        assert [fault for fault in found if fault.endswith(" registers")]


def test_a_stack_frame_is_a_fault():
    indexed = """
        float a[64];
        for (int i = 0; i < 64; i++) a[i] = x[i] * y[i];
        for (int i = 0; i < 64; i++) y[i] = a[(int)x[i]];
    """
    for found in faults(indexed):
        assert any("256 bytes of stack frame" in fault for fault in found)


def test_the_headers_of_half_precision_are_found():
    half = "y[0] = __half2float(__float2half(x[0]));"
    assert not any(faults(half, before="#include <cuda_fp16.h>"))


def test_options_of_the_kernel_reach_nvrtc():
    multiply_add = "y[0] = x[0] * x[1] + x[2];"
    fused, _ = compile_kernels.run_nvrtc(kernel(multiply_add), "compute_80")
    apart, _ = compile_kernels.run_nvrtc(kernel(multiply_add, options=("--fmad=false",)), "compute_80")
    assert "fma.rn.f32" in fused
    assert "fma.rn.f32" not in apart


def test_nvrtcs_own_assembler_takes_over_where_tritons_are_too_old(monkeypatch):
    monkeypatch.setattr(compile_kernels, "assembler", lambda *_: None)
    found = compile_kernels.compile_kernel(kernel("y[threadIdx.x] = x[threadIdx.x];"), "sm_80")
    assert found.compilers.endswith("its own ptxas")
    assert not compile_kernels.faults(found)
    with pytest.raises(compile_kernels.CompileError, match="f for sm_80"):
        compile_kernels.compile_kernel(kernel('asm volatile("nonsense;");'), "sm_80")


def test_an_assembler_is_asked_whether_it_takes_the_version_of_ptx():
    assert compile_kernels.assembler("sm_80", "7.0") == compile_kernels.assemblers()[0]
    assert compile_kernels.assembler("sm_80", "99.9") is None


def test_a_log_without_numbers_is_refused():
    with pytest.raises(compile_kernels.CompileError, match="not a report"):
        compile_kernels.parse("ptxas info    : 0 bytes gmem")


def test_the_page_names_the_compilers_and_takes_the_worst_of_the_bytes():
    surrogate = next(iter(compile_kernels.surrogates()))
    text = SimpleNamespace(kernel_name="a", dtype="half2", form=SimpleNamespace(surrogate=surrogate))
    one = compile_kernels.Compiled(text, "sm_80", "NVRTC 1.2 and ptxas 3.4", "", 20, 0, 8, 0)
    other = one._replace(architecture="sm_90", registers=30, spill=4, stack=16)
    heading, _, columns, _, row = compile_kernels.page([one, other]).splitlines()
    assert heading == "# CUDA kernels, compiled by NVRTC 1.2 and ptxas 3.4"
    cells = dict(zip(*([cell.strip() for cell in line.split("|")[1:-1]] for line in (columns, row)), strict=True))
    assert cells == {
        "kernel": "a",
        "dtype": "half2",
        "surrogate": "Dspike",
        "registers sm_80": "20",
        "registers sm_90": "30",
        "stack (bytes)": "16",
        "spill (bytes)": "8",
        "constant (bytes)": "0",
    }
