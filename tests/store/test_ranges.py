"""Rows of stores in buckets: whole blocks, many at a time, kept on the local disk and trusted no more than a bucket."""

import numpy as np
import pytest

from featcache.errors import BucketError, CorruptStoreError
from featcache.seeding import rng_for
from featcache.store import ranges
from featcache.store.reader import open_store
from featcache.testing.s3_server import Fault, s3_server
from featcache.testing.stores import StorePlan, make_record, write_store
from tests.store.bucket_path import BucketPath

PLAN = StorePlan(
    records={"pooled": make_record((700,)), "wide": make_record((60, 2, 100), "int8")},
    num_videos=24,
    rows_per_video=(13, 40),
    shard_rows=256,
    failing={3: "timeout"},
)


@pytest.fixture(scope="module")
def server():
    with s3_server() as running:
        running.make_bucket("lab")
        for file_format in ("zarr", "hdf5"):
            write_store(f"s3://lab/{file_format}", PLAN, file_format=file_format)
        yield running


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    for file_format in ("zarr", "hdf5"):
        write_store(folder / file_format, PLAN, file_format=file_format)
    return folder


@pytest.fixture(autouse=True)
def cache(server, tmp_path, monkeypatch):
    monkeypatch.setenv("FEATCACHE_CACHE", str(tmp_path / "cache"))
    server.requests.clear()
    yield tmp_path / "cache"
    server.fault = lambda _: None


def data_requests(server):
    return [request for request in server.requests if "range" in request.headers]


@pytest.mark.parametrize("file_format", ["zarr", "hdf5"])
@pytest.mark.parametrize("name", ["pooled", "wide"])
@pytest.mark.parametrize("kept", ["20", "0"])
def test_rows_are_those_of_a_disk_however_they_are_asked_for(server, local, file_format, name, kept, monkeypatch):
    monkeypatch.setenv("FEATCACHE_CACHE_GB", kept)
    monkeypatch.setattr(ranges, "_PORTION_BYTES", 1 << 20)  # several portions
    whole = open_store(local / file_format).feature(name)[:]
    with open_store(f"s3://lab/{file_format}").feature(name) as features:
        for number in range(4):
            rows = rng_for(number, "rows").integers(len(whole), size=60)
            if number % 2:
                features.ahead(rows)
            assert features.gather(rows).tobytes() == whole[rows].tobytes()
            out = np.empty((60, *features.record.shape), features.dtype)
            assert features.gather(rows, out=out) is out
            assert out.tobytes() == whole[rows].tobytes()
        assert features.gather([]).shape == (0, *features.record.shape)
    assert open_store(f"s3://lab/{file_format}").feature(name, device="ram")[:].tobytes() == whole.tobytes()


def test_neighbours_come_together_and_each_block_once(server):
    with open_store("s3://lab/zarr").feature("pooled") as features:
        features.gather(np.arange(features.num_rows))
        num_files = len(features._index.files)
        assert len(data_requests(server)) == num_files
        server.requests.clear()
        features.gather(np.arange(0, features.num_rows, 7))
        assert data_requests(server) == []
    with open_store("s3://lab/zarr").feature("pooled") as again:
        again.gather(np.arange(again.num_rows))
    assert data_requests(server) == []


def test_what_is_said_ahead_is_fetched_before_it_is_gathered(server):
    with open_store("s3://lab/zarr").feature("wide") as features:
        rows = np.arange(0, features.num_rows, 5)
        features.ahead(rows)
        features._reader._coming[0][1].result()
        fetched = len(data_requests(server))
        features.ahead(rows)
        features.gather(rows)
        assert fetched == len(data_requests(server)) > 0
        assert not features._reader._coming


def test_batches_ahead_that_nobody_gathers_are_dropped(server):
    with open_store("s3://lab/zarr").feature("wide") as features:
        for start in range(0, 300, 30):
            features.ahead(np.arange(start, start + 3))
        assert len(features._reader._coming) <= 4
        assert features.gather([5]).shape == (1, 60, 2, 100)


