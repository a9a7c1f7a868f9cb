"""How stored maps and tokens become the vectors that probes read."""

import functools
import math
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from featcache.errors import ConfigError, unknown_name
from featcache.recipes import RecordSpec

Pool = Literal["mean", "vcop"]
"""``mean``: averaged over all positions. ``vcop``: the largest of each 2 x 2 positions of each time, side by side."""


def check_pool(pool: str) -> None:
    """Check a name.

    Raises:
        UnknownNameError: There is no such pooling; names the closest.
    """
    if pool not in get_args(Pool):
        raise unknown_name("pool", pool, get_args(Pool))


def pooled_width(record: RecordSpec, pool: Pool, *, feature: str, store: str) -> int:
    """Number of channels D of the vectors that :func:`pooled` makes of rows.

    Args:
        record: Shape and axes of a row.
        pool: How rows are pooled.
        feature: Name of the array, for messages.
        store: Where it is, for messages.

    Raises:
        UnknownNameError: There is no such pooling; names the closest.
        ConfigError: Rows are no maps, or maps of a side below 2, and ``pool`` needs them.
    """
    check_pool(pool)
    if pool == "mean":
        return record.shape[-1]
    shape = " x ".join(map(str, record.shape))
    if record.axes[-3:] != ("h", "w", "c"):
        raise ConfigError(
            f"pool is 'vcop', which takes maxima over the positions of a map, and feature {feature!r} of {store} has "
            f"rows of {shape}, no maps; extract the backbone's last map with --output map, or use pool=mean"
        )
    height, width = record.shape[-3:-1]
    if min(height, width) < 2:
        raise ConfigError(
            f"pool is 'vcop', which takes maxima over 2 x 2 positions, and feature {feature!r} of {store} has maps of "
            f"{shape}; extract larger maps, or use pool=mean"
        )
    return math.prod(record.shape[:-3]) * (height // 2) * (width // 2) * record.shape[-1]


def pooled(records: npt.NDArray[np.float32], pool: Pool = "mean") -> npt.NDArray[np.float32]:
    """Vectors of rows.

    Args:
        records: float32 [n, ..., C]; for ``vcop`` [n, ..., h, w, C] with sides of at least 2.
        pool: ``mean``: the mean over all positions. ``vcop``: the maximum over each 2 x 2 positions (the last row and
            column of an odd side are left out, as ``MaxPool3d((1, 2, 2))`` does), flattened.

    Returns:
        float32 [n, C], or for ``vcop`` [n, prod(...) * (h // 2) * (w // 2) * C].
    """
    if pool == "mean":
        vectors: npt.NDArray[np.float32] = records.mean(axis=tuple(range(1, records.ndim - 1)))
        return vectors
    height, width = (side // 2 * 2 for side in records.shape[-3:-1])
    corners = [records[..., y:height:2, x:width:2, :] for y in (0, 1) for x in (0, 1)]
    return functools.reduce(np.maximum, corners).reshape(len(records), -1)
