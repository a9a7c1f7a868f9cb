"""The row table: box and times of each stored row, as columns and as Parquet bytes."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from featcache.data.parquet import UnreadableTableError, from_numbers, numbers, read_table
from featcache.errors import CorruptStoreError

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

_INTS = ("video", "row", "clip", "y0", "x0", "y1", "x1")
_FLOATS = ("t0", "t1")
_LISTS: dict[str, np.dtype[Any]] = {"frames": np.dtype(np.int32), "pts_seconds": np.dtype(np.float64)}
COLUMNS = ("video", "row", "clip", "frames", "pts_seconds", "t0", "t1", "y0", "x0", "y1", "x1", "flip")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowTable:
    """Columns of N rows of T frames each.

    Attributes:
        video: int32 [N], index of the video (on disk in the generation's list, after reading in
            ``Features.video_ids``).
        row: int32 [N], row within the shard.
        clip: int32 [N], ordinal of the row within its video.
        frames: int32 [N, T], indices of the frames taken, in the order of the clip.
        pts_seconds: float64 [N, T], their presentation timestamps.
        t0: float64 [N], start of the clip in seconds.
        t1: float64 [N], end of the clip in seconds (exclusive).
        y0: int32 [N], box in source pixels, half open: rows ``y0 <= y < y1``, columns ``x0 <= x < x1``.
        x0: int32 [N].
        y1: int32 [N].
        x1: int32 [N].
        flip: bool [N], whether the row was mirrored left to right.
    """

    video: Ints
    row: Ints
    clip: Ints
    frames: Ints
    pts_seconds: Floats
    t0: Floats
    t1: Floats
    y0: Ints
    x0: Ints
    y1: Ints
    x1: Ints
    flip: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        n = len(self.video)
        for field in fields(self):
            column = getattr(self, field.name)
            assert len(column) == n, f"column {field.name} has {len(column)} rows, video has {n}"
            assert column.dtype == _dtype(field.name), f"column {field.name} is {column.dtype}"
        assert self.frames.ndim == 2, f"frames {self.frames.shape} is not [rows, frames]"
        assert self.frames.shape == self.pts_seconds.shape, "frames and pts_seconds differ in shape"

    def __len__(self) -> int:
        return len(self.video)

    def __repr__(self) -> str:
        return f"RowTable(num_rows={len(self)}, num_frames={self.frames.shape[1]})"

    def select(self, index: Any) -> Self:
        """Rows by slice, mask or indices."""
        return type(self)(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    @classmethod
    def empty(cls, *, num_frames: int) -> Self:
        """A table without rows."""
        return cls(**{name: np.zeros((0, num_frames) if name in _LISTS else 0, _dtype(name)) for name in COLUMNS})

    @classmethod
    def concatenate(cls, tables: Sequence[Self]) -> Self:
        """One table of all rows in order; tables without rows are skipped."""
        filled = [table for table in tables if len(table)] or list(tables[:1])
        return cls(**{name: np.concatenate([getattr(table, name) for table in filled]) for name in COLUMNS})


def _dtype(name: str) -> np.dtype[Any]:
    if name in _LISTS:
        return _LISTS[name]
    if name in _INTS:
        return np.dtype(np.int32)
    return np.dtype(np.float64) if name in _FLOATS else np.dtype(np.bool_)


def table_bytes(table: pa.Table) -> bytes:
    """Parquet bytes of a table; the same table and library version give the same bytes."""
    sink = pa.BufferOutputStream()
    # No dictionaries: nearly all values are distinct, and dictionaries cost most of the time and made files larger.
    pq.write_table(table, sink, compression="zstd", write_statistics=False, use_dictionary=False)
    return sink.getvalue().to_pybytes()


def table_from_bytes(data: bytes, *, where: object) -> pa.Table:
    """A table from Parquet bytes, which may be hostile although their hash has been checked.

    Raises:
        CorruptStoreError: It is not a Parquet table, or has more rows than so few bytes can hold; names ``where``.
    """
    try:
        return read_table(data)
    except UnreadableTableError as problem:
        raise CorruptStoreError(f"{where} {problem}; restore it from a copy") from problem


def int_column(table: pa.Table, name: str, *, where: object) -> npt.NDArray[np.int64]:
    """A column of whole numbers as int64 [rows].

    Raises:
        CorruptStoreError: There is no such column, or it has another type or gaps; names ``where``.
    """
    column = table.column(name) if table.column_names.count(name) == 1 else None
    if column is None or not pa.types.is_signed_integer(column.type) or column.null_count:
        raise CorruptStoreError(f"{where} has no usable column {name!r}; restore it from a copy")
    return numbers(column).astype(np.int64)


def rows_to_bytes(rows: RowTable) -> bytes:
    """Parquet bytes of a row table."""
    columns: dict[str, Any] = {}
    for name in COLUMNS:
        column = getattr(rows, name)
        if name in _LISTS:
            values = from_numbers(np.ascontiguousarray(column).reshape(-1))
            columns[name] = pa.FixedSizeListArray.from_arrays(values, column.shape[1])
        else:
            columns[name] = from_numbers(column)
    return table_bytes(pa.table(columns))


def rows_from_bytes(data: bytes, *, where: object) -> RowTable:
    """The row table from bytes that :func:`rows_to_bytes` wrote.

    Raises:
        CorruptStoreError: The bytes are something else; names ``where``.
    """
    table = table_from_bytes(data, where=where)
    columns: dict[str, Any] = {}
    for name in COLUMNS:
        column: Any = table.column(name) if table.column_names.count(name) == 1 else None
        if column is None or not _fits(column, name):
            raise CorruptStoreError(f"{where} has no usable column {name!r}; restore it from a copy")
        if name in _LISTS:
            flat = np.concatenate([numbers(chunk.flatten()) for chunk in column.chunks] or [np.zeros(0)])
            columns[name] = flat.astype(_LISTS[name], copy=False).reshape(len(table), column.type.list_size)
        elif name in (*_INTS, *_FLOATS):
            columns[name] = numbers(column)
        else:
            columns[name] = numbers(column.cast(pa.uint8())).astype(np.bool_)
    if columns["frames"].shape != columns["pts_seconds"].shape:
        raise CorruptStoreError(f"{where} has other numbers of frames than of their times; restore it from a copy")
    return RowTable(**columns)


def _fits(column: Any, name: str) -> bool:
    """Whether a column has the type that :func:`rows_to_bytes` gives it, and no gaps."""
    values: pa.DataType = column.type
    if name in _LISTS:
        if not pa.types.is_fixed_size_list(column.type) or any(chunk.flatten().null_count for chunk in column.chunks):
            return False
        values = column.type.value_type
    return not column.null_count and values == pa.from_numpy_dtype(_dtype(name))
