"""What a network does while it runs: spike rates, membrane potentials and gradients, over any number of batches.

=========================== ====================================================================================
:class:`SpikeRate`          Zheng et al. 2021, Fig. 6 (spikes per neuron); Li et al. 2021, Fig. 4 (sparsity); Guo et
                            al. 2022, IM-Loss, Fig. 2 (spike rate of each layer)
:class:`SpikeEntropy`       Guo et al. 2022, IM-Loss, Eqs. 9 and 10 (what a layer's spikes say, in bits)
:class:`FiringRates`        Zheng et al. 2021, Fig. 4 (how the neurons' firing rates are distributed)
:class:`MembranePotential`  Guo et al. 2022, Reducing Information Loss, Fig. 5 (before and after MPR) and Table 3
                            (quantisation error); Zheng et al. 2021, Fig. 3 and Theorem 2 (variance of H and input)
:class:`GradientNorm`       Zheng et al. 2021, Fig. 2
:class:`JacobianTrace`      Zheng et al. 2021, Theorem 1 (whether a block keeps the size of gradients)
:class:`GradientHistogram`  Guo et al. 2024, shortcut back-propagation, section 4.1 (gradients of the first layer)
=========================== ====================================================================================

Each is a context manager: inside the block hooks add up what passes, of which nothing is kept; afterwards the network
is as it was. A block may be entered again, and goes on where it stopped. Nothing that is watched changes: outputs and
gradients are the same with and without.

Code that ``torch.compile`` made has no hooks in it: inside a block nothing runs compiled, whatever was compiled before
or is inside, the network, a part of it or a function that calls it. Names are those of before it was compiled.
"""

import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from statistics import fmean
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from jellyplus import _compat
from jellyplus.distribution import Distribution, Mean
from jellyplus.functional import membrane_potential_rectify
from jellyplus.layer import TDBN
from jellyplus.neuron.base import Node

__all__ = [
    "Distribution",
    "FiringRates",
    "GradientHistogram",
    "GradientNorm",
    "JacobianTrace",
    "MembranePotential",
    "Monitor",
    "Potential",
    "SpikeEntropy",
    "SpikeRate",
]


class _Uncompiled:
    """Nothing runs compiled while at least one block is open, in whatever order blocks close."""

    def __init__(self) -> None:
        self._open = 0

    def __enter__(self) -> None:
        if not self._open:
            self._stance = torch.compiler.set_stance("force_eager")  # from here on, until it exits
        self._open += 1

    def __exit__(self, *exception: object) -> None:
        self._open -= 1
        if not self._open:
            self._stance.__exit__(None, None, None)


_uncompiled = _Uncompiled()


class Monitor(ABC):
    """Hooks that live as long as a with-block, in which nothing runs compiled; subclasses say which."""

    def __init__(self) -> None:
        self._attached: ExitStack | None = None

    @abstractmethod
    def _attach(self, attached: ExitStack) -> None:
        """Put into ``attached`` what has to be undone when the block ends: hooks, and settings of the network."""

    def __enter__(self) -> Self:
        if self._attached is not None:
            raise ValueError(f"this {type(self).__name__} watches already: leave its with-block before entering again")
        with ExitStack() as attached:
            attached.enter_context(_uncompiled)
            self._attach(attached)
            self._attached = attached.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        attached, self._attached = self._attached, None
        if attached:
            attached.close()


