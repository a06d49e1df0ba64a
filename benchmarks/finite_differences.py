"""Times the finite-difference gradient of Dspike's toy network, by separate passes and as we do it, on this CPU.

    python benchmarks/finite_differences.py [--repeats 5] [--output benchmarks/finite_differences.md]

The two-layer network of Dspike's section 4.2 (6 channels, 54 first-layer weights, T = 4), 128 images of 28x28, epsilon
0.1. First, in float64, all gradients are asserted equal to 1e-9; then all ways run in turn in float32, one round not
counted. *Ratio* is the first row's median over the row's own.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from spikingjelly.activation_based.functional import reset_net, set_backend
from torch import Tensor, nn

from jellyplus import functional, model
from jellyplus._files import write_atomically
from jellyplus.neuron import IterativeLIFNode, Node, backends
from jellyplus.surrogate import Rectangular

EPSILON = 0.1
WEIGHT = "conv1.weight"


def loss(y_seq: Tensor) -> Tensor:
    """The cross-entropy of the mean over time, against classes in turn."""
    return F.cross_entropy(y_seq.mean(0), torch.arange(y_seq.shape[1]) % y_seq.shape[2])


@torch.no_grad()
def separate_passes(net: nn.Module, x: Tensor) -> Tensor:
    """Li et al. 2021, Eq. 10, word for word: two passes of the whole network for each weight."""
    weight = net.get_parameter(WEIGHT)
    gradient = torch.empty_like(weight)
    for index in range(weight.numel()):
        was, losses = weight.view(-1)[index].clone(), []
        for sign in (1, -1):
            weight.view(-1)[index] = was + sign * EPSILON
            reset_net(net)
            losses.append(loss(net(x)))
        weight.view(-1)[index] = was
        gradient.view(-1)[index] = (losses[0] - losses[1]) / (2 * EPSILON)
    return gradient


def together(net: nn.Module, x: Tensor) -> Tensor:
    """As training does it, in contiguous tensors."""
    return functional.finite_difference_gradient(net, WEIGHT, loss, x, EPSILON)


WAYS: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], torch.memory_format]] = {
    "separate passes": (separate_passes, torch.contiguous_format),
    "finite_difference_gradient": (together, torch.contiguous_format),
    "finite_difference_gradient, channels last": (together, torch.channels_last),
}


def network(memory_format: torch.memory_format) -> nn.Module:
    """The same network, whatever its format."""
    torch.manual_seed(0)
    neuron = partial(
        IterativeLIFNode,
        decay=0.25,
        v_threshold=0.5,
        surrogate_function=Rectangular(width=1.0),
        step_mode="m",
        backend="torch",
    )
    return model.toy_cnn(time_steps=4, neuron=neuron).to(memory_format=memory_format)


def check(x: Tensor) -> None:
    """All ways give one gradient, and it says something."""
    first, *others = (way(network(memory_format).double(), x.double()) for way, memory_format in WAYS.values())
    assert first.count_nonzero() > first.numel() / 2, "most weights have no gradient"
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=1e-9)


def report(examples: int, repeats: int) -> str:
    """The table, and what it was measured on."""
    torch.manual_seed(1)
    x = torch.rand(1, examples, 1, 28, 28)
    check(x)
    backend, why = backends.choose(torch.device("cpu"))
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(1 + repeats):
        for name, (way, memory_format) in WAYS.items():
            net = network(memory_format)
            set_backend(net, backend, Node)
            started = time.perf_counter()
            way(net, x)
            taken[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values[1:]) for name, values in taken.items()}
    first = next(iter(medians.values()))
    rows = [{"way": name, "s": f"{s:.3f}", "ratio": f"{first / s:.1f}"} for name, s in medians.items()]
    head = f"# Finite differences of Dspike's toy network, {examples} images\n\n"
    head += (
        f"From `python benchmarks/finite_differences.py`: torch {torch.__version__}, {torch.get_num_threads()} "
        f"threads, neurons on `{backend}` ({why}), medians of {repeats}. Gradients equal to 1e-9 in float64.\n\n"
    )
    return head + pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--examples", type=int, default=128)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    text = report(options.examples, options.repeats)
    print(text, end="")
    if options.output:
        write_atomically(options.output, text.encode())


if __name__ == "__main__":
    sys.exit(main())
