"""Selects listed videos and training videos: official splits, group-aware splits, subsets.

The selection works on the rows of the lists before a video is opened, so it does not depend on which files exist.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from featcache.config import Aside, Role, Settings
from featcache.data.manifest import Manifest
from featcache.data.subsets import group_split, low_shot, nested_subset
from featcache.data.types import MAX_GIGAPIXELS, VideoRecord
from featcache.errors import ConfigError, ManifestError, unknown_name

GROUP = "group"
"""Label column that names the group of a video; a random split keeps a group together."""

TRAIN = "train"
_UCF101_NAME = re.compile(r"(.*/)?v_\w+_g\d\d_c\d\d(\.\w+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The videos to take from a source. The default takes every video as it is listed.

    Attributes:
        split_column: Label column with the split, e.g. ``split2``; ``None``: the listed split.
        test_fraction: Share of the videos for a test split, if the source has no splits; the others are for training.
        group_by: With ``test_fraction``: label column of which no value may be on both sides.
        subset: Number of training videos to keep, balanced over the column ``label``; smaller subsets with the same
            seed are contained in larger ones. If it is not a multiple of the number of classes, classes differ by one
            video; a class with too few videos gives all of them and the others make up for it.
        low_shot: Keep the first ``max(1, floor(low_shot * n))`` of the n training videos of each class, in the order
            of the list (SCALE, §4.2, with 0.1).
        seed: Seed of the split and the subset.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    split_column: str | None = None
    test_fraction: float | None = None
    group_by: str | None = None
    subset: int | None = None
    low_shot: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.group_by is not None and self.test_fraction is None:
            raise ConfigError(f"group_by is {self.group_by!r}; it belongs to test_fraction, which is not given")
        if self.test_fraction is not None and self.split_column is not None:
            raise ConfigError("split_column and test_fraction both choose the split; give one of them")
        if self.subset is not None and self.low_shot is not None:
            raise ConfigError("subset and low_shot both choose training videos; give one of them")
        if self.test_fraction is not None and not 0 < self.test_fraction < 1:
            raise ConfigError(f"test_fraction is {self.test_fraction}; it must be between 0 and 1, e.g. 0.3")
        if self.low_shot is not None and not 0 < self.low_shot <= 1:
            raise ConfigError(f"low_shot is {self.low_shot}; it must be in (0, 1], e.g. 0.1")
        if self.subset is not None and self.subset < 1:
            raise ConfigError(f"subset is {self.subset}; keep at least 1 training video")


def select(manifest: Manifest, selection: Selection) -> Manifest:
    """Apply a selection to listed or scanned videos and keep their order.

    Training videos are those of split ``train``, or all videos if the source has no splits; videos of other splits are
    always kept.

    Raises:
        UnknownNameError: There is no such column.
        ConfigError: A random split would leak, or the subset is larger than the number of videos.
        ManifestError: A training video has no label, or a video has no group.
    """
    videos = list(manifest.videos)
    if selection.split_column is not None:
        _check_column(videos, selection.split_column)
        videos = [replace(video, split=video.labels.get(selection.split_column, "")) for video in videos]
    if selection.test_fraction is not None:
        videos = _split(videos, selection)
    if selection.subset is not None or selection.low_shot is not None:
        videos = _reduce(videos, selection)
    return replace(manifest, videos=tuple(videos))


def _split(videos: Sequence[VideoRecord], selection: Selection) -> list[VideoRecord]:
    fraction, column = selection.test_fraction, selection.group_by
    assert fraction is not None, "only called with a fraction"
    if any(video.split for video in videos) and not _keeps_its_splits(videos):
        raise ConfigError("the source has splits of its own, which a random one would replace; remove test_fraction")
    if column is None:
        if any(GROUP in video.labels for video in videos):
            raise ConfigError(
                f"a random split would leak: clips of one group share scene and people, and this source has the column "
                f"{GROUP!r} that names them; add group_by {GROUP!r} (--group-by {GROUP}) or use the official splits"
            )
        if sum(_UCF101_NAME.fullmatch(video.id) is not None for video in videos) * 2 > len(videos):
            raise ConfigError(
                "a random split would leak: these are clips of UCF101 by their names (v_<Class>_gNN_cNN), and clips "
                "of one group share scene and people; use --dataset ucf101, for its splits or with --group-by group"
            )
        groups = [video.id for video in videos]
    else:
        _check_column(videos, column)
        if lacking := next((video for video in videos if column not in video.labels), None):
            raise ManifestError(f"video {lacking.id!r} has no {column!r}, so no side can be chosen; give it one")
        groups = [video.labels[column] for video in videos]
    _, test = group_split(groups, test_fraction=fraction, seed=selection.seed)
    tested = set(test.tolist())
    split = [replace(video, split="test" if i in tested else TRAIN) for i, video in enumerate(videos)]
    sides = {(video.labels[GROUP], video.split) for video in split if GROUP in video.labels}
    if twice := [group for group, count in Counter(group for group, _ in sides).items() if count > 1]:
        raise ConfigError(
            f"grouped by {column!r}, {len(twice)} groups, {twice[0]!r} among them, would be in train and test, and "
            f"clips of one group share scene and people; group by {GROUP!r}"
        )
    return split


def _keeps_its_splits(videos: Sequence[VideoRecord]) -> bool:
    """Whether the official splits remain available in columns of their own."""
    return any(name.startswith("split") for video in videos for name in video.labels)


def _reduce(videos: list[VideoRecord], selection: Selection) -> list[VideoRecord]:
    _check_column(videos, "label")
    has_splits = any(video.split for video in videos)
    train = [index for index, video in enumerate(videos) if video.split == TRAIN or not has_splits]
    if not train:
        raise ConfigError(f"no video is in the split {TRAIN!r}, so there is nothing to keep a part of")
    if lacking := next((videos[index] for index in train if "label" not in videos[index].labels), None):
        raise ManifestError(f"training video {lacking.id!r} has no label, so no class can be balanced; give it one")
    labels = [videos[index].labels["label"] for index in train]
    if selection.subset is not None:
        chosen = nested_subset(labels, num_items=selection.subset, seed=selection.seed)
    else:
        assert selection.low_shot is not None, "one of the two is given"
        groups = [videos[index].labels.get(GROUP, videos[index].id) for index in train]
        chosen = low_shot(labels, fraction=selection.low_shot, order="first", groups=groups)
    dropped = set(train) - {train[index] for index in chosen.tolist()}
    return [video for index, video in enumerate(videos) if index not in dropped]


def _check_column(videos: Sequence[VideoRecord], column: str) -> None:
    known = {name for video in videos for name in video.labels}
    if column not in known:
        raise unknown_name("label column", column, known)


def check_source(source: str | None, dataset: str | None, root: str | None) -> None:
    """Check that the videos come from exactly one place.

    Raises:
        ConfigError: Neither or both of ``source`` and ``dataset`` are given, or only one of ``dataset`` and ``root``.
    """
    if source is not None and (dataset is not None or root is not None):
        given = f"dataset {dataset!r}" if dataset is not None else f"root {root!r}"
        raise ConfigError(f"source {source!r} and {given} are both given; name a source, or --dataset with --root")
    if source is None and (dataset is None or root is None):
        half = "dataset without root" if dataset is not None else "root without dataset" if root is not None else ""
        raise ConfigError(
            f"{half or 'no source'} is given; name a folder or listing of videos, or --dataset NAME with --root DIR"
        )


class SourceSettings(Settings):
    """Where the videos of a command come from."""

    command: str
    """The command this file repeats."""
    source: Aside[str | None] = None
    """A folder of videos, or a CSV, JSONL or Parquet listing; null where ``dataset`` is given."""
    dataset: Aside[str | None] = None
    """A public data set by its official lists, e.g. ``ucf101``; null where ``source`` is given."""
    root: Aside[str | None] = None
    """Folder with the videos and the lists of ``dataset``."""
    selection: Aside[Selection] = Selection()
    """Which column holds the split, and which of the listed videos are used."""

    @property
    def videos_name(self) -> str:
        """Name of these videos in folders of runs."""
        return Path(self.source or self.dataset or "").stem

    def model_post_init(self, context: object) -> None:
        """Check that videos come from exactly one place."""
        check_source(self.source, self.dataset, self.root)


class VideosSettings(SourceSettings):
    """Where the videos of a command come from, and how they are scanned."""

    decoder: str = "pyav"
    """Decoder of the frames."""
    deadline_seconds: Aside[float] = Field(default=60.0, gt=0, allow_inf_nan=False)
    """While scanning, a file that shows no sign of life for so long is a ``timeout``."""
    max_gigapixels: Aside[float] = Field(default=MAX_GIGAPIXELS, gt=0, allow_inf_nan=False)
    """Decoded pixels that one file may take while it is scanned; one that takes more is ``undecodable``."""


MaxDamaged = Annotated[float, Role.ASIDE, Field(ge=0, le=1, allow_inf_nan=False)]
"""A share of videos."""


class DecodedVideosSettings(VideosSettings):
    """Where the videos of a training that decodes them come from."""

    max_damaged: MaxDamaged = 0.05
    """Share of the training videos that may turn out not to decode although they passed the scan: another video takes
    the place of each. The run stops if there are more of them; 0: at the first."""


class TrainingVideosSettings(DecodedVideosSettings):
    """Where the videos of a training without labels come from, and how they are read."""

    train_split: Aside[str] = "train"
    """Split to train on; a source without splits is used as a whole."""
    workers: Aside[int | None] = Field(default=None, ge=0)
    """Number of decoding processes; 0: a thread of the training process; null: one per core. The pixels are the
    same."""
