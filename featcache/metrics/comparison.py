"""Runs against each other, video by video: differences with paired intervals."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featcache.errors import ConfigError
from featcache.metrics.intervals import Metric, difference_of_means, mean_error
from featcache.metrics.predictions import Outcomes, read_outcomes
from featcache.metrics.settings import IntervalSettings
from featcache.summary import Summary, SummaryTable, percent


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedSplit:
    """Runs on the videos of one split that all of them scored.

    Attributes:
        metric: ``top1`` (of a retrieval: by the nearest video), ``r@1`` if all runs are retrievals, or ``mse`` where
            lower is better.
        num_videos: Number of common videos.
        num_groups: Number of their groups, over which intervals are drawn; ``None``: over videos.
        values: The metric of each run on the common videos.
        differences: Each further run minus the first.
    """

    metric: str
    num_videos: int
    num_groups: int | None
    values: tuple[Metric, ...]
    differences: tuple[Metric, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Runs against the first of them.

    Attributes:
        runs: The runs, as they were named.
        label: Name of the label column.
        splits: Comparison by split.
        intervals: Settings of the intervals.
        notes: Sentences that a reader of the numbers should know.
    """

    runs: tuple[str, ...]
    label: str
    splits: Mapping[str, ComparedSplit]
    intervals: IntervalSettings
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return dataclasses.asdict(self)

    def summary(self) -> Summary:
        """Each run's own number, and its difference from the first run."""
        rows = []
        for split, part in self.splits.items():
            for place, run in enumerate(self.runs):
                gain = "" if not place else _shown(part.metric, part.differences[place - 1], signed=True)
                rows.append((split, run, _shown(part.metric, part.values[place]), gain, part.num_videos))
        metric = next(iter(self.splits.values())).metric
        table = SummaryTable(
            title=f"runs for {self.label!r} on the same videos",
            columns=("split", "run", metric, "minus the first run", "videos"),
            rows=tuple(rows),
            num_text=2,
        )
        return Summary(tables=(table,), lines=self.notes)


def _shown(metric: str, number: Metric, *, signed: bool = False) -> str:
    if metric == "mse":
        form = "{:+.4f} [{:+.4f}, {:+.4f}]" if signed else "{:.4f} [{:.4f}, {:.4f}]"
        return form.format(number.value, number.low, number.high)
    if not signed:
        return percent(number.value, number.low, number.high)
    return f"{100 * number.value:+.1f} [{100 * number.low:+.1f}, {100 * number.high:+.1f}]"


def compare(runs: Sequence[Path | str], *, intervals: IntervalSettings | None = None) -> Comparison:
    """Compare runs with the first one, on the test videos that all of them scored.

    A resample draws videos, or groups of videos where the runs know groups, with replacement, the same for all runs.
    Runs of the same seeds are paired by seed too; otherwise the seeds of each run are drawn by themselves.

    Args:
        runs: Two or more folders with a ``predictions.parquet``.
        intervals: Settings of the intervals; ``None`` for the defaults.

    Raises:
        ConfigError: There are fewer than two runs, a run has no predictions, runs have no video in common, or a video's
            label differs between runs.
    """
    if len(runs) < 2:
        raise ConfigError("a comparison needs two or more runs; give their folders")
    intervals = intervals or IntervalSettings()
    return compare_outcomes([str(run) for run in runs], [read_outcomes(Path(run)) for run in runs], intervals)


def compare_outcomes(names: Sequence[str], found: Sequence[Outcomes], intervals: IntervalSettings) -> Comparison:
    """As :func:`compare`, of outcomes that were read; a single run is compared with none.

    Args:
        names: Names of the runs.
        found: The outcomes of each.
        intervals: Settings of the intervals.

    Raises:
        ConfigError: Runs have no video in common, or a video's label differs between runs.
    """
    first = found[0]
    for name, other in zip(names, found, strict=True):
        if other.is_numbers != first.is_numbers:
            raise ConfigError(
                f"{names[0]} and {name} do not compare: one predicts numbers, the other classes; give runs of one kind"
            )
    common = set(first.keys).intersection(*(each.keys for each in found[1:]))
    if not common:
        raise ConfigError(
            f"the runs ({', '.join(names)}) have no scored video in common, by split and id; give runs of one data set"
        )
    keys = [key for key in first.keys if key in common]
    places = [_places(each, keys) for each in found]
    _check_labels(names, found, places, keys)
    notes = [
        f"{len(each.keys) - len(keys)} of the {len(each.keys)} videos of {name} are not in every run and are left out"
        for name, each in zip(names, found, strict=True)
        if len(each.keys) > len(keys)
    ]
    splits = {}
    for split in dict.fromkeys(split for split, _ in keys):
        mine = np.array([key[0] == split for key in keys])
        values = [each.values[:, place[mine]] for each, place in zip(found, places, strict=True)]
        groups = None if first.groups is None else first.groups[places[0][mine]]
        splits[split] = ComparedSplit(
            metric=first.metric if len({each.metric for each in found}) == 1 else "top1",
            num_videos=int(mine.sum()),
            num_groups=None if groups is None else len(np.unique(groups)),
            values=tuple(mean_error(each, intervals=intervals, groups=groups) for each in values),
            differences=tuple(
                difference_of_means(other, values[0], intervals, groups=groups, same_seeds=each.seeds == first.seeds)
                for each, other in zip(found[1:], values[1:], strict=True)
            ),
        )
        if groups is not None:
            notes.append(f"intervals of {split!r} are over {splits[split].num_groups} groups, not over videos")
    if any(each.seeds != first.seeds for each in found[1:]):
        notes.append("the runs have different seeds, which are drawn separately for each run")
    return Comparison(runs=tuple(names), label=first.label, splits=splits, intervals=intervals, notes=tuple(notes))


def joined(runs: Sequence[Outcomes]) -> Outcomes:
    """Runs of one kind, e.g. from networks of different seeds, as one run with the seeds of all.

    Args:
        runs: One or more runs. Only videos that all of them scored are kept.

    Raises:
        ConfigError: They have no video in common.
    """
    common = set(runs[0].keys).intersection(*(each.keys for each in runs[1:]))
    if not common:
        raise ConfigError("runs have no scored video in common, by split and id; give runs of one data set")
    keys = tuple(key for key in runs[0].keys if key in common)
    mine = _places(runs[0], keys)
    return dataclasses.replace(
        runs[0],
        seeds=tuple(seed for each in runs for seed in each.seeds),
        keys=keys,
        labels=tuple(runs[0].labels[place] for place in mine),
        groups=None if runs[0].groups is None else runs[0].groups[mine],
        values=np.concatenate([each.values[:, _places(each, keys)] for each in runs]),
    )


def _places(outcomes: Outcomes, keys: Sequence[tuple[str, str]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    index = {key: place for place, key in enumerate(outcomes.keys)}
    return np.array([index[key] for key in keys], np.int64)


def _check_labels(
    names: Sequence[str],
    found: Sequence[Outcomes],
    places: Sequence[np.ndarray[Any, np.dtype[np.int64]]],
    keys: Sequence[tuple[str, str]],
) -> None:
    for name, other, place in zip(names[1:], found[1:], places[1:], strict=True):
        for (_, video), mine, theirs in zip(keys, places[0], place, strict=True):
            if found[0].labels[mine] != other.labels[theirs]:
                raise ConfigError(
                    f"video {video!r} is {found[0].labels[mine]!r} in {names[0]} and {other.labels[theirs]!r} in "
                    f"{name}; compare runs of the same labels"
                )
