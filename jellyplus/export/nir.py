"""A network as a graph of the Neuromorphic Intermediate Representation (NIR)."""

import operator
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from jellyplus import _compat
from jellyplus._compat import layer
from jellyplus._extra import library
from jellyplus.convert import ScaledInputLIFNode, convert
from jellyplus.functional import _StepTracer, fuse_norms
from jellyplus.model.residual import ZeroPadding
from jellyplus.neuron import IterativeLIFNode
from jellyplus.neuron.base import Node

if TYPE_CHECKING:
    import nir

__all__ = ["to_nir"]


def to_nir(net: nn.Module, x: Tensor, dt: float = 1e-4) -> "nir.NIRGraph":
    r"""The network as a graph of NIR (Pedersen et al. 2024, Nature Communications 15, 8122); ``nir.write`` saves it.

    It is left as it is, and written as it is in evaluation mode, every batch norm fused into the layer before it.

    NIR says what neurons do in continuous time. Its LIF, :math:`\tau \dot v = v_{leak} - v + R I`, solved by Euler's
    method in time-steps of ``dt``, is our iterative LIF of decay d with hard reset, :math:`H = d V + s X + o`, where

    .. math::
        \tau = \frac{dt}{1 - d}, \qquad R = \frac{s}{1 - d}, \qquad v_{leak} = \frac{o}{1 - d}

    and without decay, d = 1, it is NIR's IF with :math:`R = s / dt`. s = 1 and o = 0 but for SpikingJelly's nodes whose
    input decays (:class:`jellyplus.convert.ScaledInputLIFNode`). The graph maps the input of one time-step to its
    output: show a static image at every time-step, and take the mean over time outside.

    Written are convolutions in one and two dimensions, linear layers, average pooling, flattening, sums of branches,
    nodes that are or become (:func:`jellyplus.convert.convert`) an iterative LIF with hard reset, and
    :class:`jellyplus.model.residual.ZeroPadding` as a convolution. All else is refused.

    NIR's neurons fire above their threshold, as ours do when ``strict``. Ours by default, SpikingJelly's and those of
    most tools fire at it too, and a graph cannot say which, nor where potentials start, which is at the reset here.
    Tools that solve the equation in another way than Euler's give other spikes.

    Args:
        net: a network that ``torch.fx`` can trace, in either step mode.
        x: an input of one time-step, [N, *]; only its shape matters.
        dt: seconds a time-step takes, which whoever reads the graph has to know. 1e-4 is what SpikingJelly 2 and
            snnTorch assume.

    Raises:
        ImportError: the extra ``nir`` is not installed.
        ValueError: NIR has no word for a layer or an operation, which is named; or as :func:`fuse_norms` does.

    >>> net = nn.Sequential(nn.Linear(2, 3), IterativeLIFNode(decay=0.5))
    >>> to_nir(net, torch.zeros(1, 2), dt=1e-3).nodes["1"].tau.tolist()
    [0.002, 0.002, 0.002]
    """
    if not dt > 0:
        raise ValueError(f"dt must be a positive number of seconds, got {dt}")
    write = _Writer(library("nir", "nir"), dt)
    traced = _traced(net, x)
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    sources: dict[fx.Node, list[str]] = {}
    for operation in traced.graph.nodes:
        module = traced.get_submodule(operation.target) if operation.op == "call_module" else None
        before = [source for given in operation.all_input_nodes for source in sources[given]]
        if isinstance(module, _PASSING) or _is_sum(operation) or _is_left_out(operation):
            sources[operation] = before
            continue
        name = _name(operation)
        if name in nodes:
            raise _refused(operation, "a network takes one input, and runs each layer once in a time-step")
        nodes[name], sources[operation] = write(operation, module), [name]
        edges += [(source, name) for source in before]
    if len({*edges}) < len(edges):
        raise ValueError(f"NIR has no word for what the network does: {_TWICE}")
    return write.nir.NIRGraph(nodes, edges)


def _traced(net: nn.Module, x: Tensor) -> fx.GraphModule:
    """The operations of one time-step, with the shapes of what they give."""
    one_step = fuse_norms(_without_containers(convert(net, norm="keep")[0])).cpu()
    _compat.set_step_mode(one_step, "s")
    traced = fx.GraphModule(one_step, _LayerTracer().trace(one_step))
    with torch.no_grad():
        one_step(x.cpu())  # an input that does not fit fails as in the network; below it would take a page
        _compat.reset_net(one_step)
        ShapeProp(traced).propagate(x.cpu())
    return traced


