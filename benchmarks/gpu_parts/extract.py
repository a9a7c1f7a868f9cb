"""Frames per second of the whole extraction, of decoding alone and of the forward pass alone, and the bottleneck.

Clips are 320 x 240 H.264; every frame is encoded (a frame bank of mean vectors). The pipeline's rate is measured
between its first and its last encoded batch, so that starting processes and building a backbone do not count.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from cells import synchronise

import featcache.extract.prepare
from featcache.backbones import build_backbone
from featcache.data.decoding.clips import RowBatch
from featcache.data.decoding.pool import Payload, WorkerPool
from featcache.data.manifest import Manifest, read_parquet, write_parquet
from featcache.data.scan import scan
from featcache.extract.encode import encode_rows, float32_products
from featcache.extract.jobs import SegmentJob, decode_segment
from featcache.extract.prepare import Prepared, prepare
from featcache.extract.progress import Progress
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.machine import forward_threads, num_cores
from gpu_parts.bench import Bench, rate
from gpu_parts.media import make_clips

MODES: dict[str, tuple[str, str]] = {
    "float32": ("float32", "highest"),
    "TF32": ("float32", "high"),
    "bfloat16": ("bfloat16", "highest"),
}
"""Dtype of the forward pass, and setting of float32 products."""
MOST_CORES = 16


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Size of the run.

    Attributes:
        backbones: Registry names.
        num_frames: Frames per clip.
        decode_clips: Number of clips for decoding alone.
        forward_seconds: Duration of the forward passes alone.
        pipeline_seconds: Approximate duration of a pipeline, from which its number of clips follows.
        most_clips: Largest number of clips.
        row_seconds: Seconds that a row needs besides its pipeline: a backbone is built twice, and processes start.
    """

    backbones: tuple[str, ...]
    num_frames: int
    decode_clips: int
    forward_seconds: float
    pipeline_seconds: float
    most_clips: int
    row_seconds: float


FULL = Sizes(
    backbones=("clip-l14", "dinov2-b14"), num_frames=64, decode_clips=256, forward_seconds=1.0, pipeline_seconds=5.0,
    most_clips=1024, row_seconds=10.0,
)  # fmt: skip
SMALL = Sizes(
    backbones=("timm/test_vit",), num_frames=8, decode_clips=6, forward_seconds=0.2, pipeline_seconds=0.5, most_clips=6,
    row_seconds=1.0,
)  # fmt: skip


def run(bench: Bench) -> None:
    """Measure decoding alone for each input, then each backbone in each mode."""
    sizes = SMALL if bench.is_small else FULL
    cores = 1 if bench.is_small else min(MOST_CORES, num_cores())  # a process takes seconds to start
    cached = functools.cache(build_backbone)
    make_clips(bench.folder / "videos", sizes.most_clips, num_frames=sizes.num_frames)
    manifest = scan(bench.folder / "videos")
    with mock.patch.object(featcache.extract.prepare, "build_backbone", cached):  # one is built once, not for each row
        for backbone in sizes.backbones:
            cached.cache_clear()
            settings = settings_of(bench, backbone, "float32", cores=cores)
            decoded = bench.row(
                f"{backbone}: decoding alone", partial(decoding, settings, manifest, sizes, bench.folder), needs=5.0
            )
            for mode in MODES:
                if "rate" in decoded:
                    measure = partial(mode_row, bench, backbone, mode, manifest, sizes, decoded["rate"], cores)
                    bench.row(
                        f"{backbone}: pipeline, {mode}", measure, needs=sizes.pipeline_seconds + sizes.row_seconds
                    )


def settings_of(bench: Bench, backbone: str, mode: str, *, cores: int) -> ExtractSettings:
    """Settings that extract the mean vector of every frame."""
    compute, matmul = MODES[mode]
    return ExtractSettings.model_validate(
        {
            "source": str(bench.folder / "videos.parquet"),
            "out": str(bench.folder / "store"),
            "features": [FeatureSettings(backbone=backbone, weights="random", compute=compute)],
            "sampling": SamplingSettings(layout="frames"),
            "runtime": RuntimeSettings.model_validate(
                {"device": bench.device, "matmul": matmul, "decode_workers": cores, "threads": int(bench.is_small)}
            ),
        }
    )


