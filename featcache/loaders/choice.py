"""Choose the feature and the training videos that a method reads from a store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from featcache.data.selection import GROUP
from featcache.data.types import VideoRecord
from featcache.errors import ConfigError, no_name, unknown_name
from featcache.metrics.splits import Groups, group_numbers
from featcache.recipes import FeatureRecipe, RecordSpec, SamplingRecipe


class VideoList(Protocol):
    """Videos with labels and splits, and the features that they have or would have; a store is one."""

    @property
    def path(self) -> Path | str:
        """The store, or the file of the extraction."""

    @property
    def sampling(self) -> SamplingRecipe:
        """Recipe of the rows."""

    @property
    def features(self) -> Mapping[str, tuple[FeatureRecipe, RecordSpec]]:
        """Feature name to recipe and record."""

    @property
    def videos(self) -> Mapping[str, VideoRecord]:
        """Video id to record."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Label columns, ``label`` first."""

    def labels(self, column: str = "label") -> dict[str, str]:
        """Video id to label, for the videos that have one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureKind:
    """The kind of feature that a method can use.

    Attributes:
        axes: Axes of a row, as in the feature's record.
        holds: Description of the rows, for error messages.
        flags: Flags of `featcache extract` that give such rows.
    """

    axes: tuple[str, ...]
    holds: str
    flags: str


MAPS = FeatureKind(axes=("h", "w", "c"), holds="maps", flags="--layout frames --output map")
_NO_TRAINING_SPLIT = "\0"  # no split of a store has this name
VECTORS = FeatureKind(axes=("c",), holds="one vector per clip", flags="--output cls or --output mean")


def choose_feature(store: VideoList, name: str | None, kind: FeatureKind) -> str:
    """The feature of that name, or the only one of its kind.

    Raises:
        ConfigError: Its rows are of another kind, or no feature is of this kind.
        UnknownNameError: There is no such feature, or there are several and no name is given.
    """
    fitting = [name for name, (_, record) in store.features.items() if record.axes == kind.axes]
    if name is None:
        if len(fitting) == 1:
            return fitting[0]
        if not fitting:
            raise ConfigError(f"no feature of {store.path} holds {kind.holds}; extract one with {kind.flags}")
        raise no_name("feature", store.path, fitting)
    if name not in store.features:
        raise unknown_name("feature", name, store.features)
    if name not in fitting:
        raise ConfigError(
            f"feature {name!r} of {store.path} has rows of shape {list(store.features[name][1].shape)}, and this "
            f"method needs {kind.holds}; {f'use {fitting[0]!r}' if fitting else f'extract one with {kind.flags}'}"
        )
    return name


def video_splits(store: VideoList, column: str | None) -> dict[str, str]:
    """Video id to split: the store's own splits, or those of a label column; empty if there are none."""
    if column is not None:
        return store.labels(column)
    return {video.id: video.split for video in store.videos.values() if video.split}


def groups_of(store: VideoList, video_ids: Sequence[str], column: str | None = None) -> Groups | None:
    """The group of each video: videos of one group are nearly one, e.g. clips of one recording.

    Args:
        store: The store, or another list.
        video_ids: M ids.
        column: Label column; ``None`` is ``group`` where the store has it.

    Returns:
        int64 [M], or ``None`` where no groups are known.

    Raises:
        UnknownNameError: There is no such column.
    """
    if column is None and GROUP not in store.label_names:
        return None
    named = store.labels(column or GROUP)
    return group_numbers([named.get(video_id) for video_id in video_ids])


def has_training_views(store: VideoList, video_ids: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Videos that have random training views in a store that has fixed test views for other videos.

    This follows from the split that a video had when it was extracted, whatever another column says.

    Returns:
        bool [len(video_ids)]; all false if the store samples all videos alike, or has both views of every video.
    """
    if store.sampling.both_views:
        return np.zeros(len(video_ids), np.bool_)
    test = store.sampling.for_split(_NO_TRAINING_SPLIT)
    splits = [store.videos[video_id].split for video_id in video_ids]
    is_random = {split: store.sampling.for_split(split) != test for split in set(splits)}
    return np.array([is_random[split] for split in splits], np.bool_)


def check_test_views(store: str | Path, is_random: npt.NDArray[np.bool_], *, split: str, column: str | None) -> None:
    """Refuse to score videos that have random training views.

    Args:
        store: Source of the rows.
        is_random: For each video to be scored, the result of :func:`has_training_views`.
        split: Split of the videos.
        column: Label column that gives the split; ``None``: the store's own split.

    Raises:
        ConfigError: One of the videos has training views.
    """
    if is_random.any():
        named = f" --split-column {column}" if column else ""
        raise ConfigError(
            f"{int(is_random.sum())} of {len(is_random)} videos of split {split!r} were extracted into {store} with "
            "the random views of training, because views follow the split that a video has at extraction; extract them "
            f"again into another store{f' with{named}' if named else ', as a split of their own'}, or with --both-views"
        )


def training_videos(video_ids: Sequence[str], splits: Mapping[str, str], train_split: str) -> npt.NDArray[np.int64]:
    """Numbers of the training videos, int64: those of a split, or all if there are no splits.

    Raises:
        UnknownNameError: There is no such split.
        ConfigError: None of its videos has rows.
    """
    if not splits:
        return np.arange(len(video_ids))
    if train_split not in splits.values():
        raise unknown_name("split", train_split, set(splits.values()))
    chosen = [number for number, video_id in enumerate(video_ids) if splits.get(video_id) == train_split]
    if not chosen:
        raise ConfigError(f"no video of split {train_split!r} has rows; see `featcache info` for the reasons")
    return np.array(chosen, np.int64)
