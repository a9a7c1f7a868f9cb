"""Assigns the videos of a bank to training and test, by the splits of its store or by folds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featcache.data.selection import GROUP
from featcache.data.subsets import nested_subset
from featcache.errors import ManifestError, unknown_name
from featcache.loaders.bank import ClipSource
from featcache.loaders.choice import check_test_views, groups_of, has_training_views, video_splits
from featcache.loaders.settings import BankSettings
from featcache.metrics.result import Coverage
from featcache.metrics.splits import fold_numbers
from featcache.store.reader import Store

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


def labels_of(store: Store, bank: ClipSource, column: str) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """The class of each video of the bank, -1 if it has none, and the class names."""
    if not store.label_names:
        raise ManifestError(
            f"no video of {store.path} has a label; list them with a column `label` or `label.NAME` and extract again"
        )
    named = store.labels(column)
    classes = tuple(sorted({named[video_id] for video_id in bank.video_ids if video_id in named}))
    if len(classes) < 2:
        raise ManifestError(
            f"the videos of {store.path} have {len(classes)} class in column {column!r}; training needs at least two"
        )
    index = {name: place for place, name in enumerate(classes)}
    return np.array([index.get(named.get(video_id, ""), -1) for video_id in bank.video_ids], np.int64), classes


def assignments_of(
    store: Store,
    bank: ClipSource,
    labels: npt.NDArray[np.int64],
    settings: BankSettings,
    *,
    test_splits: Sequence[str] | None,
    labels_per_class: int | None,
) -> tuple[list[Assignment], str]:
    """Training and test videos: one assignment by splits, or five folds if the store has no splits.

    Folds are of groups where the store has the label column ``group``.

    Args:
        store: The store of the bank.
        bank: Source of the maps.
        labels: int64 [V], class of each video of the bank, -1 for none.
        settings: The training split, and the column of the splits.
        test_splits: Splits to score; ``None``: all others.
        labels_per_class: Number of training videos per class; ``None``: all.

    Returns:
        The assignments, and a few words about how they were made.

    Raises:
        ManifestError: There are no videos to train on or to score.
        UnknownNameError: There is no such split.
    """
    splits = video_splits(store, settings.split_column)
    if not splits:
        videos = np.flatnonzero(labels >= 0)
        groups = groups_of(store, bank.video_ids)
        mine = videos if groups is None else groups[videos]
        num_folds = min(NUM_FOLDS, len(np.unique(mine)))
        folds = fold_numbers(labels[videos], num_folds=num_folds, seed=0, groups=mine)
        assigned = [
            Assignment(
                name=f"fold-{fold}",
                train=_few(videos[folds != fold], labels, labels_per_class),
                tests={"all": videos[folds == fold]},
            )
            for fold in range(num_folds)
        ]
        return assigned, f"{num_folds} folds over {'videos' if groups is None else f'groups of column {GROUP!r}'}"
    train_split = settings.train_split
    _check_split(train_split, splits, store)
    tests = scored_videos(store, bank, labels, settings, test_splits=test_splits)
    train = np.flatnonzero((labels >= 0) & (np.array([splits.get(name, "") for name in bank.video_ids]) == train_split))
    if not len(train) or not tests:
        raise ManifestError(
            f"{store.path} has {len(train)} labelled training videos in {train_split!r} and {len(tests)} test splits "
            "with any; see `featcache info` for labels, splits and failures"
        )
    chosen = _few(train, labels, labels_per_class)
    return [Assignment(name="all", train=chosen, tests=tests)], f"trained on split {train_split!r}"


def scored_videos(
    store: Store,
    bank: ClipSource,
    labels: npt.NDArray[np.int64],
    settings: BankSettings,
    *,
    test_splits: Sequence[str] | None,
) -> dict[str, npt.NDArray[np.int64]]:
    """Labelled videos of each split that is scored, int64; splits without any are left out. See :func:`assignments_of`.

    Raises:
        ConfigError: Test videos have random training views in the store.
        UnknownNameError: There is no such split.
    """
    splits = video_splits(store, settings.split_column)
    for split in test_splits or ():
        _check_split(split, splits, store)
    names = test_splits or sorted(set(splits.values()) - {"", settings.train_split})
    in_split = np.array([splits.get(video_id, "") for video_id in bank.video_ids])
    tests = {split: np.flatnonzero((labels >= 0) & (in_split == split)) for split in names}
    tests = {split: videos for split, videos in tests.items() if len(videos)}
    for split, videos in tests.items():
        is_random = has_training_views(store, [bank.video_ids[video] for video in videos])
        check_test_views(store.path, is_random, split=split, column=settings.split_column)
    return tests


def _check_split(split: str, splits: Mapping[str, str], store: Store) -> None:
    known = sorted(set(splits.values()) - {""})
    if split not in known:
        raise unknown_name("split", split, known, hint=f"{store.path} has: {', '.join(known)}.")


def _few(videos: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], per_class: int | None) -> npt.NDArray[np.int64]:
    """A given number of videos of each class; a smaller selection is contained in a larger one."""
    if per_class is None:
        return videos
    classes = [str(label) for label in labels[videos]]
    return videos[nested_subset(classes, num_items=min(len(videos), per_class * len(set(classes))))]


def split_coverage(
    store: Store, bank: ClipSource, splits: Mapping[str, str], split: str, labels: npt.NDArray[np.int64]
) -> Coverage:
    """Coverage of a split's videos, or of all videos if there are no splits."""
    mine = [video_id for video_id in store.videos if not splits or splits.get(video_id) == split]
    place = {video_id: number for number, video_id in enumerate(bank.video_ids)}
    ok = [place[video_id] for video_id in mine if video_id in place]
    return Coverage(ok=len(ok), failed=len(mine) - len(ok), total=len(mine), unlabelled=int((labels[ok] < 0).sum()))
