"""``plan``: estimates the cost of an extraction from really decoding and encoding some videos; writes nothing."""

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.data.decoding.clips import CropSize, RowBatch
from featcache.data.decoding.pool import Failed, Payload, Restarted, WorkerPool
from featcache.data.listing import OnScan
from featcache.data.manifest import Manifest
from featcache.errors import DiskSpaceError
from featcache.extract.amending import find_renames
from featcache.extract.checking import check
from featcache.extract.encode import BoundFeature, encode_rows
from featcache.extract.jobs import SegmentJob, timed_segment
from featcache.extract.lacking import ids_to_retry, judge, rows_per_video, videos_to_add
from featcache.extract.prepare import Prepared, prepare
from featcache.extract.scanning import scanning
from featcache.extract.settings import ExtractSettings
from featcache.files.base import store_place
from featcache.files.places import room_for_store
from featcache.files.urls import shown
from featcache.machine import forward_threads, keep_freed_memory, num_cores
from featcache.recipes import RecordSpec
from featcache.store.documents import is_store
from featcache.store.plan import default_shard_rows, plan_segments
from featcache.store.reader import Store, open_store
from featcache.summary import Summary, SummaryTable
from featcache.units import duration, readable_bytes

NUM_MEASURED = 3
MEASURE_SECONDS = 10.0  # per video: a plan for two-hour films should take only a minute too


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureEstimate:
    """Size of one array.

    Attributes:
        name: Name of the array.
        shape: Shape of a row.
        precision: Storage dtype.
        videos_to_do: Number of usable videos with rows still to be computed.
        rows_to_do: Number of rows still to be computed.
        shards_to_do: Number of shards that hold these rows.
        shard_rows: Largest number of rows of these shards; a stored plan keeps its own.
        num_bytes: Size of these rows.
    """

    name: str
    shape: tuple[int, ...]
    precision: str
    videos_to_do: int
    rows_to_do: int
    shards_to_do: int
    shard_rows: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Estimated cost of an extraction.

    Attributes:
        features: Each array with its size.
        videos_to_do: Number of usable videos with rows to compute.
        videos_unusable: Number of videos that the scan recorded as failed.
        rows_to_do: Number of rows to compute.
        num_shards: Number of shards to write.
        shard_rows: Number of rows of the largest shard, which a kill may lose.
        num_bytes: Number of bytes to write.
        free_bytes: Free bytes on the disk of the store; ``None`` in a bucket.
        decode_rows_a_second: Rows per second decoded by one process; NaN if nothing could be measured.
        encode_rows_a_second: Rows per second encoded; NaN if nothing could be measured.
        seconds: Predicted wall time; NaN if nothing could be measured.
        shard_seconds: Predicted time for the largest shard.
        bottleneck: ``decoding``, ``encoding`` or ``unknown``.
        num_measured: Number of videos that were decoded and encoded for the prediction.
        advice: A sentence about disk space, or empty.
    """

    features: tuple[FeatureEstimate, ...]
    videos_to_do: int
    videos_unusable: int
    rows_to_do: int
    num_shards: int
    shard_rows: int
    num_bytes: int
    free_bytes: int | None
    decode_rows_a_second: float
    encode_rows_a_second: float
    seconds: float
    shard_seconds: float
    bottleneck: str
    num_measured: int
    advice: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    def summary(self) -> Summary:
        """What to show of it."""
        rows = tuple(
            (feature.name, "x".join(map(str, feature.shape)), feature.precision, readable_bytes(feature.num_bytes))
            for feature in self.features
        )
        hours = duration(self.seconds)
        free = ", in a bucket" if self.free_bytes is None else f" of {readable_bytes(self.free_bytes)} free"
        return Summary(
            tables=(
                SummaryTable(title="features", columns=("name", "shape of a row", "precision", "size"), rows=rows),
            ),
            facts={
                "videos": f"{self.videos_to_do} to do, {self.videos_unusable} unusable",
                "rows": f"{self.rows_to_do} to compute in {self.num_shards} shards",
                "shard": f"at most {self.shard_rows} rows, about {duration(self.shard_seconds)}: what a kill may cost",
                "disk": readable_bytes(self.num_bytes) + free,
                "time": f"about {hours}, limited by {self.bottleneck} (measured on {self.num_measured} videos)",
            },
            warnings=(self.advice,) if self.advice else (),
        )


def estimate(settings: ExtractSettings, *, on_scan: OnScan = lambda done, total: None) -> Estimate:
    """Predict bytes, time and bottleneck of ``settings``; nothing is written.

    Args:
        settings: Settings of the extraction.
        on_scan: Called with (files listed, files in total).
    """
    check(settings)
    with scanning(settings, on_scan=on_scan) as scanned:
        prepared = prepare(settings)
        manifest = scanned()
    manifest = Manifest(root=manifest.root, videos=judge(manifest.videos, prepared.sampling))
    store = store_place(settings.out)
    sizes = missing_sizes(prepared, manifest, store=store)
    rows_to_do = max(size.rows_to_do for size in sizes)
    decode_rate, encode_rate, measured = measure(prepared, manifest)
    decode_seconds, encode_seconds = rows_to_do / decode_rate, rows_to_do / encode_rate
    workers = prepared.decode_workers
    # On CPU the decoder uses some of the cores that the encoder needs.
    shared = decode_seconds / num_cores() if prepared.device == "cpu" else 0.0
    seconds = max(decode_seconds / workers, encode_seconds + shared)
    shard_rows = max(size.shard_rows for size in sizes)
    num_bytes = sum(size.num_bytes for size in sizes)
    free = room_for_store(store)
    return Estimate(
        features=tuple(sizes),
        videos_to_do=max(size.videos_to_do for size in sizes),
        videos_unusable=sum(video.status != "ok" for video in manifest.videos),
        rows_to_do=rows_to_do,
        num_shards=max(size.shards_to_do for size in sizes),
        shard_rows=shard_rows,
        num_bytes=num_bytes,
        free_bytes=free,
        decode_rows_a_second=decode_rate,
        encode_rows_a_second=encode_rate,
        seconds=seconds,
        shard_seconds=seconds * min(1.0, shard_rows / max(1, rows_to_do)),
        bottleneck="unknown"
        if not measured
        else ("decoding" if decode_seconds / workers > encode_seconds + shared else "encoding"),
        num_measured=measured,
        advice=""
        if free is None or num_bytes <= settings.disk_fraction * free
        else disk_advice(prepared, sizes, free=free),
    )


def missing_sizes(prepared: Prepared, manifest: Manifest, *, store: Path | str) -> list[FeatureEstimate]:
    """Rows that each feature still lacks in the store (all rows if there is no store)."""
    opened = open_store(store) if is_store(store) else None
    scanned = {video.id: video for video in manifest.videos}
    paths = {video.id: manifest.path_of(video) for video in manifest.videos}
    retry = ids_to_retry(opened, scanned, paths=paths, prepared=prepared) if opened else frozenset[str]()
    renames = find_renames(manifest, opened) if opened else []
    known = {**(opened.videos if opened else {}), **{one.record.id: one.record for one in renames}}
    removed = opened.removed_videos if opened else {}
    added = videos_to_add(manifest.videos, known, removed=removed, retry=retry)
    counts = rows_per_video(added, prepared.sampling)
    shard_rows = choose_shard_rows(prepared, counts)
    segments, num_shards = plan_segments(counts, shard_rows=shard_rows)
    added_videos = len({segment.video for segment in segments})
    sizes = []
    for feature in prepared.features:
        videos, rows, shards = pending_work(opened, feature.name, prepared) if opened else (0, 0, 0)
        stored = [generation.shard_rows for generation in opened.generations] if opened and shards else []
        sizes.append(
            FeatureEstimate(
                name=feature.name,
                shape=feature.record.shape,
                precision=feature.record.dtype,
                videos_to_do=added_videos + videos,
                rows_to_do=sum(counts) + rows,
                shards_to_do=num_shards + shards,
                shard_rows=max([*stored, *([shard_rows] if num_shards else [])], default=0),
                num_bytes=(sum(counts) + rows) * feature.record.num_bytes,
            )
        )
    return sizes


def pending_work(opened: Store, name: str, prepared: Prepared) -> tuple[int, int, int]:
    """Numbers of planned videos, rows and shards of a feature that are not extracted yet."""
    done, failed = 0, frozenset[str]()
    shards = sum(generation.num_shards for generation in opened.generations)
    if name in opened.features:
        done = opened.num_rows(name)
        failed = frozenset(failure.id for failure in opened.coverage(name).failures)
        shards -= opened.info()["features"][name]["num_committed_shards"]
    if not shards:
        return 0, 0, 0
    planned = [video for video in opened.videos.values() if video.status == "ok" and video.id not in failed]
    videos = opened.coverage(name).pending if name in opened.features else len(planned)
    return videos, max(0, sum(rows_per_video(planned, prepared.sampling)) - done), shards


def choose_shard_rows(prepared: Prepared, rows_per_video: Sequence[int]) -> int:
    """Largest number of rows per shard of a new generation, from the rows of its videos."""
    usable = sorted(count for count in rows_per_video if count)
    return prepared.settings.shard_rows or default_shard_rows(
        [feature.record.num_bytes for feature in prepared.features],
        typical_rows_per_video=usable[len(usable) // 2] if usable else 1,
        macs_per_row=prepared.macs_per_row,
        num_rows=sum(usable),
    )


def check_disk(prepared: Prepared, manifest: Manifest, *, store: Path | str) -> None:
    """Refuse a plan that would fill the disk.

    Raises:
        DiskSpaceError: The plan is too large; names its size, the free space, and the next smaller setting.
    """
    sizes = missing_sizes(prepared, manifest, store=store)
    free = room_for_store(store)
    if free is not None and sum(size.num_bytes for size in sizes) > prepared.settings.disk_fraction * free:
        raise DiskSpaceError(disk_advice(prepared, sizes, free=free))


def disk_advice(prepared: Prepared, sizes: Sequence[FeatureEstimate], *, free: int) -> str:
    """The message of the refusal: the required size, the free space, and the next smaller setting with its size."""
    total = sum(size.num_bytes for size in sizes)
    largest, size = max(zip(prepared.features, sizes, strict=True), key=lambda pair: pair[1].num_bytes)
    smaller = next_smaller(largest)
    hint = "store fewer clips"
    if smaller is not None:
        setting, num_bytes = smaller
        after = total - size.num_bytes + size.rows_to_do * num_bytes
        hint = f"{setting} for {largest.name!r} would need {readable_bytes(after)}"
    return (
        f"the features need {readable_bytes(total)} and {readable_bytes(free)} are free in {prepared.settings.out!r}, "
        f"more than the allowed share of {prepared.settings.disk_fraction:g}; {hint}, or raise --disk-fraction"
    )


def next_smaller(feature: BoundFeature) -> tuple[str, int] | None:
    """The mildest setting that makes a feature smaller, with its bytes per row; ``None`` for a plain vector."""
    record = feature.record
    values = math.prod(record.shape)
    if record.dtype == "float32":
        return "--precision float16", values * 2
    if "h" in record.axes:
        side = record.shape[record.axes.index("h")]
        divisors = [size for size in range(1, side) if side % size == 0]
        if divisors and divisors[-1] > 1:
            return f"--grid {divisors[-1]}", values * record.itemsize * divisors[-1] ** 2 // side**2
    if {"h", "n"} & set(record.axes):
        return "--output mean", _vector_bytes(record)
    return ("--precision int8", values) if record.dtype == "float16" else None


def _vector_bytes(record: RecordSpec) -> int:
    return record.shape[-1] * record.itemsize


def measure(prepared: Prepared, manifest: Manifest) -> tuple[float, float, int]:
    """Decode a few videos and encode their rows: ``(rows decoded per second, rows encoded per second, videos)``.

    Only the first seconds of work on a long video count. Videos that fail are left out; if none is left both rates are
    NaN.
    """
    counts = rows_per_video(manifest.videos, prepared.sampling)
    usable = [index for index, count in enumerate(counts) if count]
    chosen = [usable[round(position)] for position in np.linspace(0, len(usable) - 1, min(NUM_MEASURED, len(usable)))]
    crops = tuple(dict.fromkeys(feature.crop for feature in prepared.features))
    decoded, decode_seconds, measured = 0, 0.0, 0
    rows: list[dict[CropSize, npt.NDArray[np.uint8]]] = []
    runtime = prepared.settings.runtime
    with WorkerPool(
        timed_segment,
        name=lambda job: shown(Path(job.path)),
        deadline_seconds=runtime.deadline_seconds,
        max_gigapixels=runtime.max_gigapixels,
        ahead_bytes=prepared.ahead_bytes,
    ) as pool:
        for index in dict.fromkeys(chosen):
            video = manifest.videos[index]
            job = SegmentJob(
                path=str(manifest.path_of(video)),
                video=video,
                sampling=prepared.sampling,
                first_clip=0,
                num_rows=counts[index],
                sizes=crops,
            )
            batches: list[RowBatch] = []
            seconds, is_usable = 0.0, True
            for event in pool.run([job]):
                if isinstance(event, Payload):
                    spent, payload = event.value
                    seconds += spent
                    if isinstance(payload, RowBatch):
                        batches.append(payload)
                elif isinstance(event, Restarted):
                    batches, seconds = [], 0.0
                elif isinstance(event, Failed):
                    is_usable = False  # a plan only predicts; the extraction itself will record the failure
                if seconds > MEASURE_SECONDS:
                    break
            if is_usable:
                decoded += sum(len(batch.rows) for batch in batches)
                decode_seconds += seconds
                measured += 1
                rows += _first_rows(batches, prepared.encode_batch - len(rows))
    if not measured:
        return math.nan, math.nan, 0
    return decoded / decode_seconds, _encode_rate(prepared, rows), measured


def _first_rows(batches: Sequence[RowBatch], count: int) -> list[dict[CropSize, npt.NDArray[np.uint8]]]:
    """At most ``count`` rows, since only one batch is encoded."""
    every = (
        {size: values[row] for size, values in batch.pixels.items()}
        for batch in batches
        for row in range(len(batch.rows))
    )
    return list(itertools.islice(every, max(0, count)))


def _encode_rate(prepared: Prepared, rows: Sequence[dict[CropSize, npt.NDArray[np.uint8]]]) -> float:
    """Rows encoded per second, after a warm-up of one batch."""
    pixels = {size: np.stack([row[size] for row in rows]) for size in rows[0]}
    best = math.inf
    keep_freed_memory(prepared.device)
    with forward_threads(prepared.threads):
        for _ in range(3):
            started = time.perf_counter()
            encode_rows(prepared.features, pixels, encode_batch=prepared.encode_batch, device=prepared.device)
            best = min(best, time.perf_counter() - started)
    return len(rows) / best
