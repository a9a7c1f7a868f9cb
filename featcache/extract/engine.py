"""The local engine: decoding processes work ahead of the encoder, and each finished shard is committed at once."""

import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.data.decoding.clips import CropSize, RowBatch
from featcache.data.decoding.pool import Event, Failed, Finished, Payload, Restarted, WorkerPool
from featcache.data.types import Status, VideoOutcome, VideoRecord
from featcache.extract.encode import BoundFeature, encode_rows
from featcache.extract.jobs import RowDetails, SegmentJob
from featcache.extract.progress import Committed, OnProgress, Progress
from featcache.files.urls import place_of
from featcache.machine import forward_threads
from featcache.store.overlay import Amendment, shown
from featcache.store.plan import Segment
from featcache.store.precision import staging_dtype, to_storage
from featcache.store.rows import RowTable
from featcache.store.writer import Generation, StoreWriter

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """One unit of work: a shard and the features it still lacks. A picklable value.

    Attributes:
        generation: Number of the generation.
        shard: Number of the shard.
        features: Names of the arrays to fill.
        jobs: One job per segment, in row order.
        segments: The segments that hold each job's rows.
    """

    generation: int
    shard: int
    features: tuple[str, ...]
    jobs: tuple[SegmentJob, ...]
    segments: tuple[Segment, ...]


def shard_tasks(
    generation: Generation,
    *,
    amended: Mapping[int, Amendment],
    root: Path,
    paths: Mapping[str, Path],
    pending: dict[int, tuple[str, ...]],
    writer: StoreWriter,
    features: Sequence[BoundFeature],
) -> Iterator[ShardTask]:
    """The tasks of one generation, in shard order; a pure function of the plan and the pending work.

    Args:
        generation: The generation.
        amended: Amendments of its videos by overlays, by row: a renamed video is read from its present path, but its
            clips are those of the id in the plan.
        root: Folder to which relative paths of the plan refer.
        paths: Present paths of videos, by id; for other videos the plan's path is used.
        pending: Features that each unfinished shard lacks.
        writer: The open store, for its sampling recipe.
        features: All features of the run.
    """
    sizes = {feature.name: feature.crop for feature in features}
    videos = generation.videos

    def path_of(row: int) -> str:
        now = shown(videos[row], amended.get(row))
        return str(paths.get(now.id) or place_of(root, now.path))

    for shard, names in sorted(pending.items()):
        segments = generation.shard_segments(shard)
        yield ShardTask(
            generation=generation.number,
            shard=shard,
            features=names,
            segments=segments,
            jobs=tuple(
                SegmentJob(
                    path=path_of(segment.video),
                    video=videos[segment.video],
                    sampling=writer.sampling,
                    first_clip=segment.first_clip,
                    num_rows=segment.num_rows,
                    sizes=tuple(dict.fromkeys(sizes[name] for name in names)),
                )
                for segment in segments
            ),
        )


OnSettled = Callable[[ShardTask, Committed | None], None]


def tell_nobody(task: ShardTask, committed: Committed | None) -> None:
    """Ignore what has become of a task."""


@dataclass(slots=True, kw_only=True)
class _OpenShard:
    """A shard in progress: its arrays, and the outcomes of its segments."""

    task: ShardTask
    claim: ExitStack
    committed: bool = False
    arrays: dict[str, npt.NDArray[np.generic]]
    present: npt.NDArray[np.bool_]
    details: dict[int, RowDetails] = field(default_factory=dict)
    failures: dict[int, tuple[Status, str]] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)
    waiting_rows: int = 0

    @property
    def is_complete(self) -> bool:
        everything_in = len(self.finished) == len(self.task.segments) and self.waiting_rows == 0
        return everything_in and not self.committed


@dataclass(frozen=True, slots=True, kw_only=True)
class _WaitingRow:
    """A decoded row on its way to the encoder.

    Attributes:
        shard: Shard to which the row belongs.
        position: Position of its segment in the shard.
        row: Row within the segment.
        pixels: uint8 [T, 3, S, S] by size.
    """

    shard: _OpenShard
    position: int
    row: int
    pixels: dict[CropSize, npt.NDArray[np.uint8]]

    @property
    def in_shard(self) -> int:
        """Row within the shard."""
        return self.shard.task.segments[self.position].first_row + self.row


