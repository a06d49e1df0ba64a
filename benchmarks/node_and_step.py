"""Times the multi-step node and one training step of the Dspike ResNet-18 against SpikingJelly's own ``LIFNode``.

    python benchmarks/node_and_step.py [--repeats 15]

Same input, surrogate, reset and memory layout on both sides; outputs and gradients are asserted equal first. Runs
alternate; medians and their ratio are printed. Bytes kept for backward are counted with saved-tensor hooks; peak memory
is what the second forward and backward pass of a fresh process adds to its resident set (Linux only).
"""

import argparse
import gc
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional, neuron
from torch import Tensor, nn

from jellyplus.model import dspike_resnet18
from jellyplus.neuron import IterativeLIFNode
from jellyplus.surrogate import Rectangular

NODE_SHAPE = (4, 32, 64, 32, 32)
STEP_SHAPE = (1, 64, 3, 32, 32)


def ours() -> nn.Module:
    return IterativeLIFNode(decay=0.25, v_threshold=0.5, surrogate_function=Rectangular(), step_mode="m")


def spikingjellys() -> nn.Module:
    return neuron.LIFNode(
        tau=4 / 3, decay_input=False, v_threshold=0.5, surrogate_function=Rectangular(), step_mode="m"
    )


SIDES = {"jellyplus": ours, "SpikingJelly": spikingjellys}


def node_work(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float32) -> Callable[[], tuple[Tensor, Tensor]]:
    """Forward and backward of the node alone. The input lies on a grid on which no H comes near V_th."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.randint(-128, 128, NODE_SHAPE, generator=generator).to(dtype) * 2 + 1) / 128
    grad = torch.randn(NODE_SHAPE, generator=generator).to(dtype)
    node = make()

    def work() -> tuple[Tensor, Tensor]:
        functional.reset_net(node)
        leaf = x.detach().requires_grad_()
        spikes = node(leaf)
        spikes.backward(grad)
        return spikes, leaf.grad

    return work


def step_work(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float32) -> Callable[[], tuple[Tensor, Tensor]]:
    """One SGD step of the ResNet-18, width 16, T = 2, batch 64, 32x32, channels-last."""
    torch.manual_seed(0)
    net = dspike_resnet18(width=16, time_steps=2, neuron=make).to(dtype=dtype, memory_format=torch.channels_last)
    x = torch.rand(STEP_SHAPE).to(dtype)[0].contiguous(memory_format=torch.channels_last)[None]
    labels = torch.randint(10, (STEP_SHAPE[1],))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def work() -> tuple[Tensor, Tensor]:
        functional.reset_net(net)
        optimizer.zero_grad()
        y = net(x)
        F.cross_entropy(y.mean(0), labels).backward()
        optimizer.step()
        return y, net.conv1.weight.grad.clone()

    return work


WORKS = {"node, forward + backward": node_work, "ResNet-18 training step": step_work}


def assert_equal(work: Callable) -> None:
    """In float64, where rounding flips no spike."""
    (y, grad), (y_other, grad_other) = (work(make, torch.float64)() for make in SIDES.values())
    torch.testing.assert_close(y, y_other, rtol=0, atol=1e-10)
    torch.testing.assert_close(grad, grad_other, rtol=1e-8, atol=1e-10)


def kept_bytes(work: Callable[[], object]) -> int:
    """Bytes of the distinct storages that the forward pass saves for backward."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(storages.values())


def medians(works: dict[str, Callable], repeats: int) -> dict[str, float]:
    times: dict[str, list[float]] = {side: [] for side in works}
    for _ in range(repeats + 2):
        for side, work in works.items():
            started = time.perf_counter()
            work()
            times[side].append(time.perf_counter() - started)
    return {side: statistics.median(values[2:]) for side, values in times.items()}


def peak_megabytes(work: str, side: str) -> float:
    """Growth of the resident set's maximum over one pass, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (work, side))


def _peak(work: str, side: str) -> float:
    run = WORKS[work](SIDES[side])
    run()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts anew
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    """A field of /proc/self/status, in KiB."""
    return int(re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    rows = []
    for name, work in WORKS.items():
        assert_equal(work)
        runs = {side: work(make) for side, make in SIDES.items()}
        kept = {side: kept_bytes(run) / 2**20 for side, run in runs.items()}
        seconds = medians(runs, options.repeats)
        peak = {side: peak_megabytes(name, side) for side in SIDES}
        rows += [
            {
                "work": name,
                "side": side,
                "median (ms)": f"{seconds[side] * 1e3:.1f}",
                "speed-up": f"{seconds['SpikingJelly'] / seconds[side]:.2f}",
                "kept for backward (MiB)": f"{kept[side]:.1f}",
                "peak (MiB)": f"{peak[side]:.0f}",
            }
            for side in SIDES
        ]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, medians of {options.repeats}, alternating")
    print(pd.DataFrame(rows).to_markdown(index=False))


if __name__ == "__main__":
    main()
