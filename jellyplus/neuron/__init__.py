"""Spiking neuron nodes: subclasses of SpikingJelly's ``BaseNode`` that run a whole sequence at once."""

from jellyplus.neuron.base import Node
from jellyplus.neuron.iterative_lif import IterativeLIFNode
from jellyplus.neuron.srif import SRIFNode

__all__ = ["IterativeLIFNode", "Node", "SRIFNode"]
