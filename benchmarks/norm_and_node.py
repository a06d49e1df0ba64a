"""What it saves to run a norm and the neurons behind it in one pass, on this CPU, beside batch norm and ReLU.

    python benchmarks/norm_and_node.py [--repeats 15] [--output benchmarks/norm_and_node.md]

tdBN and LIF neurons on ``cpp``, channels-last: *one pass* as :class:`jellyplus.model.Layers` runs them, *apart* one
after the other, as torch's ``Sequential`` does; *ReLU* is the same norm with a ReLU behind it. A layer is timed with
and without a sum in between, as in a residual block. A network is a training step without the optimizer; in the one
that runs apart a hook that does nothing looks at every norm, and ReLU's has ReLUs in place of its neurons. Sides run in
turn, three rounds not counted. *Kept* is what the graph keeps for backward beside the weights.
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jellyplus import functional, model
from jellyplus._files import write_atomically
from jellyplus.layer import ThresholdDependentBatchNorm2d
from jellyplus.neuron import IterativeLIFNode, Node, backends
from jellyplus.neuron.normalised import normalise_and_fire
from jellyplus.surrogate import Dspike, Rectangular

LAYERS = ((2, 64, 16, 32, 32), (2, 64, 128, 4, 4), (4, 32, 64, 32, 32))
SURROGATES = {"Rectangular": Rectangular, "Dspike": Dspike}
NETWORKS = {"ResNet-18": model.dspike_resnet18, "ResNet-19": model.resnet19, "VGG-16": model.vgg16_diet}
WIDTHS = ((16, 64), (64, 16))  # and the images of a batch
WARM_UP = 3


class Taken(NamedTuple):
    """Milliseconds."""

    forward: float
    backward: float


Step = Callable[[], Taken]


def timed(forward: Callable[[], Tensor], gradient: Tensor | None = None) -> Taken:
    started = time.perf_counter()
    y = forward()
    between = time.perf_counter()
    y.backward(gradient)
    return Taken(1000 * (between - started), 1000 * (time.perf_counter() - between))


def medians(steps: dict[str, Step], repeats: int) -> dict[str, Taken]:
    taken: dict[str, list[Taken]] = {side: [] for side in steps}
    for _ in range(WARM_UP + repeats):
        for side, step in steps.items():
            taken[side].append(step())
    return {side: Taken(*map(statistics.median, zip(*values[WARM_UP:], strict=True))) for side, values in taken.items()}


def sequence(*shape: int) -> Tensor:
    x = torch.randn(*shape).flatten(0, 1).to(memory_format=torch.channels_last)
    return x.unflatten(0, shape[:2]).requires_grad_()


def layer_rows(surrogate: str, shape: tuple[int, ...], with_sum: bool, repeats: int) -> list[dict[str, str]]:
    """Of one layer."""
    norm = ThresholdDependentBatchNorm2d(1.0, 0.5, shape[2])
    node = IterativeLIFNode(surrogate_function=SURROGATES[surrogate](), step_mode="m")
    relu = nn.ReLU()
    x, gradient = sequence(*shape), sequence(*shape).detach()
    beside = sequence(*shape) if with_sum else None

    def apart(activation: nn.Module) -> Tensor:
        return activation(norm(x) if beside is None else norm(x) + beside)

    def step(forward: Callable[[], Tensor]) -> Step:
        def run() -> Taken:
            node.reset()
            for leaf in (x, beside):
                if leaf is not None:
                    leaf.grad = None
            return timed(forward, gradient)

        return run

    steps = {
        "apart": step(lambda: apart(node)),
        "one pass": step(lambda: normalise_and_fire(norm, node, x, beside)),
        "ReLU": step(lambda: apart(relu)),
    }
    found = medians(steps, repeats)
    relu_total = sum(found["ReLU"])
    return [
        {
            "[T, N, C, H, W]": str(list(shape)),
            "sum": "yes" if with_sum else "no",
            "surrogate": surrogate,
            "side": side,
            "forward (ms)": f"{taken.forward:.2f}",
            "backward (ms)": f"{taken.backward:.2f}",
            "against apart": f"{sum(found['apart']) / sum(taken):.2f}",
            "against ReLU": f"{relu_total / sum(taken):.2f}",
        }
        for side, taken in found.items()
    ]


def sides(make: Callable[..., nn.Module], width: int) -> dict[str, nn.Module]:
    """Networks with equal weights."""
    torch.manual_seed(0)
    net = make(width=width, time_steps=2).to(memory_format=torch.channels_last)
    apart, relu = copy.deepcopy(net), copy.deepcopy(net)
    for module in apart.modules():
        if isinstance(module, ThresholdDependentBatchNorm2d):
            module.register_forward_hook(lambda *_: None)
    for module in list(relu.modules()):
        for name, child in module.named_children():
            if isinstance(child, Node):
                setattr(module, name, nn.ReLU())
    return {"apart": apart, "one pass": net, "ReLU": relu}


def kept(net: nn.Module, x: Tensor) -> float:
    """MiB, each storage once."""
    functional.reset_net(net)
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = net(x)  # noqa: F841  # which keeps them alive, so that no address comes twice
    for parameter in net.parameters():
        storages.pop(parameter.data_ptr(), None)
    return sum(storages.values()) / 2**20


def network_rows(
    name: str, make: Callable[..., nn.Module], width: int, batch: int, repeats: int
) -> list[dict[str, str]]:
    """Of one network."""
    compared = sides(make, width)
    images = sequence(2, batch, 3, 32, 32).detach()
    labels = torch.randint(10, (batch,))

    def step(net: nn.Module) -> Step:
        def run() -> Taken:
            functional.reset_net(net)
            net.zero_grad()
            return timed(lambda: F.cross_entropy(net(images).mean(0), labels))

        return run

    found = medians({side: step(net) for side, net in compared.items()}, repeats)
    mebibytes = {side: kept(net, images) for side, net in compared.items()}
    return [
        {
            "network": name,
            "width": str(width),
            "batch": str(batch),
            "side": side,
            "step (ms)": f"{sum(taken):.1f}",
            "against apart": f"{sum(found['apart']) / sum(taken):.2f}",
            "against ReLU": f"{sum(found['ReLU']) / sum(taken):.2f}",
            "kept (MiB)": f"{mebibytes[side]:.1f}",
            "kept, of apart's": f"{mebibytes[side] / mebibytes['apart']:.2f}",
        }
        for side, taken in found.items()
    ]


def report(repeats: int) -> str:
    """The tables, and what they were measured on.

    Raises:
        RuntimeError: there are no kernels for this CPU.
    """
    if found := backends.obstacle("cpp"):
        raise RuntimeError(f"nothing to measure: {found}")
    layers = [
        row
        for shape in LAYERS
        for with_sum in (False, True)
        for surrogate in SURROGATES
        for row in layer_rows(surrogate, shape, with_sum, repeats)
    ]
    networks = [
        row
        for name, make in NETWORKS.items()
        for width, batch in WIDTHS
        for row in network_rows(name, make, width, batch, repeats)
    ]
    return "\n".join(
        [
            "# A norm and its neurons in one pass",
            "",
            f"From `python benchmarks/norm_and_node.py`: torch {torch.__version__}, {torch.get_num_threads()} threads, "
            f"medians of {repeats}. Ratios are of forward and backward together; above 1 is faster.",
            "",
            "## A layer",
            "",
            pd.DataFrame(layers).to_markdown(index=False, disable_numparse=True),
            "",
            "## A training step, T = 2, images of 32x32",
            "",
            pd.DataFrame(networks).to_markdown(index=False, disable_numparse=True),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    text = report(options.repeats)
    print(text, end="")
    if options.output:
        write_atomically(options.output, text.encode())


if __name__ == "__main__":
    sys.exit(main())
