"""Exact tests of pairs against drawing up all ways."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.metrics.permutation import sign_flip_p


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=7))
def test_a_sign_flip_test_counts_all_ways(differences):
    ways = [
        sum(sign * each for sign, each in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    expected = sum(way >= sum(differences) for way in ways) / len(ways)
    assert sign_flip_p(differences) == pytest.approx(expected)
    assert sign_flip_p(differences) >= 1 / len(ways)


@given(st.integers(1, 12), st.data())
def test_of_signs_it_is_the_sign_test(num, data):
    above = data.draw(st.integers(0, num))
    expected = sum(math.comb(num, each) for each in range(above, num + 1)) / 2**num
    assert sign_flip_p([1] * above + [-1] * (num - above)) == pytest.approx(expected)


def test_sums_that_differ_by_rounding_are_alike():
    assert sign_flip_p([0.1, 0.2, -0.3]) == 5 / 8  # the sum is 0 but for rounding, as that of the opposite signs