class SpikeRate(Monitor):
    """The spike rate of every SpikingJelly node, in either step mode, on any backend.

    A spike is an output that is not zero. Nodes are named as in ``net.named_modules()``; nan where one did not run.

    Args:
        net: any network with SpikingJelly nodes, jellyplus' among them.

    Raises:
        ValueError: the network has no node.

    >>> from jellyplus.neuron import IterativeLIFNode
    >>> net = nn.Sequential(IterativeLIFNode(step_mode="m"))
    >>> with torch.no_grad(), SpikeRate(net) as monitor:
    ...     _ = net(torch.tensor([[[0.4, 1.0]], [[0.4, 1.0]]]))  # T = 2, one example, two neurons
    >>> monitor.rates
    {'0': 0.75}
    >>> monitor.spikes_per_neuron()
    {'0': 1.5}
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self._nodes = _nodes(net)
        self._means = {name: Mean() for name in self._nodes}
        self._time_steps: set[int] = set()  # of the passes in step mode 'm'

    def _attach(self, attached: ExitStack) -> None:
        for name, node in self._nodes.items():
            attached.enter_context(node.register_forward_hook(functools.partial(self._see, name)))

    def _see(self, name: str, node: nn.Module, _: tuple, spikes: Tensor) -> None:
        self._means[name].add(torch.count_nonzero(spikes).item(), spikes.numel())
        if node.step_mode == "m":
            self._time_steps.add(len(spikes))

    @property
    def rates(self) -> dict[str, float]:
        """Spikes per neuron and time-step, for each node; a mean over examples, whatever the batches' sizes."""
        return {name: mean.value for name, mean in self._means.items()}

    def spikes_per_neuron(self, time_steps: int | None = None) -> dict[str, float]:
        """Spikes of a neuron over all its time-steps, for each node (Zheng et al. 2021, Fig. 6): T times the rate.

        Args:
            time_steps: T; by default that of the passes. A node in step mode 's' does not know it.

        Raises:
            ValueError: a T that no pass in step mode 'm' had, or none is given and the passes do not tell one.
        """
        if time_steps is None and len(self._time_steps) == 1:
            (time_steps,) = self._time_steps
        if time_steps is None or time_steps not in (self._time_steps or {time_steps}):
            ran = " and ".join(map(str, sorted(self._time_steps))) or "an unknown number of"
            raise ValueError(f"time_steps is {time_steps}, and the passes had {ran} time-steps: give theirs")
        return {name: time_steps * rate for name, rate in self.rates.items()}


class SpikeEntropy(SpikeRate):
    r"""The entropy of the spikes of every SpikingJelly node, in bits: what is left of its membrane potentials.

    .. math:: I(U; O) = H(O) - H(O \mid U) = H(O) = -p \log_2 p - (1 - p) \log_2 (1 - p)

    Guo et al. 2022, IM-Loss, Eqs. 9 and 10: a spike O follows from its potential U, so nothing is uncertain given U.
    p is the layer's spike rate over time-steps, examples and neurons: H is that of the whole layer, 1 where half of
    all fire and 0 where none or all do, and not a mean over neurons or batches. Arguments and errors are
    :class:`SpikeRate`'s.

    >>> from jellyplus.neuron import IterativeLIFNode
    >>> net = nn.Sequential(IterativeLIFNode(step_mode="m"))
    >>> with torch.no_grad(), SpikeEntropy(net) as monitor:
    ...     _ = net(torch.tensor([[[0.1, 1.0]], [[0.1, 0.1]]]))  # T = 2, one example, two neurons: one spike of four
    >>> round(monitor.entropies["0"], 4)  # 1/4 * 2 + 3/4 * log2(4/3)
    0.8113
    """

    @property
    def entropies(self) -> dict[str, float]:
        """H(O) of each node in bits per neuron and time-step; nan where one did not run."""
        return {name: _entropy(rate) for name, rate in self.rates.items()}


def _entropy(p: float) -> float:
    return 0.0 if p in (0, 1) else -p * math.log2(p) - (1 - p) * math.log2(1 - p)


class FiringRates(Monitor):
    """How the firing rates of single neurons are distributed, for each node in step mode 'm' (tdBN, Fig. 4).

    A neuron's rate is its spikes over T, for one example; a layer with 0 or 1 everywhere carries little.

    Args:
        net: any network with SpikingJelly nodes.
        bin_edges: of the histograms; rates are 0 to 1.

    Raises:
        ValueError: the network has no node, or one runs in step mode 's', where no pass sees all time-steps.

    >>> from jellyplus.neuron import IterativeLIFNode
    >>> net = nn.Sequential(IterativeLIFNode(step_mode="m"))
    >>> with torch.no_grad(), FiringRates(net, [0.0, 0.5, 1.0]) as monitor:
    ...     _ = net(torch.tensor([[[0.1, 1.0]], [[0.1, 1.0]]]))  # T = 2, one example, two neurons: rates 0 and 1
    >>> monitor.distributions["0"].counts
    [1, 1]
    """

    def __init__(self, net: nn.Module, bin_edges: Sequence[float] | Tensor):
        super().__init__()
        self._nodes = _nodes(net)
        self.distributions = {name: Distribution(bin_edges) for name in self._nodes}

    def _attach(self, attached: ExitStack) -> None:
        for name, node in self._nodes.items():
            attached.enter_context(node.register_forward_hook(functools.partial(self._see, name)))

    def _see(self, name: str, node: nn.Module, _: tuple, spikes: Tensor) -> None:
        if node.step_mode != "m":
            raise ValueError(f"node {name!r} shows one time-step at a time: call functional.set_step_mode(net, 'm')")
        self.distributions[name].add((spikes.detach() != 0).float().mean(0))


