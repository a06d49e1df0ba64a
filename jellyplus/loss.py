r"""The information maximisation loss, IM-Loss (Guo et al. 2022, Eqs. 11 and 12).

.. math::
    L_{IM} = \frac1L \sum_l (\bar U_l - V_{th})^2, \qquad L_{total} = L_{CE} + \lambda L_{IM}

:math:`\bar U_l` is the mean membrane potential before reset, H, of layer l over time-steps, batch and neurons. A layer
whose mean is at the threshold fires about half of the time, which is when a spike says most. As printed, the sum runs
over l = 0..L and is divided by L; here L is the number of layers summed over.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jellyplus import _compat
from jellyplus._distributed import sum_over_processes
from jellyplus.convert import Charge
from jellyplus.neuron import Node
from jellyplus.neuron.dynamics import Dynamics
from jellyplus.registry import LOSSES

__all__ = ["IMLoss", "cross_entropy", "im_loss", "read_out"]


def read_out(y_seq: Tensor) -> Tensor:
    """The input of the softmax: the mean over time of [T, N, classes], [N, classes] (Li et al. 2021, Eq. 3)."""
    return y_seq.mean(0)


@LOSSES.register("cross_entropy")
def cross_entropy(y_seq: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of what is read out of [T, N, classes], labels [N]; a scalar."""
    return F.cross_entropy(read_out(y_seq), labels)


