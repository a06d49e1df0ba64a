"""What depends on SpikingJelly's line, 0.0.0.0.14: the base classes, and what they leave to us.

The node's backend property and registered memories, in neuron/base.py, depend on it too.

The notes name the file and line of SpikingJelly 0.0.0.0.14 that each workaround is about.
"""

import warnings

import torch

with warnings.catch_warnings():  # SpikingJelly scripts functions when imported, which torch calls deprecated
    warnings.filterwarnings("ignore", message=".*torch.jit.script", category=Warning)
    from spikingjelly.activation_based import layer, neuron, surrogate
    from spikingjelly.activation_based.auto_cuda.base import CKernel2D
    from spikingjelly.activation_based.base import MemoryModule, MultiStepModule, StepModule
    from spikingjelly.activation_based.cuda_utils import DeviceEnvironment
    from spikingjelly.activation_based.functional import reset_net, set_backend

BaseNode = neuron.BaseNode
#: The base with named shape parameters; the other one, ``SurrogateFunctionBase``, calls its only parameter alpha.
SurrogateFunctionBase = surrogate.MultiArgsSurrogateFunctionBase
#: Modules that are random in training; SpikingJelly's are no subclasses of torch's.
DROPOUTS = (torch.nn.modules.dropout._DropoutNd, layer.Dropout, layer.Dropout2d, layer.DropConnectLinear)

__all__ = [
    "DROPOUTS",
    "BaseNode",
    "CKernel2D",
    "DeviceEnvironment",
    "MemoryModule",
    "MultiStepModule",
    "StepModule",
    "SurrogateFunctionBase",
    "reset_net",
    "set_backend",
    "state_without_graph",
]


def state_without_graph(module: BaseNode) -> dict:
    """The attributes of a stateful module for copying and pickling, its memories cut from the autograd graph.

    ``MemoryModule`` (base.py:152) keeps the membrane potential with its graph, and torch refuses to deepcopy a
    tensor that has one: after a forward pass no SpikingJelly network could be copied.
    """
    state = module.__dict__.copy()
    state["_memories"] = {
        name: value.detach() if isinstance(value, torch.Tensor) else value for name, value in module._memories.items()
    }
    return state
