"""The engine that lets workers of a Dask cluster compute: those of a scheduler, or processes of this machine.

This process plans, hands out shards and shows the progress; each worker opens the store itself and commits its shards.
"""

import logging
import os
import secrets
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import dask.config
from distributed import Client, Nanny, Scheduler, SpecCluster, Worker, WorkerPlugin

from featcache.backbones.from_file import files_in_use
from featcache.data.remote import is_there
from featcache.errors import ConfigError, FeatcacheError
from featcache.extract.cluster_worker import close_session
from featcache.extract.cluster_workers import Workers, survey
from featcache.extract.filling import Filling, Work
from featcache.extract.gathering import Gathering
from featcache.extract.orders import PACKAGES, Assignment, ShardOrder
from featcache.extract.prepare import Machine, Prepared, prepare
from featcache.extract.settings import ExtractSettings
from featcache.extract.shard_session import sha256_of_file
from featcache.files.urls import absolute, place_of
from featcache.machine import ONE_ARENA, resolve_device, weights_folder
from featcache.store.overlay import shown
from featcache.store.reader import open_store

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
NUM_SEEN = 8
"""Number of files of videos that each worker has to see."""
QUIET: Mapping[str, Any] = {
    "nanny.pre-spawn-environ": {"MALLOC_TRIM_THRESHOLD_": None, **ONE_ARENA},
    "worker.profile.enabled": False,
    "admin.tick.interval": "1s",
    "admin.system-monitor.interval": "5s",
}
"""Settings of Dask for processes of this machine. By default a worker returns freed memory to the system at once, which
took most of the time of a forward pass on a CPU, and both sides watch themselves up to a hundred times a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterEngine:
    """Computes in the workers of a cluster.

    Attributes:
        client: The connected client.
        workers: What is known of the workers.
        machine: What each worker may use.
        sharing: Number of workers that share a host's cores.
        run: Name of the run.
    """

    client: Client
    workers: Workers
    machine: Machine
    sharing: int
    run: str

    def prepare(self, settings: ExtractSettings) -> Prepared:
        """Build the backbones here on the CPU, for their shapes and hashes; the workers build their own."""
        return prepare(settings, device="cpu", machine=self.machine)

    def fill(self, filling: Filling, work: Work) -> None:
        """Hand out the shards and wait for them."""
        orders = [
            ShardOrder(generation=generation.number, shard=shard, features=names)
            for generation, pending in work
            for shard, names in sorted(pending.items())
        ]
        with filling.writer.marked(self.run):
            gathering = Gathering(
                client=self.client,
                workers=self.workers,
                assignment=self._assignment(filling, work),
                filling=filling,
            )
            gathering.compute(orders, [generation for generation, _ in work])

    def _assignment(self, filling: Filling, work: Work) -> Assignment:
        settings = filling.prepared.settings
        root = absolute(filling.root)
        paths = {video: Path(absolute(path)) for video, path in filling.paths().items()}
        amended = open_store(filling.writer.root).amended
        present = (
            shown(video, amended[generation.number].get(row))
            for generation, _ in work
            for row, video in enumerate(generation.videos)
        )
        return Assignment(
            run=self.run,
            settings=settings.model_copy(
                update={
                    "out": absolute(Path(settings.out)),
                    "features": tuple(
                        feature.model_copy(update={"weights": _anywhere(feature.weights)})
                        for feature in settings.features
                    ),
                }
            ),
            root=root,
            moved={
                now.id: paths[now.id]
                for now in present
                if now.id in paths and place_of(root, now.path) != paths[now.id]
            },
            seen=tuple(str(path) for path in _some(list(paths.values())) if is_there(path)),
            used_files={given: sha256_of_file(given) for given in files_in_use()},
            weights_folder=str(weights_folder().absolute()),
            versions={package: metadata.version(package) for package in PACKAGES},
            is_on_gpu=self.machine.device != "cpu",
            sharing=self.sharing,
        )


def _anywhere(weights: str) -> str:
    """Weights as a path that means the same in another process, if they are a file."""
    path = Path(weights).expanduser()
    return str(path.absolute()) if path.exists() else weights


def _some(paths: Sequence[Path]) -> list[Path]:
    """A few paths, evenly spaced, so that they lie in different folders if there are several."""
    return list(paths[:: max(1, len(paths) // NUM_SEEN)][:NUM_SEEN])


@contextmanager
def cluster_engine(settings: ExtractSettings) -> Iterator[ClusterEngine]:
    """Connect to a scheduler, or start processes on this machine, for a ``with`` block.

    Raises:
        FeatcacheError: The scheduler cannot be reached, or has no worker that can compute.
    """
    given = settings.cluster
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        client = stack.enter_context(_connected(settings))
        where = given.scheduler or f"--workers {given.workers}"
        workers = Workers(client=client, where=where, wait_seconds=given.wait_seconds)
        workers.wait_for_one()
        seen = survey(workers, device=settings.runtime.device)
        kinds = Counter(each.device.partition(":")[0] for each in seen.values())
        if len(kinds) > 1:
            with_gpu, without = (
                next(worker for worker, each in seen.items() if (each.device != "cpu") == is_on_gpu)
                for is_on_gpu in (True, False)
            )
            raise ConfigError(
                f"workers of {where} differ: {with_gpu} has a GPU and {without} has none, and their features would "
                "differ too; use workers of one kind, or --device cpu"
            )
        sharing = max(Counter(each.host for each in seen.values()).values())
        first = next(iter(seen.values()))
        cores = max(1, min(each.cores for each in seen.values()) // sharing)
        log.info("%d workers at %s, %d cores each, on %s", len(seen), where, cores, first.device)
        run = secrets.token_hex(8)
        stack.callback(_leave, client, run)
        machine = Machine(device=first.device, cores=cores)
        yield ClusterEngine(client=client, workers=workers, machine=machine, sharing=sharing, run=run)


@contextmanager
def _connected(settings: ExtractSettings) -> Iterator[Client]:
    if settings.cluster.workers:
        with _local_cluster(settings) as cluster, Client(cluster, set_as_default=False) as client:
            client.register_plugin(_DeafToInterrupts())
            yield client
        return
    scheduler = settings.cluster.scheduler
    assert scheduler is not None, "neither a scheduler nor workers"
    client = _connect(scheduler)
    try:
        yield client
    finally:
        client.close(timeout=CONNECT_SECONDS)


def _connect(scheduler: str) -> Client:
    """A client of a scheduler, made in a thread, since Dask waits for ever for a server that says nothing."""
    found: Future[Client] = Future()

    def connect() -> None:
        file = {"scheduler_file": scheduler} if scheduler.endswith(".json") else {"address": scheduler}
        try:
            found.set_result(Client(**file, timeout=CONNECT_SECONDS, set_as_default=False))
        except BaseException as error:  # of a kind that depends on what answers there, if anything does
            found.set_exception(error)

    threading.Thread(target=connect, name="featcache-connect", daemon=True).start()
    try:
        return found.result(timeout=2 * CONNECT_SECONDS)
    except Exception as error:
        why = " ".join(str(error).split()) or "it says nothing"
        raise FeatcacheError(
            f"no Dask scheduler answers at {scheduler} ({why}); start one with `dask scheduler`, or give the address "
            "that it prints, e.g. tcp://head:8786"
        ) from error


@contextmanager
def _local_cluster(settings: ExtractSettings) -> Iterator[SpecCluster]:
    """A scheduler in this process, and workers in processes of their own, each with one of several GPUs.

    They are set up as :data:`QUIET` says.
    """
    gpus = _gpus(settings.runtime.device)
    plain: dict[str, Any] = {"nthreads": 1, "memory_limit": 0, "dashboard": False, "silence_logs": logging.CRITICAL}
    pinned = [{"env": {"CUDA_VISIBLE_DEVICES": gpu}, "resources": {"GPU": 1}} for gpu in gpus] or [{}]
    workers = {
        number: {"cls": Nanny, "options": plain | pinned[number % len(pinned)]}
        for number in range(settings.cluster.workers)
    }
    scheduler = {
        "cls": Scheduler,
        "options": {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": ":0"},
    }
    with (
        dask.config.set({f"distributed.{key}": value for key, value in QUIET.items()}),
        SpecCluster(workers=workers, scheduler=scheduler, name="featcache") as cluster,
    ):
        yield cluster


def _gpus(device: str) -> list[str]:
    """The GPUs among which processes are spread; none if there is one or the settings name one."""
    import torch

    resolved = resolve_device(device)
    if resolved != "cuda" or (count := torch.cuda.device_count()) < 2:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",")[:count] if visible else [str(number) for number in range(count)]


class _DeafToInterrupts(WorkerPlugin):
    """Leaves Ctrl-C, which a terminal sends to all processes of a command, to the process that planned the run."""

    def setup(self, worker: Worker) -> None:
        """Ignore the signal."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave(client: Client, run: str) -> None:
    """Stop what the workers still do for the run."""
    if client.status == "running":
        client.run(close_session, run, wait=False, on_error="ignore")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's log lines back: what matters of them is said in a sentence."""
    logger = logging.getLogger("distributed")
    former = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(former)
