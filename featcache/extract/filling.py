"""What fills a store: the shards that a run still has to compute, and the engine that computes them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from featcache.data.decoding.pool import WorkerPool
from featcache.data.manifest import Manifest
from featcache.errors import FeatcacheError
from featcache.extract.encode import float32_products
from featcache.extract.engine import OnSettled, ShardRunner, shard_tasks, tell_nobody
from featcache.extract.jobs import decode_segment
from featcache.extract.prepare import Machine, Prepared, num_decoders, prepare
from featcache.extract.progress import OnProgress, Progress
from featcache.extract.provenance import provenance
from featcache.extract.settings import ExtractSettings
from featcache.files.urls import shown
from featcache.machine import keep_freed_memory
from featcache.store.reader import open_store
from featcache.store.writer import Generation, StoreWriter

Work = Sequence[tuple[Generation, Mapping[int, tuple[str, ...]]]]
"""Generations, each with the features that its unfinished shards lack, by shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """A store that is being filled with the features of some videos.

    Attributes:
        writer: The open store.
        manifest: Videos of the source.
        prepared: The resolved settings.
        progress: Counters to advance.
        on_progress: Called whenever the counters have changed.
    """

    writer: StoreWriter
    manifest: Manifest
    prepared: Prepared
    progress: Progress
    on_progress: OnProgress

    @property
    def root(self) -> Path:
        """Folder to which relative paths of plans refer."""
        return Path(self.manifest.root)

    def paths(self) -> dict[str, Path]:
        """Present path of each video of the source, by id."""
        return {video.id: self.manifest.path_of(video) for video in self.manifest.videos}


class Engine(Protocol):
    """What computes shards: this process, or the workers of a cluster."""

    def prepare(self, settings: ExtractSettings) -> Prepared:
        """Build the backbones in this process, and resolve the settings for the machines that compute."""

    def fill(self, filling: Filling, work: Work) -> None:
        """Compute and commit shards; those that another process has claimed are left to it.

        Raises:
            FeatcacheError: A machine failed, or no shard can be computed like this; what is committed stays.
        """


def decoders(settings: ExtractSettings, *, machine: Machine) -> WorkerPool:
    """The processes that decode; they start at once."""
    return WorkerPool(
        decode_segment,
        name=lambda job: shown(Path(job.path)),
        num_workers=num_decoders(settings, machine=machine),
        deadline_seconds=settings.runtime.deadline_seconds,
        max_gigapixels=settings.runtime.max_gigapixels,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEngine:
    """Computes in this process.

    Attributes:
        pool: The processes that decode.
        device: Device of the backbones.
    """

    pool: WorkerPool
    device: str

    def prepare(self, settings: ExtractSettings) -> Prepared:
        """Build the backbones on their device."""
        return prepare(settings, device=self.device)

    def fill(self, filling: Filling, work: Work) -> None:
        """Compute one generation after the other."""
        amended = open_store(filling.writer.root).amended
        paths = filling.paths()
        with encoding(filling.prepared):
            for generation, pending in work:
                for names in sorted(set(pending.values())):
                    runner = shard_runner(
                        filling.writer,
                        generation,
                        prepared=filling.prepared,
                        progress=filling.progress,
                        on_progress=filling.on_progress,
                    )
                    tasks = shard_tasks(
                        generation,
                        amended=amended[generation.number],
                        root=filling.root,
                        paths=paths,
                        pending={shard: lacked for shard, lacked in pending.items() if lacked == names},
                        writer=filling.writer,
                        features=filling.prepared.features,
                    )
                    runner.run(tasks, self.pool)


def shard_runner(
    writer: StoreWriter,
    generation: Generation,
    *,
    prepared: Prepared,
    progress: Progress,
    on_progress: OnProgress,
    on_settled: OnSettled = tell_nobody,
) -> ShardRunner:
    """A runner of tasks of one generation, with the backbones of this process."""
    return ShardRunner(
        writer=writer,
        generation=generation,
        features={feature.name: feature for feature in prepared.features},
        device=prepared.device,
        ahead_bytes=prepared.ahead_bytes,
        provenance=provenance(prepared.device, matmul=prepared.settings.runtime.matmul),
        progress=progress,
        on_progress=on_progress,
        on_settled=on_settled,
    )


@contextmanager
def encoding(prepared: Prepared) -> Iterator[None]:
    """Multiply as the settings say for a ``with`` block, and blame the machine for what is no fault of a video.

    On a CPU the process keeps freed memory from now on.

    Raises:
        FeatcacheError: The machine failed while a video was read; this is not recorded as a fault of the video.
    """
    keep_freed_memory(prepared.device)
    with blaming_the_machine(), float32_products(prepared.settings.runtime.matmul):
        yield


@contextmanager
def blaming_the_machine() -> Iterator[None]:
    """Turn an I/O error that is not the fault of a video into a readable message."""
    try:
        yield
    except FeatcacheError:
        raise
    except OSError as error:
        raise FeatcacheError(
            f"the extraction stopped at {error.filename} ({error.strerror}): the machine failed, not the video; "
            "fix that and run the same command again"
        ) from error
