"""The parent's side of one worker process: starts it, sends it items, receives its messages, and reaps it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from featcache.data.decoding.events import EVENT_BYTES, Cancelled, Failed, Finished, Payload, Restarted, Run
from featcache.data.decoding.messages import Parts, pack, receive, send
from featcache.errors import FeatcacheError

_STARTUP_SECONDS = 300.0  # allows for importing torch from a cold network disk
_DYING_SECONDS = 10.0
# Signals by which a library crashes on a file. Any other signal came from outside, e.g. from the out-of-memory killer.
_CRASHES = frozenset(
    (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS)
)


class Worker(threading.Thread):
    """The thread that owns one child process: starts it, sends it items, receives its messages, and reaps it."""

    def __init__(
        self, packed_job: bytes, *, name: Callable[[Any], str], deadline_seconds: float, max_gigapixels: float
    ) -> None:
        super().__init__(daemon=True, name="featcache-worker")
        self._name_of = name
        self.inbox: SimpleQueue[Run | None] = SimpleQueue()
        self._packed_job = packed_job
        self._deadline_seconds = deadline_seconds
        self._max_gigapixels = max_gigapixels
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._ended: subprocess.Popen[bytes] | None = None  # the last child that this side has killed
        self._ready = False
        self._busy = False

    def kill_if_busy(self) -> None:
        """Kill the child from another thread unless it is idle; its owner notices the end of the stream."""
        process = self._process
        if self._busy and process is not None:
            self._ended = process
            process.kill()

    def run(self) -> None:
        """Serve runs until ``None`` arrives."""
        try:
            with contextlib.suppress(OSError):  # warm up while the consumer prepares; a failure is tried again later
                self._start_child()
            while (run := self.inbox.get()) is not None:
                self._busy = True
                try:
                    while (taken := run.take()) is not None:
                        self._do(run, *taken)
                except Cancelled:
                    self._stop_child()
                except BaseException as error:
                    self._stop_child()
                    run.fail(error)
                finally:
                    self._busy = False
                    run.leave()
        finally:
            self._stop_child()

    def _do(self, run: Run, index: int, item: object) -> None:
        """Let the child process one item, and once more if it crashes."""
        parts, name = pack(item), self._name_of(item)
        death = self._attempt(run, index, parts, name=name)
        if death is not None:
            run.announce(Restarted(index))
            death = self._attempt(run, index, parts, name=name)
        if death is not None:
            run.announce(Failed(index, "undecodable", f"the decoder crashed twice, the last time with {death}"))

    def _attempt(self, run: Run, index: int, parts: Parts, *, name: str) -> str | None:
        """Pass on the child's messages about one item; returns ``None``, or how the child died."""
        channel = self._ready_child(run)
        try:
            send(channel, parts)
        except EOFError:
            return self._bury(run, name=name)
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
                    raise _original(value, name=name)
                case "silent":
                    self._stop_child()
                    silence = f"the decoder gave no sign of life for {self._deadline_seconds:g} seconds and was stopped"
                    run.announce(Failed(index, "timeout", silence))
                    return None
                case _:
                    return self._bury(run, name=name)

    @staticmethod
    def _hear(run: Run, channel: socket.socket) -> tuple[str, Any, int]:
        """The child's next message and the room reserved for it; ``silent`` or ``dead`` if none arrives."""
        reserved = 0

        def make_room(num_bytes: int) -> None:
            nonlocal reserved
            run.reserve(num_bytes + EVENT_BYTES)
            reserved = num_bytes + EVENT_BYTES

        try:
            kind, value = receive(channel, make_room=make_room)
        except (TimeoutError, EOFError) as error:
            run.release(reserved)
            return "silent" if isinstance(error, TimeoutError) else "dead", None, 0
        return kind, value, reserved

    def _ready_child(self, run: Run) -> socket.socket:
        """The channel to a child that has imported its job; starts a child if there is none."""
        if self._process is not None and self._process is self._ended:
            self._stop_child()  # it ended after its run was left, and has not been reaped yet
        if self._channel is None:
            self._start_child()
        assert self._channel is not None
        if run.cancelled:  # checked only now that there is a child: a later cancellation will find and kill it
            raise Cancelled
        if not self._ready:
            try:
                kind, value = receive(self._channel)
            except (EOFError, TimeoutError):
                death = self._bury(run, name="its start")
                raise FeatcacheError(
                    f"a decoding worker could not start and ended with {death}; its own message is above this one"
                ) from None
            if kind == "error":
                raise _original(value, name="its start")
            self._ready = True
            self._channel.settimeout(self._deadline_seconds)
        return self._channel

    def _start_child(self) -> None:
        ours, theirs = socket.socketpair()
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from featcache.data.decoding.worker import main; "
            f"main({theirs.fileno()}, {os.getpid()}, {self._max_gigapixels!r})"
        )
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", code],
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # output of libraries must not mix with results
                    pass_fds=[theirs.fileno()],
                    process_group=0,  # out of reach of the terminal's Ctrl-C
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
            except BaseException:
                ours.close()
                raise
        self._channel, self._ready = ours, False
        ours.settimeout(_STARTUP_SECONDS)
        with contextlib.suppress(EOFError):  # it is dead already, which the handshake will report
            send(ours, pack(self._packed_job))

    def _bury(self, run: Run, *, name: str) -> str:
        """Reap a child that has closed its side of the channel, and return how it died.

        Raises:
            FeatcacheError: It was killed from outside, so the file that it read is not at fault.
        """
        process = self._process
        assert process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):  # give it time to exit: its exit status says why
            process.wait(_DYING_SECONDS)
        self._stop_child()
        if run.cancelled:
            raise Cancelled
        if process.returncode >= 0:
            return f"exit code {process.returncode}"
        death = signal.Signals(-process.returncode)
        if death in _CRASHES:
            return f"signal {death.value} ({death.name})"
        memory = ", most often for want of memory" if death == signal.SIGKILL else ""
        raise FeatcacheError(
            f"a decoding process was killed at {name} by signal {death.value} ({death.name}{memory}): the machine "
            "failed, not the video; free some memory, or use fewer decoding processes, and run the same command again"
        )

    def _stop_child(self) -> None:
        """Kill the child, whatever it is doing."""
        process, channel, self._process, self._channel = self._process, self._channel, None, None
        if channel is not None:
            channel.close()
        if process is not None:
            process.kill()
            process.wait()


def _original(value: tuple[Exception, str], *, name: str) -> Exception:
    """The exception that a child sent, with the name of the item and the child's traceback as a note."""
    error, trace = value
    if isinstance(error, OSError) and error.filename is None and not isinstance(error, FeatcacheError):
        error.filename = name
    error.add_note(f"In a decoding worker, at {name}:\n{trace}")
    return error
