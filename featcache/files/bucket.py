"""The files of a store in a bucket. See :class:`featcache.files.base.Files`.

A file is an object, whose name is the prefix of the store and the name of the file. An object appears whole or not at
all, and is durable and seen by everybody when the request that writes it is answered; so a conditional write publishes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from featcache.errors import CorruptStoreError, StoreError
from featcache.files.object_leases import lease, try_lease
from featcache.files.objects import Objects, OtherSizeError, Span
from featcache.files.places import check_name
from featcache.files.sealed import Bytes, as_view

_LOOK_FIRST_BYTES = 1 << 20  # what is larger is sent only after a look whether the name is free
_AT_ONCE = 64  # threads

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class BucketFiles:
    """The files below a prefix of a bucket.

    Attributes:
        objects: The objects with that prefix.
    """

    objects: Objects

    @property
    def is_remote(self) -> bool:
        """True: each request takes a while, and many take no longer than one."""
        return True

    def where(self, name: str = "") -> str:
        """The URL of a name."""
        return self.objects.where(name)

    def exists(self, name: str) -> bool:
        """Whether there is an object of this name."""
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """Size of an object."""
        found = self.objects.find(self._checked(name))
        return None if found is None else found.size

    def names(self, folder: str) -> list[str]:
        """Names directly in a folder."""
        folders, found = self.objects.list(folder and self._checked(folder))
        return sorted({*folders, *(one.name.rpartition("/")[2] for one in found)})

    def walk(self, folder: str = "") -> Iterator[tuple[str, int | None]]:
        """Names of all objects in a folder and below, with their sizes."""
        for one in self.objects.walk(folder and self._checked(folder)):
            yield one.name, one.size

    def each(self, call: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """The results of calls, made at the same time."""
        todo = list(items)
        if len(todo) <= 1:
            return [call(item) for item in todo]
        with ThreadPoolExecutor(min(_AT_ONCE, len(todo))) as pool:
            return list(pool.map(call, todo))

    def read(self, name: str, *, what: str) -> bytes:
        """All bytes of an object."""
        data = self.objects.get(self._checked(name))
        if data is None:
            raise self._missing(name, what)
        return data

    def map(self, name: str, *, num_bytes: int, what: str) -> npt.NDArray[np.uint8]:
        """All bytes of an object as an array: they are read now, and kept in memory."""
        data = self.read(name, what=what)
        if len(data) != num_bytes:
            raise self._short(name, len(data), num_bytes, what)
        return np.frombuffer(data, np.uint8)

    def ranges(self, name: str, *, num_bytes: int, what: str, is_direct: bool = False) -> "BucketRanges":
        """An object whose size is compared when it is read."""
        del is_direct  # nothing is cached on the way
        return BucketRanges(self, self._checked(name), num_bytes=num_bytes, what=what)

    def fetch(self, spans: Sequence[Span], *, what: str) -> list[npt.NDArray[np.uint8]]:
        """Parts of objects, read at the same time."""
        for span in spans:
            self._checked(span.name)
        try:
            parts = self.objects.fetch(spans)
        except FileNotFoundError as error:
            raise self._missing(str(error.filename), what) from error
        except OtherSizeError as error:
            raise self._short(error.name, error.size, error.expected, what) from error
        return [np.frombuffer(part, np.uint8) for part in parts]

    def put_new(self, name: str, data: Bytes | Iterable[Bytes]) -> bool:
        """Publish an object unless its name is taken."""
        chunks = _chunks(data)
        is_large = sum(as_view(chunk).nbytes for chunk in chunks) > _LOOK_FIRST_BYTES
        if is_large and self.exists(name):
            return False
        published = self.objects.put(self._checked(name), chunks, create=True)
        if published and not is_large:
            self.objects.check_conditions(name, chunks)
        return published

    def put_exact(self, name: str, data: bytes | tuple[Bytes, ...]) -> None:
        """Publish an object whose bytes follow from others."""
        if not self.put_new(name, data):
            chunks = _chunks(data)
            views = [as_view(chunk) for chunk in chunks]
            is_alike = self.size(name) == sum(view.nbytes for view in views)
            if not is_alike or self.objects.get(name) != b"".join(views):
                self.objects.put(name, chunks, create=False)

    def remove(self, name: str) -> None:
        """Remove an object, if there is one."""
        self.objects.delete(self._checked(name))

    def settle(self, folder: str) -> None:
        """Do nothing: what is there is durable."""

    @contextmanager
    def lock(self, name: str, *, exclusive: bool, wait_seconds: float | None = None) -> Iterator[None]:
        """Hold a lease; shared locks are held by all, and one that waits for others to end by nobody."""
        if not exclusive:
            yield
        elif wait_seconds is not None:
            raise StoreError(
                f"a bucket has no locks, so nobody can tell whether another process writes to {self.where()}; make "
                "sure that none does on any host, then say so with --alone"
            )
        else:
            with lease(self.objects, self._checked(name)):
                yield

    def try_lock(self, name: str, *, exclusive: bool) -> AbstractContextManager[bool]:
        """Hold a lease if it is free."""
        return try_lease(self.objects, self._checked(name)) if exclusive else _held()

    def _checked(self, name: str) -> str:
        check_name(name, self.where())
        return name

    def _missing(self, name: str, what: str) -> CorruptStoreError:
        return CorruptStoreError(
            f"{what} {self.where(name)} is missing; restore it or run `featcache verify` to see what is lost"
        )

    def _short(self, name: str, found: int, wanted: int, what: str) -> CorruptStoreError:
        return CorruptStoreError(
            f"{what} {self.where(name)} has {found} bytes, its record says {wanted}; restore it from a copy"
        )


@dataclass(frozen=True, slots=True)
class BucketRanges:
    """An object that is read in parts. See :class:`featcache.files.base.Ranges`."""

    files: BucketFiles
    name: str
    num_bytes: int
    what: str

    def read(self, first: int, into: npt.NDArray[np.uint8]) -> None:
        """Fill an array with the bytes from ``first`` on."""
        span = Span(self.name, first, first + len(into), self.num_bytes)
        (into[:],) = self.files.fetch([span], what=self.what)

    def expect(self, first: int, num_bytes: int) -> None:
        """Do nothing."""


@contextmanager
def _held() -> Iterator[bool]:
    yield True


def _chunks(data: Bytes | Iterable[Bytes]) -> list[Bytes]:
    return [data] if isinstance(data, (bytes, np.ndarray)) else list(data)
