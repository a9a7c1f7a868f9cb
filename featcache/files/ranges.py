"""A local file that is read in parts by several threads. See :class:`featcache.files.base.Ranges`."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.errors import CorruptStoreError
from featcache.files.sealed import unreadable


class LocalRanges:
    """An open file; its descriptor is closed with the last reference, so that no thread reads a closed one."""

    def __init__(self, fd: int, *, path: Path, what: str) -> None:
        """Take over a descriptor.

        Args:
            fd: The descriptor, open for reading.
            path: The file, for messages.
            what: Kind of the file, for messages.
        """
        self._fd = fd
        self._path, self._what = path, what
        if hasattr(os, "posix_fadvise"):  # rows are wanted, not what follows them
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)

    def __del__(self) -> None:
        os.close(self._fd)

    def read(self, first: int, into: npt.NDArray[np.uint8]) -> None:
        """Fill an array with the bytes from ``first`` on; other threads run meanwhile."""
        view = into.data
        done = 0
        while done < len(view):
            try:
                count = os.preadv(self._fd, [view[done:]], first + done)
            except OSError as error:
                raise unreadable(self._path, self._what, error) from error
            if not count:
                raise CorruptStoreError(
                    f"{self._what} {self._path} ends before byte {first + len(view)}; restore it from a copy"
                )
            done += count

    def expect(self, first: int, num_bytes: int) -> None:
        """Let the system fetch bytes into its cache."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, first, num_bytes, os.POSIX_FADV_WILLNEED)
