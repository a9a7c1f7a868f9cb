"""Files: atomic publication, hashing, sealed JSON, locks; the only module that renames.

Publication never leaves a torn file under its final name: the bytes go to a temporary file in the same folder, are
fsynced, linked to the name without clobbering, the temporary name is removed and the folder is fsynced. Temporary
files of a killed process stay until ``gc``: sweeping them at start-up would remove those of a live sibling.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import ConfigError, CorruptStoreError, DiskSpaceError, StoreError

Bytes = bytes | npt.NDArray[Any]

TEMP_SUFFIX = ".tmp"
_IOV_MAX = 1024  # buffers a writev call; POSIX guarantees 16, Linux and macOS have 1024
_CHUNK_BYTES = 1 << 22
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/", re.ASCII)  # pathlib makes one slash of two
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def _explained(path: Path, action: str) -> Generator[None]:
    """Turn the operating system's errors into sentences."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in _FULL:
            raise DiskSpaceError(
                f"cannot {action} {path} ({why}); free some space or raise the quota, then run the same command again"
            ) from error
        raise StoreError(f"cannot {action} {path} ({why}); mend that, then run the same command again") from error


def _view(data: Bytes) -> memoryview:
    return memoryview(data if isinstance(data, bytes) else data.data).cast("B")


def _write_all(fd: int, chunks: Iterable[Bytes]) -> None:
    views = [view for view in map(_view, chunks) if view.nbytes]
    first = 0
    while first < len(views):
        written = os.writev(fd, views[first : first + _IOV_MAX])
        while written:
            if written >= views[first].nbytes:
                written -= views[first].nbytes
                first += 1
            else:
                views[first] = views[first][written:]
                written = 0


def _write_temp(path: Path, data: Bytes | Iterable[Bytes]) -> Path:
    chunks = [data] if isinstance(data, (bytes, np.ndarray)) else data
    temp = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}{TEMP_SUFFIX}")
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        try:
            _write_all(fd, chunks)
            os.fsync(fd)
        finally:
            os.close(fd)
    except BaseException:
        _discard(temp)
        raise
    return temp


