"""How much accuracy noise takes: relative and absolute robustness and the relative drop, over paired resamples."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featcache.metrics.intervals import Metric, resamples
from featcache.metrics.settings import IntervalSettings
from featcache.metrics.splits import Groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Robustness:
    """Noisy accuracy A_p against clean accuracy A_c, both in [0, 1].

    Attributes:
        relative: gamma_r = 1 - (A_c - A_p) / A_c; ``None`` if no clean video is right.
        absolute: gamma_a = 1 - (A_c - A_p).
        drop: (A_c - A_p) / A_c, the share of the clean accuracy that is lost; ``None`` as above.
    """

    relative: Metric | None
    absolute: Metric
    drop: Metric | None


def relative_drop(clean: npt.ArrayLike, noisy: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(A_c - A_p) / A_c, the share of an accuracy that is lost; NaN where nothing is right.

    Args:
        clean: Accuracies without noise, in any unit.
        noisy: Accuracies with noise, in the same unit.
    """
    before, after = np.asarray(clean, np.float64), np.asarray(noisy, np.float64)
    lost = np.full(np.broadcast(before, after).shape, np.nan)
    np.divide(before - after, before, out=lost, where=before > 0)
    return lost


def robustness(
    clean: npt.NDArray[np.floating],
    noisy: npt.NDArray[np.floating],
    *,
    intervals: IntervalSettings,
    groups: Groups | None = None,
) -> Robustness:
    """Robustness with percentile intervals; a resample draws the same videos (or groups) and seeds for both.

    The mean over several noises of any of the three is that of their mean outcomes, since all are linear in A_p.
    Resamples without a right clean video say nothing of relative numbers and are left out.

    Args:
        clean: float [S, M], 1 for each video that is right under a seed and 0 for one that is wrong.
        noisy: float [S, M], the same for the same seeds and videos with noise, or its mean over several noises.
        intervals: Number of resamples, confidence and seed.
        groups: int64 [M], groups of nearly identical videos, which are drawn as a whole; ``None``: videos are drawn.
    """
    before, after = _drawn([clean, noisy], intervals, groups)
    value_before, value_after = float(clean.mean()), float(noisy.mean())

    def metric(value: float, values: npt.NDArray[np.float64]) -> Metric:
        return _metric(value, values, intervals)

    absolute = metric(1 - (value_before - value_after), 1 - (before - after))
    if not value_before:
        return Robustness(relative=None, absolute=absolute, drop=None)
    drops, value = relative_drop(before, after), float(relative_drop(value_before, value_after))
    drops = drops[np.isfinite(drops)]
    return Robustness(relative=metric(1 - value, 1 - drops), absolute=absolute, drop=metric(value, drops))


def drop_difference(
    one: Sequence[npt.NDArray[np.floating]],
    other: Sequence[npt.NDArray[np.floating]],
    *,
    intervals: IntervalSettings,
    groups: Groups | None = None,
) -> Metric | None:
    """The relative drop of one model minus that of another one, with a percentile interval over paired resamples.

    A resample draws the same videos (or groups) and seeds for both models, with and without noise.

    Args:
        one: Outcomes without noise and with it, as in :func:`robustness`, float [S, M] each.
        other: The same of the other model, for the same videos and as many seeds.
        intervals: Number of resamples, confidence and seed.
        groups: int64 [M], as in :func:`robustness`.

    Returns:
        The difference; ``None`` if a model is right of no video without noise, or no resample has such a video of
        both models.
    """
    drops = [float(relative_drop(clean.mean(), noisy.mean())) for clean, noisy in (one, other)]
    if not np.isfinite(drops).all():
        return None
    clean, noisy, clean_of_other, noisy_of_other = _drawn([*one, *other], intervals, groups)
    values = relative_drop(clean, noisy) - relative_drop(clean_of_other, noisy_of_other)
    values = values[np.isfinite(values)]
    return _metric(drops[0] - drops[1], values, intervals) if len(values) else None


def _drawn(
    outcomes: Sequence[npt.NDArray[np.floating]], intervals: IntervalSettings, groups: Groups | None
) -> npt.NDArray[np.float64]:
    """The mean of each of K arrays of outcomes [S, M] in each of R paired resamples, [K, R]."""
    cells, cell = np.unique(np.vstack(list(outcomes)), axis=1, return_inverse=True)
    drawn = []
    for videos, seeds in resamples(cell.reshape(-1), len(outcomes[0]), intervals, groups):
        right = [(videos * (seeds @ each)).sum(axis=1) for each in np.split(cells, len(outcomes))]
        drawn.append(np.stack(right) / videos.sum(axis=1))
    return np.concatenate(drawn, axis=1)


def _metric(value: float, values: npt.NDArray[np.float64], intervals: IntervalSettings) -> Metric:
    tail = (1 - intervals.confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Metric(value=value, low=float(low), high=float(high))
