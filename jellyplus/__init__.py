"""jellyplus: training methods for deep spiking neural networks, as parts for SpikingJelly.

The names follow ``spikingjelly.activation_based``: ``neuron``, ``surrogate``, ``layer``, ``functional``, ``model``.
Importing costs torch and SpikingJelly and nothing more; training and reproduction import their own needs.
"""

from jellyplus import functional, layer, model, neuron, surrogate

__all__ = ["functional", "layer", "model", "neuron", "surrogate"]
