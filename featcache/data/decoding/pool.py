"""A pool of worker processes that decode ahead, are killed when they hang, and take nobody with them when they crash.

Each worker is a fresh interpreter (never a fork: torch, CUDA and swscale do not survive one) that runs one generator
function and streams what it yields over a socket. One thread a worker in the parent hands out items, receives, and
enforces the deadline; a queue bounded in bytes lies between these threads and the consumer. When the queue is full the
threads stop reading, the sockets fill up and the workers wait. Sockets vanish with their processes: there is no
shared memory to leak.
"""

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

from featcache.data.decoding.messages import Parts, pack, receive, send
from featcache.data.types import Status
from featcache.errors import FeatcacheError

_STARTUP_SECONDS = 300.0  # importing torch from a cold network disk
_DYING_SECONDS = 10.0
_EVENT_BYTES = 1024  # what an event weighs in the queue beside its payload


@dataclass(frozen=True, slots=True)
class Payload:
    """Something that the job yielded for an item; those of one item arrive in order."""

    item: int
    value: Any


@dataclass(frozen=True, slots=True)
class Finished:
    """The job is done with an item."""

    item: int


@dataclass(frozen=True, slots=True)
class Failed:
    """An item that cannot be had; what arrived of it is to be dropped."""

    item: int
    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class Restarted:
    """The worker crashed and the item begins anew: what arrived of it is to be dropped."""

    item: int


Event = Payload | Finished | Failed | Restarted
Job = Callable[[Any], Iterator[Any]]


class WorkerPool:
    """Runs ``job`` over items in worker processes; a context manager.

    Args:
        job: A module-level generator function of one picklable item. A :class:`~featcache.errors.VideoError` that it
            raises becomes a :class:`Failed` event; any other exception is raised in the consumer.
        num_workers: Processes. They start at once and stay warm until :meth:`close`.
        deadline_seconds: A job that gives no payload and no heartbeat for so long is killed: ``timeout``.
        ahead_bytes: How much may wait for the consumer, over all workers; a larger single payload waits alone.
    """

    def __init__(
        self, job: Job, *, num_workers: int = 1, deadline_seconds: float = 60.0, ahead_bytes: int = 256 << 20
    ) -> None:
        if num_workers < 1:
            raise ValueError(f"num_workers is {num_workers}; a pool needs at least 1")
        self._ahead_bytes = ahead_bytes
        self._run: _Run | None = None
        self._past_waits = (0.0, 0.0)
        self._closed = False
        packed_job = pickle.dumps(job, protocol=5)  # by name: an error here says that it is not at module level
        self._workers = [_Worker(packed_job, deadline_seconds=deadline_seconds) for _ in range(num_workers)]
        for worker in self._workers:
            worker.start()

    @property
    def wait_seconds(self) -> float:
        """How long the consumer has waited for events: decoding is the bottleneck."""
        return self._past_waits[0] + (self._run.consumer_seconds if self._run else 0.0)

    @property
    def blocked_seconds(self) -> float:
        """How long workers have waited for the consumer, summed over workers: encoding is the bottleneck."""
        return self._past_waits[1] + (self._run.producer_seconds if self._run else 0.0)

    def run(self, items: Iterable[Any]) -> Iterator[Event]:
        """Yield events as they arrive; those of different items interleave, and each item ends in one event.

        Args:
            items: Drawn lazily, from helper threads (never two at once).

        Yields:
            :class:`Payload`, and for each item exactly one :class:`Finished` or :class:`Failed`. A worker that crashes
            gets one more chance (:class:`Restarted`), then the item is ``undecodable``.

        Raises:
            Exception: What a job or ``items`` raised; a worker's traceback is added as a note.
        """
        if self._closed or self._run is not None:
            raise RuntimeError("the pool is closed" if self._closed else "the pool is in use; finish the first run")
        run = self._run = _Run(items, num_workers=len(self._workers), ahead_bytes=self._ahead_bytes)
        for worker in self._workers:
            worker.inbox.put(run)
        try:
            while (event := run.get()) is not None:
                yield event
        finally:
            self._end(run)

    def close(self) -> None:
        """End all workers at once, whatever they are doing."""
        if self._closed:
            return
        self._closed = True
        if self._run is not None:
            self._end(self._run)
        for worker in self._workers:
            worker.inbox.put(None)
        for worker in self._workers:
            worker.join()

    def _end(self, run: "_Run") -> None:
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