def _discard(temp: Path) -> None:
    with suppress(OSError):  # the error on its way out matters more than a left-over that gc removes
        temp.unlink()


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable. Raises StoreError."""
    with _explained(path, "sync"):
        _sync_folder(path)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def ensure_folder(path: Path) -> None:
    """Create a folder and its parents, each durable in its parent."""
    with _explained(path, "create"):
        _make_folder(path)


def _make_folder(path: Path) -> None:
    if path.is_dir():
        _sync_name_of_empty(path)
        return
    _make_folder(path.parent)
    with suppress(FileExistsError):  # a sibling made it first; a file in the way fails at the next step
        path.mkdir()
    _sync_folder(path.parent)


def _sync_name_of_empty(path: Path) -> None:
    """Make the name of a folder durable if whoever made it may have died before; nothing is put into one until then."""
    with os.scandir(path) as entries:
        is_empty = next(entries, None) is None
    if is_empty and not path.is_mount():
        with suppress(PermissionError):  # of a parent that may not be listed, where nothing of a store was made
            _sync_folder(path.parent)


def put_new(path: Path, data: Bytes | Iterable[Bytes]) -> bool:
    """Publish a file unless its name is taken.

    Args:
        path: Final name; the folder must exist or is created.
        data: The bytes, or buffers written one after the other without copying.

    Returns:
        True if this call published it, False if the name existed (its bytes are untouched).

    Raises:
        DiskSpaceError: The disk or quota is full; nothing is left under the name.
        StoreError: Any other error of the file system.
    """
    ensure_folder(path.parent)
    with _explained(path, "write"):
        if os.path.lexists(path):  # spares the bytes; link decides all the same
            _sync_folder(path.parent)  # whoever linked it may have died before this
            return False
        temp = _write_temp(path, data)
        try:
            os.link(temp, path, follow_symlinks=False)
            published = True
        except FileExistsError:
            published = False
        except BaseException:
            _discard(temp)
            raise
        temp.unlink()
        _sync_folder(path.parent)
        return published


def put_replace(path: Path, data: Bytes | Iterable[Bytes]) -> None:
    """Publish a file atomically, replacing one of that name. Raises as :func:`put_new`."""
    ensure_folder(path.parent)
    with _explained(path, "write"):
        temp = _write_temp(path, data)
        try:
            temp.replace(path)
        except BaseException:
            _discard(temp)
            raise
        _sync_folder(path.parent)


def put_exact(path: Path, data: bytes) -> None:
    """Publish a small file whose bytes follow from others; heals one whose bytes differ. Raises as :func:`put_new`."""
    if not put_new(path, data) and read_bytes(path, what="file") != data:
        put_replace(path, data)


@contextmanager
def new_folder(path: Path) -> Generator[Path]:
    """Fill a folder that gets its name only when the block has ended well.

    Args:
        path: Final name; nothing or an empty folder may be there.

    Yields:
        A temporary folder beside it. If the block raises, it is removed; that of a killed process stays.

    Raises:
        StoreError: The name is taken, or the file system refuses.
        DiskSpaceError: The disk or quota is full.
    """
    if path.is_dir() and not path.is_symlink():
        if first := next(iter(sorted(entry.name for entry in path.iterdir())), None):
            raise StoreError(f"{path} is not empty (it holds {first!r}); choose an empty folder or a new name")
    elif os.path.lexists(path):
        raise StoreError(f"{path} is a file or a link; choose an empty folder or a new name")
    ensure_folder(path.parent)
    temp = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}{TEMP_SUFFIX}")
    with _explained(path, "write"):
        temp.mkdir()
    try:
        yield temp
        with _explained(path, "write"):
            for folder, _, files in os.walk(temp, topdown=False):
                for name in files:
                    _sync_file(Path(folder) / name)
                _sync_folder(Path(folder))
            temp.rename(path)  # replaces an empty folder, and nothing else
            _sync_folder(path.parent)
    except BaseException as error:
        shutil.rmtree(temp, ignore_errors=True)  # the error on its way out matters more than a left-over
        if isinstance(error, OSError) and error.errno in _FULL:
            with _explained(path, "write"):
                raise
        raise


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: Path) -> None:
    """Remove a file, if there is one, and make that durable."""
    with _explained(path, "remove"):
        path.unlink(missing_ok=True)
        _sync_folder(path.parent)


def is_temp(name: str) -> bool:
    """Whether a file name is one that :func:`put_new` or :func:`put_replace` writes before publishing."""
    return name.startswith(".") and name.endswith(TEMP_SUFFIX)


def sha256_bytes(data: Bytes) -> str:
    """Hex SHA-256 of a buffer."""
    return hashlib.sha256(_view(data)).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: Path, *, what: str) -> bytes:
    """Read a whole regular file that the store needs; a symbolic link at its name is refused.

    Raises:
        CorruptStoreError: It is missing, no file, or cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            return file.read()
    except OSError as error:
        raise unreadable(path, what, error) from error


def unreadable(path: Path, what: str, error: OSError) -> CorruptStoreError:
    """The error for a store file that is missing or that the system cannot read."""
    if error.errno == errno.ENOENT:
        return CorruptStoreError(f"{what} {path} is missing; restore it or run `featcache verify` to see what is lost")
    if error.errno == errno.ELOOP:
        return CorruptStoreError(f"{what} {path} is a symbolic link; a store has none, restore the file itself")
    why = os.strerror(error.errno) if error.errno else str(error)
    return CorruptStoreError(f"{what} {path} cannot be read ({why}); run `featcache verify`")


