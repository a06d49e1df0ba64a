"""jellyplus: training methods for deep spiking neural networks, as parts for SpikingJelly.

The names follow ``spikingjelly.activation_based``: ``neuron``, ``surrogate``, ``layer``, ``functional``, ``model``,
``monitor``; ``loss`` and ``op_counter`` are our own.
Importing costs torch and SpikingJelly and nothing more; training and reproduction import their own needs.
"""

from jellyplus import functional, layer, loss, model, monitor, neuron, op_counter, surrogate

__all__ = ["functional", "layer", "loss", "model", "monitor", "neuron", "op_counter", "surrogate"]
