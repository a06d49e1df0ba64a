"""Watching a network run."""

import functools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from jellyplus import _compat
from jellyplus._compat import layer as sj_layer
from jellyplus.monitor import Monitor, named_modules
from jellyplus.op_counter.batches import Batches
from jellyplus.op_counter.convention import Convention, OperationCount
from jellyplus.op_counter.layers import Layer, lead
from jellyplus.op_counter.tallies import Tallies, check_positive

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["OperationCounter", "energy_table"]

#: They multiply weights by inputs in ways that are not counted.
_REFUSED = (
    _ConvTransposeNd,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
    nn.Bilinear,
    sj_layer.DropConnectLinear,
)


class OperationCounter(Monitor):
    """Counts the operations of a network's convolutions and linear layers inside a with-block.

    Either step mode, plain torch layers and those in ``SeqToANNContainer``, groups, dilation, stride, any padding. A
    layer that runs several times adds up. Training passes count too, so measure with ``net.eval()``, or say so.

    Show the network whole batches: how many examples passed is read from the input of the node that runs first, in an
    ANN of the first layer. In step mode 'm' that is [T, N, *], N examples a pass. In step mode 's' it is [N, *], and
    all passes from one ``functional.reset_net`` to the next are the T time-steps of the same N examples.

    Args:
        net: any network.

    Raises:
        ValueError: a layer that is not counted: transposed convolution, torch's recurrent layers, multi-head
            attention or bilinear layer, SpikingJelly's ``DropConnectLinear``.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    >>> with torch.no_grad(), OperationCounter(net) as counter:
    ...     _ = net(torch.tensor([[1.0, 0.0, 0.0, 1.0]]))
    >>> print(counter.count())
    | layer | kind | MACs | inputs not 0 | additions | multiplications | energy (uJ) |
    |---|---|---|---|---|---|---|
    | 0 | Linear | 12 | 0.5000 | 6 | 0 | 5.4e-06 |
    | total |  | 12 | 0.5000 | 6 | 0 | 5.4e-06 |
    <BLANKLINE>
    Per example, T = 1, mean of 1: taps on the padding counted; static layers counted at every time-step; multiplying: \
layers with non-binary input; their additions counted; 0.9 pJ per addition, 4.6 pJ per multiplication.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        modules = named_modules(net)
        for name, module in modules.items():
            if isinstance(module, _REFUSED):
                raise ValueError(f"the operations of {name!r}, a {type(module).__name__}, cannot be counted")
        self._net = modules[""]
        self._layers = {name: module for name, module in modules.items() if isinstance(module, (_ConvNd, nn.Linear))}
        self._nodes = {name: module for name, module in modules.items() if isinstance(module, _compat.BaseNode)}
        self._seen: dict[str, Layer] = {}
        self._spikes: dict[str, list[int]] = {}  # of a node, and its outputs
        self._batches = Batches(spiking=bool(self._nodes))
        self._passes = self._counted = 0  # of the whole network so far, and the last whose batch is counted

    def _attach(self, attached: ExitStack) -> None:
        for name, layer in self._layers.items():
            attached.enter_context(layer.register_forward_hook(functools.partial(self._see, name)))
        for name, node in self._nodes.items():
            attached.enter_context(node.register_forward_pre_hook(functools.partial(self._arrive, name)))
            attached.enter_context(node.register_forward_hook(functools.partial(self._fire, name)))
        attached.enter_context(self._net.register_forward_pre_hook(self._begin))

    def _begin(self, net: nn.Module, inputs: tuple) -> None:
        self._passes += 1

    def _see(self, name: str, layer: _ConvNd | nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        (x,) = inputs
        if not self._nodes and self._counted < self._passes:
            self._counted = self._passes
            self._batches.add(lead(layer, x), getattr(layer, "step_mode", "s"), is_reset=True)
        self._seen.setdefault(name, Layer(type(layer).__name__)).add(layer, x, output)

    def _arrive(self, name: str, node: _compat.BaseNode, inputs: tuple[Tensor, ...]) -> None:
        """The first node has the batches; one that runs twice in a pass, in step mode 'm', has the same one again."""
        again = node.step_mode == "m" and 0 < self._passes == self._counted
        if name == next(iter(self._spikes), name) and not again:
            self._counted = self._passes
            self._batches.add(inputs[0].shape[:-1], node.step_mode, is_reset=not isinstance(node.v, Tensor))

    def _fire(self, name: str, node: _compat.BaseNode, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        counts = self._spikes.setdefault(name, [0, 0])
        counts[0] += int(torch.count_nonzero(output))
        counts[1] += output.numel()

    def count(
        self, examples: int | None = None, time_steps: int | None = None, convention: Convention | None = None
    ) -> OperationCount:
        """What has been counted so far, for one example.

        Args:
            examples: as of :meth:`measurement`.
            time_steps: likewise.
            convention: how to count; by default ``Convention()``.

        Raises:
            ValueError: as :meth:`measurement`, or the convention names a layer that did not run.
        """
        return self.measurement(examples, time_steps).count(convention)

    def measurement(self, examples: int | None = None, time_steps: int | None = None) -> Tallies:
        """What has been seen so far, under no convention.

        Args:
            examples: how many passed, over all batches. Leave it out: the network saw them, and another number is
                refused. Only a network of T > 1 whose nodes are not SpikingJelly's does not tell.
            time_steps: T; by default what the nodes saw, and 1 for an ANN. State it where a network in step mode 's'
                is not reset between batches.

        Raises:
            ValueError: no layer has run; examples or time_steps below 1, or others than the network saw; batches of
                several T; examples left out where the network does not tell.
        """
        if not self._seen:
            raise ValueError("no convolution or linear layer has run: run the network inside the with-block")
        time_steps = self._batches.time_steps() if time_steps is None else time_steps
        check_positive(1 if examples is None else examples, time_steps)
        examples = self._batches.examples(examples, time_steps)
        tallies = tuple(layer.tally(name) for name, layer in self._seen.items())
        if tallies[0].runs % examples:
            raise ValueError(
                f"the neurons saw {examples} examples and layer {tallies[0].name!r} {tallies[0].runs} inputs: show the "
                "network batches, [N, *] or [T, N, *]"
            )
        rates = {name: spikes / outputs for name, (spikes, outputs) in self._spikes.items() if outputs}
        return Tallies(tallies, examples, time_steps, self._firing_rate(), self._by_example(time_steps), rates)

    def _firing_rate(self) -> float | None:
        spikes, outputs = (sum(counts[part] for counts in self._spikes.values()) for part in (0, 1))
        return spikes / outputs if outputs else None

    def _by_example(self, time_steps: int) -> dict[str, Tensor] | None:
        sizes = self._batches.sizes(time_steps)
        if not sizes:
            return None
        found = {name: layer.by_example(sizes) for name, layer in self._seen.items()}
        known = {name: tensor for name, tensor in found.items() if tensor is not None}
        return known if len(known) == len(found) else None


def energy_table(
    net: nn.Module, inputs: Tensor | Iterable[Tensor], convention: Convention | None = None
) -> "pd.DataFrame":
    """The energy of an inference in a network, in its ANN twin, and their ratio; CSV and LaTeX by pandas' methods.

    45 nm CMOS, 0.9 pJ for an addition and 4.6 pJ for a multiplication (Li et al. 2021, Dspike, section 5.4), unless
    the convention has others. The twin, :func:`jellyplus.model.ann`, multiplies in every layer, once; see
    :meth:`Tallies.count_ann`. Its energy does not depend on its activations, so it does not run.

    Args:
        net: any network of SpikingJelly's nodes. It runs in evaluation mode without gradients, its training mode is put
            back, and it is reset before and after.
        inputs: of one call: [T, N, *] in step mode 'm', and in 's' [N, *] for a network with its own loop over
            time-steps. Of several calls: in step mode 'm' batches, as of a data loader; in 's' time-steps 1 to T of
            the same N examples, ``list(frames)`` or ``[images] * T``.
        convention: how to count; by default ``Convention()``.

    Returns:
        Means over the examples. Rows ``SNN``, ``ANN twin`` and ``ANN / SNN``, which has the energies' ratio alone;
        columns ``energy (uJ)`` and, of it, ``standard error (uJ)``, ``additions (M)``, ``multiplications (M)`` and
        ``MACs (M)``, in millions over all time-steps, ``firing rate`` (spikes per neuron and time-step) and
        ``time-steps``. Its ``attrs`` have the number of ``examples`` and the ``convention`` in words. After loops of
        one's own, ``counter.measurement().energy_table()`` of an :class:`OperationCounter` gives the same.

    Raises:
        ValueError: as :class:`OperationCounter`, or the network has no node that spikes.
        ModuleNotFoundError: pandas is not installed; ``to_latex`` needs jinja2 too.

    >>> from jellyplus.neuron import IterativeLIFNode
    >>> net = nn.Sequential(nn.Linear(2, 1, bias=False), IterativeLIFNode(step_mode="m"), nn.Linear(1, 2))
    >>> _ = nn.init.ones_(net[0].weight)
    >>> table = energy_table(net, torch.full((4, 1, 2), 0.3))  # T = 4, H = 0.6: it always fires
    >>> table["energy (uJ)"].mul(1e6).round(4).to_dict()  # 8 x 5.5 pJ and 8 x 0.9 pJ; 4 x 5.5 pJ
    {'SNN': 51.2, 'ANN twin': 22.0, 'ANN / SNN': 429687.5}
    >>> print(table.to_csv(columns=["energy (uJ)"], float_format="%.3g"), end="")
    ,energy (uJ)
    SNN,5.12e-05
    ANN twin,2.2e-05
    ANN / SNN,0.43
    """
    with torch.no_grad(), OperationCounter(net) as counter, _in_evaluation(net):
        for x in (inputs,) if isinstance(inputs, Tensor) else inputs:
            net(x)
            if all(node.step_mode == "m" for node in counter._nodes.values()):
                _compat.reset_net(net)
    return counter.measurement().energy_table(convention)


@contextmanager
def _in_evaluation(net: nn.Module) -> Iterator[None]:
    """Reset before and after, and each module's training mode as it was."""
    training = {module: module.training for module in net.modules()}
    _compat.reset_net(net.eval())
    try:
        yield
    finally:
        _compat.reset_net(net)
        for module, mode in training.items():
            module.training = mode
