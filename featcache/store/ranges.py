"""Rows of files in buckets: stretches of blocks, fetched many at a time and kept on the local disk."""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.errors import CorruptStoreError
from featcache.files.block_cache import BlockCache, block_key
from featcache.files.objects import Span
from featcache.store.blocks import crc32c
from featcache.store.checks import Checks
from featcache.store.index import RowIndex
from featcache.store.stretches import Stretch, Stretches, copy_rows

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

_PORTION_BYTES = 256 << 20  # fetched and copied before the next ones are
_REQUEST_BYTES = 1 << 20  # neighbours up to this size are fetched with one request; larger ones take turns
_GAP_BYTES = 64  # between neighbours: the checksum that follows each block
_AHEAD = 4  # batches whose stretches wait to be read


class _Part(NamedTuple):
    """Rows of one stretch, and their places among all that are wanted."""

    rows: Ints
    places: Ints


class ShardRanges:
    """Copies rows out of stretches. See :class:`featcache.store.row_reader.RowReader`.

    Stretches are fetched and kept, since a request costs more time than half a megabyte. Their blocks are compared with
    their records when they come from the bucket, if they are wanted, and when they are first read from the local disk
    in this process; a stretch that is damaged there is fetched again.
    """

    def __init__(self, index: RowIndex, *, row_bytes: int, checks: Checks, max_open: int) -> None:
        del max_open  # no file stays open
        self._index = index
        self._row_bytes = row_bytes
        self._checks = checks
        self._stretches = Stretches(index)
        self._cache = BlockCache.from_environment()
        self._keys: dict[int, str] = {}
        self._coming: deque[tuple[frozenset[int], Future[dict[int, Bytes]]]] = deque()
        self._threads: ThreadPoolExecutor | None = None
        self._keeping: dict[int, tuple[Future[None], Bytes]] = {}  # stretches that are on their way to the local disk

    @property
    def num_open(self) -> int:
        """0: files do not stay open."""
        return 0

    def close(self) -> None:
        """Drop what was fetched ahead, and wait until all stretches are kept."""
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
        numbers = self._stretches.of(rows)
        order = np.argsort(numbers, kind="stable")
        found, starts = np.unique(numbers[order], return_index=True)
        parts = np.split(order, starts[1:]) if len(found) else []
        places = {number: _Part(rows[part], part) for number, part in zip(found.tolist(), parts, strict=True)}
        for portion in self._portions(found.tolist()):
            missing = [stretch for stretch in portion if not self._copy_kept(stretch, places[stretch.number], target)]
            for number, data in self._fetched(missing, places).items():
                self._copy(self._stretches[number], data, places[number], target)
        return out

    def ahead(self, rows: Ints) -> None:
        """Begin to fetch the stretches of rows that are not kept here."""
        expected = set().union(*(some for some, _ in self._coming)) if self._coming else set()
        stretches = [self._stretches[number] for number in np.unique(self._stretches.of(rows)).tolist()]
        wanted = [stretch for stretch in stretches if stretch.number not in expected and not self._is_kept(stretch)]
        if wanted:
            if len(self._coming) == _AHEAD:
                self._coming.popleft()
            numbers = frozenset(stretch.number for stretch in wanted)
            self._coming.append((numbers, self._pool().submit(self._fetch, wanted)))

    def _portions(self, numbers: list[int]) -> Iterator[list[Stretch]]:
        """Stretches in groups that fit into memory."""
        step = max(1, _PORTION_BYTES // int(self._stretches.num_bytes.max(initial=1)))
        for begin in range(0, len(numbers), step):
            yield [self._stretches[number] for number in numbers[begin : begin + step]]

    def _copy(self, stretch: Stretch, data: Bytes, part: _Part, target: Bytes) -> None:
        copy_rows(data, self._index.offset[part.rows] - stretch.first, target, part.places)

    def _copy_kept(self, stretch: Stretch, part: _Part, target: Bytes) -> bool:
        """Copy rows of a stretch that is kept on the local disk; false if it is not, or is damaged."""
        if not self._cache.max_bytes:
            return False
        if self._checks.is_checked[self._index.block[part.rows]].all():
            starts = (self._index.offset[part.rows] - stretch.first).tolist()
            into = [target[place] for place in part.places.tolist()]
            return self._cache.read_parts(self._key(stretch), stretch.num_bytes, starts, into)
        data = self._cache.read(self._key(stretch), stretch.num_bytes)
        if data is None or self._damage(stretch, data, part):  # only here: the bucket may have it whole
            return False
        self._copy(stretch, data, part, target)
        return True

    def _damage(self, stretch: Stretch, data: Bytes, part: _Part) -> dict[int, CorruptStoreError]:
        """What is wrong with the blocks of some rows of a stretch; if nothing is, they are checked from now on."""
        data.flags.writeable = False
        blocks = np.unique(self._index.block[part.rows])
        damaged = self._stretches.damage(stretch, data, blocks.tolist(), checks=self._checks)
        if not damaged:
            self._checks.passed(blocks)
        return damaged

    def _is_kept(self, stretch: Stretch) -> bool:
        return self._cache.read_parts(self._key(stretch), stretch.num_bytes, [], [])

    def _fetched(self, stretches: list[Stretch], places: Mapping[int, _Part]) -> dict[int, Bytes]:
        """What was fetched ahead, and all others from the bucket; wanted blocks are compared with their records."""
        numbers = {stretch.number for stretch in stretches}
        held = {number: self._keeping[number][1] for number in numbers if number in self._keeping}
        found: dict[int, Bytes] = {}
        for some, future in self._coming:
            if wanted := some.intersection(numbers) - set(found) - set(held):
                fetched = future.result()
                found |= {number: fetched[number] for number in wanted}
        while self._coming and self._coming[0][1].done() and self._coming[0][0] <= set(found):
            self._coming.popleft()
        found |= self._fetch([each for each in stretches if each.number not in found and each.number not in held])
        for stretch in stretches:
            data = held[stretch.number] if stretch.number in held else found[stretch.number]
            for damage in self._damage(stretch, data, places[stretch.number]).values():
                raise damage
            if stretch.number in found:
                self._keep(stretch, data)
        return found | held

    def _fetch(self, stretches: list[Stretch]) -> dict[int, Bytes]:
        """Stretches by number."""
        if not stretches:
            return {}
        groups = self._neighbours(stretches)
        spans = []
        for group in groups:
            file = self._index.files[group[0].file]
            spans.append(Span(file.name, group[0].first, group[-1].first + group[-1].num_bytes, file.num_bytes))
        files = self._index.files[0].committed.generation.files
        found = {}
        for span, group, data in zip(spans, groups, files.fetch(spans, what="data file"), strict=True):
            for stretch in group:
                start = stretch.first - span.start
                found[stretch.number] = data[start : start + stretch.num_bytes]
        return found

    def _neighbours(self, stretches: list[Stretch]) -> list[list[Stretch]]:
        """Groups of stretches, given in order, that lie side by side in a file."""
        groups: list[list[Stretch]] = []
        for stretch in stretches:
            before = groups[-1][-1] if groups else None
            joins = (
                before is not None
                and before.file == stretch.file
                and 0 <= stretch.first - (before.first + before.num_bytes) <= _GAP_BYTES
                and stretch.first + stretch.num_bytes - groups[-1][0].first <= _REQUEST_BYTES
            )
            if joins:
                groups[-1].append(stretch)
            else:
                groups.append([stretch])
        return groups

    def _keep(self, stretch: Stretch, data: Bytes) -> None:
        """Keep a stretch beside what follows; waits for the first ones if too much waits for that already."""
        self._keeping = {one: held for one, held in self._keeping.items() if not held[0].done()}
        if not self._cache.max_bytes:
            return
        self._keeping[stretch.number] = (self._pool().submit(self._cache.put, self._key(stretch), data), data)
        if sum(len(waiting) for _, waiting in self._keeping.values()) > _PORTION_BYTES:
            next(iter(self._keeping.values()))[0].result()

    def _pool(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(2, thread_name_prefix="blocks")
        return self._threads

    def _key(self, stretch: Stretch) -> str:
        if stretch.number not in self._keys:
            held = self._index.files[stretch.file]
            where = held.committed.generation.files.where(held.name)
            crc = crc32c(self._index.block_crc32c[self._stretches.blocks(stretch)].astype("<u4").tobytes())
            self._keys[stretch.number] = block_key(where, stretch.first, stretch.num_bytes, crc)
        return self._keys[stretch.number]
