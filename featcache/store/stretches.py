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
        first: Offset in the file of the first of its blocks that were written.
        num_bytes: Number of bytes up to the end of the last.
    """

    number: int
    file: int
    first: int
    num_bytes: int


class Stretches:
    """All stretches of about half a megabyte of a feature.

    Attributes:
        num_bytes: int64, size of each; 0 if none of its blocks was written.
    """

    def __init__(self, index: RowIndex) -> None:
        self._index = index
        self._of_block = index.stretches(READ_BYTES)
        count = int(self._of_block.max(initial=-1)) + 1
        self._bounds = np.searchsorted(self._of_block, np.arange(count + 1))
        self._file = np.searchsorted([file.first_block for file in index.files], self._bounds[:-1], side="right") - 1
        written = np.flatnonzero(index.block_offset >= 0)
        self._first, last = np.full(count, np.iinfo(np.int64).max), np.zeros(count, np.int64)
        np.minimum.at(self._first, self._of_block[written], index.block_offset[written])
        np.maximum.at(last, self._of_block[written], (index.block_offset + index.block_bytes)[written])
        self.num_bytes = np.maximum(0, last - self._first)

    def of(self, rows: Ints) -> Ints:
        """Number of the stretch of each of rows int64 [n]."""
        numbers: Ints = self._of_block[self._index.block[rows]]
        return numbers

    def __getitem__(self, number: int) -> Stretch:
        """A stretch by its number; one of its blocks was written."""
        return Stretch(number, int(self._file[number]), int(self._first[number]), int(self.num_bytes[number]))

    def blocks(self, stretch: Stretch) -> Ints:
        """Numbers int64 [n] of the blocks of a stretch that were written."""
        first, end = self._bounds[stretch.number : stretch.number + 2]
        written: Ints = first + np.flatnonzero(self._index.block_offset[first:end] >= 0)
        return written

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