def im_loss(sequences: Sequence[Tensor], targets: Sequence[float], per_channel: bool = False) -> Tensor:
    """Eq. 11: the mean over layers of the squared distance between a layer's mean and its target.

    With several processes a layer's mean is that over all of them, each weighted by its number of values: one
    differentiable all-reduce for all layers.

    Args:
        sequences: one [T, N, *] for each layer, or [T, N, C, *].
        targets: one for each layer: V_th, where the sequences are membrane potentials.
        per_channel: a distance for each of a layer's C channels, or features, and their mean as the layer's.

    >>> im_loss([torch.tensor([0.0, 1.0]), torch.tensor([0.0])], targets=[0.5, 1.0]).item()  # (0 + 1) / 2
    0.5
    >>> x = torch.tensor([0.0, 1.0]).view(1, 1, 2)  # one layer, two channels
    >>> im_loss([x], targets=[0.5]).item(), im_loss([x], targets=[0.5], per_channel=True).item()
    (0.0, 0.25)
    """
    parts = [_sums(x, per_channel) for x in sequences]
    sizes, sums = [len(part) for part in parts], torch.cat(parts)
    counts = [x.numel() // size for x, size in zip(sequences, sizes, strict=True)]
    totals = sum_over_processes(torch.stack([sums, _vector(counts, sizes, sums)]))
    distances = (totals[0] / totals[1] - _vector(targets, sizes, sums)).square()
    return torch.stack([layer.mean() for layer in distances.split(sizes)]).mean() if per_channel else distances.mean()


def _sums(x: Tensor, per_channel: bool) -> Tensor:
    """Of [T, N, C, *]: over all of it, [1], or over all but the channels, [C]."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.reshape(*x.shape[:3], -1).sum((0, 1, 3), dtype=dtype) if per_channel else x.sum(dtype=dtype).view(1)


def _vector(numbers: Sequence[float], sizes: Sequence[int], like: Tensor) -> Tensor:
    """Each number so many times. Filled on the device, since a GPU would wait for a copy of a list."""
    return torch.cat([like.new_full((size,), number) for number, size in zip(numbers, sizes, strict=True)])


class IMLoss(nn.Module, _compat.MultiStepModule):
    r"""IM-Loss of a network: after a forward pass of the network in training, ``IMLoss(net)()`` is the second term.

    It attaches itself to the network's nodes, which from then on keep what it reads while they train with gradients
    enabled, and nothing in evaluation or under ``torch.no_grad``. :meth:`close`, or leaving a ``with`` block, detaches
    it. A copy of the network is a network of its own and is not read.

    Layers inside residual blocks are exempt (section 4.2), since a branch tends to learn small perturbations. Which
    nodes that means the paper leaves open. Here it is those in the branch; the node that fires on the sum of branch
    and shortcut counts. A residual block is a module that has ``branch``, ``shortcut`` and ``neuron``, such as
    :class:`jellyplus.model.ResidualBlock`, or a block of SpikingJelly's own ``spiking_resnet``, ``sew_resnet`` (whose
    sums no node fires on) and ``ms_resnet``; for blocks of other makes pass ``nodes``. :attr:`nodes` and ``print`` say
    which were chosen.

    Nodes may be ours or SpikingJelly's ``IFNode`` and ``LIFNode``, whose H is charged again from input and spikes. In
    step mode 's' what was read is kept call by call from a reset on, or from the last time the loss was computed.

    With several processes the means are those of the joint batch, and every process has to compute the loss; under DDP
    the gradient is that of one process with the joint batch.

    Args:
        net: any network with spiking nodes; its parameters stay its own.
        weight: lambda in Eq. 12; 2 in the paper.
        variant: ``"membrane"`` is the paper's loss: mean H against the node's own V_th. ``"spikes"`` reads spikes in
            their place: mean spike against 0.5 / T, with T time-steps. ``"official"`` is what the authors' public code
            has, against the paper: as ``"spikes"``, but the first and the last layer are left out, and of a node that
            fires on the sum of branch and shortcut it reads the input, the sum; its weight there is 0.005.
        nodes: the layers, themselves or by name as in ``net.named_modules()``, in place of all spiking nodes outside
            residual branches; none of them is left out.
        per_channel: see :func:`im_loss`. The code as it was reviewed has the paper's loss so (``"membrane"``, weight 2;
            known at second hand, from a public reimplementation's first version); the later public code does not.

    Raises:
        ValueError: an unknown variant, no node, a node that is not the network's, or, for ``"membrane"``, another node
            of SpikingJelly's, which does not give H; when called: a node that has nothing to read, since it has not
            run in training, or was reset.

    >>> from jellyplus.neuron import IterativeLIFNode
    >>> net = nn.Sequential(IterativeLIFNode(decay=0.5, v_threshold=0.5, step_mode="m"))
    >>> loss = IMLoss(net, weight=2.0)
    >>> spikes = net(torch.tensor([[0.25], [0.125]]))  # H = 0.25, 0.5 * 0.25 + 0.125: the mean is 0.25 below V_th
    >>> loss().item()
    0.125
    """

    def __init__(
        self,
        net: nn.Module,
        weight: float = 2.0,
        variant: str = "membrane",
        nodes: Iterable[nn.Module | str] | None = None,
        per_channel: bool = False,
    ):
        super().__init__()
        if variant not in ("membrane", "spikes", "official"):
            raise ValueError(f"unknown variant {variant!r} of IM-Loss: choose 'membrane', 'spikes' or 'official'")
        self.step_mode = "m"
        self.weight = weight
        self.variant = variant
        self.per_channel = per_channel
        if nodes is None:
            nodes = _outside_residual_branches(net)
            nodes = nodes[1:-1] if variant == "official" else nodes
        # a plain dict, so that the nodes are not registered here, where their network's parameters would count twice
        self._nodes = _by_name(net, nodes)
        sums = {block.sum for block in _residual_blocks(net)} if variant == "official" else set()
        others = "h_seq" if variant == "membrane" else "spike_seq"
        self._kept = {name: "input_seq" if node in sums else others for name, node in self._nodes.items()}
        if variant == "membrane":
            for name, node in self._nodes.items():
                _check_gives_h(name, node)
        self._attached = [_attach(node, self._kept[name]) for name, node in self._nodes.items()]

    @property
    def nodes(self) -> dict[str, _compat.BaseNode]:
        """The layers whose means the loss takes, by their names in the network."""
        return dict(self._nodes)

    def forward(self) -> Tensor:
        """``weight`` times Eq. 11, a scalar, for the network's last forward pass."""
        sequences = [self._read(name, node) for name, node in self._nodes.items()]
        if self.variant == "membrane":
            targets = [node.v_threshold for node in self._nodes.values()]
        else:
            targets = [0.5 / len(sequence) for sequence in sequences]
        return self.weight * im_loss(sequences, targets, self.per_channel)

    def _read(self, name: str, node: nn.Module) -> Tensor:
        sequence = getattr(node, self._kept[name])
        if isinstance(sequence, _Steps):
            return sequence.read()
        if sequence is None:
            raise ValueError(
                f"the node {name!r} has nothing for IM-Loss to read: run the network in training mode with gradients "
                "enabled (torch.utils.checkpoint needs use_reentrant=False), and compute the loss before reset_net"
            )
        return sequence

    def close(self) -> None:
        """Detach from the network, whose nodes then keep what they kept before."""
        while self._attached:
            handles, node, attribute, before = self._attached.pop()
            for handle in handles:
                handle.remove()
            setattr(node, attribute, before)

    def __enter__(self) -> "IMLoss":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def extra_repr(self) -> str:
        """The settings, L, and which layers these are."""
        how = f"variant={self.variant!r}, per_channel={self.per_channel}"
        return f"weight={self.weight}, {how}, layers={len(self._nodes)}: {', '.join(self._nodes)}"


