"""Which backends can run here, why one cannot, and which one ``"auto"`` means."""

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from jellyplus.neuron import cpp_backend, cupy_backend
from jellyplus.neuron.dynamics import Dynamics
from jellyplus.neuron.kernel_engine import KernelEngine, Obstacle
from jellyplus.neuron.multistep import Engine
from jellyplus.neuron.torch_backend import TorchEngine

__all__ = ["BACKENDS", "Obstacle", "choose", "engine", "fastest", "obstacle"]

_KERNELS: dict[str, type[KernelEngine]] = {"cpp": cpp_backend.CppEngine, "cupy": cupy_backend.CupyEngine}
_ENGINES: dict[str, Callable[[Callable, Dynamics], Engine]] = {"torch": TorchEngine, **_KERNELS}
BACKENDS = tuple(_ENGINES)
_FASTEST = {"cuda": "cupy", "cpu": "cpp"}


def engine(backend: str, fire: Callable, dynamics: Dynamics) -> Engine:
    """What runs a node's sequence; ``backend`` is not ``"auto"``.

    Raises:
        ValueError: the backend cannot run here, or cannot run this firing function.
    """
    if found := obstacle(backend):
        raise ValueError(f"backend={backend!r} cannot run here: {found}")
    return _ENGINES[backend](fire, dynamics)


def obstacle(backend: str) -> Obstacle | None:
    """Why ``backend`` cannot run on this machine, or None; asked for the first time, 'cpp' compiles for a second."""
    module = {"cpp": cpp_backend, "cupy": cupy_backend}.get(backend)
    return None if module is None else module.obstacle()


def choose(device: torch.device) -> tuple[str, str]:
    """The fastest backend that runs on ``device``, and why it is that one.

    CuPy on a GPU, else the compiled CPU path, else torch.
    """
    wanted = _FASTEST.get(device.type)
    if wanted is None:
        return "torch", f"no other backend runs on {device.type}"
    if found := obstacle(wanted):
        return "torch", f"{wanted} cannot run here: {found}"
    return wanted, f"the fastest on {device.type}"


def fastest(fire: Callable, dynamics: Dynamics, x: Tensor) -> Engine:
    """What ``"auto"`` means for the sequence ``x`` of a node; where it is torch instead of kernels, that is said once.

    In a type that the kernels do not run torch is the fastest, and nothing is said.
    """
    chosen, why = choose(x.device)
    if x.device.type in _FASTEST and chosen == "torch":
        _say_once(why)
    elif chosen != "torch" and x.dtype in _KERNELS[chosen].dtypes:
        try:
            return _KERNELS[chosen](fire, dynamics)
        except ValueError as error:
            _say_once(f"{chosen} cannot run this surrogate: {error}")
    return TorchEngine(fire, dynamics)


@functools.cache
def _say_once(why: str) -> None:
    warnings.warn(f"backend 'auto' runs torch, since {why}", stacklevel=1)
