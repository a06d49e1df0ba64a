"""What every data set is once it is loaded: two splits in memory and the facts that the evidence records."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Split:
    """Examples and their classes.

    Args:
        inputs: uint8; images [n, C, H, W] in 0..255, or event frames [n, T, C, H, W] that count events.
        labels: int64 [n], in 0..classes-1.
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


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
