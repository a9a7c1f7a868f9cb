"""Memory-mapped shard files: a bounded number of them, checked before use, and read with one gather for all files."""

import resource
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import CorruptStoreError
from featcache.store.blocks import ShardFormat, crc32c
from featcache.store.generation import shard_layout
from featcache.store.index import RowIndex
from featcache.store.paths import FileFormat
from featcache.store.schema import FeatureDoc

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

_LARGE_ROW_BYTES = 4096
_MAX_ARRAY_BYTES = 2**62  # overlapping rows count fully towards numpy's limit
_MAX_DEFAULT_MAPS = 1000


def default_max_maps() -> int:
    """Half of the file descriptors that this process may have (a map keeps one), at most 1000."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MAX_DEFAULT_MAPS if limit == resource.RLIM_INFINITY else max(1, min(_MAX_DEFAULT_MAPS, limit // 2))


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

    def __init__(
        self,
        index: RowIndex,
        *,
        feature: FeatureDoc,
        file_format: FileFormat,
        shard_format: ShardFormat,
        max_open: int,
        verify: bool,
    ) -> None:
        self._index = index
        self._feature = feature
        self._file_format = file_format
        self._shard_format = shard_format
        self._max_open = max_open
        self._verify = verify
        self._row_bytes = feature.record.num_bytes
        self._views: dict[int, Bytes] = {}  # a view keeps its map alive
        self._address = np.zeros(len(index.files), np.int64)  # 0: not mapped
        self._last_used = np.zeros(len(index.files), np.int64)
        self._head_checked = np.zeros(len(index.files), bool)
        self._block_checked = np.zeros(len(index.block_offset), bool)
        self._num_unchecked = len(np.unique(index.block)) if verify else 0
        self._row_start: Ints | None = None  # place of every row in _memory, once all files are mapped
        self._clock = 0
        self._first = 0
        self._memory: npt.NDArray[np.void] | None = None

    @property
    def num_open(self) -> int:
        """Number of open maps."""
        return len(self._views)

    def close(self) -> None:
        """Close all maps."""
        self._memory = None
        self._row_start = None
        self._views.clear()
        self._address[:] = 0

    def gather(self, rows: Ints, out: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        """Copy rows.

        Args:
            rows: int64 [n], within range.
            out: C-contiguous [n, *record] of the stored dtype to fill, or ``None`` for a new array.
        """
        if self._row_start is None or self._num_unchecked:
            files = self._index.file[rows]
            if (self._address[files] == 0).any():
                needed = np.unique(files)
                if len(needed) > self._max_open:
                    return self._gather_in_parts(rows, files, needed, out)
                self._open(needed)
            self._clock += 1
            self._last_used[files] = self._clock
            if self._num_unchecked:
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
            target[place] = self._views[file][offset : offset + self._row_bytes]
        return out

    def _gather_in_parts(
        self, rows: Ints, files: npt.NDArray[np.int32], needed: npt.NDArray[np.int32], out: npt.NDArray[Any] | None
    ) -> npt.NDArray[Any]:
        """Read a batch from more files than may be open at once, some files after the others."""
        if out is None:
            out = np.empty(len(rows), f"V{self._row_bytes}")
        target = out.reshape(-1).view(f"V{self._row_bytes}")
        for first in range(0, len(needed), self._max_open):
            some = np.flatnonzero(np.isin(files, needed[first : first + self._max_open]))
            target[some] = self.gather(rows[some], None)
        return out

    def _open(self, needed: npt.NDArray[np.int32]) -> None:
        self._clock += 1
        self._last_used[needed] = self._clock  # not closed by the calls below
        self._memory = None
        self._row_start = None
        for file in needed.tolist():
            if file in self._views:
                continue
            if len(self._views) >= self._max_open:
                oldest = min(self._views, key=lambda held: self._last_used[held])
                self._address[oldest] = 0
                del self._views[oldest]
            view = self._map(file)
            self._views[file] = view
            self._address[file] = view.__array_interface__["data"][0]
        addresses = [(view.__array_interface__["data"][0], len(view)) for view in self._views.values()]
        self._first = min(start for start, _ in addresses)
        last = max(start + length for start, length in addresses)
        if (last - self._first) * self._row_bytes <= _MAX_ARRAY_BYTES:
            self._memory = np.asarray(_Memory(self._first, last, self._row_bytes))
        if len(self._views) == len(self._index.files):
            self._row_start = self._address[self._index.file] - self._first + self._index.offset

    def _map(self, number: int) -> Bytes:
        """Map a file and, at the first time, compare its head with its record."""
        file = self._index.files[number]
        view = file.committed.generation.files.map(file.name, num_bytes=file.num_bytes, what="data file")
        if self._verify and not self._head_checked[number]:
            generation = file.committed.generation
            record = file.committed.records[file.shard]
            layout = shard_layout(generation, self._feature, record, self._file_format)
            if not self._shard_format.check_head(view, layout):
                where = generation.files.where(file.name)
                raise CorruptStoreError(f"data file {where} is damaged or another shard's; restore it from a copy")
            self._head_checked[number] = True
        return view

    def _check_blocks(self, rows: Ints, files: npt.NDArray[np.int32]) -> None:
        """Check each block the first time one of its rows is read."""
        blocks = self._index.block[rows]
        new = ~self._block_checked[blocks]
        if not new.any():
            return
        first_touch, where = np.unique(blocks[new], return_index=True)
        for block, file in zip(first_touch.tolist(), files[new][where].tolist(), strict=True):
            start = int(self._index.block_offset[block])
            data = self._views[file][start : start + int(self._index.block_bytes[block])]
            if crc32c(data) != int(self._index.block_crc32c[block]):
                damaged = self._index.files[file]
                where = damaged.committed.generation.files.where(damaged.name)
                raise CorruptStoreError(
                    f"block {block - damaged.first_block} of {where} is damaged or another shard's (its crc32c does "
                    "not match the commit record); restore the file from a copy"
                )
            self._block_checked[block] = True
            self._num_unchecked -= 1