def canonical_json(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def seal(document: dict[str, Any]) -> bytes:
    """Canonical JSON of ``document`` with a ``checksum`` member: SHA-256 over the canonical JSON of all others."""
    assert "checksum" not in document, "seal adds the checksum itself"
    return canonical_json({**document, "checksum": sha256_bytes(canonical_json(document))}) + b"\n"


def unseal(data: bytes, *, path: Path, what: str) -> dict[str, Any]:
    """Parse and check sealed JSON; any byte that differs from what :func:`seal` wrote is an error.

    Args:
        data: Content of the file.
        path: Where it came from, for the message.
        what: What it is, e.g. ``"commit record"``.

    Returns:
        The document, ``checksum`` included.

    Raises:
        CorruptStoreError: Not the bytes that were sealed.
    """
    try:
        document = json.loads(data)
        checksum = document.pop("checksum")
        intact = seal(document) == data
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        intact = False
    if not intact:
        raise CorruptStoreError(f"{what} {path} is damaged (its checksum does not match); restore it from a copy")
    return {**document, "checksum": checksum}


def read_sealed(path: Path, *, what: str) -> dict[str, Any]:
    """Read a file written by :func:`seal`. Raises CorruptStoreError as :func:`read_bytes` and :func:`unseal`."""
    return unseal(read_bytes(path, what=what), path=path, what=what)


def safe_join(root: Path, name: str) -> Path:
    """``root / name`` for a name out of a file, or for any place of a store that is read or written.

    ``root`` itself may be reached through symbolic links; nothing below it may be one, whether it leads out or not.

    Raises:
        CorruptStoreError: Absolute, with ``..``, NUL or a backslash, or on its way is a symbolic link, which is named.
    """
    parts = name.split("/")
    if not name or "\0" in name or "\\" in name or any(part in {"", ".", ".."} for part in parts):
        raise CorruptStoreError(f"file name {name!r} in {root} is no plain relative path; the store was tampered with")
    place = str(root)
    for part in parts:
        place = f"{place}/{part}"
        if os.path.islink(place):  # noqa: PTH114  a hundred thousand of these open a large store
            raise CorruptStoreError(
                f"{place} is a symbolic link; a store has none, put the file or folder itself in its place"
            )
    return root / name


@contextmanager
def try_lock(path: Path, *, exclusive: bool) -> Generator[bool]:
    """Hold an advisory lock for the block if it is free; yields whether it is held. The lock dies with the process."""
    ensure_folder(path.parent)
    with _explained(path, "open"):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with _explained(path, "lock"):
            held = _flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        yield held
    finally:
        os.close(fd)  # releases the lock


def _flock(fd: int, operation: int) -> bool:
    try:
        fcntl.flock(fd, operation)
    except BlockingIOError:
        return False
    return True


@contextmanager
def lock(path: Path, *, exclusive: bool, wait_seconds: float | None = None) -> Generator[None]:
    """Hold an advisory lock for the block.

    Args:
        path: Lock file; created if absent, never removed here.
        exclusive: Alone, or shared with other shared holders.
        wait_seconds: How long to wait for it; ``None`` waits for ever.

    Raises:
        StoreError: Still held by others after ``wait_seconds``.
    """
    ensure_folder(path.parent)
    with _explained(path, "open"):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        operation = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        with _explained(path, "lock"):
            if wait_seconds is None:
                fcntl.flock(fd, operation)
            else:
                _wait_for(fd, operation, path, wait_seconds)
        yield
    finally:
        os.close(fd)


def _wait_for(fd: int, operation: int, path: Path, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    while not _flock(fd, operation | fcntl.LOCK_NB):
        if time.monotonic() >= deadline:
            raise StoreError(f"{path.parent.parent} is in use by another process; wait until it ends, then try again")
        time.sleep(0.02)


def check_local(path: Path | str) -> None:
    """Refuse a URL where a path belongs, of which ``pathlib`` would make a folder ``s3:``.

    Raises:
        ConfigError: It begins with a scheme.
    """
    if _SCHEME.match(str(path)):
        raise ConfigError(
            f"{str(path)!r} begins with a scheme, and featcache reads and writes local paths alone so far; mount it, "
            "or copy it to or from a local folder"
        )


def free_bytes(path: Path) -> int:
    """Bytes that may still be written at ``path`` or, if it does not exist yet, at its nearest parent."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
