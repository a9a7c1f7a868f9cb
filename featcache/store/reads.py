"""Rows out of files that no memory holds: many reads at the same time, of whole blocks until they are checked."""

import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.errors import CorruptStoreError, TooManyFilesError
from featcache.files.base import Ranges
from featcache.files.threads import ReadThreads
from featcache.store.checks import Checks
from featcache.store.index import READ_BYTES, RowIndex
from featcache.store.open_files import OpenFiles
from featcache.store.stretches import copy_rows

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

NUM_READS = 16
"""Reads that wait for the disk at the same time."""
_NUM_HINTS = 4
_GAP_BYTES = 32 << 10
"""Rows of checked blocks that lie at most so far apart are read at once."""


class _Read(NamedTuple):
    """One read of a file.

    Attributes:
        file: Number of the file.
        first_block: Number of the first block to check.
        end_block: The number behind the last; equal to it if there is nothing to check.
        first: First byte.
        last: The byte behind the last.
        begin: Place of the first of its rows among the sorted rows.
        end: The place behind the last.
    """

    file: int
    first_block: int
    end_block: int
    first: int
    last: int
    begin: int
    end: int


class ShardReads:
    """See :class:`featcache.store.row_reader.RowReader`; for rows that are not in the page cache.

    A page fault waits for the disk alone, and the next one begins after it. Here many reads wait together, each for as
    many bytes as are needed. A block that has not been checked is read and checked as a whole, with its neighbours if
    they are wanted as well; of one that has, only the rows.
    """

    def __init__(self, index: RowIndex, *, row_bytes: int, checks: Checks, max_open: int) -> None:
        self._index = index
        self._row_bytes = row_bytes
        self._checks = checks
        self._blocks_at_once = max(1, READ_BYTES // int(index.block_bytes.max(initial=1)))
        self._files: OpenFiles[Ranges] = OpenFiles(self._open, num_files=len(index.files), max_open=max_open)
        self._threads = ReadThreads(NUM_READS)
        self._hints = ReadThreads(_NUM_HINTS)
        self._room = threading.local()

    @property
    def num_open(self) -> int:
        """Number of open files."""
        return len(self._files.held)

    def close(self) -> None:
        """Close all files and end the threads."""
        self._threads.close()
        self._hints.close()
        self._files.held.clear()

    def gather(self, rows: Ints, out: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        """Copy rows."""
        if out is None:
            out = np.empty(len(rows), f"V{self._row_bytes}")
        target = out.reshape(-1).view(np.uint8).reshape(len(rows), self._row_bytes)
        order = np.lexsort((self._index.offset[rows], self._index.block[rows]))  # blocks are in the order of files
        for places in self._in_parts(rows, order):
            mine = rows[places]
            reads = self._reads(mine)
            offsets = self._index.offset[mine]
            self._threads.all(lambda read: self._read(read, offsets, places, target), reads)  # noqa: B023  waited for
            checked = [block for read in reads for block in range(read.first_block, read.end_block)]
            self._checks.passed(np.array(checked, np.int64))
        return out

    def ahead(self, rows: Ints) -> None:
        """Let the system fetch what :meth:`gather` would read of these rows."""
        rows = rows[np.lexsort((self._index.offset[rows], self._index.block[rows]))]
        needed = np.unique(self._index.file[rows])
        if len(needed) > self._files.max_open:
            return
        try:
            self._files.need(needed)
        except (CorruptStoreError, TooManyFilesError):
            return
        reads = self._reads(rows)
        for part in (reads[number::_NUM_HINTS] for number in range(_NUM_HINTS)):
            places = [(self._files.held[read.file], read.first, read.last - read.first) for read in part]
            self._hints.begin(_expect, places)

    def _in_parts(self, rows: Ints, order: Ints) -> Iterator[Ints]:
        """The sorted places of rows, all at once or, of more files than may be open, some files after the others."""
        files = self._index.file[rows[order]]
        begins = np.flatnonzero(np.diff(files, prepend=-1))
        while len(begins):
            try:
                part = begins[: self._files.max_open]
                self._files.need(files[part])
            except TooManyFilesError as error:
                self._files.fewer(error)
                continue
            rest = begins[len(part) :]
            end = int(rest[0]) if len(rest) else len(order)
            yield order[int(part[0]) : end]
            begins = rest

    def _reads(self, rows: Ints) -> list[_Read]:
        """The reads of sorted rows: blocks that are not checked as a whole, of others the rows; neighbours at once."""
        block, offset = self._index.block[rows], self._index.offset[rows]
        is_checked = self._checks.is_checked[block]
        is_first = np.diff(block, prepend=-1) != 0
        is_far = np.diff(offset, prepend=0) > self._row_bytes + _GAP_BYTES
        begin = np.flatnonzero(is_first | (is_checked & is_far))
        end = np.append(begin[1:], len(rows))
        whole = ~is_checked[begin]
        mine = block[begin]
        first = np.where(whole, self._index.block_offset[mine], offset[begin])
        last = np.where(whole, first + self._index.block_bytes[mine], offset[end - 1] + self._row_bytes)
        file = self._index.file[rows[begin]]
        goes_on = np.where(whole, np.diff(mine, prepend=-2) == 1, first - np.append(0, last[:-1]) <= _GAP_BYTES)
        goes_on &= (np.diff(file, prepend=-1) == 0) & (np.diff(whole, prepend=False) == 0)
        goes_on[:1] = False
        place = np.arange(len(begin))
        in_run = place - np.maximum.accumulate(np.where(goes_on, 0, place))
        head = np.flatnonzero(in_run % self._blocks_at_once == 0)
        tail = np.append(head[1:], len(begin)) - 1
        num_blocks = np.where(whole[head], tail - head + 1, 0)
        columns = (file[head], mine[head], mine[head] + num_blocks, first[head], last[tail], begin[head], end[tail])
        return [_Read(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]

    def _read(self, read: _Read, offsets: Ints, places: Ints, target: Bytes) -> None:
        """Read some bytes, check them, and copy their rows to their places."""
        mine = places[read.begin : read.end]
        length = read.last - read.first
        is_one = length == self._row_bytes and len(mine) == 1
        data = target[int(mine[0])] if is_one else self._scratch(length)
        self._files.held[read.file].read(read.first, data)
        sealed = data.view()
        sealed.flags.writeable = False
        for block in range(read.first_block, read.end_block):
            start = int(self._index.block_offset[block]) - read.first
            self._checks.check_block(block, read.file, sealed[start : start + int(self._index.block_bytes[block])])
        if is_one:
            return
        copy_rows(data, offsets[read.begin : read.end] - read.first, target, mine)

    def _scratch(self, num_bytes: int) -> Bytes:
        """Memory of this thread, used again by its next read."""
        room: Bytes | None = getattr(self._room, "bytes", None)
        if room is None or len(room) < num_bytes:
            room = self._room.bytes = np.empty(num_bytes, np.uint8)
        return room[:num_bytes]

    def _open(self, number: int) -> Ranges:
        """Open a file and, at the first time, compare its head with its record."""
        return self._checks.open_ranges(number, is_direct=False)


def _expect(places: list[tuple[Ranges, int, int]]) -> None:
    for file, first, num_bytes in places:
        file.expect(first, num_bytes)
