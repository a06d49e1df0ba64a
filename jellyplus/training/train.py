"""One run from its first to its last epoch, resumed from the last one that was finished."""

import contextlib
import functools
import gc
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from tqdm import tqdm

from jellyplus import _compat, model
from jellyplus._distributed import rank
from jellyplus._errors import InputError
from jellyplus.datasets import DataSet
from jellyplus.neuron import Node
from jellyplus.op_counter import OperationCounter, Tallies
from jellyplus.training.checkpoint import DIGEST, AtomicCheckpointIO, KeepLast, is_sealed, load_checkpoint
from jellyplus.training.classifier import Classifier
from jellyplus.training.data import DataModule
from jellyplus.training.job import launch, once
from jellyplus.training.layout import time_first
from jellyplus.training.loggers import LogHistory
from jellyplus.training.network import InitialState, build_network, check_parts, choose_backend, initialise
from jellyplus.training.progress import RunProgress
from jellyplus.training.recipe import Recipe, as_plain_data, recipe_key
from jellyplus.training.state import check_state

__all__ = ["COUNTED", "Outcome", "Step", "choose_device", "memory_format", "train", "watched"]


@dataclass(frozen=True)
class Outcome:
    """What a finished run leaves.

    Args:
        net: the network as it is meant for inference, on the CPU: without shortcut branches.
        weights: the last state of the network that was trained, branches included.
        history: one entry an epoch.
        left_over: names that the initial weights and the network do not share.
        operations: of inference, from the spikes of a sample of the test examples.
        backend: what ran the neurons in training; None where there are none, or only others than the package's.
    """

    net: nn.Module
    weights: dict[str, Tensor]
    history: list[dict]
    left_over: list[str]
    operations: Tallies
    backend: str | None


