r"""A network of SpikingJelly's nodes and batch norms as one of ours, with equal outputs.

SpikingJelly's ``LIFNode`` (activation_based/neuron.py:690-750 in 0.0.0.0.14) charges

.. math:: H[t] = V[t-1] - \frac{V[t-1] - V_{reset}}{\tau} + X[t]
    = \left(1 - \frac1\tau\right) V[t-1] + \left(X[t] + \frac{V_{reset}}{\tau}\right)

or, with ``decay_input=True``, with :math:`X / \tau` for X. So it is our iterative LIF, its decay :math:`1 - 1/\tau`,
whose input is scaled and shifted: potentials, thresholds and the argument of the surrogate all stay as they were. (A
threshold of :math:`\tau V_{th}` in place of the scale would keep the spikes, but not the surrogate gradient.)
``IFNode`` has the decay 1, ``v_reset=None`` means :math:`V_{reset} = 0` above, and firing and reset are the same.
"""

import copy
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from jellyplus import _compat
from jellyplus import layer as ours
from jellyplus.neuron import IterativeLIFNode, Node, backends, multistep

__all__ = ["Charge", "Report", "ScaledInputLIFNode", "convert"]

_NORMS = {
    _compat.layer.BatchNorm2d: ours.ThresholdDependentBatchNorm2d,
    _compat.layer.BatchNorm3d: ours.ThresholdDependentBatchNorm3d,
}
_NODES = (_compat.neuron.IFNode, _compat.neuron.LIFNode)
#: What a subclass may define and still be the node that it was.
_HARMLESS = {
    "__annotations__",
    "__dict__",
    "__doc__",
    "__init__",
    "__module__",
    "__repr__",
    "__weakref__",
    "extra_repr",
}


class Report(NamedTuple):
    """What :func:`convert` changed, and what it left; ``print`` shows both.

    Attributes:
        changed: by the module's name, what it became.
        unchanged: by the module's name, why it stayed; SpikingJelly's nodes and batch norms alone are named.
    """

    changed: dict[str, str]
    unchanged: dict[str, str]

    def __str__(self) -> str:
        """One line a module."""
        parts = (("changed", self.changed), ("left as it was", self.unchanged))
        return "\n".join(line for title, found in parts for line in _lines(title, found))


class ScaledInputLIFNode(IterativeLIFNode):
    """An iterative LIF whose input X is ``input_scale * X + input_offset``; the other arguments are its own.

    SpikingJelly's ``LIFNode`` where ``decay_input=True`` or ``v_reset`` is neither 0 nor None.

    >>> node = ScaledInputLIFNode(0.5, 0.0, decay=0.5, v_threshold=1.0)  # LIFNode(tau=2.0)
    >>> node(torch.tensor([1.5, 2.5])).tolist()
    [0.0, 1.0]
    """

    def __init__(self, input_scale: float, input_offset: float, **arguments: Any):
        super().__init__(**arguments)
        self.input_scale = input_scale
        self.input_offset = input_offset

    def multi_step_forward(self, x_seq: Tensor, *run: multistep.Run) -> Tensor:
        """X to S, both [T, N, *]."""
        return super().multi_step_forward(self._scaled(x_seq), *run)

    def charge(self, x: Tensor, v: Tensor | float) -> Tensor:
        """H[t] from X[t], which is scaled and shifted, and V[t-1]."""
        return super().charge(self._scaled(x), v)

    def _scaled(self, x: Tensor) -> Tensor:
        return x * self.input_scale + self.input_offset if self.input_offset else x * self.input_scale

    def extra_repr(self) -> str:
        """The scale and the offset, then the base's line."""
        return f"input_scale={self.input_scale}, input_offset={self.input_offset}, {super().extra_repr()}"


