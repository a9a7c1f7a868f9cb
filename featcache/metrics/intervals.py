"""Accuracies and errors with bootstrap intervals over videos or groups of them (and over seeds)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featcache.metrics.settings import IntervalSettings
from featcache.metrics.splits import Groups
from featcache.seeding import rng_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """An accuracy in [0, 1], or an error, with its interval.

    Attributes:
        value: Mean over videos and seeds.
        low: Lower end of the percentile interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def rank_of_truth(scores: npt.NDArray[np.floating], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Number of classes that rank before the true one.

    Among equal scores the lower class index comes first. If the true class cannot be predicted (score -inf: no vote, or
    never seen in training) or a score is NaN, the true class ranks behind all classes: it counts as wrong, not as
    a lucky tie.

    Args:
        scores: [..., M, C], higher is better.
        labels: int64 [M].

    Returns:
        int64 [..., M] in [0, C].
    """
    num_classes = scores.shape[-1]
    truth = np.take_along_axis(scores, np.broadcast_to(labels[:, None], (*scores.shape[:-1], 1)), axis=-1)
    before = np.arange(num_classes) < labels[:, None]
    ranks = ((scores > truth) | ((scores == truth) & before)).sum(axis=-1)
    impossible = ~np.isfinite(truth[..., 0]) | np.isnan(scores).any(axis=-1)
    result: npt.NDArray[np.int64] = np.where(impossible, num_classes, ranks).astype(np.int64)
    return result


def nearer_than_truth(scores: npt.NDArray[np.floating], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Number of found videos that are nearer than the first of the true class.

    Args:
        scores: [..., M, C] of a retrieval: minus the number of videos that are nearer than the first of each class.
        labels: int64 [M].

    Returns:
        float64 [..., M]; infinity if no video of the true class was found.
    """
    truth = np.take_along_axis(scores, np.broadcast_to(labels[:, None], (*scores.shape[:-1], 1)), axis=-1)
    nearer: npt.NDArray[np.float64] = 0.0 - truth[..., 0].astype(np.float64)
    return nearer


def accuracies(
    ranks: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    *,
    num_classes: int,
    intervals: IntervalSettings,
    groups: Groups | None = None,
) -> Mapping[str, Metric]:
    """Top-1, top-n and mean-class accuracy with percentile bootstrap intervals.

    n is min(5, ``num_classes`` - 1) and is in the metric's name (``top5``, ``top3``); with two classes there is only
    ``top1``. ``mean_class`` is the mean over the classes present of their top-1 accuracies.

    A resample draws M of the M videos with replacement, the same for all metrics and seeds, and S of the S seeds with
    replacement. Metrics depend on a video only through its class and its outcome under each seed, so a resample is
    one multinomial draw over the distinct combinations, equal in distribution to drawing videos one by one. With few
    seeds the seeds' part of the spread is underestimated by (S - 1) / S; a perfect score has an interval of width 0.

    Args:
        ranks: int64 [S, M] from :func:`rank_of_truth`, one row per seed.
        labels: int64 [M].
        num_classes: Number of classes that can be predicted.
        intervals: Number of resamples, confidence and seed.
        groups: int64 [M], groups of nearly identical videos. A resample then draws as many groups as there are, each
            with all its videos. ``None``: each video is a group of its own.
    """
    num_seeds = len(ranks)
    cuts = dict.fromkeys((1, max(1, min(5, num_classes - 1))))
    outcome = sum((ranks >= cut).astype(np.int64) for cut in cuts)
    cells, cell = np.unique(np.vstack([labels[None], outcome]), axis=1, return_inverse=True)
    starts = np.flatnonzero(np.diff(cells[0], prepend=-1))  # np.unique sorts by label first
    hits = {f"top{cut}": (cells[1:] <= position).astype(np.float64) for position, cut in enumerate(cuts)}

    def measure(videos: npt.NDArray[np.int64], seeds: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
        """Metrics of resamples: ``videos`` [R, cells] counts, ``seeds`` [R, S] shares."""
        correct = {name: videos * (seeds @ hit) for name, hit in hits.items()}
        num_videos = videos.sum(axis=1)
        values = {name: right.sum(axis=1) / num_videos for name, right in correct.items()}
        size = np.add.reduceat(videos, starts, axis=1)
        by_class = np.add.reduceat(correct["top1"], starts, axis=1) / np.maximum(size, 1)
        values["mean_class"] = by_class.sum(axis=1) / (size > 0).sum(axis=1)
        return values

    return _with_intervals(measure, cell.reshape(-1), num_seeds, intervals, groups)


def recalls(
    nearer: npt.NDArray[np.floating],
    *,
    ks: Sequence[int],
    intervals: IntervalSettings,
    groups: Groups | None = None,
) -> Mapping[str, Metric]:
    """R@k: the share of videos of which fewer than k others are nearer than the first of their class.

    Args:
        nearer: float [S, M] from :func:`nearer_than_truth`, one row per seed.
        ks: Different numbers of neighbours.
        intervals: Number of resamples, confidence and seed; resamples are drawn as in :func:`accuracies`.
        groups: As in :func:`accuracies`.

    Returns:
        A metric by name, ``r@1``, ``r@5``, …, in the order of ``ks``.
    """
    num_missed = np.sum([nearer >= k for k in ks], axis=0)  # [S, M]: a miss at k is one at all smaller ones
    cells, cell = np.unique(num_missed, axis=1, return_inverse=True)
    hits = {f"r@{k}": (cells <= sum(other < k for other in ks)).astype(np.float64) for k in ks}

    def measure(videos: npt.NDArray[np.int64], seeds: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
        return {name: (videos * (seeds @ hit)).sum(axis=1) / videos.sum(axis=1) for name, hit in hits.items()}

    return _with_intervals(measure, cell.reshape(-1), len(nearer), intervals, groups)


def _with_intervals(
    measure: Callable[[npt.NDArray[np.int64], npt.NDArray[np.float64]], dict[str, npt.NDArray[np.float64]]],
    cell: npt.NDArray[np.int64],
    num_seeds: int,
    intervals: IntervalSettings,
    groups: Groups | None,
) -> Mapping[str, Metric]:
    """Metrics of all videos, with the quantiles of those of resamples.

    Args:
        measure: Gives metrics of resamples, by name, out of what :func:`resamples` yields.
        cell: int64 [M], the kind of each video, from 0; each kind has a video.
        num_seeds: Number of seeds S.
        intervals: Number of resamples, confidence and seed.
        groups: int64 [M], or ``None``.
    """
    value = measure(np.bincount(cell)[None], np.full((1, num_seeds), 1 / num_seeds))
    parts = [measure(videos, seeds) for videos, seeds in resamples(cell, num_seeds, intervals, groups)]
    tail = (1 - intervals.confidence) / 2
    result = {}
    for name, point in value.items():
        low, high = np.quantile(np.concatenate([part[name] for part in parts]), [tail, 1 - tail])
        result[name] = Metric(value=float(point[0]), low=float(low), high=float(high))
    return result


def mean_error(
    errors: npt.NDArray[np.floating], *, intervals: IntervalSettings, groups: Groups | None = None
) -> Metric:
    """The mean of errors with a percentile bootstrap interval, resampled as in :func:`accuracies`.

    Args:
        errors: float [S, M], e.g. the squared error of each video under each seed.
        intervals: Number of resamples, confidence and seed.
        groups: As in :func:`accuracies`.
    """
    num_seeds, num_videos = errors.shape
    parts = [
        ((seeds @ errors) * videos).sum(axis=1) / videos.sum(axis=1)
        for videos, seeds in resamples(np.arange(num_videos), num_seeds, intervals, groups)
    ]
    tail = (1 - intervals.confidence) / 2
    low, high = np.quantile(np.concatenate(parts), [tail, 1 - tail])
    return Metric(value=float(errors.mean()), low=float(low), high=float(high))


def paired_difference(
    mine: npt.NDArray[np.int64],
    theirs: npt.NDArray[np.int64],
    intervals: IntervalSettings,
    *,
    groups: Groups | None = None,
) -> Metric:
    """Difference of top-1 accuracy with a percentile interval over paired resamples of videos (or groups) and seeds.

    Args:
        mine: int64 [S, M] ranks of the true class.
        theirs: int64 [S, M], for the same seeds and videos.
        intervals: Number of resamples, confidence and seed.
        groups: int64 [M], as in :func:`accuracies`.
    """
    return difference_of_means(
        (mine == 0).astype(np.float64), (theirs == 0).astype(np.float64), intervals, groups=groups
    )


def difference_of_means(
    mine: npt.NDArray[np.floating],
    theirs: npt.NDArray[np.floating],
    intervals: IntervalSettings,
    *,
    groups: Groups | None = None,
    same_seeds: bool = True,
) -> Metric:
    """Difference of two means with a percentile interval over paired resamples of videos (or groups) and seeds.

    Args:
        mine: float [S, M], e.g. 1 for each video that is right and 0 for one that is wrong.
        theirs: float [T, M], for the same videos.
        intervals: Number of resamples, confidence and seed.
        groups: int64 [M], as in :func:`accuracies`.
        same_seeds: Whether the seeds of both are the same and are drawn in pairs; otherwise each side's are drawn by
            themselves.
    """
    rng = rng_for(intervals.seed, "paired")
    num_videos = mine.shape[1]
    place = np.arange(num_videos) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
    members = np.bincount(place)
    gains = mine - theirs if same_seeds else mine.mean(axis=0) - theirs.mean(axis=0)
    draws = np.empty(intervals.num_resamples)
    for number in range(intervals.num_resamples):
        if same_seeds:
            seeds = rng.integers(len(mine), size=len(mine))
            gain = gains[seeds].mean(axis=0)
        else:
            own, other = (rng.integers(len(side), size=len(side)) for side in (mine, theirs))
            gain = mine[own].mean(axis=0) - theirs[other].mean(axis=0)
        drawn = rng.integers(len(members), size=len(members))
        sums = np.bincount(place, gain)
        draws[number] = sums[drawn].sum() / members[drawn].sum()
    tail = (1 - intervals.confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Metric(value=float(gains.mean()), low=float(low), high=float(high))


def resamples(
    cell: npt.NDArray[np.int64], num_seeds: int, intervals: IntervalSettings, groups: Groups | None
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    """Draw bootstrap resamples, some at a time.

    Args:
        cell: int64 [M], the kind of each video, from 0; metrics depend only on the numbers of each kind.
        num_seeds: Number of seeds S.
        intervals: Number of resamples and seed.
        groups: int64 [M], groups that are drawn as a whole; ``None``: videos are drawn.

    Yields:
        int64 [R, kinds], the number of videos of each kind in a resample, and float64 [R, S], the share of each seed.
    """
    rng = rng_for(intervals.seed, "bootstrap")
    counts, num_videos = np.bincount(cell), len(cell)
    group = None if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
    order = np.argsort(cell, kind="stable")
    starts = np.flatnonzero(np.diff(cell[order], prepend=-1))
    chunk = max(1, 2**22 // (len(counts) if group is None else num_videos))
    for begin in range(0, intervals.num_resamples, chunk):
        size = min(chunk, intervals.num_resamples - begin)
        if group is None:
            videos = rng.multinomial(num_videos, counts / num_videos, size=size)
        else:
            num_groups = int(group.max()) + 1
            drawn = rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=size)
            videos = np.add.reduceat(drawn[:, group[order]], starts, axis=1)
        yield videos, rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=size) / num_seeds