class _Cancelled(Exception):  # noqa: N818  a signal between threads of this module
    """The consumer has left."""


class _Run:
    """What the workers' threads and the consumer share during one run."""

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

    # The threads' side

    def take(self) -> tuple[int, Any] | None:
        """The next item with its index, or ``None``."""
        with self._items_lock:
            return None if self.cancelled else next(self._items, None)

    def reserve(self, num_bytes: int) -> None:
        """Wait for room in the queue."""
        with self._changed:
            start = time.monotonic()
            while self._bytes and self._bytes + num_bytes > self._ahead_bytes and not self.cancelled:
                self._changed.wait()
            self.producer_seconds += time.monotonic() - start
            if self.cancelled:
                raise _Cancelled
            self._bytes += num_bytes

    def release(self, num_bytes: int) -> None:
        """Give back room."""
        with self._changed:
            self._bytes -= num_bytes
            self._changed.notify_all()

    def put(self, event: Event, num_bytes: int) -> None:
        """Queue an event for which room was reserved."""
        with self._changed:
            self._events.append((event, num_bytes))
            self._changed.notify_all()

    def announce(self, event: Event) -> None:
        """Queue an event that carries no payload."""
        self.reserve(_EVENT_BYTES)
        self.put(event, _EVENT_BYTES)

    def fail(self, error: BaseException) -> None:
        """Have the consumer raise ``error``."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def leave(self) -> None:
        """A thread is done with this run."""
        with self._changed:
            self._num_present -= 1
            self._changed.notify_all()

    # The consumer's side

    def get(self) -> Event | None:
        """The next event; ``None`` at the end."""
        with self._changed:
            start = time.monotonic()
            while not self._events and self._error is None and self._num_present:
                self._changed.wait()
            self.consumer_seconds += time.monotonic() - start
            if self._error is not None:
                raise self._error
            if not self._events:
                return None
            event, num_bytes = self._events.popleft()
            self._bytes -= num_bytes
            self._changed.notify_all()
            return event

    def cancel(self) -> None:
        """Have the threads leave."""
        with self._changed:
            self.cancelled = True
            self._changed.notify_all()

    def wait_until_left(self) -> None:
        """Wait for all threads to have left."""
        with self._changed:
            while self._num_present:
                self._changed.wait()


class _Worker(threading.Thread):
    """The thread that owns one child process: starts it, feeds it, listens to it, buries it."""

    def __init__(self, packed_job: bytes, *, deadline_seconds: float) -> None:
        super().__init__(daemon=True, name="featcache-worker")
        self.inbox: SimpleQueue[_Run | None] = SimpleQueue()
        self._packed_job = packed_job
        self._deadline_seconds = deadline_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._ready = False
        self._busy = False

    def kill_if_busy(self) -> None:
        """From another thread: end the child unless it idles; its owner notices by the end of the stream."""
        process = self._process
        if self._busy and process is not None:
            process.kill()

    def run(self) -> None:
        """Serve runs until ``None`` comes."""
        try:
            with contextlib.suppress(OSError):  # warm up while the consumer prepares; tried again when needed
                self._start_child()
            while (run := self.inbox.get()) is not None:
                self._busy = True
                try:
                    while (taken := run.take()) is not None:
                        self._do(run, *taken)
                except _Cancelled:
                    self._stop_child()
                except BaseException as error:
                    self._stop_child()
                    run.fail(error)
                finally:
                    self._busy = False
                    run.leave()
        finally:
            self._stop_child()

    def _do(self, run: _Run, index: int, item: object) -> None:
        """Have the child do one item; once more if it crashes."""
        parts = pack(item)
        death = self._attempt(run, index, parts)
        if death is not None:
            run.announce(Restarted(index))
            death = self._attempt(run, index, parts)
        if death is not None:
            run.announce(Failed(index, "undecodable", f"the decoder crashed twice, the last time with {death}"))

    def _attempt(self, run: _Run, index: int, parts: Parts) -> str | None:
        """Pass on what the child says of one item; ``None``, or how the child died."""
        channel = self._ready_child(run)
        try:
            send(channel, parts)
        except EOFError:
            return self._bury(run)
        while True:
            kind, value, reserved = self._hear(run, channel)
            match kind:
                case "payload":
                    run.put(Payload(index, value), reserved)
                case "alive":
                    run.release(reserved)
                case "finished":
                    run.put(Finished(index), reserved)
                    return None
                case "failed":
                    run.put(Failed(index, *value), reserved)
                    return None
                case "error":
                    raise _original(value)
                case "silent":
                    self._stop_child()
                    silence = f"the decoder gave no sign of life for {self._deadline_seconds:g} seconds and was stopped"
                    run.announce(Failed(index, "timeout", silence))
                    return None
                case _:
                    return self._bury(run)

    @staticmethod
    def _hear(run: _Run, channel: socket.socket) -> tuple[str, Any, int]:
        """The child's next message and the room reserved for it; ``silent`` or ``dead`` if none comes."""
        reserved = 0

        def make_room(num_bytes: int) -> None:
            nonlocal reserved
            run.reserve(num_bytes + _EVENT_BYTES)
            reserved = num_bytes + _EVENT_BYTES

        try:
            kind, value = receive(channel, make_room=make_room)
        except (TimeoutError, EOFError) as error:
            run.release(reserved)
            return "silent" if isinstance(error, TimeoutError) else "dead", None, 0
        return kind, value, reserved

    def _ready_child(self, run: _Run) -> socket.socket:
        """The channel to a child that has imported its job."""
        if self._channel is None:
            self._start_child()
        assert self._channel is not None
        if run.cancelled:  # asked only now that there is a child: whoever cancels later will see it and kill it
            raise _Cancelled
        if not self._ready:
            try:
                kind, value = receive(self._channel)
            except (EOFError, TimeoutError):
                death = self._bury(run)
                raise FeatcacheError(
                    f"a decoding worker could not start and ended with {death}; its own message is above this one"
                ) from None
            if kind == "error":
                raise _original(value)
            self._ready = True
            self._channel.settimeout(self._deadline_seconds)
        return self._channel

    def _start_child(self) -> None:
        ours, theirs = socket.socketpair()
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from featcache.data.decoding.worker import main; main({theirs.fileno()}, {os.getpid()})"
        )
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", code],
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # what a library prints must not mix with results
                    pass_fds=[theirs.fileno()],
                    process_group=0,  # out of reach of the terminal's Ctrl-C
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
            except BaseException:
                ours.close()
                raise
        self._channel, self._ready = ours, False
        ours.settimeout(_STARTUP_SECONDS)
        with contextlib.suppress(EOFError):  # it is dead already: the handshake will say so
            send(ours, pack(self._packed_job))

    def _bury(self, run: _Run) -> str:
        """How the child died that has closed its side of the channel."""
        process = self._process
        assert process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):  # leave it time to die, its exit status tells why
            process.wait(_DYING_SECONDS)
        self._stop_child()
        if run.cancelled:
            raise _Cancelled
        if process.returncode >= 0:
            return f"exit code {process.returncode}"
        number = -process.returncode
        memory = ", most often for want of memory" if number == signal.SIGKILL else ""
        return f"signal {number} ({signal.Signals(number).name}{memory})"

    def _stop_child(self) -> None:
        """End the child, whatever it is doing."""
        process, channel, self._process, self._channel = self._process, self._channel, None, None
        if channel is not None:
            channel.close()
        if process is not None:
            process.kill()
            process.wait()


def _original(value: tuple[Exception, str]) -> Exception:
    """The exception that a child sent, with the child's traceback as a note."""
    error, trace = value
    error.add_note(f"In a decoding worker:\n{trace}")
    return error
