"""Which videos train, validate and test: all by video, balanced over classes, and drawn by key."""

import numpy as np
import numpy.typing as npt

from featcache.seeding import rng_for


def hold_out(labels: npt.NDArray[np.int64], *, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Choose validation videos from every class.

    Args:
        labels: int64 [M], class of each training video.
        fraction: Share of each class, rounded; at least one video and at most all but one. A class with a single
            video gives none: it is needed for training.
        seed: Seed of the choice.

    Returns:
        bool [M], true for validation; all false if no class has two videos.
    """
    held = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) > 1:
            count = min(max(round(fraction * len(members)), 1), len(members) - 1)
            held[rng_for(seed, "validation", int(label)).permutation(members)[:count]] = True
    return held


def fold_numbers(labels: npt.NDArray[np.int64], *, num_folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Deal videos to folds, class after class, so that folds and the classes within them differ by at most one video.

    Args:
        labels: int64 [M].
        num_folds: Number of folds; M of them is leave-one-out.
        seed: Seed of the deal.

    Returns:
        int64 [M], fold of each video.
    """
    order = rng_for(seed, "folds").permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), dtype=np.int64)
    folds[order] = np.arange(len(labels)) % num_folds
    return folds
