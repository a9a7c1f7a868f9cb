"""What a store asks of the place that holds its files; everything else that it does is arithmetic.

A store uses :class:`Files` and nothing else of a file system, so that another kind of place is one more class.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from featcache.files.local import LocalFiles
from featcache.files.places import check_local
from featcache.files.sealed import Bytes


class Files(Protocol):
    """The files of one store, which any number of processes read and write at once.

    Names are relative POSIX paths; ``""`` is the store itself. Every method refuses a name that is absolute or has
    ``..`` in it, and one on whose way is a symbolic link; only :meth:`exists` and :meth:`remove` take a name that is
    itself a link. Folders come into being with the first file in them, and count for nothing while they are empty.

    *Atomic* means: whoever reads the name meanwhile, in this process or in another, sees all bytes of one publication
    or that there is none, never a part. *Durable* means: when the method has returned, the machine may lose its power
    and the name still has those bytes. What one process has made durable in some order is found in that order: a later
    publication is never there without an earlier one.

    Errors of the system are raised as :class:`~featcache.errors.StoreError` where something is written, as
    :class:`~featcache.errors.DiskSpaceError` where there is no room left, and as
    :class:`~featcache.errors.CorruptStoreError` where something is read.
    """

    def where(self, name: str = "") -> str:
        """How a message calls a name."""

    def exists(self, name: str) -> bool:
        """Whether anything has this name, a link or a folder too. A rival may change that at any time."""

    def size(self, name: str) -> int | None:
        """Size in bytes of the regular file of this name, ``None`` where there is none."""

    def names(self, folder: str) -> list[str]:
        """Last parts of all names directly in a folder, sorted; empty where there is no such folder.

        What was published before the call is among them; what a rival publishes during the call may be.
        """

    def walk(self, folder: str = "") -> Iterator[tuple[str, int | None]]:
        """All names in a folder and below that are no folders, sorted, each with its size.

        The size of what is no regular file is ``None``; links are not followed.
        """

    def read(self, name: str, *, what: str) -> bytes:
        """All bytes of a file.

        Args:
            name: The file.
            what: What it is, for the message.

        Raises:
            CorruptStoreError: It is missing, no regular file, or cannot be read.
        """

    def map(self, name: str, *, num_bytes: int, what: str) -> npt.NDArray[np.uint8]:
        """A file as a read-only array [num_bytes] whose pages are read when they are touched.

        The array stays valid for as long as something refers to it, also where a rival replaces the file.

        Raises:
            CorruptStoreError: It is missing, cannot be read, or has another size.
        """

    def put_new(self, name: str, data: Bytes | Iterable[Bytes]) -> bool:
        """Publish a file unless the name is taken; atomic and durable. Of several rivals exactly one publishes.

        Args:
            name: The file; its folder is made, durably, where it is not there.
            data: The bytes, or buffers that follow each other.

        Returns:
            True if this call published it. False if the name was taken: what has it is untouched, and is durable too.
        """

    def put_exact(self, name: str, data: bytes | tuple[Bytes, ...]) -> None:
        """Publish a file whose bytes follow from what is known; atomic and durable.

        One that has these bytes is left alone, one that has others is replaced. A reader that has it open or mapped
        keeps the former bytes.
        """

    def remove(self, name: str) -> None:
        """Remove a file or link, if there is one; atomic and durable."""

    def settle(self, folder: str) -> None:
        """Make durable what a folder holds and what it does not: whoever changed it may have died on the way."""

    def lock(self, name: str, *, exclusive: bool, wait_seconds: float | None = None) -> AbstractContextManager[None]:
        """Hold an advisory lock for a block, waiting for it; it ends with its process.

        No promise above rests on it: it saves rivals from doing the same work. Only the lock on the whole store, which
        every writer holds shared, also keeps the files that no document names yet from being taken for left-overs.

        Raises:
            StoreError: Others still hold it after ``wait_seconds``; ``None`` waits for ever.
        """

    def try_lock(self, name: str, *, exclusive: bool) -> AbstractContextManager[bool]:
        """As :meth:`lock`, without waiting; yields whether it is held."""


def open_files(place: Path | str) -> Files:
    """The files of the store at a place, whether there is one or not.

    Raises:
        ConfigError: It begins with a scheme: only local paths can be stores so far.
    """
    check_local(place)
    return LocalFiles(Path(place))
