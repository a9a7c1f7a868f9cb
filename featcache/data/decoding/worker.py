"""The program of a worker process: runs one job function, item after item, over one socket."""

import contextlib
import ctypes
import os
import pickle
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from featcache.data.decoding.faults import UNREADABLE
from featcache.data.decoding.heartbeat import listen
from featcache.data.decoding.memory import cap_memory, is_capped, too_much
from featcache.data.decoding.messages import Parts, pack, receive, send
from featcache.data.decoding.work import at_most
from featcache.errors import VideoError
from featcache.imports import collecting_nothing

BEAT_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(descriptor: int, parent: int, max_gigapixels: float) -> None:
    """Serve a pool until its side of the socket closes.

    Args:
        descriptor: File descriptor of the connected socket.
        parent: Process id of the pool; the worker does not outlive it.
        max_gigapixels: Limit of decoded pixels per item.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent
    _die_with(parent)
    channel = socket.socket(fileno=descriptor)
    with contextlib.suppress(EOFError):  # the pool is gone, so nothing is left to do or to report
        _serve(channel, max_gigapixels=max_gigapixels)


def _serve(channel: socket.socket, *, max_gigapixels: float) -> None:
    try:
        with collecting_nothing():
            job = pickle.loads(receive(channel))  # noqa: S301  from our own parent
    except (ImportError, AttributeError) as error:
        send(channel, pack(_failure(error)))
        return
    cap_memory()
    send(channel, pack(("ready", None)))
    listen(_Beats(channel))
    while True:
        item = receive(channel)
        with at_most(max_gigapixels):
            for message in _messages(job, item):
                send(channel, _packed(message))


def _messages(job: Callable[[Any], Iterator[Any]], item: object) -> Iterator[tuple[str, Any]]:
    """Messages to the pool about one item."""
    try:
        for payload in job(item):
            yield "payload", payload
    except VideoError as error:
        yield "failed", (error.status, error.reason)
    except OSError as error:
        unreadable = f"reading it fails ({error.strerror or error})"
        yield ("failed", ("unreadable", unreadable)) if error.errno in UNREADABLE else _failure(error)
    except MemoryError as error:
        yield ("failed", ("undecodable", too_much())) if is_capped() else _failure(error)
    except Exception as error:
        yield _failure(error)
    else:
        yield "finished", None


def _packed(message: tuple[str, Any]) -> Parts:
    try:
        return pack(message)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        return pack(_failure(error))


def _failure(error: Exception) -> tuple[str, Any]:
    """An error in a form that can always be unpickled in the parent, with its traceback as text."""
    trace = "".join(traceback.format_exception(error))
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):  # noqa: S301  our own bytes
            return "error", (error, trace)
    except Exception:  # noqa: S110  whatever its class does when pickled, its text still travels
        pass
    if isinstance(error, OSError):
        return "error", (OSError(error.errno, error.strerror, error.filename), trace)
    return "error", (RuntimeError(f"{type(error).__name__}: {error}"), trace)


class _Beats:
    """Passes the decoder's heartbeats on, but not more often than the pool needs them."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._parts = pack(("alive", None))
        self._last = time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._last >= BEAT_SECONDS:
            self._last = now
            send(self._channel, self._parts)


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when the thread that started it ends, however it ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before the call
            os._exit(1)
