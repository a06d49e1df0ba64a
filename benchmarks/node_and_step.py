"""Times the multi-step node, the field's usual benchmark and a training step on this CPU, against the others.

    python benchmarks/node_and_step.py [--repeats 15] [--works node step] [--peers FOLDER] [--output FILE]

Every side computes one function (``sides.py``); outputs and gradients are asserted equal first: in float64, where
rounding flips no spike, and where a side has float32 only, to our torch backend, whose spikes are the same bits.
Then all sides run in turn, each in a process of its own, under glibc's default allocation and again with its
thresholds raised so far that no memory goes back to the system between passes; a copy of 128 MiB runs among them.
Three rounds are not counted. Linux only.

Columns: *speed-up* is SpikingJelly 0.0.0.0.14's median over the side's own, *against ReLU* that of the same network
with ReLU in place of the neuron. *First call* is the first pass of the work, over the sizes that are compared, and
holds what compiling takes. *Page faults* are the minor ones of a pass. *Kept* is what forward saves for backward,
counted with saved-tensor hooks; *peak* is what a pass adds to the resident set.

The peers are optional, and are folders because both SpikingJelly lines have one name:

    pip install --no-deps --target FOLDER/spikingjelly2 spikingjelly==2.0.0 loguru==0.7.3
    pip install --no-deps --target FOLDER/snntorch snntorch==1.0.0
    pip install --no-deps --target FOLDER/norse norse==1.1.0 nir==1.0.8 nirtorch==2.6 h5py==3.16.0

SpikingJelly 2.0.0 under torch.compile needs g++. 4,096 neurons with all peers need about 10 GiB and most of the time.
"""

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import torch
from sides import REFERENCE, SIDES, TITLES, WORKS, Outputs, copied_bytes
from tqdm import tqdm
from worker import ALLOCATIONS, COPY, Worker

from jellyplus._files import write_atomically
from jellyplus.neuron import IterativeLIFNode

WARM_UP = 3
#: Of the largest element of the tensor compared.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
#: An idle process's OpenMP threads spin for about a millisecond before they sleep.
PAUSE = 0.01


def available(peers: Path | None) -> tuple[list[str], dict[str, str]]:
    """The sides that can run here, and why each of the others cannot."""
    reasons = {name: _obstacle(name, peers) for name in SIDES}
    return [name for name, reason in reasons.items() if not reason], {n: r for n, r in reasons.items() if r}


def _obstacle(name: str, peers: Path | None) -> str:
    folder = SIDES[name].folder
    if folder is not None:
        return "" if peers is not None and (peers / folder).is_dir() else "not installed"
    if name.startswith("jellyplus "):
        try:
            IterativeLIFNode(backend=name.removeprefix("jellyplus "))
        except ValueError as error:
            return str(error)
    return ""


def assert_equal(sides: Iterable[str], outputs: Callable[[str, torch.dtype], Outputs]) -> None:
    """Every side's outputs and gradients are those of its reference.

    Args:
        sides: keys of ``SIDES``.
        outputs: gives those of a side in a dtype.

    Raises:
        AssertionError: they differ; it names the side and the tensor.
    """
    references: dict[tuple, Outputs] = {}
    for side in sides:
        reference, dtype = SIDES[side].reference, SIDES[side].dtype
        found = references.get((side, dtype)) or outputs(side, dtype)
        if reference is None or reference == side:
            continue
        if (reference, dtype) not in references:
            references[reference, dtype] = outputs(reference, dtype)
        for name, expected in references[reference, dtype].items():
            _assert_close(found[name], expected, f"{side}, compared with {reference}: {name}")


def _assert_close(found: torch.Tensor, expected: torch.Tensor, title: str) -> None:
    atol = TOLERANCE[expected.dtype] * expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=atol, msg=lambda text: f"{title}\n{text}")


def compare(workers: list[Worker]) -> dict[str, float]:
    """Assert all equal; gives the seconds of each one's first pass."""
    by_side, seconds = {worker.side: worker for worker in workers}, {}
    progress = tqdm(desc="compare", unit="pass", leave=False)
    with tempfile.TemporaryDirectory() as folder, progress:

        def outputs(side: str, dtype: torch.dtype) -> Outputs:
            found, elapsed = by_side[side].outputs(dtype, Path(folder, "outputs.pt"))
            seconds.setdefault(side, elapsed)
            progress.update()
            return found

        assert_equal(by_side, outputs)
    return seconds


def memory(workers: list[Worker]) -> dict[str, dict]:
    """What each keeps and adds in a pass over the sizes that are timed from now on."""
    found = {}
    for worker in tqdm(workers, desc="memory", unit="side", leave=False):
        worker.ask(do="prepare")
        worker.ask(do="run")
        found[worker.side] = worker.ask(do="memory")
    return found


