"""Accuracies against torchmetrics, intervals against a plain bootstrap and against theory."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_accuracy

from featcache.errors import ConfigError
from featcache.metrics.intervals import (
    accuracies,
    mean_error,
    nearer_than_truth,
    paired_difference,
    rank_of_truth,
    recalls,
)
from featcache.metrics.settings import IntervalSettings
from featcache.seeding import rng_for


def test_equals_torchmetrics():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(1, 200, 8))
    labels = rng.integers(8, size=200)
    found = accuracies(rank_of_truth(scores, labels), labels, num_classes=8, intervals=IntervalSettings())
    assert list(found) == ["top1", "top5", "mean_class"]
    predicted, truth = torch.from_numpy(scores[0]), torch.from_numpy(labels)
    for name, top, average in (("top1", 1, "micro"), ("top5", 5, "micro"), ("mean_class", 1, "macro")):
        theirs = multiclass_accuracy(predicted, truth, num_classes=8, top_k=top, average=average)
        assert found[name].value == pytest.approx(float(theirs), abs=1e-6)
        assert found[name].low <= found[name].value <= found[name].high


@pytest.mark.parametrize(
    ("num_classes", "names"),
    [
        (2, ["top1", "mean_class"]),
        (3, ["top1", "top2", "mean_class"]),
        (6, ["top1", "top5", "mean_class"]),
        (400, ["top1", "top5", "mean_class"]),
    ],
)
def test_top_n_is_named_and_below_the_number_of_classes(num_classes, names):
    ranks, labels = np.array([[0, 1, 0]]), np.array([0, 1, 1])
    assert list(accuracies(ranks, labels, num_classes=num_classes, intervals=IntervalSettings())) == names


@given(
    scores=st.lists(st.lists(st.sampled_from([-np.inf, 0.0, 1.0, 2.0, np.nan]), min_size=4, max_size=4), min_size=1),
    label=st.integers(0, 3),
)
def test_rank_is_the_place_in_a_stable_sort(scores, label):
    table = np.array([scores])
    ranks = rank_of_truth(table, np.full(len(scores), label))
    for row, rank in zip(table[0], ranks[0], strict=True):
        if np.isnan(row).any() or np.isneginf(row[label]):
            assert rank == 4
        else:
            assert list(np.argsort(-row, kind="stable")).index(label) == rank


def plain_bootstrap(ranks, labels, num_resamples, rng):
    """Draw videos and seeds one by one."""
    values = []
    for _ in range(num_resamples):
        videos = rng.integers(ranks.shape[1], size=ranks.shape[1])
        seeds = rng.integers(ranks.shape[0], size=ranks.shape[0])
        correct = (ranks[seeds][:, videos] == 0).mean(axis=0)
        by_class = [correct[labels[videos] == label].mean() for label in np.unique(labels[videos])]
        values.append((correct.mean(), (ranks[seeds][:, videos] < 2).mean(), np.mean(by_class)))
    return np.quantile(values, [0.025, 0.975], axis=0)


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_intervals_equal_a_plain_bootstrap(num_seeds):
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=60)
    ranks = rng.choice(3, p=[0.6, 0.3, 0.1], size=(num_seeds, 60))
    intervals = IntervalSettings(num_resamples=20_000)
    found = accuracies(ranks, labels, num_classes=3, intervals=intervals)
    low, high = plain_bootstrap(ranks, labels, 4000, rng)
    assert list(found) == ["top1", "top2", "mean_class"]
    for place, metric in enumerate(found.values()):
        assert metric.low == pytest.approx(low[place], abs=0.02)
        assert metric.high == pytest.approx(high[place], abs=0.02)


def test_intervals_cover_the_truth():
    rng = np.random.default_rng(0)
    labels = np.zeros(150, dtype=np.int64)
    intervals = IntervalSettings(num_resamples=1000)
    covered = 0
    for _ in range(300):
        ranks = (rng.random((1, 150)) > 0.7).astype(np.int64)
        metric = accuracies(ranks, labels, num_classes=2, intervals=intervals)["top1"]
        covered += metric.low <= 0.7 <= metric.high
    assert 0.90 <= covered / 300 <= 0.99


def test_intervals_repeat_by_seed():
    ranks, labels = np.array([[0, 1, 0, 2, 0, 0]]), np.array([0, 1, 1, 2, 2, 0])
    one, again, other = (
        accuracies(ranks, labels, num_classes=3, intervals=IntervalSettings(seed=seed))["mean_class"]
        for seed in (0, 0, 1)
    )
    assert one == again
    assert one != other


def test_chunks_of_resamples_cover_their_number(monkeypatch):
    rng = np.random.default_rng(0)
    ranks, labels = rng.integers(2, size=(3, 5000)), rng.integers(1200, size=5000)
    found = accuracies(ranks, labels, num_classes=1200, intervals=IntervalSettings(num_resamples=3000))
    assert found["top1"].low < found["top1"].value < found["top1"].high
    assert found["top1"].high - found["top1"].low < 0.04


@pytest.mark.parametrize("bad", [{"num_resamples": 0}, {"confidence": 1.0}])
def test_bad_settings(bad):
    with pytest.raises(ConfigError):
        IntervalSettings(**bad)


def simulated(seed, *, num_groups, num_clips=5):
    """Hits of videos whose group decides most of them: each group's chance is 0.2 or 1, so that the truth is 0.6."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(num_groups), num_clips)
    chance = rng.choice([0.2, 1.0], size=num_groups)
    return (rng.random(len(groups)) >= chance[groups]).astype(np.int64)[None], groups


