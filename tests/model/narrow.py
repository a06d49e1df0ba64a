"""Narrow versions of every architecture that have seen data, and how tests run them."""

import copy
import functools

import torch
from spikingjelly.activation_based import functional
from torch import nn

from jellyplus.layer import ThresholdDependentBatchNorm2d
from jellyplus.model import ARCHITECTURES
from jellyplus.neuron import IterativeLIFNode

# What keeps a narrow one small; image size 16 unless stated.
OWN = {
    "cifarnet": {"input_size": 16},
    "vgg16_diet": {"input_size": 16},
    "vgg16_imagenet": {"input_size": 32},
    "resnet17": {"input_size": 16},
    "resnet19": {"width": 8},  # its hidden linear layer has twice as many neurons
    "resnet20_diet": {"input_size": 16},
    "toy_cnn": {"input_size": 16},
}
SIZES = dict.fromkeys(ARCHITECTURES, 16) | {
    name: 32 for name in ARCHITECTURES if name.endswith("_imagenet") or name in ("vgg16_global_pool", "tdbn_resnet50")
}
RESIDUAL = [name for name in ARCHITECTURES if "resnet" in name]


def make(name, **arguments):
    return ARCHITECTURES[name](**({"num_classes": 5, "width": 4, "time_steps": 3} | OWN.get(name, {}) | arguments))


def images(name, frames=1, batch=3, seed=0):
    """In float64, [frames, batch, C, H, W]."""
    channels = 2 if name == "resnet17" else 1 if name == "toy_cnn" else 3
    shape = (frames, batch, channels, SIZES[name], SIZES[name])
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(net, x):
    functional.reset_net(net)
    with torch.no_grad():
        return net(x)


def see_data(net, x):
    """Norms off their start values, with the statistics of ``x``; in evaluation mode."""
    for norm in (m for m in net.modules() if isinstance(m, ThresholdDependentBatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.8, 1.4)
        nn.init.normal_(norm.bias, 0.1, 0.1)
        norm.momentum = 1.0
    run(net.train(), x)
    functional.reset_net(net)
    return net.eval()


@functools.cache
def _trained(name):
    torch.manual_seed(0)
    return see_data(make(name).double(), images(name, batch=6, seed=20))


def trained(name):
    return copy.deepcopy(_trained(name))


def spike_rates(net, x):
    """Mean of each node's output, in the order in which they run."""
    rates = []
    nodes = [m for m in net.modules() if isinstance(m, IterativeLIFNode)]
    handles = [node.register_forward_hook(lambda _, __, y: rates.append(y.mean().item())) for node in nodes]
    run(net, x)
    for handle in handles:
        handle.remove()
    return rates
