"""What a worker of a cluster does: it builds the backbones once, decodes ahead, and commits the shards it is given.

A session belongs to one run and lives in its own thread. Several shards may be on their way at the same time: while the
last rows of one are encoded, those of the next are decoded, as if one process computed them all.
"""

import hashlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from queue import Empty, SimpleQueue

from featcache.backbones.from_file import use_file
from featcache.data.remote import is_there
from featcache.errors import FeatcacheError
from featcache.extract.engine import ShardTask, shard_tasks
from featcache.extract.filling import decoders, encoding, shard_runner
from featcache.extract.orders import Assignment, Remark, ShardOrder, Telling, other_version
from featcache.extract.prepare import Machine, prepare
from featcache.extract.progress import Committed, Progress
from featcache.extract.settings import ExtractSettings
from featcache.files.urls import shown
from featcache.machine import num_cores, resolve_device, using_weights_folder
from featcache.store.documents import is_marked, is_store
from featcache.store.overlay import Amendment
from featcache.store.reader import open_store
from featcache.store.writer import Generation, StoreWriter

NEXT_SECONDS = 0.5
"""How long decoding waits for the next shard before the last rows are encoded in a batch that is not full."""
IDLE_SECONDS = 60.0
"""After this time without a shard a session ends, and gives back the memory of its backbones."""
TELL_SECONDS = 0.5
_USED: dict[str, str] = {}  # SHA-256 of the Python files that this process has run for a session


@dataclass(slots=True, kw_only=True)
class Ticket:
    """An order on its way through a session.

    Attributes:
        order: The order.
        drawn: Set when all its videos have been handed to the decoders: the next order is welcome.
        settled: Set at its end.
        committed: What was committed; ``None`` if another process has claimed the shard.
        error: Why it has failed, if it has.
    """

    order: ShardOrder
    drawn: threading.Event = field(default_factory=threading.Event)
    settled: threading.Event = field(default_factory=threading.Event)
    committed: Committed | None = None
    error: BaseException | None = None

    def settle(self, committed: Committed | None = None, *, error: BaseException | None = None) -> None:
        """Record the outcome and wake whoever waits for it."""
        self.committed, self.error = committed, error
        self.drawn.set()
        self.settled.set()


