"""One thread of a process in which its many requests to buckets run at the same time."""

import asyncio
import atexit
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
    thread: threading.Thread
    process: int


_END_SECONDS = 5.0  # for requests that are under way when the process ends, e.g. of a lease
_SETTLE_SECONDS = 0.1  # for the threads of the library, which may not touch an interpreter that ends

_running: _Running | None = None
_has_ended = False
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
        if _has_ended:
            raise BucketError(f"{what} cannot be read or written any more: this process is about to end")
        if _running is None:
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="featcache-buckets", daemon=True)
            thread.start()
            _running = _Running(loop, thread, os.getpid())
            atexit.register(_end)
        if _running.process != os.getpid():
            raise BucketError(
                f"{what} cannot be read in a forked process, since the process before it has read from buckets too; "
                "start workers with multiprocessing_context='spawn' or 'forkserver'"
            )
        return _running.loop


def _end() -> None:
    """Let requests end before the interpreter does: a late answer would abort the process."""
    global _has_ended
    with _starting:
        _has_ended = True
        running = _running
    if running is None or running.process != os.getpid():
        return
    asyncio.run_coroutine_threadsafe(_finish(), running.loop).result()
    running.loop.call_soon_threadsafe(running.loop.stop)
    running.thread.join()


async def _finish() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        _, late = await asyncio.wait(others, timeout=_END_SECONDS)
        for task in late:
            task.cancel()
    await asyncio.sleep(_SETTLE_SECONDS)
