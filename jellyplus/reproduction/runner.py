"""From a run to its evidence: found in the store, or trained with everything it starts from."""

import contextlib
import dataclasses
import os
import platform
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import filelock
import joblib
import torch
from tqdm import tqdm

from jellyplus import _bars, datasets, registry
from jellyplus._distributed import processes, rank
from jellyplus._errors import InputError
from jellyplus._text import one_line
from jellyplus.reproduction import checks, loading, operations, scale
from jellyplus.reproduction.evidence import Evidence, evidence_of
from jellyplus.reproduction.runs import weights_of
from jellyplus.reproduction.source import provenance
from jellyplus.reproduction.store import Store
from jellyplus.reproduction.today import Today
from jellyplus.training import memory
from jellyplus.training.checkpoint import save_checkpoint
from jellyplus.training.data import DataModule
from jellyplus.training.job import once
from jellyplus.training.loggers import Logs
from jellyplus.training.network import InitialState, build_network, check_parts, choose_backend, initialise
from jellyplus.training.parts import make_optimizer, make_schedule
from jellyplus.training.recipe import Run
from jellyplus.training.train import Outcome, choose_device, train

__all__ = ["Runner", "chains", "device_in_words", "summary"]


class Runner:
    """Makes evidence, each run and seed once, ancestors first.

    Args:
        store: where evidence and checkpoints are.
        data_root: the folder that holds the data sets, None for the embedded ones.
        device: ``auto``, ``cpu`` or ``cuda``.
        workers: processes that load data.
        logs: where the history of runs goes besides their evidence, None for nowhere.
    """

    def __init__(self, store: Store, data_root: str | None, device: str, workers: int = 0, logs: Logs | None = None):
        self.store = store
        self.data_root = data_root
        self.workers = workers
        self.logs = logs
        self.device = choose_device(device)
        self.today = Today()
        self.provenance = provenance()  # now: the checkout may have moved on by the end of a long run
        self._data: dict[tuple, datasets.DataSet] = {}
        self._most = 0.0  # bytes that a run takes at once

    def missing(self, wanted: Iterable[tuple[Run, int]], counted: bool = True) -> list[tuple[Run, int]]:
        """The runs and seeds without evidence that is current, in the order in which they must be made.

        Nothing is written, and what could fail later is checked: the evidence there is, data, recipe against data.

        Args:
            wanted: runs and seeds.
            counted: whether their operations are wanted too.

        Raises:
            InputError: damaged evidence or checkpoints, data that is missing or does not fit the recipe, or a run that
                does not fit into memory.
        """
        needed: dict[tuple[str, int], tuple[Run, int]] = {}
        for run, seed in wanted:
            self._add_missing(run, seed, needed, counted)
        for run, seed in {run.key: (run, seed) for run, seed in needed.values()}.values():
            self._check(run, seed)
        for run, seed in needed.values():
            if run.parent and (run.parent.key, seed) not in needed:
                self._start(run, seed, self.load(run))
        return list(needed.values())

    def _check(self, run: Run, seed: int) -> None:
        """What could fail later, of a run whatever its seed."""
        data = self.load(run)
        DataModule(data, run.recipe, seed)
        memory.check_network(run.recipe, self.device)
        _try_to_build(run, choose_backend(run.recipe, self.device, say=False), data.train.inputs.shape[-3:])
        self._most = max(self._most, memory.check_run(run.recipe, data.train.inputs.shape[1:], self.device))

    def at_once(self, planned: list[tuple[Run, int]]) -> int:
        """How many :func:`chains` of runs this machine makes at a time: on a GPU, or of several processes, one.

        On a CPU as many as there are cores for, and memory for the largest run that :meth:`missing` saw.
        """
        if self.device != "cpu" or processes() > 1:
            return 1
        cores = joblib.cpu_count() // torch.get_num_threads()
        fit = memory.available(self.device) / (self._most + _PROCESS)
        return int(max(1, min(cores, fit, len(chains(planned)))))

    def make(self, planned: list[tuple[Run, int]], jobs: int = 1) -> None:
        """Train what :meth:`missing` found, with progress over the runs.

        Args:
            planned: runs and their seeds, ancestors first.
            jobs: processes that each make one :func:`chain <chains>` at a time, on a CPU with as many threads as this
                one has, beside a GPU with their share of the cores.

        Raises:
            InputError: a run cannot be made, or ``jobs`` are asked for in a job of several processes.
        """
        if jobs > 1 and processes() > 1:
            raise InputError("--jobs are processes of one machine beside torchrun's or SLURM's: give one or the other")
        once(_remove_states, self.store)
        if old := sum(self._has_older(run, seed) for run, seed in planned):
            print(
                f"{old} of {len(planned)} runs have evidence of code that did something else: it is kept (--render "
                "shows it as stale)"
            )
        whole = sum(_cost(run) for run, _ in planned)
        with _bars.bar(total=whole, unit="", bar_format=_BAR, disable=rank() > 0) as bar:
            bar.set_description(f"0 of {len(planned)} runs")
            if jobs > 1:
                self._side_by_side(planned, jobs, bar)
                return
            for number, (run, seed) in enumerate(planned, 1):
                tqdm.write(_said(run, seed, self._train(run, seed)))
                bar.set_description(f"{number} of {len(planned)} runs")
                bar.update(_cost(run))

    def _has_older(self, run: Run, seed: int) -> bool:
        """Whether other code made it; today's may have just now, in another process."""
        return any(e.seed == seed and e.code != self.today.code_of(run) for e in self.store.runs(run.key))

    def _side_by_side(self, planned: list[tuple[Run, int]], jobs: int, bar: tqdm) -> None:
        threads = torch.get_num_threads() if self.device == "cpu" else max(1, joblib.cpu_count() // jobs)
        data_root = self.data_root and os.path.abspath(self.data_root)  # a process may have begun in another folder
        plugins = registry.plugins()
        alike = (Store(self.store.root.absolute()), data_root, self.device, self.workers, self.logs)
        longest_first = sorted(chains(planned), key=self._length, reverse=True)
        calls = (joblib.delayed(_make)(plugins, alike, threads, os.getpid(), chain) for chain in longest_first)
        with _followed(self, planned, bar), joblib.parallel_config("loky", inner_max_num_threads=threads):
            joblib.Parallel(n_jobs=jobs)(calls)

    def _length(self, chain: list[tuple[Run, int]]) -> int:
        """How long it takes, relatively: with the examples of an epoch."""
        return sum(_cost(run) * len(self.load(run).train.inputs) for run, _ in chain)

    def _add_missing(self, run: Run, seed: int, needed: dict, counted: bool) -> None:
        if (run.key, seed) in needed or self.is_made(run, seed, counted):
            return
        if run.parent:
            self._add_missing(run.parent, seed, needed, counted=False)
        needed[run.key, seed] = (run, seed)

    def current(self, run: Run, seed: int, counted: bool = True) -> Evidence | None:
        """The evidence of a run that today's code would make again; None where there is none.

        Args:
            run, seed: of the evidence.
            counted: whether its operations matter; another way of counting them makes no other weights.

        Raises:
            InputError: evidence is damaged.
        """
        found = [e for e in self.store.runs(run.key) if e.seed == seed]
        found.sort(key=lambda e: e.code != self.today.code_of(run))  # this code's own needs no probe
        judged = ((e, self.today.standing(e, run, self.store)) for e in found)
        return next((e for e, s in judged if (s if counted else s.of_training).is_current), None)

    def is_made(self, run: Run, seed: int, counted: bool = True) -> bool:
        """Whether a run has current evidence; see :meth:`current`.

        Raises:
            InputError: it is damaged, or has no checkpoint: that is written before, so it was copied from elsewhere.
        """
        found = self.current(run, seed, counted)
        if found and not (checkpoint := self._checkpoint(found)).exists():
            raise InputError(
                f"the evidence of {run.name} has no checkpoint {checkpoint}: put it there, or delete the evidence"
            )
        if found:
            checks.refuse_faults(found, self.store.path(found), checkpoint)
        return found is not None

    def _checkpoint(self, evidence: Evidence) -> Path:
        return self.store.checkpoint(evidence.key, evidence.seed, evidence.code)

    def load(self, run: Run) -> datasets.DataSet:
        """The data of a run, read once for all runs that share them.

        Raises:
            InputError: they are missing or damaged.
        """
        recipe = run.recipe
        key = (recipe.data.dataset, *loading.presentation(recipe).values())
        if key not in self._data:
            self._data[key] = loading.load(recipe, self.data_root)
        return loading.taken(self._data[key], recipe)

    def _train(self, run: Run, seed: int) -> str:
        """Train, keep the checkpoint, then write the evidence; return one line on the result."""
        checkpoint = self.store.checkpoint(run.key, seed, self.today.code_of(run))
        state = self.store.state(run.key, seed, self.today.code_of(run))
        data = self.load(run)
        with _only_one(checkpoint.with_suffix(".lock")):
            if found := once(self.current, run, seed):  # another process has just made it
                return summary(found)
            start = self._start(run, seed, data) if run.parent else None
            title, logger = one_line(run.name), self.logs and self.logs.of(run, seed)
            where = (run.recipe, data.train.inputs.shape[1:], self.device)
            compressed = memory.compresses(*where)
            if compressed and rank() == 0:
                tqdm.write(f"{title} trains with compressed activations, which fit: the numbers are the same")
            # a plugin's Python code may do something else in every step
            graphed = self.device == "cuda" and not (compressed or run.plugins) and memory.keeps_steps(*where)
            steps = {"workers": self.workers, "logger": logger, "compressed": compressed, "graphed": graphed}
            outcome = train(run.recipe, data, seed, self.device, state, start, title, **steps)
            return summary(once(self._keep, run, seed, data, outcome, checkpoint, state))

    def _keep(
        self, run: Run, seed: int, data: datasets.DataSet, outcome: Outcome, checkpoint: Path, state: Path
    ) -> Evidence:
        device = _times_processes(device_in_words(self.device))
        made_by = {"code": self.today.code_of(run), "provenance": self.provenance, "device": device}
        evidence = evidence_of(run, seed, data, outcome, **made_by)
        if data.manifest:
            self.store.write_manifest(data.manifest)
        digest = save_checkpoint({"key": run.key, "seed": seed, "weights": outcome.weights}, checkpoint)
        evidence = dataclasses.replace(evidence, checkpoint_sha256=digest)
        self.store.write(evidence, self.today.probe(evidence, run))
        state.unlink(missing_ok=True)
        return evidence

    def _start(self, run: Run, seed: int, data: datasets.DataSet) -> InitialState:
        """The last weights of the run's parent, if it learnt from the same data."""
        parent = self.current(run.parent, seed, counted=False)
        theirs, ours = parent.dataset.get("fingerprint"), data.fingerprint
        if _same_data(run, run.parent) and theirs != ours:
            raise InputError(
                f"{run.parent.name} was trained on other data: its fingerprint is {str(theirs)[:16]}, that of "
                f"--data-root {ours[:16]}; bring the data back, or use another --out"
            )
        return InitialState(self.weights(run.parent, seed), run.parent.recipe.spiking)

    def weights(self, run: Run, seed: int) -> dict[str, torch.Tensor]:
        """The last weights of a run that was made.

        Raises:
            InputError: there is no checkpoint, or it is damaged, another run's or seed's, or not what the run left.
        """
        evidence = self.current(run, seed, counted=False)
        return weights_of(evidence, self._checkpoint(evidence))


def chains(planned: Iterable[tuple[Run, int]]) -> list[list[tuple[Run, int]]]:
    """Runs and seeds that descend from the same run with the same seed, each chain by itself; no two share a run."""
    found: dict[tuple[str, int], list[tuple[Run, int]]] = {}
    for run, seed in planned:
        found.setdefault((_first_ancestor(run).key, seed), []).append((run, seed))
    return list(found.values())


def _first_ancestor(run: Run) -> Run:
    return _first_ancestor(run.parent) if run.parent else run


def _make(plugins: tuple[Path, ...], alike: tuple, threads: int, parent: int, chain: list[tuple[Run, int]]) -> None:
    """In a process of its own, whose bars nobody sees, and which ends with the one that asked for it."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    registry.load(plugins)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        runner = Runner(*alike)
        for run, seed in chain:
            runner._train(run, seed)


def _end_with(parent: int) -> None:
    """A process that was killed leaves its own behind, which would hold the locks of their runs."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


@contextlib.contextmanager
def _followed(runner: Runner, planned: list[tuple[Run, int]], bar: tqdm) -> Iterator[None]:
    """Show how runs of other processes go: an epoch more whenever one keeps its state, and what came out at its end."""
    over, left = threading.Event(), dict.fromkeys(range(len(planned)), (0, None))

    def look() -> None:
        for number, (epochs, kept) in list(left.items()):
            run, seed = planned[number]
            code = runner.today.code_of(run)
            if found := next((e for e in runner.store.runs(run.key) if (e.seed, e.code) == (seed, code)), None):
                del left[number]
                tqdm.write(_said(run, seed, summary(found)))
                bar.set_description(f"{len(planned) - len(left)} of {len(planned)} runs")
                bar.update(_cost(run) - epochs * run.recipe.model.time_steps)
                continue
            with contextlib.suppress(OSError):
                now = runner.store.state(run.key, seed, code).stat().st_mtime_ns
                if now != kept and epochs < run.recipe.schedule.epochs - 1:
                    left[number] = epochs + 1, now
                    bar.update(run.recipe.model.time_steps)

    def follow() -> None:
        while not over.wait(1.0):
            with contextlib.suppress(InputError):  # said at the end, by the process itself
                look()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    look()


@contextlib.contextmanager
def _only_one(file: Path) -> Iterator[None]:
    """Hold the lock ``file`` on process 0; a process that is killed holds nothing.

    The file is removed while it is held. Who had opened it before gets a lock on a file without a name, which filelock
    notices and leaves; versions before the oldest that setup.cfg allows do not, or remove the next one's file too.

    Raises:
        InputError: another process holds it, or the folder cannot be written.
    """
    lock = filelock.FileLock(file, timeout=0)
    once(_acquire, lock)
    once(_remove_remains, file)
    try:
        yield
    finally:
        if rank() == 0:
            file.unlink(missing_ok=True)
            lock.release()


def _acquire(lock: filelock.FileLock) -> None:
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise InputError(
            f"another process makes this run now and holds {lock.lock_file}: wait for it, or give another --out"
        ) from error
    except OSError as error:
        raise InputError(f"cannot write {lock.lock_file}: {error.strerror}; choose another --out") from error


def _remove_remains(lock: Path) -> None:
    """Of files that a process did not live to rename; they begin with a dot and the name of the run."""
    for path in lock.parent.glob(f".{lock.stem}.*"):
        path.unlink()


def _remove_states(store: Store) -> None:
    """Of runs whose process was killed when it had just written the evidence."""
    for state in store.states():
        if state.with_suffix(".json").exists():
            lock = filelock.FileLock(state.with_suffix(".lock"), timeout=0)
            with contextlib.suppress(OSError), lock:  # where nothing can be removed, the evidence is as good
                state.unlink(missing_ok=True)
                Path(lock.lock_file).unlink(missing_ok=True)


def _same_data(one: Run, other: Run) -> bool:
    shown = [
        (data.dataset, data.images, data.events, data.examples, data.examples_seed)
        for data in (one.recipe.data, other.recipe.data)
    ]
    return shown[0] == shown[1]


def _try_to_build(run: Run, backend: str | None, shape: tuple[int, ...]) -> None:
    """Build the network and start it from its parent's shapes, so that what does not fit shows before any training."""
    net = build_network(run.recipe, backend)
    check_parts(net, run.recipe)
    make_schedule(run.recipe.schedule, make_optimizer(run.recipe.optimizer, net.parameters()))
    _try_to_run(run, shape)
    if run.parent:
        start = InitialState(build_network(run.parent.recipe).state_dict(), run.parent.recipe.spiking)
        initialise(net, start, run.recipe.initial_weights)


def _try_to_run(run: Run, shape: tuple[int, ...]) -> None:
    """Show the network one empty example, so that an ``input_size`` or too many pools for the data are noticed."""
    net = build_network(run.recipe).eval()
    try:
        with torch.no_grad():
            net(torch.zeros(1, 1, *shape))
    except RuntimeError as error:
        size = "x".join(map(str, shape))
        raise InputError(
            f"model.options of {run.name} do not fit examples of {size}: {str(error).partition(chr(10))[0]}"
        ) from error


def _named(run: Run) -> str:
    """After what it is of, where that is a stand-in."""
    stand_in = scale.in_short(run.recipe)
    return f"stand-in {stand_in}: {run.name}" if stand_in else run.name


def _said(run: Run, seed: int, result: str) -> str:
    return one_line(f"{_named(run)}, seed {seed}: {result}")


_PROCESS = 2**30  # bytes of a process and its data, beside what a run takes
_BAR = "{desc}{percentage:3.0f}% |{bar}| {elapsed} so far, about {remaining} left"


def _cost(run: Run) -> int:
    """Relative work: epochs times time-steps."""
    return run.recipe.schedule.epochs * run.recipe.model.time_steps


def summary(evidence: Evidence) -> str:
    """One line on a finished run."""
    line = f"{evidence.accuracy_last:.2f} % after {evidence.epochs_completed} epochs in {evidence.wall_time_s:.0f} s"
    if evidence.search_time_s:
        line += f", {evidence.search_time_s / evidence.wall_time_s:.0%} of it in the temperature search"
    line += f", {operations.energy_in_words(evidence)} an inference"
    if evidence.parent:
        line += f"; {len(evidence.left_over)} names had no counterpart in the initial weights (listed in the evidence)"
    return line


def device_in_words(device: str) -> str:
    """What ``cpu`` or ``cuda`` is here."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def _times_processes(device: str) -> str:
    return f"{processes()} processes, each on {device}" if processes() > 1 else device
