r"""The information maximisation loss, IM-Loss (Guo et al. 2022, Eqs. 11 and 12).

.. math::
    L_{IM} = \frac1L \sum_l (\bar U_l - V_{th})^2, \qquad L_{total} = L_{CE} + \lambda L_{IM}

:math:`\bar U_l` is the mean membrane potential before reset, H, of layer l over time-steps, batch and neurons. A layer
whose mean is at the threshold fires about half of the time, which is when a spike says most. As printed, the sum runs
over l = 0..L and is divided by L; here L is the number of layers summed over.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from jellyplus import _compat
from jellyplus._distributed import sum_over_processes

__all__ = ["IMLoss", "im_loss"]


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
    :class:`jellyplus.model.ResidualBlock`; for blocks of other makes pass ``nodes``.

    With several processes the means are those of the joint batch, and every process has to compute the loss; under DDP
    the gradient is that of one process with the joint batch.

    Args:
        net: any network with spiking nodes; its parameters stay its own.
        weight: lambda in Eq. 12; 2 in the paper.
        variant: ``"membrane"`` is the paper's loss: mean H against the node's own V_th. ``"spikes"`` reads spikes in
            their place: mean spike against 0.5 / T, with T time-steps. ``"official"`` is what the authors' public code
            has, against the paper: as ``"spikes"``, but the first and the last layer are left out, and of a node that
            fires on the sum of branch and shortcut it reads the input, the sum; its weight there is 0.005.
        nodes: the layers, in place of all spiking nodes outside residual branches; none of them is left out.
        per_channel: see :func:`im_loss`. The code as it was reviewed has the paper's loss so (``"membrane"``, weight 2;
            known at second hand, from a public reimplementation's first version); the later public code does not.

    Raises:
        ValueError: an unknown variant, no node, a node that is not the network's, or, for ``"membrane"``, a node that
            cannot give H, such as SpikingJelly's own; when called: a node in step mode 's', or one that has nothing
            to read, since it has not run in training, or was reset.

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
        nodes: Iterable[nn.Module] | None = None,
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
        sums = {block.neuron for block in _residual_blocks(net)} if variant == "official" else set()
        others = "h_seq" if variant == "membrane" else "spike_seq"
        self._kept = {name: "input_seq" if node in sums else others for name, node in self._nodes.items()}
        for name, node in self._nodes.items():
            if variant == "membrane" and not hasattr(node, "store_h_seq"):
                raise ValueError(
                    f"the node {name!r}, a {type(node).__name__}, cannot give its membrane potential before reset: use "
                    "a node of jellyplus.neuron, or variant='spikes'"
                )
        self._attached = [_KEEP[self._kept[name]](node) for name, node in self._nodes.items()]

    def forward(self) -> Tensor:
        """``weight`` times Eq. 11, a scalar, for the network's last forward pass."""
        sequences = [self._read(name, node) for name, node in self._nodes.items()]
        if self.variant == "membrane":
            targets = [node.v_threshold for node in self._nodes.values()]
        else:
            targets = [0.5 / len(sequence) for sequence in sequences]
        return self.weight * im_loss(sequences, targets, self.per_channel)

    def _read(self, name: str, node: nn.Module) -> Tensor:
        if node.step_mode != "m":
            raise ValueError(
                f"IM-Loss reads whole sequences and the node {name!r} is in step mode {node.step_mode!r}: use "
                "functional.set_step_mode(net, 'm')"
            )
        sequence = getattr(node, self._kept[name])
        if sequence is None:
            raise ValueError(
                f"the node {name!r} has nothing for IM-Loss to read: run the network in training mode with gradients "
                "enabled, and compute the loss before reset_net"
            )
        return sequence

    def close(self) -> None:
        """Detach from the network, whose nodes then keep what they kept before."""
        while self._attached:
            handle, node, attribute, before = self._attached.pop()
            handle.remove()
            setattr(node, attribute, before)

    def __enter__(self) -> "IMLoss":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def extra_repr(self) -> str:
        """The settings, and L."""
        how = f"variant={self.variant!r}, per_channel={self.per_channel}"
        return f"weight={self.weight}, {how}, layers={len(self._nodes)}"


def _residual_blocks(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if all(hasattr(m, part) for part in ("branch", "shortcut", "neuron"))]


def _outside_residual_branches(net: nn.Module) -> list[nn.Module]:
    exempt = {inner for block in _residual_blocks(net) for inner in block.branch.modules()}
    return [m for m in net.modules() if isinstance(m, _compat.BaseNode) and m not in exempt]


def _by_name(net: nn.Module, nodes: Iterable[nn.Module]) -> dict[str, nn.Module]:
    names = {module: name for name, module in net.named_modules()}
    nodes = list(nodes)
    if not nodes:
        raise ValueError("IM-Loss has no layer to restrict: the network has no spiking node outside residual branches")
    if foreign := [node for node in nodes if node not in names]:
        raise ValueError(f"IM-Loss was given a {type(foreign[0]).__name__} that is not a module of the network")
    return {names[node]: node for node in nodes}


# What follows hangs on the network: module-level functions, which copy and pickle with it, and touch nothing but the
# node that they are called with. Each sequence is a memory of the node, which reset_net drops.


def _keep_potentials(node: nn.Module) -> tuple:
    return node.register_forward_pre_hook(_switch_h_seq), node, "store_h_seq", node.store_h_seq


def _switch_h_seq(node: nn.Module, _: tuple) -> None:
    node.store_h_seq = node.training and torch.is_grad_enabled()


def _keep_spikes(node: nn.Module) -> tuple:
    if not hasattr(node, "spike_seq"):
        node.register_memory("spike_seq", None)
    return node.register_forward_hook(_store_spikes), node, "spike_seq", None


def _store_spikes(node: nn.Module, _: tuple, spikes: Tensor) -> None:
    node.spike_seq = spikes if node.training and torch.is_grad_enabled() else None


def _keep_inputs(node: nn.Module) -> tuple:
    if not hasattr(node, "input_seq"):
        node.register_memory("input_seq", None)
    return node.register_forward_pre_hook(_store_inputs), node, "input_seq", None


def _store_inputs(node: nn.Module, inputs: tuple) -> None:
    node.input_seq = inputs[0] if node.training and torch.is_grad_enabled() else None


_KEEP = {"h_seq": _keep_potentials, "spike_seq": _keep_spikes, "input_seq": _keep_inputs}
