"""Compiles every CUDA kernel for real GPUs, without one, and tabulates what ``ptxas -v`` reports.

    python benchmarks/compile_kernels.py [--output benchmarks/kernels.md]

NVRTC turns the text into PTX, and Triton's ptxas the PTX into machine code. Triton ships two, of different age: the
first that takes NVRTC's version of PTX is used, and NVRTC's own assembler where both are too old. The exit status is 1
where a kernel warns, spills, needs a stack frame or more than 64 registers.
"""

import argparse
import functools
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import pandas as pd
from cuda.bindings import nvrtc

from jellyplus import surrogate
from jellyplus._files import write_atomically
from jellyplus.neuron.cupy_backend import NodeKernel, all_kernels
from jellyplus.neuron.dynamics import Dynamics
from jellyplus.neuron.kernel_code import Form

ARCHITECTURES = ("sm_70", "sm_80", "sm_90")
MAX_REGISTERS = 64  # 1024 threads, the largest block, then fit the 65536 registers of a multiprocessor
#: In NVRTC 12.9's log for sm_70, which no option turns off; it is about the architecture, not the kernel.
OLD_ARCHITECTURE = re.compile(r"^nvrtc: warning: Architectures prior to .* are deprecated.*$", re.MULTILINE)
LABELS = ("kernel", "dtype", "surrogate")
REPORTED = {
    "registers": re.compile(r"Used (\d+) registers"),
    "stack": re.compile(r"(\d+) bytes stack frame"),
    "spill": re.compile(r"(\d+) bytes spill (?:stores|loads)"),
    "constant": re.compile(r"(\d+) bytes cmem\[[1-9]\d*\]"),  # beside the arguments, cmem[0]; for sm_90 it names none
}


class Kernel(Protocol):
    """What is compiled: a :class:`~jellyplus.neuron.cupy_backend.NodeKernel`, or any other text."""

    kernel_name: str
    full_codes: str
    options: tuple[str, ...]


class Compiled(NamedTuple):
    """A kernel on an architecture: who compiled it, their warnings, registers per thread, and bytes."""

    kernel: Kernel
    architecture: str
    compilers: str
    warnings: str
    registers: int
    stack: int
    spill: int
    constant: int


class CompileError(Exception):
    """A kernel that NVRTC or ptxas refuses; the message holds the log."""


def call(function: Callable, *arguments: object) -> object:
    """NVRTC's answer; its functions return their status first."""
    status, *answer = function(*arguments)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise CompileError(f"{function.__name__}: {status.name}")
    return answer[0] if len(answer) == 1 else answer


