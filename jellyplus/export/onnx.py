"""A network as an ONNX file."""

import os
import warnings

import torch
from torch import Tensor, nn

from jellyplus._extra import library
from jellyplus._files import write_atomically
from jellyplus.convert import convert
from jellyplus.functional import set_backend

__all__ = ["to_onnx"]


def to_onnx(net: nn.Module, x: Tensor, path: str | os.PathLike) -> None:
    """Write a network with all its time-steps as one ONNX graph, from ``x`` to ``y``.

    It is left as it is, and written as it is in evaluation mode, at rest: every call of the graph starts anew. T is
    that of ``x``, N is left open. Batch norms stay unless :func:`jellyplus.functional.fuse_norms` gave the network.

    Args:
        net: in step mode 'm', of layers that ``torch.export`` can look into; SpikingJelly's IF and LIF nodes are
            converted (:func:`jellyplus.convert.convert`).
        x: an input, [T, N, *], or [1, N, *] for one of our architectures and static images; its values do not matter.
        path: of the file, which is written whole or not at all.

    Raises:
        ImportError: the extra ``onnx`` is not installed.
        OSError: the file cannot be written.
    """
    for name in ("onnx", "onnxscript"):
        library(name, "onnx")
    at_rest = convert(net, norm="keep")[0].eval().cpu()
    set_backend(at_rest, "auto")  # whose single operations can be seen
    batch = x[:, :1].cpu().expand(-1, 2, *[-1] * (x.dim() - 2))  # an N of 1 would be taken for a constant
    with warnings.catch_warnings():  # potentials are no part of the file, as they should not be
        warnings.filterwarnings("ignore", message="The tensor attributes? .* assigned during export")
        program = torch.export.export(at_rest, (batch,), dynamic_shapes=({1: torch.export.Dim("N")},))
    graph = torch.onnx.export(program, dynamo=True, input_names=["x"], output_names=["y"], verbose=False)
    assert graph is not None, "with dynamo=True it is returned"
    write_atomically(path, graph.model_proto.SerializeToString())
