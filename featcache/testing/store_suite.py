"""The conformance suite that every shard format must pass.

Subclass :class:`StoreConformance`, set ``file_format``, and pytest runs it.
"""

import itertools
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import CorruptStoreError, StoreError
from featcache.recipes import SamplingRecipe
from featcache.seeding import rng_for
from featcache.store.paths import FileFormat
from featcache.store.reader import open_store
from featcache.store.row_reader import Device
from featcache.store.verify import verify
from featcache.store.writer import StoreWriter
from featcache.testing.faults import flipped_bit, removed, snapshot, store_files, swapped, truncated
from featcache.testing.stores import (
    DEVICES,
    StorePlan,
    add_generation,
    check_reads_back,
    commit,
    make_recipe,
    make_record,
    write_store,
)


def read_all(path: Path, name: str, *, device: Device = "mmap") -> npt.NDArray[Any]:
    """Open a store and read every row of a feature."""
    return open_store(path).feature(name, device=device)[:]


def refusal(error: type[Exception], call: Callable[[], object]) -> str:
    """The message with which a call is refused; fails if the call succeeds."""
    try:
        call()
    except error as refused:
        return str(refused)
    raise AssertionError(f"not refused with {error.__name__}")


SMALL = {"pooled": make_record((6,)), "map": make_record((2, 3, 4), "float32"), "small": make_record((5,), "int8")}


class StoreConformance:
    """Requirements for every shard format. Subclass it, set ``file_format``, and pytest runs it."""

    file_format: FileFormat

    def write(self, path: Path, *plans: StorePlan) -> None:
        """A synthetic store in the format under test."""
        write_store(path, *plans, file_format=self.file_format)

    def test_reads_back_with_failures_windows_and_generations(self, tmp_path: Path) -> None:
        """Covers videos shorter and longer than a shard, failing ones, and a second generation."""
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
        """A video is ok or has failed as a whole."""
        plan = StorePlan(records=SMALL, num_videos=2, rows_per_video=(19, 2), failing={0: "undecodable"})
        self.write(tmp_path / "s", plan)
        check_reads_back(tmp_path / "s", plan)
        assert open_store(tmp_path / "s").coverage("map").failed == 1

    def test_all_videos_failing_is_an_empty_feature(self, tmp_path: Path) -> None:
        """There is no data file and no rows, and coverage is complete."""
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
            for name in plan.records:
                assert not writer.complete(generation, name)
        assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")

    def test_a_feature_added_later_equals_one_made_at_once(self, tmp_path: Path) -> None:
        """Same files, same bytes."""
        both = StorePlan(records=SMALL, num_videos=9)
        self.write(tmp_path / "once", both)
        for name, record in SMALL.items():
            self.write(tmp_path / "grown", StorePlan(records={name: record}, num_videos=9))
        assert snapshot(tmp_path / "once") == snapshot(tmp_path / "grown")

    def test_a_store_grown_twice_equals_one_made_at_once(self, tmp_path: Path) -> None:
        """They are equal row for row."""
        floats = {name: record for name, record in SMALL.items() if record.dtype != "int8"}
        self.write(tmp_path / "once", StorePlan(records=floats, num_videos=9))
        parts = [StorePlan(records=floats, num_videos=3, first_video=first) for first in (0, 3, 6)]
        self.write(tmp_path / "grown", *parts)
        for name in floats:
            once, grown = (open_store(tmp_path / part).feature(name) for part in ("once", "grown"))
            assert once.video_ids == grown.video_ids
            assert once[:].tobytes() == grown[:].tobytes()

    def test_the_latest_ok_wins(self, tmp_path: Path) -> None:
        """A failed video that is extracted again gets its new rows; an ok video that then fails keeps the old ones."""
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
        """Rows are the same however they are requested."""
        plan = StorePlan(records=SMALL, num_videos=40)
        self.write(tmp_path / "s", plan)
        for name in SMALL:
            whole = open_store(tmp_path / "s").feature(name, device="ram")[:]
            rows = rng_for(0, name).integers(len(whole), size=200)
            for limit, device in itertools.product((1, 3, 1000), DEVICES):
                features = open_store(tmp_path / "s").feature(name, device=device, max_open_maps=limit)
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
        """Flipped, truncated, emptied, removed and swapped files are errors, mapped, read or loaded."""
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
        """Missing shards never silently reduce the number of rows."""
        plan = StorePlan(records=SMALL, num_videos=6)
        self.write(tmp_path / "s", plan)
        commits = tmp_path / "s" / "g000" / "commits" / "pooled"
        (commits / "00001.json").unlink()
        assert "lacks 1 of its 3 commit records" in refusal(
            CorruptStoreError, lambda: open_store(tmp_path / "s").feature("pooled")
        )
        (commits / "complete.json").unlink()
        store = open_store(tmp_path / "s")
        assert "still lacks 2 of 6 videos" in refusal(StoreError, lambda: store.feature("pooled"))
        assert store.feature("pooled", partially=True).num_rows == 16
        coverage = store.coverage("pooled")
        assert (coverage.ok, coverage.pending, coverage.total, coverage.is_complete) == (4, 2, 6, False)
        self.write(tmp_path / "s", plan)
        check_reads_back(tmp_path / "s", plan)

    def test_committing_again_changes_nothing(self, tmp_path: Path) -> None:
        """A valid committed shard wins, whether the bytes are the same or not."""
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
