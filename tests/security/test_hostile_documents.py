"""Documents and tables under their right hashes that lie: a sentence each, and nothing is allocated for them."""

import json
import resource

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featcache.errors import CorruptStoreError, FeatcacheError
from featcache.recipes import SamplingRecipe
from featcache.store.gc import gc
from featcache.store.reader import open_store
from featcache.store.rows import table_bytes
from featcache.store.verify import verify
from featcache.store.writer import StoreWriter
from featcache.testing.stores import StorePlan, make_record, write_store
from tests.security.hostile import (
    bomb,
    read_plan_table,
    replace_bytes,
    replace_rows,
    replace_table,
    reseal_plan,
    tamper,
)

PLAN = StorePlan(records={"a": make_record((4,))}, num_videos=4)
COUNTS = ["num_shards", "num_videos", "shard_rows", "encode_batch", "threads"]


@pytest.fixture(params=["zarr", "hdf5"])
def path(request, tmp_path):
    write_store(tmp_path / "s", PLAN, file_format=request.param)
    return tmp_path / "s"


def refused(path):
    """Opening, reading, coverage and summary all end in a sentence or know nothing of the lie; verify finds it."""
    for read in (
        lambda: open_store(path).feature("a")[:],
        lambda: open_store(path).feature("a").rows,
        lambda: open_store(path).coverage("a"),
        lambda: open_store(path).info(),
    ):
        with pytest.raises(FeatcacheError):
            read()
    assert not verify(path).ok


@pytest.mark.parametrize("count", [10**9, 10**12, 10**30])
@pytest.mark.parametrize("name", COUNTS)
def test_plans_that_count_too_far_allocate_nothing(path, name, count):
    reseal_plan(path, **{name: count})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "less than 100 MB more"


def test_plans_that_count_too_far_do_not_hold_up_a_writer(path):
    reseal_plan(path, num_shards=10**12)
    file_format = "zarr" if (path / "zarr.json").exists() else "hdf5"
    with StoreWriter.open(path, sampling=SamplingRecipe(), file_format=file_format) as writer:
        (generation,) = writer.generations()
        for work in (
            lambda: range(generation.num_shards),
            lambda: writer.committed(generation, "a"),
            lambda: generation.shard_slice(0),
        ):
            with pytest.raises(CorruptStoreError, match="do not fit its plan"):
                work()
    with pytest.raises(CorruptStoreError, match="do not fit its plan"):
        gc(path)


@pytest.mark.parametrize("kind", ["videos", "segments"])
@pytest.mark.parametrize("data", [b"", b"PAR1", b"no table at all", b"PAR1" + bytes(200) + b"PAR1"])
def test_a_table_that_is_no_parquet_under_the_right_hash(path, kind, data):
    replace_bytes(path, kind, data)
    refused(path)


@pytest.mark.parametrize("data", [b"", b"no table", bomb(1 << 26, video=0, row=0)])
def test_a_row_table_that_is_no_table_under_the_right_hash(path, data):
    replace_rows(path, data)
    with pytest.raises(CorruptStoreError):
        _ = open_store(path).feature("a").rows
    assert not verify(path).ok


@pytest.mark.parametrize("path", ["zarr"], indirect=True)  # tables do not know the file format
def test_row_tables_of_other_columns(path):
    rows = next((path / "g000" / "rows").glob("00000-*.parquet"))
    table = pq.read_table(rows, use_threads=False)
    for number, name in enumerate(table.column_names):
        column = table.column(name)
        others = (
            [pa.nulls(len(table), column.type), pa.array(["x"] * len(table)), column.cast(pa.float32(), safe=False)]
            if not pa.types.is_fixed_size_list(column.type) and column.type != pa.bool_()
            else [pa.nulls(len(table), column.type), pa.array([[1]] * len(table))]
        )
        for other in others:
            replace_rows(path, table_bytes(table.set_column(number, name, other)))
            with pytest.raises(CorruptStoreError, match=f"no usable column '{name}'"):
                _ = open_store(path).feature("a").rows
        for damaged in (table.drop_columns([name]), table.append_column(name, column)):
            replace_rows(path, table_bytes(damaged))
            with pytest.raises(CorruptStoreError):
                _ = open_store(path).feature("a").rows
    frames = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(len(table) * 7, np.int32)), 7)
    replace_rows(path, table_bytes(table.set_column(table.column_names.index("frames"), "frames", frames)))
    with pytest.raises(CorruptStoreError, match="other numbers of frames"):
        _ = open_store(path).feature("a").rows


SEGMENTS = {
    "video": [-1, 4, 10**6],
    "shard": [-1, 1, 10**6],
    "first_row": [-1, 1, 10**6],
    "first_clip": [-1],
    "num_rows": [0, -1, 10**6],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in SEGMENTS.items() for value in values])
def test_segments_that_are_not_where_the_plan_has_room(path, name, value):
    table = read_plan_table(path, "segments")
    values = table.column(name).to_pylist()
    column = pa.array([value, *values[1:]], pa.int32())
    replace_table(path, "segments", table.set_column(table.column_names.index(name), name, column))
    refused(path)


@pytest.mark.parametrize("path", ["zarr"], indirect=True)  # tables do not know the file format
def test_segments_and_videos_of_other_columns(path):
    for kind in ("videos", "segments"):
        table = read_plan_table(path, kind)
        for number, name in enumerate(table.column_names):
            others = [pa.array([[1]] * len(table)), pa.nulls(len(table), table.column(name).type)]
            damaged = [table.set_column(number, name, other) for other in others if not name.startswith("label")]
            if not name.startswith("label"):
                damaged += [table.drop_columns([name]), table.append_column(name, table.column(name))]
            for other in damaged:
                replace_table(path, kind, other)
                if kind == "videos" and "start_seconds" not in other.column_names:
                    continue  # as older versions wrote it
                with pytest.raises(CorruptStoreError):
                    _ = open_store(path).videos, open_store(path).feature("a")
        replace_table(path, kind, table)
    assert len(open_store(path).feature("a")[:])


@pytest.mark.parametrize("path", ["zarr"], indirect=True)  # tables do not know the file format
def test_bombs_of_a_few_bytes_are_not_unpacked(path):
    videos = bomb(1 << 26, id=0)
    assert len(videos) < 400_000
    replace_bytes(path, "videos", videos)
    with pytest.raises(CorruptStoreError, match=r"rows in \d+ bytes"):
        _ = open_store(path).videos
    replace_bytes(path, "segments", bomb(1 << 26, video=0))
    refused(path)


@pytest.mark.parametrize(
    "members",
    [
        {"sampling": {"num_clips": "4"}},
        {"sampling": {"num_crops": [1]}},
        {"sampling": {"scale": 1}},
        {"sampling": {"test": 7}},
        {"sampling": {"color": {"brightness": "x"}}},
        {"sampling": {"layout": ["clips"]}},
        {"sampling": None},
        {"file_format": ["zarr"]},
        {"version": 10**4000},
    ],
)
def test_descriptions_of_other_types(path, members):
    tamper(path / "featcache.json", **members)
    with pytest.raises(FeatcacheError):
        open_store(path)


@pytest.mark.parametrize("name", ["backbone", "grid", "input_size", "mean", "precision", "average_frames"])
def test_recipes_of_other_types(path, name):
    recipe = json.loads((path / "features" / "a.json").read_bytes())["recipe"]
    for value in ({}, [[]], "x" if name != "backbone" else 3):
        tamper(path / "features" / "a.json", recipe={**recipe, name: value})
        with pytest.raises(FeatcacheError):
            open_store(path).feature("a")
        assert not verify(path).ok
