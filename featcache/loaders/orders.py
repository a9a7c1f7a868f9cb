"""An order of the items of an epoch that reads a disk nearly in order."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Order = Callable[[np.random.Generator], Ints]
"""Puts N items into the random order of an epoch: int64 [N], a permutation of 0 to N - 1."""

GROUP_BYTES = 4 << 20
"""Bytes of a group: neighbours on the disk that a block shuffle keeps near each other in time."""
WINDOW_BYTES = 256 << 20
"""Bytes of the items among which each item of a block shuffle is mixed; the page cache has to hold about twice that."""


def block_order(groups: Ints, *, window: int, rng: np.random.Generator) -> Ints:
    """A shuffle of groups of items, and then of the items inside a window that moves along.

    The groups are put into random order, and each item is moved by a uniform random number of up to ``window`` places
    towards the end, which continues at the beginning. So each item occurs once; items of a group of g are apart by at
    most 2 ``window`` + g places, a third of ``window`` on the average; and with a window of all items it is a full
    shuffle. The expected number of pairs of items of the same group within a batch, an inverse measure of mixing, is
    about N / ``window`` times that of a full shuffle of N items.

    Args:
        groups: int64 [N], the group of each item.
        window: Number of places, at least 1.
        rng: Random generator of the epoch.

    Returns:
        int64 [N], a permutation of 0 to N - 1.
    """
    count = len(groups)
    numbers, group = np.unique(groups, return_inverse=True)
    stream = rng.permutation(len(numbers))[group].argsort(kind="stable")
    place = (np.arange(count) + rng.random(count) * min(window, count)) % max(1, count)
    order: Ints = stream[place.argsort(kind="stable")]
    return order
