"""Runs short trainings and ruins them, over and over; says what was injected, what survived and what was lost.

    python benchmarks/soak.py [--minutes 10] [--seed 0] [--out benchmarks]
    python benchmarks/soak.py --kills 20

Every trial trains a tiny spiking network from scratch on generated JPEG files, with Dspike's temperature search,
hit by one fault at a random moment, and calls it again until it is finished. It has survived if its weights, history
(temperatures, learning rates, ids of the samples seen, accuracies) and evidence equal those of the run that nothing
happened to, bit for bit. *Lost* counts finished epochs that were made again beyond the one that a fault may cost, files
that are not whole, and refusals that are not one sentence with exit code 2. Exit code 1 if anything was lost.

With ``--kills`` the only fault is SIGKILL, at random moments and while files are written, again and again in the same
run, until there were so many; then runs begin no more epochs than planned and one for each kill.
"""

import argparse
import contextlib
import errno
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image

from jellyplus.__main__ import main as jellyplus
from jellyplus._files import write_atomically
from jellyplus.training import classifier as training
from jellyplus.training.checkpoint import load_checkpoint

RECIPE = Path(__file__).parents[1] / "recipes/dspike/cifar10_t6.yaml"
EPOCHS, CLASSES, IMAGES = 4, 2, {"train": 16, "val": 8}  # images of a class
TIMES = ("time_s", "search_time_s")


@dataclass
class Trial:
    """One run in a folder of its own.

    Args:
        folder: of recipe, data and output.
        random: of this trial.
        duration: of a run that nothing happens to, seconds.
    """

    folder: Path
    random: random.Random
    duration: float
    refusals: int = 0
    starts: int = 0

    @property
    def log(self) -> Path:
        """What the last start printed."""
        return self.folder / f"log{self.starts}"

    def start(self, *options: str, sabotage: Callable[[], None] | None = None) -> int:
        """Call ``jellyplus train`` in a process forked from this one, which has loaded everything; return its pid."""
        command = ["train", str(self.folder / "recipes/soak/run.yaml"), "--out", str(self.folder / "out")]
        command += ["--data-root", str(self.folder / "data"), "--device", "cpu", *options]
        self.starts += 1
        pid = os.fork()
        if pid:
            return pid
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if sabotage:
            sabotage()
        os._exit(run_logging_epochs(self.folder / "epochs", command))

    def finish(self, pid: int) -> int:
        """Wait; the exit code, negative where a signal ended the process."""
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def run(self, *options: str, sabotage: Callable[[], None] | None = None) -> int:
        """Start and finish."""
        return self.finish(self.start(*options, sabotage=sabotage))

    def some_time(self) -> float:
        """A moment within the run, seconds."""
        return self.random.uniform(0, self.duration)

    def refused(self, code: int, *words: str) -> None:
        """Note a refusal that is not one sentence with exit code 2, with these words in it."""
        log = self.log.read_text()
        last = log.splitlines()[-1:]
        sentence = last and last[0].startswith("jellyplus: error: ") and all(word in last[0] for word in words)
        if code != 2 or not sentence or "Traceback" in log:
            self.refusals += 1


def run_logging_epochs(log: Path, command: list[str]) -> int:
    """``jellyplus`` with these words; every epoch that begins is a line of ``log``."""
    begin = training.Classifier.on_train_epoch_start

    def logged(self) -> None:
        with log.open("a") as file:
            file.write(f"{self.current_epoch}\n")
        begin(self)

    training.Classifier.on_train_epoch_start = logged
    try:
        return jellyplus(command)
    except BaseException:
        import traceback

        traceback.print_exc()
        return 70


# --- What happens to a run -----------------------------------------------------------------------------------------


def nothing(trial: Trial) -> None:
    """The run goes through."""
    trial.run()


def killed(trial: Trial) -> int:
    """SIGKILL at a random moment."""
    return end_with(trial, signal.SIGKILL)


def terminated(trial: Trial) -> None:
    """SIGTERM at a random moment, as SLURM sends it."""
    end_with(trial, signal.SIGTERM)


def interrupted(trial: Trial) -> None:
    """Ctrl-C at a random moment."""
    end_with(trial, signal.SIGINT)


def end_with(trial: Trial, number: int) -> int:
    """Send a signal some time after the start; the exit code."""
    pid = trial.start()
    time.sleep(trial.some_time())
    os.kill(pid, number)
    return trial.finish(pid)


def killed_while_writing(trial: Trial) -> int:
    """SIGKILL between writing a file and renaming it."""
    at = trial.random.randint(1, EPOCHS + 2)
    return trial.run(sabotage=lambda: at_call(os, "replace", at, lambda: os.kill(os.getpid(), signal.SIGKILL)))


def disk_full(trial: Trial) -> None:
    """A write fails with ENOSPC."""
    at = trial.random.randint(1, EPOCHS + 1)
    trial.refused(trial.run(sabotage=lambda: at_call(os, "fsync", at, no_space)), "No space left")


