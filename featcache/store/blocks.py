"""Blocks, the units of checksum inside a shard file, and their places. Shared by both file formats."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import google_crc32c
import numpy as np
import numpy.typing as npt

from featcache.errors import NonFiniteFeatureError
from featcache.recipes import RecordSpec
from featcache.store.precision import all_finite, stored_dtype

_PORTION_BYTES = 256 << 10  # of which one call checks that they are finite
Buffer = bytes | npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedShard:
    """A shard file as a sequence of buffers, which are not copied.

    Attributes:
        chunks: Buffers to write.
        num_bytes: Total size of the buffers.
        frame_crc32c: CRC-32C of all bytes that belong to no block, in order; together with the blocks' own checksums it
            covers every byte once.
        data_offset: Offset of the first block.
        block_crc32c: uint32 [written blocks], CRC-32C of the feature bytes of each block.
    """

    chunks: tuple[Buffer, ...]
    num_bytes: int
    frame_crc32c: int
    data_offset: int
    block_crc32c: npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockLayout:
    """Places of the blocks of a shard in its file.

    Attributes:
        offset: int64 [blocks of the shard], -1 for a block that was not written.
        num_bytes: int64 [blocks of the shard], 0 for a block that was not written.
        file_bytes: Size of the file if the layout alone determines it, otherwise -1.
    """

    offset: npt.NDArray[np.int64]
    num_bytes: npt.NDArray[np.int64]
    file_bytes: int


class ShardFormat(Protocol):
    """A file format of shards, i.e. a module with these functions."""

    def encode(
        self,
        array: npt.NDArray[Any],
        present: Mask,
        *,
        block_rows: int,
        num_rows: int,
        record: RecordSpec,
        scale: npt.NDArray[np.float32] | None,
    ) -> EncodedShard:
        """Encode ``array`` [shard_rows, *record]; ``num_rows`` rows are planned, those in ``present`` are filled."""

    def layout(
        self, present: Mask, *, block_rows: int, num_rows: int, record_bytes: int, data_offset: int
    ) -> BlockLayout:
        """The place to which :meth:`encode` writes each block."""

    def head_range(self, layout: BlockLayout, *, file_bytes: int) -> tuple[int, int]:
        """First byte, and the one behind the last, of the part of a file on which readers of this format rely."""

    def check_head(self, head: npt.NDArray[np.uint8], layout: BlockLayout, *, file_bytes: int) -> bool:
        """Whether that part, and the size of the file, agree with the layout."""


def fill_value(record: RecordSpec) -> float | int:
    """Value of absent rows inside a written block: NaN, or 0 for int8."""
    return 0 if record.dtype == "int8" else float("nan")


def blocks_of(
    array: npt.NDArray[Any], present: Mask, *, num_rows: int, block_rows: int, record: RecordSpec
) -> Iterator[npt.NDArray[np.uint8]]:
    """Read-only bytes of each block of the first ``num_rows`` rows; the last may be short.

    Raises:
        NonFiniteFeatureError: A present row has NaN or infinity.
    """
    size = block_rows * record.num_bytes
    step = max(1, _PORTION_BYTES // size) * block_rows
    for first in range(0, num_rows, step):
        data = _checked_bytes(array, present, first, min(first + step, num_rows), record=record)
        for start in range(0, len(data), size):
            yield data[start : start + size]


def _checked_bytes(
    array: npt.NDArray[Any], present: Mask, first: int, last: int, *, record: RecordSpec
) -> npt.NDArray[np.uint8]:
    """Read-only bytes of rows ``first`` to ``last`` with absent rows filled; copies only if a row is absent.

    Raises:
        NonFiniteFeatureError: A present row has NaN or infinity.
    """
    rows = array[first:last]
    assert rows.dtype == stored_dtype(record.dtype), f"rows are {rows.dtype}, the record is {record.dtype}"
    absent = ~present[first:last]
    has_absent = bool(absent.any())
    # Checked here, portion by portion, because the checksum reads the same bytes next, from cache.
    if record.dtype != "int8" and not all_finite(rows[~absent] if has_absent else rows):
        raise NonFiniteFeatureError(f"rows {first} to {last - 1} hold NaN or infinite values")
    if has_absent:
        rows = rows.copy()
        rows[absent] = fill_value(record)
    view = rows.reshape(-1).view(np.uint8)
    view.flags.writeable = False  # crc32c reads only such buffers without a copy
    return view


def crc32c(data: Buffer) -> int:
    """CRC-32C of a read-only buffer."""
    return int(google_crc32c.value(data))


def crc32c_of_all(chunks: Iterable[Buffer]) -> int:
    """CRC-32C of consecutive buffers."""
    crc = 0
    for chunk in chunks:
        crc = google_crc32c.extend(crc, chunk)
    return crc


def frame(file: npt.NDArray[np.uint8], layout: BlockLayout) -> Iterator[npt.NDArray[np.uint8]]:
    """The bytes of a shard file that belong to no block: those before, between and after the blocks."""
    written = layout.offset >= 0
    end = 0
    for start, length in zip(layout.offset[written].tolist(), layout.num_bytes[written].tolist(), strict=True):
        yield file[end:start]
        end = start + length
    yield file[end:]
