"""Trained networks for other tools: a graph of NIR, a file of ONNX.

Their libraries are those of the extras ``nir`` and ``onnx``.
"""

from jellyplus.export.nir import to_nir
from jellyplus.export.onnx import to_onnx

__all__ = ["to_nir", "to_onnx"]
