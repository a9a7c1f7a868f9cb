"""Leases, which keep processes from doing the same work on disks without locks. Nothing relies on one.

A lease is a file that its holder creates exclusively, touches every few seconds and removes at the end. One whose
holder has died is taken over: at once if it was a process of the same host that is gone, otherwise once it was not
touched for two minutes, on the clock of the disk. Two processes may hold a lease at the same time, where one was
suspended for so long or where both take over at the same instant.
"""

import os
import secrets
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from featcache.files.publish import ensure_folder, explained, write_temp

SUFFIX = ".lease"
BEAT_SECONDS = 15.0
DEAD_AFTER_SECONDS = 120.0
_PAUSE_SECONDS = (0.02, 1.0)  # between two looks at a lease that is waited for: the first, the longest

_held: set[str] = set()  # texts of the leases of this process
_ahead: dict[Path, float] = {}  # seconds by which the clock of the disk of a folder is ahead of this host's


@contextmanager
def try_lease(path: Path) -> Generator[bool]:
    """Hold a lease for a block if it is free; yields whether it is held."""
    ensure_folder(path.parent)
    path = path.with_name(path.name + SUFFIX)
    text = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(8)}\n"
    if not _take(path, text):
        yield False
        return
    ended = threading.Event()
    threading.Thread(target=_beat, args=(path, ended), name=f"lease {path.name}", daemon=True).start()
    try:
        yield True
    finally:
        ended.set()
        _held.discard(text)
        with suppress(OSError):  # a left-over is taken over, or removed by gc
            if path.read_text() == text:
                path.unlink()


@contextmanager
def lease(path: Path) -> Generator[None]:
    """Hold a lease for a block, waiting for it."""
    pause, longest = _PAUSE_SECONDS
    while True:
        with try_lease(path) as held:
            if held:
                yield
                return
        time.sleep(pause)
        pause = min(2 * pause, longest)


def _take(path: Path, text: str) -> bool:
    with explained(path, "create"):
        if _is_dead(path):
            path.unlink(missing_ok=True)
        _held.add(text)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            _held.discard(text)
            return False
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    return True


def _is_dead(path: Path) -> bool:
    """Whether the holder of an existing lease has died."""
    try:
        text, touched = path.read_text(errors="replace"), path.stat().st_mtime
    except FileNotFoundError:
        return False
    host, _, process = text.partition(" ")
    process = process.partition(" ")[0]
    if host == socket.gethostname() and process.isdigit():
        if int(process) == os.getpid():
            return text not in _held
        if not Path(f"/proc/{process}").exists() and Path("/proc/self").exists():
            return True
    return _now(path.parent) - touched >= DEAD_AFTER_SECONDS


def _now(folder: Path) -> float:
    """Seconds on the clock that gives the files of a folder their times."""
    if folder not in _ahead:
        trial = write_temp(folder / "clock", b"")
        _ahead[folder] = trial.stat().st_mtime - time.time()
        trial.unlink()
    return time.time() + _ahead[folder]


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with suppress(OSError):  # a disk that is away for a moment; or another process has taken the lease over
            os.utime(path)
