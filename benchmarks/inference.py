"""Times inference before and after its tdBN and shortcut branches are gone, on this CPU.

    python benchmarks/inference.py [--repeats 15] [--output benchmarks/inference.md]

The ResNet-18 of the shortcut paper (CIFAR stem), width 16, T = 4, a batch of 32 images, with branches and the
statistics of one batch. First, in float64, the outputs of all forms are asserted equal to 1e-9, and different for
different images; then all forms run in turn in float32, three rounds not counted. *Ratio* is the first row's median
over the row's own.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from spikingjelly.activation_based.functional import reset_net, set_backend
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from jellyplus import functional, model
from jellyplus._files import write_atomically
from jellyplus.neuron import Node, backends

SHAPE = (1, 32, 3, 32, 32)
WARM_UP = 3
FORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "with tdBN and branches": lambda net: net,
    "branches removed": model.remove_shortcuts,
    "branches removed, tdBN fused": lambda net: functional.fuse_tdbn(model.remove_shortcuts(net)),
}


@torch.no_grad()
def run(net: nn.Module, x: Tensor) -> Tensor:
    """One inference."""
    reset_net(net)
    return net(x)


def network(width: int) -> nn.Module:
    """A network with branches that has seen one batch, so that its layers spike; its norms have something to fuse."""
    torch.manual_seed(0)
    net = model.attach_shortcuts(model.resnet18_cifar(width=width, time_steps=4))
    for norm in (module for module in net.modules() if isinstance(module, _BatchNorm)):
        norm.momentum = 1.0  # the running statistics are the batch's
        nn.init.uniform_(norm.weight, 0.8, 1.2)
        nn.init.uniform_(norm.bias, -0.1, 0.1)
    run(net, torch.rand(SHAPE))
    return net.eval()


def check(forms: dict[str, nn.Module], x: Tensor) -> None:
    """All forms compute one function, which tells images apart; the last one has neither norm nor branch."""
    plain = list(forms.values())[-1]
    assert not any(isinstance(module, (_BatchNorm, model.Shortcuts)) for module in plain.modules())
    first, *others = (run(form, x) for form in forms.values())
    assert first.std(1).max() > 0, "all images give one output"
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=1e-9)


def times(forms: dict[str, nn.Module], x: Tensor, repeats: int) -> dict[str, float]:
    """The median of each form, in ms."""
    taken = {name: [] for name in forms}
    for _ in range(WARM_UP + repeats):
        for name, form in forms.items():
            started = time.perf_counter()
            run(form, x)
            taken[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(values[WARM_UP:]) for name, values in taken.items()}


def report(width: int, repeats: int) -> str:
    """The table, and what it was measured on."""
    net = network(width).double()
    forms = {name: make(net) for name, make in FORMS.items()}
    check(forms, torch.rand(SHAPE, dtype=torch.float64))
    backend, why = backends.choose(torch.device("cpu"))
    forms = {name: form.float().to(memory_format=torch.channels_last) for name, form in forms.items()}
    for form in forms.values():
        set_backend(form, backend, Node)
    medians = times(forms, torch.rand(SHAPE), repeats)
    first = next(iter(medians.values()))
    rows = [
        {
            "form": name,
            "ms": f"{median:.1f}",
            "ratio": f"{first / median:.2f}",
            "parameters": f"{sum(p.numel() for p in forms[name].parameters()):,}",
            "norms": sum(isinstance(module, _BatchNorm) for module in forms[name].modules()),
        }
        for name, median in medians.items()
    ]
    head = f"# Inference of the CIFAR ResNet-18, width {width}, T = 4, {SHAPE[1]} images\n\n"
    head += (
        f"From `python benchmarks/inference.py`: torch {torch.__version__}, {torch.get_num_threads()} threads, neurons "
    )
    head += f"on `{backend}` ({why}), medians of {repeats}. Outputs equal to 1e-9 in float64.\n\n"
    return head + pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    text = report(options.width, options.repeats)
    print(text, end="")
    if options.output:
        write_atomically(options.output, text.encode())


if __name__ == "__main__":
    sys.exit(main())
