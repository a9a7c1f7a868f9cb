"""Reads the input of a probe from a store: one vector per row, labels of one column, splits and coverage."""

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.data.selection import GROUP
from featcache.errors import ManifestError, NothingUsableError, no_name
from featcache.evaluation.data import ProbeData, make_data
from featcache.loaders.choice import has_training_views
from featcache.recipes import PositionForm
from featcache.store.features import Features
from featcache.store.reader import Store, VideoOutcomes, open_store

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

    Raises:
        ConfigError: ``positions`` are requested and the positions of some rows are unknown.
        UnknownNameError: There is no such feature or label column; names the closest.
        ManifestError: The store has no labels at all, or labels that are not numbers although ``numbers`` is set.
        StoreError: Shards are still to be extracted.
        NothingUsableError: Every video failed.
    """
    store = store if isinstance(store, Store) else open_store(store)
    labels, coverage = check_labels(store, feature=feature, label=label)
    if split_column is None and f"split_{label}" in store.label_names:
        split_column = f"split_{label}"
    if group_column is None and GROUP in store.label_names:
        group_column = GROUP
    groups = None if group_column in (None, NO_GROUPS) else store.labels(group_column)
    splits = store.labels(split_column) if split_column is not None else {v.id: v.split for v in store.videos.values()}
    with store.feature(feature) as features:
        videos = [store.videos[video_id] for video_id in features.video_ids]
        return make_data(
            read_vectors(features),
            row_video=features.video_index.astype(np.int64),
            videos=features.video_ids,
            labels=[labels.get(video.id) for video in videos],
            splits=[splits.get(video.id, "") for video in videos],
            failed=Counter(splits.get(failure.id, "") for failure in coverage.failures),
            store=str(store.path),
            feature=features.name,
            label=label,
            split_column=split_column,
            positions={positions: _positions(store, features, positions)} if positions else None,
            numbers=numbers,
            groups=None if groups is None else [groups.get(video.id) for video in videos],
            group_column=None if groups is None else group_column,
            contents=[video.content_hash or "" for video in videos],
            is_random=has_training_views(store, features.video_ids),
        )


def _positions(store: Store, features: Features, form: PositionForm) -> npt.NDArray[np.float32]:
    from featcache.loaders.clip_sets import store_positions  # imports torch, which takes seconds to load

    return store_positions(store, features, np.arange(features.num_rows), form=form)


def read_vectors(features: Features, *, first: int = 0, last: int | None = None) -> npt.NDArray[np.float32]:
    """Rows ``first`` to ``last`` (exclusive; ``None``: all) as vectors, float32 [n, C].

    Maps and tokens are averaged over all their positions.
    """
    last = features.num_rows if last is None else last
    vectors = np.empty((last - first, features.shape[-1]), np.float32)
    step = max(1, BYTES_AT_ONCE // features.record.num_bytes)
    for start in range(first, last, step):
        rows = np.arange(start, min(start + step, last))
        vectors[rows - first] = pooled(features.gather(rows, dequantised=True))
    return vectors


def pooled(records: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Average records [n, ..., C] over all positions to vectors float32 [n, C]."""
    vectors: npt.NDArray[np.float32] = records.mean(axis=tuple(range(1, records.ndim - 1)))
    return vectors
