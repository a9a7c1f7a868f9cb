"""Blocks of files in buckets, kept on the local disk: any number of processes share them, and the oldest make room.

What is read from it is as little trusted as the bucket itself: the reader compares checksums, and fetches a block again
that is damaged or gone.
"""

import hashlib
import logging
import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.errors import ConfigError
from featcache.files.places import free_bytes
from featcache.files.publish import TEMP_SUFFIX

FOLDER, GIGABYTES = "FEATCACHE_CACHE", "FEATCACHE_CACHE_GB"
"""Environment variables: the folder, and its largest size in GB (10**9 bytes; 0 keeps nothing)."""
_DEFAULT_GIGABYTES = 20.0
_KEPT_SHARE = 0.9  # after the oldest blocks were removed
_LOOK_SHARE = 1 / 16  # of the size: after so much was written here, what others have written is looked at
_TOUCH_SECONDS = 600  # a block that is used counts as used for so long

log = logging.getLogger(__name__)

Bytes = npt.NDArray[np.uint8]


def block_key(where: str, start: int, num_bytes: int, crc32c: int) -> str:
    """The name under which a block is kept: of its place, and of its contents, since a store may be made anew."""
    return hashlib.sha256(f"{where} {start} {num_bytes} {crc32c}".encode()).hexdigest()[:40]


class BlockCache:
    """A folder of blocks of bounded size.

    Attributes:
        folder: The folder, made when the first block is kept.
        max_bytes: Largest size of all blocks together; several processes may exceed it by a sixteenth each. Half of the
            room on the disk is left free in any case.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._limit = max_bytes
        self._num_bytes: int | None = None  # at the last look, and what was written here since
        self._written = 0
        self._is_broken = False

    @classmethod
    def from_environment(cls) -> "BlockCache":
        """The cache that this machine's environment describes.

        Raises:
            ConfigError: The size is no number.
        """
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(os.environ.get(FOLDER) or Path(base) / "featcache" / "blocks")
        text = os.environ.get(GIGABYTES, str(_DEFAULT_GIGABYTES))
        try:
            max_bytes = int(float(text) * 1e9)
        except (ValueError, OverflowError):
            max_bytes = -1
        if max_bytes < 0:
            raise ConfigError(f"{GIGABYTES} is {text!r}, not a number of GB; set it to one, or to 0")
        return cls(folder, max_bytes=max_bytes)

    def read(self, key: str, num_bytes: int) -> Bytes | None:
        """A whole block, or ``None``."""
        data = np.empty(num_bytes, np.uint8)
        return data if self.read_parts(key, num_bytes, [0], [data]) else None

    def read_parts(self, key: str, num_bytes: int, starts: Sequence[int], into: Sequence[Bytes]) -> bool:
        """Fill arrays with parts of a block; returns whether it is there, with this size."""
        path = self._path(key)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            about = os.fstat(fd)
            if about.st_size != num_bytes:
                return False
            if time.time() - about.st_mtime > _TOUCH_SECONDS:
                os.utime(fd)
            return all(os.preadv(fd, [part.data], start) == len(part) for start, part in zip(starts, into, strict=True))
        except OSError:
            return False
        finally:
            os.close(fd)

    def put(self, key: str, data: Bytes) -> None:
        """Keep a block; a disk that refuses is only told once."""
        if not self.max_bytes or self._is_broken or len(data) > self.max_bytes:
            return
        path = self._path(key)
        temp = path.with_name(f".{key}.{secrets.token_hex(4)}{TEMP_SUFFIX}")
        try:
            self._make_room(len(data))
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                temp.write_bytes(data.data)
                temp.replace(path)
            except BaseException:
                with suppress(OSError):
                    temp.unlink()
                raise
        except OSError as error:
            self._is_broken = True
            log.warning("blocks of buckets are not kept in %s (%s): each is fetched anew", self.folder, error.strerror)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def _make_room(self, num_bytes: int) -> None:
        is_due = self._num_bytes is None or self._written > self._limit * _LOOK_SHARE
        if is_due or (self._num_bytes or 0) + self._written + num_bytes > self._limit:
            found = self._blocks()
            total = sum(size for _, size, _ in found)
            self._limit = min(self.max_bytes, (total + free_bytes(self.folder)) // 2)
            if total + num_bytes > self._limit:
                for _, size, path in sorted(found):
                    with suppress(FileNotFoundError):  # another process makes room too
                        path.unlink()
                    total -= size
                    if total + num_bytes <= self._limit * _KEPT_SHARE:
                        break
            self._num_bytes, self._written = total, 0
        self._written += num_bytes

    def _blocks(self) -> list[tuple[float, int, Path]]:
        """When each block was used last, its size and its path."""
        found = []
        for folder in self.folder.glob("[0-9a-f][0-9a-f]"):
            for path in folder.iterdir():
                with suppress(FileNotFoundError):
                    about = path.lstat()
                    found.append((about.st_mtime, about.st_size, path))
        return found
