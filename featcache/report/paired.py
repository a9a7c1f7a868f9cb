"""Accuracies of a table's cells against those of other cells, video by video."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from featcache.metrics.comparison import compare, compare_outcomes, joined
from featcache.metrics.intervals import Metric
from featcache.metrics.predictions import NAME as PREDICTIONS
from featcache.metrics.predictions import read_outcomes
from featcache.metrics.result import share_right
from featcache.metrics.robustness import drop_difference, robustness
from featcache.metrics.settings import IntervalSettings
from featcache.report.tables import PERCENT, Cell


def paired_gain(run: str, baseline: str, path: Sequence[str]) -> Cell | None:
    """Accuracy of a run minus that of another one on the videos that both scored, in percent with a paired interval.

    Resamples draw groups of videos where the runs know groups. Runs keep whether each video is right, so there is no
    gain of other numbers than top-1, R@1, and what noise takes of top-1.

    Args:
        run: Folder of the run.
        baseline: Folder of the other one.
        path: Place of the accuracy in ``result.json``, e.g. ``splits.test.metrics.top1``, or, of one run under noise,
            ``runs.*.splits.test.noisy.shot-3.metrics.top1``, ``runs.*.splits.test.clean.top1`` or the mean drop,
            ``runs.*.splits.test.mean.robustness.drop``.

    Returns:
        The gain; ``None`` if the place is no such number, or both runs are one.

    Raises:
        ConfigError: A run has no predictions, or they have no video in common.
    """
    if run == baseline:
        return None
    match path:
        case ["runs", "*", "splits", split, "mean", "robustness", "drop"]:
            return _paired_drop(Path(run), Path(baseline), split)
    *place, name = path
    if share_right({name: True}) is None:
        return None
    match place:
        case ["splits", split, "metrics"]:
            folders = [Path(baseline), Path(run)]
        case ["runs", "*", "splits", split, "clean"]:
            folders = [_under_noise(Path(each), "clean") for each in (baseline, run)]
        case ["runs", "*", "splits", split, "noisy", cell, "metrics"]:
            folders = [_under_noise(Path(each), cell) for each in (baseline, run)]
        case _:
            return None
    splits = compare(folders).splits
    (gain,) = splits[next(iter(splits)) if split == "*" else split].differences
    return _in_percent(gain)


def _under_noise(folder: Path, cell: str) -> Path:
    """Where the predictions of the only run of ``evaluate noise`` are, e.g. those of ``shot-3`` or ``clean``."""
    (found,) = folder.glob(f"*/{cell}/{PREDICTIONS}")
    return found.parent


def _paired_drop(run: Path, baseline: Path, split: str) -> Cell | None:
    """The mean relative drop of a run under noise minus that of another one; ``None`` if it is not defined."""
    sides = []
    for folder in (run, baseline):
        clean = _under_noise(folder, "clean")
        noisy = sorted(file.parent for file in clean.parent.glob(f"*/{PREDICTIONS}") if file.parent != clean)
        sides.append([read_outcomes(clean), *(read_outcomes(each) for each in noisy)])
    every = [*sides[0], *sides[1]]
    common = set(every[0].keys).intersection(*(each.keys for each in every))
    wanted = sorted(key for key in common if split in ("*", key[0]))
    if not wanted or len({len(each.seeds) for each in every}) > 1:
        return None
    indices = [{key: place for place, key in enumerate(each.keys)} for each in every]
    places = [[index[key] for key in wanted] for index in indices]
    values = [each.values[:, place] for each, place in zip(every, places, strict=True)]
    number = len(sides[0])
    one, other = ((side[0], np.mean(side[1:], axis=0)) for side in (values[:number], values[number:]))
    groups = every[0].groups
    difference = drop_difference(
        one, other, intervals=IntervalSettings(), groups=None if groups is None else groups[places[0]]
    )
    return None if difference is None else _in_percent(difference)


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


def drop_cells(
    runs: Sequence[str], *, clean: str, noises: Sequence[str], intervals: IntervalSettings
) -> Mapping[str, Cell]:
    """Share of the accuracy that is lost under noise, by split, in percent: the mean over several noises.

    Args:
        runs: Folders of runs that were scored under noise, which count as the seeds of one run.
        clean: Name of the cell without noise.
        noises: Names of the cells with noise.
        intervals: Settings of the intervals, which are over videos, or their groups, and seeds.

    Returns:
        The drops; without a value where no video is right without noise.

    Raises:
        ConfigError: A run has no predictions, or two have no video in common.
    """
    before, *after = (joined([read_outcomes(Path(run) / name) for run in runs]) for name in (clean, *noises))
    noisy = np.mean([each.values for each in after], axis=0)
    cells = {}
    for split in dict.fromkeys(split for split, _ in before.keys):
        mine = np.array([key[0] == split for key in before.keys])
        groups = None if before.groups is None else before.groups[mine]
        lost = robustness(before.values[:, mine], noisy[:, mine], intervals=intervals, groups=groups).drop
        cells[split] = Cell(value=None) if lost is None else _in_percent(lost)
    return cells


def _in_percent(metric: Metric) -> Cell:
    return Cell(value=PERCENT * metric.value, low=PERCENT * metric.low, high=PERCENT * metric.high)
