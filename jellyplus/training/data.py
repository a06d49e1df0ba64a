"""The Lightning data module: deterministic order and augmentation over a data set."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from multiprocessing.connection import Listener
from multiprocessing.queues import Queue

import lightning
import torch
from torch import Tensor
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, get_worker_info

from jellyplus._distributed import processes, rank
from jellyplus._errors import HandedOnError, InputError
from jellyplus.datasets import DataSet, Split
from jellyplus.datasets.order import AugmentedSplit, Batch, EpochOrder, EvaluationSplit, PartOfBatches, collate
from jellyplus.datasets.transforms import augmentation, normalisation
from jellyplus.training.recipe import Recipe

__all__ = ["DataModule", "evaluation_batch"]

_EVALUATION_BATCH = 250  # decides speed and memory, no number
_SAMPLE_SEED = 0  # of the test examples whose spikes are counted


def evaluation_batch(recipe: Recipe) -> int:
    """Examples that evaluation shows at a time; few where the recipe has micro-batches, since memory is short."""
    return min(_EVALUATION_BATCH, recipe.data.micro_batch or _EVALUATION_BATCH)


class DataModule(lightning.LightningDataModule):
    """Loaders for a recipe over a data set.

    With several processes each loads its part of every batch. Where unreadable examples are left out, parts may differ
    in size, and the loss is the mean of the parts' means.

    Args:
        data: the data set.
        recipe: batch size and augmentation.
        seed: of the run.
        workers: processes that load; they decide speed, no number.
        pinned: training batches are in memory that a GPU copies from while this process goes on.

    Raises:
        InputError: classes, channels or time-steps of recipe and data differ, or a batch larger than the data set or
            not a multiple of the number of processes; micro-batches alike.
    """

    def __init__(self, data: DataSet, recipe: Recipe, seed: int, workers: int = 0, pinned: bool = False):
        super().__init__()
        _check_fit(data, recipe)
        if constants := recipe.data.normalisation:
            data = dataclasses.replace(data, mean=constants.mean, std=constants.std)
        self.data = data
        self.recipe = recipe
        self.workers = workers
        self.pinned = pinned
        settings = recipe.data
        sizes = (settings.crop_padding, settings.cutout_size, settings.roll_pixels)
        how = ("cutout_before_normalisation", "autoaugment_fill", "autoaugment_interpolation")
        augment = augmentation(settings.augmentation, data, *sizes, **{name: getattr(settings, name) for name in how})
        self.train = AugmentedSplit(data.train, augment, seed)
        self.test = EvaluationSplit(data.test, normalisation(data))
        self.order = EpochOrder(len(data.train), seed)

    @cached_property
    def _loaders(self) -> tuple[DataLoader, DataLoader]:
        settings = self.recipe.data
        batches = PartOfBatches(self.order, settings.batch_size, settings.at_once, settings.drop_last)
        own = range(rank(), len(self.test), processes())
        train = DataLoader(self.train, batch_sampler=batches, pin_memory=self.pinned, **self._loading())
        return train, DataLoader(self.test, evaluation_batch(self.recipe), sampler=own, **self._loading())

    def train_dataloader(self) -> DataLoader:
        """Batches in the epoch's order, or their micro-batches one by one.

        The remainder is dropped, so that every batch has the same statistics, or is the last one.
        """
        return self._loaders[0]

    def val_dataloader(self) -> DataLoader:
        """The test split: no paper states a validation split, and the last epoch is the headline.

        Processes take turns in it, without filling up, so that every example counts once.
        """
        return self._loaders[1]

    def start_workers(self) -> None:
        """Fork the processes that load, if there are any, while there is little but the data to inherit.

        They share the memory of this process as long as neither writes to it. What training fills, frees and fills
        again would become theirs alone, and so would all that the garbage collector visits, since it writes to it:
        call this before training, and with the objects there are frozen (``gc.freeze``). Those for training come last:
        once they are forked, a thread that pins their batches starts CUDA.

        Raises:
            InputError: the machine has no room for what they send batches through.
        """
        if not self.workers:
            return
        self._check_room()
        try:
            for loader in reversed(self._loaders):
                iter(loader)
        except OSError as error:
            raise InputError(f"--workers {self.workers} cannot be started ({error}): give fewer, or none") from error

    def _check_room(self) -> None:
        """Whether batches can be sent: what a worker finds out in a thread of its own, others wait for in vain."""
        try:
            Listener().close()
        except OSError as error:
            raise InputError(
                f"--workers need sockets in the folder for temporary files ({error}): name a short folder that can be "
                "written in $TMPDIR, or leave out --workers"
            ) from error
        needed = self._waiting()
        try:
            torch.empty(needed, dtype=torch.uint8).share_memory_()
        except RuntimeError as error:
            raise InputError(
                f"--workers {self.workers} have up to {needed / 2**20:,.0f} MiB in shared memory, which has no room "
                f"for that ({error}): make /dev/shm larger (docker run --shm-size), or give fewer --workers, or none"
            ) from error

    def _waiting(self) -> int:
        """Bytes of the batches that all workers may have ready, and of what coordinates them."""
        sizes = {self.train: self.recipe.data.at_once // processes(), self.test: evaluation_batch(self.recipe)}
        ahead = 2 * self.workers  # torch's default
        examples = sum(min(ahead * size, len(split)) for split, size in sizes.items())
        return 4 * examples * math.prod(self.data.train.inputs.shape[1:]) + 2**20

    def search_batch(self, examples: int, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """A batch of training examples for Dspike's search: those that ``epoch`` begins with, as it shows them.

        Without an epoch it is a fixed one, not augmented: the first of an order of its own.

        Either order is a random one of all examples by index: classes are mixed on every layout of a data set, but
        where layouts list examples in another order they are other examples, as the batches of training are.
        """
        if epoch is not None:
            return self._trained_on(epoch, self.order.indices(epoch)[:examples])
        return self._evaluated(self.data.train, self.order.indices(epoch=-1)[:examples].tolist())

    def test_sample(self, examples: int) -> Tensor:
        """Some test examples as evaluation sees them, evenly over classes, the same on every layout of a data set.

        They are drawn by a fixed seed, so that runs of several seeds see the same; all are returned, as they lie, where
        there are no more than ``examples``. See :meth:`jellyplus.datasets.Split.drawn`.
        """
        indices = self.data.test.drawn(examples, _SAMPLE_SEED)
        inputs, _ = self._evaluated(self.data.test, indices.tolist())
        return inputs

    def train_inputs(self, epoch: int, ids: Tensor) -> Tensor:
        """The inputs of some training examples as that epoch shows them."""
        return self._trained_on(epoch, ids)[0]

    def _trained_on(self, epoch: int, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels of some training examples as that epoch shows them."""
        shown = self.train.__getitems__([(epoch, index) for index in ids.tolist()])
        inputs, labels, _ = collate(shown, self.data.skip_unreadable)
        return inputs, labels

    def _evaluated(self, split: Split, indices: Iterable[int]) -> tuple[Tensor, Tensor]:
        """Inputs and labels of some examples, as evaluation sees them; of those that can be read, if some need not."""
        shown = EvaluationSplit(split, normalisation(self.data)).__getitems__(list(indices))
        inputs, labels, _ = collate(shown, self.data.skip_unreadable)
        return inputs, labels

    def _loading(self) -> dict:
        together = partial(_batch, skip_unreadable=self.data.skip_unreadable)
        workers = {"num_workers": self.workers, "persistent_workers": True, "worker_init_fn": _send_what_fails}
        return {"collate_fn": together} | (workers if self.workers else {})


