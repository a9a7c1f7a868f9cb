"""Objects in buckets (S3, Google Cloud Storage, Azure): requests, many at a time, with retries and readable errors.

The requests are made with :mod:`obstore`, which takes credentials, region and endpoint from the environment.
"""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from featcache.errors import BucketError, ConfigError, ReplacedError
from featcache.files import loop
from featcache.files.object_client import MAX_AT_ONCE, client
from featcache.files.object_errors import (
    PassingError,
    check_bucket,
    explained,
    is_beyond,
    is_unreachable,
    may_pass,
    no_bucket,
)
from featcache.files.sealed import Bytes, as_view
from featcache.files.urls import SCHEMES
from featcache.units import readable_bytes

if TYPE_CHECKING:
    from obstore.store import ObjectStore

MAX_PUT_BYTES = 5 << 30
"""No store takes more in one request, and only a single request can be made conditional everywhere."""

_URL = re.compile(rf"({'|'.join(SCHEMES)})://([^/?#\s]+)(?:/([^?#]*))?", re.ASCII)
_WHOLE_BYTES = 8 << 20  # larger files are read in parts of this size, at the same time
_PARTS_AT_ONCE = 4  # of an object that is copied
_ATTEMPTS = 8
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # seconds

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    """An object.

    Attributes:
        name: Its name, relative to the prefix of :class:`Objects`.
        size: Size in bytes.
        etag: Changes with the contents.
    """

    name: str
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes ``start`` to ``stop`` of an object of ``size`` bytes; at least one byte."""

    name: str
    start: int
    stop: int
    size: int


class OtherSizeError(Exception):
    """An object has another size than was said; ``name``, ``size`` and ``expected`` say which."""

    def __init__(self, name: str, size: int, *, expected: int) -> None:
        super().__init__(name, size, expected)
        self.name, self.size, self.expected = name, size, expected


def is_url(place: object) -> bool:
    """Whether a place is in a bucket."""
    return bool(_URL.fullmatch(str(place)))


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of a bucket whose names begin with a prefix. Can be pickled, and shared between threads.

    Every method retries what may pass: throttling, errors of the server, cut connections; for about half a minute, or
    for a second where nothing answers at all.

    Attributes:
        url: ``s3://bucket/prefix``, ``gs://…`` or ``az://container/…``.
    """

    url: str

    def __post_init__(self) -> None:
        match = _URL.fullmatch(self.url)
        parts = (match[3] or "").rstrip("/").split("/") if match else []
        if match is None or (parts != [""] and any(part in {"", ".", ".."} for part in parts)):
            raise ConfigError(f"{self.url!r} is not the URL of a bucket; write s3://BUCKET/FOLDER, gs://… or az://…")
        object.__setattr__(self, "url", self.url.rstrip("/"))

    def where(self, name: str = "") -> str:
        """The URL of a name."""
        return f"{self.url}/{name}" if name else self.url

    def find(self, name: str) -> Found | None:
        """The object of a name, or ``None``.

        Raises:
            BucketError: As for all methods: the bucket is not there, refuses, or cannot be reached.
        """

        async def head(store: "ObjectStore") -> Found | None:
            import obstore

            try:
                meta = await obstore.head_async(store, name)
            except FileNotFoundError as error:
                check_bucket(error, self.url)
                return None
            return Found(name=name, size=meta["size"], etag=meta["e_tag"] or "")

        return self._ask(head)

    def get(self, name: str) -> bytes | None:
        """All bytes of an object, or ``None`` if there is none."""

        async def get(store: "ObjectStore") -> bytes | Found | None:
            import obstore

            try:
                answer = await obstore.get_async(store, name)
                meta = answer.meta
                if meta["size"] > _WHOLE_BYTES:
                    return Found(name=name, size=meta["size"], etag=meta["e_tag"] or "")
                return (await answer.buffer_async()).to_bytes()
            except FileNotFoundError as error:
                check_bucket(error, self.url)
                return None

        found = self._ask(get)
        if not isinstance(found, Found):
            return found
        steps = range(0, found.size, _WHOLE_BYTES)
        spans = [Span(name, start, min(start + _WHOLE_BYTES, found.size), found.size) for start in steps]
        return b"".join(self.fetch(spans))

    def fetch(self, spans: Sequence[Span]) -> list[memoryview]:
        """Read parts of objects, all at the same time.

        Returns:
            The bytes of each span.

        Raises:
            FileNotFoundError: An object is not there; its name is the error's ``filename``.
            OtherSizeError: An object has another size.
        """

        async def fetch(store: "ObjectStore", span: Span) -> memoryview:
            import obstore

            try:
                answer = await obstore.get_async(store, span.name, options={"range": (span.start, span.stop)})
                if answer.meta["size"] != span.size:
                    raise OtherSizeError(span.name, answer.meta["size"], expected=span.size)
                return memoryview(await answer.buffer_async())
            except FileNotFoundError as error:
                check_bucket(error, self.url)
                raise FileNotFoundError(2, "no such object", span.name) from error
            except Exception as error:
                if is_beyond(error):  # the object ends before the span begins
                    found = await obstore.head_async(store, span.name)
                    raise OtherSizeError(span.name, found["size"], expected=span.size) from error
                raise

        async def fetch_all() -> list[memoryview]:
            store, gate = client(self.url, 0), asyncio.Semaphore(MAX_AT_ONCE)

            async def one(span: Span) -> memoryview:
                async with gate:
                    return await self._attempts(lambda: fetch(store, span))

            return await asyncio.gather(*(one(span) for span in spans))

        return loop.run(fetch_all, what=self.url) if spans else []

    def copy(self, name: str, write: Callable[[int, memoryview], None], *, part_bytes: int) -> Found | None:
        """Read an object in parts, a few at the same time, all of one version of it.

        Args:
            name: The object.
            write: Called with the start of a part and its bytes, as they arrive, from another thread.
            part_bytes: Size of the parts; an object of no more bytes takes one request.

        Returns:
            The object, or ``None`` if there is none.

        Raises:
            ReplacedError: The object was replaced meanwhile.
        """

        async def part(store: "ObjectStore", start: int, etag: str) -> tuple[Found, memoryview] | None:
            import obstore
            from obstore.exceptions import PreconditionError

            span = (start, start + part_bytes)
            try:
                answer = await obstore.get_async(
                    store, name, options={"range": span, "if_match": etag} if etag else {"range": span}
                )
                meta = answer.meta
                found = Found(name=name, size=meta["size"], etag=meta["e_tag"] or "")
                return found, memoryview(await answer.buffer_async())
            except FileNotFoundError as error:
                check_bucket(error, self.url)
                if not start:
                    return None
                raise ReplacedError(f"{self.where(name)} was removed while it was read") from error
            except PreconditionError as error:
                raise ReplacedError(f"{self.where(name)} was replaced while it was read") from error
            except Exception as error:
                if is_beyond(error):  # there are no bytes to be had
                    return Found(name=name, size=0, etag=""), memoryview(b"")
                raise

        async def copy() -> Found | None:
            store, gate = client(self.url, 0), asyncio.Semaphore(_PARTS_AT_ONCE)

            async def one(start: int, etag: str = "") -> Found | None:
                async with gate:
                    got = await self._attempts(lambda: part(store, start, etag))
                    if got is None:
                        return None
                    write(start, got[1])
                return got[0]

            found = await one(0)
            if found is not None:
                async with asyncio.TaskGroup() as parts:
                    for start in range(part_bytes, found.size, part_bytes):
                        parts.create_task(one(start, found.etag))
            return found

        try:
            return loop.run(copy, what=self.url)
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from several

    def put(self, name: str, data: Sequence[Bytes], *, create: bool, etag: str | None = None) -> bool:
        """Write an object in one request, atomically and durably.

        Args:
            name: The object.
            data: Consecutive buffers.
            create: Whether to write it only if there is no object of this name.
            etag: Write it only if the present object has this etag.

        Returns:
            Whether it was written by this call. After an attempt of which nobody knows whether it came through, an
            object with these very bytes counts as written by it.
        """
        views = [as_view(chunk) for chunk in data]
        written, attempts = self._put(
            name, views, mode="create" if create else {"e_tag": etag} if etag else "overwrite"
        )
        return written or (attempts > 1 and self._holds(name, views))

    def check_conditions(self, name: str, data: Sequence[Bytes]) -> None:
        """Make sure, once per process and bucket, that the server refuses to create an object that was just created.

        Args:
            name: The object.
            data: Its bytes.

        Raises:
            BucketError: It does not: conditions are ignored, so that two writers would overwrite each other.
        """
        bucket = "/".join(self.url.split("/")[:3])
        if bucket not in _conditional:
            written, _ = self._put(name, [as_view(chunk) for chunk in data], mode="create")
            if written:
                raise BucketError(
                    f"the server of {self.url} ignores conditional writes (If-None-Match), on which a store depends; "
                    "use another server, a newer version of it, or a local folder"
                )
            _conditional.add(bucket)

    def _put(self, name: str, views: Sequence[memoryview], *, mode: Any) -> tuple[bool, int]:
        """Whether an object was written, and after how many attempts."""
        num_bytes = sum(view.nbytes for view in views)
        if num_bytes > MAX_PUT_BYTES:
            raise BucketError(
                f"{self.where(name)} would have {readable_bytes(num_bytes)}, and a bucket takes at most "
                f"{readable_bytes(MAX_PUT_BYTES)} in one request; write to a local folder instead"
            )
        attempts = 0

        async def put(store: "ObjectStore") -> bool:
            import obstore
            from obstore.exceptions import AlreadyExistsError, PreconditionError

            nonlocal attempts
            attempts += 1
            try:
                await obstore.put_async(store, name, views, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError) as error:
                if "ConditionalRequestConflict" in str(error):  # another request was under way: no answer yet
                    raise PassingError from error
                return False
            except FileNotFoundError as error:
                raise no_bucket(self.url) from error
            return True

        return self._ask(put, num_bytes=num_bytes), attempts

    def _holds(self, name: str, views: Sequence[memoryview]) -> bool:
        found = self.find(name)
        return found is not None and found.size == sum(map(len, views)) and self.get(name) == b"".join(views)

    def delete(self, name: str) -> None:
        """Remove an object, if there is one."""

        async def delete(store: "ObjectStore") -> None:
            import obstore

            try:
                await obstore.delete_async(store, name)
            except FileNotFoundError as error:
                check_bucket(error, self.url)

        self._ask(delete)

    def list(self, folder: str = "") -> tuple[list[str], list[Found]]:
        """Last parts of the names of all folders directly in a folder, and the objects in it, both sorted."""

        async def list_folder(store: "ObjectStore") -> tuple[list[str], list[Found]]:
            import obstore

            listed = await obstore.list_with_delimiter_async(store, folder or None)
            folders = [path.rstrip("/").rpartition("/")[2] for path in listed["common_prefixes"]]
            return sorted(folders), _sorted(listed["objects"])

        return self._ask(list_folder)

    def walk(self, folder: str = "") -> Iterator[Found]:
        """All objects in a folder and below, sorted by name."""

        async def walk(store: "ObjectStore") -> list[Found]:
            import obstore

            return _sorted([meta async for chunk in obstore.list(store, folder or None) for meta in chunk])

        yield from self._ask(walk)

    def _ask(self, action: "Callable[[ObjectStore], Awaitable[T]]", *, num_bytes: int = 0) -> T:
        async def ask() -> T:
            store = client(self.url, num_bytes)
            return await self._attempts(lambda: action(store))

        return loop.run(ask, what=self.url)

    async def _attempts(self, action: Callable[[], Awaitable[T]]) -> T:
        """Do something until it succeeds, fails for good, or has failed too often."""
        for attempt in range(_ATTEMPTS):
            try:
                done = await action()
            except (FileNotFoundError, BucketError, OtherSizeError):
                _answered.add(self.url)
                raise
            except Exception as error:
                if not may_pass(error):
                    raise explained(error, self.url) from error
                answers = not is_unreachable(error)
                if answers:
                    _answered.add(self.url)
                if attempt + 1 == (_ATTEMPTS if answers or self.url in _answered else 3):
                    raise explained(error, self.url) from error
            else:
                _answered.add(self.url)
                return done
            pause = min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE)
            await asyncio.sleep(pause * (0.5 + random.random()))  # noqa: S311  spreads the requests of many processes
        raise AssertionError("unreachable")


_conditional: set[str] = set()  # buckets whose server was seen to refuse
_answered: set[str] = set()  # URLs of which this process has got any answer: what is lost now may come back


def _sorted(metas: Sequence[Any]) -> list[Found]:
    found = [Found(name=meta["path"], size=meta["size"], etag=meta["e_tag"] or "") for meta in metas]
    return sorted(found, key=lambda one: one.name)
