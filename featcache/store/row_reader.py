"""What copies the rows of a feature out of its files: the interface, and the choice between those that there are."""

from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from featcache.store.block_reads import BlockReads
from featcache.store.checks import Checks
from featcache.store.index import RowIndex
from featcache.store.maps import ShardMaps
from featcache.store.ranges import ShardRanges
from featcache.store.reads import ShardReads

Device = Literal["mmap", "disk", "ram"]
Ints = npt.NDArray[np.int64]


class RowReader(Protocol):
    """Copies rows out of a feature's data files; callers take turns."""

    @property
    def num_open(self) -> int:
        """Number of files that are open."""

    def gather(self, rows: Ints, out: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        """Copy rows.

        Args:
            rows: int64 [n], within range.
            out: C-contiguous [n, *record] of the stored dtype to fill, or ``None`` for a new array.

        Returns:
            ``out``, or [n] of the rows' bytes (dtype ``V``).

        Raises:
            CorruptStoreError: A file is missing, short, swapped or damaged.
            TooManyFilesError: Not even one file can be opened.
        """

    def ahead(self, rows: Ints) -> None:
        """Begin to fetch rows that will be gathered soon; errors are left to :meth:`gather`."""

    def close(self) -> None:
        """Release files and threads; a later call opens them again."""


def row_reader(
    device: Device, index: RowIndex, *, row_bytes: int, checks: Checks, max_open: int, keep_bytes: int
) -> RowReader:
    """What reads the rows of an index for a device, e.g. for ``ram`` whatever is quickest when all rows are read once.

    Args:
        device: See :meth:`featcache.store.reader.Store.feature`.
        index: Places of the rows.
        row_bytes: Bytes of a row.
        checks: What has been compared with the records.
        max_open: Largest number of open files.
        keep_bytes: Bytes of blocks that are read as a whole and kept in memory, for ``disk``; 0: none.
    """
    if index.files and index.files[0].committed.generation.files.is_remote:
        return ShardRanges(index, row_bytes=row_bytes, checks=checks, max_open=max_open)
    if device == "disk" and keep_bytes:
        return BlockReads(index, row_bytes=row_bytes, checks=checks, max_open=max_open, keep_bytes=keep_bytes)
    make = ShardMaps if device == "mmap" else ShardReads
    return make(index, row_bytes=row_bytes, checks=checks, max_open=max_open)
