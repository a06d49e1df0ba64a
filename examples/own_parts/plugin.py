"""A node, a norm, an optimizer, a schedule, a data set, a network and a method of one's own, for recipes to name."""

from dataclasses import dataclass

import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn

from jellyplus.datasets import DataSet, Split
from jellyplus.registry import ARCHITECTURES, DATASETS, METHODS, NODES, NORMS, OPTIMIZERS, SCHEDULES
from jellyplus.training.method import Method


class AdaptiveNode(nn.Module):
    """IF with hard reset, and a threshold that each spike raises and time brings back; [T, N, *] to the same."""

    def __init__(self, v_threshold: float, rise: float, fall: float, surrogate_function):
        super().__init__()
        self.v_threshold, self.rise, self.fall = v_threshold, rise, fall
        self.surrogate_function = surrogate_function

    def forward(self, x_seq: Tensor) -> Tensor:
        v, raised, spikes = torch.zeros_like(x_seq[0]), torch.zeros_like(x_seq[0]), []
        for x in x_seq:
            v = v + x
            spikes.append(self.surrogate_function(v - self.v_threshold - raised))
            v = v * (1 - spikes[-1])
            raised = self.fall * raised + self.rise * spikes[-1]
        return torch.stack(spikes)


@NODES.register("adaptive")
def adaptive(*, v_threshold: float, surrogate_function, rise: float, fall: float, **unused) -> nn.Module:
    """Decay, reset potential and the like of a recipe mean nothing to this node, and are not read."""
    return AdaptiveNode(v_threshold, rise, fall, surrogate_function)


@NORMS.register("layer_norm")
def layer_norm(*, alpha: float, channels: int, eps: float, **unused) -> nn.Module:
    """Over channels and pixels of each image at each time-step; there are no running statistics, hence no momentum."""
    return layer.SeqToANNContainer(nn.GroupNorm(1, channels, eps))


@SCHEDULES.register("linear")
def linear(optimizer: torch.optim.Optimizer, *, epochs: int, end: float, **unused):
    """From the whole learning rate down to ``end`` of it."""
    return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, end, epochs)


@OPTIMIZERS.register("adamw")
def adamw(parameters, *, learning_rate: float, weight_decay: float, betas: tuple, **unused) -> torch.optim.Optimizer:
    """Momentum and nesterov of a recipe are not read: ``betas`` are AdamW's."""
    return torch.optim.AdamW(parameters, learning_rate, tuple(betas), weight_decay=weight_decay)


@DATASETS.register("stripes")
def stripes() -> DataSet:
    """Four classes of stripes, upright, level and in both diagonals, uint8 [n, 3, 8, 8], with noise."""
    generator = torch.Generator().manual_seed(0)
    splits = {}
    for name, examples in (("train", 400), ("test", 200)):
        labels = torch.arange(examples) % 4
        y, x = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
        place = torch.stack([x, y, x + y, x - y])[labels] + torch.randint(4, (examples, 1, 1), generator=generator)
        gray = 160 * (place % 4 < 2) + torch.randint(96, (examples, 8, 8), generator=generator)
        splits[name] = Split(gray[:, None].expand(-1, 3, -1, -1).to(torch.uint8), labels)
    facts = {"kind": "images", "stand_in": False, "mean": (), "std": (), "source": "drawn by plugin.py"}
    return DataSet("stripes", 4, **splits, **facts)


@ARCHITECTURES.register("two_layers")
def two_layers(num_classes, in_channels, width, time_steps, neuron, norm, alpha=1.0, kernel_size: int = 3) -> nn.Module:
    """[1, N, C, H, W] of images to [T, N, classes]; ``kernel_size`` is an option that a recipe states."""
    padding = kernel_size // 2

    class TwoLayers(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = layer.Conv2d(in_channels, width, kernel_size, padding=padding, step_mode="m")
            self.norm1 = norm(alpha, width)
            self.neuron1 = neuron()
            self.fc = layer.Linear(width * 64, num_classes, step_mode="m")

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm1(self.conv1(x)).expand(time_steps, -1, -1, -1, -1)
            return self.fc(self.neuron1(x).flatten(2))

    return TwoLayers()


@METHODS.register("spike_cost")
class SpikeCost(Method):
    """Adds the mean of all spikes, times a weight, to the loss; its course is recorded as ``spike_cost``."""

    @dataclass(frozen=True)
    class Settings:
        weight: float

        def __post_init__(self):
            if self.weight <= 0:
                raise ValueError(f"weight is {self.weight}; it must be positive")

    def attach(self, net: nn.Module) -> None:
        self.rates = []
        for module in net.modules():
            if isinstance(module, AdaptiveNode):
                module.register_forward_hook(self.note)

    def note(self, node: nn.Module, args: tuple, spikes: Tensor) -> None:
        if node.training:
            self.rates.append(spikes.mean())

    def loss(self) -> Tensor:
        cost = self.settings.weight * torch.stack(self.rates).mean()
        self.rates.clear()
        return cost
