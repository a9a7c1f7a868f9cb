"""Atomic publication; the only module that renames.

A torn file is never under its final name: the bytes go to a temporary file in the same folder, are fsynced, linked to
the name without clobbering, the temporary name is removed and the folder is fsynced. Temporary files of a killed
process stay until ``gc``: sweeping them at start-up would remove those of a live sibling.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from featcache.errors import DiskSpaceError, StoreError
from featcache.files.sealed import Bytes, as_view, read_bytes

TEMP_SUFFIX = ".tmp"
_IOV_MAX = 1024  # buffers a writev call; POSIX guarantees 16, Linux and macOS have 1024
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def explained(path: Path, action: str) -> Generator[None]:
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


def _write_all(fd: int, chunks: Iterable[Bytes]) -> None:
    views = [view for view in map(as_view, chunks) if view.nbytes]
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
    with explained(path, "sync"):
        _sync_folder(path)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def ensure_folder(path: Path) -> None:
    """Create a folder and its parents, each durable in its parent."""
    with explained(path, "create"):
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
    with explained(path, "write"):
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
    with explained(path, "write"):
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
    with explained(path, "write"):
        temp.mkdir()
    try:
        yield temp
        with explained(path, "write"):
            for folder, _, files in os.walk(temp, topdown=False):
                for name in files:
                    _sync_file(Path(folder) / name)
                _sync_folder(Path(folder))
            temp.rename(path)  # replaces an empty folder, and nothing else
            _sync_folder(path.parent)
    except BaseException as error:
        shutil.rmtree(temp, ignore_errors=True)  # the error on its way out matters more than a left-over
        if isinstance(error, OSError) and error.errno in _FULL:
            with explained(path, "write"):
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
    with explained(path, "remove"):
        path.unlink(missing_ok=True)
        _sync_folder(path.parent)


def is_temp(name: str) -> bool:
    """Whether a file name is one that :func:`put_new` or :func:`put_replace` writes before publishing."""
    return name.startswith(".") and name.endswith(TEMP_SUFFIX)
