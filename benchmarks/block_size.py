"""How many neurons of a block let ``backend="cpp"`` run fastest on this CPU, beside a copy of the sequence.

    python benchmarks/block_size.py [--repeats 15] [--output benchmarks/block_size.md]

One thread. The library is built as the backend builds it, but for ``LANES``; all sizes are asserted to give the same
bits, and then run in turn, with a copy of a sequence among them, three rounds not counted. Forward reads one sequence
and writes one, as the copy does; backward reads two and writes one.
"""

import argparse
import ctypes
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from jellyplus._files import write_atomically
from jellyplus.neuron import IterativeLIFNode, cpp_backend
from jellyplus.surrogate import Dspike, Rectangular

SIZES = (32, 64, 96, 128, 256, 512)
SHAPES = ((4, 2**21), (2, 2**20), (4, 100_352), (500, 4096))
WARM_UP = 3


def engine(fire: torch.nn.Module, lanes: int, folder: Path) -> cpp_backend.CppEngine:
    """With blocks of so many neurons."""
    made = IterativeLIFNode(surrogate_function=fire, step_mode="m", backend="cpp")._engine(torch.zeros(1))
    source = cpp_backend._source(made.form, torch.float32)
    own = f"constexpr int LANES = {lanes};"
    text, library = folder / f"{type(fire).__name__}{lanes}.cpp", folder / f"{type(fire).__name__}{lanes}.so"
    text.write_text(source.replace("constexpr int LANES = 128;", own))
    assert own in text.read_text(), "the backend has another size today: say so here"
    subprocess.run([*cpp_backend._compiler(), *cpp_backend._FLAGS, "-o", library, text], check=True)
    loaded = ctypes.CDLL(str(library))
    for direction in ("forward", "backward"):
        declared = getattr(cpp_backend._library(made.form, torch.float32), direction)
        getattr(loaded, direction).argtypes, getattr(loaded, direction).restype = declared.argtypes, None
    made._library = lambda dtype, normalised: loaded
    return made


def milliseconds(run) -> float:
    started = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - started)


def rows(fire: torch.nn.Module, shape: tuple[int, int], folder: Path, repeats: int) -> list[dict]:
    """Of one surrogate and one shape.

    Raises:
        AssertionError: a size gives other bits.
    """
    engines = {lanes: engine(fire, lanes, folder) for lanes in SIZES}
    x, grad = torch.randn(shape) * 0.7 + 0.4, torch.randn(shape)
    spikes, last, grad_x, copied = torch.zeros(shape), torch.zeros(shape[1]), torch.zeros(shape), torch.zeros(shape)
    kept = engines[SIZES[0]].checkpoints(x)
    runs = {"copy": lambda: copied.copy_(x)}
    results = []
    for lanes, made in engines.items():
        runs[f"forward {lanes}"] = lambda made=made: made.forward(x, 0.0, spikes, last, None, None, kept)
        runs[f"backward {lanes}"] = lambda made=made: made.backward(x, 0.0, kept, grad_x, grad, None, None, None)
        runs[f"forward {lanes}"]()
        runs[f"backward {lanes}"]()
        results.append((spikes.clone(), grad_x.clone()))
    assert all(torch.equal(one, other) for found in results for one, other in zip(found, results[0], strict=True))
    taken = {name: [] for name in runs}
    for _ in range(WARM_UP + repeats):
        for name, run in runs.items():
            taken[name].append(milliseconds(run))
    medians = {name: statistics.median(values[WARM_UP:]) for name, values in taken.items()}
    return [
        {"surrogate": type(fire).__name__, "[T, neurons]": str(list(shape)), "pass": name, "copy": medians["copy"]}
        | {str(lanes): medians[f"{name} {lanes}"] for lanes in SIZES}
        for name in ("forward", "backward")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        measured = [
            row
            for fire in (Rectangular(), Dspike(2.0))
            for shape in SHAPES
            for row in rows(fire, shape, Path(folder), options.repeats)
        ]
    head = '# Neurons of a block of `backend="cpp"`\n\n'
    head += (
        f"From `python benchmarks/block_size.py`: torch {torch.__version__}, one thread, medians of {options.repeats} "
    )
    head += "in ms, all sizes with the same bits.\n\n"
    text = head + pd.DataFrame(measured).round(2).to_markdown(index=False) + "\n"
    print(text, end="")
    if options.output:
        write_atomically(options.output, text.encode())


if __name__ == "__main__":
    sys.exit(main())
