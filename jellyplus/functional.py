"""Functions on networks: fusing norms, less memory, finite differences, Dspike's temperature search, schedules, MPR.

``detach_net`` and ``set_step_mode`` are SpikingJelly's own; ``reset_net`` and ``set_backend`` do what its functions of
these names do in 0.0.0.0.14, on both of its lines.

``membrane_potential_rectify`` (Guo et al. 2022, Reducing Information Loss for SNNs, Eq. 10) and its derivative
``membrane_potential_rectify_gradient`` are :func:`jellyplus.neuron.rectifier.rectify` and
:func:`~jellyplus.neuron.rectifier.rectify_gradient`.
"""

import copy
import math
from collections import Counter
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from jellyplus import _compat
from jellyplus._compat import detach_net, reset_net, set_backend, set_step_mode
from jellyplus.activations import compressed_activations
from jellyplus.finite_differences import finite_difference_gradient
from jellyplus.layer import _ThresholdDependentBatchNorm
from jellyplus.neuron.rectifier import rectify as membrane_potential_rectify
from jellyplus.neuron.rectifier import rectify_gradient as membrane_potential_rectify_gradient
from jellyplus.surrogate import EvAF
from jellyplus.temperature import TemperatureSearch, search_temperature, set_temperature, temperature_candidates

__all__ = [
    "TemperatureSearch",
    "compressed_activations",
    "detach_net",
    "evaf_k",
    "finite_difference_gradient",
    "fuse_norms",
    "fuse_tdbn",
    "membrane_potential_rectify",
    "membrane_potential_rectify_gradient",
    "reset_net",
    "search_temperature",
    "set_backend",
    "set_evaf_k",
    "set_step_mode",
    "set_temperature",
    "shortcut_weight",
    "temperature_candidates",
]

# --- Fusing tdBN and other batch norms (Zheng et al. 2021, Eqs. 9 and 10) ---------------------------------------


def fuse_tdbn(net: nn.Module) -> nn.Module:
    r"""A copy of ``net`` for inference in which every tdBN has gone into the layer before it.

    .. math::
        W' = \lambda \frac{\alpha V_{th} W}{\sqrt{\sigma^2 + \epsilon}}, \qquad
        B' = \lambda \frac{\alpha V_{th} (B - \mu)}{\sqrt{\sigma^2 + \epsilon}} + \beta

    Zheng et al. 2021, Eqs. 9 and 10, with the running mean and variance. The copy is in evaluation mode and equals
    ``net.eval()`` up to rounding; a spike may flip where a membrane potential lies within rounding of V_th.

    Args:
        net: any network that ``torch.fx`` can trace, in either step mode; it is left as it is.

    Raises:
        ValueError: a tdBN whose input is not a convolution or linear layer used by it alone, or a layer whose weights
            are computed in each forward pass, as under pruning, weight norm and spectral norm.

    >>> from jellyplus.layer import ThresholdDependentBatchNorm1d
    >>> net = nn.Sequential(nn.Linear(2, 3), ThresholdDependentBatchNorm1d(1.0, 0.5, 3))
    >>> fuse_tdbn(net)[1]
    Identity()
    """
    return _fused(net, _ThresholdDependentBatchNorm)


def fuse_norms(net: nn.Module) -> nn.Module:
    """As :func:`fuse_tdbn`, and every other batch norm has gone too, whose alpha V_th is 1.

    Raises:
        ValueError: as there, for any batch norm, and for one without running statistics.

    >>> fuse_norms(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))[1]
    Identity()
    """
    return _fused(net, _BatchNorm)


def _fused(net: nn.Module, kind: type[_BatchNorm]) -> nn.Module:
    for name, module in net.named_modules():
        if not parametrize.is_parametrized(module):  # which, other than hooks, can be copied
            _check_parameters(name, module)
    fused = copy.deepcopy(net).eval()
    for norm_name, layer_name in _norms_and_their_layers(fused, kind):
        norm: Any = fused.get_submodule(norm_name)
        layer: Any = _innermost(fused.get_submodule(layer_name))
        _check_parameters(layer_name, layer)
        if norm.running_var is None:
            raise ValueError(f"cannot fuse {norm_name}: it has no running statistics")
        _fuse(layer, norm)
        parent, _, child = norm_name.rpartition(".")
        setattr(fused.get_submodule(parent), child, nn.Identity())
    return fused


class _StepTracer(fx.Tracer):
    """Sees each layer and node of SpikingJelly and jellyplus as one operation."""

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, _compat.StepModule) or super().is_leaf_module(module, qualified_name)


