"""The labelled videos of a bank, and which are for training and which for tests: by splits, or by folds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featcache.data.selection import GROUP
from featcache.data.subsets import nested_subset
from featcache.errors import ManifestError, unknown_name
from featcache.loaders.bank import ClipSource
from featcache.loaders.choice import VideoList, check_test_views, groups_of, has_training_views, video_splits
from featcache.loaders.settings import BankSettings
from featcache.metrics.result import Coverage
from featcache.metrics.splits import Groups, fold_numbers

NUM_FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One division into training videos and scored videos.

    Attributes:
        name: Folder name of its runs.
        train: int64 [A], numbers of the training videos.
        tests: Split to int64 numbers of the test videos.
    """

    name: str
    train: npt.NDArray[np.int64]
    tests: Mapping[str, npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledBank:
    """The videos of a bank with the classes of one label column; see :func:`read_labelled`.

    Attributes:
        store: The store of the bank.
        source: Source of the maps.
        settings: The training split, and the column of the splits.
        label: Label column.
        labels: int64 [V], class of each video of the bank, -1 for none.
        classes: Names of the classes.
        splits: Split of each video of the store by its id; empty if there are none.
        groups: int64 [V], group of each video of the bank; ``None`` where no groups are known.
    """

    store: VideoList
    source: ClipSource
    settings: BankSettings
    label: str
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    splits: Mapping[str, str]
    groups: Groups | None

    def assignments(
        self, *, test_splits: Sequence[str] | None = None, labels_per_class: int | None = None
    ) -> tuple[list[Assignment], str]:
        """Training and test videos: one assignment by splits, or five folds if the store has no splits.

        Folds are of groups where the store has the label column ``group``.

        Args:
            test_splits: Splits to score; ``None``: all others.
            labels_per_class: Number of training videos per class; ``None``: all.

        Returns:
            The assignments, and a few words about how they were made.

        Raises:
            ManifestError: There are no videos to train on or to score.
            UnknownNameError: There is no such split.
        """
        if not self.splits:
            return self._folds(labels_per_class)
        train_split = self.settings.train_split
        _check_split(train_split, self.splits, self.store)
        tests = self.tests(test_splits)
        train = np.flatnonzero((self.labels >= 0) & (self._in_split() == train_split))
        if not len(train) or not tests:
            raise ManifestError(
                f"{self.store.path} has {len(train)} labelled training videos in {train_split!r} and {len(tests)} test "
                "splits with any; see `featcache info` for labels, splits and failures"
            )
        chosen = _few(train, self.labels, labels_per_class)
        return [Assignment(name="all", train=chosen, tests=tests)], f"trained on split {train_split!r}"

    def tests(self, test_splits: Sequence[str] | None = None) -> dict[str, npt.NDArray[np.int64]]:
        """Labelled videos of each split that is scored, int64; splits without any are left out.

        Args:
            test_splits: Splits to score; ``None``: all but the training split.

        Raises:
            ConfigError: Test videos have random training views in the store.
            UnknownNameError: There is no such split.
        """
        column = self.settings.split_column
        for split in test_splits or ():
            _check_split(split, self.splits, self.store)
        names = test_splits or sorted(set(self.splits.values()) - {"", self.settings.train_split})
        in_split = self._in_split()
        tests = {split: np.flatnonzero((self.labels >= 0) & (in_split == split)) for split in names}
        tests = {split: videos for split, videos in tests.items() if len(videos)}
        for split, videos in tests.items():
            is_random = has_training_views(self.store, [self.source.video_ids[video] for video in videos])
            check_test_views(self.store.path, is_random, split=split, column=column)
        return tests

    def coverage(self, split: str) -> Coverage:
        """Coverage of a split's videos, or of all videos if there are no splits."""
        mine = [name for name in self.store.videos if not self.splits or self.splits.get(name) == split]
        place = {video_id: number for number, video_id in enumerate(self.source.video_ids)}
        ok = [place[video_id] for video_id in mine if video_id in place]
        unlabelled = int((self.labels[ok] < 0).sum())
        return Coverage(ok=len(ok), failed=len(mine) - len(ok), total=len(mine), unlabelled=unlabelled)

    def _in_split(self) -> npt.NDArray[np.str_]:
        """The split of each video of the bank."""
        return np.array([self.splits.get(video_id, "") for video_id in self.source.video_ids])

    def _folds(self, labels_per_class: int | None) -> tuple[list[Assignment], str]:
        videos = np.flatnonzero(self.labels >= 0)
        mine = videos if self.groups is None else self.groups[videos]
        num_folds = min(NUM_FOLDS, len(np.unique(mine)))
        folds = fold_numbers(self.labels[videos], num_folds=num_folds, seed=0, groups=mine)
        assigned = [
            Assignment(
                name=f"fold-{fold}",
                train=_few(videos[folds != fold], self.labels, labels_per_class),
                tests={"all": videos[folds == fold]},
            )
            for fold in range(num_folds)
        ]
        return assigned, f"{num_folds} folds over {'videos' if self.groups is None else f'groups of column {GROUP!r}'}"


def read_labelled(
    settings: BankSettings, source: ClipSource, *, store: VideoList, label: str, classes: Sequence[str] | None = None
) -> LabelledBank:
    """Read the classes, splits and groups of a bank's videos.

    Args:
        settings: The training split, and the column of the splits.
        source: Source of the maps.
        store: The store of the bank.
        label: Label column.
        classes: Names of the classes; ``None``: those that the videos have, in alphabetical order.

    Raises:
        ManifestError: The store has no labels, only one class, or another class than ``classes``.
        UnknownNameError: There is no such label column.
    """
    if not store.label_names:
        raise ManifestError(
            f"no video of {store.path} has a label; list them with a column `label` or `label.NAME` and extract again"
        )
    named = store.labels(label)
    found = sorted({named[video_id] for video_id in source.video_ids if video_id in named})
    if classes is None and len(found) < 2:
        raise ManifestError(
            f"the videos of {store.path} have {len(found)} class in column {label!r}; training needs at least two"
        )
    if classes is not None and (strangers := sorted(set(named.values()) - set(classes))):
        raise ManifestError(
            f"{store.path} has the class {strangers[0]!r} in column {label!r}, which the module was not trained on; "
            "choose the label column that it was trained on"
        )
    index = {name: place for place, name in enumerate(classes or found)}
    return LabelledBank(
        store=store,
        source=source,
        settings=settings,
        label=label,
        labels=np.array([index.get(named.get(video_id, ""), -1) for video_id in source.video_ids], np.int64),
        classes=tuple(index),
        splits=video_splits(store, settings.split_column),
        groups=groups_of(store, source.video_ids),
    )


def _check_split(split: str, splits: Mapping[str, str], store: VideoList) -> None:
    known = sorted(set(splits.values()) - {""})
    if split not in known:
        raise unknown_name("split", split, known, hint=f"{store.path} has: {', '.join(known)}.")


def _few(videos: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], per_class: int | None) -> npt.NDArray[np.int64]:
    """A given number of videos of each class; a smaller selection is contained in a larger one."""
    if per_class is None:
        return videos
    classes = [str(label) for label in labels[videos]]
    return videos[nested_subset(classes, num_items=min(len(videos), per_class * len(set(classes))))]
