"""Stretches of blocks, kept in memory for a while: for an order in which neighbouring rows are close together."""

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
from featcache.store.stretches import Stretch, Stretches, copy_rows

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

_NUM_READS = 16
"""Reads that wait for the disk at the same time."""


class _Read(NamedTuple):
    """A stretch that is being read, or was: its bytes, and the damage that was found, by block."""

    stretch: Stretch
    found: "Future[tuple[Bytes, dict[int, CorruptStoreError]]]"


class BlockReads:
    """See :class:`featcache.store.row_reader.RowReader`; stretches of blocks are read, checked and then kept.

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
        self._stretches = Stretches(index)
        self._kept: OrderedDict[int, _Read] = OrderedDict()  # the least recently used first
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
        numbers = self._stretches.of(rows)
        order = np.lexsort((self._index.offset[rows], numbers))
        begins = np.flatnonzero(np.diff(numbers[order], prepend=-1))
        for parts in self._in_turn(rows, np.split(order, begins[1:]) if len(begins) else []):
            begun = [self._begun(int(numbers[places[0]])) for places in parts]
            for places, read in zip(parts, begun, strict=True):
                self._copy(read, rows[places], places, target)
        return out

    def _in_turn(self, rows: Ints, parts: list[Ints]) -> Iterator[list[Ints]]:
        """The places of each stretch's rows, for as many as may be kept at a time, of as many files as may be open."""
        most = max(_NUM_READS, self._keep_bytes // int(self._stretches.num_bytes.max(initial=1)))
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
        """Begin to read the stretches of rows, if they fit into what may be kept."""
        numbers = np.unique(self._stretches.of(rows))
        if int(self._stretches.num_bytes[numbers].sum()) > self._keep_bytes // 2:
            return
        try:
            for number in numbers.tolist():
                self._begun(number)
        except (CorruptStoreError, TooManyFilesError):  # of a file, which is opened again when its rows are gathered
            return

    def _begun(self, number: int) -> _Read:
        """A stretch, which is read or being read."""
        read = self._kept.get(number)
        if read is not None:
            self._kept.move_to_end(number)
            return read
        stretch = self._stretches[number]
        file = self._opened(stretch.file)
        read = self._kept[number] = _Read(stretch, self._threads.begin(self._read, (stretch, file)))
        self._kept_bytes += stretch.num_bytes
        while self._kept_bytes > self._keep_bytes and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= oldest.stretch.num_bytes
        return read

    def _copy(self, read: _Read, rows: Ints, places: Ints, target: Bytes) -> None:
        """Copy rows of a stretch to their places."""
        stretch = read.stretch
        try:
            data, damaged = read.found.result()
        except BaseException:
            self._forget(stretch)
            raise
        if damaged:
            self._forget(stretch)
            for block in damaged.keys() & set(self._index.block[rows].tolist()):
                raise damaged[block]
        copy_rows(data, self._index.offset[rows] - stretch.first, target, places)

    def _forget(self, stretch: Stretch) -> None:
        """Let the next call read a stretch again."""
        if self._kept.pop(stretch.number, None) is not None:
            self._kept_bytes -= stretch.num_bytes

    def _read(self, task: tuple[Stretch, Ranges]) -> tuple[Bytes, dict[int, CorruptStoreError]]:
        """Read a stretch and compare its blocks with their records, each time; what is not wanted may be damaged."""
        stretch, ranges = task
        data = np.empty(stretch.num_bytes, np.uint8)
        ranges.read(stretch.first, data)
        data.flags.writeable = False
        blocks = self._stretches.blocks(stretch).tolist() if self._checks.verifies else ()
        return data, self._stretches.damage(stretch, data, blocks, checks=self._checks)

    def _opened(self, number: int) -> Ranges:
        """An open file; others are closed where there is no room, and their reads go on."""
        numbers = np.array([number], np.int32)
        while number not in self._files.held:
            try:
                self._files.need(numbers)
            except TooManyFilesError as error:
                wait([read.found for read in self._kept.values()])  # whose files can then be closed
                self._files.fewer(error)
        self._files.use(numbers)
        return self._files.held[number]

    def _open(self, number: int) -> Ranges:
        """Open a file and, at the first time, compare its head with its record."""
        return self._checks.open_ranges(number, is_direct=True)
