"""Input of a probe: vectors by row, the video of each row, labels, splits and coverage, as plain arrays."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from featcache.errors import ManifestError, NonFiniteFeatureError
from featcache.evaluation.pooling import Pool
from featcache.metrics.result import Coverage
from featcache.metrics.splits import group_numbers

UNLABELLED = -1
NUMBER = "number"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ProbeData:
    """Features of one array and labels of one column. Build it with :func:`make_data`.

    Attributes:
        features: float32 [N, D], or float16 if the store holds float16 vectors; finite, rows grouped by video. A probe
            that says so in its entry is given float16 as it is, and converts what it takes; others are given float32.
        row_video: int64 [N], index into ``videos``, not decreasing; every video has at least one row.
        videos: M video ids.
        labels: int64 [M], index into ``classes``, or -1 for a video without a label.
        classes: Sorted class names.
        splits: M split names; empty strings if the store has none.
        coverage: Coverage by split name.
        store: Source of the features, for messages and results.
        feature: Name of the array.
        label: Name of the label column.
        split_column: Label column that gives the splits; ``None``: the store's own splits.
        positions: Position of each row in its video, float32 [N, 6] or [N, 7], by form (``box6``, ``code7``); empty if
            they were not requested.
        targets: float64 [M], the numbers to predict if the label column holds numbers, NaN for a video without one;
            then there is one class, ``number``. ``None``: classification.
        groups: int64 [M], the group of each video: videos of one group are nearly identical, e.g. clips of one
            recording. ``None``: no groups are known.
        group_column: Label column that gives the groups; ``None``: no groups are known.
        contents: M content hashes; empty for unknown files.
        is_random: bool [M], whether a video's rows are random training views in a store that also has fixed test views.
            ``None``: there are none.
        pool: How stored maps became vectors; ``mean`` for vectors that were stored as such.
    """

    features: npt.NDArray[np.floating]
    row_video: npt.NDArray[np.int64]
    videos: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    coverage: Mapping[str, Coverage]
    store: str
    feature: str
    label: str
    split_column: str | None = None
    positions: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    targets: npt.NDArray[np.float64] | None = None
    groups: npt.NDArray[np.int64] | None = None
    group_column: str | None = None
    contents: tuple[str, ...] = ()
    is_random: npt.NDArray[np.bool_] | None = None
    pool: Pool = "mean"

    def __post_init__(self) -> None:
        num_rows, num_videos = len(self.row_video), len(self.videos)
        assert self.features.ndim == 2, f"features have shape {self.features.shape}, not [rows, channels]"
        assert len(self.features) == num_rows, f"{len(self.features)} feature rows, {num_rows} row indices"
        assert len(self.labels) == len(self.splits) == num_videos, "one label and one split per video"
        assert np.array_equal(np.unique(self.row_video), np.arange(num_videos)), "a video without rows"
        assert np.all(np.diff(self.row_video) >= 0), "rows are not grouped by video"
        assert self.groups is None or len(self.groups) == num_videos, "one group per video"
        assert len(self.contents) in (0, num_videos), "one content hash per video"
        assert all(len(table) == num_rows for table in self.positions.values()), "one position per row"
        # A sum in float64 cannot overflow, and is finite only if every value is.
        bad = np.flatnonzero(~np.isfinite(self.features.sum(axis=1, dtype=np.float64)))
        if len(bad):
            raise NonFiniteFeatureError(
                f"{len(bad)} of {num_rows} rows of feature {self.feature!r} in {self.store} hold NaN or infinity, the "
                f"first in video {self.videos[self.row_video[bad[0]]]!r}; extract this feature again as float32"
            )

    def __repr__(self) -> str:
        rows, channels = self.features.shape
        return (
            f"ProbeData(features={self.features.dtype}[{rows}, {channels}], videos={len(self.videos)}, "
            f"classes={len(self.classes)}, feature={self.feature!r}, label={self.label!r})"
        )

    def rows_of(self, videos: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows of ``videos`` in their order, and the number of rows of each.

        Returns:
            int64 [R] row indices, grouped by video, and int64 [len(videos)] counts.
        """
        starts = np.searchsorted(self.row_video, videos, side="left")
        counts = np.searchsorted(self.row_video, videos, side="right") - starts
        first = np.repeat(starts - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
        return (first + np.arange(counts.sum())).astype(np.int64), counts.astype(np.int64)

    def video_means(self, videos: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """One vector per video, float32 [len(videos), D]: the mean of its rows, computed in float64."""
        starts = np.searchsorted(self.row_video, videos, side="left")
        stops = np.searchsorted(self.row_video, videos, side="right")
        means = np.empty((len(videos), self.features.shape[1]), dtype=np.float32)
        for place, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            means[place] = self.features[start:stop].mean(axis=0, dtype=np.float64)
        return means


def make_data(
    features: npt.ArrayLike,
    *,
    row_video: Sequence[int] | npt.NDArray[np.int64],
    videos: Sequence[str],
    labels: Sequence[str | None],
    splits: Sequence[str] | None = None,
    failed: Mapping[str, int] | None = None,
    store: str = "arrays",
    feature: str = "features",
    label: str = "label",
    split_column: str | None = None,
    positions: Mapping[str, npt.NDArray[np.float32]] | None = None,
    numbers: bool = False,
    groups: Sequence[str | None] | None = None,
    group_column: str | None = None,
    contents: Sequence[str] = (),
    is_random: npt.NDArray[np.bool_] | None = None,
    pool: Pool = "mean",
) -> ProbeData:
    """Build :class:`ProbeData` from arrays in any row order.

    Args:
        features: [N, D], one vector per row; float16 is kept, anything else becomes float32.
        row_video: [N], index into ``videos``.
        videos: M ids.
        labels: M class names; ``None`` for a video without a label.
        splits: M split names; ``None`` if there are no splits.
        failed: Number of videos without features, by split.
        store: Source of the features, for messages.
        feature: Name of the array.
        label: Name of the label column.
        split_column: Label column that gives the splits; ``None``: the store's own splits.
        positions: Position of each row in its video, by form, in the order of ``features``.
        numbers: The labels are numbers to predict, not classes.
        groups: M names of groups; ``None`` for a video that is a group of its own. ``None``: no groups.
        group_column: Name of the label column that gives the groups.
        contents: M content hashes, if they are known.
        is_random: bool [M], whether a video's rows are random training views; ``None``: none are.
        pool: How stored maps became vectors.

    Raises:
        ManifestError: With ``numbers``, a label is not a number.
        NonFiniteFeatureError: A row holds NaN or infinity.
    """
    targets = _numbers(labels, videos, label=label, store=store) if numbers else None
    if numbers:
        labels = [None if name is None else NUMBER for name in labels]
    places = dict(positions or {})
    owner = np.asarray(row_video, dtype=np.int64)
    table = np.asarray(features)
    table = table if table.dtype == np.float16 else table.astype(np.float32, copy=False)
    if np.any(np.diff(owner) < 0):
        order = np.argsort(owner, kind="stable")
        table, owner = table[order], owner[order]
        places = {form: place[order] for form, place in places.items()}
    classes = tuple(sorted({name for name in labels if name is not None}))
    index = {name: position for position, name in enumerate(classes)}
    names = tuple(splits) if splits is not None else ("",) * len(videos)
    ok = Counter(names)
    unlabelled = Counter(split for split, name in zip(names, labels, strict=True) if name is None)
    lost = failed or {}
    return ProbeData(
        features=table,
        row_video=owner,
        videos=tuple(videos),
        labels=np.array([UNLABELLED if name is None else index[name] for name in labels], dtype=np.int64),
        classes=classes,
        splits=names,
        coverage={
            split: Coverage(
                ok=ok[split],
                failed=lost.get(split, 0),
                total=ok[split] + lost.get(split, 0),
                unlabelled=unlabelled[split],
            )
            for split in sorted({*names, *lost})
        },
        store=store,
        feature=feature,
        label=label,
        split_column=split_column,
        positions=places,
        targets=targets,
        groups=None if groups is None else group_numbers(groups),
        group_column=group_column,
        contents=tuple(contents),
        is_random=is_random,
        pool=pool,
    )


def _numbers(labels: Sequence[str | None], videos: Sequence[str], *, label: str, store: str) -> npt.NDArray[np.float64]:
    values = np.full(len(labels), np.nan)
    for place, text in enumerate(labels):
        if text is None:
            continue
        try:
            value = float(text)
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            raise ManifestError(
                f"label {text!r} of video {videos[place]!r} in column {label!r} of {store} is not a number; probe the "
                "column as classes, or name one that holds numbers"
            )
        values[place] = value
    return values
