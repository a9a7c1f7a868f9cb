"""What a reader has compared with the commit records: the head of each file, and each block."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from featcache.errors import CorruptStoreError
from featcache.files.base import Ranges
from featcache.store.blocks import crc32c
from featcache.store.generation import FORMATS, shard_layout
from featcache.store.index import RowIndex
from featcache.store.paths import FileFormat
from featcache.store.schema import FeatureDoc

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


class Checks:
    """Compares heads of files and blocks with their commit records, each when it is first read in a process.

    Attributes:
        verifies: Whether anything is compared.
        is_checked: bool [blocks], whether a block needs no check (any more).
        num_unchecked: Number of blocks with visible rows that have not been checked.
    """

    def __init__(self, index: RowIndex, *, feature: FeatureDoc, file_format: FileFormat, verify: bool) -> None:
        self._index = index
        self._feature = feature
        self._file_format = file_format
        self._is_head_checked = np.full(len(index.files), not verify)
        self.verifies = verify
        self.is_checked = np.full(len(index.block_offset), not verify)
        self.num_unchecked = len(np.unique(index.block)) if verify else 0

    def check_head(self, number: int, read: Callable[[int, int], Bytes]) -> None:
        """Compare the head of a file with its record, the first time.

        Args:
            number: Number of the file.
            read: Gives bytes ``first`` to ``last`` of it.

        Raises:
            CorruptStoreError: They differ.
        """
        if self._is_head_checked[number]:
            return
        file = self._index.files[number]
        generation, shard_format = file.committed.generation, FORMATS[self._file_format]
        layout = shard_layout(generation, self._feature, file.committed.records[file.shard], self._file_format)
        first, last = shard_format.head_range(layout, file_bytes=file.num_bytes)
        is_inside = 0 <= first <= last <= file.num_bytes
        if not is_inside or not shard_format.check_head(read(first, last), layout, file_bytes=file.num_bytes):
            where = generation.files.where(file.name)
            raise CorruptStoreError(f"data file {where} is damaged or another shard's; restore it from a copy")
        self._is_head_checked[number] = True

    def open_ranges(self, number: int, *, is_direct: bool) -> Ranges:
        """Open a file to read parts of it, and compare its head with its record, the first time.

        Args:
            number: Number of the file.
            is_direct: See :meth:`featcache.files.base.Files.ranges`.

        Raises:
            CorruptStoreError: It is missing, short, damaged or another one.
            TooManyFilesError: This process may not open another file.
        """
        file = self._index.files[number]
        ranges = file.committed.generation.files.ranges(
            file.name, num_bytes=file.num_bytes, what="data file", is_direct=is_direct
        )

        def head(first: int, last: int) -> Bytes:
            data = np.empty(last - first, np.uint8)
            ranges.read(first, data)
            return data

        self.check_head(number, head)
        return ranges

    def check_block(self, block: int, file: int, data: Bytes) -> None:
        """Compare a block with its record.

        Args:
            block: Number of the block.
            file: Number of its file.
            data: All its bytes, uint8, read-only (others would be copied).

        Raises:
            CorruptStoreError: Its checksum is another one.
        """
        if crc32c(data) != int(self._index.block_crc32c[block]):
            damaged = self._index.files[file]
            where = damaged.committed.generation.files.where(damaged.name)
            raise CorruptStoreError(
                f"block {block - damaged.first_block} of {where} is damaged or another shard's (its crc32c does "
                "not match the commit record); restore the file from a copy"
            )

    def passed(self, blocks: Ints) -> None:
        """Note different blocks that were checked; callers take turns."""
        self.num_unchecked -= int((~self.is_checked[blocks]).sum())
        self.is_checked[blocks] = True
