"""The card, as far as the parts need it, and what stands in for it in a dry run."""

import contextlib
import functools
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from gpu_sections.job import Job

__all__ = ["WAITS", "Card", "Profile", "StandIn", "machine"]

#: Calls that wait for the device, or do so where memory is not pinned; none that the profiler itself makes.
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpyAsync", "cudaMemcpy", "aten::_local_scalar_dense")

Work = Callable[[], object]
Outputs = tuple[torch.Tensor, ...]


class Profile(NamedTuple):
    """What torch's profiler saw in one pass, on average.

    Args:
        wall_ms: of the host.
        kernels: name to launches and milliseconds on the device.
        waits: calls among :data:`WAITS`.
    """

    wall_ms: float
    kernels: dict[str, tuple[float, float]]
    waits: dict[str, float]

    @property
    def kernel_ms(self) -> float:
        """All of them; streams that overlap count twice."""
        return sum(milliseconds for _, milliseconds in self.kernels.values())

    @property
    def launches(self) -> float:
        """Kernels and copies."""
        return sum(number for number, _ in self.kernels.values())


class Card:
    """A CUDA device."""

    device = torch.device("cuda", 0)
    backend = "cupy"

    def synchronise(self) -> None:
        """Wait for all that was launched."""
        torch.cuda.synchronize()

    def milliseconds(self, work: Work, repeats: int, warm_up: int = 5) -> list[float]:
        """Of every pass, between CUDA events around it; the passes are launched without waiting."""
        for _ in range(warm_up):
            work()
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
        self.synchronise()
        for start, end in events:
            start.record()
            work()
            end.record()
        self.synchronise()
        return [start.elapsed_time(end) for start, end in events]

    def host_microseconds(self, work: Work, repeats: int, warm_up: int = 20) -> list[float]:
        """Until each pass has been launched, on an idle device."""
        taken = []
        for _ in range(warm_up + repeats):
            self.synchronise()
            started = time.perf_counter()
            work()
            taken.append((time.perf_counter() - started) * 1e6)
        self.synchronise()
        return taken[warm_up:]

    def profile(self, work: Work, repeats: int) -> Profile:
        """What runs in a pass; the profiler's own time is in the wall's."""
        self.synchronise()
        with profile(activities=[ProfilerActivity.CPU, *self._activities]) as seen:
            started = time.perf_counter()
            for _ in range(repeats):
                work()
            self.synchronise()
            wall = time.perf_counter() - started
        kernels, waits = {}, Counter()
        for event in seen.key_averages():
            if self._is_kernel(event):
                kernels[event.key] = (event.count / repeats, self._microseconds(event) / 1e3 / repeats)
            elif event.key in WAITS:
                waits[event.key] += event.count / repeats
        return Profile(wall * 1e3 / repeats, kernels, dict(waits))

    _activities = (ProfilerActivity.CUDA,)

    def _is_kernel(self, event: object) -> bool:
        """And no range that somebody named, such as an optimizer's step, which holds kernels."""
        return event.device_type == torch.autograd.DeviceType.CUDA and not getattr(event, "is_user_annotation", False)

    def _microseconds(self, event: object) -> float:
        return event.self_device_time_total

    def synchronisations(self, work: Work) -> list[str]:
        """Where torch waited for the device, as it says itself."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                work()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return [str(warning.message) for warning in caught if "called a synchronizing" in str(warning.message)]

    def keep_busy(self, milliseconds: float) -> None:
        """Give the current stream something to do, for about so long."""
        torch.cuda._sleep(int(milliseconds * 1.5e6))  # cycles, at 1.5 GHz

    def other_stream(self) -> contextlib.AbstractContextManager:
        """What is launched inside is on a stream of its own, which nothing else waits for."""
        return torch.cuda.stream(torch.cuda.Stream())

    def captured(self, work: Callable[[], Outputs]) -> tuple[Outputs, Work]:
        """A CUDA graph of the work, after some passes as they are: its outputs, and what writes them again."""
        with self.other_stream():
            for _ in range(3):
                work()
        self.synchronise()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = work()
        return outputs, graph.replay

    def peak_bytes(self, work: Work) -> int:
        """What a pass adds to the memory that tensors hold."""
        self.synchronise()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        self.synchronise()
        return torch.cuda.max_memory_allocated() - before

    def free_bytes(self) -> int:
        """Memory that can still be taken."""
        return torch.cuda.mem_get_info()[0]

    def others(self) -> list[torch.device]:
        """Further devices."""
        return [torch.device("cuda", index) for index in range(1, torch.cuda.device_count())]


class StandIn(Card):
    """The CPU: the same words, no statement about any card. ``backend="cupy"`` runs the kernels' text through g++."""

    device = torch.device("cpu")
    _activities = ()

    def __init__(self, kernels: bool):
        if kernels:
            self._install()

    def _install(self) -> None:
        import pytest  # its MonkeyPatch; the process ends with what is patched

        sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
        import cuda_graphs_on_cpu
        import cuda_on_cpu

        from jellyplus.training import graphed

        if cuda_on_cpu.MISSING:
            raise RuntimeError(cuda_on_cpu.MISSING)
        patch = pytest.MonkeyPatch()
        patch.setattr(graphed, "record", cuda_graphs_on_cpu.record)  # it does not see kernels that g++ has compiled
        self._installed = cuda_on_cpu.installed(patch)
        self._installed.__enter__()

    def synchronise(self) -> None:
        """Nothing runs."""

    def milliseconds(self, work: Work, repeats: int, warm_up: int = 1) -> list[float]:
        """By the clock."""
        return [microseconds / 1e3 for microseconds in self.host_microseconds(work, repeats, warm_up)]

    def host_microseconds(self, work: Work, repeats: int, warm_up: int = 1) -> list[float]:
        """Fewer."""
        return super().host_microseconds(work, min(repeats, 2), 1)

    def _is_kernel(self, event: object) -> bool:
        return event.self_cpu_time_total > 0

    def _microseconds(self, event: object) -> float:
        return event.self_cpu_time_total

    def synchronisations(self, work: Work) -> list[str]:
        """None: there is nothing to wait for."""
        work()
        return []

    def keep_busy(self, milliseconds: float) -> None:
        """Nothing is."""

    def other_stream(self) -> contextlib.AbstractContextManager:
        """There is one."""
        return contextlib.nullcontext()

    def captured(self, work: Callable[[], Outputs]) -> tuple[Outputs, Work]:
        """The work again, written over its first outputs."""
        outputs = tuple(tensor.detach() for tensor in work())

        def replay() -> None:
            for tensor, again in zip(outputs, work(), strict=True):
                tensor.copy_(again.detach())

        return outputs, replay

    def peak_bytes(self, work: Work) -> int:
        """Not known."""
        work()
        return 0

    def free_bytes(self) -> int:
        """Little."""
        return 2**20

    def others(self) -> list[torch.device]:
        """Itself."""
        return [self.device]


@functools.cache
def _made(dry_run: bool, kernels: bool) -> Card:
    if not dry_run and not torch.cuda.is_available():
        raise RuntimeError("torch sees no CUDA device")
    return StandIn(kernels) if dry_run else Card()


def machine(job: Job, kernels: bool = True) -> Card:
    """What a part runs on; ``kernels`` are jellyplus's, which cannot be imported beside SpikingJelly 2."""
    return _made(job.dry_run, kernels)
