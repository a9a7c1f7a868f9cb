"""One thread of a process in which its many requests to buckets run at the same time."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from featcache.errors import BucketError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Running:
    loop: asyncio.AbstractEventLoop
    process: int


_running: _Running | None = None
_starting = threading.Lock()


def run(work: Callable[[], Coroutine[Any, Any, T]], *, what: str) -> T:
    """Run a coroutine in that thread and wait for it; an interrupt cancels it.

    Args:
        work: Makes the coroutine.
        what: What is read or written, for the message.

    Raises:
        BucketError: This process was forked from one that has made requests: their threads are not in it.
    """
    future = asyncio.run_coroutine_threadsafe(work(), _loop(what))
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _loop(what: str) -> asyncio.AbstractEventLoop:
    global _running
    with _starting:
        if _running is None:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="featcache-buckets", daemon=True).start()
            _running = _Running(loop, os.getpid())
        if _running.process != os.getpid():
            raise BucketError(
                f"{what} cannot be read in a forked process, since the process before it has read from buckets too; "
                "start workers with multiprocessing_context='spawn' or 'forkserver'"
            )
        return _running.loop