def convert(
    net: nn.Module, norm: str = "equal", alpha: float = 1.0, v_th: float | None = None
) -> tuple[nn.Module, Report]:
    r"""A copy of ``net`` with our nodes for SpikingJelly's IF and LIF nodes, and tdBN for its batch norms.

    Outputs, membrane potentials and gradients are equal up to rounding; a spike may flip where a potential lies within
    rounding of its threshold. In evaluation SpikingJelly 0.0.0.0.14's nodes have no gradient, and ours have. Kept are
    thresholds, resets, surrogate functions, step modes, ``store_v_seq`` (ours store it in step mode 's' too),
    backends that can run here, training modes, hooks, the sharing of modules, types and devices, and the names in the
    state dict. The copy starts as after ``reset_net``.

    What stays as it was is named in the report, with the reason: other nodes (``ParametricLIFNode`` learns its tau),
    subclasses that override the dynamics, and batch norms that tdBN is not equal to: those in step mode 's', which
    normalise every time-step by itself, those without weights or running statistics, and torch's own, of which only
    the code that calls them knows what they are given.

    Args:
        net: any network; it is left as it is.
        norm: ``"equal"`` divides each batch norm's weight by alpha V_th, which tdBN multiplies by: equal outputs, and
            the gradient of that weight times alpha V_th. ``"scaled"`` keeps the weight, so that outputs are alpha V_th
            times what they were, where tdBN starts (Zheng et al. 2021, Eq. 7). ``"keep"`` keeps the batch norms.
        alpha: of every tdBN.
        v_th: of every tdBN; None takes the threshold of the nodes, where all have the same one.

    Returns:
        The copy, and what was changed and what was not.

    Raises:
        TypeError: ``net`` is no ``nn.Module``.
        ValueError: ``norm`` is unknown, ``alpha`` or ``v_th`` is not positive, or ``net`` was compiled, scripted or
            wrapped for several processes.

    >>> from spikingjelly.activation_based import layer, neuron
    >>> net = nn.Sequential(layer.Linear(2, 3), neuron.LIFNode(tau=4.0), neuron.ParametricLIFNode())
    >>> converted, report = convert(net)
    >>> print(report)
    changed: 1 module
      1: LIFNode -> ScaledInputLIFNode, decay 0.75, input times 0.25
    left as it was: 1 module
      2: ParametricLIFNode: only IFNode and LIFNode have an equal here
    """
    _check(net, norm, alpha, v_th)
    memo, report = _memo_of_states(net), Report({}, {})
    nodes = _convert_nodes(net, memo, report)
    norms = _convert_norms(net, report, norm, alpha, _threshold(net) if v_th is None else v_th)
    pairs: list[tuple[nn.Module, nn.Module]] = [*nodes, *norms]
    memo |= {id(old): new for old, new in pairs}
    for old, new in pairs:
        _carry_over(old, new, memo)
    if norm == "equal":
        for _, norm_of_ours in norms:
            _divide_weight(norm_of_ours)
    converted = copy.deepcopy(net, memo)
    _compat.reset_net(converted)
    return converted, report


def _check(net: nn.Module, norm: str, alpha: float, v_th: float | None) -> None:
    if not isinstance(net, nn.Module):
        raise TypeError(f"convert takes a network, a torch.nn.Module, got {type(net).__name__}")
    if norm not in ("equal", "scaled", "keep"):
        raise ValueError(f"norm must be 'equal', 'scaled' or 'keep', got {norm!r}")
    for name, value in {"alpha": alpha, "v_th": 1.0 if v_th is None else v_th}.items():
        if not (_is_number(value) and value > 0):
            raise ValueError(f"{name} must be a positive number, got {value!r}")
    wrappers = (torch.jit.ScriptModule, nn.DataParallel, nn.parallel.DistributedDataParallel)
    if isinstance(net, wrappers) or hasattr(net, "_orig_mod"):
        raise ValueError(f"the network is wrapped in a {_kind(net)}: convert it before it is compiled or distributed")


