"""Your own SpikingJelly network, and each method of jellyplus on it.

    pip install -e ".[reproduce]"
    python examples/own_network.py [--epochs 4] [--methods tdbn dspike ...]

The first half is what you have: a residual network of SpikingJelly's layers and LIF nodes, a training loop, an
evaluation. The second half is what each method adds to it, at most three lines. All are trained on scikit-learn's
handwritten digits (1,797 images of 8 x 8), seconds each; Dspike's search takes several times as long. The table at
the end shows that everything works and what it costs; a few epochs of small digits say nothing about which method is
better.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from spikingjelly.activation_based import layer, neuron
from torch import Tensor, nn

from jellyplus import functional, loss, model, op_counter
from jellyplus.convert import convert
from jellyplus.neuron import SRIFNode
from jellyplus.surrogate import Dspike, EvAF

T = 4
BATCH = 64
HELD_OUT = 360  # images, a fifth

# --- What you have ----------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Two convolutions and a shortcut; the second node fires on the sum."""

    def __init__(self, channels: int, node: Callable[[], nn.Module]):
        super().__init__()
        self.conv1 = layer.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = layer.BatchNorm2d(channels)
        self.lif1 = node()
        self.conv2 = layer.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = layer.BatchNorm2d(channels)
        self.lif2 = node()

    def forward(self, x: Tensor) -> Tensor:
        y = self.lif1(self.norm1(self.conv1(x)))
        return self.lif2(self.norm2(self.conv2(y)) + x)


class MyNet(nn.Module):
    """Images [N, 1, 8, 8] to logits [N, 10], the mean over T time-steps."""

    def __init__(self, node: Callable[[], nn.Module] = neuron.LIFNode, channels: int = 16):
        super().__init__()
        self.conv = layer.Conv2d(1, channels, 3, padding=1, bias=False)
        self.norm = layer.BatchNorm2d(channels)
        self.lif = node()
        self.block1 = Block(channels, node)
        self.pool = layer.AvgPool2d(2)
        self.block2 = Block(channels, node)
        self.classifier = layer.Linear(channels * 4 * 4, 10)
        functional.set_step_mode(self, "m")

    def forward(self, x: Tensor) -> Tensor:
        x = self.lif(self.norm(self.conv(x.unsqueeze(0).expand(T, -1, -1, -1, -1))))
        x = self.block2(self.pool(self.block1(x)))
        return self.classifier(x.flatten(2)).mean(0)


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images in [0, 1] and labels: to train on, and held out."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return x[:-HELD_OUT], y[:-HELD_OUT], x[-HELD_OUT:], y[-HELD_OUT:]


def error(labels: Tensor, logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels)


def train(net: nn.Module, x: Tensor, y: Tensor, epochs: int, each_epoch=None, each_step=None, term=None) -> None:
    """A plain loop. ``each_epoch`` and ``each_step`` are called with their number, and ``term`` adds to the loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    batches, step = -(-len(x) // BATCH), 0
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    for epoch in range(epochs):
        if each_epoch:
            each_epoch(epoch)
        for batch in torch.randperm(len(x)).split(BATCH):
            step += 1
            if each_step:
                each_step(step, epochs * batches)
            total = error(y[batch], net(x[batch])) + (term() if term else 0)
            total.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            functional.reset_net(net)


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """In per cent."""
    found = net.eval()(x).argmax(1)
    functional.reset_net(net)
    return 100 * (found == y).double().mean().item()


# --- What each method adds: the network, and what the loop is to call -------------------------------------------------


def plain(x: Tensor, y: Tensor, epochs: int):
    """SpikingJelly's LIF nodes and surrogate, batch norm."""
    return MyNet(), {}


def tdbn(x: Tensor, y: Tensor, epochs: int):
    """Threshold-dependent batch norm for the batch norms, our nodes for SpikingJelly's."""
    net, report = convert(MyNet(), norm="scaled")
    print(report)
    return net, {}


def dspike(x: Tensor, y: Tensor, epochs: int):
    """In each epoch the temperature whose gradient is nearest to finite differences, on one batch."""
    net = MyNet(lambda: neuron.LIFNode(surrogate_function=Dspike(1.0)))
    search = lambda: functional.search_temperature(net, "conv.weight", partial(error, y[:BATCH]), x[:BATCH])
    return net, {"each_epoch": lambda epoch: functional.set_temperature(net, search().temperature)}


def esg(x: Tensor, y: Tensor, epochs: int):
    """Evolutionary surrogate gradients: K grows from epoch to epoch."""
    net = MyNet(lambda: neuron.LIFNode(surrogate_function=EvAF()))
    return net, {"each_epoch": lambda epoch: functional.set_evaf_k(net, functional.evaf_k(epoch, epochs))}


def im_loss(x: Tensor, y: Tensor, epochs: int):
    """IM-Loss of the nodes outside residual branches, which are named since the blocks are our own."""
    net = MyNet()
    return net, {"term": loss.IMLoss(net, weight=0.1, nodes=["lif", "block1.lif2", "block2.lif2"])}


def inflor(x: Tensor, y: Tensor, epochs: int):
    """Soft-reset neurons with rectified membrane potentials."""
    return MyNet(lambda: SRIFNode(rectify=True)), {}


def shortcut(x: Tensor, y: Tensor, epochs: int):
    """Branches from inside the network to its output, whose weight goes down to 0 while it trains."""
    net = model.attach_shortcuts(MyNet(), after=["lif", "block1"], num_classes=10)
    weight = lambda step, steps: net.shortcuts.weight.fill_(functional.shortcut_weight(step, steps))
    return net, {"each_step": weight}


METHODS = {method.__name__: method for method in (plain, tdbn, dspike, esg, im_loss, inflor, shortcut)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4, help="of each method (default: 4)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: all")
    options = parser.parse_args()
    x, y, held_out, labels = digits()
    rows = []
    for name in options.methods:
        torch.manual_seed(0)
        started = time.perf_counter()
        net, calls = METHODS[name](x, y, options.epochs)
        train(net.train(), x, y, options.epochs, **calls)
        seconds = time.perf_counter() - started
        net = model.remove_shortcuts(net)  # what inference runs; a network without branches is copied as it is
        energy = op_counter.energy_table(net, held_out)["energy (uJ)"]
        rows.append((name, accuracy(net, held_out, labels), seconds, energy["SNN"], energy["ANN / SNN"]))
        print(f"{name}: {rows[-1][1]:.1f} % after {options.epochs} epochs in {seconds:.0f} s", flush=True)
    titles = (
        "method",
        f"accuracy on {HELD_OUT} held-out digits (%)",
        "training (s)",
        "energy (uJ)",
        "ANN's energy / this",
    )
    print("", "| " + " | ".join(titles) + " |", "|---" * len(titles) + "|", sep="\n")
    for name, percent, seconds, microjoules, ratio in rows:
        print(f"| {name} | {percent:.1f} | {seconds:.1f} | {microjoules:.3g} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
