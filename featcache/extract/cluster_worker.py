"""Functions that run in the workers of a Dask cluster, where a process keeps one session."""

import asyncio
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from distributed import Worker, get_worker, secede

from featcache.errors import FeatcacheError, NonFiniteFeatureError
from featcache.extract.orders import Assignment, ShardOrder, ShardReport
from featcache.extract.shard_session import SessionClosedError, ShardSession, Ticket
from featcache.machine import num_cores, resolve_device

TOPIC = "featcache"
"""Topic of the scheduler's events under which sessions tell their counters."""
UNFIT_SECONDS = 1.0
"""How long an unfit worker keeps an order, so that most go to other workers at once."""

_lock = threading.Lock()
_session: ShardSession | None = None
_refused: tuple[str, FeatcacheError] | None = None  # a run that this process cannot compute


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a worker is. Picklable.

    Attributes:
        host: Name of its machine.
        device: What its device setting stands for there.
        cores: Number of cores that it may use.
        gpus: Its Dask resource ``GPU``.
    """

    host: str
    device: str
    cores: int
    gpus: float


def look(device: str, *, dask_worker: Worker) -> Seen | str:
    """What a worker is, or a sentence if it does not have the device. Dask gives ``dask_worker``."""
    try:
        resolved = resolve_device(device)
    except FeatcacheError as error:
        return str(error)
    gpus = dask_worker.state.total_resources.get("GPU", 0)
    return Seen(host=socket.gethostname(), device=resolved, cores=num_cores(), gpus=gpus)


def run_shard(order: ShardOrder, assignment: Assignment) -> ShardReport:
    """A task of the cluster: compute and commit one shard. Repeating it changes nothing.

    A task leaves its thread to the next one when all its videos are with the decoders, so that decoding does not stop
    between two shards.
    """
    address = get_worker().address
    holds_thread = True
    while True:
        try:
            ticket, session = _take(order, assignment)
        except FeatcacheError as unfit:
            time.sleep(UNFIT_SECONDS)
            return ShardReport(order=order, worker=address, outcome="unfit", sentence=str(unfit))
        ticket.drawn.wait()
        if holds_thread:
            secede()
            holds_thread = False
        ticket.settled.wait()
        if not isinstance(ticket.error, SessionClosedError):
            break  # else its session had waited for too long and has just ended
    report = ShardReport(order=order, worker=address, outcome="committed", telling=session.telling())
    error = ticket.error
    if error is None and ticket.committed is not None:
        return replace(report, committed=ticket.committed)
    if error is None:
        return replace(report, outcome="elsewhere")
    if not isinstance(error, FeatcacheError):
        raise error
    is_shards_fault = isinstance(error, NonFiniteFeatureError)  # it would be the same on any worker
    return replace(report, outcome="impossible" if is_shards_fault else "failed", sentence=str(error))


async def close_session(run: str) -> None:
    """Stop the session of a run, if there is one, and open no other for it."""
    await asyncio.to_thread(_close, run)


def _close(run: str) -> None:
    global _session, _refused
    with _lock:
        _refused = (run, SessionClosedError())
        if _session is not None and _session.run == run:
            _session.close()
            _session = None


def _take(order: ShardOrder, assignment: Assignment) -> tuple[Ticket, ShardSession]:
    """Give an order to the session of its run, which is opened if there is none."""
    global _session, _refused
    worker = get_worker()
    with _lock:
        if _refused is not None and _refused[0] == assignment.run:
            raise _refused[1]
        try:
            if _session is not None and _session.run != assignment.run:
                _session.close()
                _session = None
            if _session is not None:
                with suppress(SessionClosedError):  # after a minute without orders, or with an error
                    return _session.take(order), _session
            _session = ShardSession(
                assignment,
                worker=worker.address,
                tell=lambda told: worker.log_event(TOPIC, {"run": assignment.run, type(told).__name__: asdict(told)}),
            )
            return _session.take(order), _session
        except FeatcacheError as error:
            _refused = (assignment.run, error)
            raise
