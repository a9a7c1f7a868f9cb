"""Killed, refused and contended writers of stores in buckets: nothing torn or lost, and the next run gives the same."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from featcache.errors import BucketError
from featcache.files.base import open_files
from featcache.store.documents import is_store
from featcache.store.gc import gc
from featcache.store.reader import open_store
from featcache.store.verify import verify
from featcache.testing import faults
from featcache.testing.s3_server import Fault, s3_server
from featcache.testing.stores import StorePlan, check_reads_back, make_record, write_store
from tests.crash.write_shards import plan_of
from tests.crash.write_store import PLANS

SMALL = StorePlan(records={"pooled": make_record((6,))}, num_videos=1)
SCRIPT = str(Path(__file__).with_name("write_store.py"))
SHARDS = str(Path(__file__).with_name("write_shards.py"))


@pytest.fixture(scope="module")
def server():
    with s3_server() as running:
        running.make_bucket("lab")
        yield running


@pytest.fixture
def url(server, request, tmp_path, monkeypatch):
    monkeypatch.setenv("FEATCACHE_CACHE", str(tmp_path / "cache"))
    server.fault = lambda _: None
    yield f"s3://lab/{request.node.name.replace('[', '-').strip(']')}/store"
    server.fault = lambda _: None


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """What an undisturbed writer leaves on a disk."""
    path = tmp_path_factory.mktemp("reference") / "store"
    write_store(path, *PLANS)
    return faults.snapshot(path)


def contents(url):
    """All files but locks."""
    files = open_files(url)
    return {name: files.read(name, what="file") for name, _ in files.walk() if not name.startswith("locks/")}


def start(script, *words):
    command = [sys.executable, "-B", script, *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def check_healed(url, reference):
    write_store(url, *PLANS)
    assert contents(url) == reference
    assert verify(url).problems == []
    gc(url, alone=True)
    assert {name for name, _ in open_files(url).walk()} == set(reference)


def kill_at(server, url, request_number, kind):
    """Start a writer, and kill it when its n-th request arrives, or has been carried out."""
    seen = []

    def fault(request):
        seen.append(request)
        if len(seen) != request_number:
            return None
        process.send_signal(signal.SIGKILL)
        return Fault(kind)

    server.fault = fault
    process = start(SCRIPT, url, "zarr")
    _, stderr = process.communicate()
    server.fault = lambda _: None
    assert process.returncode in (0, -signal.SIGKILL), stderr
    return process.returncode == -signal.SIGKILL


def test_a_killed_writer_leaves_nothing_torn_and_the_next_run_heals(server, url, reference):
    for number, kind in ((60, "cut_before"), (75, "cut_after")):
        assert kill_at(server, url, number, kind)
        assert verify(url).problems == []
    check_healed(url, reference)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_writer_killed_at_every_third_request(server, url, reference, first):
    number, stores = first - 3, 0
    killed = True
    while killed:
        number += 3
        place = f"{url}-{number}"
        killed = kill_at(server, place, number, "cut_after" if number % 2 else "cut_before")
        stores += is_store(place)  # the first requests come before there is one
        if is_store(place):
            assert verify(place).problems == []
        check_healed(place, reference)
    assert stores > 25
    print(f"killed at {(number - first) // 3} requests up to {number - 3}: 0 lost, 0 torn")


@pytest.mark.parametrize("share", [0.2, pytest.param(0.6, marks=pytest.mark.slow)])
def test_a_writer_whose_requests_are_refused_and_cut(server, url, reference, share, monkeypatch):
    monkeypatch.setattr("featcache.files.objects._FIRST_PAUSE", 0.01)
    rng = random.Random(7)
    kinds = [
        Fault("answer", 503, "SlowDown"),
        Fault("answer", 429, "TooManyRequests"),
        Fault("answer_after", 500, "InternalError"),
        Fault("cut_before"),
        Fault("cut_after"),
    ]
    last = []

    def fault(request):
        """Not thrice in a row, so that the retries of each request are enough."""
        is_fault = rng.random() < share and last[-3:] != [True] * 3
        last.append(is_fault)
        return rng.choice(kinds) if is_fault else None

    server.fault = fault
    write_store(url, *PLANS)
    server.fault = lambda _: None
    assert sum(last) > share / 2 * len(last)
    check_healed(url, reference)
    check_reads_back(url, *PLANS)


def test_two_writers_leave_what_one_does(url, reference):
    writers = [start(SCRIPT, url, "zarr") for _ in range(2)]
    for writer in writers:
        _, stderr = writer.communicate()
        assert writer.returncode == 0, stderr
    check_healed(url, reference)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Fault("answer", 403, "AccessDenied"), "refuses access"),
        (Fault("answer", 404, "NoSuchBucket"), "there is no bucket 'lab'"),
        (Fault("answer", 301, "PermanentRedirect"), "is in another region"),
    ],
)
def test_a_bucket_that_refuses_is_told_after_one_request(server, url, fault, sentence):
    write_store(url, SMALL)
    server.fault = lambda request: fault if request.method == "PUT" else None
    with pytest.raises(BucketError, match=sentence):
        write_store(f"{url}-2", SMALL)
    server.requests.clear()
    server.fault = lambda request: fault
    if fault.code != "NoSuchBucket":  # the first request is HEAD, whose answer has no code
        with pytest.raises(BucketError, match=sentence):
            open_store(url)
        assert len(server.requests) == 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("claims", "num_shards", "differs"),
    [(True, 1000, False), (False, 40, False), (False, 40, True)],
    ids=["claims", "no-claims", "no-claims-and-other-bytes"],
)
def test_four_writers_with_kills(url, tmp_path, claims, num_shards, differs):
    """Until all shards are committed, a random writer is killed every second or so, and started again."""
    rng = random.Random(num_shards + differs)

    def begin(number):
        words = (url, num_shards, number, "claims" if claims else "none", "differs" if differs else "alike")
        return start(SHARDS, *words)

    running = {number: begin(number) for number in range(4)}
    kills = 0
    while running:
        time.sleep(rng.uniform(0.5, 3.0))
        for number, process in list(running.items()):
            if process.poll() is not None and process.returncode != -signal.SIGKILL:
                assert process.returncode == 0, process.stderr.read()
                process.stderr.close()
                del running[number]
        if running and kills < (60 if claims else 25):
            number = rng.choice(list(running))
            if running[number].poll() is None:
                running[number].kill()
                running[number].communicate()
                running[number] = begin(number)
                kills += 1
    last = begin(0)  # what killed writers had claimed
    assert last.wait() == 0, last.stderr.read()
    last.stderr.close()
    report = verify(url)
    assert report.problems == []
    assert report.num_pending == {"pooled": 0}
    committed = len(open_files(url).names("g000/commits/pooled")) - 1
    assert committed == num_shards
    if not differs:
        write_store(tmp_path / "reference", plan_of(num_shards))
        assert contents(url) == faults.snapshot(tmp_path / "reference")
    print(f"{committed} commits by 4 writers, {kills} kills: 0 lost, 0 torn")
