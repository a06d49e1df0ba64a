"""Which backends can run here, why one cannot, and which one ``"auto"`` means."""

from collections.abc import Callable

import torch

from jellyplus.neuron import cpp_backend, cupy_backend
from jellyplus.neuron.dynamics import Dynamics
from jellyplus.neuron.kernel_engine import Obstacle
from jellyplus.neuron.multistep import Engine
from jellyplus.neuron.torch_backend import TorchEngine

__all__ = ["BACKENDS", "Obstacle", "choose", "engine", "obstacle"]

_ENGINES = {"torch": TorchEngine, "cpp": cpp_backend.CppEngine, "cupy": cupy_backend.CupyEngine}
BACKENDS = tuple(_ENGINES)


def engine(backend: str, fire: Callable, dynamics: Dynamics) -> Engine:
    """What runs a node's sequence.

    Raises:
        ValueError: the backend cannot run here, or cannot run this firing function.
    """
    if found := obstacle(backend):
        raise ValueError(f"backend={backend!r} cannot run here: {found}")
    return _ENGINES[backend](fire, dynamics)


def obstacle(backend: str) -> Obstacle | None:
    """Why ``backend`` cannot run on this machine, or None; asked for the first time, 'cpp' compiles for a second."""
    return {"cpp": cpp_backend, "cupy": cupy_backend}[backend].obstacle() if backend != "torch" else None


def choose(device: torch.device) -> tuple[str, str]:
    """The fastest backend that runs on ``device``, and why it is that one.

    CuPy on a GPU, else the compiled CPU path, else torch.
    """
    wanted = "cupy" if device.type == "cuda" else "cpp"
    if device.type not in ("cuda", "cpu"):
        return "torch", f"no other backend runs on {device.type}"
    if found := obstacle(wanted):
        return "torch", f"{wanted} cannot run here: {found}"
    return wanted, f"the fastest on {device.type}"
