"""Synthetic stores for tests and benchmarks.

The stores are written by the same :class:`StoreWriter` as real ones; their features are a function of the video id, so
that the rows can be checked without keeping a copy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.data.types import Status, VideoOutcome, VideoRecord
from featcache.recipes import FeatureRecipe, Precision, RecordSpec, SamplingRecipe
from featcache.seeding import rng_for
from featcache.store.generation import Generation
from featcache.store.paths import FileFormat
from featcache.store.plan import Segment, plan_segments
from featcache.store.precision import to_storage
from featcache.store.reader import open_store
from featcache.store.row_reader import Device
from featcache.store.rows import RowTable
from featcache.store.writer import StoreWriter

NUM_FRAMES = 3
DEVICES: tuple[Device, ...] = ("mmap", "disk", "ram")
PROVENANCE = {"device": "cpu", "versions": {"numpy": "test"}}


def make_videos(count: int, *, first: int = 0, unusable: Mapping[int, Status] | None = None) -> list[VideoRecord]:
    """Videos ``v0000`` … with labels and splits; some may be unusable already in the manifest."""
    unusable = unusable or {}
    return [
        VideoRecord(
            id=f"v{number:04d}",
            path=f"v{number:04d}.mp4",
            num_frames=0 if number in unusable else 30,
            height=240,
            width=320,
            fps=30.0,
            duration_seconds=1.0,
            labels={"label": "ab"[number % 2]},
            split=("train", "test")[number % 3 == 0],
            status=unusable.get(number, "ok"),
            reason="made so" if number in unusable else "",
        )
        for number in range(first, first + count)
    ]


def make_recipe(*, precision: Precision = "float16", **fields: Any) -> FeatureRecipe:
    """A recipe of a backbone that does not exist."""
    return FeatureRecipe(
        **{"backbone": "none", "weights_hash": "sha256:0", "layer": "last", **fields}, precision=precision
    )


def make_record(shape: Sequence[int], precision: Precision = "float16") -> RecordSpec:
    """A record of ``shape`` with axes named from the end ``c, w, h, t``."""
    return RecordSpec(shape=tuple(shape), axes=tuple("thwc"[-len(shape) :]), dtype=precision)


def record_values(feature: str, video_id: str, clip: int, record: RecordSpec) -> npt.NDArray[np.float32]:
    """Values of a row, a function of feature, video and clip."""
    return rng_for(0, feature, video_id, clip).standard_normal(record.shape, np.float32)


def expected_rows(feature: str, ids_and_clips: Sequence[tuple[str, int]], record: RecordSpec) -> npt.NDArray[Any]:
    """Rows as a float store must return them, in its dtype (float32 for int8, before quantisation)."""
    rows = [record_values(feature, video_id, clip, record) for video_id, clip in ids_and_clips]
    return to_storage(np.stack(rows), record.dtype, where=feature)


def row_details(segments: Sequence[Segment]) -> RowTable:
    """A row table of the given segments with synthetic frames, times and boxes."""
    video = np.concatenate([np.zeros(0, int)] + [np.full(s.num_rows, s.video) for s in segments]).astype(np.int32)
    row = np.concatenate([np.zeros(0, int)] + [s.first_row + np.arange(s.num_rows) for s in segments]).astype(np.int32)
    clip = np.concatenate([np.zeros(0, int)] + [s.first_clip + np.arange(s.num_rows) for s in segments]).astype(
        np.int32
    )
    frames = (clip[:, None] * 2 + np.arange(NUM_FRAMES)).astype(np.int32)
    pts = frames / 30.0
    return RowTable(
        video=video,
        row=row,
        clip=clip,
        frames=frames,
        pts_seconds=pts,
        t0=pts[:, 0].copy(),
        t1=pts[:, -1] + 1 / 30.0,
        y0=np.zeros_like(video),
        x0=clip % 7,
        y1=np.full_like(video, 224),
        x1=clip % 7 + 224,
        flip=clip % 2 == 1,
    )


@dataclass(frozen=True, kw_only=True)
class StorePlan:
    """A synthetic store.

    Attributes:
        records: Feature name to record.
        rows_per_video: Numbers of rows of the usable videos, in turn.
        num_videos: Number of videos of the generation.
        first_video: Number of the first video.
        shard_rows: Largest number of rows per shard.
        unusable: Numbers of the videos that fail in the manifest.
        failing: Numbers of the videos that fail at extraction.
    """

    records: Mapping[str, RecordSpec]
    rows_per_video: tuple[int, ...] = (4,)
    num_videos: int = 10
    first_video: int = 0
    shard_rows: int = 8
    unusable: Mapping[int, Status] = field(default_factory=dict)
    failing: Mapping[int, Status] = field(default_factory=dict)


def add_generation(writer: StoreWriter, plan: StorePlan) -> Generation:
    """Publish the plan of a synthetic generation."""
    videos = make_videos(plan.num_videos, first=plan.first_video, unusable=plan.unusable)
    rows = [
        plan.rows_per_video[index % len(plan.rows_per_video)] if video.status == "ok" else 0
        for index, video in enumerate(videos)
    ]
    segments, num_shards = plan_segments(rows, shard_rows=plan.shard_rows)
    return writer.add_generation(videos, segments, num_shards, shard_rows=plan.shard_rows, encode_batch=4, threads=1)


def commit(writer: StoreWriter, generation: Generation, shard: int, plan: StorePlan) -> None:
    """Compute and commit one shard of all features of the plan."""
    segments = generation.shard_segments(shard)
    failing = {f"v{number:04d}": status for number, status in plan.failing.items()}
    outcomes = []
    kept = []
    for segment in segments:
        video_id = generation.videos[segment.video].id
        status: Status = failing.get(video_id, "ok")
        if status == "ok":
            kept.append(segment)
        outcomes.append(
            VideoOutcome(
                id=video_id,
                status=status,
                reason="" if status == "ok" else "made to fail",
                first_row=segment.first_row,
                num_rows=segment.num_rows,
            )
        )
    rows = row_details(kept)
    present = np.zeros(generation.shard_rows, bool)
    present[rows.row] = True
    features = {}
    for name, record in plan.records.items():
        dtype = np.float16 if record.dtype == "float16" else np.float32
        array = np.zeros((generation.shard_rows, *record.shape), dtype)
        ids = [(generation.videos[video].id, clip) for video, clip in zip(rows.video, rows.clip.tolist(), strict=True)]
        if ids:
            array[present] = expected_rows(name, ids, record)
        features[name] = array
    writer.commit_shard(
        generation, shard, features=features, present=present, rows=rows, outcomes=outcomes, provenance=PROVENANCE
    )


def fill(writer: StoreWriter, generation: Generation, plan: StorePlan) -> None:
    """Declare the features of a plan and commit every shard that lacks one of them."""
    for name, record in plan.records.items():
        writer.declare_feature(name, make_recipe(precision=record.dtype), record)
    done = [writer.committed(generation, name) for name in plan.records]
    for shard in range(generation.num_shards):
        if not all(shard in shards for shards in done):
            commit(writer, generation, shard, plan)
    for name in plan.records:
        writer.complete(generation, name)


def write_store(
    path: Path, *plans: StorePlan, file_format: FileFormat = "zarr", sampling: SamplingRecipe | None = None
) -> None:
    """Create or resume a synthetic store with one generation per plan."""
    with StoreWriter.open(path, sampling=sampling or SamplingRecipe(), file_format=file_format) as writer:
        for number, plan in enumerate(plans):
            with writer.planning_lock():
                generations = writer.generations()
                if number == len(generations):
                    add_generation(writer, plan)
            fill(writer, writer.generations()[number], plan)


def check_reads_back(path: Path, *plans: StorePlan) -> None:
    """Check that every feature of a synthetic store holds exactly the rows of its plans, in order."""
    store = open_store(path)
    for name, record in plans[0].records.items():
        for device in DEVICES:
            with store.feature(name, device=device) as features:
                table = features.rows
                ids = [(features.video_ids[v], clip) for v, clip in zip(table.video, table.clip.tolist(), strict=True)]
                wanted = {
                    f"v{n:04d}"
                    for plan in plans
                    for n in range(plan.first_video, plan.first_video + plan.num_videos)
                    if n not in plan.unusable and n not in plan.failing
                }
                assert {video_id for video_id, _ in ids} == wanted
                assert len(set(ids)) == len(ids)
                values = features.gather(np.arange(features.num_rows), dequantised=record.dtype == "int8")
                expected = expected_rows(name, ids, record)
                if record.dtype == "int8":
                    assert np.abs(values - expected).max() <= np.abs(expected).max() / 127
                else:
                    assert values.tobytes() == expected.tobytes()
        coverage = store.coverage(name)
        assert coverage.ok + coverage.failed + coverage.pending == coverage.total
