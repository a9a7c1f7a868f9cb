"""Threads that wait for reads, and a lock, both of which a forked process can go on with."""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class ProcessLock:
    """A lock that is free again in a forked process, whatever the other threads of its parent were doing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def __enter__(self) -> bool:
        """Take the lock.

        Returns:
            Whether this is the first time after a fork: what the lock protects may then be half changed.
        """
        if os.getpid() == self._pid:
            self._lock.acquire()
            return False
        self._lock, self._pid = threading.Lock(), os.getpid()
        self._lock.acquire()
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()


class ReadThreads:
    """Threads that wait for a disk together; started when they are needed, and again after :meth:`close` or a fork."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool: ThreadPoolExecutor | None = None
        self._pid = 0

    def all(self, work: Callable[[T], None], items: Sequence[T]) -> None:
        """Do something with every item, several at a time, and wait for all of them.

        After an error no further item is begun, and those that were begun are waited for; the first error is raised.
        """
        left = deque(items)

        def take() -> None:
            while left:
                try:
                    item = left.popleft()
                except IndexError:  # another thread has taken the last one
                    return
                try:
                    work(item)
                except BaseException:
                    left.clear()
                    raise

        if len(items) <= 1:
            take()
            return
        pool = self._started()
        futures = [pool.submit(take) for _ in range(min(self._count, len(items)))]
        errors = [error for future in futures if (error := future.exception()) is not None]
        if errors:
            raise errors[0]

    def begin(self, work: Callable[[T], R], item: T) -> "Future[R]":
        """Do something with an item after what was begun before, without waiting for it."""
        return self._started().submit(work, item)

    def close(self) -> None:
        """Wait for what is being done, and drop what has not begun."""
        if self._pool is not None and self._pid == os.getpid():
            self._pool.shutdown(cancel_futures=True)
        self._pool = None

    def _started(self) -> ThreadPoolExecutor:
        if self._pool is None or self._pid != os.getpid():  # a forked process has none of its parent's threads
            self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="featcache-read")
            self._pid = os.getpid()
        return self._pool
