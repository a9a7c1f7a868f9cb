"""Rows of files in buckets: whole blocks, fetched many at a time and kept on the local disk."""

import itertools
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import CorruptStoreError
from featcache.files.block_cache import BlockCache, block_key
from featcache.files.objects import Span
from featcache.store.checks import Checks
from featcache.store.index import RowIndex

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

_PORTION_BYTES = 256 << 20  # fetched and copied before the next ones are
_REQUEST_BYTES = 1 << 20  # neighbouring blocks up to this size are fetched with one request; larger ones take turns
_GAP_BYTES = 64  # between neighbours: the checksum that follows each block
_AHEAD = 4  # batches whose blocks wait to be read


class ShardRanges:
    """Copies rows out of blocks. See :class:`featcache.store.row_reader.RowReader`.

    A block is compared with its record when it comes from the bucket, and when it is first read from the local disk in
    this process; one that is damaged there is fetched again.
    """

    def __init__(self, index: RowIndex, *, row_bytes: int, checks: Checks, max_open: int) -> None:
        del max_open  # no file stays open
        self._index = index
        self._row_bytes = row_bytes
        self._checks = checks
        self._cache = BlockCache.from_environment()
        self._keys: dict[int, str] = {}
        self._coming: deque[tuple[frozenset[int], Future[dict[int, Bytes]]]] = deque()
        self._threads: ThreadPoolExecutor | None = None
        self._keeping: dict[int, tuple[Future[None], Bytes]] = {}  # blocks that are on their way to the local disk

    @property
    def num_open(self) -> int:
        """0: files do not stay open."""
        return 0

    def close(self) -> None:
        """Drop what was fetched ahead, and wait until all blocks are kept."""
        self._coming.clear()
        self._keeping.clear()
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None

    def gather(self, rows: Ints, out: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        """Copy rows."""
        if out is None:
            out = np.empty(len(rows), f"V{self._row_bytes}")
        target = out.reshape(-1).view(np.uint8).reshape(len(rows), self._row_bytes)
        order = np.argsort(self._index.block[rows], kind="stable")
        blocks, starts = np.unique(self._index.block[rows][order], return_index=True)
        places = dict(zip(blocks.tolist(), np.split(order, starts[1:]), strict=True)) if len(blocks) else {}
        for portion in self._portions(blocks):
            missing = [block for block in portion if not self._copy_kept(block, rows, places[block], target)]
            for block, data in self._fetched(missing, rows, places).items():
                target[places[block]] = data.reshape(-1, self._row_bytes)[self._inside(rows[places[block]], block)]
        return out

    def ahead(self, rows: Ints) -> None:
        """Begin to fetch the blocks of rows that are not kept here."""
        blocks, first = np.unique(self._index.block[rows], return_index=True)
        expected = set().union(*(some for some, _ in self._coming)) if self._coming else set()
        file_of = dict(zip(blocks.tolist(), self._index.file[rows[first]].tolist(), strict=True))
        wanted = {
            block: file for block, file in file_of.items() if block not in expected and not self._is_kept(block, file)
        }
        if wanted:
            if len(self._coming) == _AHEAD:
                self._coming.popleft()
            self._coming.append((frozenset(wanted), self._pool().submit(self._fetch, wanted)))

    def _portions(self, blocks: Ints) -> list[list[int]]:
        """Blocks in groups that fit into memory."""
        group = np.cumsum(self._index.block_bytes[blocks]) // _PORTION_BYTES
        return [blocks[group == number].tolist() for number in np.unique(group)]

    def _copy_kept(self, block: int, rows: Ints, places: Ints, target: Bytes) -> bool:
        """Copy the rows of a block that is kept on the local disk; false if it is not, or is damaged."""
        if not self._cache.max_bytes:
            return False
        file, num_bytes = int(self._index.file[rows[places[0]]]), int(self._index.block_bytes[block])
        key = self._key(block, file)
        inside = self._inside(rows[places], block)
        if self._checks.is_checked[block]:
            starts = (inside * self._row_bytes).tolist()
            return self._cache.read_parts(key, num_bytes, starts, [target[place] for place in places.tolist()])
        data = self._cache.read(key, num_bytes)
        if data is None or not self._is_intact(block, file, data):
            return False
        target[places] = data.reshape(-1, self._row_bytes)[inside]
        return True

    def _is_intact(self, block: int, file: int, data: Bytes) -> bool:
        data.flags.writeable = False
        try:
            self._checks.check_block(block, file, data)
        except CorruptStoreError:  # only here: the bucket may have it whole
            return False
        self._checks.passed(np.array([block]))
        return True

    def _is_kept(self, block: int, file: int) -> bool:
        return self._cache.read_parts(self._key(block, file), int(self._index.block_bytes[block]), [], [])

    def _fetched(self, blocks: list[int], rows: Ints, places: dict[int, Ints]) -> dict[int, Bytes]:
        """Blocks from what was fetched ahead, and all others from the bucket; each compared with its record."""
        held = {block: self._keeping[block][1] for block in blocks if block in self._keeping}
        found: dict[int, Bytes] = {}
        for some, future in self._coming:
            if wanted := some.intersection(blocks) - set(found) - set(held):
                fetched = future.result()
                found |= {block: fetched[block] for block in wanted}
        while self._coming and self._coming[0][1].done() and self._coming[0][0] <= set(found):
            self._coming.popleft()
        file_of = {block: int(self._index.file[rows[places[block][0]]]) for block in blocks}
        found |= self._fetch(
            {block: file for block, file in file_of.items() if block not in found and block not in held}
        )
        for block, data in found.items():
            self._checks.check_block(block, file_of[block], data)
            self._keep(block, file_of[block], data)
        if found:
            self._checks.passed(np.array(list(found)))
        return found | held

    def _fetch(self, file_of: dict[int, int]) -> dict[int, Bytes]:
        """Blocks by number, given with their files."""
        if not file_of:
            return {}
        spans, parts = [], []
        for group in self._neighbours(file_of):
            file = self._index.files[file_of[group[0]]]
            start, stop = self._bounds(group[0])[0], self._bounds(group[-1])[1]
            spans.append(Span(file.name, start, stop, file.num_bytes))
            parts.append(group)
        files = self._index.files[0].committed.generation.files
        found = {}
        for span, group, data in zip(spans, parts, files.fetch(spans, what="data file"), strict=True):
            for block in group:
                start, stop = self._bounds(block)
                found[block] = data[start - span.start : stop - span.start]
        return found

    def _neighbours(self, file_of: dict[int, int]) -> list[list[int]]:
        """Groups of blocks that lie side by side in a file."""
        groups: list[list[int]] = []
        for before, block in itertools.pairwise([None, *sorted(file_of)]):
            assert block is not None, "only the first has none before it"
            start, stop = self._bounds(block)
            joins = (
                before is not None
                and file_of[before] == file_of[block]
                and 0 <= start - self._bounds(before)[1] <= _GAP_BYTES
                and stop - self._bounds(groups[-1][0])[0] <= _REQUEST_BYTES
            )
            if joins:
                groups[-1].append(block)
            else:
                groups.append([block])
        return groups

    def _keep(self, block: int, file: int, data: Bytes) -> None:
        """Keep a block beside what follows; waits for the first ones if too much waits for that already."""
        self._keeping = {one: held for one, held in self._keeping.items() if not held[0].done()}
        if not self._cache.max_bytes:
            return
        self._keeping[block] = (self._pool().submit(self._cache.put, self._key(block, file), data), data)
        if sum(len(waiting) for _, waiting in self._keeping.values()) > _PORTION_BYTES:
            next(iter(self._keeping.values()))[0].result()

    def _pool(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(2, thread_name_prefix="blocks")
        return self._threads

    def _key(self, block: int, file: int) -> str:
        if block not in self._keys:
            held = self._index.files[file]
            where = held.committed.generation.files.where(held.name)
            start, stop = self._bounds(block)
            self._keys[block] = block_key(where, start, stop - start, int(self._index.block_crc32c[block]))
        return self._keys[block]

    def _bounds(self, block: int) -> tuple[int, int]:
        start = int(self._index.block_offset[block])
        return start, start + int(self._index.block_bytes[block])

    def _inside(self, rows: Ints, block: int) -> Ints:
        """Numbers of rows within their block."""
        number: Ints = (self._index.offset[rows] - self._index.block_offset[block]) // self._row_bytes
        return number