class _NotSentError(HandedOnError):
    """A batch does not get from the process that loaded it to the one that trains."""


def _not_sent(error: Exception) -> _NotSentError:
    return _NotSentError(
        f"a batch cannot be sent to the process that trains ({error}): give fewer --workers, or none, "
        "or make /dev/shm larger (docker run --shm-size); the same command goes on from the last finished epoch"
    )


def _batch(examples: Batch | Sequence, skip_unreadable: bool) -> Batch:
    """What ``collate`` makes, in shared memory where another process waits for it.

    The thread that sends batches would do so, too; there torch ends the process where memory is short.
    """
    batch = collate(examples, skip_unreadable)
    if get_worker_info():
        try:
            for tensor in batch:
                tensor.share_memory_()
        except RuntimeError as error:
            raise _not_sent(error) from error
    return batch


def _send_what_fails(worker: int) -> None:
    """In a process that loads data: Python's own answer is to go on without the batch, which is waited for in vain."""

    def answer(queue: Queue, error: Exception, item: tuple) -> None:
        said = _not_sent(error)
        queue.put((item[0], ExceptionWrapper((type(said), said, None), f"in DataLoader worker process {worker}")))

    Queue._on_queue_feeder_error = answer


def _check_fit(data: DataSet, recipe: Recipe) -> None:
    shape = data.train.inputs.shape
    wanted = {"num_classes": data.classes, "in_channels": shape[-3]}
    if data.kind == "events":
        wanted["time_steps"] = shape[1]
    for name, value in wanted.items():
        if (stated := getattr(recipe.model, name)) != value:
            raise InputError(f"model.{name} is {stated} and {data.name} has {value}: make the recipe fit the data")
    if not 1 <= recipe.data.batch_size <= len(data.train):
        examples = len(data.train)
        raise InputError(
            f"data.batch_size is {recipe.data.batch_size} and {data.name} has {examples} training examples"
        )
    if recipe.data.at_once % processes():
        name = "micro_batch" if recipe.data.micro_batch else "batch_size"
        raise InputError(
            f"data.{name} is {recipe.data.at_once}, which {processes()} processes cannot share equally: start a number "
            "that divides it"
        )
    last = len(data.train) % recipe.data.batch_size
    if not recipe.data.drop_last and last % processes():
        raise InputError(
            f"an epoch's last batch has {last} examples, which {processes()} processes cannot share equally: start a "
            "number that divides it, or state data.drop_last: true"
        )
    if (constants := recipe.data.normalisation) and len(constants.mean) != shape[-3]:
        channels = f"{len(constants.mean)} channels and {data.name} has {shape[-3]}"
        raise InputError(f"data.normalisation has constants for {channels}: make the recipe fit the data")
    if constants and data.kind == "events":
        raise InputError(f"data.normalisation is for images, and {data.name} has events: leave it out")
