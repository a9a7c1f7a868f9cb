"""Reads the input of a probe from a store: one vector per row, labels of one column, splits and coverage."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.data.selection import GROUP
from featcache.errors import ManifestError, NothingUsableError, no_name
from featcache.evaluation.data import ProbeData, make_data
from featcache.evaluation.pooling import Pool, pooled, pooled_width
from featcache.files.sealed import canonical_json
from featcache.loaders.choice import has_training_views
from featcache.recipes import PositionForm, recipe_hash
from featcache.stages import OnStage, ignore
from featcache.store.features import Features
from featcache.store.outcomes import VideoOutcomes
from featcache.store.reader import Store, open_store

BYTES_AT_ONCE = 64 << 20
NO_GROUPS = "none"
"""Value for a group column that makes each video a group of its own."""


def check_labels(store: Store, *, feature: str | None, label: str) -> tuple[dict[str, str], VideoOutcomes]:
    """Labels by video, and the coverage of the feature, before anything is read of the rows.

    Raises:
        UnknownNameError: No such feature or label column; names the closest.
        ManifestError: The store has no labels at all.
        NothingUsableError: Every video failed.
    """
    if feature is None and len(store.features) > 1:
        raise no_name("feature", store.path, store.features)
    if (coverage := store.coverage(feature)).failures and not coverage.ok + coverage.pending:
        failure = coverage.failures[0]
        raise NothingUsableError(
            f"nothing was extracted into {store.path}, so there are no features to probe: all {coverage.total} videos "
            f"failed, e.g. {failure.id!r} ({failure.status}: {failure.reason}); fix them and extract again"
        )
    if not store.label_names:
        raise ManifestError(
            f"no video of {store.path} has a label, so there is nothing to probe; put videos in one folder per class, "
            "or list them in a CSV with a label column, and extract again"
        )
    return store.labels(label), coverage


def read_data(
    store: Store | Path | str,
    *,
    feature: str | None = None,
    label: str = "label",
    split_column: str | None = None,
    positions: PositionForm | None = None,
    numbers: bool = False,
    group_column: str | None = None,
    pool: Pool = "mean",
) -> ProbeData:
    """Read a feature and a label column of a store into memory.

    Args:
        store: An open store, or its folder.
        feature: Name of the feature; may be omitted if the store has only one.
        label: Label column.
        split_column: Label column that holds the split of each video, e.g. ``split2``. ``None`` is ``split_<label>``
            if the store has it (tasks of one data set with different splits), otherwise the store's own split.
        positions: Form of the positions to read with the rows, for probes that use them; ``None``: none.
        numbers: The labels are numbers to predict, not classes.
        group_column: Label column whose equal values belong together, e.g. clips of one recording. ``None`` is
            ``group`` if the store has it; ``"none"`` makes each video a group of its own.
        pool: How maps and tokens become vectors; see :func:`featcache.evaluation.pooling.pooled`.

    Raises:
        ConfigError: ``positions`` are requested and the positions of some rows are unknown, or ``pool`` needs maps that
            the feature does not hold.
        UnknownNameError: There is no such feature or label column; names the closest.
        ManifestError: The store has no labels at all, or labels that are not numbers although ``numbers`` is set.
        StoreError: Shards are still to be extracted.
        NothingUsableError: Every video failed.
    """
    source = open_source(
        store,
        feature=feature,
        label=label,
        split_column=split_column,
        positions=positions,
        numbers=numbers,
        group_column=group_column,
        pool=pool,
    )
    return source.read()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSource:
    """The input of a probe, of which no row is read yet; see :func:`open_source`.

    Attributes:
        store: The store.
        features: The feature, open.
        label: Label column.
        split_column: Label column that holds the splits; ``None``: the store's own.
        group_column: Label column that holds the groups; ``None``: no groups.
        positions: Form of the positions to read with the rows, or ``None``.
        numbers: Whether the labels are numbers.
        pool: How maps and tokens become vectors.
    """

    store: Store
    features: Features
    label: str
    split_column: str | None
    group_column: str | None
    positions: PositionForm | None
    numbers: bool
    pool: Pool

    def read(self, *, on_stage: OnStage = ignore) -> ProbeData:
        """Read the rows into memory and close the feature; see :func:`read_data` for the errors.

        Args:
            on_stage: Called with the stage ``read`` and the number of rows.
        """
        return self.data_of(self.rows(on_stage=on_stage), store=str(self.store.path))

    def rows(self, *, on_stage: OnStage = ignore) -> "Rows":
        """Read the rows into memory, and close the feature."""
        features = self.features
        with features:
            return Rows(
                vectors=_stored_vectors(features, pool=self.pool, on_stage=on_stage),
                row_video=features.video_index.astype(np.int64),
                videos=features.video_ids,
                about=self._about(),
                positions=_positions(self.store, features, self.positions) if self.positions else None,
                is_random=has_training_views(self.store, features.video_ids),
            )

    def data_of(self, rows: "Rows", *, store: str) -> ProbeData:
        """The input of a probe from rows that were read.

        Args:
            rows: The rows, of this source or joined with those of another.
            store: Where they come from, for messages and results.
        """
        about = rows.about
        return make_data(
            rows.vectors,
            row_video=rows.row_video,
            videos=rows.videos,
            labels=about.labels,
            splits=about.splits,
            failed=about.failed,
            store=store,
            feature=self.features.name,
            label=self.label,
            split_column=self.split_column,
            positions={self.positions: rows.positions} if self.positions and rows.positions is not None else None,
            numbers=self.numbers,
            groups=about.groups,
            group_column=self.group_column,
            contents=about.contents,
            is_random=rows.is_random,
            pool=self.pool,
        )

    def content(self) -> str:
        """A digest that changes whenever the input could have changed; no row is read for it."""
        features, about = self.features, self._about()
        found = hashlib.sha256(features.digest(np.arange(features.num_rows)).encode())
        found.update(recipe_hash(self.store.sampling).encode())
        found.update(features.video_index.astype("<i8").tobytes())
        found.update(canonical_json([list(features.video_ids), *about]))
        if self.positions:
            found.update(_positions(self.store, features, self.positions).tobytes())
        return found.hexdigest()[:32]

    def _about(self) -> "About":
        store, ids = self.store, self.features.video_ids
        labels = store.labels(self.label)
        groups = None if self.group_column is None else store.labels(self.group_column)
        splits = {video.id: video.split for video in store.videos.values()}
        if self.split_column is not None:
            splits = store.labels(self.split_column)
        failures = store.coverage(self.features.name).failures
        return About(
            labels=[labels.get(video) for video in ids],
            splits=[splits.get(video, "") for video in ids],
            groups=None if groups is None else [groups.get(video) for video in ids],
            contents=[store.videos[video].content_hash or "" for video in ids],
            failed=dict(sorted(Counter(splits.get(failure.id, "") for failure in failures).items())),
        )


class About(NamedTuple):
    """What a store says of the videos of a feature, in their order, and of those that failed."""

    labels: list[str | None]
    splits: list[str]
    groups: list[str | None] | None
    contents: list[str]
    failed: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Rows of a feature, and what is known of their videos.

    Attributes:
        vectors: float32 or float16 [N, C].
        row_video: int64 [N], index into ``videos``, not decreasing.
        videos: M ids.
        about: Labels, splits, groups and contents by video.
        positions: float32 [N, 6 or 7], or ``None``.
        is_random: bool [M], whether a video's rows are random training views.
    """

    vectors: npt.NDArray[np.floating]
    row_video: npt.NDArray[np.int64]
    videos: Sequence[str]
    about: About
    positions: npt.NDArray[np.float32] | None
    is_random: npt.NDArray[np.bool_]


