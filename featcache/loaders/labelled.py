"""Labelled training and test videos of a source, and their classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.data.manifest import Manifest
from featcache.data.selection import GROUP
from featcache.data.types import VideoRecord
from featcache.errors import ManifestError, unknown_name
from featcache.loaders.settings import LabelledSettings
from featcache.loaders.usable import list_videos, open_usable
from featcache.loaders.videos import VideoFiles
from featcache.metrics.splits import Groups, group_numbers
from featcache.stages import OnStage, ignore
from featcache.training.identity import digest
from featcache.training.world import ALONE, World


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledVideos:
    """The usable videos of a split that have a label.

    Attributes:
        files: Their files, by number.
        labels: int64 [M], position of each video's class in :attr:`LabelledSource.classes`.
        num_failed: Number of videos of the split that cannot be used.
        num_unlabelled: Number of usable videos without a label.
    """

    files: VideoFiles
    labels: npt.NDArray[np.int64]
    num_failed: int
    num_unlabelled: int

    def __post_init__(self) -> None:
        assert len(self.files.videos) == len(self.labels), f"{len(self.labels)} labels of {len(self.files.videos)}"

    @property
    def groups(self) -> Groups | None:
        """int64 [M], group of each video by its label column ``group``; ``None`` where no video has one."""
        names = [video.labels.get(GROUP) for video in self.files.videos]
        return group_numbers(names) if any(name is not None for name in names) else None

    def decodable(self, numbers: Sequence[int]) -> "LabelledVideos":
        """The videos of these numbers, as the others have failed to decode."""
        num_damaged = len(self.labels) - len(numbers)
        files, labels = self.files.take(numbers), self.labels[list(numbers)]
        return replace(self, files=files, labels=labels, num_failed=self.num_failed + num_damaged)

    def __repr__(self) -> str:
        return f"LabelledVideos({len(self.labels)}, {self.num_failed} failed, {self.num_unlabelled} unlabelled)"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledSource:
    """Labelled videos of a source.

    Attributes:
        classes: Class names; first those of the training videos, sorted, then those that occur only in test videos.
        num_taught: Number of classes of the training videos.
        train: Training videos.
        tests: Test videos, by split.
    """

    classes: tuple[str, ...]
    num_taught: int
    train: LabelledVideos
    tests: Mapping[str, LabelledVideos]

    @property
    def content(self) -> str:
        """Digest of the training videos and their classes."""
        videos = zip(self.train.files.videos, self.train.labels.tolist(), strict=True)
        listed = [[video.id, video.content_hash, video.num_frames, self.classes[label]] for video, label in videos]
        return digest(listed)

    @property
    def num_left_out(self) -> int:
        """Number of videos of all these splits that cannot be used."""
        return sum(part.num_failed for part in (self.train, *self.tests.values()))


def read_data(
    settings: LabelledSettings, *, folder: Path | None = None, world: World = ALONE, on_stage: OnStage = ignore
) -> LabelledSource:
    """List the videos, and sort them by split and class; the number of unusable videos is logged.

    Args:
        settings: Source, splits and label column.
        folder: Folder of the run; see :func:`featcache.loaders.usable.list_videos`.
        world: The processes that share the run.
        on_stage: Called with the stage ``scan``, files listed and files in total.

    Raises:
        ManifestError: There are no splits, no labels, only one class, or no videos to train on or to score.
        UnknownNameError: There is no such split or label column.
    """
    manifest = list_videos(settings, folder=folder, world=world, on_stage=on_stage)
    where = settings.source or settings.dataset
    columns = {column for video in manifest.videos for column in video.labels}
    if not columns:
        raise ManifestError(
            f"no video of {where} has a label; put the videos of a class into a folder of its name, or list them with "
            "a column `label`"
        )
    if settings.label not in columns:
        raise unknown_name("label column", settings.label, columns)
    splits = {video.split for video in manifest.videos} - {""}
    if not splits:
        raise ManifestError(
            f"the videos of {where} have no splits, and accuracy is of videos not learned from; split them with "
            "--test-fraction 0.3, or list them with a column `split`"
        )
    for split in (settings.train_split, *(settings.test_splits or ())):
        if split not in splits:
            raise unknown_name("split", split, splits)
    tests = settings.test_splits or sorted(splits - {settings.train_split})
    by_split = {
        split: [video for video in manifest.videos if video.split == split] for split in (settings.train_split, *tests)
    }
    classes, num_taught = _classes(by_split, settings, where=str(where))
    parts = {split: _labelled(by_split[split], settings, classes, manifest, world) for split in by_split}
    scored = {split: part for split in tests if (part := parts[split]) is not None}
    train = parts[settings.train_split]
    assert train is not None, "classes are those of its videos"
    if not scored:
        raise ManifestError(
            f"{where} has no usable test video with a label in column {settings.label!r} outside of split "
            f"{settings.train_split!r}; `featcache scan` says why videos cannot be used"
        )
    return LabelledSource(classes=classes, num_taught=num_taught, train=train, tests=scored)


def _classes(
    by_split: Mapping[str, Sequence[VideoRecord]], settings: LabelledSettings, *, where: str
) -> tuple[tuple[str, ...], int]:
    """Names of the classes, those of the training videos first, and the number of those."""
    named = {
        split: {video.labels[settings.label] for video in _usable(videos) if settings.label in video.labels}
        for split, videos in by_split.items()
    }
    taught = named[settings.train_split]
    if len(taught) < 2:
        raise ManifestError(
            f"the usable training videos of {where} (split {settings.train_split!r}) have {len(taught)} class in "
            f"column {settings.label!r}; training needs at least two"
        )
    return (*sorted(taught), *sorted(set().union(*named.values()) - taught)), len(taught)


def _labelled(
    videos: Sequence[VideoRecord],
    settings: LabelledSettings,
    classes: Sequence[str],
    manifest: Manifest,
    world: World,
) -> LabelledVideos | None:
    """The usable videos with a label; ``None`` if there are none."""
    labelled = [video for video in _usable(videos) if settings.label in video.labels]
    if not labelled:
        return None
    failed = [video for video in videos if video.status != "ok"]
    usable = open_usable([*labelled, *failed], root=manifest.root, decoder=settings.decoder, world=world)
    index = {name: place for place, name in enumerate(classes)}
    return LabelledVideos(
        files=usable.files,
        labels=np.array([index[video.labels[settings.label]] for video in usable.files.videos], np.int64),
        num_failed=usable.num_left_out,
        num_unlabelled=len(videos) - len(failed) - len(labelled),
    )


def _usable(videos: Sequence[VideoRecord]) -> list[VideoRecord]:
    return [video for video in videos if video.status == "ok"]