class _Block(NamedTuple):
    """A residual block: the modules in its branch, and the node that fires on the sum, or None."""

    branch: list[nn.Module]
    sum: nn.Module | None


#: Which of the nodes in a residual block of SpikingJelly's, in order, fires on the sum; None: none, it sums spikes.
_FIRES_ON_SUM = {
    "spiking_resnet.BasicBlock": -1,
    "spiking_resnet.Bottleneck": -1,
    "sew_resnet.BasicBlock": None,
    "sew_resnet.Bottleneck": None,
    "ms_resnet._MSBlock": 0,
}


def _residual_blocks(net: nn.Module) -> Iterator[_Block]:
    module: Any
    for module in net.modules():
        if all(hasattr(module, part) for part in ("branch", "shortcut", "neuron")):
            yield _Block(list(module.branch.modules()), module.neuron)
        elif kind := _kind_in_spikingjelly(module):
            beside = getattr(module, "downsample_sn", None)
            nodes = [node for node in module.children() if isinstance(node, _compat.BaseNode) and node is not beside]
            place = _FIRES_ON_SUM[kind]
            on_sum = None if place is None else nodes[place]
            yield _Block([node for node in nodes if node is not on_sum], on_sum)


def _kind_in_spikingjelly(module: nn.Module) -> str | None:
    """By name: to import these modules is to import torchvision."""
    names = (f"{base.__module__}.{base.__name__}" for base in type(module).__mro__)
    short = (name.removeprefix("spikingjelly.activation_based.model.") for name in names)
    return next((name for name in short if name in _FIRES_ON_SUM), None)


def _outside_residual_branches(net: nn.Module) -> list[nn.Module]:
    exempt = {inner for block in _residual_blocks(net) for inner in block.branch}
    return [m for m in net.modules() if isinstance(m, _compat.BaseNode) and m not in exempt]


def _by_name(net: nn.Module, nodes: Iterable[nn.Module | str]) -> dict[str, _compat.BaseNode]:
    modules = dict(net.named_modules())
    names = {module: name for name, module in modules.items()}
    nodes = list(nodes)
    if not nodes:
        raise ValueError("IM-Loss has no layer to restrict: the network has no spiking node outside residual branches")
    for node in nodes:
        if node not in names and node not in modules:
            what = f"module {node!r}" if isinstance(node, str) else f"{type(node).__name__} given in nodes"
            raise ValueError(f"the network has no {what}: choose from net.named_modules()")
    named = {names.get(node, node): modules[names.get(node, node)] for node in nodes}
    for name, module in named.items():
        if not isinstance(module, _compat.BaseNode):
            raise ValueError(f"the module {name!r}, a {type(module).__name__}, is no spiking node")
    return named


def _check_gives_h(name: str, node: nn.Module) -> None:
    if isinstance(node, Node):
        return
    try:
        Charge.of(node)
    except ValueError as error:
        raise ValueError(
            f"the node {name!r}, a {type(node).__name__}, does not give its membrane potential before reset ({error}): "
            "use a node of jellyplus.neuron, or variant='spikes'"
        ) from error


