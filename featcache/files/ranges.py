"""A local file that is read in parts by several threads. See :class:`featcache.files.base.Ranges`."""

import errno
import mmap
import os
import sys
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.errors import CorruptStoreError
from featcache.files.sealed import unreadable

Bytes = npt.NDArray[np.uint8]

_SECTOR = 4096
"""Direct reads begin and end at multiples of this, in the file and in memory."""
_room = threading.local()


class LocalRanges:
    """An open file; its descriptor is closed with the last reference, so that no thread reads a closed one."""

    def __init__(self, fd: int, *, path: Path, what: str, is_direct: bool = False) -> None:
        """Take over a descriptor.

        Args:
            fd: The descriptor, open for reading.
            path: The file, for messages.
            what: Kind of the file, for messages.
            is_direct: Read past the page cache where the file system can.
        """
        self._fd = fd
        self._path, self._what = path, what
        self._is_direct = is_direct and _set_direct(fd, True)
        if hasattr(os, "posix_fadvise"):  # rows are wanted, not what follows them
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)

    def __del__(self) -> None:
        os.close(self._fd)

    def read(self, first: int, into: Bytes) -> None:
        """Fill an array with the bytes from ``first`` on; other threads run meanwhile."""
        if self._is_direct:
            begin, end = first // _SECTOR * _SECTOR, -(-(first + len(into)) // _SECTOR) * _SECTOR
            room = _aligned(end - begin)
            try:
                self._fill(begin, room, least=first + len(into) - begin)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise unreadable(self._path, self._what, error) from error
                self._is_direct = False  # e.g. sectors of another size
                _set_direct(self._fd, False)
            else:
                into[:] = room[first - begin : first - begin + len(into)]
                return
        try:
            self._fill(first, into, least=len(into))
        except OSError as error:
            raise unreadable(self._path, self._what, error) from error

    def _fill(self, first: int, into: Bytes, *, least: int) -> None:
        """Read at least so many bytes.

        Raises:
            CorruptStoreError: The file ends before them.
            OSError: The system cannot read them.
        """
        view = into.data
        done = 0
        while done < least:
            count = os.preadv(self._fd, [view[done:]], first + done)
            if not count:
                raise CorruptStoreError(
                    f"{self._what} {self._path} ends before byte {first + least}; restore it from a copy"
                )
            done += count

    def expect(self, first: int, num_bytes: int) -> None:
        """Let the system fetch bytes into its cache."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, first, num_bytes, os.POSIX_FADV_WILLNEED)


def _set_direct(fd: int, is_direct: bool) -> bool:
    """Let reads of a descriptor pass by the page cache, or not; whether the system does it."""
    if sys.platform != "linux":
        return False
    import fcntl

    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT if is_direct else flags & ~os.O_DIRECT)
    except OSError:  # the file system has no direct reads
        return False
    return True


def _aligned(num_bytes: int) -> Bytes:
    """Memory of this thread that begins at a page, used again by its next read."""
    room: Bytes | None = getattr(_room, "bytes", None)
    if room is None or len(room) < num_bytes:
        room = _room.bytes = np.frombuffer(mmap.mmap(-1, num_bytes), np.uint8)
    return room[:num_bytes]