@pytest.mark.parametrize("damage", ["flipped", "short", "gone", "swapped"])
def test_a_damaged_block_on_the_local_disk_is_fetched_again(server, local, cache, damage):
    whole = open_store(local / "zarr").feature("pooled")[:]
    with open_store("s3://lab/zarr").feature("pooled") as features:
        features.gather(np.arange(len(whole)))
    blocks = sorted(path for path in cache.rglob("*") if path.is_file())
    victim, other = blocks[0], next(path for path in blocks[1:] if path.stat().st_size == blocks[0].stat().st_size)
    data = bytearray(victim.read_bytes())
    data[77] ^= 1
    new = {"flipped": data, "short": data[:-1], "swapped": other.read_bytes()}
    victim.unlink() if damage == "gone" else victim.write_bytes(new[damage])
    server.requests.clear()
    for _ in range(2):
        with open_store("s3://lab/zarr").feature("pooled") as features:
            assert features.gather(np.arange(len(whole))).tobytes() == whole.tobytes()
    assert len(data_requests(server)) == 1


def test_a_block_that_vanishes_while_it_is_used_is_fetched_again(server, local, cache):
    whole = open_store(local / "zarr").feature("pooled")[:]
    with open_store("s3://lab/zarr").feature("pooled") as features:
        features.gather(np.arange(len(whole)))
        features._reader.close()  # all are kept
        for path in cache.rglob("*"):
            if path.is_file():
                path.unlink()
        assert features.gather(np.arange(len(whole))).tobytes() == whole.tobytes()


def test_what_is_damaged_in_the_bucket_is_never_read_nor_kept(server, cache):
    write_store("s3://lab/damaged", PLAN)
    name = "g000/pooled/c/1/0"
    place = BucketPath("s3://lab", f"damaged/{name}")
    data = bytearray(place.read_bytes())
    data[1234] ^= 4
    place.write_bytes(data)
    with (
        open_store("s3://lab/damaged").feature("pooled") as features,
        pytest.raises(CorruptStoreError, match=r"block 0 of s3://lab/damaged/g000/pooled/c/1/0 is damaged"),
    ):
        features.gather(np.arange(features.num_rows))
    place.write_bytes(data[:-1])
    with (
        open_store("s3://lab/damaged").feature("pooled") as features,
        pytest.raises(CorruptStoreError, match=r"data file s3://.*1/0 has \d+ bytes, its record says \d+"),
    ):
        features.gather(np.arange(features.num_rows))
    place.unlink()
    with (
        open_store("s3://lab/damaged").feature("pooled") as features,
        pytest.raises(CorruptStoreError, match=r"data file s3://lab/damaged/g000/pooled/c/1/0 is missing"),
    ):
        features.gather(np.arange(features.num_rows))


def test_damage_costs_only_the_rows_of_its_block(server, local, cache):
    """The blocks beside it come with the same request, and are kept in the same file."""
    whole = open_store(local / "zarr").feature("pooled")[:]
    write_store("s3://lab/mended", PLAN)
    place = BucketPath("s3://lab", "mended/g000/pooled/c/0/0")
    intact = place.read_bytes()
    damaged = bytearray(intact)
    damaged[1234] ^= 4
    place.write_bytes(damaged)
    with open_store("s3://lab/mended").feature("pooled") as features:
        blocks = features._index.block[features._index.file == 0]
        rows, others = np.flatnonzero(blocks == blocks[0]), np.flatnonzero(blocks != blocks[0])
        assert len(others) > 2 * len(rows) > 20
        server.requests.clear()
        features.ahead(others)
        assert features.gather(others).tobytes() == whole[others].tobytes()
        assert len(data_requests(server)) == 1
    for _ in range(2):  # also from the local disk
        with open_store("s3://lab/mended").feature("pooled") as features:
            assert features.gather(others).tobytes() == whole[others].tobytes()
            with pytest.raises(CorruptStoreError, match=r"block 0 of s3://lab/mended/g000/pooled/c/0/0 is damaged"):
                features.gather([*others, rows[-1]])
    place.write_bytes(intact)
    with open_store("s3://lab/mended").feature("pooled") as features:
        assert features.gather(others).tobytes() == whole[others].tobytes()
        assert features.gather(rows).tobytes() == whole[rows].tobytes()


def test_a_bucket_that_refuses_while_rows_are_read_says_so(server):
    with open_store("s3://lab/zarr").feature("pooled") as features:
        server.fault = lambda _: Fault("answer", 403, "AccessDenied")
        with pytest.raises(BucketError, match="refuses access"):
            features.gather([0])
        server.fault = lambda _: None
        assert features.gather([0]).shape == (1, 700)