# --- Nodes ------------------------------------------------------------------------------------------------------


def _convert_nodes(net: nn.Module, memo: dict, report: Report) -> list[tuple[nn.Module, Node]]:
    found = []
    for name, old in net.named_modules():
        if not _is_node(old):
            continue
        if reason := _obstacle(old):
            report.unchanged[_shown(name)] = f"{_kind(old)}: {reason}"
            continue
        new, backend_note = _node(old, memo)
        report.changed[_shown(name)] = f"{_kind(old)} -> {_kind(new)}, decay {new.decay:.6g}{_drive(new)}{backend_note}"
        found.append((old, new))
    return found


def _is_node(module: nn.Module) -> bool:
    """SpikingJelly's, or made from it."""
    of_theirs = type(module).__module__.startswith("spikingjelly.activation_based.neuron")
    return (isinstance(module, _compat.BaseNode) or of_theirs) and not isinstance(module, Node)


def _obstacle(old: nn.Module) -> str | None:
    """Why a node cannot be converted."""
    base = next((base for base in _NODES if isinstance(old, base)), None)
    if base is None:
        return "only IFNode and LIFNode have an equal here"
    bodies = type(old).__mro__[: type(old).__mro__.index(base)]
    defined = {name for body in bodies for name in vars(body) if hasattr(base, name)}
    patched = {name for name in _own_attributes(old) if hasattr(type(old), name)}
    if overridden := (defined - _HARMLESS) | patched:
        return f"it overrides {', '.join(sorted(overridden))} of {base.__name__}, and may be another neuron"
    if old._parameters or old._buffers or old._modules.keys() - {"surrogate_function"}:
        return "it has parameters, buffers or layers of its own"
    if not all(_is_number(getattr(old, name, 2.0)) for name in ("tau", "v_threshold")):
        return "its tau or threshold is no number"
    if not getattr(old.surrogate_function, "spiking", True):
        return "its surrogate has spiking=False, which SpikingJelly 0.0.0.0.14 heeds in training only"
    return None


class Charge(NamedTuple):
    """How one of SpikingJelly's nodes charges, in our terms.

    Attributes:
        decay: factor on the potential of the time-step before.
        scale: factor on the input.
        offset: what is added to it.
    """

    decay: float
    scale: float
    offset: float

    @classmethod
    def of(cls, node: _compat.BaseNode) -> "Charge":
        """Of an ``IFNode`` or ``LIFNode``.

        Raises:
            ValueError: another node, or one that is changed; the message says why it has no equal here.
        """
        if reason := _obstacle(node):
            raise ValueError(reason)
        tau = getattr(node, "tau", math.inf)  # without a leak
        scale = 1 / tau if getattr(node, "decay_input", False) else 1.0
        return cls(1 - 1 / tau, scale, (node.v_reset or 0.0) / tau)


def _node(old: _compat.BaseNode, memo: dict) -> tuple[Node, str]:
    """Ours, and what is to be said about its backend."""
    decay, scale, offset = Charge.of(old)
    arguments: dict[str, Any] = {"decay": decay, "surrogate_function": copy.deepcopy(old.surrogate_function, memo)}
    kept = ("v_threshold", "v_reset", "detach_reset", "step_mode", "store_v_seq")
    arguments |= {name: getattr(old, name) for name in kept}
    new = IterativeLIFNode(**arguments) if (scale, offset) == (1, 0) else ScaledInputLIFNode(scale, offset, **arguments)
    if getattr(old, "backend", "torch") == "torch":  # what SpikingJelly runs unless asked for another
        return new, ""
    try:
        backends.engine(old.backend, new.surrogate_function, new.dynamics)
        new.backend = old.backend
    except ValueError as error:
        return new, f", backend 'auto' since {error}"
    return new, ""


