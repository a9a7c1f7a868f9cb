"""Storage precision: all stored values are finite, and int8 has one scale per channel."""

import numpy as np
import numpy.typing as npt

from featcache.errors import NonFiniteFeatureError
from featcache.recipes import Precision

Array = npt.NDArray[np.generic]
Scale = npt.NDArray[np.float32]

_INT8_MAX = 127


def staging_dtype(precision: Precision) -> np.dtype[np.generic]:
    """Dtype of rows that wait for their shard: the stored dtype, or float32 for int8 (whose scale needs all rows)."""
    return np.dtype("<f2") if precision == "float16" else np.dtype("<f4")


def stored_dtype(precision: Precision) -> np.dtype[np.generic]:
    """Dtype on disk, little endian."""
    return np.dtype({"float16": "<f2", "float32": "<f4", "int8": "i1"}[precision])


def to_storage(values: Array, precision: Precision, *, where: str) -> Array:
    """Cast features to the dtype in which they wait for their shard, and refuse values that it cannot hold.

    Args:
        values: float [...].
        precision: Storage precision of the array.
        where: Feature and video, for the message.

    Returns:
        float16 for ``float16``, otherwise float32 (int8 is quantised per shard, at commit).

    Raises:
        NonFiniteFeatureError: NaN, infinity, or a value beyond float16's 65504.
    """
    with np.errstate(over="ignore"):  # an overflow becomes an infinity, which is refused below
        cast: Array = values.astype(staging_dtype(precision), copy=False)
    if not all_finite(cast):
        raise _not_finite(values, precision, where)
    return cast


def all_finite(values: Array) -> bool:
    """Whether a float16 or float32 array has neither NaN nor infinity; by bits, several times faster than isfinite."""
    word, mask = ("u2", 0x7C00) if values.dtype.itemsize == 2 else ("u4", 0x7F800000)
    exponents = np.bitwise_and(np.ascontiguousarray(values).view(word), mask)
    return int(exponents.max(initial=0)) < mask  # all ones: infinity or NaN


def _not_finite(values: Array, precision: Precision, where: str) -> NonFiniteFeatureError:
    floats = values.astype(np.float64)
    if np.isfinite(floats).all():
        largest = float(np.abs(floats).max())
        return NonFiniteFeatureError(
            f"feature {where} reaches {largest:.6g}, beyond {precision}'s 65504; store it with precision float32"
        )
    bad = int((~np.isfinite(floats)).sum())
    return NonFiniteFeatureError(
        f"feature {where} has {bad} NaN or infinite values; check the weights, or compute in float32"
    )


def quantise(values: npt.NDArray[np.float32], present: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int8], Scale]:
    """Quantise to symmetric int8 with one scale per channel over the present rows of a shard.

    Args:
        values: float32 [N, ..., C].
        present: bool [N]; other rows become 0.

    Returns:
        int8 [N, ..., C] with ``values ~ quantised * scale``, and float32 scale [C]: the largest magnitude of the
        channel / 127, or 1 for a channel of zeros.

    Raises:
        NonFiniteFeatureError: A present row has NaN or infinity.
    """
    axes = tuple(range(values.ndim - 2))
    largest = np.zeros(values.shape[-1], np.float32)
    for row in np.flatnonzero(present):
        if not all_finite(values[row]):
            raise NonFiniteFeatureError(f"row {row} holds NaN or infinite values")
        np.maximum(largest, np.abs(values[row]).max(axis=axes, initial=0), out=largest)
    scale = np.where(largest > 0, largest / np.float32(_INT8_MAX), np.float32(1)).astype(np.float32)
    scale[scale == 0] = np.finfo(np.float32).smallest_subnormal  # a magnitude so small that 1/127 of it underflows
    quantised = np.zeros(values.shape, np.int8)
    for row in np.flatnonzero(present):  # row by row, to avoid a second float copy of the shard
        quantised[row] = np.clip(np.rint(values[row] / scale), -_INT8_MAX, _INT8_MAX)
    return quantised, scale


def dequantise(quantised: npt.NDArray[np.int8], scale: Scale) -> npt.NDArray[np.float32]:
    """float32 of ``quantised`` [..., C] times ``scale`` (broadcast against it)."""
    return quantised.astype(np.float32) * scale
