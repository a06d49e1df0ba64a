"""A network on the test data."""

from typing import Literal, TypeVar

import torch
from torch import nn

from jellyplus.monitor import MembranePotential, Monitor, SpikeEntropy, SpikeRate
from jellyplus.reproduction.measures.base import Curve, by_layer, equal_bins, measure, potential_curve
from jellyplus.training.classifier import Classifier
from jellyplus.training.data import DataModule

_M = TypeVar("_M", bound=Monitor)


@measure("trained")
@measure("untrained", "spike_rates_untrained")
def spike_rates(net: nn.Module, data: DataModule) -> Curve:
    """Spikes per neuron and time-step on the test data, layer by layer of neurons in the order of the network."""
    return by_layer(_on_test_data(SpikeRate(net), net, data).rates)


@measure("trained")
@measure("untrained", "spike_entropies_untrained")
def spike_entropies(net: nn.Module, data: DataModule) -> Curve:
    """Entropy of the spikes on the test data, in bits, layer by layer (Guo et al. 2022, IM-Loss, Eqs. 9 and 10)."""
    return by_layer(_on_test_data(SpikeEntropy(net), net, data).entropies)


@measure("trained")
def spikes_per_neuron(net: nn.Module, data: DataModule) -> Curve:
    """Spikes of a neuron over all time-steps on the test data, layer by layer (Zheng et al. 2021, Fig. 6)."""
    watch = _on_test_data(SpikeRate(net), net, data)
    return by_layer(watch.spikes_per_neuron(data.recipe.model.time_steps))


@measure("trained")
def layer_potentials(
    net: nn.Module, data: DataModule, *, layer: str, after: bool, low: float, high: float, bins: int
) -> Curve:
    """Density of one layer's membrane potentials on the test data, before MPR or after, and the quantisation error.

    Guo et al. 2022, InfLoR, Fig. 5 and Table 3; ``layer`` is as in ``net.named_modules()``.
    """
    watch = _on_test_data(MembranePotential(net, equal_bins(low, high, bins), [layer]), net, data)
    return potential_curve(watch.potentials[layer], after)


_SECOND_BLOCK = {"residual": "stages.0.1", "stage": "stages.1.0"}


@measure("trained")
def quantisation_error(
    net: nn.Module, data: DataModule, *, second_block: Literal["residual", "stage"] = "residual"
) -> Curve:
    """Mean quantisation error before and after MPR on the test data (Guo et al. 2022, InfLoR, Table 3).

    Of "the first layer of the second block": of the second ``residual`` block, or of the second ``stage``, which
    tdBN's Table 4 calls a block.
    """
    layer = f"{_SECOND_BLOCK[second_block]}.branch.2"
    watch = _on_test_data(MembranePotential(net, [0.0, 1.0], [layer]), net, data)
    potential = watch.potentials[layer]
    return Curve([], [], {"before": potential.error_before, "after": potential.error_after})


def _on_test_data(watch: _M, net: nn.Module, data: DataModule) -> _M:
    classifier, device = Classifier(net.eval(), data.recipe, data.order.seed), next(net.parameters()).device
    with watch, torch.no_grad():
        for x, _, _ in data.val_dataloader():
            classifier(x.to(device))
    return watch
