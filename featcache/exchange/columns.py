"""Features as Arrow columns and back: vectors and maps of fixed shape, bit for bit."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from featcache.data.manifest import label_column
from featcache.data.types import VideoRecord
from featcache.errors import ExchangeError
from featcache.exchange.sample import Array, unknown_mask
from featcache.recipes import RecordSpec
from featcache.store.rows import RowTable

Column = Any  # a pyarrow.Array: its class takes no type arguments at run time, and its stubs want them

FEATURE = "feature"
ROW_LISTS = ("frames", "pts_seconds")
ROW_NUMBERS = ("t0", "t1", "y0", "x0", "y1", "x1", "flip")


def row_columns_of(videos: Sequence[VideoRecord], counts: Sequence[int], rows: RowTable) -> dict[str, Column]:
    r"""The facts about rows as columns: id, split, labels, clip, times, box, flip, frames; unknown values are null.

    Bytes of names that are not UTF-8 are written ``\xNN``, since Arrow text is UTF-8; ``videos.csv`` has the bytes.

    Args:
        videos: Videos in row order.
        counts: Number of rows of each video.
        rows: The rows, in order.
    """
    owner = np.repeat(np.arange(len(videos)), counts)
    texts: dict[str, list[str | None]] = {
        "id": [video.id for video in videos],
        "split": [video.split or None for video in videos],
    }
    for name in label_names(videos):
        texts[label_column(name)] = [video.labels.get(name) for video in videos]
    columns: dict[str, Column] = {}
    for name, values in texts.items():
        text = pa.array([None if value is None else utf8(value) for value in values], pa.string())
        columns[name] = text.take(owner)
    columns["clip"] = pa.array(rows.clip)
    for name in ROW_NUMBERS:
        column = getattr(rows, name)
        columns[name] = pa.array(column, mask=unknown_mask(column))
    for name in ROW_LISTS:
        column = getattr(rows, name)
        flat = pa.array(np.ascontiguousarray(column).reshape(-1))
        mask = pa.array(unknown_mask(column))
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, column.shape[1], mask=mask)
    return columns


def label_names(videos: Iterable[VideoRecord]) -> list[str]:
    """Label columns, ``label`` first."""
    return sorted({name for video in videos for name in video.labels}, key=lambda name: (name != "label", name))


def utf8(text: str) -> str:
    r"""Text in which bytes that are not UTF-8 are written ``\xNN``."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def nested(values: Array) -> Column:
    """[n, *record] as fixed-size lists in fixed-size lists."""
    array: Column = pa.array(np.ascontiguousarray(values).reshape(-1))
    for size in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def tensor(values: Array, record: RecordSpec) -> Column:
    """[n, *record] as a fixed-size list for vectors, as Arrow's fixed-shape tensor for maps."""
    if len(record.shape) == 1:
        return nested(values)
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(values.dtype), record.shape, dim_names=record.axes)
    return pa.ExtensionArray.from_storage(kind, nested(values.reshape(len(values), -1)))


def fixed_shape(kind: pa.DataType) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
    """Shape and dtype of one entry of a column, if its type fixes them."""
    if isinstance(kind, pa.FixedShapeTensorType):
        if kind.permutation is not None and list(kind.permutation) != sorted(kind.permutation):
            return None
        return tuple(kind.shape), np.dtype(kind.value_type.to_pandas_dtype())
    shape: list[int] = []
    while pa.types.is_fixed_size_list(kind):
        shape.append(kind.list_size)
        kind = kind.value_type
    return (tuple(shape), np.dtype(kind.to_pandas_dtype())) if shape and pa.types.is_primitive(kind) else None


def to_numpy(array: Column, where: str) -> Array:
    """Lists of lists, whose lengths agree, as one array [n, …].

    Raises:
        ExchangeError: There are nulls, lists of different lengths, or values that are not numbers.
    """
    shape: list[int] = [len(array)]
    while True:
        if array.null_count:
            raise ExchangeError(f"{where} has empty entries; a row without an array cannot be imported, leave it out")
        if isinstance(array.type, pa.FixedShapeTensorType):
            if fixed_shape(array.type) is None:
                raise ExchangeError(f"{where} has tensors whose axes are permuted; write them in their plain order")
            shape += array.type.shape
            array = array.storage.flatten()
        elif isinstance(array, pa.ExtensionArray):
            array = array.storage
        elif pa.types.is_fixed_size_list(array.type):
            shape.append(array.type.list_size)
            array = array.flatten()
        elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
            lengths = np.unique(array.value_lengths().to_numpy())
            if len(lengths) > 1:
                raise ExchangeError(
                    f"{where} has lists of {lengths[0]} and of {lengths[-1]} entries; rows of a feature have one shape "
                    "(if an entry holds all rows of a video, set columns.array_is to 'video')"
                )
            shape.append(int(lengths[0]) if len(lengths) else 0)
            array = array.flatten()
        elif pa.types.is_floating(array.type) or pa.types.is_integer(array.type):
            return np.asarray(array.to_numpy(zero_copy_only=False)).reshape(shape)
        else:
            raise ExchangeError(f"{where} holds {array.type}; features are lists of floats")