class ShardSession:
    """Computes the shards of one run in this process.

    Attributes:
        run: Name of the run.
        error: Why it has ended, if it ended with an error.

    Args:
        assignment: The run.
        worker: Address of the worker.
        tell: Called with the counters, twice a second at most, and with warnings.

    Raises:
        FeatcacheError: This process cannot compute shards of the run; says why.
    """

    def __init__(self, assignment: Assignment, *, worker: str, tell: Callable[[Telling | Remark], None]) -> None:
        self.run = assignment.run
        self.error: BaseException | None = None
        self._assignment = assignment
        self._worker = worker
        self._name = f"{socket.gethostname()}-{os.getpid()}-{time.monotonic_ns()}"
        self._tell, self._told = tell, 0.0
        self._lock = threading.Lock()
        self._is_open = True
        self._tickets: dict[ShardOrder, Ticket] = {}  # on their way
        self._inbox: SimpleQueue[Ticket] = SimpleQueue()
        self._held: Ticket | None = None  # lacks something else than the one that is being computed
        self._generations: dict[int, tuple[Generation, Mapping[int, Amendment]]] = {}
        self._progress = Progress()
        self._whole = Committed()  # all that has been committed
        settings = assignment.settings
        check_versions(assignment.versions)
        use_files(assignment.used_files)
        device = device_for(settings, is_on_gpu=assignment.is_on_gpu)
        machine = Machine(device=device, cores=max(1, num_cores() // assignment.sharing))
        check_sees(assignment)
        with ExitStack() as stack:
            self._pool = stack.enter_context(decoders(settings, machine=machine))
            with _searching(Path(assignment.weights_folder)):
                self._prepared = prepare(settings, device=device, machine=machine)
            self._writer = stack.enter_context(
                StoreWriter.open(settings.out, sampling=self._prepared.sampling, file_format=settings.file_format)
            )
            for feature in self._prepared.features:  # other weights are another recipe
                self._writer.declare_feature(feature.name, recipe=feature.recipe, record=feature.record)
            self._held_open = stack.pop_all()
        self._thread = threading.Thread(target=self._serve, name="featcache-session", daemon=True)
        self._thread.start()

    def take(self, order: ShardOrder) -> Ticket:
        """Queue an order, unless it is on its way already.

        Raises:
            SessionClosedError: The session has ended.
        """
        with self._lock:
            if not self._is_open:
                raise SessionClosedError
            if order not in self._tickets:
                ticket = self._tickets[order] = Ticket(order=order)
                self._inbox.put(ticket)
            return self._tickets[order]

    def close(self) -> None:
        """Stop at once; what is not committed yet is given up."""
        with self._lock:
            self._is_open = False
        self._pool.close()
        self._thread.join()

    def telling(self) -> Telling:
        """The present counters."""
        progress, whole = self._progress, self._whole
        return Telling(
            session=self._name,
            worker=self._worker,
            rows=max(0, progress.rows_done - whole.num_rows),
            frames=max(0, progress.frames_done - whole.num_frames),
            videos=max(0, progress.videos_done - whole.num_videos),
            decode_wait_seconds=progress.decode_wait_seconds,
            encode_seconds=progress.encode_seconds,
            commit_seconds=progress.commit_seconds,
        )

    def _serve(self) -> None:
        remarks = _Remarks(self._tell)
        logging.getLogger("featcache").addHandler(remarks)
        try:
            while (ticket := self._next(IDLE_SECONDS)) is not None:
                self._compute(ticket)
        except BaseException as error:  # whatever it is: those who wait for a shard must know
            self.error = error
        finally:
            logging.getLogger("featcache").removeHandler(remarks)
            with self._lock:
                self._is_open = False
            self._held_open.close()
            for ticket in self._tickets.values():
                ticket.settle(error=self.error or SessionClosedError())
            self._tickets.clear()

    def _next(self, seconds: float) -> Ticket | None:
        """The next order; ``None`` if the session is closed or no order comes in time."""
        ticket, self._held = self._held, None
        deadline = time.monotonic() + seconds
        while ticket is None and self._is_open and time.monotonic() < deadline:
            with suppress(Empty):
                ticket = self._inbox.get(timeout=min(seconds, 0.1))
        return ticket

    def _compute(self, first: Ticket) -> None:
        """Compute an order, and those that follow while it is on its way and lack the same."""
        generation, _ = self._generation(first.order.generation)
        runner = shard_runner(
            self._writer,
            generation,
            prepared=self._prepared,
            progress=self._progress,
            on_progress=self._advance,
            on_settled=self._settle,
        )
        with encoding(self._prepared):
            runner.run(self._tasks(first), self._pool)

    def _tasks(self, first: Ticket) -> Iterator[ShardTask]:
        """Tasks for the decoders, in one of whose threads this runs."""
        generation, amended = self._generation(first.order.generation)
        ticket: Ticket | None = first
        while ticket is not None:
            order = ticket.order
            yield from shard_tasks(
                generation,
                amended=amended,
                root=Path(self._assignment.root),
                paths=self._assignment.moved,
                pending={order.shard: order.features},
                writer=self._writer,
                features=self._prepared.features,
            )
            ticket.drawn.set()
            ticket = self._next(NEXT_SECONDS)
            if ticket is not None and replace(ticket.order, shard=order.shard) != order:
                self._held, ticket = ticket, None

    def _generation(self, number: int) -> tuple[Generation, Mapping[int, Amendment]]:
        if number not in self._generations:
            store = open_store(self._writer.root)
            pairs = zip(self._writer.generations(), store.amended, strict=False)  # one may have been added meanwhile
            self._generations |= {generation.number: (generation, amended) for generation, amended in pairs}
        return self._generations[number]

    def _advance(self, progress: Progress) -> None:
        if not self._is_open:
            raise SessionClosedError
        now = time.monotonic()
        if now - self._told >= TELL_SECONDS:
            self._told = now
            self._tell(self.telling())

    def _settle(self, task: ShardTask, committed: Committed | None) -> None:
        if committed is not None:
            self._whole = Committed(
                num_videos=self._whole.num_videos + committed.num_videos,
                num_rows=self._whole.num_rows + committed.num_rows,
                num_frames=self._whole.num_frames + committed.num_frames,
            )
        with self._lock:
            order = ShardOrder(generation=task.generation, shard=task.shard, features=task.features)
            ticket = self._tickets.pop(order)
        ticket.settle(committed)


class _Remarks(logging.Handler):
    """Passes on the warnings of one thread."""

    def __init__(self, tell: Callable[[Remark], None]) -> None:
        super().__init__(logging.WARNING)
        self._remark = tell
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a warning on."""
        if record.thread == self._thread:
            self._remark(Remark(logger=record.name, level=record.levelno, message=record.getMessage()))


class SessionClosedError(FeatcacheError):
    """A session has ended before a shard was committed."""

    def __init__(self) -> None:
        super().__init__("the run has ended")


@contextmanager
def _searching(folder: Path) -> Iterator[None]:
    """Search the client's folder of weights where there is one of that path; a worker elsewhere has its own."""
    if not folder.is_dir():
        yield
        return
    with using_weights_folder(folder):
        yield


def check_versions(wanted: Mapping[str, str]) -> None:
    """Check that this process has the same packages as the client."""
    for package, version in wanted.items():
        if (found := metadata.version(package)) != version:
            raise FeatcacheError(other_version(package, found, wanted=version))


def sha256_of_file(given: str) -> str:
    """SHA-256 of the Python file that an argument of ``--use`` names."""
    return hashlib.sha256(Path(given.rpartition(":")[0]).read_bytes()).hexdigest()


def use_files(wanted: Mapping[str, str]) -> None:
    """Run the client's files of ``--use``; a worker may have run one before, with other contents."""
    for given, sha256 in wanted.items():
        use_file(given)
        if _USED.setdefault(given, sha256_of_file(given)) != sha256:
            raise FeatcacheError(f"it has run another {given} than this run; start the worker anew")


def device_for(settings: ExtractSettings, *, is_on_gpu: bool) -> str:
    """The device of this process, which must be of the kind for which the run was planned."""
    device = resolve_device(settings.runtime.device)
    if is_on_gpu != (device != "cpu"):
        have, planned = ("no GPU", "with GPUs") if is_on_gpu else ("a GPU", "without")
        raise FeatcacheError(
            f"it has {have}, and the run was planned for workers {planned}; use workers of one kind, or --device cpu"
        )
    return device


def check_sees(assignment: Assignment) -> None:
    """Check that this process sees the store of the run, the same as the client, and its videos."""
    out = assignment.settings.out
    if not is_store(out):
        raise FeatcacheError(f"it sees no store at {out}; every worker needs the same disk at that path")
    if not is_marked(out, assignment.run):
        raise FeatcacheError(f"it sees another store at {out}; every worker needs the same disk at that path")
    for video in map(Path, assignment.seen):
        if not is_there(video):
            raise FeatcacheError(
                f"it does not see the video {shown(video)}; every worker needs the videos at the same place"
            )
