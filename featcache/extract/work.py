"""What an extraction does: plan what the store lacks, decode and encode it, commit it."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from featcache.config import to_yaml
from featcache.data.manifest import Manifest
from featcache.data.types import PASSING, VideoRecord
from featcache.extract.amending import find_renames
from featcache.extract.estimate import check_disk, choose_shard_rows
from featcache.extract.filling import Engine, Filling, LocalEngine, decoders
from featcache.extract.lacking import (
    ids_to_retry,
    judge,
    rows_per_video,
    tell_differences,
    videos_to_add,
    worth_another_try,
)
from featcache.extract.prepare import Machine, Prepared
from featcache.extract.progress import OnProgress, Progress
from featcache.extract.result import Extraction
from featcache.extract.settings import ClusterSettings, ExtractSettings
from featcache.files.base import store_place
from featcache.imports import collecting_nothing
from featcache.machine import num_cores, resolve_device
from featcache.store.completion import reopen_lost
from featcache.store.plan import plan_segments
from featcache.store.reader import open_store
from featcache.store.writer import Generation, StoreWriter

log = logging.getLogger(__name__)


def carry_out(settings: ExtractSettings, *, scanned: Callable[[], Manifest], on_progress: OnProgress) -> Extraction:
    """Compute what a store lacks.

    Args:
        settings: The extraction.
        scanned: Waits for the videos of its source.
        on_progress: Called with the counters of the run.

    Returns:
        What was done, ``seconds`` still 0.

    Raises:
        FeatcacheError: As :func:`featcache.extract.run.extract`. Errors of backbones are reported first.
    """
    with engine_of(settings) as engine:
        with collecting_nothing():  # backbones import their libraries
            prepared = engine.prepare(settings)
        manifest = scanned()
        manifest = Manifest(root=manifest.root, videos=judge(manifest.videos, prepared.sampling))
        progress = Progress()
        config, elsewhere = _fill(prepared, manifest, engine=engine, progress=progress, on_progress=on_progress)
    store = store_place(settings.out)
    opened = open_store(store)
    coverages = {feature.name: opened.coverage(feature.name) for feature in prepared.features}
    num_rows = opened.num_rows(prepared.features[0].name)
    pending = max(coverage.pending for coverage in coverages.values())
    failures = {}
    for name, coverage in coverages.items():
        tries = opened.tries(name)
        for failure in coverage.failures:
            often = f" (tried {tries[failure.id]} times)" if tries[failure.id] > 1 else ""
            failures[failure.id] = (failure.id, failure.status, failure.reason + often)
    total = coverages[prepared.features[0].name].total
    return Extraction(
        store=str(store),
        config=config,
        features=tuple(coverages),
        videos_total=total,
        videos_ok=total - len(failures) - pending,
        videos_pending=pending,
        videos_failed=len(failures),
        failures=tuple(failures.values()),
        rows_total=num_rows,
        rows_written=progress.rows_done,
        bytes_written=progress.bytes_written,
        shards_elsewhere=elsewhere,
        decode_wait_seconds=progress.decode_wait_seconds,
        encode_seconds=progress.encode_seconds,
        commit_seconds=progress.commit_seconds,
        seconds=0.0,
        bottleneck=progress.bottleneck,
        max_failed=prepared.settings.max_failed,
    )


@contextmanager
def engine_of(settings: ExtractSettings) -> Iterator[Engine]:
    """What computes the shards of an extraction, for a ``with`` block."""
    if settings.cluster.is_used:
        from featcache.extract.cluster import cluster_engine  # distributed is an extra

        with cluster_engine(settings) as cluster:
            yield cluster
        return
    device = resolve_device(settings.runtime.device)
    machine = Machine(device=device, cores=num_cores())
    with decoders(settings, machine=machine) as pool:  # they start, and import torch too, while backbones are built
        yield LocalEngine(pool=pool, device=device)


def _fill(
    prepared: Prepared, manifest: Manifest, *, engine: Engine, progress: Progress, on_progress: OnProgress
) -> tuple[str, int]:
    """Plan and compute what a store lacks of these videos.

    Returns:
        Where the settings are kept, and how many shards another process was writing.
    """
    settings = prepared.settings
    paths = {video.id: manifest.path_of(video) for video in manifest.videos}
    store = store_place(settings.out)
    reopen_lost(store)
    check_disk(prepared, manifest, store=store)
    with StoreWriter.open(store, sampling=prepared.sampling, file_format=settings.file_format) as writer:
        for feature in prepared.features:
            writer.declare_feature(feature.name, recipe=feature.recipe, record=feature.record)
        config = _keep_config(writer, settings)
        with writer.planning_lock():
            add_generation(writer, manifest, paths=paths, prepared=prepared)
        source = settings.source or f"--dataset {settings.dataset} --root {settings.root}"
        tell_differences(manifest.videos, open_store(store), source=source)
        filling = Filling(
            writer=writer, manifest=manifest, prepared=prepared, progress=progress, on_progress=on_progress
        )
        fill_pending(filling, writer.generations(), engine=engine)
        again = retry_generation(writer, manifest, prepared=prepared, progress=progress)
        fill_pending(filling, again, engine=engine)
        elsewhere = sum(
            len(set().union(*(writer.complete(generation, feature.name) for feature in prepared.features)))
            for generation in writer.generations()
        )
    return config, elsewhere


def _keep_config(writer: StoreWriter, settings: ExtractSettings) -> str:
    """Save the resolved YAML in the store, named by its content; with which processes it was computed is not kept."""
    data = to_yaml(settings.model_copy(update={"cluster": ClusterSettings()})).encode()
    return writer.keep_config(f"extract-{hashlib.sha256(data).hexdigest()[:12]}.yaml", data)


def add_generation(writer: StoreWriter, manifest: Manifest, *, paths: Mapping[str, Path], prepared: Prepared) -> None:
    """Recognise renamed videos, and plan a new generation for the videos that the store lacks, if there are any.

    Args:
        writer: The open store, with its planning lock held.
        manifest: Videos of the source.
        paths: Path of each video.
        prepared: The resolved settings.
    """
    opened = open_store(writer.root)
    if renames := find_renames(manifest, opened):
        log.info(
            "%d videos were renamed, %r is %r now; nothing of them is computed again",
            len(renames), renames[0].video, renames[0].record.id,
        )  # fmt: skip
        writer.add_overlay(renames)
        opened = open_store(writer.root)
    retry = ids_to_retry(opened, {video.id: video for video in manifest.videos}, paths=paths, prepared=prepared)
    added = videos_to_add(manifest.videos, opened.videos, removed=opened.removed_videos, retry=retry)
    if added:
        plan_generation(writer, added, prepared=prepared)


def retry_generation(
    writer: StoreWriter, manifest: Manifest, *, prepared: Prepared, progress: Progress
) -> Sequence[Generation]:
    """Plan a generation for videos that hung or could not be read in this run, if any: a stalled disk may be back."""
    with writer.planning_lock():
        scanned = {video.id: video for video in manifest.videos}
        names = [feature.name for feature in prepared.features]
        retry = worth_another_try(open_store(writer.root), scanned, names=names)
        videos = [video for video in manifest.videos if video.id in retry]
        if not videos:
            return ()
        log.info("trying %d videos again that hung or could not be read", len(videos))
        for status in PASSING:
            progress.failed.pop(status, None)
        return (plan_generation(writer, videos, prepared=prepared),)


def plan_generation(writer: StoreWriter, videos: Sequence[VideoRecord], *, prepared: Prepared) -> Generation:
    """Publish the plan of a generation for the given videos."""
    rows = rows_per_video(videos, prepared.sampling)
    shard_rows = choose_shard_rows(prepared, rows)
    segments, num_shards = plan_segments(rows, shard_rows=shard_rows)
    return writer.add_generation(
        videos,
        segments=segments,
        num_shards=num_shards,
        shard_rows=shard_rows,
        encode_batch=prepared.encode_batch,
        threads=prepared.threads,
    )


def pending_shards(writer: StoreWriter, generation: Generation, prepared: Prepared) -> dict[int, tuple[str, ...]]:
    """The features that each unfinished shard of a generation lacks."""
    done = {feature.name: writer.committed(generation, feature.name) for feature in prepared.features}
    pending = {shard: tuple(name for name in done if shard not in done[name]) for shard in range(generation.num_shards)}
    return {shard: names for shard, names in pending.items() if names}


def fill_pending(filling: Filling, generations: Sequence[Generation], *, engine: Engine) -> None:
    """Compute every unfinished shard of some generations.

    Raises:
        FeatcacheError: As :meth:`Engine.fill`.
    """
    work = [(each, pending_shards(filling.writer, each, filling.prepared)) for each in generations]
    progress = filling.progress
    for generation, pending in work:
        segments = [segment for segment in generation.segments if segment.shard in pending]
        progress.num_videos += len(segments)
        progress.num_rows += sum(segment.num_rows for segment in segments)
        progress.num_shards += len(pending)
    if any(pending for _, pending in work):
        engine.fill(filling, work)