def _norms_and_their_layers(net: nn.Module, kind: type[_BatchNorm]) -> list[tuple[str, str]]:
    modules = dict(net.named_modules())
    calls = [node for node in _StepTracer().trace(net).nodes if node.op == "call_module"]
    times = Counter(node.target for node in calls)
    pairs = []
    for node in calls:
        if isinstance(modules[node.target], kind):
            before = node.args[0]
            alone = before.op == "call_module" and len(before.users) == 1
            if not (alone and isinstance(_innermost(modules[before.target]), (_ConvNd, nn.Linear))):
                raise ValueError(f"cannot fuse {node.target}: its input is not one layer's output used by it alone")
            if max(times[node.target], times[before.target]) > 1:
                raise ValueError(f"cannot fuse {node.target}: it or its layer runs more than once in a forward pass")
            pairs.append((node.target, before.target))
    return pairs


def _innermost(module: nn.Module) -> nn.Module:
    """The layer inside SpikingJelly's containers of one module."""
    while isinstance(module, nn.Sequential) and len(module) == 1:
        module = module[0]
    return module


def _check_parameters(name: str, layer: nn.Module) -> None:
    if isinstance(layer, (_ConvNd, nn.Linear)) and not {"weight", "bias"} <= layer._parameters.keys():
        raise ValueError(
            f"cannot fuse {name}: its weights are computed in each forward pass (pruning, weight norm, spectral norm): "
            "make them parameters first, with torch.nn.utils.prune.remove, remove_weight_norm, remove_spectral_norm or "
            "parametrize.remove_parametrizations"
        )


@torch.no_grad()
def _fuse(layer: Any, norm: Any) -> None:
    if getattr(layer, "transposed", False):
        raise ValueError("cannot fuse a norm into a transposed convolution")
    weight, shift = (1.0, 0.0) if norm.weight is None else (norm.weight, norm.bias)
    if isinstance(norm, _ThresholdDependentBatchNorm):
        weight = weight * norm.alpha * norm.v_th
    scale = weight / torch.sqrt(norm.running_var + norm.eps)
    bias = 0 if layer.bias is None else layer.bias
    layer.bias = nn.Parameter((bias - norm.running_mean) * scale + shift)
    layer.weight = nn.Parameter(layer.weight * scale.view(-1, *[1] * (layer.weight.dim() - 1)))


# --- Schedules (Guo et al. 2022, IM-Loss; Guo et al. 2024, shortcut back-propagation) ----------------------------


def evaf_k(epoch: int, epochs: int, k_min: float = 1.0, k_max: float = 10.0) -> float:
    r"""The coefficient of EvAF in an epoch.

    .. math:: K(i) = \frac{(10^{i/N} - 1) K_{max} + (10 - 10^{i/N}) K_{min}}{9}

    Guo et al. 2022 (IM-Loss), Eq. 15. i runs from 0 to N - 1 as printed, so K starts at K_min and stays below K_max.

    Args:
        epoch: i.
        epochs: N.
        k_min: K_min, 1 in the paper.
        k_max: K_max, 10 in the paper.

    >>> [round(evaf_k(i, 4), 2) for i in range(4)]
    [1.0, 1.78, 3.16, 5.62]
    """
    growth = 10 ** (epoch / epochs)
    return ((growth - 1) * k_max + (10 - growth) * k_min) / 9


def set_evaf_k(net: nn.Module, k: float) -> None:
    """Give every :class:`~jellyplus.surrogate.EvAF` in ``net`` this coefficient, in place.

    Raises:
        ValueError: k is not positive, or the network has no EvAF.

    >>> net = nn.Sequential(EvAF())
    >>> set_evaf_k(net, 2.0)
    >>> net[0].k
    tensor(2.)
    """
    if not (math.isfinite(k) and k > 0):
        raise ValueError(f"k must be a positive number, got {k}")
    found = [module for module in net.modules() if isinstance(module, EvAF)]
    if not found:
        raise ValueError("the network has no EvAF surrogate, so there is no k")
    for module in found:
        module.k.fill_(k)


def shortcut_weight(iteration: int, iterations: int, weight: float = 0.25) -> float:
    r"""The weight of the shortcut branches in a training iteration, :math:`\lambda(i) = \lambda (1 - i / I)`.

    Guo et al. 2024, Eq. 10. i runs from 1 to I as in its Algorithm 1, so the last iteration trains the main branch
    alone. (The abstract lets it change with the epoch; Eq. 10's text says iteration.)

    Args:
        iteration: i.
        iterations: I, of the whole training.
        weight: lambda, 0.25 in the paper.

    >>> [shortcut_weight(i, 4) for i in (1, 2, 3, 4)]
    [0.1875, 0.125, 0.0625, 0.0]
    """
    return weight * (1 - iteration / iterations)