@pytest.mark.parametrize("num_sets", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_intervals_over_groups_cover_the_truth_and_those_over_videos_do_not(num_sets):
    settings = IntervalSettings(num_resamples=400)
    covered = {True: 0, False: 0}
    for seed in range(num_sets):
        ranks, groups = simulated(seed, num_groups=60)
        labels = np.zeros(ranks.shape[1], np.int64)
        for by_group in covered:
            found = accuracies(ranks, labels, num_classes=2, intervals=settings, groups=groups if by_group else None)[
                "top1"
            ]
            covered[by_group] += found.low <= 0.6 <= found.high
    print(f"{num_sets} sets: covered by group {covered[True] / num_sets:.3f}, by video {covered[False] / num_sets:.3f}")
    assert covered[True] / num_sets == pytest.approx(0.95, abs=0.02 if num_sets == 1000 else 0.04)
    assert covered[False] / num_sets < 0.85


def test_a_resample_by_group_equals_a_plain_loop():
    rng = np.random.default_rng(0)
    ranks, labels, groups = rng.integers(0, 3, (2, 40)), rng.integers(0, 3, 40), rng.integers(0, 7, 40)
    settings = IntervalSettings(num_resamples=50)
    found = accuracies(ranks, labels, num_classes=3, intervals=settings, groups=groups)
    draws = rng_for(settings.seed, "bootstrap")
    num_groups = len(np.unique(groups))
    counts = draws.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=50)
    seeds = draws.multinomial(2, np.full(2, 0.5), size=50) / 2
    values = []
    for count, share in zip(counts, seeds, strict=True):
        members = zip(np.unique(groups), count, strict=True)
        chosen = np.concatenate([np.repeat(np.flatnonzero(groups == group), num) for group, num in members])
        values.append((share @ (ranks[:, chosen] == 0)).mean())
    low, high = np.quantile(values, [0.025, 0.975])
    assert (found["top1"].low, found["top1"].high) == pytest.approx((low, high))
    errors = rng.random((2, 40))
    mean = mean_error(errors, intervals=settings, groups=np.arange(40))
    assert mean.value == pytest.approx(errors.mean())
    assert mean.low < mean.value < mean.high


def test_recalls_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    scores = -rng.permuted(np.tile(np.arange(8.0), (2, 40, 1)), axis=2)
    scores[rng.random(scores.shape) < 0.2] = -np.inf
    labels, groups, ks = rng.integers(0, 8, 40), rng.integers(0, 7, 40), (3, 1, 5)
    settings = IntervalSettings(num_resamples=50)
    nearer = nearer_than_truth(scores, labels)
    for seed, video in np.ndindex(2, 40):
        assert nearer[seed, video] == -scores[seed, video, labels[video]]
    found = recalls(nearer, ks=ks, intervals=settings, groups=groups)
    assert list(found) == ["r@3", "r@1", "r@5"]
    draws = rng_for(settings.seed, "bootstrap")
    num_groups = len(np.unique(groups))
    counts = draws.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=50)
    seeds = draws.multinomial(2, np.full(2, 0.5), size=50) / 2
    for k in ks:
        values = []
        for count, share in zip(counts, seeds, strict=True):
            members = zip(np.unique(groups), count, strict=True)
            chosen = np.concatenate([np.repeat(np.flatnonzero(groups == group), num) for group, num in members])
            values.append((share @ (nearer[:, chosen] < k)).mean())
        low, high = np.quantile(values, [0.025, 0.975])
        assert found[f"r@{k}"].value == pytest.approx((nearer < k).mean())
        assert (found[f"r@{k}"].low, found[f"r@{k}"].high) == pytest.approx((low, high))


def test_a_difference_over_groups_is_as_uncertain_as_their_number_says():
    rng = np.random.default_rng(0)
    mine, theirs = rng.integers(0, 2, (2, 1, 20))
    settings = IntervalSettings(num_resamples=1000)
    single = paired_difference(mine, theirs, settings)
    copied = np.repeat(np.arange(20), 50)
    many = paired_difference(mine[:, copied], theirs[:, copied], settings, groups=copied)
    naive = paired_difference(mine[:, copied], theirs[:, copied], settings)
    assert (many.value, many.low, many.high) == pytest.approx((single.value, single.low, single.high))
    assert naive.high - naive.low < (many.high - many.low) / 4
