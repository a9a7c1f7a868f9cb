import numpy as np
import pytest

from featcache.errors import NonFiniteFeatureError
from featcache.evaluation.data import make_data
from featcache.metrics.result import Coverage


def small(features=None, **changes):
    arguments = {
        "row_video": [2, 0, 2, 1, 0, 2],
        "videos": ["a", "b", "c"],
        "labels": ["walk", None, "jump"],
        "splits": ["train", "train", "test"],
        "failed": {"test": 2, "val": 1},
    } | changes
    return make_data(np.arange(12.0).reshape(6, 2) if features is None else features, **arguments)


def test_rows_are_grouped_by_video_in_their_order():
    data = small()
    assert data.row_video.tolist() == [0, 0, 1, 2, 2, 2]
    assert data.features[:, 0].tolist() == [2, 8, 6, 0, 4, 10]
    assert data.features.dtype == np.float32
    assert data.classes == ("jump", "walk")
    assert data.labels.tolist() == [1, -1, 0]
    assert data.coverage == {
        "train": Coverage(ok=2, failed=0, total=2, unlabelled=1),
        "test": Coverage(ok=1, failed=2, total=3),
        "val": Coverage(ok=0, failed=1, total=1),
    }
    assert repr(data).startswith("ProbeData(features=float32[6, 2], videos=3, classes=2")


def test_rows_of_some_videos():
    rows, counts = small().rows_of(np.array([2, 0]))
    assert rows.tolist() == [3, 4, 5, 0, 1]
    assert counts.tolist() == [3, 2]
    np.testing.assert_allclose(small().video_means(np.array([2, 0])), [[14 / 3, 17 / 3], [5, 6]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused(bad):
    features = np.zeros((6, 2))
    features[3, 1] = bad
    with pytest.raises(NonFiniteFeatureError, match=r"1 of 6 rows of feature 'features' .* first in video 'b'"):
        small(features)


def test_large_features_are_finite():
    assert small(np.full((6, 2), 3e38)).features.shape == (6, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row_video": [0, 0, 0, 1, 1, 1]}, "without rows"),
        ({"labels": ["walk", None]}, "shorter"),
        ({"row_video": [0, 1, 2]}, "row indices"),
    ],
)
def test_arrays_that_do_not_fit_are_a_broken_promise(changes, message):
    with pytest.raises((AssertionError, ValueError, IndexError), match=message):
        small(**changes)
