"""Paired differences: what one row has over another with the same seeds, with an interval, a test and a correction."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.stats

__all__ = ["CONFIDENCE", "LEAST_PAIRS", "Difference", "difference", "holm", "verdicts"]

CONFIDENCE = 0.95
LEAST_PAIRS = 3  #: for a test: two seeds are one degree of freedom
_PLACES = 9  # of percent: a test set of a billion images


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences.

    Args:
        pairs: how many there are.
        mean: None of none.
        low, high: its confidence interval (Student's t); None of fewer than two, or where all are equal.
        p: of the two-sided t-test that it is 0; None there too, and of fewer than :data:`LEAST_PAIRS`.
    """

    pairs: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


def difference(differences: Sequence[float]) -> Difference:
    """Return what ``differences``, one a seed, say; what is apart by rounding alone is equal."""
    differences = [round(value, _PLACES) for value in differences]
    pairs = len(differences)
    if not pairs:
        return Difference(0)
    mean = statistics.fmean(differences)
    if len(set(differences)) < 2:  # no deviation, and t no value
        return Difference(pairs, mean)
    reach = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, pairs - 1) * statistics.stdev(differences) / math.sqrt(pairs)
    p = float(scipy.stats.ttest_1samp(differences, 0).pvalue) if pairs >= LEAST_PAIRS else None
    return Difference(pairs, mean, mean - reach, mean + reach, p)


def holm(p: pd.Series) -> pd.Series:
    """Holm's step-down adjusted p-values (Holm, 1979); those that are nan stay so, and count for nothing."""
    known = p.dropna().sort_values()
    factors = np.arange(len(known), 0, -1)
    return (known * factors).cummax().clip(upper=1).reindex(p.index)


def verdicts(pairs: pd.Series, p: pd.Series, holds: pd.Series, yes: str, no: str) -> pd.Series:
    """Return what each row's difference says: ``yes`` or ``no``, by ``holds``, where it is more than chance.

    Elsewhere ``undecided``, ``too few seeds`` where there is no test, and None where there are no pairs.

    Args:
        pairs: how many.
        p: corrected.
        holds, yes, no: the sign of the difference, in words.
    """
    tests = {"too few seeds": pairs < LEAST_PAIRS, "undecided": ~(p < 1 - CONFIDENCE), yes: holds}
    said = np.select(list(tests.values()), list(tests), no)
    return pd.Series(said, pairs.index, dtype=object).where(pairs > 0, None)