def folders(package: str) -> list[Path]:
    """Where an installed package lies; it is not imported."""
    spec = importlib.util.find_spec(package)
    return [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []


@functools.cache
def include() -> Path | None:
    """The folder of cuda_fp16.h: of the wheels of NVRTC's CUDA (from 13 on, and before), or of Triton's."""
    major, _ = call(nvrtc.nvrtcVersion)
    places = [root / name / "include" for name in (f"cu{major}", "cuda_runtime") for root in folders("nvidia")]
    places += [root / "backends/nvidia/include" for root in folders("triton")]
    return next((place for place in places if (place / "cuda_fp16.h").exists()), None)


@functools.cache
def assemblers() -> list[Path]:
    """Triton's ptxas and ptxas-blackwell, as far as they are there."""
    return [path for root in folders("triton") for path in sorted((root / "backends/nvidia/bin").glob("ptxas*"))]


def missing() -> str | None:
    """What is not installed here."""
    try:
        call(nvrtc.nvrtcVersion)
    except RuntimeError as error:  # the bindings are, the library they load is not
        return f"NVRTC is not installed: {error}"
    if include() is None:
        return "cuda_fp16.h is not installed: it is in the wheels nvidia-cuda-runtime and triton"
    return None if assemblers() else "ptxas is not installed: it is in the wheel triton"


def architectures() -> list[str]:
    """Those of ours that NVRTC still has; CUDA 13 has no sm_70."""
    supported = call(nvrtc.nvrtcGetSupportedArchs)
    return [name for name in ARCHITECTURES if int(name.removeprefix("sm_")) in supported]


def run_ptxas(ptxas: Path, architecture: str, ptx: str) -> tuple[bool, str]:
    """Whether ptxas takes the PTX, and its log."""
    command = [ptxas, "-v", f"-arch={architecture}", "-o", "/dev/null", "/dev/stdin"]
    done = subprocess.run(command, input=ptx, capture_output=True, text=True)
    return done.returncode == 0, done.stdout + done.stderr


@functools.cache
def assembler(architecture: str, ptx_version: str) -> Path | None:
    """The first ptxas that takes an empty file of this version."""
    empty = f".version {ptx_version}\n.target {architecture}\n.address_size 64\n"
    return next((ptxas for ptxas in assemblers() if run_ptxas(ptxas, architecture, empty)[0]), None)


@functools.cache
def version(ptxas: Path) -> str:
    said = subprocess.run([ptxas, "--version"], capture_output=True, text=True, check=True).stdout
    return f"{ptxas.name} {re.search(r'V([0-9.]+)', said)[1]}"


def run_nvrtc(kernel: Kernel, target: str, *more_options: str) -> tuple[str, str]:
    """NVRTC's PTX and log; PTX is empty for ``sm_80`` and the like, where NVRTC assembles too."""
    program = call(nvrtc.nvrtcCreateProgram, kernel.full_codes.encode(), b"kernel.cu", 0, [], [])
    options = [f"--gpu-architecture={target}", f"--include-path={include()}", *kernel.options, *more_options]
    try:
        status, *_ = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        log = fetch(program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise CompileError(f"{kernel.kernel_name} for {target}: {status.name}\n{log}")
        return fetch(program, nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX), log
    finally:
        call(nvrtc.nvrtcDestroyProgram, program)


def fetch(program: object, size: Callable, fill: Callable) -> str:
    """NVRTC fills a buffer of the size that it gives."""
    buffer = bytes(call(size, program))
    call(fill, program, buffer)
    return buffer.rstrip(b"\0").decode().strip()


def compile_kernel(kernel: Kernel, architecture: str) -> Compiled:
    """Through NVRTC and ptxas.

    Raises:
        CompileError: one of the two refuses the kernel.
    """
    ptx, warnings = run_nvrtc(kernel, architecture.replace("sm", "compute"))
    release = ".".join(map(str, call(nvrtc.nvrtcVersion)))
    ptx_version = re.search(r"^\.version (\S+)", ptx, re.MULTILINE)[1]
    ptxas = assembler(architecture, ptx_version)
    if ptxas is None:
        _, log = run_nvrtc(kernel, architecture, "--ptxas-options=-v")
    else:
        taken, log = run_ptxas(ptxas, architecture, ptx)
        if not taken:
            raise CompileError(f"{kernel.kernel_name} for {architecture}: {version(ptxas)}\n{log}")
    compilers = f"NVRTC {release} (PTX {ptx_version}) and {'its own ptxas' if ptxas is None else version(ptxas)}"
    warnings = [OLD_ARCHITECTURE.sub("", warnings), *re.findall(r"^ptxas.*warning.*$", log, re.MULTILINE)]
    return Compiled(kernel, architecture, compilers, "\n".join(warnings).strip(), **parse(log))


def parse(log: str) -> dict[str, int]:
    """The numbers in the log of ``ptxas -v``, each added up over the functions of the file: a kernel is one function.

    Raises:
        CompileError: they are not there.
    """
    found = {name: [int(number) for number in pattern.findall(log)] for name, pattern in REPORTED.items()}
    if not (found["registers"] and found["stack"] and found["spill"]):
        raise CompileError(f"not a report of ptxas -v:\n{log}")
    return {name: sum(numbers) for name, numbers in found.items()}


def compile_all(kernels: Iterable[Kernel]) -> Iterator[Compiled]:
    """Every kernel for every architecture, in this order, two at a time."""
    jobs = [(kernel, architecture) for kernel in kernels for architecture in architectures()]
    with ThreadPoolExecutor(2) as pool:
        for done, compiled in enumerate(pool.map(lambda job: compile_kernel(*job), jobs), start=1):
            if done % 50 == 0 or done == len(jobs):
                print(f"{done} of {len(jobs)} compiled", file=sys.stderr, flush=True)
            yield compiled


def faults(compiled: Compiled) -> list[str]:
    """What is wrong with a kernel that compiles; empty where nothing is."""
    where = f"{compiled.kernel.kernel_name} for {compiled.architecture}"
    found = {
        compiled.warnings: bool(compiled.warnings),
        f"{compiled.stack} bytes of stack frame": compiled.stack > 0,
        f"{compiled.spill} bytes of spills": compiled.spill > 0,
        f"{compiled.registers} registers": compiled.registers > MAX_REGISTERS,
    }
    return [f"{where}: {fault}" for fault, there in found.items() if there]


@functools.cache
def surrogates() -> dict[str, str]:
    """The names of the surrogates with their usual settings, by their CUDA code; forward kernels depend on none."""
    plain = Dynamics(1.0, 0.5, None, False, spike_size=1.0, rectify=False)
    functions = [getattr(surrogate, name)() for name in surrogate.__all__ if name != "Surrogate"]
    forms = {Form.of(function, plain): type(function).__name__ for function in functions}
    return {form.surrogate: name for form, name in forms.items()} | {
        form.needed_by("forward").surrogate: "any" for form in forms
    }


def label(kernel: NodeKernel) -> tuple[str, str, str]:
    """The configuration: name (direction and kind of reset), type and surrogate."""
    return kernel.kernel_name, kernel.dtype, surrogates()[kernel.form.surrogate]


def page(compiled: list[Compiled]) -> str:
    """The compilers in a heading, then a row for every kernel; of the bytes, those of the worst architecture."""
    rows: dict[tuple[str, ...], dict[str, object]] = {}
    for one in compiled:
        row = rows.setdefault(label(one.kernel), dict(zip(LABELS, label(one.kernel), strict=True)))
        row[f"registers {one.architecture}"] = one.registers
        for name in ("stack", "spill", "constant"):
            row[f"{name} (bytes)"] = max(row.get(f"{name} (bytes)", 0), getattr(one, name))
    frame = pd.DataFrame(rows.values())
    frame = frame[sorted(frame, key=lambda column: "bytes" in column)]
    compilers = "; ".join(dict.fromkeys(one.compilers for one in compiled))
    return f"# CUDA kernels, compiled by {compilers}\n\n{frame.to_markdown(index=False)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("kernels.md"))
    options = parser.parse_args()
    if reason := missing():
        sys.exit(reason)
    compiled = list(compile_all(all_kernels()))
    text = page(compiled)
    write_atomically(options.output, text.encode())
    print(text, end="")
    sys.exit("\n".join(fault for one in compiled for fault in faults(one)) or None)


if __name__ == "__main__":
    main()
