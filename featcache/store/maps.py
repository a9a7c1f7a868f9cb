"""Memory-mapped shard files: a bounded number of them, checked before use, and read with one gather for all files."""

from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import TooManyFilesError
from featcache.store.checks import Checks
from featcache.store.index import RowIndex
from featcache.store.open_files import OpenFiles

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

_LARGE_ROW_BYTES = 4096
_MAX_ARRAY_BYTES = 2**62  # overlapping rows count fully towards numpy's limit


class _Memory:
    """Addresses ``first`` to ``last`` of this process as an array of overlapping, unaligned rows.

    Element ``i`` is the ``row_bytes`` bytes at ``first + i``. The range has holes between the maps; only addresses
    inside an open map are ever indexed.
    """

    def __init__(self, first: int, last: int, row_bytes: int) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (first, True),
            "shape": (last - first - row_bytes + 1,),
            "strides": (1,),
            "typestr": f"|V{row_bytes}",
        }


class ShardMaps:
    """Read-only maps of a feature's data files; beyond ``max_open`` the least recently used one is closed.

    Not thread-safe: callers take turns, because a map that another thread closes must not be read.
    """

    def __init__(self, index: RowIndex, *, row_bytes: int, checks: Checks, max_open: int) -> None:
        self._index = index
        self._row_bytes = row_bytes
        self._checks = checks
        self._maps = OpenFiles(self._map, num_files=len(index.files), max_open=max_open)  # a view keeps its map alive
        self._address = np.zeros(len(index.files), np.int64)  # 0: not mapped
        self._row_start: Ints | None = None  # place of every row in _memory, once all files are mapped
        self._first = 0
        self._memory: npt.NDArray[np.void] | None = None

    @property
    def num_open(self) -> int:
        """Number of open maps."""
        return len(self._maps.held)

    def close(self) -> None:
        """Close all maps."""
        self._memory = None
        self._row_start = None
        self._maps.held.clear()
        self._address[:] = 0

    def ahead(self, rows: Ints) -> None:
        """Do nothing: maps are for files that are in the page cache."""

    def gather(self, rows: Ints, out: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        """Copy rows; see :class:`featcache.store.row_reader.RowReader`."""
        if self._row_start is None or self._checks.num_unchecked:
            files = self._index.file[rows]
            if (self._address[files] == 0).any():
                needed = np.unique(files)
                if len(needed) > self._maps.max_open or not self._open(needed):
                    return self._gather_in_parts(rows, files, needed, out)
            self._maps.use(files)
            if self._checks.num_unchecked:
                self._check_blocks(rows, files)
        if self._row_start is not None:
            starts = self._row_start[rows]
        else:
            starts = self._address[files] - self._first + self._index.offset[rows]
        if self._memory is not None and (out is None or self._row_bytes < _LARGE_ROW_BYTES):
            gathered: npt.NDArray[Any] = self._memory[starts]
            if out is None:
                return gathered
            out.reshape(-1).view(f"V{self._row_bytes}")[...] = gathered
            return out
        if out is None:
            out = np.empty(len(rows), f"V{self._row_bytes}")
        target = out.reshape(-1).view(np.uint8).reshape(len(rows), self._row_bytes)
        # Row by row, directly into the output: for long rows a second copy costs more than the loop.
        places = zip(self._index.file[rows].tolist(), self._index.offset[rows].tolist(), strict=True)
        for place, (file, offset) in enumerate(places):
            target[place] = self._maps.held[file][offset : offset + self._row_bytes]
        return out

    def _gather_in_parts(
        self, rows: Ints, files: npt.NDArray[np.int32], needed: npt.NDArray[np.int32], out: npt.NDArray[Any] | None
    ) -> npt.NDArray[Any]:
        """Read a batch from more files than may be open at once, some files after the others."""
        if out is None:
            out = np.empty(len(rows), f"V{self._row_bytes}")
        target = out.reshape(-1).view(f"V{self._row_bytes}")
        step = self._maps.max_open
        for first in range(0, len(needed), step):
            some = np.flatnonzero(np.isin(files, needed[first : first + step]))
            target[some] = self.gather(rows[some], None)
        return out

    def _open(self, needed: npt.NDArray[np.int32]) -> bool:
        """Map files; false if the system does not allow as many, and fewer at a time have to do from now on."""
        self._memory = None
        self._row_start = None
        try:
            self._maps.need(needed)
        except TooManyFilesError as error:
            self._address[:] = 0
            self._maps.fewer(error)
            return False
        self._address[:] = 0
        held = self._maps.held
        for file, view in held.items():
            self._address[file] = view.__array_interface__["data"][0]
        self._first = min(int(self._address[file]) for file in held)
        last = max(int(self._address[file]) + len(view) for file, view in held.items())
        if (last - self._first) * self._row_bytes <= _MAX_ARRAY_BYTES:
            self._memory = np.asarray(_Memory(self._first, last, self._row_bytes))
        if len(held) == len(self._index.files):
            self._row_start = self._address[self._index.file] - self._first + self._index.offset
        return True

    def _map(self, number: int) -> Bytes:
        """Map a file and, at the first time, compare its head with its record."""
        file = self._index.files[number]
        view = file.committed.generation.files.map(file.name, num_bytes=file.num_bytes, what="data file")
        self._checks.check_head(number, lambda first, last: view[first:last])
        return view

    def _check_blocks(self, rows: Ints, files: npt.NDArray[np.int32]) -> None:
        """Check each block the first time one of its rows is read."""
        blocks = self._index.block[rows]
        new = ~self._checks.is_checked[blocks]
        if not new.any():
            return
        first_touch, where = np.unique(blocks[new], return_index=True)
        for block, file in zip(first_touch.tolist(), files[new][where].tolist(), strict=True):
            start = int(self._index.block_offset[block])
            data = self._maps.held[file][start : start + int(self._index.block_bytes[block])]
            self._checks.check_block(block, file, data)
        self._checks.passed(first_touch)
