"""Opens Parquet files from any writer without trusting what they say about their size.

A few hundred kilobytes of Parquet can stand for any number of equal rows. So a file is refused, before a row is built,
if it has more rows, or a column of lists has more values, than a file of its size can hold.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from featcache.data.remote import read_object, why
from featcache.files.urls import url_of

_FEW_ROWS = 1 << 20  # for files of any size; about a gigabyte of records
_FEW_VALUES = 1 << 26  # of a column in a row group
_ROWS_PER_BYTE = 16  # a million numbered file names, compressed as well as possible, are 12 rows per byte
_BATCH_ROWS = 1 << 16


class UnreadableTableError(Exception):
    """A file that is not a table; the message is the end of a sentence."""


def max_rows(num_bytes: int) -> int:
    """Largest number of rows that a Parquet file of a given size may have."""
    return max(_FEW_ROWS, _ROWS_PER_BYTE * num_bytes)


@contextmanager
def opened(source: Path | bytes) -> Iterator[pq.ParquetFile]:
    """A Parquet file for a ``with`` block, whose errors while it is read are explained too.

    Args:
        source: The file, on this machine or in a bucket, or its bytes.

    Raises:
        FileNotFoundError: There is no such file.
        UnreadableTableError: It is not a Parquet file, is damaged, or has more rows than :func:`max_rows`.
    """
    if isinstance(source, Path) and (url := url_of(source)) is not None:
        source = _read(url)
    num_bytes = len(source) if isinstance(source, bytes) else source.stat().st_size
    try:
        with pq.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else source) as file:
            _check_sizes(file.metadata, num_bytes)
            yield file
    # A footer whose names are not UTF-8 is a UnicodeDecodeError, a page that says it is huge a MemoryError.
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise UnreadableTableError(f"is not a Parquet file, or a damaged one ({_first_line(error)})") from error


def read_table(source: Path | bytes) -> pa.Table:
    """Read the whole table. Raises the errors of :func:`opened`."""
    # pq.read_table starts threads that abort a process which ends at the wrong moment.
    with opened(source) as file:
        table = file.read(use_threads=False)
        table.validate(full=True)  # that text is text, among other things
        return table


def read_batches(source: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Read some columns piece by piece. Raises the errors of :func:`opened`."""
    with opened(source) as file:
        for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns), use_threads=False):
            batch.validate(full=True)
            yield batch


def numbers(column: "pa.ChunkedArray[Any] | pa.Array[Any]") -> npt.NDArray[Any]:
    """The numbers of a column without gaps, [rows], read-only and uncopied where it is in one piece.

    Not ``to_numpy``, which imports pandas wherever that is installed.
    """
    pieces = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    arrays = [np.from_dlpack(piece) for piece in pieces]
    return arrays[0] if len(arrays) == 1 else np.concatenate([np.zeros(0, column.type.to_pandas_dtype()), *arrays])


def from_numbers(values: npt.NDArray[Any]) -> "pa.Array[Any]":
    """A column of numbers or bools [rows], without gaps, as ``pa.array`` makes it.

    Not ``pa.array``, which imports pandas wherever it is installed; nor does :func:`from_texts`.
    """
    data = np.packbits(values, bitorder="little") if values.dtype == bool else np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(data.data)])


def from_texts(values: Sequence[str | None]) -> "pa.Array[Any]":
    """A column of texts, ``None`` for a gap, as ``pa.array`` makes it."""
    texts = [b"" if value is None else value.encode() for value in values]
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    assert ends[-1] < 1 << 31, "the texts of a column take less than 2 GB"
    is_there = np.array([value is not None for value in values], bool)
    gaps = None if is_there.all() else pa.py_buffer(np.packbits(is_there, bitorder="little").data)
    buffers = [gaps, pa.py_buffer(ends.astype(np.int32).data), pa.py_buffer(b"".join(texts))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def _read(url: str) -> bytes:
    try:
        return read_object(url)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableTableError(f"cannot be read ({why(error)})") from error


def _check_sizes(about: pq.FileMetaData, num_bytes: int) -> None:
    if about.num_rows > max_rows(num_bytes):
        raise UnreadableTableError(
            f"says it has {about.num_rows} rows in {num_bytes} bytes, which are at most {max_rows(num_bytes)}"
        )
    most = max(_FEW_VALUES, _ROWS_PER_BYTE * num_bytes)
    for group in map(about.row_group, range(about.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.num_values > most:
                raise UnreadableTableError(
                    f"says that column {column.path_in_schema!r} has {column.num_values} values in {num_bytes} bytes, "
                    f"which are at most {most}"
                )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
