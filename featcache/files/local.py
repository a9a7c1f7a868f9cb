"""The files of a store on a disk that is mounted here. See :class:`featcache.files.base.Files`."""

import mmap
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from featcache.errors import CorruptStoreError
from featcache.files import publish
from featcache.files.disks import Disk
from featcache.files.objects import Span
from featcache.files.places import safe_join
from featcache.files.ranges import LocalRanges
from featcache.files.sealed import Bytes, asked_again, read_bytes, unreadable

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """The files below a folder.

    Attributes:
        root: The folder, which may itself be reached through symbolic links.
    """

    root: Path
    _disk: Disk = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_disk", Disk(self.root))

    @property
    def is_remote(self) -> bool:
        """False: one access after the other is quick."""
        return False

    def where(self, name: str = "") -> str:
        """The path of a name."""
        return f"{self.root}/{name}" if name else str(self.root)

    def _place(self, name: str, *, may_be_link: bool = False) -> Path:
        return safe_join(self.root, name, may_be_link=may_be_link) if name else self.root

    def each(self, call: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """The results of calls, one after the other."""
        return [call(item) for item in items]

    def exists(self, name: str) -> bool:
        """Whether anything has this name."""
        return os.path.lexists(self._place(name, may_be_link=True))

    def size(self, name: str) -> int | None:
        """Size of a regular file."""
        path = self._place(name)
        try:
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise unreadable(path, "file", error) from error
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def names(self, folder: str) -> list[str]:
        """Names directly in a folder."""
        return [entry.name for entry in self._entries(folder)]

    def walk(self, folder: str = "") -> Iterator[tuple[str, int | None]]:
        """Names of files, links and empty temporary folders in a folder and below, with their sizes."""
        for entry in self._entries(folder):
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                if publish.is_temp(entry.name) and not self._entries(name):
                    yield name, 0
                yield from self.walk(name)
            else:
                with suppress(FileNotFoundError):  # another process has removed it meanwhile
                    found = entry.stat(follow_symlinks=False)
                    yield name, found.st_size if stat.S_ISREG(found.st_mode) else None

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        path = self._place(folder)
        try:
            with os.scandir(path) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:
            return []
        except NotADirectoryError as error:
            raise CorruptStoreError(
                f"{path} is a file, not a folder; choose an empty folder, or restore this one from a copy"
            ) from error
        except OSError as error:
            raise unreadable(path, "folder", error) from error

    def read(self, name: str, *, what: str) -> bytes:
        """All bytes of a file."""
        return read_bytes(self._place(name), what=what)

    def map(self, name: str, *, num_bytes: int, what: str) -> npt.NDArray[np.uint8]:
        """Map a file into memory after checking its size: reading beyond the end of the file would raise SIGBUS."""
        path = self._place(name)
        fd = _opened(path, num_bytes=num_bytes, what=what)
        try:
            view: npt.NDArray[np.uint8] = np.frombuffer(mmap.mmap(fd, num_bytes, prot=mmap.PROT_READ), np.uint8)
        except OSError as error:
            raise unreadable(path, what, error) from error
        finally:
            os.close(fd)
        return view

    def ranges(self, name: str, *, num_bytes: int, what: str, is_direct: bool = False) -> LocalRanges:
        """Open a file after checking its size."""
        path = self._place(name)
        fd = _opened(path, num_bytes=num_bytes, what=what)
        return LocalRanges(fd, path=path, what=what, is_direct=is_direct)

    def fetch(self, spans: Sequence[Span], *, what: str) -> list[npt.NDArray[np.uint8]]:
        """Parts of files, read one after the other."""
        parts = []
        for span in spans:
            part = np.empty(span.stop - span.start, np.uint8)
            self.ranges(span.name, num_bytes=span.size, what=what).read(span.start, part)
            parts.append(part)
        return parts

    def put_new(self, name: str, data: Bytes | Iterable[Bytes]) -> bool:
        """Publish a file unless its name is taken."""
        return self._disk.put_new(self._place(name), data)

    def put_exact(self, name: str, data: bytes | tuple[Bytes, ...]) -> None:
        """Publish a file whose bytes follow from other files."""
        self._disk.put_exact(self._place(name), data)

    def remove(self, name: str) -> None:
        """Remove a file or link, if there is one."""
        publish.remove(self._place(name, may_be_link=True))

    def settle(self, folder: str) -> None:
        """Sync a folder, if there is one."""
        path = self._place(folder)
        if path.is_dir():
            publish.sync_folder(path)

    def lock(self, name: str, *, exclusive: bool, wait_seconds: float | None = None) -> AbstractContextManager[None]:
        """Hold a lock file's lock."""
        return self._disk.lock(self._place(name), exclusive=exclusive, wait_seconds=wait_seconds)

    def try_lock(self, name: str, *, exclusive: bool) -> AbstractContextManager[bool]:
        """Hold a lock file's lock if it is free."""
        return self._disk.try_lock(self._place(name), exclusive=exclusive)


def _opened(path: Path, *, num_bytes: int, what: str) -> int:
    """A descriptor of a file that has the size of its record.

    Raises:
        CorruptStoreError: It is missing, cannot be read, or has another size.
        TooManyFilesError: This process may not open another file.
    """
    try:
        fd = asked_again(lambda: os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as error:
        raise unreadable(path, what, error) from error
    try:
        size = os.fstat(fd).st_size
    except OSError as error:
        os.close(fd)
        raise unreadable(path, what, error) from error
    if size != num_bytes:
        os.close(fd)
        raise CorruptStoreError(f"{what} {path} has {size} bytes, its record says {num_bytes}; restore it from a copy")
    return fd
