"""jellyplus: training methods for deep spiking neural networks, as parts for SpikingJelly.

The names follow ``spikingjelly.activation_based``: ``neuron``, ``surrogate``, ``layer``, ``functional``, ``model``,
``monitor``; ``loss`` and ``op_counter`` are our own.
Importing costs torch and SpikingJelly and nothing more; training and reproduction import their own needs.
"""

import warnings

import torch  # noqa: F401 - its own filters stay

with warnings.catch_warnings():  # SpikingJelly 0.0.0.0.14 uses torch.jit, which newer versions of torch deprecate
    warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)
    from jellyplus import functional, layer, loss, model, monitor, neuron, op_counter, surrogate

__all__ = ["functional", "layer", "loss", "model", "monitor", "neuron", "op_counter", "surrogate"]
