"""Jobs for the pool's tests: at module level, so that worker processes can import them."""

import ctypes
import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from featcache.data.decoding.heartbeat import beat
from featcache.errors import VideoError


def count(item: int) -> Iterator[Any]:
    """As many payloads as the item says."""
    for number in range(item):
        yield item, number


def arrays(item: tuple[int, int]) -> Iterator[Any]:
    """``item[0]`` arrays of ``item[1]`` bytes, told apart by their content."""
    for number in range(item[0]):
        yield {"number": number, "pixels": np.full(item[1], number % 251, np.uint8)}


def misbehave(item: tuple[str, str]) -> Iterator[Any]:
    """One payload, then what the item says; ``item[1]`` is a file that counts the attempts."""
    what, marker = item
    attempts = Path(marker)
    with attempts.open("a") as file:
        file.write("x")
    yield "begun"
    if what == "segfault":
        ctypes.string_at(0)
    if what == "exit":
        os._exit(3)
    if what == "exit once" and len(attempts.read_text()) == 1:
        os._exit(3)
    if what in ("kill", "terminate"):
        os.kill(os.getpid(), signal.SIGKILL if what == "kill" else signal.SIGTERM)
    if what == "hang":
        time.sleep(600)
    if what == "beat":
        for _ in range(30):
            time.sleep(0.1)
            beat()
    if what == "video error":
        raise VideoError("undecodable", "frame 3 is damaged")
    if what == "bug":
        raise ZeroDivisionError("a bug in the job")
    if what == "disk":
        raise OSError(5, "Input/output error", "video.mp4")
    if what == "stale":
        raise OSError(errno.ESTALE, "Stale file handle")
    if what == "descriptors":
        raise OSError(errno.EMFILE, "Too many open files")
    if what == "unpicklable":
        yield lambda: None
    yield "ended"


def process_id(item: Any) -> Iterator[Any]:
    """The worker's process id, then a long wait if asked, or one of so many seconds."""
    yield os.getpid()
    if isinstance(item, float) or item == "wait":
        time.sleep(600 if item == "wait" else item)