def worker_killed(trial: Trial) -> None:
    """SIGKILL to a process that loads data."""
    pid = trial.start("--workers", "1")
    children = Path(f"/proc/{pid}/task/{pid}/children")
    with contextlib.suppress(FileNotFoundError):
        while not (workers := children.read_text().split()):
            time.sleep(0.001)
        time.sleep(trial.some_time() / 2)
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(workers[0]), signal.SIGKILL)
    if code := trial.finish(pid):  # 0: it was through with its data
        trial.refused(code, "worker")


def started_twice(trial: Trial) -> None:
    """A second process makes the same run at the same time."""
    refused = trial.folder / "refused"
    first = trial.start(sabotage=lambda: at_call(training.Classifier, "training_step", 1, lambda: wait_for(refused)))
    wait_for(trial.folder / "epochs")
    trial.refused(trial.run(), "another process")
    refused.touch()
    trial.finish(first)


def image_damaged(trial: Trial) -> None:
    """One training image is cut off, and later put back."""
    path = trial.random.choice(sorted((trial.folder / "data/train").glob("*/*")))
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + bytes(len(whole) - 200))  # of the same size: found when it is read
    trial.refused(trial.run(), path.name)
    path.write_bytes(whole)


def data_changed(trial: Trial) -> None:
    """After some epochs the data set has one image more, and later it has not."""
    end_with(trial, signal.SIGKILL)
    image = sorted((trial.folder / "data/train").glob("*/*"))[0]
    more = shutil.copy(image, image.with_name("more.jpg"))
    if list((trial.folder / "out").glob("evidence/*/*.partial")):
        trial.refused(trial.run(), "data")
    more.unlink()


def loss_not_finite(trial: Trial) -> None:
    """The input of one step has a NaN."""
    at = trial.random.randint(1, EPOCHS * CLASSES * IMAGES["train"] // 8)
    step, steps = training.Classifier.training_step, iter(range(1, 10**6))

    def poisoned(self, batch):
        if next(steps) == at:
            batch[0][0, 0, 0, 0] = float("nan")
        return step(self, batch)

    trial.refused(trial.run(sabotage=lambda: setattr(training.Classifier, "training_step", poisoned)), "not finite")


def clock_backwards(trial: Trial) -> None:
    """The wall clock goes back a day with every look at it."""
    start, looks = time.time(), iter(range(10**9))
    trial.run(sabotage=lambda: setattr(time, "time", lambda: start - 86400 * next(looks)))


def state_damaged(trial: Trial) -> None:
    """The state on disk loses its end, and is deleted after the refusal."""
    end_with(trial, signal.SIGKILL)
    for state in (trial.folder / "out").glob("evidence/*/*.partial"):
        state.write_bytes(state.read_bytes()[: trial.random.randint(0, 3000)])
        trial.refused(trial.run(), state.name, "delete")
        state.unlink()
        (trial.folder / "epochs").unlink()  # by hand, so they are not lost by us


def wait_for(path: Path) -> None:
    """Until there is such a file."""
    while not path.exists():
        time.sleep(0.001)


def at_call(owner, name: str, at: int, action: Callable[[], None]) -> None:
    """Before call number ``at`` of a function, do something else first."""
    function, calls = getattr(owner, name), iter(range(1, 10**6))

    def counted(*arguments, **named):
        if next(calls) == at:
            action()
        return function(*arguments, **named)

    setattr(owner, name, counted)


def no_space() -> None:
    """What a full disk says."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


FAULTS = (
    nothing, killed, terminated, interrupted, killed_while_writing, disk_full, worker_killed, started_twice,
    image_damaged, data_changed, loss_not_finite, clock_backwards, state_damaged,
)  # fmt: skip


# --- Whether it survived -------------------------------------------------------------------------------------------


def prepare(folder: Path) -> None:
    """Recipe and data."""
    recipe = yaml.safe_load(RECIPE.read_text()) | {"initial_weights": None}
    images = {"side": 16, "resize": 18, "unreadable": "stop"}
    recipe["data"] |= {"dataset": "imagenet", "batch_size": 8, "images": images}
    recipe["data"] |= {"augmentation": ["resized_crop", "flip"], "cutout_size": 0, "crop_padding": 0}
    recipe["model"] |= {"width": 1, "time_steps": 2, "num_classes": CLASSES}
    recipe["temperature_search"] |= {"batch_size": 4}
    recipe["schedule"] |= {"epochs": EPOCHS}
    path = folder / "recipes/soak/run.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(recipe))
    path.with_name("profiles.yaml").write_text("paper: {}\n")
    pixels = np.random.default_rng(0)
    for split, examples in IMAGES.items():
        for number in range(CLASSES * examples):
            image = folder / "data" / split / f"n0000000{number % CLASSES}" / f"{number}.jpg"
            image.parent.mkdir(parents=True, exist_ok=True)
            height, width = pixels.integers(16, 40, 2)
            Image.fromarray(pixels.integers(0, 256, (height, width, 3), np.uint8)).save(image)


def result(folder: Path) -> dict | None:
    """Everything that must be the same; None where the run left not exactly one evidence and one checkpoint."""
    paths = list((folder / "out/evidence").glob("*/seed*"))
    files = {path.suffix: path for path in paths}
    if len(paths) != 2 or files.keys() != {".ckpt", ".json"}:
        return None
    evidence = json.loads(files[".json"].read_text())
    history = [{k: v for k, v in entry.items() if k not in TIMES} for entry in evidence["history"]]
    weights = load_checkpoint(files[".ckpt"])["weights"]
    numbers = {name: value.numpy().tobytes().hex() for name, value in weights.items()}
    kept = ("accuracy_last", "accuracy_best", "epochs_completed", "operations", "dataset")
    return {"history": history, "weights": numbers} | {name: evidence[name] for name in kept}


def trial_of(fault: Callable[[Trial], object], expected: dict, duration: float, seed: str) -> tuple[dict, Trial]:
    """Run one trial to its end; what it gave, and what of it was lost."""
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder), random.Random(seed), duration)
        prepare(trial.folder)
        fault(trial)
        code = trial.run()  # finds everything made, or goes on
        begun = (trial.folder / "epochs").read_text().split()
        found = result(trial.folder)
        return {
            "result": found,
            "same": code == 0 and found == expected,
            "repeated": max(len(begun) - EPOCHS - 1, 0),
            "refusals": trial.refusals,
        }, "\n".join(path.read_text() for path in sorted(trial.folder.glob("log*")))


def undisturbed() -> tuple[dict, float]:
    """What a run gives that nothing happens to, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder), random.Random(), 0.0)
        prepare(trial.folder)
        trial.run()  # the compiled neurons are built, files are cached
        shutil.rmtree(trial.folder / "out")
        started = time.monotonic()
        if trial.run():
            sys.exit(trial.log.read_text())
        return result(trial.folder), time.monotonic() - started


