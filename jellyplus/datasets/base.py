"""What every data set is once it is loaded: two splits and the facts that the evidence records."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import torch
from torch import Tensor

from jellyplus._errors import HandedOnError, InputError


class UnreadableError(HandedOnError):
    """One example's file cannot be read; the message names it."""


class FileInputs(Protocol):
    """Inputs that are read from files when asked for, where a data set does not fit into memory.

    ``shape`` is (n, C, H, W) as the network sees examples; what is read may still have another height and width, which
    the transforms change. ``names`` are the files', relative to the data set's folder. Whatever decides the examples is
    in ``identity``: names and sizes.
    """

    shape: tuple[int, ...]
    names: Sequence[bytes]
    identity: bytes

    def __getitem__(self, index: int) -> Tensor:
        """Return one example, uint8 [C, height, width]; raise :class:`UnreadableError` where its file is damaged."""


@dataclass(frozen=True, eq=False)
class Split:
    """Examples and their classes.

    Args:
        inputs: images, uint8 [n, C, H, W] in 0..255, or read from files one by one; or event frames [n, T, C, H, W]
            that count events, uint8, or float32 where they were interpolated.
        labels: int64 [n], in 0..classes-1.
    """

    inputs: Tensor | FileInputs
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: Tensor) -> "Split":
        """The examples with these indices, int64 [m], in their order; of inputs in memory."""
        return Split(self.inputs[indices], self.labels[indices])

    def drawn(self, examples: int, seed: int) -> Tensor:
        """Indices of so many examples, int64 [examples]: one of every class, then a second of every class, and so on.

        Which ones follows from the seed, their content and their label, not from the order in which a layout lists
        them. In the order of the draw they are returned, so that equal examples make equal subsets, bit for bit, and
        fewer are the beginning of more. Where not every class gets another one, it is drawn which do.

        Content is the bytes of what is in memory. Of inputs in files it is their names, since to read them all would
        take minutes. Frames that were interpolated may differ by rounding between machines, and images that were saved
        with loss differ from the originals; then so does the draw.

        Args:
            examples: where there are no more, all are returned as they lie.
            seed: of the draw.
        """
        if examples >= len(self):
            return torch.arange(len(self))
        labels = self.labels.tolist()
        digests = [self._digest(index, seed) for index in range(len(self))]
        shuffled = sorted(range(len(self)), key=digests.__getitem__)
        met = Counter()
        turns = {}
        for index in shuffled:
            turns[index] = met[labels[index]]
            met[labels[index]] += 1
        return torch.tensor(sorted(shuffled, key=turns.__getitem__)[:examples])

    def _digest(self, index: int, seed: int) -> bytes:
        """Alike only for examples that can stand for each other."""
        in_memory = isinstance(self.inputs, Tensor)
        content = self.inputs[index].contiguous().numpy() if in_memory else self.inputs.names[index]
        digest = hashlib.blake2b(repr((seed, int(self.labels[index]))).encode(), digest_size=16)
        digest.update(content)
        return digest.digest()


@dataclass(frozen=True, eq=False)
class DataSet:
    """A training and a test split.

    Args:
        name: the name it is loaded by.
        classes: number of classes.
        train, test: the splits.
        kind: ``"images"`` or ``"events"``.
        stand_in: it takes the place of a real data set, so what is measured on it is evidence for the code alone.
        mean, std: per channel, in the 0..1 scale, for normalising images. Events keep their counts: 0 and 1 here.
        source: where the examples come from, for the evidence.
        skip_unreadable: what happens to an example whose file cannot be read: left out and counted, or the run stops.
        manifest: which recordings are in which split, where the data set has no official one:
            ``{"split": ..., "train": [names], "test": [names]}``.
    """

    name: str
    classes: int
    train: Split
    test: Split
    kind: Literal["images", "events"]
    stand_in: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    skip_unreadable: bool = False
    manifest: dict | None = None

    def first(self, examples: int, seed: int = 0) -> "DataSet":
        """The first so many examples of each split, in an order from ``seed`` in which classes take turns.

        See :meth:`Split.drawn`. There is no manifest: it would be that of the whole.

        Raises:
            InputError: there are fewer than classes, or inputs are read from files one by one.
        """
        self._check_drawn("examples", examples)
        train, test = (split.at(split.drawn(examples, seed)) for split in (self.train, self.test))
        return dataclasses.replace(self, train=train, test=test, manifest=None)

    def held_out(self, examples: int) -> "DataSet":
        """So many training examples in place of the test split, and the others as the training split, as they lie.

        They are drawn with classes in turns (:meth:`Split.drawn`). The test split is not in it.

        Raises:
            InputError: there are fewer than classes, none is left to train with, or inputs are read from files.
        """
        self._check_drawn("validation", examples)
        if examples >= len(self.train):
            raise InputError(
                f"data.validation is {examples} and {self.name} has {len(self.train)} training examples: state fewer, "
                "so that some are left to train with"
            )
        held = self.train.drawn(examples, seed=0)
        left = torch.ones(len(self.train), dtype=torch.bool)
        left[held] = False
        train = self.train.at(left.nonzero().flatten())
        return dataclasses.replace(self, train=train, test=self.train.at(held), manifest=None)

    def _check_drawn(self, name: str, examples: int) -> None:
        if not isinstance(self.train.inputs, Tensor):
            raise InputError(f"data.{name} is for data sets in memory, and {self.name} is read from files: state null")
        if examples < self.classes:
            raise InputError(
                f"data.{name} is {examples} and {self.name} has {self.classes} classes: state as many or more, so "
                "that none is left out"
            )

    @cached_property
    def fingerprint(self) -> str:
        """The sha256, in hexadecimal, of all labels and inputs; of inputs in files, of their names and sizes."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            inputs = split.inputs
            content = inputs.contiguous().numpy() if isinstance(inputs, Tensor) else inputs.identity
            digest.update(repr(tuple(inputs.shape)).encode())
            digest.update(split.labels.numpy())
            digest.update(content)
        return digest.hexdigest()

    def counts(self) -> dict:
        """Return what the evidence records: examples per split, the smallest and the largest class, the source."""
        return {
            "name": self.name,
            "kind": self.kind,
            "source": self.source,
            "stand_in": self.stand_in,
            "classes": self.classes,
            "train": self._count(self.train),
            "test": self._count(self.test),
        }

    def _count(self, split: Split) -> dict:
        per_class = split.labels.bincount(minlength=self.classes)
        return {
            "examples": len(split),
            "per_class_min": int(per_class.min()),
            "per_class_max": int(per_class.max()),
        }
