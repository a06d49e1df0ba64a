"""What compressed activations save and cost in a training step, on this CPU.

    python benchmarks/activations.py [--repeats 15] [--output benchmarks/activations.md]

Networks of width 16 with tdBN, T = 4, a batch of 32 images of 32x32, each side in turn, three rounds not counted.
Beside them torch's activation checkpointing of each block of stages, which keeps their inputs alone and runs them a
second time. Gradients are asserted equal, bit for bit. *Kept* is what the forward pass has allocated and not given
back when it ends, by glibc's own count: what the backward pass will need. *Ratio* is the first row's over its own.
"""

import argparse
import contextlib
import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jellyplus import functional, model
from jellyplus._files import write_atomically
from jellyplus.neuron import Node, backends

NETWORKS = {"ResNet-18": model.resnet18_cifar, "ResNet-19": model.resnet19, "CIFARNet": model.cifarnet}
WARM_UP = 3


class Checkpointed(nn.Module):
    """A part whose activations are not kept."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.part, x, use_reentrant=False)


class Side(NamedTuple):
    """A network and what its forward pass runs in."""

    net: nn.Module
    context: Callable[[], contextlib.AbstractContextManager]

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        functional.reset_net(self.net)
        self.net.zero_grad()
        with self.context():
            return F.cross_entropy(self.net(x).mean(0), labels)


def sides(make: Callable[..., nn.Module], width: int) -> dict[str, Side]:
    """Of one network, with equal weights."""
    torch.manual_seed(0)
    net = make(width=width, time_steps=4).to(memory_format=torch.channels_last)
    backend, _ = backends.choose(torch.device("cpu"))
    functional.set_backend(net, backend, Node)
    stages = make(width=width, time_steps=4).to(memory_format=torch.channels_last)
    stages.load_state_dict(net.state_dict())
    functional.set_backend(stages, backend, Node)
    stages.stages = nn.Sequential(*map(Checkpointed, stages.stages))
    return {
        "as it is": Side(net, contextlib.nullcontext),
        "compressed activations": Side(net, functional.compressed_activations),
        "stages checkpointed": Side(stages, contextlib.nullcontext),
    }


def gradients(side: Side, x: Tensor, labels: Tensor) -> list[Tensor]:
    side.loss(x, labels).backward()
    return [parameter.grad.clone() for parameter in side.net.parameters()]


class _Mallinfo(ctypes.Structure):
    """Of glibc 2.33 and later; ``uordblks`` and ``hblkhd`` are the bytes in use, in its arenas and in maps."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd"))
    _fields_ += tuple((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"))


def _in_use() -> int:
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Mallinfo
    info = libc.mallinfo2()
    return info.uordblks + info.hblkhd


def kept(side: Side, x: Tensor, labels: Tensor) -> float:
    """MiB."""
    functional.reset_net(side.net)
    side.net.zero_grad()
    before = _in_use()
    loss = side.loss(x, labels)
    after = _in_use()
    del loss
    return (after - before) / 2**20


def times(compared: dict[str, Side], step: Callable[[Side], object], repeats: int) -> dict[str, float]:
    """The median of each side, in ms."""
    taken = {name: [] for name in compared}
    for _ in range(WARM_UP + repeats):
        for name, side in compared.items():
            started = time.perf_counter()
            step(side)
            taken[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(values[WARM_UP:]) for name, values in taken.items()}


def rows(name: str, make: Callable[..., nn.Module], width: int, batch: int, repeats: int) -> list[dict[str, str]]:
    """Of one network.

    Raises:
        AssertionError: a side has other gradients.
    """
    compared = sides(make, width)
    data = {"x": torch.rand(1, batch, 3, 32, 32), "labels": torch.randint(10, (batch,))}
    plain, *others = (gradients(side, **data) for side in compared.values())
    for other in others:
        assert all(map(torch.equal, plain, other)), f"{name}: gradients differ"
    mebibytes = {side: kept(compared[side], **data) for side in compared}
    medians = times(compared, partial(gradients, **data), repeats)
    first = next(iter(compared))
    return [
        {
            "network": name,
            "side": side,
            "kept (MiB)": f"{mebibytes[side]:.1f}",
            "kept ratio": f"{mebibytes[first] / mebibytes[side]:.2f}",
            "step (ms)": f"{medians[side]:.1f}",
            "time ratio": f"{medians[first] / medians[side]:.2f}",
        }
        for side in compared
    ]


def report(width: int, batch: int, repeats: int) -> str:
    """The table, and what it was measured on."""
    measured = [row for name, make in NETWORKS.items() for row in rows(name, make, width, batch, repeats)]
    backend, why = backends.choose(torch.device("cpu"))
    head = f"# What a training step keeps, width {width}, T = 4, {batch} images\n\n"
    head += f"From `python benchmarks/activations.py`: torch {torch.__version__}, {torch.get_num_threads()} threads, "
    head += f"neurons on `{backend}` ({why}), medians of {repeats}. Gradients equal, bit for bit.\n\n"
    return head + pd.DataFrame(measured).to_markdown(index=False, disable_numparse=True) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    text = report(options.width, options.batch, options.repeats)
    print(text, end="")
    if options.output:
        write_atomically(options.output, text.encode())


if __name__ == "__main__":
    sys.exit(main())
