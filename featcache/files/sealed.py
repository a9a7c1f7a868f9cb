"""Reads published files: whole files, their hashes, and sealed JSON, in which every changed byte is detected."""

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt

from featcache.errors import CorruptStoreError, TooManyFilesError

T = TypeVar("T")

Bytes = bytes | npt.NDArray[Any]


def as_view(data: Bytes) -> memoryview:
    """A view of the bytes of a buffer, without a copy."""
    return memoryview(data if isinstance(data, bytes) else data.data).cast("B")


def sha256_bytes(data: Bytes) -> str:
    """Hex SHA-256 of a buffer."""
    return hashlib.sha256(as_view(data)).hexdigest()


def read_bytes(path: Path, *, what: str) -> bytes:
    """Read a whole regular file that the store needs; a symbolic link at its name is refused.

    Raises:
        CorruptStoreError: It is missing, is not a file, or cannot be read.
    """

    def read() -> bytes:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            return file.read()

    try:
        return asked_again(read)
    except OSError as error:
        raise unreadable(path, what, error) from error


def asked_again(read: Callable[[], T]) -> T:
    """Carry out a read, and again if another host has replaced the file meanwhile, which disks on a network tell so."""
    for _ in range(3):
        try:
            return read()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return read()


def unreadable(path: Path, what: str, error: OSError) -> CorruptStoreError | TooManyFilesError:
    """The error for a store file that is missing or that the system cannot read or open."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return TooManyFilesError(
            f"{what} {path} cannot be opened, since this process has as many files open as it may; raise the limit "
            "(`ulimit -n`), or close other stores"
        )
    if error.errno == errno.ENOENT:
        return CorruptStoreError(f"{what} {path} is missing; restore it or run `featcache verify` to see what is lost")
    if error.errno == errno.ELOOP:
        return CorruptStoreError(f"{what} {path} is a symbolic link; a store has none, restore the file itself")
    why = os.strerror(error.errno) if error.errno else str(error)
    return CorruptStoreError(f"{what} {path} cannot be read ({why}); run `featcache verify`")


def canonical_json(value: Any) -> bytes:
    """The canonical JSON text of a value: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def seal(document: dict[str, Any]) -> bytes:
    """Canonical JSON of ``document`` with a ``checksum`` member: SHA-256 over the canonical JSON of all others."""
    assert "checksum" not in document, "seal adds the checksum itself"
    return canonical_json({**document, "checksum": sha256_bytes(canonical_json(document))}) + b"\n"


def unseal(data: bytes, *, where: object, what: str) -> dict[str, Any]:
    """Parse and check sealed JSON; any byte that differs from what :func:`seal` wrote is an error.

    Args:
        data: Content of the file.
        where: Where it came from, for the message.
        what: Kind of the document, e.g. ``"commit record"``.

    Returns:
        The document, including ``checksum``.

    Raises:
        CorruptStoreError: The bytes are not those that were sealed.
    """
    try:
        document = json.loads(data)
        checksum = document.pop("checksum")
        intact = seal(document) == data
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        intact = False
    if not intact:
        raise CorruptStoreError(f"{what} {where} is damaged (its checksum does not match); restore it from a copy")
    return {**document, "checksum": checksum}


def read_sealed(path: Path, *, what: str) -> dict[str, Any]:
    """Read a file written by :func:`seal`. Raises CorruptStoreError like :func:`read_bytes` and :func:`unseal`."""
    return unseal(read_bytes(path, what=what), where=path, what=what)
