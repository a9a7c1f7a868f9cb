"""verify finds every damage; no read returns other values than were written."""

import itertools
from contextlib import suppress

import numpy as np
import pytest

from featcache.errors import CorruptStoreError, FeatcacheError, StoreError
from featcache.files.publish import put_new
from featcache.files.sealed import sha256_bytes
from featcache.recipes import SamplingRecipe
from featcache.store.gc import gc
from featcache.store.reader import open_store
from featcache.store.verify import verify
from featcache.store.writer import StoreWriter
from featcache.testing.faults import (
    flipped_bit,
    random_bits,
    removed,
    snapshot,
    store_files,
    swapped,
    truncated,
)
from featcache.testing.stores import StorePlan, check_reads_back, make_record, write_store

RECORDS = {"pooled": make_record((6,)), "map": make_record((2, 3, 4), "float32"), "small": make_record((5,), "int8")}
PLANS = (
    StorePlan(records=RECORDS, num_videos=7, unusable={2: "undecodable"}, failing={4: "timeout"}),
    StorePlan(records=RECORDS, num_videos=2, first_video=7),
)
CONFIG = b"extract:\n  out: s\n"


@pytest.fixture(scope="module", params=["zarr", "hdf5"])
def path(request, tmp_path_factory):
    """A sound store with every kind of file."""
    root = tmp_path_factory.mktemp("verify") / "store"
    write_store(root, *PLANS, file_format=request.param)
    put_new(root / "config" / f"extract-{sha256_bytes(CONFIG)[:12]}.yaml", CONFIG)
    return root


def read_everything(path):
    """All that a reader can be told, as bytes; raises if anything is refused."""
    store = open_store(path)
    parts = []
    for name in sorted(RECORDS):
        features = store.feature(name)
        parts.append(features.gather(np.arange(len(features)), dequantised=True).tobytes())
        table = features.rows
        parts += [getattr(table, column).tobytes() for column in ("video", "frames", "pts_seconds", "t0", "y1", "flip")]
        parts.append(repr((features.video_ids, store.coverage(name), features.recipe, features.record)).encode())
    parts.append(repr((list(store.videos.values()), store.sampling)).encode())
    return parts


def kind_of(path, root):
    relative = path.relative_to(root)
    return (
        "/".join(part if part in {"rows", "commits", "features", "config"} else "*" for part in relative.parts[:-1])
        + path.suffix
    )


def check_flips(path, *, count, seed):
    original = read_everything(path)
    assert verify(path).ok
    unseen = []
    for file, bit in random_bits(store_files(path), count=count, seed=seed):
        with flipped_bit(file, bit):
            try:
                found = not verify(path).ok
            except FeatcacheError:
                found = True
            try:
                changed = read_everything(path) != original
            except FeatcacheError:
                changed = False
            if changed or not found:
                unseen.append((file.relative_to(path).as_posix(), bit, found, changed))
    assert unseen == []
    assert verify(path).ok


def test_flipped_bits_are_found_and_never_read(path):
    kinds = {kind_of(file, path) for file, _ in random_bits(store_files(path), count=60, seed=1)}
    assert len(kinds) >= 5
    check_flips(path, count=60, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_flipped_bits_are_found_and_never_read(path):
    check_flips(path, count=500, seed=2)  # for each of two formats


def test_every_file_missing_cut_or_emptied_is_found(path):
    """Every file but those that may go: configurations, completions, and the note of the last plan."""
    original = read_everything(path)
    for file in store_files(path):
        relative = file.relative_to(path).as_posix()
        size = file.stat().st_size
        for fault in (removed(file), truncated(file, 0), truncated(file, size // 2), truncated(file, size - 1)):
            with fault:
                may_go = relative.startswith("config/") or relative == "plans/001.json" or file.name == "complete.json"
                if may_go and not file.exists():
                    assert verify(path).ok
                    assert read_everything(path) == original
                    continue
                if "/commits/" in relative and not file.exists():
                    with pytest.raises(CorruptStoreError, match="lacks 1 of its"):
                        read_everything(path)
                with suppress(FeatcacheError):
                    assert not verify(path).ok, relative
                with suppress(FeatcacheError):
                    assert read_everything(path) == original
    assert verify(path).ok


def test_swapped_files_of_one_kind_are_found(path):
    original = read_everything(path)
    files = [file for file in store_files(path) if file.name != "zarr.json"]
    for first, second in itertools.pairwise(files):
        if first.suffix != second.suffix or first.read_bytes() == second.read_bytes():
            continue
        with swapped(first, second):
            with suppress(FeatcacheError):
                assert not verify(path).ok, (first, second)
            with suppress(FeatcacheError):
                assert read_everything(path) == original


def test_a_shallow_check_reads_no_data(path):
    file = next(file for file in store_files(path) if file.name == "00000.h5" or file.parts[-3:-1] == ("c", "0"))
    with flipped_bit(file, 8 * file.stat().st_size // 2):
        assert verify(path, deep=False).ok
        assert not verify(path).ok
    with truncated(file, 3):
        assert not verify(path, deep=False).ok


def test_progress_names_every_file(path):
    seen = []
    report = verify(path, progress=seen.append)
    assert len(seen) == report.num_files
    assert set(seen) == {file.relative_to(path).as_posix() for file in store_files(path)}
    assert report.to_dict()["ok"] is True


def test_a_missing_feature_recipe_is_found(path):
    with removed(path / "features" / "pooled.json"):
        assert [problem.path for problem in verify(path).problems] == ["features/pooled.json"]


def test_a_symbolic_link_is_a_problem(path, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"x")
    link = path / "g000" / "link"
    link.symlink_to(tmp_path / "elsewhere")
    assert [problem.path for problem in verify(path).problems] == ["g000/link"]
    link.unlink()


def test_gc_removes_left_overs_and_nothing_else(tmp_path):
    path = tmp_path / "s"
    write_store(path, *PLANS)
    before = snapshot(path)
    left_overs = [
        path / "g000" / "pooled" / "c" / "0" / ".0.0123456789abcdef.tmp",
        path / ".featcache.json.0123456789abcdef.tmp",
        path / "g000" / "rows" / "00000-0123456789abcdef.parquet",
        path / "g000" / "videos-0123456789abcdef.parquet",
        path / "g002" / "segments-0123456789abcdef.parquet",
        path / "g000" / "pooled" / "c" / "77" / "0",
    ]
    for file in left_overs:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"left over")
    (path / "notes.txt").write_text("mine")
    report = verify(path)
    assert report.ok
    assert len(report.notes) == len(left_overs) + 1
    collected = gc(path)
    assert not any(file.exists() for file in left_overs)
    assert collected.num_bytes == 9 * len(left_overs)
    (path / "notes.txt").unlink()
    assert snapshot(path) == before
    assert gc(path).removed == ()
    check_reads_back(path, *PLANS)


def test_gc_waits_for_no_writer_and_spares_a_damaged_store(tmp_path):
    path = tmp_path / "s"
    write_store(path, *PLANS)
    with (
        StoreWriter.open(path, sampling=SamplingRecipe()),
        pytest.raises(StoreError, match="in use by another process"),
    ):
        gc(path)
    record = path / "g000" / "commits" / "pooled" / "00000.json"
    before = snapshot(path)
    with flipped_bit(record, 100), pytest.raises(CorruptStoreError):
        gc(path)
    assert snapshot(path) == before
    with pytest.raises(StoreError, match="is not a featcache store"):
        gc(tmp_path / "other")
