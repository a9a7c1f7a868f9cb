"""A pool of worker processes that decode ahead, are killed when they hang, and may crash without harming the parent.

Each worker is a fresh interpreter (never a fork, which torch, CUDA and swscale do not survive) that runs one generator
function and streams the yielded values over a socket. In the parent one thread per worker hands out items, receives
values, and enforces the deadline; between these threads and the consumer is a queue that is bounded in bytes. When the
queue is full the threads stop reading, the sockets fill up and the workers wait. Sockets vanish with their processes,
and there is no shared memory that could leak.
"""

import atexit
import pickle
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

from featcache.data.decoding.child import Worker
from featcache.data.decoding.events import Event, Failed, Finished, Payload, Restarted, Run
from featcache.data.types import MAX_GIGAPIXELS

__all__ = ["Event", "Failed", "Finished", "Job", "Payload", "Restarted", "WorkerPool"]

Job = Callable[[Any], Iterator[Any]]


class WorkerPool:
    """Runs ``job`` over items in worker processes; a context manager.

    Args:
        job: A module-level generator function of one picklable item. A :class:`~featcache.errors.VideoError` that it
            raises becomes a :class:`Failed` event, and so does an I/O error of one file (``unreadable``); any other
            exception is raised in the consumer.
        name: Function that names an item in errors, e.g. by its path.
        num_workers: Number of processes. They start at once and are kept until :meth:`close`.
        deadline_seconds: A job that gives no payload and no heartbeat for this time is killed: ``timeout``.
        max_gigapixels: An item for which more pixels are decoded is ``undecodable``.
        ahead_bytes: How many bytes may wait for the consumer, over all workers; a larger single payload waits alone.
    """

    def __init__(
        self,
        job: Job,
        *,
        name: Callable[[Any], str] = repr,
        num_workers: int = 1,
        deadline_seconds: float = 60.0,
        max_gigapixels: float = MAX_GIGAPIXELS,
        ahead_bytes: int = 256 << 20,
    ) -> None:
        if num_workers < 1:
            raise ValueError(f"num_workers is {num_workers}; a pool needs at least 1")
        self._ahead_bytes = ahead_bytes
        self._run: Run | None = None
        self._past_waits = (0.0, 0.0)
        self._closed = False
        packed_job = pickle.dumps(job, protocol=5)  # fails if the function is not at module level
        self._workers = [
            Worker(packed_job, name=name, deadline_seconds=deadline_seconds, max_gigapixels=max_gigapixels)
            for _ in range(num_workers)
        ]
        for worker in self._workers:
            worker.start()
        atexit.register(self.close)  # at exit, while the threads still run, if nobody has closed the pool

    @property
    def wait_seconds(self) -> float:
        """Seconds for which the consumer has waited for events; if large, decoding is the bottleneck."""
        return self._past_waits[0] + (self._run.consumer_seconds if self._run else 0.0)

    @property
    def blocked_seconds(self) -> float:
        """Seconds for which workers have waited for the consumer, summed; if large, encoding is the bottleneck."""
        return self._past_waits[1] + (self._run.producer_seconds if self._run else 0.0)

    def run(self, items: Iterable[Any], *, ahead_bytes: int | None = None) -> Iterator[Event]:
        """Yield events as they arrive; events of different items interleave, and each item ends with one final event.

        Args:
            items: The items, drawn lazily from helper threads (never two at once).
            ahead_bytes: Maximum number of bytes that wait for the consumer in this run; ``None``: the pool's.

        Yields:
            :class:`Payload`, and for each item exactly one :class:`Finished` or :class:`Failed`. If a worker crashes,
            the item is tried once more (:class:`Restarted`); then it is ``undecodable``.

        Raises:
            FeatcacheError: A worker was killed from outside, usually for lack of memory; no item is at fault.
            Exception: An exception of a job or of ``items``; a worker's traceback is added as a note.
        """
        if self._closed or self._run is not None:
            raise RuntimeError("the pool is closed" if self._closed else "the pool is in use; finish the first run")
        run = self._run = Run(items, num_workers=len(self._workers), ahead_bytes=ahead_bytes or self._ahead_bytes)
        for worker in self._workers:
            worker.inbox.put(run)
        try:
            while (event := run.get()) is not None:
                yield event
        finally:
            self._end(run)

    def close(self) -> None:
        """Kill all workers at once, whatever they are doing."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        if self._run is not None:
            self._end(self._run)
        for worker in self._workers:
            worker.inbox.put(None)
        for worker in self._workers:
            worker.join()

    def _end(self, run: Run) -> None:
        if self._run is run:
            run.cancel()
            for worker in self._workers:
                worker.kill_if_busy()
            run.wait_until_left()
            self._past_waits = (self.wait_seconds, self.blocked_seconds)
            self._run = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
