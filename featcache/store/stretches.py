"""Stretches: neighbouring blocks of a file that are read and kept together."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.errors import CorruptStoreError
from featcache.store.checks import Checks
from featcache.store.index import READ_BYTES, RowIndex

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

_SMALL_ROW_BYTES = 4096


class Stretch(NamedTuple):
    """A stretch of a file.

    Attributes:
        number: Its number among all stretches of the feature.
        file: Number of its file.
        blocks: int64, numbers of its blocks that were written.
        first: Offset of the first of them in the file.
        num_bytes: Number of bytes up to the end of the last.
    """

    number: int
    file: int
    blocks: Ints
    first: int
    num_bytes: int


class Stretches:
    """All stretches of about half a megabyte of a feature.

    Attributes:
        largest: Number of bytes that none of them exceeds.
    """

    def __init__(self, index: RowIndex) -> None:
        self._index = index
        self._of_block = index.stretches(READ_BYTES)
        count = int(self._of_block.max(initial=-1)) + 1
        self._first_block = np.searchsorted(self._of_block, np.arange(count + 1))
        self._file_start = np.array([file.first_block for file in index.files], np.int64)
        gaps = 4 * int(np.diff(self._first_block).max(initial=1))  # a checksum may follow each block
        self.largest = max(READ_BYTES, int(index.block_bytes.max(initial=1))) + gaps

    def of(self, rows: Ints) -> Ints:
        """Number of the stretch of each of rows int64 [n]."""
        numbers: Ints = self._of_block[self._index.block[rows]]
        return numbers

    def __getitem__(self, number: int) -> Stretch:
        """A stretch by its number; one of its blocks was written."""
        blocks = np.arange(self._first_block[number], self._first_block[number + 1])
        file = int(np.searchsorted(self._file_start, blocks[0], side="right")) - 1
        blocks = blocks[self._index.block_offset[blocks] >= 0]
        first = int(self._index.block_offset[blocks[0]])
        last = int(self._index.block_offset[blocks[-1]] + self._index.block_bytes[blocks[-1]])
        return Stretch(number, file, blocks, first, last - first)

    def damage(
        self, stretch: Stretch, data: Bytes, blocks: Iterable[int], *, checks: Checks
    ) -> dict[int, CorruptStoreError]:
        """What is wrong with blocks of a stretch, by block.

        Args:
            stretch: The stretch.
            data: All its bytes, read-only.
            blocks: The blocks to compare with their records.
            checks: Compares them.
        """
        damaged: dict[int, CorruptStoreError] = {}
        for block in blocks:
            start = int(self._index.block_offset[block]) - stretch.first
            try:
                checks.check_block(block, stretch.file, data[start : start + int(self._index.block_bytes[block])])
            except CorruptStoreError as error:
                damaged[block] = error
        return damaged


def copy_rows(data: Bytes, starts: Ints, target: npt.NDArray[Any], places: Ints) -> None:
    """Copy the rows that begin at ``starts`` of some bytes to their places in ``target`` uint8 [n, row_bytes]."""
    row_bytes = target.shape[1]
    if row_bytes < _SMALL_ROW_BYTES:
        shape = (len(data) - row_bytes + 1, row_bytes)
        target[places] = np.lib.stride_tricks.as_strided(data, shape, (1, 1), writeable=False)[starts]
        return
    for place, start in zip(places.tolist(), starts.tolist(), strict=True):
        target[place] = data[start : start + row_bytes]