# What follows hangs on the network: module-level functions, which copy and pickle with it, and touch nothing but the
# node that they are called with. What is kept is a memory of the node, which reset_net drops: [T, N, *] in step mode
# 'm', in 's' the steps one by one.


class _Steps(list):
    """One tensor a call; a copy begins anew, since the graph stays with the network that made it."""

    was_read = False

    def read(self) -> Tensor:
        self.was_read = True
        return torch.stack(self)

    def __reduce__(self) -> tuple:
        return _Steps, ()


def _attach(node: _compat.BaseNode, kept: str) -> tuple:
    """The hooks that keep it, the node, and the attribute that is to be restored when they go."""
    if kept == "h_seq" and isinstance(node, Node):
        return (node.register_forward_pre_hook(_keep_h_of_ours),), node, "store_h_seq", node.store_h_seq
    hooks = {
        "h_seq": ((_begin_h,), (_end_h,)),
        "spike_seq": ((), (_keep_spikes,)),
        "input_seq": ((_keep_inputs,), ()),
    }
    for memory in (kept, "start_v") if kept == "h_seq" else (kept,):
        if not hasattr(node, memory):
            node.register_memory(memory, None)
    before, after = hooks[kept]
    handles = (*map(node.register_forward_pre_hook, before), *map(node.register_forward_hook, after))
    return handles, node, kept, None


def _keeps(node: _compat.BaseNode) -> bool:
    return node.training and torch.is_grad_enabled()


def _keep(node: _compat.BaseNode, kept: str, value: Tensor | None) -> None:
    held: Tensor | _Steps | None = value
    if not _keeps(node):
        held = None
    elif node.step_mode == "s":
        steps = getattr(node, kept)
        held = steps if isinstance(steps, _Steps) and not steps.was_read else _Steps()
        held.append(value)
    setattr(node, kept, held)


def _keep_h_of_ours(node: Node, inputs: tuple) -> None:
    node.store_h_seq = _keeps(node)
    if node.step_mode == "s":
        _keep(node, "h_seq", node.charge(inputs[0], node.v) if _keeps(node) else None)


def _begin_h(node: _compat.BaseNode, inputs: tuple) -> None:
    if node.step_mode == "s" and _keeps(node):
        dynamics, scale, offset = _terms(node)
        _keep(node, "h_seq", dynamics.charge(scale * inputs[0] + offset, node.v))
    node.start_v = node.v


def _end_h(node: _compat.BaseNode, inputs: tuple, spikes: Tensor) -> None:
    v, node.start_v = node.start_v, None
    if node.step_mode == "s" and _keeps(node):
        return
    sequence = _h_sequence(node, inputs[0], spikes, v) if _keeps(node) else None
    _keep(node, "h_seq", sequence)


def _h_sequence(node: _compat.BaseNode, x_seq: Tensor, spikes: Tensor, v: Tensor | float) -> Tensor:
    """H of one of SpikingJelly's nodes, [T, N, *], from what went in and what came out, whatever backend ran it."""
    (dynamics, scale, offset), sequence = _terms(node), []
    for x, spike in zip(scale * x_seq + offset, spikes, strict=True):
        h = dynamics.charge(x, v)
        v = dynamics.reset(h, spike)
        sequence.append(h)
    return torch.stack(sequence)


def _terms(node: _compat.BaseNode) -> tuple[Dynamics, float, float]:
    """One of SpikingJelly's nodes as ours: its constants, and the factor on its input and what is added to that."""
    decay, scale, offset = Charge.of(node)
    constants = (decay, node.v_threshold, node.v_reset, node.detach_reset)
    return Dynamics(*constants, spike_size=node.v_threshold, rectify=False), scale, offset


def _keep_spikes(node: _compat.BaseNode, _: tuple, spikes: Tensor) -> None:
    _keep(node, "spike_seq", spikes)


def _keep_inputs(node: _compat.BaseNode, inputs: tuple) -> None:
    _keep(node, "input_seq", inputs[0])
