"""Section 3: a training step of the papers' networks under AMP, channels-last, beside the same network with ReLU.

Ours also with compressed activations; and both as CUDA graphs, as the training loop takes its steps.
"""

import contextlib
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from gpu_sections.job import Job
from gpu_sections.machine import Card, machine
from jellyplus import model
from jellyplus.activations import compressed_activations
from jellyplus.neuron import IterativeLIFNode
from jellyplus.surrogate import Dspike, Rectangular
from jellyplus.training.graphed import Graphed

__all__ = ["NETWORKS", "WAYS", "steps"]

#: Network, surrogate, width.
NETWORKS: dict[str, tuple[Callable, Callable, int]] = {
    "tdBN ResNet-19, width 128": (model.resnet19, Rectangular, 128),
    "Dspike ResNet-18, width 64": (model.dspike_resnet18, Dspike, 64),
}
#: What fires, and how the step is taken.
WAYS = (
    *((neuron, way) for way in ("", "CUDA graphs") for neuron in ("ReLU", "cupy", "torch")),
    ("cupy", "compressed activations"),
)
_TIME_STEPS, _BATCH, _SIDE = 2, 128, 32
_TINY = 4  # batch and width of a dry run
_KERNELS_SHOWN = 12


def steps(job: Job) -> None:
    """A record for each network and neuron, and one of what the profiler says of our step."""
    card, batch = machine(job), _TINY if job.dry_run else _BATCH
    for name, (architecture, surrogate, width) in NETWORKS.items():
        for neuron, (make, how) in _neurons(surrogate).items():
            with job.attempt(f"{name}, {neuron}"):
                step = _step(card, partial(architecture, width=_TINY if job.dry_run else width), make, batch, how)
                milliseconds = statistics.median(card.milliseconds(step, 20))
                host = statistics.median(card.host_microseconds(step, 10)) / 1e3
                values = {"ms": milliseconds, "images_per_s": 1e3 * batch / milliseconds, "host_ms": host}
                peak = None if how == "CUDA graphs" else card.peak_bytes(step) / 2**30  # whose memory is their own
                job.add(network=name, neuron=neuron, **values, peak_gib=peak)
                if neuron == "cupy":
                    job.add(network=name, **_profiled(card, step))
                del step


def _neurons(surrogate: Callable) -> dict[str, tuple[Callable[[], nn.Module], str]]:
    """What stands in the place of a neuron, and how the step is taken."""

    def maker(name: str) -> Callable[[], nn.Module]:
        node = partial(IterativeLIFNode, step_mode="m", backend=name)
        return nn.ReLU if name == "ReLU" else lambda: node(surrogate_function=surrogate())

    return {", ".join(filter(None, way)): (maker(way[0]), way[1]) for way in WAYS}


def _step(card: Card, architecture: Callable, make: Callable, batch: int, how: str) -> Callable[[], None]:
    torch.manual_seed(0)
    net = architecture(time_steps=_TIME_STEPS, neuron=make)
    net.to(card.device, memory_format=torch.channels_last)
    images = torch.rand(batch, 3, _SIDE, _SIDE, device=card.device).contiguous(memory_format=torch.channels_last)[None]
    labels = torch.randint(10, (batch,), device=card.device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    scaler = torch.amp.GradScaler(card.device.type)
    keeping = compressed_activations if how == "compressed activations" else contextlib.nullcontext

    def losses(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        functional.reset_net(net)
        with keeping():
            outputs = net(images).mean(0)
        return F.cross_entropy(outputs, labels), outputs.detach()

    taken = Graphed(losses, net) if how == "CUDA graphs" else losses

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(card.device.type, torch.float16):
            loss, _ = taken(images, labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def _profiled(card: Card, step: Callable[[], None]) -> dict[str, Any]:
    seen = card.profile(step, 5)
    longest = sorted(seen.kernels.items(), key=lambda item: -item[1][1])[:_KERNELS_SHOWN]
    return {
        "profiled_ms": seen.wall_ms,
        "kernel_ms": seen.kernel_ms,
        "launches": seen.launches,
        "waits": seen.waits,
        "kernels": [[name, number, milliseconds] for name, (number, milliseconds) in longest],
    }
