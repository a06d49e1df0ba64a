"""SpikingJelly's two lines, 0.0.0.0.14 and 2.x, as one: the base classes, and what they leave to us.

Features are looked for, never versions, which neither line states. What the lines do not share:

* ``BaseNode`` of 2.x takes its arguments by name, has no ``backend``, keeps ``v_seq`` outside its memories, as ours do
  on both lines, and wants a step without state: all that is in neuron/base.py;
* ``functional.set_backend``, the base of surrogates with named parameters, the text of CUDA kernels and CuPy's device
  guard are in 0.0.0.0.14 only;
* ``reset_net`` of 2.x remembers which modules it found.

Where a workaround is about 0.0.0.0.14, the note names its file and line.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

with warnings.catch_warnings():  # SpikingJelly scripts functions when imported, which torch calls deprecated
    warnings.filterwarnings("ignore", message=".*torch.jit.script", category=Warning)
    from spikingjelly.activation_based import functional, layer, neuron, surrogate
    from spikingjelly.activation_based.base import MemoryModule, MultiStepModule, StepModule
    from spikingjelly.activation_based.neuron import BaseNode

    try:
        from spikingjelly.activation_based.auto_cuda.base import CKernel2D
        from spikingjelly.activation_based.cuda_utils import DeviceEnvironment
    except ModuleNotFoundError:  # 2.x has no CuPy
        from jellyplus._kernel_text import KernelText as CKernel2D

        DeviceEnvironment = torch.cuda.device

#: The base whose shape parameters subclasses name; 0.0.0.0.14 has another one, whose only parameter is alpha.
SurrogateFunctionBase = getattr(surrogate, "MultiArgsSurrogateFunctionBase", surrogate.SurrogateFunctionBase)
#: Modules that are random in training; SpikingJelly's are no subclasses of torch's.
DROPOUTS = (torch.nn.modules.dropout._DropoutNd, layer.Dropout, layer.Dropout2d, layer.DropConnectLinear)
detach_net, set_step_mode = functional.detach_net, functional.set_step_mode

__all__ = [
    "DROPOUTS",
    "BaseNode",
    "CKernel2D",
    "DeviceEnvironment",
    "MemoryModule",
    "MultiStepModule",
    "StepModule",
    "SurrogateFunctionBase",
    "detach_net",
    "is_looked_into",
    "layer",
    "neuron",
    "reset_net",
    "set_backend",
    "set_step_mode",
    "state_without_graph",
]


def is_looked_into() -> bool:
    """Whether torch.compile, torch.export, torch.jit.trace or a transform of torch.func wants to see operations."""
    compiling = torch.compiler.is_compiling()
    return compiling or torch._C._are_functorch_transforms_active() or torch.jit.is_tracing()


def reset_net(net: nn.Module) -> None:
    """SpikingJelly's, also of modules that came after the last call."""
    if forget := getattr(functional, "invalidate_reset_cache", None):
        forget(net)
    functional.reset_net(net)


def set_backend(net: nn.Module, backend: str, instance: type | tuple[type, ...] = nn.Module) -> None:
    """Set the backend of every module that has one and is an ``instance``, as 0.0.0.0.14's function of this name does.

    Args:
        net: a network.
        backend: one of ``supported_backends`` of those modules; others warn and keep theirs.
        instance: their class or classes.

    Raises:
        ValueError: it cannot run here.
    """
    chosen: list[Any] = [m for m in net.modules() if isinstance(m, instance) and hasattr(m, "backend")]
    for module in chosen:
        if backend in module.supported_backends:
            module.backend = backend
        else:
            warnings.warn(f"{module} has no backend {backend!r} and keeps {module.backend!r}", stacklevel=2)


def state_without_graph(module: BaseNode) -> dict:
    """The attributes of a stateful module for copying and pickling, its memories cut from the autograd graph.

    ``MemoryModule`` (base.py:152) keeps the membrane potential with its graph, and torch refuses to deepcopy a
    tensor that has one: after a forward pass no SpikingJelly network could be copied.
    """
    state = module.__dict__.copy()
    state["_memories"] = {
        name: value.detach() if isinstance(value, Tensor) else value for name, value in module._memories.items()
    }
    return state