def decoding(settings: ExtractSettings, manifest: Manifest, sizes: Sizes, folder: Path) -> dict[str, Any]:
    """Frames per second of decoding processes that have already started; the pixels are discarded."""
    write_parquet(first(manifest, sizes.decode_clips), folder / "videos.parquet")
    prepared = prepare(settings)
    listed = read_parquet(folder / "videos.parquet")
    jobs = [
        SegmentJob(
            path=str(listed.path_of(video)),
            video=video,
            sampling=prepared.sampling,
            first_clip=0,
            num_rows=sizes.num_frames,
            sizes=(prepared.features[0].crop,),
        )
        for video in listed.videos
    ]
    with WorkerPool(decode_segment, num_workers=prepared.decode_workers) as pool:
        list(pool.run(jobs[: 2 * prepared.decode_workers]))
        began = time.perf_counter()
        frames = sum(len(batch.rows) for batch in batches_of(pool, jobs))
        return rate(frames, time.perf_counter() - began, "frames") | {"note": f"{prepared.decode_workers} processes"}


def batches_of(pool: WorkerPool, jobs: list[SegmentJob]) -> Iterator[RowBatch]:
    """Decoded rows as they arrive."""
    for event in pool.run(jobs):
        if isinstance(event, Payload) and isinstance(event.value, RowBatch):
            yield event.value


def mode_row(
    bench: Bench, backbone: str, mode: str, manifest: Manifest, sizes: Sizes, decode_rate: float, cores: int
) -> dict[str, Any]:
    """The forward passes alone, then the pipeline over as many clips as take about the requested time."""
    settings = settings_of(bench, backbone, mode, cores=cores)
    prepared = prepare(settings)
    alone = forward(prepared, sizes)
    frames = max(4 * prepared.encode_batch, min(alone, decode_rate) * sizes.pipeline_seconds)
    count = min(sizes.most_clips, math.ceil(frames / sizes.num_frames))
    write_parquet(first(manifest, count), bench.folder / "videos.parquet")
    piped = pipeline(settings.model_copy(update={"out": str(bench.folder / f"store-{backbone}-{mode}")}))
    bound = "decoding" if decode_rate < alone else "the forward"
    note = (
        f"forward alone {alone:,.0f}, decoding alone {decode_rate:,.0f}: {bound} bounds, "
        f"{cores * alone / decode_rate:.1f} cores would balance"
    )
    return rate(piped, 1.0, "frames") | {
        "forward_rate": alone,
        "decode_rate": decode_rate,
        "cores": cores,
        "note": note,
    }


def first(manifest: Manifest, count: int) -> Manifest:
    """The first videos of a manifest."""
    return Manifest(root=manifest.root, videos=manifest.videos[:count])


def forward(prepared: Prepared, sizes: Sizes) -> float:
    """Frames per second of whole batches, from uint8 pixels in memory to records in memory."""
    (feature,) = prepared.features
    side, batch = feature.crop.size, prepared.encode_batch
    pixels = {feature.crop: np.random.default_rng(0).integers(0, 256, (batch, 1, 3, side, side), dtype=np.uint8)}

    def encode() -> None:
        encode_rows(prepared.features, pixels, encode_batch=batch, device=prepared.device)

    with forward_threads(prepared.threads), float32_products(prepared.settings.runtime.matmul):
        encode()
        synchronise(prepared.device)
        began, rows = time.perf_counter(), 0
        while time.perf_counter() - began < sizes.forward_seconds:
            encode()  # its records are on the CPU when it returns, so there is nothing to wait for
            rows += batch
        return rows / (time.perf_counter() - began)


def pipeline(settings: ExtractSettings) -> float:
    """Frames per second between the first and the last encoded batch of an extraction."""
    seen: list[tuple[float, int]] = []

    def watch(progress: Progress) -> None:
        if progress.rows_done and (not seen or progress.rows_done > seen[-1][1]):
            seen.append((time.perf_counter(), progress.rows_done))

    result = extract(settings, on_progress=watch)
    assert result.videos_failed == 0, f"{result.videos_failed} clips failed: {result.failures[0]}"
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    (began, before), (ended, after) = seen[0], seen[-1]
    assert after > before, "one batch gives no rate; give more clips"
    return (after - before) / (ended - began)