def _without_containers(net: nn.Module) -> nn.Module:
    """In place: those of SpikingJelly, which take a time dimension off and put it back, as plain sequences."""
    for name, child in net.named_children():
        setattr(net, name, _without_containers(child))
    return nn.Sequential(*net) if isinstance(net, _CONTAINERS) else net


_CONTAINERS = (layer.SeqToANNContainer, layer.MultiStepContainer, layer.StepModeContainer)


class _LayerTracer(_StepTracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, ZeroPadding) or super().is_leaf_module(module, qualified_name)


#: What does nothing in evaluation; DropConnect's is a linear layer.
_PASSING = (nn.Identity, *(kind for kind in _compat.DROPOUTS if kind is not layer.DropConnectLinear))


def _name(operation: fx.Node) -> str:
    """Of a layer its own, with _ for points; input and output are those of the network."""
    if operation.op in _ENDS:
        return _ENDS[operation.op]
    name = str(operation.target).replace(".", "_") if operation.op == "call_module" else operation.name
    return f"{name}_layer" if name in _ENDS.values() else name


_TWICE = "it adds a tensor to itself, which is one edge"
_ENDS = {"placeholder": "input", "output": "output"}


def _is_left_out(operation: fx.Node) -> bool:
    """Whether it is an optional input that nothing reads."""
    return operation.op == "placeholder" and not operation.users


def _is_sum(operation: fx.Node) -> bool:
    """Whether it is one of two tensors of one shape, which NIR says by two edges to one node."""
    if operation.op == "call_module" or operation.target not in (operator.add, operator.iadd, torch.add, "add", "add_"):
        return False
    shapes = {_shape(given) for given in operation.all_input_nodes}
    if len(operation.args) == 2 and operation.args[0] is operation.args[1]:
        raise _refused(operation, _TWICE)
    if len(operation.args) != 2 or operation.kwargs or not all(isinstance(given, fx.Node) for given in operation.args):
        raise _refused(operation, "it adds something else than two tensors")
    if len(shapes) > 1:
        raise _refused(operation, f"it adds tensors of shapes {', '.join(map(str, sorted(shapes)))}")
    return True


def _shape(operation: fx.Node) -> tuple[int, ...]:
    """Of one example at one time-step."""
    return tuple(operation.meta["tensor_meta"].shape[1:])


def _refused(operation: fx.Node, reason: str) -> ValueError:
    named = getattr(operation.target, "__name__", operation.target)
    return ValueError(f"NIR has no word for {named}: {reason}")


_Shape = tuple[int, ...]  # without the batch


class _NoWordError(Exception):
    """NIR has none; the message says for what."""


