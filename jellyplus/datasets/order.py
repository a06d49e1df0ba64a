"""Which example comes when, and how it is augmented: functions of the seed, the epoch and the example alone.

Neither the number of worker processes nor what ran before enters, so a run that resumes at the beginning of an epoch
sees what the uninterrupted one would have seen. Lightning calls ``set_epoch`` on samplers by itself.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.utils.data import BatchSampler, Dataset, Sampler
from torchvision.transforms import v2

from jellyplus._distributed import processes, rank
from jellyplus.datasets.base import Split, UnreadableError
from jellyplus.datasets.batched import augmented

Example = tuple[Tensor, Tensor, int]  # input, label, index


class Batch(NamedTuple):
    """Inputs, labels and the indices of the examples, int64."""

    inputs: Tensor
    labels: Tensor
    indices: Tensor


class EpochOrder(Sampler[tuple[int, int]]):
    """Yield ``(epoch, index)`` for every example once, in an order drawn from the seed and the epoch.

    Args:
        examples: their number.
        seed: of the run.
    """

    def __init__(self, examples: int, seed: int):
        self.examples = examples
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields, 0 at first."""
        self.epoch = epoch

    def indices(self, epoch: int) -> Tensor:
        """Return the ids of the examples in the order of that epoch, int64 [examples]."""
        return torch.randperm(self.examples, generator=Generator().manual_seed(derived_seed(self.seed, epoch)))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        return ((epoch, index) for index in self.indices(epoch).tolist())

    def __len__(self) -> int:
        return self.examples


class PartOfBatches(BatchSampler):
    """This process's part of what is shown at once: the parts of all processes, by rank, are that of one process.

    Args:
        order: of the examples.
        batch_size: of all processes together.
        at_once: into how many examples a batch is divided, one after the other; a divisor of its size, and a multiple
            of the number of processes.
        drop_last: whether a remainder that makes no whole batch is dropped, or is the last batch, in one: then
            ``at_once`` is the batch size, and the remainder a multiple of the number of processes too.
    """

    def __init__(self, order: EpochOrder, batch_size: int, at_once: int, drop_last: bool = True):
        super().__init__(order, batch_size, drop_last)
        self.at_once = at_once

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return (part for batch in super().__iter__() for part in self._parts(batch))

    def _parts(self, batch: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
        at_once = min(self.at_once, len(batch))  # of a last batch, less
        size = at_once // processes()
        return (batch[start : start + size] for start in range(rank() * size, len(batch), at_once))

    def __len__(self) -> int:
        return super().__len__() * (self.batch_size // self.at_once)


class AugmentedSplit(Dataset):
    """A split for training: ``dataset[epoch, index]`` is ``(input, label, index)``, the input augmented.

    What is drawn for an example follows from the seed, the epoch and the index; torch's global random state is left as
    it was found. Use it with :class:`EpochOrder`. A loader asks for a whole batch, which is made at once where inputs
    are in memory and ``augment`` is composed of transforms, with the same values.

    Args:
        split: the examples.
        augment: draws from torch's global CPU generator only, and is picklable where worker processes are spawned.
        seed: of the run.
    """

    def __init__(self, split: Split, augment: Callable[[Tensor], Tensor], seed: int):
        self.split = split
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: tuple[int, int]) -> Example | UnreadableError:
        epoch, index = key
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would reseed the accelerators too, which are not forked here
            torch.default_generator.manual_seed(derived_seed(self.seed, epoch, index))
            return _example(self.split, index, self.augment)

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Batch | list[Example | UnreadableError]:
        if not (isinstance(self.split.inputs, Tensor) and isinstance(self.augment, v2.Compose)):
            return [self[key] for key in keys]
        indices = torch.tensor([index for _, index in keys])
        seeds = [derived_seed(self.seed, epoch, index) for epoch, index in keys]
        with torch.random.fork_rng(devices=[]):
            inputs = augmented(self.augment.transforms, self.split.inputs[indices], seeds)
        return Batch(inputs, self.split.labels[indices], indices)


class EvaluationSplit(Dataset):
    """A split for evaluation: ``dataset[index]`` is ``(input, label, index)``, the input normalised, nothing drawn.

    Args:
        split: the examples.
        normalise: an example, or a batch of them.
    """

    def __init__(self, split: Split, normalise: Callable[[Tensor], Tensor]):
        self.split = split
        self.normalise = normalise

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Example | UnreadableError:
        return _example(self.split, index, self.normalise)

    def __getitems__(self, indices: Sequence[int]) -> Batch | list[Example | UnreadableError]:
        if not isinstance(self.split.inputs, Tensor):
            return [self[index] for index in indices]
        taken = torch.tensor(indices)
        return Batch(self.normalise(self.split.inputs[taken]), self.split.labels[taken], taken)


def _example(split: Split, index: int, transform: Callable[[Tensor], Tensor]) -> Example | UnreadableError:
    try:
        read = split.inputs[index]
    except UnreadableError as error:
        return error
    return transform(read), split.labels[index], index


def collate(examples: Batch | Sequence[Example | UnreadableError], skip_unreadable: bool) -> Batch:
    """A batch of what a split gave, which may be one already.

    Args:
        examples: of the batch; an error stands for one that cannot be read.
        skip_unreadable: leave those out.

    Raises:
        UnreadableError: the first of them, where none may be left out or none is left.
    """
    if isinstance(examples, Batch):
        return examples
    readable = [example for example in examples if not isinstance(example, UnreadableError)]
    if len(readable) < len(examples) and not (skip_unreadable and readable):
        raise next(example for example in examples if isinstance(example, UnreadableError))
    inputs, labels, indices = zip(*readable, strict=True)
    return Batch(torch.stack(inputs), torch.stack(labels), torch.tensor(indices))


def derived_seed(*parts: int) -> int:
    """Hash integers to 64 bits, alike on every machine and in every process."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")
