"""Builds mutants, runs them, and says what became of each."""

import ctypes
import faulthandler
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path

import cuda_on_cpu

from mutate_kernels.cases import Case, cases
from mutate_kernels.kernels import KERNELS, Kernel, sources
from mutate_kernels.mutants import Mutant

#: Wrong alignment and indices trap; variables that nobody set are -1.7e38.
_FLAGS = (
    *("-std=c++17", "-O0", "-fPIC", "-ffp-contract=off", "-Werror=return-type", "-Werror=vla"),
    *("-fsanitize=alignment,bounds", "-fsanitize-undefined-trap-on-error", "-ftrivial-auto-var-init=pattern"),
)
_LAUNCH = """
extern "C" void launch{i}(unsigned first, unsigned blocks, void **arguments) {{
    blockDim.x = {threads};
    for (blockIdx.x = first; blockIdx.x < first + blocks; blockIdx.x++)
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++) kernel{i}::{name}({arguments});
}}
"""
_SECONDS = 1  # of processor time, a hundred times what is needed


def missing() -> str | None:
    """Why nothing can be built here, or None."""
    if cuda_on_cpu.MISSING or not sys.platform.startswith("linux"):
        return cuda_on_cpu.MISSING or "memory is laid out by Linux's mmap"
    version = subprocess.run(["g++", "-dumpversion"], capture_output=True, text=True, check=True).stdout
    return None if int(version.split(".")[0]) >= 12 else f"g++ is {version.strip()}, and 12 has -ftrivial-auto-var-init"


class Workshop:
    """A folder where mutants are built, and the header that all of them begin with, compiled once."""

    def __init__(self, folder: Path):
        self.folder = folder
        header = folder / "cuda.h"
        header.write_text(cuda_on_cpu._WORDS + "#include <cstring>\n#include <cuda_fp16.h>\n")
        self._gcc("-x", "c++-header", str(header), "-o", f"{header}.gch", check=True)

    def outcome(self, names: tuple[str, ...], source: str = "", text: str = "") -> str:
        """``survived``, or how it was caught; ``source`` of each kernel is replaced by ``text``."""
        outcomes = (self._outcome(part, source, text) for part in (names[:1], names[1:]) if part)  # mostly by the first
        return next((outcome for outcome in outcomes if outcome != "survived"), "survived")

    def _outcome(self, names: tuple[str, ...], source: str, text: str) -> str:
        library = self.folder / f"{os.getpid()}.so"
        cpp = library.with_suffix(".cpp")
        cpp.write_text(_unit([KERNELS[name] for name in names], source, text))
        built = self._gcc("-shared", "-nostdlib", "-o", str(library), str(cpp), "-lm")
        if built.returncode == 0:
            return run(library, names)
        if not re.search(r"\.cpp:\d+:\d+: error", built.stderr):
            raise RuntimeError(f"the compiler failed: {built.stderr}")
        return "compile"

    def _gcc(self, *arguments: str, check: bool = False) -> subprocess.CompletedProcess:
        include = ("-I", str(Path(cuda_on_cpu.__file__).parent), "-I", str(self.folder))
        command = ["g++", *_FLAGS, *include, *arguments]
        return subprocess.run(command, check=check, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})


def _unit(kernels: list[Kernel], source: str, text: str) -> str:
    """What g++ is given: each kernel in a namespace of its own, and behind it its launcher."""
    parts = ['#include "cuda.h"']
    for i, kernel in enumerate(kernels):
        name, code = kernel.node.kernel_name, kernel.code
        arguments = ", ".join(cuda_on_cpu._arguments(code, name))
        if source and code.count(source) != 1:
            raise ValueError(f"{name} does not hold this text once: {source}")
        changed = code.replace(source, text) if source else code
        inner = changed.replace('extern "C"', "").replace("#include <cuda_fp16.h>", "")
        parts.append(f"namespace kernel{i} {{\n{inner}\n}}")
        parts.append(_LAUNCH.format(i=i, name=name, arguments=arguments, threads=kernel.threads))
    return "\n".join(parts)


def run(library: Path, names: tuple[str, ...]) -> str:
    """All cases of these kernels, in a process of their own."""
    prepared = [cases(name) for name in names]
    child = os.fork()
    if child == 0:
        status = 3
        try:
            status = _status(library, prepared)
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGXCPU:
        return "hang"
    if status < 0:
        return "crash"
    return {0: "survived", 2: "numbers"}[status]


def _status(library: Path, prepared: list[tuple[Case, ...]]) -> int:
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS + 5))
    functions = ctypes.CDLL(str(library))
    every = ((getattr(functions, f"launch{i}"), case) for i, found in enumerate(prepared) for case in found)
    return 0 if all(case.is_right(launch) for launch, case in every) else 2


def outcomes(chosen: tuple[Mutant, ...], jobs: int, report: Callable[[int], None] = lambda done: None) -> list[str]:
    """What became of each mutant.

    Raises:
        AssertionError: the kernels as they are fail.
    """
    with tempfile.TemporaryDirectory(prefix="mutate_kernels") as folder:
        workshop = Workshop(Path(folder))
        needed = tuple(sorted({name for mutant in chosen for name in mutant.affected}))
        assert workshop.outcome(needed) == "survived", "the kernels are wrong before anything is changed"
        found = {}
        for index, outcome in _shared_out(workshop, chosen, jobs):
            found[index] = outcome
            report(len(found))
        return [found[index] for index in range(len(chosen))]


def _shared_out(workshop: Workshop, chosen: tuple[Mutant, ...], jobs: int) -> Iterator[tuple[int, str]]:
    """By processes that share no memory, which a mutant might write to."""
    context = multiprocessing.get_context("fork")
    workers, pipes = [], []
    for job in range(jobs):
        ours, theirs = context.Pipe(duplex=False)
        workers.append(context.Process(target=_work, args=(workshop, chosen, range(job, len(chosen), jobs), theirs)))
        workers[-1].start()
        theirs.close()
        pipes.append(ours)
    while pipes:
        for pipe in wait(pipes):
            try:
                yield pipe.recv()
            except EOFError:
                pipes.remove(pipe)
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0, "a worker failed; its error is above"


def _work(workshop: Workshop, chosen: tuple[Mutant, ...], indices: range, results: Connection) -> None:
    for index in indices:
        mutant = chosen[index]
        results.send((index, workshop.outcome(mutant.affected, sources()[mutant.statement.source], mutant.text)))