def soak(minutes: float, seed: int) -> pd.DataFrame:
    """Trials in turn until the time is over, every fault at least once."""
    started = time.monotonic()
    reference, duration = undisturbed()
    counts = {fault.__name__: Counter(injected=0, survived=0, lost=0) for fault in FAULTS}
    number = 0
    while number < len(FAULTS) or time.monotonic() - started < 60 * minutes:
        fault = FAULTS[number % len(FAULTS)]
        outcome, log = trial_of(fault, reference, duration, f"{seed}/{number}")
        lost = outcome["repeated"] + outcome["refusals"]
        counts[fault.__name__].update(injected=1, survived=outcome["same"], lost=lost)
        if lost or not outcome["same"]:
            print(f"{fault.__name__}, trial {number}: {outcome | {'result': '...'}}\n{log}", file=sys.stderr)
        number += 1
        left = max(60 * minutes - (time.monotonic() - started), 0)
        print(f"\r{number} trials, about {left:.0f} s left ", end="", file=sys.stderr, flush=True)
    rows = {fault.__name__: {"what": " ".join(fault.__doc__.split()), **counts[fault.__name__]} for fault in FAULTS}
    return pd.DataFrame(rows).T.rename_axis("fault").reset_index()


def kill_again(kills: int, seed: int) -> bool:
    """Runs that are killed until they are through, as many as ``kills`` take; whether nothing was lost."""
    chance, reference, duration = random.Random(seed), *undisturbed()
    done = runs = 0
    good = True
    while done < kills:
        with tempfile.TemporaryDirectory() as folder:
            trial, before = Trial(Path(folder), chance, duration), done
            prepare(trial.folder)
            while done < kills and chance.choice((killed, killed_while_writing))(trial) == -signal.SIGKILL:
                done += 1
            code, begun = trial.run(), len((trial.folder / "epochs").read_text().split())
            same = code == 0 and result(trial.folder) == reference
            good &= same and begun <= EPOCHS + done - before
            runs += 1
            print(f"run {runs}: {done - before} kills, {begun} epochs begun of {EPOCHS}, {'same' if same else 'OTHER'}")
    print(f"{done} kills, {runs} runs, {'nothing lost' if good else 'SOMETHING LOST'}")
    return good


def main() -> int:
    """Soak, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--kills", type=int, help="SIGKILL only, this often")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write soak.md into this folder")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a process that forks must not have started threads
    if options.kills:
        return 0 if kill_again(options.kills, options.seed) else 1
    frame = soak(options.minutes, options.seed)
    total = frame[["injected", "survived", "lost"]].sum()
    text = (
        f"# {total['injected']} faults injected, {total['survived']} survived, {total['lost']} lost\n\n"
        f"`python benchmarks/soak.py --minutes {options.minutes:g} --seed {options.seed}`\n\n"
        f"{frame.to_markdown(index=False)}\n"
    )
    print(text)
    if options.out:
        write_atomically(options.out / "soak.md", text.encode())
    return int(total["lost"] > 0 or total["survived"] < total["injected"])


if __name__ == "__main__":
    sys.exit(main())
