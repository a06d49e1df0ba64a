"""Section 1: which machine this is, and what ``jellyplus doctor`` says of it."""

import contextlib
import importlib.metadata
import io
import os
import platform
import shutil
import subprocess

import torch

from gpu_sections.job import Job
from gpu_sections.machine import machine
from jellyplus import doctor
from jellyplus.reproduction.source import provenance

__all__ = ["report", "versions"]

_PACKAGES = ("torch", "numpy", "spikingjelly", "cupy-cuda13x", "cupy-cuda12x", "triton", "lightning", "torchvision")
_QUERY = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit"


def versions(job: Job) -> None:
    """The card, the driver, the versions, the commit."""
    machine(job)
    job.add(card=_card(job.dry_run), machine=f"{platform.machine()}, {os.cpu_count()} cores, {platform.release()}")
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    found |= {"python": platform.python_version(), "CUDA of torch": str(torch.version.cuda)}
    made = provenance()
    job.add(versions=found, commit=made["commit"], dirty=made["dirty"])


def report(job: Job) -> None:
    """What doctor prints."""
    machine(job)
    with contextlib.redirect_stdout(io.StringIO()) as text:
        code = doctor.main()
    print(text.getvalue())
    job.add(doctor=text.getvalue(), exit_code=code)


def _card(dry_run: bool) -> str:
    if dry_run:
        return "none: dry run on the CPU"
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"]
        if found := subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout.strip():
            return "; ".join(found.splitlines())
    gpu = torch.cuda.get_device_properties(0)
    return f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, {gpu.multi_processor_count} multiprocessors"
