"""Advisory locks between processes; each ends with its process."""

import errno
import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from featcache.errors import StoreError
from featcache.files.publish import ensure_folder, explained

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""How disks without locks refuse one."""


class NoLocksError(StoreError):
    """A lock was refused as on disks that have none."""


@contextmanager
def try_lock(path: Path, *, exclusive: bool) -> Generator[bool]:
    """Hold an advisory lock for a block if it is free; yields whether it is held. The lock ends with the process."""
    ensure_folder(path.parent)
    with explained(path, "open"):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with explained(path, "lock"):
            held = _flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB, path)
        yield held
    finally:
        os.close(fd)  # releases the lock


def _flock(fd: int, operation: int, path: Path) -> bool:
    try:
        fcntl.flock(fd, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise NoLocksError(
                f"cannot lock {path} ({os.strerror(error.errno)}); fix that, then run the same command again"
            ) from error
        raise
    return True


@contextmanager
def lock(path: Path, *, exclusive: bool, wait_seconds: float | None = None) -> Generator[None]:
    """Hold an advisory lock for a ``with`` block.

    Args:
        path: Lock file; created if absent, never removed here.
        exclusive: Whether to hold the lock alone, or shared with other shared holders.
        wait_seconds: How long to wait for the lock; ``None`` waits for ever.

    Raises:
        StoreError: The lock is still held by others after ``wait_seconds``.
    """
    ensure_folder(path.parent)
    with explained(path, "open"):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        operation = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        with explained(path, "lock"):
            if wait_seconds is None:
                _flock(fd, operation, path)
            else:
                _wait_for(fd, operation, path, wait_seconds)
        yield
    finally:
        os.close(fd)


def _wait_for(fd: int, operation: int, path: Path, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    while not _flock(fd, operation | fcntl.LOCK_NB, path):
        if time.monotonic() >= deadline:
            raise StoreError(f"{path.parent.parent} is in use by another process; wait until it ends, then try again")
        time.sleep(0.02)