def _drive(node: Node) -> str:
    """How the input is changed, for the report."""
    if not isinstance(node, ScaledInputLIFNode):
        return ""
    offset = f" plus {node.input_offset:.6g}" if node.input_offset else ""
    return f", input times {node.input_scale:.6g}{offset}"


def _threshold(net: nn.Module) -> float | None:
    """Of all nodes; None where they have several, or none."""
    found = {node.v_threshold for node in net.modules() if isinstance(node, _compat.BaseNode)}
    return found.pop() if len(found) == 1 else None


# --- Batch norms ------------------------------------------------------------------------------------------------


def _convert_norms(
    net: nn.Module, report: Report, norm: str, alpha: float, v_th: float | None
) -> list[tuple[_BatchNorm, ours._ThresholdDependentBatchNorm]]:
    found = []
    for name, old in net.named_modules():
        if not isinstance(old, _BatchNorm) or isinstance(old, ours._ThresholdDependentBatchNorm):
            continue
        if reason := "norm='keep'" if norm == "keep" else _norm_obstacle(old, v_th):
            report.unchanged[_shown(name)] = f"{_kind(old)}: {reason}"
            continue
        assert v_th is not None, "or it would have been an obstacle"
        new = _NORMS[type(old)](alpha, v_th, old.num_features)
        scaled = "weight divided by" if norm == "equal" else "output times"
        report.changed[_shown(name)] = f"{_kind(old)} -> {_kind(new)}, {scaled} alpha V_th = {alpha * v_th:.6g}"
        found.append((old, new))
    return found


def _norm_obstacle(old: nn.Module, v_th: float | None) -> str | None:
    """Why a batch norm cannot be converted."""
    if type(old) not in _NORMS:
        return "only SpikingJelly's layer.BatchNorm2d and 3d are known to be given sequences, as tdBN is"
    if old.step_mode == "s":
        return "in step mode 's' it normalises each time-step by itself: set_step_mode(net, 'm') before converting"
    if old.weight is None or old.running_mean is None:
        return "it has no weights or no running statistics (affine, track_running_stats), and tdBN has both"
    if v_th is None:
        return "the nodes have no one threshold: give v_th"
    return None


def _divide_weight(norm: ours._ThresholdDependentBatchNorm) -> None:
    weight, factor = norm.weight, norm.alpha * norm.v_th
    if factor != 1:
        norm.weight = nn.Parameter(weight.detach() / factor, weight.requires_grad)


# --- What both carry over ---------------------------------------------------------------------------------------


def _memo_of_states(net: nn.Module) -> dict:
    """For deepcopy, which takes no tensor with a graph: potentials left by a pass, weights under weight norm."""
    tensors = (t for module in net.modules() for t in (*vars(module).values(), *_memories(module)))
    return {id(t): t.detach().clone() for t in tensors if isinstance(t, Tensor) and not t.is_leaf}


def _memories(module: nn.Module) -> Iterable[object]:
    return module._memories.values() if isinstance(module, _compat.MemoryModule) else ()


def _carry_over(old: nn.Module, new: nn.Module, memo: dict) -> None:
    """Hooks, training mode and, of a norm all that it has, of a node what its user gave it."""
    if isinstance(old, _BatchNorm):
        names = set(vars(old))
    else:
        names = {name for name in vars(old) if "_hooks" in name or name == "training"} | _own_attributes(old)
    vars(new).update(copy.deepcopy({name: vars(old)[name] for name in names}, memo))


def _own_attributes(old: nn.Module) -> set[str]:
    """Those that SpikingJelly's node of its class does not have."""
    base = next(base for base in _NODES if isinstance(old, base))
    return vars(old).keys() - vars(base(store_v_seq=True)).keys()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(name: str) -> str:
    return name or "the network itself"


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def _lines(title: str, found: dict[str, str]) -> list[str]:
    count = f"{len(found)} module" + "s" * (len(found) != 1)
    return [f"{title}: {count}", *(f"  {name}: {text}" for name, text in found.items())]
