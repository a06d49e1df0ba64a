"""Paired differences against hand arithmetic and tables."""

import math

import pandas as pd
import pytest

from jellyplus.reproduction.paired import Difference, difference, holm


def test_mean_interval_and_p_are_those_of_the_book():
    found = difference([1.0, 2.0, 3.0])
    error = 1 / 3**0.5
    reach = 4.302652729911275 * error  # t of 97.5 % with two degrees of freedom, from a table
    t = 2 / error  # with two degrees of freedom P(|t| > x) = 1 - x / sqrt(x^2 + 2)
    assert (found.pairs, found.mean) == (3, 2)
    assert (found.low, found.high) == pytest.approx((2 - reach, 2 + reach))
    assert found.p == pytest.approx(1 - t / (t**2 + 2) ** 0.5)


def test_two_pairs_have_an_interval_and_no_test():
    found = difference([1.0, 3.0])
    reach = 12.706204736174698 * 1  # t of 97.5 % with one degree of freedom, from a table
    assert (found.low, found.high) == pytest.approx((2 - reach, 2 + reach))
    assert found.p is None


DECIMAL = [76.43 - 74.45, 45.29 - 43.31, 63.19 - 61.21]  # equal but for how a computer writes them


@pytest.mark.parametrize(("given", "mean"), [([], None), ([1.5], 1.5), ([1.5, 1.5, 1.5], 1.5), (DECIMAL, 1.98)])
def test_one_or_equal_differences_have_neither(given, mean):
    found = difference(given)
    assert found == Difference(len(given), found.mean)
    assert found.mean == (mean and pytest.approx(mean))


def test_holm_is_that_of_the_definition():
    """Holm (1979): the smallest p times m, the next times m - 1, never below the one before; nan counts for nothing."""
    p = pd.Series([0.01, math.nan, 0.04, 0.03, 0.005])
    assert holm(p).tolist() == pytest.approx([0.03, math.nan, 0.06, 0.06, 0.02], nan_ok=True)
    assert holm(pd.Series([0.9, 0.8])).tolist() == [1.0, 1.0]