@dataclass(slots=True, kw_only=True)
class ShardRunner:
    """Runs tasks of one generation through a pool and commits them to a store.

    Attributes:
        writer: The open store.
        generation: The generation to which the tasks belong.
        features: Features by name.
        device: Device of the backbones.
        ahead_bytes: Decoded pixels that may wait for the encoder.
        provenance: Versions and device, recorded in every commit record.
        progress: Counters to advance.
        on_progress: Called whenever the counters have changed.
        on_settled: Called with each task that needs no more work here, and what was committed of it; ``None`` if
            another process has claimed its shard. Called from this thread or from a thread of the pool.
    """

    writer: StoreWriter
    generation: Generation
    features: dict[str, BoundFeature]
    device: str
    ahead_bytes: int
    provenance: dict[str, str]
    progress: Progress
    on_progress: OnProgress
    on_settled: OnSettled = tell_nobody
    _slots: dict[int, tuple[_OpenShard, int]] = field(default_factory=dict)
    _queue: list[_WaitingRow] = field(default_factory=list)

    def run(self, tasks: Iterable[ShardTask], pool: WorkerPool) -> None:
        """Run tasks that all lack the same features. A shard that another process has claimed is skipped."""
        started = time.monotonic() - self.progress.elapsed_seconds  # other runners may have advanced these counters
        with ExitStack() as claims, forward_threads(self.generation.threads):
            waited = pool.wait_seconds
            for event in pool.run(self._jobs(tasks, claims), ahead_bytes=self.ahead_bytes):
                self.progress.decode_wait_seconds += pool.wait_seconds - waited
                self._handle(event)
                waited = pool.wait_seconds
                self.progress.elapsed_seconds = time.monotonic() - started
                self.on_progress(self.progress)
            self._encode_all(flush=True)
        self.on_progress(self.progress)

    def _jobs(self, tasks: Iterable[ShardTask], claims: ExitStack) -> Iterator[SegmentJob]:
        """Yield jobs shard after shard; a shard is claimed when its first job is drawn."""
        items = itertools.count()
        for task in tasks:
            claim = claims.enter_context(ExitStack())
            if not claim.enter_context(self.writer.shard_lock(self.generation, task.shard)):
                claim.close()  # releases its file descriptor; there may be thousands of such shards
                log.info("shard %d of generation %d is being written elsewhere", task.shard, task.generation)
                self.on_settled(task, None)
                continue
            if all(self.writer.is_committed(self.generation, task.shard, feature=name) for name in task.features):
                claim.close()  # another process has finished it meanwhile
                self.on_settled(task, Committed())
                continue
            rows = self.generation.shard_rows
            arrays = {
                name: np.zeros(
                    (rows, *self.features[name].record.shape), staging_dtype(self.features[name].record.dtype)
                )
                for name in task.features
            }
            shard = _OpenShard(task=task, claim=claim, arrays=arrays, present=np.zeros(rows, bool))
            for position, job in enumerate(task.jobs):
                self._slots[next(items)] = (shard, position)
                yield job

    def _handle(self, event: Event) -> None:
        shard, position = self._slots[event.item]
        match event:
            case Payload(value=RowDetails() as details):
                shard.details[position] = details
            case Payload(value=RowBatch() as batch):
                shard.waiting_rows += len(batch.rows)
                for index, row in enumerate(batch.rows):
                    pixels = {size: values[index] for size, values in batch.pixels.items()}
                    self._queue.append(_WaitingRow(shard=shard, position=position, row=row, pixels=pixels))
                self._encode_all(flush=False)
            case Restarted():
                self._drop(shard, position)
            case Failed(status=status, reason=reason):
                self._drop(shard, position)
                shard.failures[position] = (status, reason)
                video = shard.task.jobs[position].video
                log.warning("%s: %s: %s", video.id, status, reason)
                self.progress.failed[status] = self.progress.failed.get(status, 0) + 1
                self.progress.rows_failed += shard.task.segments[position].num_rows
                self._finish(event.item)
            case Finished():
                self._finish(event.item)
        self._commit_if_complete(shard)

    def _finish(self, item: int) -> None:
        shard, position = self._slots.pop(item)
        shard.finished.add(position)
        self.progress.videos_done += 1

    def _drop(self, shard: _OpenShard, position: int) -> None:
        """Drop the rows that an interrupted segment has delivered so far."""
        kept = [row for row in self._queue if row.shard is not shard or row.position != position]
        shard.waiting_rows -= len(self._queue) - len(kept)
        self._queue = kept
        shard.details.pop(position, None)
        segment = shard.task.segments[position]
        rows = slice(segment.first_row, segment.first_row + segment.num_rows)
        self.progress.rows_done -= int(shard.present[rows].sum())
        shard.present[rows] = False

    def _encode_all(self, *, flush: bool) -> None:
        """Encode full batches, and with ``flush`` also the rest."""
        size = self.generation.encode_batch
        while len(self._queue) >= size or (flush and self._queue):
            batch, self._queue = self._queue[:size], self._queue[size:]
            self._encode(batch)

    def _encode(self, batch: list[_WaitingRow]) -> None:
        started = time.monotonic()
        names = batch[0].shard.task.features
        pixels = {size: np.stack([waiting.pixels[size] for waiting in batch]) for size in batch[0].pixels}
        records = encode_rows(
            [self.features[name] for name in names],
            pixels,
            encode_batch=self.generation.encode_batch,
            device=self.device,
        )
        videos = list(dict.fromkeys(waiting.shard.task.jobs[waiting.position].video.id for waiting in batch))
        for name in names:
            where = f"{name!r} of {', '.join(videos[:3])}"
            stored = to_storage(records[name], self.features[name].record.dtype, where=where)
            for index, waiting in enumerate(batch):
                waiting.shard.arrays[name][waiting.in_shard] = stored[index]
        for waiting in batch:
            waiting.shard.present[waiting.in_shard] = True
            waiting.shard.waiting_rows -= 1
        self.progress.rows_done += len(batch)
        self.progress.frames_done += len(batch) * next(iter(pixels.values())).shape[1]
        self.progress.encode_seconds += time.monotonic() - started
        for waiting in batch:
            self._commit_if_complete(waiting.shard)

    def _commit_if_complete(self, shard: _OpenShard) -> None:
        if not shard.is_complete:
            return
        started = time.monotonic()
        task = shard.task
        outcomes = [
            _outcome(task.jobs[position].video, segment, shard.failures.get(position))
            for position, segment in enumerate(task.segments)
        ]
        self.writer.commit_shard(
            self.generation,
            task.shard,
            features=shard.arrays,
            present=shard.present,
            rows=_row_table(shard),
            outcomes=outcomes,
            provenance=self.provenance,
        )
        num_rows = int(shard.present.sum())
        num_bytes = sum(num_rows * self.features[name].record.num_bytes for name in shard.arrays)
        self.progress.bytes_written += num_bytes
        shard.committed = True
        shard.arrays.clear()
        shard.details.clear()
        shard.claim.close()
        self.progress.shards_done += 1
        self.progress.commit_seconds += time.monotonic() - started
        committed = Committed(
            num_videos=len(task.segments),
            num_rows=num_rows,
            num_frames=num_rows * task.jobs[0].sampling.num_frames,
            num_bytes=num_bytes,
            rows_failed=sum(task.segments[position].num_rows for position in shard.failures),
            failed=dict(Counter(status for status, _ in shard.failures.values())),
        )
        self.on_settled(task, committed)


