import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from featcache.metrics.splits import fold_numbers, hold_out

labels_of = st.lists(st.integers(0, 6), min_size=2, max_size=80).map(np.array)


@given(labels=labels_of, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_every_class_keeps_a_training_video(labels, fraction, seed):
    held = hold_out(labels, fraction=fraction, seed=seed)
    for label in np.unique(labels):
        size, count = (labels == label).sum(), held[labels == label].sum()
        assert count < size
        assert count == 0 if size == 1 else abs(count - fraction * size) <= max(0.5, 1 - fraction * size, 1)
        assert size == 1 or count >= 1
    np.testing.assert_array_equal(held, hold_out(labels, fraction=fraction, seed=seed))


def test_seeds_hold_out_other_videos():
    labels = np.repeat([0, 1], 50)
    one, other = (hold_out(labels, fraction=0.2, seed=seed) for seed in (0, 1))
    assert one.sum() == other.sum() == 20
    assert (one != other).any()


@given(labels=labels_of, num_folds=st.integers(2, 10), seed=st.integers(0, 5))
def test_folds_are_balanced(labels, num_folds, seed):
    folds = fold_numbers(labels, num_folds=num_folds, seed=seed)
    for part in (folds, *(folds[labels == label] for label in np.unique(labels))):
        sizes = np.bincount(part, minlength=num_folds)
        assert sizes.max() - sizes.min() <= 1


def test_as_many_folds_as_videos_is_leave_one_out():
    assert sorted(fold_numbers(np.array([0, 0, 1, 2]), num_folds=4, seed=3)) == [0, 1, 2, 3]


grouped = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=2, max_size=80).map(np.array)


@given(rows=grouped, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_no_group_is_held_out_in_part_and_every_class_keeps_a_training_video(rows, fraction, seed):
    labels, groups = rows.T
    held = hold_out(labels, fraction=fraction, seed=seed, groups=groups)
    assert not set(groups[held]) & set(groups[~held])
    assert set(labels[~held]) == set(labels)


@given(rows=grouped, num_folds=st.integers(2, 8), seed=st.integers(0, 5))
def test_folds_never_split_a_group(rows, num_folds, seed):
    labels, groups = rows.T
    num_folds = min(num_folds, len(np.unique(groups)))
    folds = fold_numbers(labels, num_folds=num_folds, seed=seed, groups=groups)
    assert all(len(np.unique(folds[groups == group])) == 1 for group in groups)
    assert len(np.unique(folds)) == num_folds


def test_equal_groups_are_dealt_evenly_within_each_class():
    labels, groups = np.repeat([0, 1, 2], 40), np.repeat(np.arange(30), 4)
    folds = fold_numbers(labels, num_folds=5, seed=0, groups=groups)
    for label in range(3):
        assert np.bincount(folds[labels == label]).tolist() == [8] * 5
    held = hold_out(labels, fraction=0.2, seed=0, groups=groups)
    assert [held[labels == label].sum() for label in range(3)] == [8, 8, 8]


def test_groups_of_one_video_are_no_groups():
    labels = np.arange(40) % 3
    for groups in (None, np.arange(40)[::-1].copy()):
        held = hold_out(labels, fraction=0.2, seed=1, groups=groups)
        np.testing.assert_array_equal(held, hold_out(labels, fraction=0.2, seed=1))
        np.testing.assert_array_equal(
            fold_numbers(labels, num_folds=5, seed=1, groups=groups), fold_numbers(labels, num_folds=5, seed=1)
        )
