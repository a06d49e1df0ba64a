"""``jellyplus doctor``: installed versions, the backends that work here, what to do first about those that do not.

SpikingJelly 0.0.0.0.14 swallows the error of ``import cupy`` (activation_based/neuron.py:12-20) and then says that
CuPy is not installed. Here every original error is shown, and a backend works when it has run a node forward and
backward and its numbers are right, not when its import succeeds.
"""

import ctypes
import importlib.util
import platform
import re
import sys
import warnings
from importlib import metadata

import torch
from torch import Tensor

from jellyplus.neuron import IterativeLIFNode, backends
from jellyplus.neuron.backends import Obstacle

__all__ = ["main"]

_LABEL = 16  # columns
_CUPY = re.compile(r"(amd-)?cupy(-(cuda|rocm)[\w-]*)?")  # every distribution that installs the package cupy
_REPORT = 'use backend="torch" meanwhile, and report this page'
_BROKEN = "reinstall torch and jellyplus in a fresh environment, then run jellyplus doctor again"


def main() -> int:
    """Print the report.

    Returns:
        The exit code: 0 if the torch backend works, 1 otherwise.
    """
    for label, text in (*_versions(), *_hardware()):
        _print(label, text)
    works = {backend: _print_backend(backend) for backend in backends.BACKENDS}
    for device in _devices():
        _print(f"auto on {device}", _choice(device))
    return 0 if works["torch"] else 1


def _print(label: str, text: str) -> None:
    first, *rest = [line for line in text.splitlines() if line.strip()] or [""]
    print(f"{label:<{_LABEL}}{first}", *(" " * _LABEL + line for line in rest), sep="\n", flush=True)


def _versions() -> list[tuple[str, str]]:
    rows = [("jellyplus", _version("jellyplus"))]
    rows.append(("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"))
    rows.append(("torch", f"{torch.__version__}, {_build()}"))
    rows += [(name, _version(name)) for name in ("numpy", "spikingjelly")]
    return [*rows, *_cupy()]


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed as a package"


def _build() -> str:
    if torch.version.cuda:
        return f"built for CUDA {torch.version.cuda}"
    return f"built for ROCm {torch.version.hip}" if torch.version.hip else "built without CUDA"


def _cupy() -> list[tuple[str, str]]:
    """What is installed and whether it imports; the import's error itself is in the row of the backend."""
    installed = _cupy_distributions()
    if not installed and importlib.util.find_spec("cupy") is None:
        return [("cupy", "not installed")]
    names = ", ".join(f"{name} {version}" for name, version in installed.items())
    text = f"{_cupy_import()} ({names or 'from no installed package'})"
    if len(installed) < 2:
        return [("cupy", text)]
    several = f"more than one is installed, and each overwrote files of the other\nfirst: {_one_cupy(installed)}"
    return [("cupy", text), ("", several)]


def _cupy_distributions() -> dict[str, str]:
    """Name to version of every installed distribution that brings CuPy."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        if _CUPY.fullmatch(name):
            found.setdefault(name, distribution.version)
    return dict(sorted(found.items()))


def _cupy_import() -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about several packages: said here in one line
            cupy = importlib.import_module("cupy")
    except Exception as error:
        return f"does not import, {type(error).__name__}"
    return getattr(cupy, "__version__", "imports, yet is not CuPy")


def _one_cupy(installed: dict[str, str]) -> str:
    extra = "cupy12" if (torch.version.cuda or "").startswith("12.") else "cupy13"
    return f'pip uninstall -y {" ".join(installed)}, then pip install "jellyplus[{extra}]"'


def _hardware() -> list[tuple[str, str]]:
    return [("NVIDIA driver", _driver()), ("GPU", _gpus())]


def _driver() -> str:
    """The newest CUDA version that the driver runs, whatever torch and CuPy were built for."""
    version = ctypes.c_int()
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        library.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError) as error:
        return f"none: {error}"
    return f"runs CUDA up to {version.value // 1000}.{version.value % 1000 // 10}"


def _gpus() -> str:
    try:
        torch.cuda.init()
    except Exception as error:
        return f"none visible to torch: {_message(error)}"
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return "\n".join(f"{gpu.name}, compute capability {gpu.major}.{gpu.minor}" for gpu in properties)


def _devices() -> tuple[str, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the driver: the row of the GPU has it
        return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def _print_backend(backend: str) -> bool:
    print(f"{'backend ' + backend:<{_LABEL}}", end="", flush=True)  # compiling may take a while
    obstacle = _obstacle(backend)
    if obstacle is None:
        print(f"works: forward and backward are right on {' and '.join(_devices_of(backend))}", flush=True)
        return True
    first, _, rest = f"does not work: {obstacle.reason.strip()}\nfirst: {obstacle.remedy}".partition("\n")
    print(first)
    _print("", rest)
    return False


def _obstacle(backend: str) -> Obstacle | None:
    """What keeps the backend from working, found by running it where it claims to work."""
    remedy = _BROKEN if backend == "torch" else _REPORT
    try:
        if found := backends.obstacle(backend):
            return found
        differences = [_difference(backend, device) for device in _devices_of(backend)]
    except Exception as error:
        return Obstacle(_message(error), remedy)
    return Obstacle("\n".join(filter(None, differences)), remedy) if any(differences) else None


def _devices_of(backend: str) -> tuple[str, ...]:
    return {"torch": _devices(), "cpp": ("cpu",), "cupy": ("cuda",)}[backend]


def _difference(backend: str, device: str) -> str:
    """How the backend's spikes and gradients differ from those of time-step after time-step; empty if they do not."""
    expected = _run(IterativeLIFNode(step_mode="s"), device)
    actual = _run(IterativeLIFNode(step_mode="m", backend=backend), device)
    for name, have, want in zip(("spikes", "gradients"), actual, expected, strict=True):
        if not torch.allclose(have, want, rtol=1e-5, atol=1e-6):
            return f"wrong numbers on {device}: {name} {have.tolist()}\ninstead of {want.tolist()}"
    return ""


def _run(node: IterativeLIFNode, device: str) -> tuple[Tensor, Tensor]:
    """Spikes and input gradient of a small fixed sequence, [T=2, N=4]; no H lies close to the threshold 0.5."""
    x = torch.tensor([[0.9, 0.2, 0.6, -0.3], [0.1, 0.4, 0.3, 0.7]], device=device, requires_grad=True)
    weight = torch.tensor([[1.0, -2.0, 3.0, -4.0], [5.0, -6.0, 7.0, -8.0]], device=device)
    spikes = node(x) if node.step_mode == "m" else torch.stack([node(step) for step in x])
    (gradient,) = torch.autograd.grad((spikes * weight).sum(), x)
    return spikes.detach().cpu(), gradient.cpu()


def _choice(device: str) -> str:
    """What ``backend="auto"`` means there."""
    try:
        backend, why = backends.choose(torch.device(device))
    except Exception as error:
        return f"fails: {_message(error)}"
    return f"{backend}: {why}"


def _message(error: Exception) -> str:
    """The original error, as Python's last line of a traceback has it."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
