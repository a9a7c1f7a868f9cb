"""Splits for validation and cross-validation: by video or by group, balanced over classes, and drawn by key.

A group is a set of nearly identical videos, e.g. clips cut from the same recording. If groups are known, no group is on
both sides of a split: a probe could otherwise recognise the recording instead of the class.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from featcache.seeding import rng_for

Groups = npt.NDArray[np.int64]
"""int64 [M], the number of each video's group; equal numbers stay together."""


def group_numbers(names: Sequence[str | None]) -> Groups:
    """A number for each name, and one of its own for each video without a name; int64 [M]."""
    numbers: dict[tuple[str, int], int] = {}
    keys = [("", place) if name is None else (name, -1) for place, name in enumerate(names)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def hold_out(
    labels: npt.NDArray[np.int64], *, fraction: float, seed: int, groups: Groups | None = None
) -> npt.NDArray[np.bool_]:
    """Choose validation videos from every class.

    Args:
        labels: int64 [M], class of each training video.
        fraction: Share of each class, rounded; at least one video and at most all but one. A class with a single
            video (or group) gives none, because training needs it.
        seed: Seed of the selection.
        groups: Groups of the videos, which are kept together: the share of a class is met as closely as they allow.
            ``None``: each video is a group of its own.

    Returns:
        bool [M], true for validation; all false if no class has two videos (or groups).
    """
    held = np.zeros(len(labels), dtype=np.bool_)
    if groups is not None and _are_shared(groups):
        return _hold_out_groups(labels, groups, fraction=fraction, seed=seed)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) > 1:
            count = min(max(round(fraction * len(members)), 1), len(members) - 1)
            held[rng_for(seed, "validation", int(label)).permutation(members)[:count]] = True
    return held


def fold_numbers(
    labels: npt.NDArray[np.int64], *, num_folds: int, seed: int, groups: Groups | None = None
) -> npt.NDArray[np.int64]:
    """Assign videos to folds so that folds and the classes within them are as equal as possible.

    Without groups, videos are assigned class after class, so that sizes differ by at most one video. Groups are kept
    together, the largest first, each in the fold that has the fewest videos of its classes so far.

    Args:
        labels: int64 [M].
        num_folds: Number of folds, at most the number of videos (or groups), which gives leave-one-out.
        seed: Seed of the assignment.
        groups: Groups of the videos; ``None``: each video is a group of its own.

    Returns:
        int64 [M], the fold of each video.
    """
    if groups is not None and _are_shared(groups):
        return _deal_groups(labels, groups, num_folds=num_folds, seed=seed)
    order = rng_for(seed, "folds").permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), dtype=np.int64)
    folds[order] = np.arange(len(labels)) % num_folds
    return folds


def _are_shared(groups: Groups) -> bool:
    return len(np.unique(groups)) < len(groups)


def _tables(labels: npt.NDArray[np.int64], groups: Groups) -> tuple[Groups, npt.NDArray[np.int64]]:
    """Place of each video's group in sorted order, int64 [M], and videos by group and class, int64 [G, C]."""
    _, place = np.unique(groups, return_inverse=True)
    _, column = np.unique(labels, return_inverse=True)
    table = np.zeros((place.max() + 1, column.max() + 1), np.int64)
    np.add.at(table, (place, column), 1)
    return place, table


def _hold_out_groups(
    labels: npt.NDArray[np.int64], groups: Groups, *, fraction: float, seed: int
) -> npt.NDArray[np.bool_]:
    place, table = _tables(labels, groups)
    total = table.sum(axis=0)
    wanted = np.maximum(np.round(fraction * total), 1)
    held, num_held = np.zeros(len(table), np.bool_), np.zeros(table.shape[1], np.int64)
    for group in rng_for(seed, "validation groups").permutation(len(table)):
        mine = np.flatnonzero(table[group])
        after = num_held[mine] + table[group, mine]
        is_nearer = np.abs(after - wanted[mine]).sum() < np.abs(num_held[mine] - wanted[mine]).sum()
        if (is_nearer or not num_held[mine].any()) and (after < total[mine]).all():
            held[group] = True
            num_held[mine] = after
    return held[place]


def _deal_groups(labels: npt.NDArray[np.int64], groups: Groups, *, num_folds: int, seed: int) -> npt.NDArray[np.int64]:
    place, table = _tables(labels, groups)
    order = rng_for(seed, "folds").permutation(len(table))
    order = order[np.argsort(-table[order].sum(axis=1), kind="stable")]
    in_fold = np.zeros((num_folds, table.shape[1]), np.int64)
    folds = np.empty(len(table), np.int64)
    for group in order:
        mine = np.flatnonzero(table[group])
        crowd = in_fold[:, mine] @ table[group, mine]
        folds[group] = min(range(num_folds), key=lambda fold: (crowd[fold], in_fold[fold].sum(), fold))
        in_fold[folds[group]] += table[group]
    return folds[place]