class Potential:
    """The membrane potentials of one node.

    ``input``, ``before`` and ``after`` are the distributions of X, of H (before reset) and of phi(H), the rectified
    potential (MPR, Eq. 10).
    """

    def __init__(self, bin_edges: Sequence[float] | Tensor):
        self.input, self.before, self.after = (Distribution(bin_edges) for _ in range(3))
        self._error_before, self._error_after = Mean(), Mean()

    def add(self, x: Tensor, h: Tensor, v_threshold: float) -> None:
        """Count X and H of one pass, both [T, N, *]."""
        h = h.double()
        rectified, spike = membrane_potential_rectify(h), h >= v_threshold
        self.input.add(x)
        self.before.add(h)
        self.after.add(rectified)
        self._error_before.add((h - spike.double()).square().sum().item(), h.numel())
        self._error_after.add((rectified - spike.double()).square().sum().item(), h.numel())

    @property
    def error_before(self) -> float:
        """Mean of (H - o)^2: Eq. 9, the row "Before MPR" of Table 3."""
        return self._error_before.value

    @property
    def error_after(self) -> float:
        """Mean of (phi(H) - o)^2: Eq. 9, the row "After MPR" of Table 3."""
        return self._error_after.value


class MembranePotential(Monitor):
    r"""Membrane potentials before reset and their quantisation error, before and after rectification.

    .. math:: L_q = (u - o)^2, \qquad u = H \;\text{or}\; \varphi(H), \qquad o = \Theta(H - V_{th})

    Guo et al. 2022, Reducing Information Loss, Eqs. 9 and 10; phi is
    :func:`jellyplus.functional.membrane_potential_rectify`, whether the node itself rectifies or not. o is the spike
    of H in both: the paper means thresholds for which phi(H) fires too, V_th = 1/2.

    A pass inside the block stores H, and drops it again where ``store_h_seq`` was off.

    Args:
        net: with jellyplus nodes in step mode 'm'.
        bin_edges: of the three histograms, in units of membrane potential.
        names: of the nodes to watch, as in ``net.named_modules()``; all by default. Table 3 has one, the first of
            the second block.

    Raises:
        ValueError: a name that is no node's, or a node that cannot give H: another than jellyplus', or step mode 's'.

    >>> from jellyplus.neuron import IterativeLIFNode
    >>> net = nn.Sequential(IterativeLIFNode(step_mode="m"))
    >>> with torch.no_grad(), MembranePotential(net, [0.0, 0.5, 1.0]) as monitor:
    ...     _ = net(torch.tensor([[0.4], [0.9]]))  # H = 0.4 and 0.25 * 0.4 + 0.9 = 1
    >>> monitor.potentials["0"].before.counts
    [1, 1]
    >>> round(monitor.potentials["0"].error_before, 6)  # (0.4^2 + 0^2) / 2
    0.08
    """

    def __init__(self, net: nn.Module, bin_edges: Sequence[float] | Tensor, names: Iterable[str] | None = None):
        super().__init__()
        nodes = _nodes(net)
        names = list(nodes) if names is None else [original(name) for name in names]
        if unknown := [name for name in names if name not in nodes]:
            raise ValueError(f"the network has no node {unknown[0]!r}: its nodes are {', '.join(map(repr, nodes))}")
        self._nodes = {name: nodes[name] for name in names}
        self._wanted: dict[str, bool] = {}
        self.potentials = {name: Potential(bin_edges) for name in names}

    def _attach(self, attached: ExitStack) -> None:
        for name, node in self._nodes.items():
            _refuse_without_potential(name, node)
            attached.callback(setattr, node, "store_h_seq", node.store_h_seq)  # for a pass that fails half-way
            attached.enter_context(node.register_forward_pre_hook(functools.partial(self._switch_on, name)))
            attached.enter_context(node.register_forward_hook(functools.partial(self._see, name)))

    def _switch_on(self, name: str, node: Node, _: tuple) -> None:
        """Store H in this pass; another hook, IM-Loss's, may set ``store_h_seq`` anew before each one."""
        _refuse_without_potential(name, node)
        self._wanted[name] = node.store_h_seq
        node.store_h_seq = True

    def _see(self, name: str, node: Node, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        assert node.h_seq is not None, "it was asked for"
        self.potentials[name].add(inputs[0].detach(), node.h_seq.detach(), node.v_threshold)
        node.store_h_seq = self._wanted[name]
        if not node.store_h_seq:
            node.h_seq = None


class GradientNorm(Monitor):
    """The mean Euclidean norm of the weights' gradients of each convolution and linear layer (tdBN, Fig. 2).

    Every backward pass counts once, with the gradient that it adds, whatever was accumulated before and however many
    examples it is of. Zheng et al. 2021 do not say which gradient's norm Fig. 2 shows; the weights' is taken here.
    Layers are named as in ``net.named_modules()``; nan where no backward pass has come. Frozen weights are left out.

    Args:
        net: any network.

    >>> net = nn.Sequential(nn.Linear(2, 1))
    >>> with GradientNorm(net) as monitor:
    ...     net(torch.tensor([[3.0, 4.0]])).sum().backward()
    >>> monitor.norms
    {'0': 5.0}
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        layers = {name: layer for name, layer in named_modules(net).items() if isinstance(layer, (_ConvNd, nn.Linear))}
        self._weights = {name: layer.weight for name, layer in layers.items() if layer.weight.requires_grad}
        self._means = {name: Mean() for name in self._weights}

    def _attach(self, attached: ExitStack) -> None:
        for name, weight in self._weights.items():
            attached.enter_context(weight.register_hook(functools.partial(self._see, name)))

    def _see(self, name: str, grad: Tensor) -> None:
        self._means[name].add(torch.linalg.vector_norm(grad.detach(), dtype=torch.float64).item(), 1)

    @property
    def norms(self) -> dict[str, float]:
        """The mean over backward passes, for each layer."""
        return {name: mean.value for name, mean in self._means.items()}


class JacobianTrace(Monitor):
    r"""phi(J J^T) of blocks of a network, where J is the Jacobian of a block's output by its input (tdBN, Theorem 1).

    .. math:: \varphi(J J^T) = \frac{1}{m} \mathrm{E}[\mathrm{tr}(J J^T)] = \frac{1}{m} \mathrm{E} \|J^T z\|^2

    m is the number of elements of the output, z a vector of random signs (Hutchinson 1990). Where phi is near 1, the
    block keeps the size of gradients. Zheng et al. 2021 write "the expectation of tr(J)"; their Lemma 2, a quotient of
    second moments, holds for the trace over m (Chen et al. 2020).

    J is that of a whole pass, [T, N, *] by [T, N, *]. Where nothing carries over, at decay 0 and with statistics that
    are running ones, phi is the mean over time-steps and examples of the theorem's, of J at one time-step.

    Every forward pass in the block counts, by some backward passes through the blocks at once; gradients of weights,
    and the random state, stay as they are.

    Args:
        net: any network; run it with gradients enabled.
        blocks: from the output of one module to that of another, by their names in ``net.named_modules()``. Default:
            from each tdBN to the next, as in the theorem, in a network without branches.
        probes: how many z a pass. None: every unit vector in their place, which is exact and takes m backward passes.

    Raises:
        ValueError: a name that is no module's, no block, no probe, or, when the network runs: no gradients, or an
            output that does not depend on the block's input.

    >>> net = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 2))
    >>> _ = net[1].weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))  # J, whose squares are 26 in all
    >>> with JacobianTrace(net, [("0", "1")], probes=None) as monitor:
    ...     _ = net(torch.ones(1, 1))
    >>> monitor.traces
    {('0', '1'): 13.0}
    """

    def __init__(self, net: nn.Module, blocks: Iterable[tuple[str, str]] | None = None, probes: int | None = 1):
        super().__init__()
        modules = named_modules(net)
        if blocks is None:
            blocks = itertools.pairwise(name for name, module in modules.items() if isinstance(module, TDBN))
        self._blocks = [(original(start), original(end)) for start, end in blocks]
        if unknown := [name for block in self._blocks for name in block if name not in modules]:
            raise ValueError(f"the network has no module {unknown[0]!r}: see net.named_modules()")
        if not self._blocks:
            raise ValueError("the network has no two tdBN with a block between them: give blocks")
        if probes is not None and probes < 1:
            raise ValueError(f"probes is {probes}: give 1 or more, or None")
        self._modules = modules
        self._probes = probes
        self._generator = torch.Generator().manual_seed(0)
        self._starts: dict[tuple[str, str], Tensor] = {}
        self._means = {block: Mean() for block in self._blocks}

    def _attach(self, attached: ExitStack) -> None:
        attached.callback(self._starts.clear)  # for a pass that fails half-way
        for block in self._blocks:
            for name, see in zip(block, (self._see_start, self._see_end), strict=True):
                hook = self._modules[name].register_forward_hook(functools.partial(see, block))
                attached.enter_context(hook)

    def _see_start(self, block: tuple[str, str], _: nn.Module, __: tuple, output: Tensor) -> None:
        self._starts[block] = output

    def _see_end(self, block: tuple[str, str], _: nn.Module, __: tuple, output: Tensor) -> None:
        if not output.requires_grad:
            raise ValueError("Jacobians need a pass with gradients enabled, and weights that are not frozen")
        start = self._starts.pop(block, None)
        squares = [_square(block, output, start, z) for z in self._vectors(output)]
        trace = sum(squares) if self._probes is None else fmean(squares)
        self._means[block].add(trace / output.numel(), 1)

    def _vectors(self, output: Tensor) -> Iterator[Tensor]:
        if self._probes is None:
            for i in range(output.numel()):
                z = output.new_zeros(output.numel())
                z[i] = 1
                yield z.view(output.shape)
        for _ in range(self._probes or 0):
            signs = torch.randint(2, output.shape, generator=self._generator)
            yield (2 * signs - 1).to(output)

    @property
    def traces(self) -> dict[tuple[str, str], float]:
        """The mean over passes, for each block; nan where none has come."""
        return {block: mean.value for block, mean in self._means.items()}


def _square(block: tuple[str, str], output: Tensor, start: Tensor | None, z: Tensor) -> float:
    """|J^T z|^2."""
    gradient = None
    if start is not None and start.requires_grad:
        (gradient,) = torch.autograd.grad(output, start, z, retain_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError(f"the output of {block[1]!r} does not depend on that of {block[0]!r}: give other blocks")
    return torch.linalg.vector_norm(gradient, dtype=torch.float64).square().item()


class GradientHistogram(Monitor):
    """The distribution of the elements of one parameter's gradient, over all backward passes.

    Guo et al. 2024, section 4.1, show the first layer's weights. As in :class:`GradientNorm`, a backward pass counts
    with the gradient that it adds.

    Args:
        net: any network.
        name: of the parameter, as in ``net.named_parameters()``.
        bin_edges: of the histogram, in units of the gradient.

    Raises:
        ValueError: no such parameter, or a frozen one.

    >>> net = nn.Linear(2, 1)
    >>> with GradientHistogram(net, "weight", [0.0, 3.5, 7.0]) as monitor:
    ...     net(torch.tensor([[3.0, 4.0]])).sum().backward()
    >>> monitor.distribution.counts
    [1, 1]
    """

    def __init__(self, net: nn.Module, name: str, bin_edges: Sequence[float] | Tensor):
        super().__init__()
        parameters = {original(name): parameter for name, parameter in net.named_parameters()}
        parameter = parameters.get(original(name))
        if parameter is None or not parameter.requires_grad:
            raise ValueError(f"no parameter {name!r} with a gradient in the network: see net.named_parameters()")
        self._parameter = parameter
        self.distribution = Distribution(bin_edges)

    def _attach(self, attached: ExitStack) -> None:
        attached.enter_context(self._parameter.register_hook(self._see))

    def _see(self, grad: Tensor) -> None:
        self.distribution.add(grad)


def original(name: str) -> str:
    """The name of a module or parameter of before its network, or a part of it, was compiled.

    >>> original("_orig_mod.stages.0._orig_mod.conv")
    'stages.0.conv'
    """
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def named_modules(net: nn.Module) -> dict[str, nn.Module]:
    """The modules of a network, compiled or not: themselves, in place of what ``torch.compile`` wrapped them in."""
    return {original(name): module for name, module in net.named_modules()}  # what is wrapped comes last


def _nodes(net: nn.Module) -> dict[str, _compat.BaseNode]:
    nodes = {name: module for name, module in named_modules(net).items() if isinstance(module, _compat.BaseNode)}
    if not nodes:
        raise ValueError("the network has no SpikingJelly node to watch")
    return nodes


def _refuse_without_potential(name: str, node: nn.Module) -> None:
    kind = type(node).__name__
    if not isinstance(node, Node):
        raise ValueError(
            f"node {name!r}, a {kind}, does not give its potential before reset: use jellyplus.neuron, or choose names"
        )
    if node.step_mode != "m":
        raise ValueError(
            f"node {name!r} stores its potential in step mode 'm' only: call functional.set_step_mode(net, 'm')"
        )
