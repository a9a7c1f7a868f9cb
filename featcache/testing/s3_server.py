"""A local server of the S3 protocol behind a proxy that is as slow and as unreliable as a test wants.

The server is moto's, which keeps objects in memory. The proxy passes writes on one by one, since moto itself does not
make sure that of two conditional writes at the same instant one fails.
"""

import asyncio
import logging
import os
import queue
import threading
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["answer", "answer_after", "cut_before", "cut_after", "cut_within", "silence"]


@dataclass(frozen=True, slots=True)
class Request:
    """A request that reaches the proxy.

    Attributes:
        number: How many there were before it.
        method: ``GET``, ``PUT``, …
        path: ``/bucket/name?query``.
        headers: Its headers, by lower-case name.
    """

    number: int
    method: str
    path: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a request instead of being answered.

    Attributes:
        kind: ``answer``: it gets an error, and the server never sees it; ``answer_after``: it gets an error after the
            server has done what it asks; ``cut_before`` and ``cut_after``: the connection is closed instead;
            ``cut_within``: it is closed in the middle of the answer; ``silence``: it gets no answer at all.
        status: HTTP status of the error.
        code: S3's name of the error.
    """

    kind: Kind
    status: int = 503
    code: str = "SlowDown"


NoFault = Callable[[Request], Fault | None]


@dataclass
class S3Server:
    """A running server.

    Attributes:
        endpoint: URL of the proxy, for ``AWS_ENDPOINT_URL``.
        direct: URL of the server behind it.
        latency: Seconds between the arrival of a request and its answer, beside what the server takes.
        fault: Chooses the fault of each request, if any.
        ignored: Headers of requests, in lower case, that the server does not see.
        requests: All requests so far.
    """

    endpoint: str = ""
    direct: str = ""
    latency: float = 0.0
    fault: NoFault = lambda _: None
    ignored: tuple[str, ...] = ()
    requests: list[Request] = field(default_factory=list)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _serving: set[asyncio.Task[None] | None] = field(default_factory=set)  # the loop itself keeps no task alive

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which a process reaches the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",  # pragma: allowlist secret
            "AWS_REGION": "us-east-1",
        }

    def make_bucket(self, name: str) -> str:
        """Make a bucket; returns its URL."""
        request = urllib.request.Request(f"{self.direct}/{name}", method="PUT")  # noqa: S310  a local server
        urllib.request.urlopen(request).close()  # noqa: S310
        return f"s3://{name}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection, one after the other."""
        task = asyncio.current_task()
        self._serving.add(task)
        try:
            # A server that ends cancels its connections, which is nothing to tell.
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._answer(reader, writer):
                    pass
        finally:
            await _closed(writer)
            self._serving.discard(task)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; returns whether the connection stays open."""
        head = await reader.readuntil(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = line.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines if one)}
        if headers.get("expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        request = Request(len(self.requests), method, path, headers)
        self.requests.append(request)
        fault = self.fault(request)
        waited = asyncio.ensure_future(asyncio.sleep(self.latency))
        answer = b""
        if fault is None or fault.kind in {"answer_after", "cut_after", "cut_within"}:
            if method in {"GET", "HEAD"}:
                answer = await self._pass_on(head, body)
            else:
                async with self._writing:
                    answer = await self._pass_on(head, body)
        await waited
        if fault is not None:
            if fault.kind == "silence":
                await reader.read()  # until the other side has had enough
                return False
            if fault.kind.startswith("cut"):
                writer.write(answer[: len(answer) // 2] if fault.kind == "cut_within" else b"")
                return False
            text = b"" if method == "HEAD" else f"<Error><Code>{fault.code}</Code></Error>".encode()
            answer = f"HTTP/1.1 {fault.status} Fault\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text
        writer.write(answer)
        await writer.drain()
        return True

    async def _pass_on(self, head: bytes, body: bytes) -> bytes:
        """The server's answer, without the header that closes the connection."""
        host, port = self.direct.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
        line, *lines = head.split(b"\r\n")
        kept = [one for one in lines if one and not one.lower().startswith((b"connection:", b"expect:"))]
        kept = [
            one
            for one in kept
            if not one.lower().decode("latin-1").startswith(tuple(f"{name}:" for name in self.ignored))
        ]
        try:
            writer.write(b"\r\n".join([line, *kept, b"Connection: close", b"", b""]) + body)
            answer = await reader.read()
        finally:
            await _closed(writer)
        first, _, rest = answer.partition(b"\r\n\r\n")
        status, *names = first.split(b"\r\n")
        names = [one for one in names if not one.lower().startswith((b"connection:", b"transfer-encoding:"))]
        if not any(one.lower().startswith(b"content-length:") for one in names):
            names.append(b"Content-Length: %d" % len(rest))
        return b"\r\n".join([status.replace(b"HTTP/1.0", b"HTTP/1.1"), *names, b"", b""]) + rest


@contextmanager
def s3_server(*, latency: float = 0.0) -> Generator[S3Server]:
    """Run a server and its proxy in threads of this process; its environment is that of the block.

    Args:
        latency: Seconds that the proxy waits for each request.
    """
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    server = S3Server(direct=f"http://{host}:{port}", latency=latency)
    started: queue.Queue[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def listen() -> None:
        stop = asyncio.Event()
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=1 << 20, backlog=1024)
        server.endpoint = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        started.put((asyncio.get_running_loop(), stop))
        await stop.wait()
        listening.close()

    thread = threading.Thread(target=lambda: asyncio.run(listen()), daemon=True)
    thread.start()
    loop, stop = started.get()
    try:
        with environment(server.environment):
            yield server
    finally:
        loop.call_soon_threadsafe(stop.set)  # asyncio.run ends the connections that are still open
        thread.join()
        moto.stop()


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError, asyncio.CancelledError):
        await writer.wait_closed()


@contextmanager
def environment(values: dict[str, str]) -> Generator[None]:
    """Set environment variables for a block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
