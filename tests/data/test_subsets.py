from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.data.subsets import group_split, low_shot, nested_subset
from featcache.errors import ConfigError

labels_lists = st.lists(st.sampled_from("abcdé"), max_size=60)


def is_increasing(indices: np.ndarray) -> bool:
    return indices.dtype == np.int64 and bool((np.diff(indices) > 0).all())


@given(labels_lists, st.integers(0, 3), st.data())
def test_subsets_are_nested_and_balanced(labels, seed, data):
    small = data.draw(st.integers(0, len(labels)))
    large = data.draw(st.integers(small, len(labels)))
    few, many = (nested_subset(labels, num_items=n, seed=seed) for n in (small, large))
    assert is_increasing(few)
    assert (len(few), len(many)) == (small, large)
    assert set(few) <= set(many)
    total, chosen = Counter(labels), Counter(labels[i] for i in few)
    most = max(chosen.values(), default=0)
    assert all(chosen[label] in {most, most - 1, total[label]} for label in total), "only a used-up class lags behind"


def test_subset_depends_on_the_seed_alone():
    labels = ["a"] * 50 + ["b"] * 50
    first = nested_subset(labels, num_items=20)
    assert first.tolist() == nested_subset(labels, num_items=20).tolist()
    assert first.tolist() != nested_subset(labels, num_items=20, seed=1).tolist()
    assert Counter(labels[i] for i in first) == {"a": 10, "b": 10}


def test_incomplete_rounds_favour_no_class():
    labels = ["a", "b", "c"] * 10
    extras = Counter(labels[nested_subset(labels, num_items=1, seed=seed)[0]] for seed in range(90))
    assert min(extras.values()) > 10


@pytest.mark.parametrize("num_items", [-1, 4])
def test_subset_size_is_checked(num_items):
    with pytest.raises(ConfigError, match="ask for 0 to 3"):
        nested_subset(["a", "b", "a"], num_items=num_items)


def test_low_shot_first_is_scales_protocol():
    labels = list("aaaaaaaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbcc")
    chosen = low_shot(labels, fraction=0.1, order="first")
    assert chosen.tolist() == [0, 1, 25, 44]  # max(1, int(0.1 * n)) of 25, 19 and 2


@given(labels_lists.filter(len), st.floats(0.01, 1), st.floats(0.01, 1), st.sampled_from(["first", "random"]))
def test_low_shot_takes_the_same_fraction_of_each_class(labels, one, other, order):
    few, many = (low_shot(labels, fraction=f, order=order) for f in sorted([one, other]))
    assert is_increasing(few)
    assert set(few) <= set(many)
    for label, total in Counter(labels).items():
        count = sum(labels[i] == label for i in few)
        assert count == max(1, int(min(one, other) * total + 1e-9))


def test_low_shot_forgives_rounding():
    assert len(low_shot(["a"] * 100, fraction=0.29)) == 29


@pytest.mark.parametrize("fraction", [0, -0.5, 1.5])
def test_low_shot_fraction_is_checked(fraction):
    with pytest.raises(ConfigError, match=r"must be in \(0, 1\]"):
        low_shot(["a"], fraction=fraction)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("uvwxyz")), min_size=1, max_size=60), st.floats(0.05, 1)
)
def test_low_shot_takes_whole_groups(rows, fraction):
    labels, groups = [label for label, _ in rows], [label + group for label, group in rows]
    chosen = low_shot(labels, fraction=fraction, order="first", groups=groups)
    assert is_increasing(chosen)
    chosen = chosen.tolist()
    assert not {groups[i] for i in chosen} & {groups[i] for i in range(len(rows)) if i not in chosen}
    for label, total in Counter(labels).items():
        mine = [i for i in chosen if labels[i] == label]
        assert len(mine) <= max(1, int(fraction * total + 1e-9)) or len({groups[i] for i in mine}) == 1
        assert labels.index(label) in mine
    alone = [str(number) for number in range(len(rows))]
    assert low_shot(labels, fraction=fraction, order="first", groups=alone).tolist() == (
        low_shot(labels, fraction=fraction, order="first").tolist()
    )


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=60), st.floats(0.05, 0.95), st.integers(0, 3))
def test_group_split_never_splits_a_group(groups, fraction, seed):
    if len(set(groups)) < 2:
        with pytest.raises(ConfigError, match="cannot be split"):
            group_split(groups, test_fraction=fraction, seed=seed)
        return
    train, test = group_split(groups, test_fraction=fraction, seed=seed)
    assert sorted([*train, *test]) == list(range(len(groups)))
    assert not {groups[i] for i in train} & {groups[i] for i in test}
    assert len(train)
    assert len(test)


def test_group_split_meets_the_fraction():
    groups = [str(i // 4) for i in range(400)]
    train, test = group_split(groups, test_fraction=0.2)
    assert (len(train), len(test)) == (320, 80)
    with pytest.raises(ConfigError, match="test_fraction"):
        group_split(groups, test_fraction=1.0)