def _outcome(video: VideoRecord, segment: Segment, failure: tuple[Status, str] | None) -> VideoOutcome:
    status, reason = failure or ("ok", "")
    return VideoOutcome(
        id=video.id, status=status, reason=reason, first_row=segment.first_row, num_rows=segment.num_rows
    )


def _row_table(shard: _OpenShard) -> RowTable:
    """The details of all rows that are present, in row order."""
    num_frames = shard.task.jobs[0].sampling.num_frames
    tables = [
        _segment_rows(segment, shard.details[position])
        for position, segment in enumerate(shard.task.segments)
        if position not in shard.failures
    ]
    return RowTable.concatenate([RowTable.empty(num_frames=num_frames), *tables])


def _segment_rows(segment: Segment, details: RowDetails) -> RowTable:
    boxes = np.array(
        [(spec.box.y0, spec.box.x0, spec.box.y1, spec.box.x1) for spec in details.specs], dtype=np.int32
    ).reshape(-1, 4)
    return RowTable(
        video=np.full(segment.num_rows, segment.video, np.int32),
        row=np.arange(segment.first_row, segment.first_row + segment.num_rows, dtype=np.int32),
        clip=np.array([spec.index for spec in details.specs], np.int32),
        frames=np.array([spec.frames for spec in details.specs], np.int32),
        pts_seconds=np.array(details.pts_seconds, np.float64),
        t0=np.ascontiguousarray(details.times[:, 0]),
        t1=np.ascontiguousarray(details.times[:, 1]),
        y0=boxes[:, 0],
        x0=boxes[:, 1],
        y1=boxes[:, 2],
        x1=boxes[:, 3],
        flip=np.array([spec.flip for spec in details.specs], np.bool_),
    )
