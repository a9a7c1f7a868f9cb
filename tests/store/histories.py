"""Stores with a history: grown, retried, renamed, relabelled, with failures of each feature."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from featcache.data.types import Status, VideoOutcome, VideoRecord
from featcache.recipes import RecordSpec, SamplingRecipe
from featcache.store.documents import is_store
from featcache.store.overlay import Amendment
from featcache.store.paths import FileFormat
from featcache.store.plan import plan_segments
from featcache.store.precision import staging_dtype, to_storage
from featcache.store.reader import open_store
from featcache.store.rows import RowTable
from featcache.store.writer import Generation, StoreWriter
from featcache.testing.stores import (
    NUM_FRAMES,
    PROVENANCE,
    make_recipe,
    make_record,
    make_videos,
    record_values,
    row_details,
)

SAMPLING = SamplingRecipe(num_frames=NUM_FRAMES)
FLOATS = {"pooled": make_record((5,)), "map": make_record((2, 2, 3), "float32")}
MIXED = {**FLOATS, "small": make_record((4,), "int8")}


def video(number: int, **fields) -> VideoRecord:
    """A video whose file is known."""
    (made,) = make_videos(1, first=number)
    return replace(made, content_hash=f"sha256:{number}", **fields)


def say(path: Path, *amendments: tuple[str, dict]) -> None:
    """Publish one overlay: (id, what is other from now on)."""
    store = open_store(path)
    with (
        StoreWriter.open(path, sampling=store.sampling, file_format=store.file_format) as writer,
        writer.planning_lock(),
    ):
        known = {**store.videos, **store.removed_videos}
        writer.add_overlay(
            Amendment(
                video=name,
                record=replace(known[name], **{k: v for k, v in new.items() if k != "removed"}),
                removed=new.get("removed", False),
            )
            for name, new in amendments
        )


def extend(
    path: Path,
    videos: Sequence[VideoRecord],
    *,
    records: Mapping[str, RecordSpec] = FLOATS,
    rows: Sequence[int] = (2, 3, 1, 9),
    failing: Mapping[tuple[str, str], Status] | None = None,
    file_format: FileFormat = "zarr",
    encode_batch: int = 4,
    shard_rows: int = 8,
    sampling: SamplingRecipe = SAMPLING,
) -> None:
    """Add a generation of these videos, and fill it.

    Args:
        path: The store.
        videos: Its videos.
        records: Its features.
        rows: Number of rows of each video, by its content.
        failing: (feature, id) to the status of those that fail.
        file_format: Format of a new store.
        encode_batch: As in the plan.
        shard_rows: As in the plan.
        sampling: Recipe of a new store.
    """
    if is_store(path):
        sampling, file_format = open_store(path).sampling, open_store(path).file_format
    with StoreWriter.open(path, sampling=sampling, file_format=file_format) as writer:
        numbers = [rows[sum(one.content_hash.encode()) % len(rows)] if one.status == "ok" else 0 for one in videos]
        segments, num_shards = plan_segments(numbers, shard_rows=shard_rows)
        generation = writer.add_generation(
            videos, segments, num_shards, shard_rows=shard_rows, encode_batch=encode_batch, threads=1
        )
        fill(writer, generation, records=records, failing=failing or {})


def add_feature(path: Path, name: str, record: RecordSpec, *, failing: Mapping[tuple[str, str], Status]) -> None:
    """Fill all generations of a store with another feature."""
    store = open_store(path)
    with StoreWriter.open(path, sampling=store.sampling, file_format=store.file_format) as writer:
        for generation in writer.generations():
            fill(writer, generation, records={name: record}, failing=failing)


def fill(
    writer: StoreWriter,
    generation: Generation,
    *,
    records: Mapping[str, RecordSpec],
    failing: Mapping[tuple[str, str], Status],
) -> None:
    """Commit the shards of a generation; values are a function of feature, generation, id as planned, and clip."""
    for name, record in records.items():
        writer.declare_feature(name, make_recipe(precision=record.dtype), record)
        for shard in range(generation.num_shards):
            segments = generation.shard_segments(shard)
            ids = [generation.video_ids[one.video] for one in segments]
            outcomes = [
                VideoOutcome(
                    id=one,
                    status=failing.get((name, one), "ok"),
                    reason="made to fail" if (name, one) in failing else "",
                    first_row=segment.first_row,
                    num_rows=segment.num_rows,
                )
                for one, segment in zip(ids, segments, strict=True)
            ]
            kept = [one for one, outcome in zip(segments, outcomes, strict=True) if outcome.status == "ok"]
            table = row_details(kept)
            present = np.zeros(generation.shard_rows, bool)
            present[table.row] = True
            array = np.zeros((generation.shard_rows, *record.shape), staging_dtype(record.dtype))
            for place, one, clip in zip(table.row.tolist(), table.video.tolist(), table.clip.tolist(), strict=True):
                key = f"{generation.number}/{generation.video_ids[one]}"
                array[place] = to_storage(record_values(name, key, clip, record), record.dtype, where=name)
            writer.commit_shard(
                generation,
                shard,
                features={name: array},
                present=present,
                rows=table,
                outcomes=outcomes,
                provenance={**PROVENANCE, "machine": f"m{generation.number % 2}"},
            )
        writer.complete(generation, name)


def assert_same(path: Path, other: Path, *, features: Sequence[str] | None = None) -> None:
    """Two stores hold the same videos, labels, outcomes and rows, wherever their rows lie."""
    one, two = open_store(path), open_store(other)
    assert one.sampling == two.sampling
    assert one.videos == two.videos
    assert set(one.removed_videos) == set(two.removed_videos)
    names = sorted(one.features) if features is None else list(features)
    assert sorted(two.features) == names
    for name in names:
        assert one.features[name] == two.features[name]
        mine, theirs = one.coverage(name), two.coverage(name)
        assert mine.by_status == theirs.by_status
        assert mine.pending == theirs.pending
        assert {each.id: each for each in mine.failures} == {each.id: each for each in theirs.failures}
        tries = one.tries(name), two.tries(name)
        for each in mine.failures:
            assert tries[0][each.id] == tries[1][each.id], each
        with one.feature(name, all_views=True) as left, two.feature(name, all_views=True) as right:
            assert set(left.video_ids) == set(right.video_ids)
            for each in left.video_ids:
                rows = left.rows_of(each), right.rows_of(each)
                assert left.gather(rows[0]).tobytes() == right.gather(rows[1]).tobytes(), (name, each)
                if left.record.dtype == "int8":
                    assert left.scales(rows[0]).tobytes() == right.scales(rows[1]).tobytes()
                assert_same_places(left.details(rows[0]), right.details(rows[1]))


def assert_same_places(left: RowTable, right: RowTable) -> None:
    for name in ("clip", "frames", "pts_seconds", "t0", "t1", "y0", "x0", "y1", "x1", "flip"):
        assert np.array_equal(getattr(left, name), getattr(right, name)), name
