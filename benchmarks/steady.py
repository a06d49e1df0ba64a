"""Whether a long run stays the size it has: memory, open files and processes over many short epochs.

    python benchmarks/steady.py [--epochs 200] [--workers 2] [--out benchmarks]

``jellyplus train`` runs Dspike's ResNet-18, width 1, T = 2, on the stand-in digits, temperature search included. It is
watched from outside: whenever a finished epoch has replaced the state on disk, the resident memory, open files,
threads and child processes of the run are noted, its worker processes included. Writes ``steady.md`` and
``steady.png``.
"""

import argparse
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil
import yaml
from matplotlib.figure import Figure

from jellyplus._files import write_atomically

RECIPE = Path(__file__).parents[1] / "recipes/dspike/cifar10_t6.yaml"
COLUMNS = {"memory": "memory (MiB)", "files": "open files", "threads": "threads", "processes": "processes"}
WARM_UP = 0.1  # of the epochs: allocators and caches fill first


def write_recipe(folder: Path, epochs: int) -> Path:
    """A run without ancestors that a CPU repeats a few times a second."""
    recipe = yaml.safe_load(RECIPE.read_text())
    recipe |= {"initial_weights": None}
    recipe["data"] |= {"dataset": "digits", "batch_size": 128, "augmentation": ["crop"], "crop_padding": 1}
    recipe["model"] |= {"width": 1, "time_steps": 2}
    recipe["temperature_search"] |= {"batch_size": 4}
    recipe["schedule"] |= {"epochs": epochs}
    path = folder / "recipes/steady/run.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(recipe))
    path.with_name("profiles.yaml").write_text("paper: {}\n")
    return path


def watch(recipe: Path, folder: Path, workers: int) -> pd.DataFrame:
    """Run the recipe; one row for every epoch that was seen to end."""
    command = [sys.executable, "-m", "jellyplus", "train", recipe, "--out", folder / "out", "--device", "cpu"]
    command += ["--workers", str(workers)]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        rows = [measured(process.pid, epoch) for epoch in epochs_of(process, folder / "out/evidence")]
    if process.returncode:
        sys.exit((folder / "log").read_text())
    return pd.DataFrame([row for row in rows if row])


def epochs_of(process: subprocess.Popen, store: Path):
    """Yield 1, 2, ... as the state on disk is replaced, until the process ends."""
    seen, epoch = None, 0
    while process.poll() is None:
        states = [path.stat().st_mtime_ns for path in store.glob("*/*.partial")]
        if states and states[0] != seen:
            seen, epoch = states[0], epoch + 1
            yield epoch
        time.sleep(0.02)


def measured(pid: int, epoch: int) -> dict | None:
    """The run and its children together; None where it has just ended."""
    try:
        main = psutil.Process(pid)
        family = [main, *main.children(recursive=True)]
        memory = sum(process.memory_full_info().uss for process in family)  # without what others share
        files = sum(process.num_fds() for process in family)
        threads = sum(process.num_threads() for process in family)
    except psutil.NoSuchProcess:
        return None
    return {"epoch": epoch, "memory": memory / 2**20, "files": files, "threads": threads, "processes": len(family)}


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """First and last tenth after the warm-up, largest, and growth by a straight line through all of it."""
    settled = frame[frame["epoch"] > WARM_UP * frame["epoch"].max()]
    tenth = max(len(settled) // 10, 1)
    centred = settled["epoch"] - settled["epoch"].mean()
    rows = {
        label: {
            "first tenth": settled[name][:tenth].mean(),
            "last tenth": settled[name][-tenth:].mean(),
            "largest": settled[name].max(),
            "growth in 100 epochs": 100 * (centred * settled[name]).sum() / (centred**2).sum(),
        }
        for name, label in COLUMNS.items()
    }
    return pd.DataFrame(rows).T.round(2)


def picture(frame: pd.DataFrame) -> bytes:
    """A panel for each quantity over the epochs."""
    figure = Figure(figsize=(9, 5.5), dpi=120)
    for panel, (name, label) in zip(figure.subplots(2, 2).flat, COLUMNS.items(), strict=True):
        panel.plot(frame["epoch"], frame[name], color="#0072b2")
        panel.set_ylim(0, 1.15 * frame[name].max())
        panel.set_ylabel(label)
        panel.set_xlabel("epoch")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="0.92")
    figure.suptitle("A run and its worker processes, measured after every epoch", fontsize=11)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def main() -> int:
    """Watch a run, print and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        frame = watch(write_recipe(Path(folder), options.epochs), Path(folder), options.workers)
    text = (
        f"# {len(frame)} epochs seen of {options.epochs}, {options.workers} worker processes\n\n"
        f"`python benchmarks/steady.py`; memory is the unique set size of all processes together; the first "
        f"{WARM_UP:.0%} of the epochs are left out.\n\n{table(frame).to_markdown()}\n"
    )
    write_atomically(options.out / "steady.md", text.encode())
    write_atomically(options.out / "steady.png", picture(frame))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
