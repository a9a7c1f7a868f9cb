"""Leases in a bucket, which keep processes from doing the same work. Nothing relies on one.

A lease is an object that its holder creates, writes again every few seconds and removes at the end. One whose holder
has died is taken over: at once if it was a process of the same host that is gone, otherwise after it was not written
for a minute, on the clock of the process that waits. Two processes may hold a lease at the same time, where one was
suspended for so long.
"""

import os
import secrets
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress

from featcache.errors import BucketError
from featcache.files.objects import Objects

SUFFIX = ".lease"
BEAT_SECONDS = 15.0
DEAD_AFTER_SECONDS = 60.0
_PAUSE_SECONDS = (0.05, 1.0)  # between two looks at a lease that is waited for: the first, the longest

_seen: dict[str, tuple[str, float]] = {}  # by URL, the present form of others' leases and when it was first seen


@contextmanager
def try_lease(objects: Objects, name: str) -> Generator[bool]:
    """Hold a lease for a block if it is free; yields whether it is held."""
    name += SUFFIX
    text = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(8)}"
    if not _take(objects, name, text):
        yield False
        return
    ended = threading.Event()
    threading.Thread(target=_beat, args=(objects, name, text, ended), name="lease", daemon=True).start()
    try:
        yield True
    finally:
        ended.set()
        with suppress(BucketError):  # a left-over is taken over, or removed by gc
            objects.delete(name)


@contextmanager
def lease(objects: Objects, name: str) -> Generator[None]:
    """Hold a lease for a block, waiting for it."""
    pause, longest = _PAUSE_SECONDS
    while True:
        with try_lease(objects, name) as held:
            if held:
                yield
                return
        time.sleep(pause)
        pause = min(2 * pause, longest)


def _take(objects: Objects, name: str, text: str) -> bool:
    if objects.put(name, [_content(text, 0)], create=True):
        return True
    found = objects.find(name)
    if found is None:
        return False  # it has ended meanwhile
    where = objects.where(name)
    etag, since = _seen.get(where, ("", 0.0))
    if etag != found.etag:
        since = time.monotonic()
        _seen[where] = (found.etag, since)
    is_dead = time.monotonic() - since > DEAD_AFTER_SECONDS or _is_gone(objects.get(name))
    return is_dead and objects.put(name, [_content(text, 0)], create=False, etag=found.etag)


def _is_gone(content: bytes | None) -> bool:
    """Whether the holder was a process of this host that does not run any more."""
    parts = (content or b"").decode(errors="replace").split()
    if len(parts) != 4 or parts[0] != socket.gethostname() or not parts[1].isdigit():
        return False
    try:
        os.kill(int(parts[1]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _beat(objects: Objects, name: str, text: str, ended: threading.Event) -> None:
    number = 0
    while not ended.wait(BEAT_SECONDS):
        number += 1
        with suppress(BucketError):  # the work goes on; at worst another process does it too
            objects.put(name, [_content(text, number)], create=False)


def _content(text: str, number: int) -> bytes:
    return f"{text} {number}\n".encode()
