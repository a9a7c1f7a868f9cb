"""The files of a store in a bucket keep the promises of the protocol; leases keep processes apart."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from featcache.errors import CorruptStoreError, StoreError
from featcache.files import object_leases
from featcache.files.base import open_files
from featcache.files.object_leases import try_lease
from featcache.files.objects import Span
from featcache.testing.s3_server import s3_server


@pytest.fixture(scope="module")
def server():
    with s3_server() as running:
        running.make_bucket("lab")
        yield running


@pytest.fixture
def files(server, request):
    return open_files(f"s3://lab/{request.node.name.replace('[', '-').strip(']')}")


METHODS = {
    "exists": lambda files, name: files.exists(name),
    "size": lambda files, name: files.size(name),
    "names": lambda files, name: files.names(name),
    "walk": lambda files, name: list(files.walk(name)),
    "read": lambda files, name: files.read(name, what="file"),
    "map": lambda files, name: files.map(name, num_bytes=3, what="file"),
    "ranges": lambda files, name: files.ranges(name, num_bytes=3, what="file"),
    "fetch": lambda files, name: files.fetch([Span(name, 0, 1, 3)], what="file"),
    "put_new": lambda files, name: files.put_new(name, b"x"),
    "put_exact": lambda files, name: files.put_exact(name, b"x"),
    "remove": lambda files, name: files.remove(name),
    "lock": lambda files, name: files.lock(name, exclusive=True).__enter__(),
    "try_lock": lambda files, name: files.try_lock(name, exclusive=True).__enter__(),
}


@pytest.mark.parametrize("method", METHODS)
def test_names_that_leave_the_store_are_refused(files, method):
    for name in ("../x", "a/../../x", "/x", "a//b", "a\\b"):
        with pytest.raises(CorruptStoreError, match="is not a plain relative path"):
            METHODS[method](files, name)


def test_files_are_published_found_and_removed(files):
    assert files.is_remote
    assert files.put_new("a/b", (b"12", np.frombuffer(b"345", np.uint8)))
    assert not files.put_new("a/b", b"other")
    assert files.put_new("a/c/d", iter([b"x"]))
    assert files.put_new("e", np.arange(3, dtype=np.uint16))
    assert [files.exists(name) for name in ("a/b", "a", "z")] == [True, False, False]
    assert [files.size(name) for name in ("a/b", "a", "e")] == [5, None, 6]
    assert [files.names(folder) for folder in ("", "a", "z")] == [["a", "e"], ["b", "c"], []]
    assert list(files.walk("a")) == [("a/b", 5), ("a/c/d", 1)]
    assert files.read("a/b", what="file") == files.map("a/b", num_bytes=5, what="file").tobytes() == b"12345"
    assert [part.tobytes() for part in files.fetch([Span("a/b", 1, 3, 5), Span("e", 5, 6, 6)], what="file")] == [
        b"23",
        b"\0",
    ]
    into = np.zeros(2, np.uint8)
    files.ranges("a/b", num_bytes=5, what="file").read(3, into)
    assert into.tobytes() == b"45"
    files.put_exact("a/b", b"12345")
    files.put_exact("e", (b"12", b"3"))
    assert files.read("e", what="file") == b"123"
    files.remove("a/b")
    files.remove("a/b")
    assert not files.exists("a/b")


@pytest.mark.parametrize("method", ["read", "map", "fetch"])
def test_a_missing_or_changed_file_is_told(files, method):
    with pytest.raises(CorruptStoreError, match=r"file s3://lab/.*/x is missing; restore it or run"):
        METHODS[method](files, "x")
    files.put_new("x", b"four")
    if method != "read":
        with pytest.raises(CorruptStoreError, match="has 4 bytes, its record says 3"):
            METHODS[method](files, "x")


def test_calls_are_made_at_the_same_time_in_order_and_the_first_error_is_raised(files):
    together = threading.Barrier(20, timeout=60)
    assert files.each(lambda number: (together.wait(), -number)[1], range(20)) == [-number for number in range(20)]
    with pytest.raises(ZeroDivisionError):
        files.each(lambda number: 1 // number, [1, 0, 2])


def test_shared_locks_are_free_and_nobody_can_be_alone(files):
    with files.lock("locks/store.lock", exclusive=False), files.try_lock("locks/a", exclusive=False) as held:
        assert held
    with (
        pytest.raises(StoreError, match=r"a bucket has no locks, .* say so with --alone"),
        files.lock("locks/store.lock", exclusive=True, wait_seconds=0),
    ):
        pass


def test_a_lease_is_held_by_one_and_free_when_it_ends(files):
    with files.try_lock("locks/a", exclusive=True) as first, files.try_lock("locks/a", exclusive=True) as second:
        assert (first, second) == (True, False)
        with files.try_lock("locks/b", exclusive=True) as other:
            assert other
    with files.lock("locks/a", exclusive=True):
        assert files.names("locks") == ["a.lease"]
    assert files.names("locks") == []


def test_the_lease_of_a_process_of_this_host_that_is_gone_is_taken_over_at_once(files):
    script = (
        "import os, sys; from featcache.files.base import open_files\n"
        "lease = open_files(sys.argv[1]).try_lock('locks/a', exclusive=True)\n"
        "lease.__enter__(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, files.where()], check=True)
    assert files.names("locks") == ["a.lease"]
    with files.try_lock("locks/a", exclusive=True) as held:
        assert held


def test_the_lease_of_another_host_is_taken_over_when_it_was_not_written_for_a_minute(files, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def is_free():
        with try_lease(files.objects, "a") as held:
            return held

    files.put_exact("a.lease", b"elsewhere 1 0123 0\n")
    assert not is_free()
    clock[0] += 50
    assert not is_free()
    files.put_exact("a.lease", b"elsewhere 1 0123 1\n")  # its holder is alive
    clock[0] += 50
    assert not is_free()
    clock[0] += 61
    assert is_free()


def test_a_lease_that_is_held_is_written_again(files, monkeypatch):
    monkeypatch.setattr(object_leases, "BEAT_SECONDS", 0.05)
    with files.try_lock("a", exclusive=True):
        first = files.read("a.lease", what="lease")
        assert first.split()[1] == str(os.getpid()).encode()
        while files.read("a.lease", what="lease") == first:
            time.sleep(0.01)
