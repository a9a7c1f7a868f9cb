"""The interface between a store and the place that holds its files.

A store uses nothing of a file system except :class:`Files`, so that another kind of place needs only another class.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from featcache.files.bucket import BucketFiles
from featcache.files.local import LocalFiles
from featcache.files.objects import Objects, Span
from featcache.files.places import check_local
from featcache.files.sealed import Bytes
from featcache.files.urls import url_of

T = TypeVar("T")
R = TypeVar("R")


class Ranges(Protocol):
    """A file that is read in parts, by any number of threads at the same time.

    It stays open as long as it is referenced, and its bytes stay the same even if another process replaces the file.
    """

    def read(self, first: int, into: npt.NDArray[np.uint8]) -> None:
        """Fill a contiguous array [n] with the bytes from ``first`` on.

        Raises:
            CorruptStoreError: They cannot be read, or the file ends before them.
        """

    def expect(self, first: int, num_bytes: int) -> None:
        """Say that some bytes will be read soon; that may fetch them ahead, and never fails."""


class Files(Protocol):
    """The files of one store, which any number of processes may read and write at the same time.

    Names are relative POSIX paths; ``""`` is the store itself. Every method refuses a name that is absolute, contains
    ``..`` or leads through a symbolic link; only :meth:`exists` and :meth:`remove` accept a name that is itself a link.
    Folders are created with the first file in them, and have no meaning while they are empty.

    *Atomic* means that readers of the name, in this process or in another, see either all bytes of one publication or
    no file, never a part. *Durable* means that after the method has returned, the name keeps those bytes even if the
    machine loses its power. Publications that one process has made durable in some order are found in that order: a
    later one never exists without an earlier one. No promise depends on :meth:`names` being up to date, as it may not
    be where another host has published.

    Errors of the system are raised as :class:`~featcache.errors.StoreError` when writing, as
    :class:`~featcache.errors.DiskSpaceError` when no room is left, and as
    :class:`~featcache.errors.CorruptStoreError` when reading.
    """

    @property
    def is_remote(self) -> bool:
        """Whether each access takes so long that many should be made at the same time, with :meth:`each`."""

    def where(self, name: str = "") -> str:
        """The form of a name in messages."""

    def each(self, call: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """The results of independent calls, in order; made at the same time where that is quicker.

        Raises the error of the first call that fails.
        """

    def exists(self, name: str) -> bool:
        """Whether anything has this name, also a link or a folder. Another process may change that at any time."""

    def size(self, name: str) -> int | None:
        """Size in bytes of the regular file of this name, or ``None`` if there is none."""

    def names(self, folder: str) -> list[str]:
        """Last parts of all names directly in a folder, sorted; empty if there is no such folder.

        Names published before the call are included, except that on a network those of other hosts may be missing for
        a while; names that another process publishes during the call may be included.
        """

    def walk(self, folder: str = "") -> Iterator[tuple[str, int | None]]:
        """All names in a folder and below, except folders, sorted, each with its size.

        The size is ``None`` for anything but a regular file; links are not followed. Empty temporary folders are listed
        like empty files.
        """

    def read(self, name: str, *, what: str) -> bytes:
        """All bytes of a file.

        Args:
            name: The file.
            what: Kind of the file, for the message.

        Raises:
            CorruptStoreError: It is missing, is not a regular file, or cannot be read.
        """

    def map(self, name: str, *, num_bytes: int, what: str) -> npt.NDArray[np.uint8]:
        """A file as a read-only array [num_bytes] whose pages are read on access.

        The array stays valid as long as it is referenced, even if another process replaces the file; on NFS only if
        that process runs on this host. Files are replaced only where they were damaged or never committed.

        Raises:
            CorruptStoreError: It is missing, cannot be read, or has another size.
        """

    def ranges(self, name: str, *, num_bytes: int, what: str, is_direct: bool = False) -> Ranges:
        """A file whose parts are read without being mapped: many at a time, where one page after another is slow.

        Args:
            name: The file.
            num_bytes: Its size.
            what: Kind of the file, for the message.
            is_direct: Read past the system's cache if there is one and the disk can, for what the caller keeps itself.

        Raises:
            CorruptStoreError: It is missing, cannot be read, or has another size.
            TooManyFilesError: This process may not open another file.
        """

    def fetch(self, spans: Sequence[Span], *, what: str) -> list[npt.NDArray[np.uint8]]:
        """Parts of files, each uint8 [stop - start]; read at the same time where that is quicker.

        Raises:
            CorruptStoreError: A file is missing, cannot be read, or ends before.
        """

    def put_new(self, name: str, data: Bytes | Iterable[Bytes]) -> bool:
        """Publish a file unless the name is taken; atomic and durable. Of several writers exactly one succeeds.

        Args:
            name: The file; its folder is created durably if it does not exist.
            data: The bytes, or consecutive buffers.

        Returns:
            True if this call has published the file. False if the name was taken: the existing file is not changed, and
            is durable too.
        """

    def put_exact(self, name: str, data: bytes | tuple[Bytes, ...]) -> None:
        """Publish a file whose bytes follow from other files; atomic and durable.

        An existing file with these bytes is kept, one with other bytes is replaced. A reader that has it open or mapped
        keeps the old bytes.
        """

    def remove(self, name: str) -> None:
        """Remove a file or link, or an empty temporary folder, if there is one; atomic and durable."""

    def settle(self, folder: str) -> None:
        """Make the present contents of a folder durable: a process that changed them may have died on the way."""

    def lock(self, name: str, *, exclusive: bool, wait_seconds: float | None = None) -> AbstractContextManager[None]:
        """Hold an advisory lock for a block, waiting for it; it ends with its process.

        No promise above depends on it: it only avoids that processes do the same work. Only the lock on the whole
        store, which every writer holds shared, also prevents that files which no document names yet are removed as
        left-overs. Who gives ``wait_seconds`` for an exclusive lock relies on holding it alone.

        Raises:
            StoreError: Others still hold it after ``wait_seconds``; ``None`` waits for ever. Or the place has no locks,
                and the caller relies on holding it alone; other locks merely make less sure there.
        """

    def try_lock(self, name: str, *, exclusive: bool) -> AbstractContextManager[bool]:
        """As :meth:`lock`, without waiting; yields whether it is held."""


def open_files(place: Path | str) -> Files:
    """The files of the store at a place, whether or not there is a store.

    Args:
        place: A folder, or the URL of a bucket and a prefix, ``s3://…``, ``gs://…`` or ``az://…``.

    Raises:
        ConfigError: The place has another scheme, or is no URL of a bucket.
    """
    if url := url_of(Path(place)):
        return BucketFiles(Objects(url))
    check_local(place)
    return LocalFiles(Path(place))


def store_place(given: Path | str) -> Path | str:
    """A place in the form in which people write it: a path, or a URL."""
    return url_of(Path(given)) or Path(given)
