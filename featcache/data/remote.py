"""Files that a source names, wherever they are: on this machine, or objects in a bucket, whose place is a URL."""

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from featcache.errors import BucketError
from featcache.files.objects import Objects
from featcache.files.urls import url_of

PART_BYTES = 4 << 20
"""A video is fetched in parts of this size; most videos of a few seconds are a single one."""
_QUESTIONS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a file without reading it.

    Attributes:
        num_bytes: Its size.
        stamp: A number that is another one once the file has been written again: the modification time in nanoseconds,
            or a digest of an object's ETag.
    """

    num_bytes: int
    stamp: int


def facts_of(place: Path) -> Facts:
    """Size and stamp of a file.

    Raises:
        OSError: There is none, or the machine or the bucket does not tell.
    """
    if (url := url_of(place)) is None:
        about = place.stat()
        return Facts(about.st_size, about.st_mtime_ns)
    objects, name = _in_bucket(url)
    found = objects.find(name) if name else None
    if found is None:
        raise _no_object(url)
    return Facts(found.size, int.from_bytes(hashlib.sha256(found.etag.encode()).digest()[:8], "big") >> 1)


def facts_of_many(places: Sequence[Path]) -> list[Facts | None]:
    """As :func:`facts_of` of several files, asked at the same time; ``None`` for one of which nothing is known."""

    def ask(place: Path) -> Facts | None:
        try:
            return facts_of(place)
        except OSError:  # whoever reads the file will find out why
            return None

    if not any(map(url_of, places)):
        return [ask(place) for place in places]
    with ThreadPoolExecutor(_QUESTIONS_AT_ONCE) as threads:
        return list(threads.map(ask, places))


def is_there(place: Path) -> bool:
    """Whether there is a file or an object of this name, as far as one is told."""
    return place.is_file() if url_of(place) is None else facts_of_many([place])[0] is not None


def open_binary(place: Path) -> BinaryIO:
    """A file open for reading; of a bucket the whole object, in memory: for lists, not for videos.

    Raises:
        OSError: It does not exist, may not be read, or the machine or the bucket failed.
    """
    url = url_of(place)
    return place.open("rb") if url is None else io.BytesIO(read_object(url))


def read_object(url: str) -> bytes:
    """All bytes of an object.

    Raises:
        OSError: It does not exist, may not be read, or the bucket failed.
    """
    objects, name = _in_bucket(url)
    data = objects.get(name) if name else None
    if data is None:
        raise _no_object(url)
    return data


def copy_object(url: str, file: BinaryIO, *, on_part: Callable[[], None]) -> None:
    """Copy an object into an empty file, in parts of which a few are fetched at the same time.

    Args:
        url: The object.
        file: A file that is open for writing.
        on_part: Called when a part has arrived, from another thread.

    Raises:
        FileNotFoundError: There is no such object.
        ReplacedError: It was replaced while it was read.
        OSError: It may not be read, or the bucket, the network or the disk failed.
    """

    def write(start: int, data: memoryview) -> None:
        while data:
            written = os.pwrite(file.fileno(), data, start)
            start, data = start + written, data[written:]
        on_part()

    objects, name = _in_bucket(url)
    if not name or objects.copy(name, write, part_bytes=PART_BYTES) is None:
        raise _no_object(url)


def names_below(url: str) -> Iterator[str]:
    """Names of all objects below a place in a bucket, relative to it, sorted.

    Left out are objects without bytes whose names have no suffix, by which some programs mark folders.

    Raises:
        BucketError: They cannot be listed.
    """
    objects, folder = _in_bucket(url)
    skipped = len(folder) + 1 if folder else 0
    for found in objects.walk(folder):
        if found.size or "." in found.name.rpartition("/")[2]:
            yield found.name[skipped:]


def why(error: OSError) -> str:
    """What an error says, without the path that it names."""
    return str(error) if isinstance(error, BucketError) else error.strerror or str(error)


def _in_bucket(url: str) -> tuple[Objects, str]:
    """A bucket, and the name of an object or folder in it."""
    scheme, _, rest = url.partition("://")
    bucket, _, name = rest.partition("/")
    return Objects(f"{scheme}://{bucket}"), name.rstrip("/")


def _no_object(url: str) -> FileNotFoundError:
    return FileNotFoundError(2, "there is no such object", url)
