"""A process that runs one side under one allocation setting, and the parent's handle on it.

Processes, because both SpikingJelly lines are one package name, and because glibc reads its allocation settings when a
process starts. One line of JSON asks, one line answers; only one process is busy at a time.
"""

import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from sides import SIDES, WORKS, Outputs, Work, copy
from torch import Tensor

__all__ = ["ALLOCATIONS", "COPY", "Worker"]

COPY = "copy"
#: Above every size here: no tensor gets a mapping of its own, and freed memory stays in the process.
_NEVER = str(2**35)
ALLOCATIONS = {"default": {}, "raised": {"MALLOC_MMAP_THRESHOLD_": _NEVER, "MALLOC_TRIM_THRESHOLD_": _NEVER}}


class Worker:
    """The parent's side: starts the process, asks, and raises where it fails.

    Args:
        side: a key of ``SIDES``, or ``COPY``.
        allocation: a key of ``ALLOCATIONS``.
        folder: where the side's package is; None where it is installed beside us.
        tiny: see ``--tiny`` of the driver.
    """

    def __init__(self, side: str, allocation: str, folder: Path | None = None, tiny: bool = False):
        self.side, self.allocation = side, allocation
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        environment = inherited | ALLOCATIONS[allocation]
        if folder is not None:
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        # what torch.compile kept on disk would hide what compiling takes
        environment["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
        command = [sys.executable, "-W", "ignore", __file__, side, *(["--tiny"] if tiny else [])]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)

    def ask(self, **request: object) -> dict:
        """One answer.

        Raises:
            RuntimeError: the process has failed; its traceback went to stderr.
        """
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"{self.side} ({self.allocation} allocation) failed at {request}: see its traceback")
        return json.loads(answer)

    def outputs(self, dtype: torch.dtype, path: Path) -> tuple[Outputs, float]:
        """What one pass computes, and its seconds; ``path`` carries the tensors over."""
        answer = self.ask(do="outputs", dtype=str(dtype).removeprefix("torch."), path=str(path))
        return torch.load(path), answer["seconds"]

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class _Runner:
    """What the process does with each request."""

    def __init__(self, side: str, tiny: bool):
        self.side, self.tiny = side, tiny
        self.name = ""
        self.work: Work = copy(tiny) if side == COPY else dict

    def version(self) -> dict:
        return {"version": SIDES[self.side].version}

    def outputs(self, dtype: str, path: str) -> dict:
        """One pass over the compared sizes."""
        work = self._make(getattr(torch, dtype), compared=True)
        started = time.perf_counter()
        outputs = work()
        seconds = time.perf_counter() - started
        torch.save({name: tensor.detach() for name, tensor in outputs.items()}, path)
        return {"seconds": seconds}

    def choose(self, work: str) -> dict:
        """The work of all later requests; what the one before needed is given back."""
        self.name, self.work = work, dict
        _give_back()
        return {}

    def prepare(self) -> dict:
        """Build the sizes that are timed."""
        self.work = self._make(torch.float32, compared=False)
        return {}

    def run(self) -> dict:
        """Seconds and minor page faults of one pass."""
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        started = time.perf_counter()
        outputs = self.work()
        seconds = time.perf_counter() - started
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        del outputs
        return {"seconds": seconds, "faults": faults}

    def memory(self) -> dict:
        """MiB kept for backward, and MiB that a second pass adds to the resident set."""
        return {"kept": _kept_bytes(self.work) / 2**20, "peak": _peak_bytes(self.work) / 2**20}

    def _make(self, dtype: torch.dtype, compared: bool) -> Work:
        return WORKS[self.name](SIDES[self.side].make, dtype, self.tiny, compared)


def _give_back() -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _kept_bytes(work: Work) -> int:
    """Bytes of the distinct storages that the forward pass saves for backward."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(storages.values())


def _peak_bytes(work: Callable[[], object]) -> int:
    """Growth of the resident set's maximum over one pass."""
    _give_back()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts anew
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) * 1024


def _status(field: str) -> int:
    """A field of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a package prints goes to stderr
    runner = _Runner(sys.argv[1], tiny="--tiny" in sys.argv)
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(runner, request.pop("do"))(**request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
