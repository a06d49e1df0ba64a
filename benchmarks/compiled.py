"""What torch.compile gives on this CPU: a training step eager and compiled, and every architecture checked.

    OMP_NUM_THREADS=1 python benchmarks/compiled.py [--widths 16 64] [--repeats 9] [--output benchmarks/compiled.md]

First every architecture, narrow, becomes one graph (``fullgraph=True``) in training and in evaluation with each backend
that runs here: outputs, gradients and buffers are asserted equal to the eager network's, in float64 where the backend
has it and to 1e-4 of the largest number in float32. Then a training step of the CIFAR ResNet-18 (T = 2) is timed, all
forms in turn, three rounds not counted; ReLU in place of the neurons beside them. *Ratio* is the eager network's median
with ``backend="auto"`` over the row's own; *first step* holds the compilation. It needs a C++ compiler.
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from jellyplus import functional, model
from jellyplus._files import write_atomically
from jellyplus.neuron import backends

WARM_UP = 3
BATCH = 32
FORMS = {
    "spiking, auto": ("auto", False),
    "spiking, torch": ("torch", False),
    "spiking, auto, compiled": ("auto", True),
    "spiking, cpp, compiled": ("cpp", True),
    "ReLU": (None, False),
    "ReLU, compiled": (None, True),
}
#: The architectures that are made for other images than those of 32 x 32; all take width 8.
OWN = {"vgg16_imagenet": {"input_size": 32}, "toy_cnn": {"input_size": 32}}


def step(net: nn.Module, function: Callable, x: Tensor) -> Tensor:
    """Forward and backward from a reset; gives the outputs."""
    functional.reset_net(net)
    net.zero_grad()
    outputs = function(x)
    outputs.square().sum().backward()
    return outputs.detach()


def take_statistics(net: nn.Module, x: Tensor) -> None:
    """The running statistics of norms become those of ``x``: with zeros and ones, deep networks are silent."""
    for module in net.modules():
        if hasattr(module, "momentum"):
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(x)
    functional.reset_net(net)


def check(name: str, backend: str, train: bool) -> None:
    """One graph, and the numbers of the eager network."""
    torch.compiler.reset()
    torch.manual_seed(0)
    net = model.ARCHITECTURES[name](num_classes=10, width=8, time_steps=2, **OWN.get(name, {}))
    functional.set_backend(net, backend)
    for module in net.modules():
        if "Dropout" in type(module).__name__:
            module.p = 0.0  # compiled code draws other random numbers
    dtype = torch.float64 if backend == "torch" else torch.float32
    first = next(parameter for parameter in net.parameters() if parameter.dim() == 4)
    x = 2 * torch.randn(1, 2, first.shape[1], 32, 32, dtype=torch.float64).to(dtype)
    eager = net.to(dtype)
    take_statistics(eager, x)
    compiled = copy.deepcopy(eager.train(train))
    have = step(compiled, torch.compile(compiled, fullgraph=True, backend="aot_eager"), x)
    want = step(eager, eager, x)
    assert want.std() > 0, f"{name}: all outputs are equal"
    tolerance = 1e-8 if dtype == torch.float64 else 1e-4
    pairs = {"outputs": (have, want)}
    pairs |= {n: (c.grad, e.grad) for (n, e), c in zip(eager.named_parameters(), compiled.parameters(), strict=True)}
    pairs |= {n: (c, e) for (n, e), c in zip(eager.named_buffers(), compiled.buffers(), strict=True)}
    for part, (found, expected) in pairs.items():
        scale = max(1.0, expected.abs().max().item()) if expected is not None else 1.0
        torch.testing.assert_close(
            found, expected, rtol=0, atol=tolerance * scale, msg=lambda text, part=part: f"{name}, {part}: {text}"
        )


def forms(width: int) -> dict[str, tuple[nn.Module, Callable]]:
    """Networks of the same weights, and how each is called."""
    torch.manual_seed(0)
    net = model.resnet18_cifar(num_classes=100, width=width, time_steps=2)
    made = {}
    for name, (backend, compiled) in FORMS.items():
        each = model.ann(net) if backend is None else copy.deepcopy(net)
        if backend is not None:
            functional.set_backend(each, backend)
        made[name] = (each, torch.compile(each, fullgraph=True) if compiled else each)
    return made


def times(width: int, repeats: int) -> pd.DataFrame:
    """Milliseconds of a training step of each form."""
    torch.compiler.reset()
    x, made = torch.rand(1, BATCH, 3, 32, 32), forms(width)
    taken: dict[str, list[float]] = {name: [] for name in made}
    for _ in tqdm(range(WARM_UP + repeats), desc=f"width {width}", unit="round", leave=False):
        for name, (net, function) in made.items():
            started = time.perf_counter()
            step(net, function, x)
            taken[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(seconds[WARM_UP:]) for name, seconds in taken.items()}
    rows = [
        {
            "form": name,
            "ms": f"{1000 * median:.0f}",
            "ratio": f"{medians['spiking, auto'] / median:.2f}",
            "first step (s)": f"{taken[name][0]:.1f}",
        }
        for name, median in medians.items()
    ]
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    runs = [backend for backend in backends.BACKENDS if not backends.obstacle(backend)]
    cases = [(name, backend, train) for name in model.ARCHITECTURES for backend in runs for train in (True, False)]
    for case in tqdm(cases, desc="check", unit="network"):
        check(*case)
    text = (
        f"# torch.compile on this CPU\n\nFrom `python benchmarks/compiled.py`: torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, medians of {options.repeats}.\n\n"
        f"{len(model.ARCHITECTURES)} architectures, narrow, on {' and '.join(runs)}, in training and in evaluation: "
        "one graph each; outputs, gradients and buffers are those of the eager network.\n"
    )
    for backend in backends.BACKENDS:
        if found := backends.obstacle(backend):
            text += f"Not run on {backend}: {found.reason}.\n"
    for width in options.widths:
        table = times(width, options.repeats).to_markdown(index=False, disable_numparse=True)
        text += (
            f"\n## A training step of the CIFAR ResNet-18, width {width}, T = 2, batch {BATCH}, float32\n\n{table}\n"
        )
    print(text, end="")
    if options.output:
        write_atomically(options.output, text.encode())


if __name__ == "__main__":
    sys.exit(main())
