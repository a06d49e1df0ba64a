"""What is kept of numbers that arrive in batches: a mean, or a histogram with mean and variance."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Distribution", "Mean"]


class Mean:
    """A mean over batches of any size; nan before the first."""

    def __init__(self) -> None:
        self.sum, self.count = 0.0, 0

    def add(self, total: float, count: int) -> None:
        """So many numbers, by their sum."""
        self.sum += total
        self.count += count

    @property
    def value(self) -> float:
        """Of all numbers so far."""
        return self.sum / self.count if self.count else math.nan


class Distribution:
    """Histogram, mean and variance of numbers that arrive in batches and are not kept.

    A bin holds left edge <= x < right edge, and the last one its right edge too, as in ``numpy.histogram``. Mean and
    variance are those of all numbers, also of those outside the bins.

    Args:
        bin_edges: increasing.

    Raises:
        ValueError: fewer than two edges, or edges that do not increase.

    >>> distribution = Distribution([0.0, 0.5, 1.0])
    >>> distribution.add(torch.tensor([-1.0, 0.0, 0.25, 1.0]))
    >>> distribution.add(torch.tensor([2.25]))
    >>> distribution.counts, distribution.underflow, distribution.overflow
    ([2, 1], 1, 1)
    >>> distribution.mean, distribution.variance
    (0.5, 1.175)
    """

    def __init__(self, bin_edges: Sequence[float] | Tensor):
        self.bin_edges = torch.as_tensor(bin_edges, dtype=torch.float64, device="cpu")
        if self.bin_edges.dim() != 1 or len(self.bin_edges) < 2 or not (self.bin_edges.diff() > 0).all():
            raise ValueError(f"bin_edges must be two or more increasing numbers, got {self.bin_edges.tolist()}")
        self._counts = torch.zeros(len(self.bin_edges) + 1, dtype=torch.int64, device="cpu")
        self._mean = self._squares = 0.0

    def add(self, x: Tensor) -> None:
        """Count the elements of ``x``; any shape, any device."""
        x = x.detach().flatten().double()
        if not len(x):
            return
        edges = self.bin_edges.to(x.device)
        bins = torch.bucketize(x, edges, right=True) - (x == edges[-1]).long()
        self._add_moments(len(x), x.mean().item(), x.var(correction=0).item() * len(x))
        self._counts += bins.bincount(minlength=len(self._counts)).cpu()

    def _add_moments(self, count: int, mean: float, squares: float) -> None:
        """Two groups' means and sums of squared deviations as one (Chan et al. 1979): no large numbers cancel."""
        before, total = self.count, self.count + count
        self._squares += squares + (mean - self._mean) ** 2 * before * count / total
        self._mean += (mean - self._mean) * count / total

    @property
    def counts(self) -> list[int]:
        """Numbers in each bin."""
        return self._counts[1:-1].tolist()

    @property
    def underflow(self) -> int:
        """Numbers below the first edge."""
        return int(self._counts[0])

    @property
    def overflow(self) -> int:
        """Numbers above the last edge, and those that are nan."""
        return int(self._counts[-1])

    @property
    def count(self) -> int:
        """All numbers."""
        return int(self._counts.sum())

    @property
    def mean(self) -> float:
        """Of all numbers; nan where there are none."""
        return self._mean if self.count else math.nan

    @property
    def variance(self) -> float:
        """Mean squared deviation, divided by n; nan where there are no numbers."""
        return self._squares / self.count if self.count else math.nan