class _Writer:
    """What an operation is in NIR."""

    def __init__(self, nir: ModuleType, dt: float):
        self.nir = nir
        self.dt = dt

    def __call__(self, operation: fx.Node, module: nn.Module | None) -> "nir.NIRNode":
        """The node of an operation."""
        if operation.op in _ENDS:
            return self._end(operation)
        if module is None and operation.target in (torch.flatten, "flatten"):
            module = nn.Flatten(**{"start_dim": 0, "end_dim": -1} | _arguments(operation))
        elif module is None:
            raise _refused(operation, "only layers, nodes, flatten and sums are written; do the rest outside")
        try:
            return self._layer(module, _shape(operation.all_input_nodes[0]), _shape(operation))
        except _NoWordError as error:
            raise _refused(operation, str(error)) from error

    def _end(self, operation: fx.Node) -> "nir.NIRNode":
        if operation.op == "placeholder":
            return self.nir.Input(np.array(_shape(operation)))
        if not isinstance(operation.args[0], fx.Node):
            raise _refused(operation, "it is not one tensor")
        return self.nir.Output(np.array(_shape(operation.args[0])))

    def _layer(self, module: nn.Module, before: _Shape, after: _Shape) -> "nir.NIRNode":
        for kind, write in self._kinds.items():
            if isinstance(module, kind):
                return write(self, module, before, after)
        raise _NoWordError(f"{type(module).__name__} is not among what NIR has")

    def _linear(self, module: nn.Linear, before: _Shape, after: _Shape) -> "nir.NIRNode":
        if len(before) != 1:
            raise _NoWordError(f"a linear layer of the last of {len(before)} dimensions")
        weight = _numpy(module.weight)
        return self.nir.Linear(weight) if module.bias is None else self.nir.Affine(weight, _numpy(module.bias))

    def _convolution(self, module: nn.Conv1d | nn.Conv2d, before: _Shape, after: _Shape) -> "nir.NIRNode":
        if module.groups != 1 or module.padding_mode != "zeros":
            raise _NoWordError("a convolution in groups, or padded with something else than zeros")
        if len({*module.kernel_size}) > 1:
            raise _NoWordError("a kernel that is not square, of which nir (1.0.8) expects another output size")
        weight = _numpy(module.weight)
        bias = np.zeros(len(weight), weight.dtype) if module.bias is None else _numpy(module.bias)
        numbers = (module.stride, module.padding, module.dilation)
        if isinstance(module, nn.Conv2d):
            return self.nir.Conv2d(before[1:], weight, *numbers, module.groups, bias)
        single = (value if isinstance(value, str) else value[0] for value in numbers)
        return self.nir.Conv1d(before[1], weight, *single, module.groups, bias)

    def _zero_padding(self, module: ZeroPadding, before: _Shape, after: _Shape) -> "nir.NIRNode":
        weight, bias = np.eye(after[0], before[0], dtype=np.float32)[:, :, None, None], np.zeros(after[0], np.float32)
        return self.nir.Conv2d(before[1:], weight, _pair(module.stride), (0, 0), (1, 1), 1, bias)

    def _pool(self, module: nn.AvgPool2d, before: _Shape, after: _Shape) -> "nir.NIRNode":
        kernel, stride, padding = map(_pair, (module.kernel_size, module.stride, module.padding))
        sizes = zip(before[1:], kernel, stride, padding, strict=True)
        if module.ceil_mode and any((size + 2 * p - k) % s for size, k, s, p in sizes):
            raise _NoWordError("average pooling of parts of windows")
        if module.divisor_override is not None or (any(padding) and not module.count_include_pad):
            raise _NoWordError("average pooling with a divisor other than the window's size")
        return self.nir.AvgPool2d(*map(np.array, (kernel, stride, padding)))

    def _adaptive_pool(self, module: nn.AdaptiveAvgPool2d, before: _Shape, after: _Shape) -> "nir.NIRNode":
        kernel, left = np.divmod(before[1:], after[1:])
        if left.any():
            raise _NoWordError("adaptive pooling with windows of different sizes")
        return self.nir.AvgPool2d(kernel, kernel, np.array((0, 0)))

    def _flatten(self, module: nn.Flatten, before: _Shape, after: _Shape) -> "nir.NIRNode":
        first, last = (dim % (len(before) + 1) for dim in (module.start_dim, module.end_dim))
        if not first:
            raise _NoWordError("flattening of the batch")
        return self.nir.Flatten(np.array(before), first - 1, last - 1)

    def _node(self, node: Node, before: _Shape, after: _Shape) -> "nir.NIRNode":
        if type(node) not in (IterativeLIFNode, ScaledInputLIFNode):
            raise _NoWordError(f"{type(node).__name__} is no LIF with hard reset")
        if node.v_reset is None:
            raise _NoWordError("soft reset")
        scale, offset = getattr(node, "input_scale", 1.0), getattr(node, "input_offset", 0.0)
        leak = 1.0 - node.decay
        if leak < 0:
            raise _NoWordError(f"a decay of {node.decay}, which lets potentials grow")
        if offset and not leak:
            raise _NoWordError("an input offset without a leak")
        ends = np.full(after, node.v_threshold), np.full(after, node.v_reset)
        if not leak:
            return self.nir.IF(np.full(after, scale / self.dt), *ends)
        constants = (self.dt / leak, scale / leak, offset / leak)
        return self.nir.LIF(*(np.full(after, value) for value in constants), *ends)

    _kinds: ClassVar[dict[type, Callable]] = {
        nn.Linear: _linear,
        nn.Conv1d: _convolution,
        nn.Conv2d: _convolution,
        ZeroPadding: _zero_padding,
        nn.AvgPool2d: _pool,
        nn.AdaptiveAvgPool2d: _adaptive_pool,
        nn.Flatten: _flatten,
        Node: _node,
    }


def _arguments(operation: fx.Node) -> dict:
    """Of ``flatten``, by name."""
    return dict(zip(("start_dim", "end_dim"), operation.args[1:], strict=False)) | operation.kwargs


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    return height, width
