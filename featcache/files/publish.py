"""Atomic publication; the only module that renames files.

A torn file is never under its final name: the bytes are written to a temporary file in the same folder and fsynced, the
file is linked to its name without replacing another, the temporary name is removed and the folder is fsynced. Temporary
files of a killed process stay until ``gc``: removing them at start-up could remove those of another running process.

A disk on a network may carry out a call, lose its answer and be asked again: what such a call finds is then its own
work, which is why a failed link or rename looks at what is there before it is believed.
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
from featcache.files.sealed import Bytes, as_view

TEMP_SUFFIX = ".tmp"
_IOV_MAX = 1024  # buffers per writev call; POSIX guarantees 16, Linux and macOS have 1024
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
"""How disks without hard links refuse one; each may also have another reason."""


class NoLinksError(StoreError):
    """A hard link was refused as on disks that have none."""


@contextmanager
def explained(path: Path, action: str) -> Generator[None]:
    """Turn the operating system's errors into readable messages."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in _FULL:
            raise DiskSpaceError(
                f"cannot {action} {path} ({why}); free some space or raise the quota, then run the same command again"
            ) from error
        raise StoreError(f"cannot {action} {path} ({why}); fix that, then run the same command again") from error


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


def write_temp(path: Path, data: Bytes | Iterable[Bytes]) -> Path:
    """Write and sync a temporary file beside a path; returns its path. Raises OSError, and leaves nothing then."""
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
    with suppress(OSError):  # the original error matters more than a left-over that gc removes
        temp.unlink()


def sync_folder(path: Path) -> None:
    """Sync the names in a folder. Raises StoreError."""
    with explained(path, "sync"):
        _sync_folder(path)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def ensure_folder(path: Path) -> None:
    """Create a folder and its parents, and sync each in its parent."""
    with explained(path, "create"):
        _make_folder(path)


def _make_folder(path: Path) -> None:
    if path.is_dir():
        _sync_name_of_empty(path)
        return
    _make_folder(path.parent)
    with suppress(FileExistsError):  # another process made it first; a file in its place fails at the next step
        path.mkdir()
    _sync_folder(path.parent)


def _sync_name_of_empty(path: Path) -> None:
    """Sync the name of an empty folder, whose creator may have died before; nothing is put into it until then."""
    with os.scandir(path) as entries:
        is_empty = next(entries, None) is None
    if is_empty and not path.is_mount():
        with suppress(PermissionError):  # the parent may not be listed, so no store was made in it
            _sync_folder(path.parent)


def put_new(path: Path, data: Bytes | Iterable[Bytes]) -> bool:
    """Publish a file unless its name is taken.

    Args:
        path: Final name; its folder is created if needed.
        data: The bytes, or buffers that are written one after another without copying.

    Returns:
        True if this call published it, False if the name existed (its bytes are untouched).

    Raises:
        DiskSpaceError: The disk or quota is full; nothing is left under the name.
        StoreError: Any other error of the file system.
    """
    ensure_folder(path.parent)
    with explained(path, "write"):
        if os.path.lexists(path):  # avoids writing the bytes; the link decides in any case
            _sync_folder(path.parent)  # the process that linked it may have died before syncing
            return False
        temp = write_temp(path, data)
        try:
            published = _link(temp, path)
        except BaseException:
            _discard(temp)
            raise
        temp.unlink(missing_ok=True)
        _sync_folder(path.parent)
        return published


def _link(temp: Path, path: Path) -> bool:
    """Give a file its second name, unless that is taken; returns whether it has it."""
    try:
        os.link(temp, path, follow_symlinks=False)
    except OSError as error:
        if is_file(path, temp.lstat()):
            return True
        if isinstance(error, FileExistsError):
            return False
        if error.errno in NO_LINKS:
            raise NoLinksError(
                f"cannot link {path} ({os.strerror(error.errno)}); fix that, then run the same command again"
            ) from error
        raise
    return True


def is_file(path: Path, known: os.stat_result) -> bool:
    """Whether a path is the name of a known file, whose inode number may have been given to a later file."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(found, known) and found.st_mtime_ns == known.st_mtime_ns


def put_replace(path: Path, data: Bytes | Iterable[Bytes]) -> None:
    """Publish a file atomically, replacing one of that name. Raises the errors of :func:`put_new`."""
    ensure_folder(path.parent)
    with explained(path, "write"):
        temp = write_temp(path, data)
        try:
            written = temp.lstat()
            try:
                temp.replace(path)
            except FileNotFoundError:
                if not is_file(path, written):
                    raise
        except BaseException:
            _discard(temp)
            raise
        _sync_folder(path.parent)


def put_exact(path: Path, data: bytes | tuple[Bytes, ...]) -> None:
    """Publish a file whose bytes follow from others; heals one whose bytes differ. Raises as :func:`put_new`."""
    if not put_new(path, data):
        heal(path, data)


def heal(path: Path, data: bytes | tuple[Bytes, ...]) -> None:
    """Replace a file whose bytes are not those that follow from others. Raises the errors of :func:`put_new`."""
    if not _holds(path, (data,) if isinstance(data, bytes) else data):
        put_replace(path, data)


def _holds(path: Path, chunks: tuple[Bytes, ...]) -> bool:
    """Whether a regular file consists of exactly these buffers; of one that does not, as little is read as it takes."""
    with explained(path, "read"):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            if os.fstat(fd).st_size != sum(as_view(chunk).nbytes for chunk in chunks):
                return False
            return all(file.read(as_view(chunk).nbytes) == as_view(chunk) for chunk in chunks)


@contextmanager
def new_folder(path: Path) -> Generator[Path]:
    """Fill a folder that gets its name only when the ``with`` block has ended without an error.

    Args:
        path: Final name; only an empty folder may exist there.

    Yields:
        A temporary folder beside it. It is removed if the block raises; that of a killed process stays.

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
            temp.rename(path)  # replaces only an empty folder
            _sync_folder(path.parent)
    except BaseException as error:
        shutil.rmtree(temp, ignore_errors=True)  # the original error matters more than a left-over
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
    """Remove a file, if there is one, and sync its folder; temporary folders that this leaves empty go with it."""
    with explained(path, "remove"):
        folder = path.parent
        if is_temp(path.name) and path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        while is_temp(folder.name) and next(os.scandir(folder), None) is None:
            folder.rmdir()
            folder = folder.parent
        _sync_folder(folder)


def is_temp(name: str) -> bool:
    """Whether a name is that of a temporary file or folder of this module or of :mod:`featcache.files.claims`."""
    return name.startswith(".") and name.endswith(TEMP_SUFFIX)
