"""Events that a pool sends to its consumer, and the bounded queue between them."""

import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from featcache.data.types import Status

EVENT_BYTES = 1024  # size of an event in the queue, besides its payload


@dataclass(frozen=True, slots=True)
class Payload:
    """A value that the job has yielded for an item; the values of one item arrive in order."""

    item: int
    value: Any


@dataclass(frozen=True, slots=True)
class Finished:
    """The job has finished an item."""

    item: int


@dataclass(frozen=True, slots=True)
class Failed:
    """An item that has failed; its earlier payloads must be dropped."""

    item: int
    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class Restarted:
    """The worker crashed and the item is started again; its earlier payloads must be dropped."""

    item: int


Event = Payload | Finished | Failed | Restarted


class Cancelled(Exception):  # noqa: N818  no error: it tells a worker's thread to go home
    """The consumer has left the run."""


class Run:
    """State that the workers' threads and the consumer share during one run."""

    def __init__(self, items: Iterable[Any], *, num_workers: int, ahead_bytes: int) -> None:
        self.consumer_seconds = 0.0
        self.producer_seconds = 0.0
        self.cancelled = False
        self._items = enumerate(items)
        self._items_lock = threading.Lock()
        self._changed = threading.Condition()
        self._events: deque[tuple[Event, int]] = deque()
        self._bytes = 0
        self._ahead_bytes = ahead_bytes
        self._error: BaseException | None = None
        self._num_present = num_workers

    # Methods for the threads

    def take(self) -> tuple[int, Any] | None:
        """The next item with its index, or ``None`` at the end and after an error."""
        with self._items_lock:
            return None if self.cancelled or self._error is not None else next(self._items, None)

    def reserve(self, num_bytes: int) -> None:
        """Wait for room in the queue and reserve it."""
        with self._changed:
            start = time.monotonic()
            while self._bytes and self._bytes + num_bytes > self._ahead_bytes and not self.cancelled:
                self._changed.wait()
            self.producer_seconds += time.monotonic() - start
            if self.cancelled:
                raise Cancelled
            self._bytes += num_bytes

    def release(self, num_bytes: int) -> None:
        """Return reserved room."""
        with self._changed:
            self._bytes -= num_bytes
            self._changed.notify_all()

    def put(self, event: Event, num_bytes: int) -> None:
        """Queue an event for which room was reserved."""
        with self._changed:
            self._events.append((event, num_bytes))
            self._changed.notify_all()

    def announce(self, event: Event) -> None:
        """Queue an event without a payload."""
        self.reserve(EVENT_BYTES)
        self.put(event, EVENT_BYTES)

    def fail(self, error: BaseException) -> None:
        """Make the consumer raise ``error``."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def leave(self) -> None:
        """Report that a thread has left this run."""
        with self._changed:
            self._num_present -= 1
            self._changed.notify_all()

    # Methods for the consumer

    def get(self) -> Event | None:
        """The next event; ``None`` at the end. An error is raised after the events that were queued before it."""
        with self._changed:
            start = time.monotonic()
            while not self._events and self._error is None and self._num_present:
                self._changed.wait()
            self.consumer_seconds += time.monotonic() - start
            if not self._events:
                if self._error is not None:
                    raise self._error
                return None
            event, num_bytes = self._events.popleft()
            self._bytes -= num_bytes
            self._changed.notify_all()
            return event

    def cancel(self) -> None:
        """Tell the threads to leave."""
        with self._changed:
            self.cancelled = True
            self._changed.notify_all()

    def wait_until_left(self) -> None:
        """Wait until all threads have left."""
        with self._changed:
            while self._num_present:
                self._changed.wait()
