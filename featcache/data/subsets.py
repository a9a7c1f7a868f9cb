"""Subsets and splits of labelled items, as index arrays: pure functions of labels, groups and a seed."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from featcache.errors import ConfigError
from featcache.seeding import rng_for

Indices = npt.NDArray[np.int64]


def nested_subset(labels: Sequence[str], *, num_items: int, seed: int = 0) -> Indices:
    """A class-balanced subset; with the same seed, every smaller subset is contained in every larger one.

    Items are taken in rounds, one item of each class per round, so classes differ by at most one item until a small
    class is used up; an incomplete last round takes its classes in that round's shuffled order.

    Args:
        labels: One class per item.
        num_items: Size of the subset.
        seed: Seed of the selection.

    Returns:
        int64 [num_items], increasing.

    Raises:
        ConfigError: ``num_items`` is not in [0, number of items].
    """
    if not 0 <= num_items <= len(labels):
        raise ConfigError(f"a subset of {num_items} of {len(labels)} items does not exist; ask for 0 to {len(labels)}")
    rounds: list[tuple[int, float, int]] = []
    for label, members in _by_class(labels).items():
        rng = rng_for(seed, "subset", label)
        places = rng.random(len(members))
        rounds += zip(range(len(members)), places.tolist(), rng.permutation(members).tolist(), strict=True)
    rounds.sort()
    return np.array(sorted(item for _, _, item in rounds[:num_items]), np.int64)


def low_shot(
    labels: Sequence[str],
    *,
    fraction: float,
    order: Literal["first", "random"] = "random",
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> Indices:
    """The same fraction of every class: ``max(1, floor(fraction * n))`` of its n items.

    ``first`` takes them in list order (SCALE's 10 % protocol); ``random`` takes a seeded draw in which a smaller
    fraction is contained in a larger one.

    If items have groups, each class gives whole groups, in the order of their first items, while they fit into that
    number, and always the first one: nine clips of one recording are worth little more than one clip.

    Returns:
        int64, increasing.

    Raises:
        ConfigError: ``fraction`` is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"low-shot fraction is {fraction}; it must be in (0, 1]")
    chosen: list[int] = []
    for label, members in _by_class(labels).items():
        ordered = members if order == "first" else rng_for(seed, "low_shot", label).permutation(members)
        wanted = max(1, int(fraction * len(members) + 1e-9))  # 0.29 * 100 is 28.999…
        chosen += ordered[:wanted].tolist() if groups is None else _whole_groups(ordered.tolist(), groups, wanted)
    return np.array(sorted(chosen), np.int64)


def _whole_groups(items: Sequence[int], groups: Sequence[str], wanted: int) -> list[int]:
    """Items of the first groups with at most ``wanted`` items in total, and always those of the first group."""
    members: dict[str, list[int]] = {}
    for item in items:
        members.setdefault(groups[item], []).append(item)
    chosen: list[int] = []
    for mine in members.values():
        if chosen and len(chosen) + len(mine) > wanted:
            break
        chosen += mine
    return chosen


def group_split(groups: Sequence[str], *, test_fraction: float, seed: int = 0) -> tuple[Indices, Indices]:
    """A train and a test part that share no group.

    Groups are shuffled and moved to the test part as long as this brings its size closer to ``test_fraction`` of the
    items; each part keeps at least one group.

    Returns:
        Increasing int64 indices (train, test).

    Raises:
        ConfigError: Fewer than two groups, or a fraction outside (0, 1).
    """
    members = _by_class(groups)
    if len(members) < 2:
        raise ConfigError(f"{len(members)} group cannot be split in two; a group never lies on both sides")
    if not 0 < test_fraction < 1:
        raise ConfigError(f"test_fraction is {test_fraction}; it must be in (0, 1)")
    names = [list(members)[i] for i in rng_for(seed, "group_split").permutation(len(members))]
    wanted = test_fraction * len(groups)
    test: list[int] = members[names[0]].tolist()
    for name in names[1:-1]:
        if abs(len(test) + len(members[name]) - wanted) < abs(len(test) - wanted):
            test += members[name].tolist()
    everything = np.arange(len(groups), dtype=np.int64)
    chosen = np.array(sorted(test), np.int64)
    return np.setdiff1d(everything, chosen, assume_unique=True), chosen


def _by_class(labels: Sequence[str]) -> dict[str, Indices]:
    """Indices of each class; classes are sorted so that the order of the draws does not depend on that of the items."""
    members: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    return {label: np.array(members[label], np.int64) for label in sorted(members)}