def alternate(workers: list[Worker], repeats: int) -> dict[str, list[dict]]:
    """Passes of all workers in turn, every other round backwards."""
    passes = defaultdict(list)
    for number in tqdm(range(WARM_UP + repeats), desc="time", unit="round", leave=False):
        for worker in workers if number % 2 else reversed(workers):
            time.sleep(PAUSE)
            answer = worker.ask(do="run")
            if number >= WARM_UP:
                passes[worker.side].append(answer)
    return passes


def measure(work: str, workers: list[Worker], copier: Worker, repeats: int) -> tuple[list[dict], list[float]]:
    """The table's rows for one work under one allocation, and the seconds of the copies among the passes."""
    workers = [worker for worker in workers if work in SIDES[worker.side].works]
    for worker in workers:
        worker.ask(do="choose", work=work)
    first, mebibytes = compare(workers), memory(workers)
    passes = alternate([*workers, copier], repeats)
    for worker in workers:
        worker.ask(do="choose", work="")
    copies = passes.pop(COPY)
    medians = {side: statistics.median(answer["seconds"] for answer in found) for side, found in passes.items()}
    rows = [
        {
            "allocation": worker.allocation,
            "side": worker.side,
            "median (ms)": f"{medians[worker.side] * 1e3:.2f}",
            "quartiles (ms)": quartiles([answer["seconds"] * 1e3 for answer in passes[worker.side]]),
            "speed-up": ratio(medians, REFERENCE, worker.side),
            "against ReLU": ratio(medians, "ReLU", worker.side),
            "page faults": round(statistics.median(answer["faults"] for answer in passes[worker.side])),
            "kept (MiB)": f"{mebibytes[worker.side]['kept']:.1f}",
            "peak (MiB)": f"{mebibytes[worker.side]['peak']:.0f}",
            "first call (s)": f"{first[worker.side]:.2f}",
            "note": SIDES[worker.side].note,
        }
        for worker in workers
    ]
    return rows, [answer["seconds"] for answer in copies]


def quartiles(values: list[float], digits: int = 2) -> str:
    """The first and the third."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return f"{low:.{digits}f} to {high:.{digits}f}"


def ratio(medians: dict[str, float], other: str, side: str) -> str:
    """How many times as fast as ``other``; empty where that did not run."""
    return f"{medians[other] / medians[side]:.2f}" if other in medians else ""


def heading(copies: list[float], versions: Iterable[str], options: argparse.Namespace) -> str:
    """What the numbers depend on."""
    model = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    speeds = [2 * copied_bytes(options.tiny) / 1e9 / seconds for seconds in copies]
    return (
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {model[1] if model else 'unknown CPU'}, "
        f"{os.confstr('CS_GNU_LIBC_VERSION')}; {', '.join(sorted(versions))}.\n"
        f"Medians of {options.repeats} alternating passes. Copy bandwidth among them, read and written: "
        f"{statistics.median(speeds):.1f} GB/s (quartiles {quartiles(speeds, 1)})."
        + ("\nTiny sizes, not those of the titles: the numbers mean nothing." if options.tiny else "")
    )


def run(options: argparse.Namespace) -> str:
    """Markdown: the heading, a table for each work, and what is not installed."""
    sides, missing = available(options.peers)
    tables, copies, versions = defaultdict(list), [], set()
    for allocation in options.allocations:
        with ExitStack() as stack:
            *workers, copier = (start(side, allocation, options, stack) for side in [*sides, COPY])
            versions |= {worker.ask(do="version")["version"] for worker in workers}
            for work in options.works:
                print(f"{work}, {allocation} allocation", file=sys.stderr)
                rows, seconds = measure(work, workers, copier, options.repeats)
                tables[work] += rows
                copies += seconds
    parts = [heading(copies, versions, options)]
    for work, rows in tables.items():
        parts += [f"## {TITLES[work]}", pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)]
    return "\n\n".join([*parts, *(f"{side}: {reason}" for side, reason in missing.items())]) + "\n"


def start(side: str, allocation: str, options: argparse.Namespace, stack: ExitStack) -> Worker:
    """A process that ends with ``stack``."""
    folder = SIDES[side].folder if side != COPY else None
    worker = Worker(side, allocation, None if folder is None else options.peers / folder, options.tiny)
    stack.callback(worker.close)
    return worker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--allocations", nargs="+", choices=ALLOCATIONS, default=list(ALLOCATIONS))
    parser.add_argument("--peers", type=Path, metavar="FOLDER")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table there as well")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)  # other sizes: for the tests
    options = parser.parse_args()
    text = run(options)
    print(text, end="")
    if options.output is not None:
        write_atomically(options.output, text.encode())


if __name__ == "__main__":
    main()
