"""Blocks kept on the local disk: bounded, shared, oldest first out, and never in the way."""

import os
import time

import numpy as np
import pytest

from featcache.errors import ConfigError
from featcache.files.block_cache import BlockCache, block_key


def block(number, size=100):
    return np.full(size, number, np.uint8)


def key(number):
    return block_key("s3://b/x", number, 100, number)


def held(cache):
    return sorted(path.name for path in cache.folder.rglob("*") if path.is_file())


def test_what_was_put_is_read_in_whole_and_in_parts(tmp_path):
    cache = BlockCache(tmp_path / "cache", max_bytes=1000)
    data = np.arange(100, dtype=np.uint8)
    cache.put(key(1), data)
    assert cache.read(key(1), 100).tolist() == data.tolist()
    parts = [np.empty(3, np.uint8), np.empty(1, np.uint8)]
    assert cache.read_parts(key(1), 100, [5, 99], parts)
    assert [part.tolist() for part in parts] == [[5, 6, 7], [99]]
    assert cache.read(key(2), 100) is None
    assert cache.read(key(1), 99) is None


def test_keys_tell_places_and_contents_apart():
    one = ("s3://b/x", 0, 100, 7)
    others = [("s3://b/y", 0, 100, 7), ("s3://b/x", 1, 100, 7), ("s3://b/x", 0, 10, 7), ("s3://b/x", 0, 100, 8)]
    assert len({block_key(*each) for each in (one, *others)}) == 5
    assert block_key(*one) == block_key(*one)


def test_the_oldest_make_room_and_those_in_use_stay(tmp_path):
    cache = BlockCache(tmp_path, max_bytes=1000)
    for number in range(10):
        cache.put(key(number), block(number))
        path = tmp_path / key(number)[:2] / key(number)
        os.utime(path, (time.time() - 10_000 + number, time.time() - 10_000 + number))
    assert cache.read(key(0), 100) is not None  # used now
    cache.put(key(10), block(10))
    assert cache.read(key(0), 100) is not None
    assert cache.read(key(1), 100) is None
    assert cache.read(key(9), 100) is not None
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 1000


def test_half_of_the_free_room_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("featcache.files.block_cache.free_bytes", lambda folder: 1000 - len(held(cache)) * 100)
    cache = BlockCache(tmp_path, max_bytes=10_000)
    for number in range(20):
        cache.put(key(number), block(number))
        assert len(held(cache)) <= 5
    assert len(held(cache)) >= 4


def test_processes_beside_each_other_keep_to_the_size(tmp_path):
    caches = [BlockCache(tmp_path, max_bytes=3200) for _ in range(3)]
    for number in range(120):
        caches[number % 3].put(key(number), block(number))
        total = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
        assert total <= 3200 + 3 * (200 + 100)


def test_a_disk_that_refuses_is_told_once_and_changes_nothing(tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    cache = BlockCache(tmp_path / "file", max_bytes=1000)
    cache.put(key(1), block(1))
    cache.put(key(2), block(2))
    assert cache.read(key(1), 100) is None
    assert [record.message for record in caplog.records if "not kept" in record.message] == [
        f"blocks of buckets are not kept in {tmp_path / 'file'} (Not a directory): each is fetched anew"
    ]


def test_nothing_is_kept_where_there_is_no_room_for_it(tmp_path):
    for size in (0, 99):
        BlockCache(tmp_path, max_bytes=size).put(key(1), block(1))
    assert held(BlockCache(tmp_path, max_bytes=1)) == []


def test_the_environment_says_where_and_how_much(tmp_path, monkeypatch):
    monkeypatch.delenv("FEATCACHE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert BlockCache.from_environment().folder == tmp_path / "featcache" / "blocks"
    monkeypatch.setenv("FEATCACHE_CACHE", str(tmp_path / "here"))
    monkeypatch.setenv("FEATCACHE_CACHE_GB", "0.5")
    cache = BlockCache.from_environment()
    assert (cache.folder, cache.max_bytes) == (tmp_path / "here", 500_000_000)
    for wrong in ("much", "-1", "inf", "nan"):
        monkeypatch.setenv("FEATCACHE_CACHE_GB", wrong)
        with pytest.raises(ConfigError, match="FEATCACHE_CACHE_GB"):
            BlockCache.from_environment()
