"""Synthetic stores, and the conformance suite that any layout of shards must pass.

The stores are written through the same :class:`StoreWriter` as real ones; their features are a function of the video
id, so that what is read can be compared with what was meant without keeping a copy.
"""

import pickle
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.data.types import Status, VideoOutcome, VideoRecord
from featcache.errors import CorruptStoreError, StoreError
from featcache.recipes import FeatureRecipe, Precision, RecordSpec, SamplingRecipe
from featcache.seeding import rng_for
from featcache.store.features import Device
from featcache.store.generation import Generation
from featcache.store.paths import FileFormat
from featcache.store.plan import Segment, plan_segments
from featcache.store.precision import to_storage
from featcache.store.reader import open_store
from featcache.store.rows import RowTable
from featcache.store.verify import verify
from featcache.store.writer import StoreWriter
from featcache.testing.faults import flipped_bit, removed, snapshot, store_files, swapped, truncated

NUM_FRAMES = 3
DEVICES: tuple[Device, ...] = ("mmap", "ram")
PROVENANCE = {"device": "cpu", "versions": {"numpy": "test"}}


def make_videos(count: int, *, first: int = 0, unusable: Mapping[int, Status] | None = None) -> list[VideoRecord]:
    """Videos ``v0000`` … with labels and splits; some may be unusable from the manifest on."""
    unusable = unusable or {}
    return [
        VideoRecord(
            id=f"v{number:04d}",
            path=f"v{number:04d}.mp4",
            num_frames=0 if number in unusable else 30,
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
    """What a row holds: a function of feature, video and clip."""
    return rng_for(0, feature, video_id, clip).standard_normal(record.shape, np.float32)


def expected_rows(feature: str, ids_and_clips: Sequence[tuple[str, int]], record: RecordSpec) -> npt.NDArray[Any]:
    """Rows as a float store must return them, in its dtype (float32 for int8, before quantisation)."""
    rows = [record_values(feature, video_id, clip, record) for video_id, clip in ids_and_clips]
    return to_storage(np.stack(rows), record.dtype, where=feature)


def row_details(segments: Sequence[Segment]) -> RowTable:
    """A row table of the given segments with made-up frames, times and boxes."""
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
        rows_per_video: Rows of each usable video, in turn.
        num_videos: Videos of the generation.
        first_video: Number of the first.
        shard_rows: Row capacity of a shard.
        unusable: Videos that fail in the manifest.
        failing: Videos that fail at extraction.
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


def write_store(
    path: Path, *plans: StorePlan, file_format: FileFormat = "zarr", sampling: SamplingRecipe | None = None
) -> None:
    """Create or resume a synthetic store of one generation a plan."""
    with StoreWriter.open(path, sampling=sampling or SamplingRecipe(), file_format=file_format) as writer:
        for number, plan in enumerate(plans):
            with writer.planning_lock():
                generations = writer.generations()
                if number == len(generations):
                    add_generation(writer, plan)
            fill(writer, writer.generations()[number], plan)


def check_reads_back(path: Path, *plans: StorePlan) -> None:
    """Every feature of a synthetic store holds exactly the rows that its plans mean, in order."""
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


def read_all(path: Path, name: str, *, device: Device = "mmap") -> npt.NDArray[Any]:
    """Open a store and read every row of a feature."""
    return open_store(path).feature(name, device=device)[:]


def refusal(error: type[Exception], call: Callable[[], object]) -> str:
    """The message with which a call is refused; fails if it is not."""
    try:
        call()
    except error as refused:
        return str(refused)
    raise AssertionError(f"not refused with {error.__name__}")


SMALL = {"pooled": make_record((6,)), "map": make_record((2, 3, 4), "float32"), "small": make_record((5,), "int8")}


class StoreConformance:
    """What every shard format must do. Subclass it, set ``file_format``, and pytest runs it."""

    file_format: FileFormat

    def write(self, path: Path, *plans: StorePlan) -> None:
        """A synthetic store in the format under test."""
        write_store(path, *plans, file_format=self.file_format)

    def test_reads_back_with_failures_windows_and_generations(self, tmp_path: Path) -> None:
        """Videos shorter and longer than a shard, failing ones, and a second generation."""
        plans = (
            StorePlan(records=SMALL, num_videos=11, rows_per_video=(4, 1, 3, 19), unusable={3: "missing"}),
            StorePlan(records=SMALL, num_videos=4, first_video=11, failing={12: "timeout", 14: "undecodable"}),
        )
        self.write(tmp_path / "s", *plans)
        check_reads_back(tmp_path / "s", *plans)
        coverage = open_store(tmp_path / "s").coverage("map")
        assert (coverage.ok, coverage.failed, coverage.pending, coverage.total) == (12, 3, 0, 15)
        assert [failure.id for failure in coverage.failures] == ["v0003", "v0012", "v0014"]

    def test_a_video_that_fails_in_one_window_has_no_rows(self, tmp_path: Path) -> None:
        """A video is ok or failed as a whole."""
        plan = StorePlan(records=SMALL, num_videos=2, rows_per_video=(19, 2), failing={0: "undecodable"})
        self.write(tmp_path / "s", plan)
        check_reads_back(tmp_path / "s", plan)
        assert open_store(tmp_path / "s").coverage("map").failed == 1

    def test_all_videos_failing_is_an_empty_feature(self, tmp_path: Path) -> None:
        """No data file, no rows, full coverage."""
        plan = StorePlan(records=SMALL, num_videos=3, failing={0: "timeout", 1: "timeout", 2: "changed"})
        self.write(tmp_path / "s", plan)
        features = open_store(tmp_path / "s").feature("pooled")
        assert features.gather([]).shape == (0, 6)
        assert features.shape == (0, 6)
        assert len(features.rows) == 0
        assert open_store(tmp_path / "s").coverage("pooled").failed == 3

    def test_the_order_of_commits_does_not_matter(self, tmp_path: Path) -> None:
        """Same files, same bytes."""
        plan = StorePlan(records=SMALL, num_videos=9, failing={5: "timeout"})
        self.write(tmp_path / "a", plan)
        with StoreWriter.open(tmp_path / "b", sampling=SamplingRecipe(), file_format=self.file_format) as writer:
            generation = add_generation(writer, plan)
            for name, record in plan.records.items():
                writer.declare_feature(name, make_recipe(precision=record.dtype), record)
            for shard in reversed(range(generation.num_shards)):
                commit(writer, generation, shard, plan)
        assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")

    def test_a_feature_added_later_equals_one_made_at_once(self, tmp_path: Path) -> None:
        """Same files, same bytes."""
        both = StorePlan(records=SMALL, num_videos=9)
        self.write(tmp_path / "once", both)
        for name, record in SMALL.items():
            self.write(tmp_path / "grown", StorePlan(records={name: record}, num_videos=9))
        assert snapshot(tmp_path / "once") == snapshot(tmp_path / "grown")

    def test_a_store_grown_twice_equals_one_made_at_once(self, tmp_path: Path) -> None:
        """Row for row."""
        floats = {name: record for name, record in SMALL.items() if record.dtype != "int8"}
        self.write(tmp_path / "once", StorePlan(records=floats, num_videos=9))
        parts = [StorePlan(records=floats, num_videos=3, first_video=first) for first in (0, 3, 6)]
        self.write(tmp_path / "grown", *parts)
        for name in floats:
            once, grown = (open_store(tmp_path / part).feature(name) for part in ("once", "grown"))
            assert once.video_ids == grown.video_ids
            assert once[:].tobytes() == grown[:].tobytes()

    def test_the_latest_ok_wins(self, tmp_path: Path) -> None:
        """A video that failed and is extracted again has its new rows; one that was ok and fails keeps the old."""
        plans = (
            StorePlan(records=SMALL, num_videos=4, failing={1: "timeout"}),
            StorePlan(records=SMALL, num_videos=3, rows_per_video=(2,), failing={2: "changed"}),
        )
        self.write(tmp_path / "s", *plans)
        features = open_store(tmp_path / "s").feature("pooled")
        counts = {video_id: len(features.rows_of(video_id)) for video_id in features.video_ids}
        assert counts == {"v0000": 2, "v0001": 2, "v0002": 4, "v0003": 4}
        assert features.num_rows == 12
        coverage = open_store(tmp_path / "s").coverage("pooled")
        assert (coverage.ok, coverage.failed, coverage.total) == (4, 0, 4)

    def test_few_maps_threads_and_pickles_read_the_same(self, tmp_path: Path) -> None:
        """However rows are asked for, they are the same rows."""
        plan = StorePlan(records=SMALL, num_videos=40)
        self.write(tmp_path / "s", plan)
        for name in SMALL:
            whole = open_store(tmp_path / "s").feature(name, device="ram")[:]
            rows = rng_for(0, name).integers(len(whole), size=200)
            for limit in (1, 3, 1000):
                features = open_store(tmp_path / "s").feature(name, max_open_maps=limit)
                assert features.gather(rows).tobytes() == whole[rows].tobytes()
                out = np.empty((len(rows), *features.record.shape), features.dtype)
                assert features.gather(rows, out=out) is out
                assert out.tobytes() == whole[rows].tobytes()
                assert features.num_open_maps <= limit
                with ThreadPoolExecutor(4) as pool:
                    for part in pool.map(features.gather, [rows] * 8):
                        assert part.tobytes() == whole[rows].tobytes()
                assert pickle.loads(pickle.dumps(features))[:].tobytes() == whole.tobytes()  # noqa: S301 - our own bytes

    def test_damaged_data_files_are_never_read(self, tmp_path: Path) -> None:
        """Flipped, truncated, emptied, removed and swapped files are errors, mapped or loaded."""
        self.write(tmp_path / "s", StorePlan(records=SMALL, num_videos=6))
        for name in SMALL:
            files = [file for file in store_files(tmp_path / "s" / "g000" / name) if file.name != "zarr.json"]
            assert len(files) == 3
            size = files[0].stat().st_size
            # the first feature byte, in whichever format
            data = open_store(tmp_path / "s").feature(name)
            first = 8 * int(data._index.offset[0])
            for fault in (
                flipped_bit(files[0], first),
                truncated(files[0], size - 1),
                truncated(files[0], size // 2),
                truncated(files[0], 0),
                removed(files[0]),
                swapped(files[0], files[1]),
            ):
                with fault:
                    for device in DEVICES:
                        refusal(CorruptStoreError, partial(read_all, tmp_path / "s", name, device=device))
                    assert not verify(tmp_path / "s").ok
            assert verify(tmp_path / "s").ok

    def test_an_unfinished_feature_is_refused_unless_asked_for(self, tmp_path: Path) -> None:
        """Missing shards are never silently fewer rows."""
        plan = StorePlan(records=SMALL, num_videos=6)
        self.write(tmp_path / "s", plan)
        (tmp_path / "s" / "g000" / "commits" / "pooled" / "00001.json").unlink()
        store = open_store(tmp_path / "s")
        assert "2 of 3 shards" in refusal(StoreError, lambda: store.feature("pooled"))
        assert store.feature("pooled", partially=True).num_rows == 16
        coverage = store.coverage("pooled")
        assert (coverage.ok, coverage.pending, coverage.total, coverage.is_complete) == (4, 2, 6, False)
        self.write(tmp_path / "s", plan)
        check_reads_back(tmp_path / "s", plan)

    def test_committing_again_changes_nothing(self, tmp_path: Path) -> None:
        """A valid committed shard wins, same bytes or not."""
        plan = StorePlan(records=SMALL, num_videos=6)
        self.write(tmp_path / "s", plan)
        before = snapshot(tmp_path / "s")
        with StoreWriter.open(tmp_path / "s", sampling=SamplingRecipe(), file_format=self.file_format) as writer:
            commit(writer, writer.generations()[0], 1, plan)
            assert snapshot(tmp_path / "s") == before
            commit(writer, writer.generations()[0], 1, replace(plan, failing={3: "timeout"}))
        after = snapshot(tmp_path / "s")
        assert {name: after[name] for name in before} == before
        check_reads_back(tmp_path / "s", plan)

    def test_left_overs_of_other_bytes_are_replaced(self, tmp_path: Path) -> None:
        """Uncommitted files under final names do not survive a commit with other bytes."""
        plan = StorePlan(records=SMALL, num_videos=6)
        self.write(tmp_path / "s", plan)
        reference = snapshot(tmp_path / "s")
        for name in SMALL:
            (tmp_path / "s" / "g000" / "commits" / name / "00001.json").unlink()
        for file in store_files(tmp_path / "s" / "g000"):
            is_content = file.suffix in {".h5", ""} or file.parent.name == "rows"
            if is_content and "1" in file.relative_to(tmp_path / "s" / "g000").as_posix():
                file.write_bytes(b"junk" + file.read_bytes()[4:])
        self.write(tmp_path / "s", plan)
        after = snapshot(tmp_path / "s")
        for name, content in reference.items():
            if "/1/" in name or "00001" in name:
                assert after[name] == content, name
