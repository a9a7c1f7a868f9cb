"""Numbers instead of classes, and a part of the training videos."""

import numpy as np
import pytest

from featcache.errors import ConfigError, ManifestError
from featcache.evaluation.data import make_data
from featcache.evaluation.run import run_probe
from featcache.evaluation.settings import RidgeSettings
from featcache.metrics.intervals import mean_error
from featcache.metrics.settings import IntervalSettings
from featcache.testing.probes import names_of, numbered, relabel, separable_data


def test_ridge_is_the_closed_form():
    data = numbered(separable_data(spread=0.5), np.random.default_rng(1).normal(size=56))
    train, test = np.arange(24), np.arange(24, 56)
    x, y = data.video_means(train).astype(np.float64), data.targets[train]
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    z = (x - mean) / deviation
    weight = np.linalg.solve(z.T @ z + 10 * np.eye(8), z.T @ (y - y.mean()))
    predicted = (data.video_means(test) - mean) / deviation @ weight + y.mean()
    squares = (predicted - data.targets[test]) ** 2
    result = run_probe("ridge", data, RidgeSettings(alphas=(10.0,)))
    assert result.splits["test_seen"].metrics["mse"].value == pytest.approx(squares[:16].mean(), rel=1e-5)
    assert result.splits["test_unseen"].metrics["mse"].value == pytest.approx(squares[16:].mean(), rel=1e-5)
    assert result.table[0]["alpha"] == 10


def test_intervals_of_errors_agree_with_drawing_one_by_one():
    rng = np.random.default_rng(0)
    errors = rng.exponential(size=(3, 40))
    found = mean_error(errors, intervals=IntervalSettings(num_resamples=4000))
    draws = [errors[rng.integers(3, size=3)].mean(axis=0)[rng.integers(40, size=40)].mean() for _ in range(4000)]
    assert found.value == pytest.approx(errors.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.03)


def test_a_word_is_no_number():
    with pytest.raises(ManifestError, match=r"label 'tall' of video 'b' in column 'label' of arrays is not a number"):
        make_data(np.eye(3), row_video=[0, 1, 2], videos="abc", labels=["1.5", "tall", None], numbers=True)
    with pytest.raises(ManifestError, match="'nan'"):
        make_data(np.eye(3), row_video=[0, 1, 2], videos="abc", labels=["1.5", "nan", None], numbers=True)


def test_videos_without_a_number_are_counted_and_not_scored():
    data = separable_data()
    labels = [str(number) for number in range(56)]
    labels[-1] = labels[0] = None
    data = make_data(
        data.features, row_video=data.row_video, videos=data.videos, labels=labels, splits=data.splits, numbers=True
    )
    result = run_probe("ridge", data)
    assert result.splits["test_unseen"].num_videos == 15
    assert result.splits["test_unseen"].coverage.unlabelled == 1
    assert result.train.unlabelled == 1
    assert '"mse"' in result.to_json()


def test_low_shot_learns_from_the_first_of_each_class():
    data = separable_data(spread=0.3)  # 24 training videos of 4 classes in turn
    first = run_probe("knn", data, low_shot=0.34)  # two of six
    kept = [name if place < 8 or place >= 24 else None for place, name in enumerate(names_of(data))]
    plain = run_probe("knn", relabel(data, kept))
    assert {s: n.metrics for s, n in first.splits.items()} == {s: n.metrics for s, n in plain.splits.items()}
    assert first.protocol == "trained on the first 34 % of each class of split 'train'"
    assert "8 of 24 training videos are used: low_shot 0.34" in first.notes
    assert "4 of 24" in " ".join(run_probe("knn", data, low_shot=0.01).notes)  # one of each class


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_low_shot_is_a_share(share):
    with pytest.raises(ConfigError, match="low-shot fraction"):
        run_probe("knn", separable_data(), low_shot=share)


def test_low_shot_needs_a_training_split():
    with pytest.raises(ManifestError, match="low_shot keeps a part of the training split"):
        run_probe("knn", separable_data(splits=False), low_shot=0.1)
