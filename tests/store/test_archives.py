"""Stores written by earlier builds open for ever, and the same work still gives the same shard bytes.

``tests/archives/v1-*`` were written by the first version of the format, with :data:`PLANS`.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from featcache.store import writer
from featcache.store.comparing import diff
from featcache.store.copying import convert, merge
from featcache.store.reader import open_store
from featcache.store.settings import ConvertSettings, DiffSettings, MergeSettings
from featcache.store.verify import verify
from featcache.store.writer import StoreWriter
from featcache.testing.stores import StorePlan, check_reads_back, fill, make_record, write_store

ARCHIVES = Path(__file__).parents[1] / "archives"
FORMATS = ("zarr", "hdf5")
RECORDS = {"pooled": make_record((5,)), "maps": make_record((2, 2, 3), "float32"), "small": make_record((4,), "int8")}
PLANS = (
    StorePlan(
        records=RECORDS,
        rows_per_video=(3, 1),
        num_videos=6,
        shard_rows=4,
        unusable={1: "missing"},
        failing={4: "undecodable"},
    ),
    StorePlan(records=RECORDS, rows_per_video=(2,), num_videos=3, first_video=6, shard_rows=4, failing={7: "timeout"}),
)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_store_of_version_1_opens(file_format):
    path = ARCHIVES / f"v1-{file_format}"
    check_reads_back(path, *PLANS)
    report = verify(path)
    assert report.ok, report.problems
    coverage = open_store(path).coverage("pooled")
    assert (coverage.ok, coverage.failed, coverage.pending) == (6, 3, 0)
    assert coverage.by_status["timeout"] == 1


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_store_of_version_1_grows(tmp_path, file_format):
    path = shutil.copytree(ARCHIVES / f"v1-{file_format}", tmp_path / "store")
    more = StorePlan(records=RECORDS, num_videos=2, first_video=9, shard_rows=8)
    write_store(path, *PLANS, more, file_format=file_format)
    check_reads_back(path, *PLANS, more)
    assert verify(path).ok


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_store_of_version_1_is_merged_and_converted(tmp_path, file_format):
    path, other = ARCHIVES / f"v1-{file_format}", FORMATS[1 - FORMATS.index(file_format)]
    merge(MergeSettings(stores=(str(path),), out=str(tmp_path / "m")))
    convert(ConvertSettings(store=str(path), to=other, out=str(tmp_path / "c")))
    for copy in ("m", "c"):
        check_reads_back(tmp_path / copy, *PLANS)
        assert verify(tmp_path / copy).ok
        assert not diff(DiffSettings(store=str(path), other_store=str(tmp_path / copy))).kinds


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_same_work_gives_the_same_shards(tmp_path, file_format):
    """Data files, array metadata and int8 scales are those of version 1, byte for byte."""
    write_store(tmp_path / "again", *PLANS, file_format=file_format)
    archive = ARCHIVES / f"v1-{file_format}"
    arrays = [
        path for path in archive.rglob("*") if path.parts[-2] in RECORDS or "c" in path.parts[len(archive.parts) :]
    ]
    files = sorted(path for path in arrays if path.is_file() and path.suffix in ("", ".h5"))
    assert len(files) == (15 if file_format == "hdf5" else 20)
    for path in files:
        assert (tmp_path / "again" / path.relative_to(archive)).read_bytes() == path.read_bytes(), path


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_shard_of_version_1_can_be_written_again(tmp_path, file_format):
    path = shutil.copytree(ARCHIVES / f"v1-{file_format}", tmp_path / "store")
    (path / "g000" / "commits" / "maps" / "00001.json").unlink()
    assert open_store(path).coverage("maps").pending
    with StoreWriter.open(path, sampling=open_store(path).sampling, file_format=file_format) as opened:
        fill(opened, opened.generations()[0], PLANS[0])
    check_reads_back(path, *PLANS)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_generation_goes_on_with_the_blocks_of_its_plan(tmp_path, monkeypatch, file_format):
    """Those of later generations, and of copies, have the size of today."""
    large = StorePlan(records={"maps": make_record((3, 5, 200), "float32")}, num_videos=8, shard_rows=16)
    size = large.records["maps"].num_bytes
    with monkeypatch.context() as patch:
        patch.setattr(writer, "MAX_BLOCK_BYTES", 16 * size)
        write_store(tmp_path / "s", large, file_format=file_format)
    (tmp_path / "s" / "g000" / "commits" / "maps" / "00001.json").unlink()
    more = replace(large, first_video=8)
    write_store(tmp_path / "s", large, more, file_format=file_format)
    merge(MergeSettings(stores=(str(tmp_path / "s"),), out=str(tmp_path / "m")))
    for name, sizes in (("s", [16, 16, 4, 4]), ("m", [4])):
        check_reads_back(tmp_path / name, large, more)
        assert verify(tmp_path / name).ok
        records = sorted((tmp_path / name).glob("g*/commits/maps/0*.json"))
        assert [json.loads(record.read_bytes())["data"]["block_rows"] for record in records] == sizes
