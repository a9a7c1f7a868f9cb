"""What of a store a method trains on: a feature of the right shape, and the videos of a split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featcache.errors import ConfigError, no_name, unknown_name
from featcache.store.reader import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureKind:
    """What a method can use.

    Attributes:
        axes: Of a row, as in the feature's record.
        holds: What its rows are, in an error.
        flags: Of `featcache extract`, that make such rows.
    """

    axes: tuple[str, ...]
    holds: str
    flags: str


MAPS = FeatureKind(axes=("h", "w", "c"), holds="maps", flags="--layout frames --output map")
VECTORS = FeatureKind(axes=("c",), holds="one vector a clip", flags="--output cls or --output mean")


def choose_feature(store: Store, name: str | None, kind: FeatureKind) -> str:
    """The feature of that name, or the only one of its kind.

    Raises:
        ConfigError: Its rows are of another kind, or none is of this kind.
        UnknownNameError: No such feature, or no name where there are several.
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


def video_splits(store: Store, column: str | None) -> dict[str, str]:
    """Video id to split: the store's own, or those of a label column; empty where there are none."""
    if column is not None:
        return store.labels(column)
    return {video.id: video.split for video in store.videos.values() if video.split}


def training_videos(video_ids: Sequence[str], splits: Mapping[str, str], train_split: str) -> npt.NDArray[np.int64]:
    """Numbers of the training videos, int64: those of a split, or all where there are no splits.

    Raises:
        UnknownNameError: No such split.
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
