"""An exact permutation test of two small groups of numbers."""

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