def choose_device(name: str) -> str:
    """``auto``, ``cpu`` or ``cuda`` to the device that runs.

    Raises:
        InputError: ``cuda`` where torch sees none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda, but torch sees no CUDA device here: use --device cpu")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


@contextlib.contextmanager
def _frozen() -> Iterator[None]:
    """Keep the garbage collector off the objects that there are, here and in processes forked meanwhile."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def _watching() -> Iterator[None]:
    """For processes that load data; torch raises wherever this one happens to be when one of them ends."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(
            f"a process that loads data ended ({str(error).partition(chr(10))[0]}): the same command goes on from "
            "the last finished epoch; if it was short of memory, give fewer --workers"
        ) from error


@contextlib.contextmanager
def _as_stated() -> Iterator[None]:
    """Without the variables that Lightning takes arguments of the trainer from, and a seed: PL_TRAINER_..., PL_..."""
    found = {name: os.environ.pop(name) for name in sorted(os.environ) if name.startswith("PL_")}
    try:
        if found and rank() == 0:
            _say_ignored(", ".join(found))
        yield
    finally:
        os.environ |= found


@functools.cache  # once, however many runs there are
def _say_ignored(names: str) -> None:
    tqdm.write(f"jellyplus: {names} in the environment: ignored, the recipe decides what is trained", file=sys.stderr)


def train(
    recipe: Recipe,
    data: DataSet,
    seed: int,
    device: str,
    state_file: Path,
    initial_state: InitialState | None,
    title: str,
    workers: int = 0,
    logger: Logger | None = None,
    compressed: bool = False,
    graphed: bool = False,
) -> Outcome:
    """Train as the recipe says, and bit for bit the same when interrupted and called again.

    One process trains on the CPU or one GPU; the processes of a :func:`~jellyplus.training.job.joined` job each train
    on their part of every batch, with the sums of one process but for rounding.

    Args:
        recipe: everything that decides the numbers.
        data: the data set it names.
        seed: where all randomness derives from.
        device: ``cpu`` or ``cuda``.
        state_file: where the training state is kept after every epoch, and found when the run was interrupted.
        initial_state: what to start from, where the recipe has ``initial_weights``.
        title: for the progress bar.
        workers: processes that load data; they decide speed, no number.
        logger: gets each epoch's numbers.
        compressed: steps keep their activations so; they decide memory and time, no number.
        graphed: steps on a GPU are CUDA graphs; they decide time and memory, no number. Not for parts whose Python code
            does something else in a later step.

    Raises:
        InputError: recipe and data do not fit, the state file is damaged or belongs to other data, an example cannot
            be read, the loss is not finite, a process that loads data ended, or the state cannot be written.
    """
    frozen = _frozen() if workers else contextlib.nullcontext()  # to collect takes as long as a short run
    with _as_stated(), _watching(), frozen:
        module = DataModule(data, recipe, seed, workers, pinned=device == "cuda")
        module.start_workers()
        origin = {"recipe": recipe_key(as_plain_data(recipe)), "seed": seed, "data": data.fingerprint}
        backend = choose_backend(recipe, device)
        torch.manual_seed(seed)
        net = build_network(recipe, backend)
        net.to(memory_format=memory_format(net, recipe))
        check_parts(net, recipe)
        left_over = initialise(net, initial_state, recipe.initial_weights) if recipe.initial_weights else []
        classifier = Classifier(net, recipe, seed, compressed=compressed, graphed=graphed)
        progress = [RunProgress(title)] if rank() == 0 else []
        log = [LogHistory()] if logger else []
        callbacks = [_Hooks(), *progress, *log, KeepLast(state_file, origin)]
        trainer = _trainer(recipe, device, callbacks, logger=logger or False, **_processes())
        batches = len(module.train_dataloader())
        _fit(trainer, classifier, module, once(_state, state_file, trainer, classifier, origin, batches))
        _compat.reset_net(net)
        _compat.set_backend(net.cpu(), "torch", Node)
        plain = model.remove_shortcuts(net).eval()
        operations = _operations(plain, module.test_sample(COUNTED), recipe.model.time_steps)
        ran = backend if any(isinstance(module, Node) for module in net.modules()) else None
        return Outcome(plain, net.state_dict(), classifier.history, left_over, operations, ran)


class Step(NamedTuple):
    """A training step whose gradients are there and which is not yet taken."""

    epoch: int
    number: int
    x: Tensor
    labels: Tensor


class _Show(lightning.Callback):
    def __init__(self, show: Callable[[Step], None]):
        self.show = show

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Classifier, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int
    ) -> None:
        x, labels, _ = batch
        self.step = Step(pl_module.current_epoch, batch_idx, x, labels)

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: Classifier, optimizer: torch.optim.Optimizer
    ) -> None:
        self.show(self.step)


def watched(
    net: nn.Module,
    module: DataModule,
    epochs: int,
    show: Callable[[Step], None],
    batches: int | None = None,
    advice: str | None = None,
) -> None:
    """Train a network of the caller's in place as :func:`train` does, and show every step before it is taken.

    In one process, in single precision, where the network is; nothing is evaluated or kept.

    Args:
        net: with the weights to start from.
        module: data, recipe and seed of the run.
        epochs: how many, at most those of the recipe.
        show: is given each step.
        batches: of each epoch, the first; None for all.
        advice: what to do where the loss is not finite; None for what a run is told.

    Raises:
        InputError: the loss is not finite.
    """
    classifier = Classifier(net.train(), module.recipe, module.order.seed, advice)
    device = next(net.parameters()).device.type
    alone = {"devices": 1, "plugins": [LightningEnvironment()]}
    limits = {"max_epochs": epochs, "limit_train_batches": batches or 1.0, "limit_val_batches": 0}
    with _as_stated():
        trainer = _trainer(module.recipe, device, [_Hooks(), _Show(show)], precision="32-true", **alone, **limits)
        _fit(trainer, classifier, module, None)


def memory_format(net: nn.Module, recipe: Recipe | None = None) -> torch.memory_format:
    """Channels last, which is faster, but for networks in which it corrupts memory, and for finite differences.

    On the CPU, torch 2.14.1 writes beyond its buffers, or hangs, in the backward pass of strided 1x1 convolutions of
    fewer than 8 channels in this format; only networks as narrow as those of tests have such. Finite differences, which
    take most of the time of a step, join and part perturbations along N of [T, N, C, H, W], in contiguous tensors.
    """
    if recipe and recipe.finite_differences:
        return torch.contiguous_format
    convolutions = (module for module in net.modules() if isinstance(module, nn.Conv2d))
    bad = any(c.kernel_size == (1, 1) and c.stride != (1, 1) and c.in_channels < 8 for c in convolutions)
    return torch.contiguous_format if bad else torch.channels_last


def _fit(trainer: lightning.Trainer, classifier: Classifier, module: DataModule, state: Path | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on worker processes
        try:
            trainer.fit(classifier, datamodule=module, ckpt_path=state)
        except SystemExit as ended:  # Lightning's answer to Ctrl-C, after which it ignores the signal (call.py:57-66)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from ended


def _state(
    file: Path, trainer: lightning.Trainer, classifier: Classifier, origin: dict[str, Any], batches: int
) -> Path | None:
    """The state to resume from, if there is one, and it is one that this run would have saved."""
    if not file.exists():
        return None
    content = load_checkpoint(file)
    plain = {name: value for name, value in content.items() if name != DIGEST} if type(content) is dict else content
    check_state(plain, file, trainer, classifier, origin, batches)
    if not is_sealed(content):
        raise InputError(
            f"{file} was changed after it was written; it was left alone: delete it to train from the beginning"
        )
    return file


class _Hooks(lightning.Callback):
    """Calls those of the recipe's methods, in their order, before the classifier's own."""

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Classifier) -> None:
        for method in pl_module.methods.values():
            method.begin_epoch(pl_module)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Classifier, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int
    ) -> None:
        for method in pl_module.methods.values():
            method.begin_step(pl_module, batch)

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: Classifier, optimizer: torch.optim.Optimizer
    ) -> None:
        for method in pl_module.methods.values():
            method.before_update(pl_module)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Classifier) -> None:
        for method in pl_module.methods.values():
            method.end_epoch(pl_module)


def _trainer(recipe: Recipe, device: str, callbacks: list[lightning.Callback], **others: Any) -> lightning.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what torch asks for to be deterministic on a GPU
    torch.utils.deterministic.fill_uninitialized_memory = False  # or it takes half of a node's time
    settings = {
        "accelerator": "cpu" if device == "cpu" else "gpu",
        "precision": "32-true" if device == "cpu" else recipe.gpu_precision,
        "max_epochs": recipe.schedule.epochs,
        "accumulate_grad_batches": recipe.data.batch_size // recipe.data.at_once,
        "use_distributed_sampler": False,
        "deterministic": True,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": os.devnull,  # nothing is kept there, and no checkpoint of Lightning's own looked for
    }
    return lightning.Trainer(callbacks=callbacks, **settings | others)


def _processes() -> dict:
    """One process on one device, or those that torchrun or SLURM started.

    Evaluation runs through DDP too, on parts that need not be equal, so it must not broadcast buffers; they are equal
    without, since every norm synchronises its statistics.
    """
    started = launch()
    if started is None:
        alone = LightningEnvironment()  # whatever cluster there is: Lightning's way to requeue and resume is not ours
        return {"devices": 1, "plugins": [AtomicCheckpointIO(), alone]}
    return {
        "devices": started.per_node,
        "num_nodes": started.nodes,
        "strategy": DDPStrategy(broadcast_buffers=False),
        "plugins": [AtomicCheckpointIO(), started.environment],
    }


COUNTED = 1000  #: test examples whose spikes are counted, or all there are; the evidence has the standard error


def _operations(net: nn.Module, inputs: Tensor, time_steps: int) -> Tallies:
    """Under no convention; few examples at a time, since big networks on big images fill the memory."""
    with torch.no_grad(), OperationCounter(net) as counter:
        for x in inputs.split(10):
            net(time_first(x))
            _compat.reset_net(net)
    return counter.measurement(len(inputs), time_steps)
