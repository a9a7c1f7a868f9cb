"""Whole blocks, kept in memory for a while: for an order in which the rows of a block are close together."""

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.errors import CorruptStoreError, TooManyFilesError
from featcache.files.base import Ranges
from featcache.files.threads import ReadThreads
from featcache.store.checks import Checks
from featcache.store.index import RowIndex
from featcache.store.open_files import OpenFiles

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

_NUM_READS = 16
"""Reads that wait for the disk at the same time."""
_SMALL_ROW_BYTES = 4096


class _Block(NamedTuple):
    """A block that is being read, or was."""

    num_bytes: int
    data: Future[Bytes]


class BlockReads:
    """See :class:`featcache.store.row_reader.RowReader`; each block is read and checked as a whole, and then kept.

    The system's cache is passed by, where the disk allows that: what is kept here is not kept twice, and the CPU has
    half of the work.
    """

    def __init__(self, index: RowIndex, *, row_bytes: int, checks: Checks, max_open: int, keep_bytes: int) -> None:
        self._index = index
        self._row_bytes = row_bytes
        self._checks = checks
        self._keep_bytes = keep_bytes
        self._files: OpenFiles[Ranges] = OpenFiles(self._open, num_files=len(index.files), max_open=max_open)
        self._threads = ReadThreads(_NUM_READS)
        self._kept: OrderedDict[int, _Block] = OrderedDict()  # the least recently used first
        self._kept_bytes = 0

    @property
    def num_open(self) -> int:
        """Number of open files."""
        return len(self._files.held)

    def close(self) -> None:
        """Close all files, end the threads and forget the blocks."""
        self._threads.close()
        self._files.held.clear()
        self._kept.clear()
        self._kept_bytes = 0

    def gather(self, rows: Ints, out: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        """Copy rows."""
        if out is None:
            out = np.empty(len(rows), f"V{self._row_bytes}")
        target = out.reshape(-1).view(np.uint8).reshape(len(rows), self._row_bytes)
        blocks = self._index.block[rows]
        order = np.lexsort((self._index.offset[rows], blocks))
        begins = np.flatnonzero(np.diff(blocks[order], prepend=-1))
        for parts in self._in_turn(rows, np.split(order, begins[1:]) if len(begins) else []):
            begun = [self._begun(int(rows[places[0]])) for places in parts]
            for places, block in zip(parts, begun, strict=True):
                self._copy(block, rows[places], places, target)
        return out

    def _in_turn(self, rows: Ints, parts: list[Ints]) -> Iterator[list[Ints]]:
        """The places of each block's rows, for as many blocks at a time as may be kept, of as many files as be open."""
        most = max(_NUM_READS, self._keep_bytes // max(1, int(self._index.block_bytes.max(initial=1))))
        some: list[Ints] = []
        files: set[int] = set()
        for places in parts:
            files.add(int(self._index.file[rows[places[0]]]))
            if len(some) == most or len(files) > self._files.max_open:
                yield some
                some, files = [], {int(self._index.file[rows[places[0]]])}
            some.append(places)
        if some:
            yield some

    def ahead(self, rows: Ints) -> None:
        """Begin to read the blocks of rows, if they fit into what may be kept."""
        _, firsts = np.unique(self._index.block[rows], return_index=True)
        if int(self._index.block_bytes[self._index.block[rows[firsts]]].sum()) > self._keep_bytes // 2:
            return
        try:
            for row in rows[firsts].tolist():
                self._begun(row)
        except (CorruptStoreError, TooManyFilesError):  # of a file, which is opened again when its rows are gathered
            return

    def _begun(self, row: int) -> _Block:
        """The block of a row, which is read or being read."""
        number = int(self._index.block[row])
        block = self._kept.get(number)
        if block is not None:
            self._kept.move_to_end(number)
            return block
        file = self._opened(int(self._index.file[row]))
        length = int(self._index.block_bytes[number])
        task = (number, int(self._index.file[row]), file)
        block = self._kept[number] = _Block(length, self._threads.begin(self._read, task))
        self._kept_bytes += length
        while self._kept_bytes > self._keep_bytes and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= oldest.num_bytes
        return block

    def _copy(self, block: _Block, rows: Ints, places: Ints, target: Bytes) -> None:
        """Copy rows of a block to their places."""
        number = int(self._index.block[rows[0]])
        try:
            data = block.data.result()
        except BaseException:
            if self._kept.pop(number, None) is not None:  # read again by the next call
                self._kept_bytes -= block.num_bytes
            raise
        starts = self._index.offset[rows] - int(self._index.block_offset[number])
        if self._row_bytes < _SMALL_ROW_BYTES:
            shape = (len(data) - self._row_bytes + 1, self._row_bytes)
            target[places] = np.lib.stride_tricks.as_strided(data, shape, (1, 1), writeable=False)[starts]
            return
        for place, start in zip(places.tolist(), starts.tolist(), strict=True):
            target[place] = data[start : start + self._row_bytes]

    def _read(self, task: tuple[int, int, Ranges]) -> Bytes:
        """Read a block and compare it with its record, each time."""
        number, file, ranges = task
        data = np.empty(int(self._index.block_bytes[number]), np.uint8)
        ranges.read(int(self._index.block_offset[number]), data)
        data.flags.writeable = False
        if self._checks.verifies:
            self._checks.check_block(number, file, data)
        return data

    def _opened(self, number: int) -> Ranges:
        """An open file; others are closed where there is no room, and their reads go on."""
        numbers = np.array([number], np.int32)
        while number not in self._files.held:
            try:
                self._files.need(numbers)
            except TooManyFilesError as error:
                wait([block.data for block in self._kept.values()])  # whose files can then be closed
                self._files.fewer(error)
        self._files.use(numbers)
        return self._files.held[number]

    def _open(self, number: int) -> Ranges:
        """Open a file and, at the first time, compare its head with its record."""
        return self._checks.open_ranges(number, is_direct=True)
