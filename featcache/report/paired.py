"""Accuracies of a table's cells against those of other cells, video by video."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from featcache.metrics.comparison import compare, compare_outcomes, joined
from featcache.metrics.intervals import Metric
from featcache.metrics.predictions import read_outcomes
from featcache.metrics.result import share_right
from featcache.metrics.settings import IntervalSettings
from featcache.report.tables import PERCENT, Cell


def paired_gain(run: str, baseline: str, path: Sequence[str]) -> Cell | None:
    """Accuracy of a run minus that of another one on the videos that both scored, in percent with a paired interval.

    Resamples draw groups of videos where the runs know groups. Runs keep whether each video is right, so there is no
    gain of other numbers than top-1 and R@1.

    Args:
        run: Folder of the run.
        baseline: Folder of the other one.
        path: Place of the accuracy in ``result.json``, e.g. ``splits.test.metrics.top1``.

    Returns:
        The gain; ``None`` if the place is no such accuracy, or both runs are one.

    Raises:
        ConfigError: A run has no predictions, or they have no video in common.
    """
    if run == baseline or len(path) != 4 or path[0] != "splits" or share_right({path[3]: True}) is None:
        return None
    splits = compare([Path(baseline), Path(run)]).splits
    (gain,) = splits[next(iter(splits)) if path[1] == "*" else path[1]].differences
    return _in_percent(gain)


def paired_cells(
    runs: Sequence[str], baseline: Sequence[str] = (), *, intervals: IntervalSettings
) -> Mapping[str, Cell]:
    """Top-1 or R@1 of runs by split, in percent, with the gain over other runs video by video.

    Args:
        runs: Folders of the runs, e.g. one per network where networks of several seeds were probed. They count as the
            seeds of one run.
        baseline: Folders of the runs to compare with; empty: none.
        intervals: Settings of the intervals, which are over videos, or their groups, and seeds.

    Raises:
        ConfigError: A run has no predictions, or they have no video in common.
    """
    sides = [side for side in (baseline, runs) if side]
    outcomes = [joined([read_outcomes(Path(run)) for run in side]) for side in sides]
    compared = compare_outcomes([", ".join(side) for side in sides], outcomes, intervals)
    return {
        split: replace(
            _in_percent(part.values[-1]), gain=_in_percent(part.differences[-1]) if baseline else None, run=runs[0]
        )
        for split, part in compared.splits.items()
    }


def _in_percent(metric: Metric) -> Cell:
    return Cell(value=PERCENT * metric.value, low=PERCENT * metric.low, high=PERCENT * metric.high)