def open_source(
    store: Store | Path | str,
    *,
    feature: str | None = None,
    label: str = "label",
    split_column: str | None = None,
    positions: PositionForm | None = None,
    numbers: bool = False,
    group_column: str | None = None,
    pool: Pool = "mean",
) -> ProbeSource:
    """Open what :func:`read_data` reads; see there for arguments and errors."""
    store = store if isinstance(store, Store) else open_store(store)
    check_labels(store, feature=feature, label=label)
    if split_column is None and f"split_{label}" in store.label_names:
        split_column = f"split_{label}"
    if group_column is None and GROUP in store.label_names:
        group_column = GROUP
    if group_column == NO_GROUPS:
        group_column = None
    for column in (split_column, group_column):
        if column is not None:
            store.labels(column)  # raises an error if there is none
    features = store.feature(feature, splits=None if split_column is None else store.labels(split_column))
    pooled_width(features.record, pool, feature=features.name, store=str(store.path))  # raises an error if it has none
    return ProbeSource(
        store=store,
        features=features,
        label=label,
        split_column=split_column,
        group_column=group_column,
        positions=positions,
        numbers=numbers,
        pool=pool,
    )


def _positions(store: Store, features: Features, form: PositionForm) -> npt.NDArray[np.float32]:
    from featcache.loaders.clip_sets import store_positions  # imports torch, which takes seconds to load

    return store_positions(store, features, np.arange(features.num_rows), form=form)


def read_vectors(
    features: Features, *, first: int = 0, last: int | None = None, on_stage: OnStage = ignore
) -> npt.NDArray[np.float32]:
    """Rows ``first`` to ``last`` (exclusive; ``None``: all) as vectors, float32 [n, C].

    Maps and tokens are averaged over all their positions. ``on_stage`` is called with the stage ``read``.
    """
    last = features.num_rows if last is None else last
    vectors = np.empty((last - first, features.shape[-1]), np.float32)
    for rows in _some_rows(features, first, last, on_stage=on_stage):
        vectors[rows - first] = pooled(features.gather(rows, dequantised=True))
    return vectors


def _stored_vectors(features: Features, *, pool: Pool, on_stage: OnStage) -> npt.NDArray[np.floating]:
    """All rows as vectors [N, D]: float16 if they are values that the store holds so, which takes half the memory."""
    is_vector = len(features.record.shape) == 1
    if pool == "mean" and not (is_vector and features.record.dtype == "float16"):
        return read_vectors(features, on_stage=on_stage)
    width = pooled_width(features.record, pool, feature=features.name, store="the store")
    is_half = features.record.dtype == "float16"  # maxima of float16 values are float16 values
    vectors = np.empty((features.num_rows, width), np.float16 if is_half else np.float32)
    for rows in _some_rows(features, 0, features.num_rows, on_stage=on_stage):
        if is_vector:
            features.gather(rows, out=vectors[rows[0] : rows[-1] + 1])
        else:
            vectors[rows] = pooled(features.gather(rows, dequantised=True), pool)
    return vectors


def _some_rows(features: Features, first: int, last: int, *, on_stage: OnStage) -> Iterator[npt.NDArray[np.int64]]:
    step = max(1, BYTES_AT_ONCE // features.record.num_bytes)
    for start in range(first, last, step):
        yield np.arange(start, min(start + step, last))
        on_stage("read", min(start + step, last) - first, last - first)
