"""Exact permutation tests of small groups of numbers and of few pairs."""

import itertools
from collections.abc import Sequence

_ROUNDING = 1e-9


def permutation_p(smaller: Sequence[float], larger: Sequence[float]) -> float:
    """One-sided p of "the mean of ``larger`` is above that of ``smaller``", over all ways to form the two groups.

    If the groups mean nothing, each way of choosing the first group out of all numbers is equally likely; p is the
    share of ways whose difference of means is at least the observed one. It is never below one over the number of ways,
    which is 20 for three against three.

    Args:
        smaller: Numbers of the group with the smaller mean, as claimed; at least one.
        larger: Numbers of the other group; at least one.
    """
    numbers = [*smaller, *larger]
    count, total = len(smaller), sum(numbers)

    def difference(first: Sequence[float]) -> float:
        return (total - sum(first)) / (len(numbers) - count) - sum(first) / count

    observed = difference(smaller)
    ways = [difference(first) for first in itertools.combinations(numbers, count)]
    return sum(way >= observed - _ROUNDING for way in ways) / len(ways)


def sign_flip_p(differences: Sequence[float]) -> float:
    """One-sided p of "the differences are above 0 on average", over all ways to give them other signs.

    If the two sides of each pair mean nothing, both signs of each difference are equally likely; p is the share of the
    2^n ways whose sum is at least the observed one. Of the signs alone, 1 and -1, this is the sign test.

    Args:
        differences: One difference for each pair; 1 to 20 of them.
    """
    assert 0 < len(differences) <= 20, f"{len(differences)} differences cannot be tested in all ways"
    observed = sum(differences)
    sums = [0.0]
    for each in differences:
        sums = [total + sign * each for total in sums for sign in (1, -1)]
    return sum(way >= observed - _ROUNDING for way in sums) / len(sums)
