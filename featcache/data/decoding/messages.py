"""Messages between a pool and its workers: a pickle, followed by its large buffers as raw bytes."""

import pickle
import select
import socket
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

_HEAD = struct.Struct("<II")  # pickle bytes, number of raw buffers
_SIZE = struct.Struct("<Q")
_NUM_WAITS = 10

Parts = list[bytes | memoryview]


def pack(message: object) -> Parts:
    """The pieces to write for ``message``; contiguous NumPy arrays are referenced, not copied."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    raw = [buffer.raw() for buffer in buffers]
    return [_HEAD.pack(len(data), len(raw)) + b"".join(_SIZE.pack(len(part)) for part in raw) + data, *raw]


def send(channel: socket.socket, parts: Parts) -> None:
    """Write a packed message.

    Raises:
        EOFError: The other side is gone.
    """
    try:
        for part in parts:
            channel.sendall(part)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise EOFError("the other side is gone") from error


def receive(channel: socket.socket, *, make_room: Callable[[int], None] = lambda num_bytes: None) -> Any:
    """Read one message.

    Args:
        channel: A connected stream socket; its timeout applies to each wait for bytes.
        make_room: Called with the message's size before its body is read; may block.

    Raises:
        EOFError: The other side is gone.
        TimeoutError: No byte arrived during the channel's timeout while this process was running.
    """
    size, num_buffers = _HEAD.unpack(_exactly(channel, _HEAD.size))
    sizes = [number for (number,) in _SIZE.iter_unpack(_exactly(channel, _SIZE.size * num_buffers))]
    make_room(size + sum(sizes))
    data = _exactly(channel, size)
    return pickle.loads(data, buffers=[_exactly(channel, part) for part in sizes])  # noqa: S301  our own child


def _exactly(channel: socket.socket, num_bytes: int) -> memoryview:
    """The next ``num_bytes``, in new memory that has not been zeroed."""
    buffer = np.empty(num_bytes, np.uint8).data
    view = buffer
    while view:
        _wait(channel)
        try:
            count = channel.recv_into(view)
        except ConnectionResetError as error:
            raise EOFError("the other side is gone") from error
        if not count:
            raise EOFError("the other side is gone")
        view = view[count:]
    return buffer


def _wait(channel: socket.socket) -> None:
    """Wait for bytes or the end of the stream, in short waits that add up to the channel's timeout.

    If the machine is suspended, the container paused or Ctrl-Z pressed, only one of these waits gets longer, and the
    other side, which may have been stopped as well, still has the time of the remaining waits: only the time in which
    this process was running counts.
    """
    seconds = channel.gettimeout()
    if seconds is None:
        return  # reading may then block for ever
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    for _ in range(_NUM_WAITS):
        if poll.poll(1000 * seconds / _NUM_WAITS):
            return
    raise TimeoutError(f"no byte came for {seconds:g} seconds")
