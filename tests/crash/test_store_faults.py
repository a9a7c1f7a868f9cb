"""Killed, starved and contended writers: nothing torn, and the next run gives the same bytes and records."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from featcache.seeding import rng_for
from featcache.store.gc import gc
from featcache.store.verify import verify
from featcache.testing import faults
from featcache.testing.stores import check_reads_back, write_store
from tests.crash.write_store import PLANS

SCRIPT = str(Path(__file__).with_name("write_store.py"))
FORMATS = ("zarr", "hdf5")

needs_strace = pytest.mark.skipif(not faults.has_strace(), reason="strace is not installed or may not trace here")


def command(path, file_format):
    return [sys.executable, "-B", SCRIPT, str(path), file_format]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """What an undisturbed writer leaves, by format."""
    found = {}
    for file_format in FORMATS:
        path = tmp_path_factory.mktemp("reference") / file_format
        write_store(path, *PLANS, file_format=file_format)
        assert verify(path).ok
        found[file_format] = faults.snapshot(path)
    return found


def check_healed(path, file_format, reference):
    """Resuming completes the store; it then equals the reference, and gc leaves nothing else."""
    write_store(path, *PLANS, file_format=file_format)
    assert faults.snapshot(path) == reference[file_format]
    report = verify(path)
    assert report.problems == []
    assert set(report.num_pending.values()) == {0}
    check_reads_back(path, *PLANS)
    gc(path)
    assert not list(path.rglob("*.tmp"))
    assert faults.snapshot(path) == reference[file_format]


def check_never_torn(path):
    """Whatever instant a writer died at: every file under its final name is whole."""
    if (path / "featcache.json").exists():
        assert verify(path).problems == []


@needs_strace
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(("syscall", "when"), [("linkat", 1), ("fsync", 9), ("writev", 7), ("unlink", 8)])
def test_killed_at_a_call_of_the_commit_path(tmp_path, reference, file_format, syscall, when):
    path = tmp_path / "store"
    outcome = faults.run_with_fault(command(path, file_format), syscall=syscall, when=when, fault="signal=KILL")
    assert outcome.was_killed
    check_never_torn(path)
    check_healed(path, file_format, reference)


@needs_strace
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("file_format", FORMATS)
def test_killed_at_every_call_of_the_commit_path(tmp_path, reference, file_format):
    counts = faults.count_syscalls(command(tmp_path / "count", file_format))
    assert all(counts.values()), counts
    for syscall, count in counts.items():
        for when in range(1, count + 1):
            path = tmp_path / f"{syscall}-{when}"
            outcome = faults.run_with_fault(command(path, file_format), syscall=syscall, when=when, fault="signal=KILL")
            assert outcome.was_killed, (syscall, when, outcome.stderr)
            check_never_torn(path)
            check_healed(path, file_format, reference)


@needs_strace
@pytest.mark.parametrize(
    ("syscall", "when", "error"), [("writev", 5, "ENOSPC"), ("fsync", 12, "EIO"), ("linkat", 6, "EDQUOT")]
)
def test_a_failing_call_is_told_and_healed(tmp_path, reference, syscall, when, error):
    check_failing_call(tmp_path / "store", "zarr", reference, syscall=syscall, when=when, error=error)


@needs_strace
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("file_format", FORMATS)
def test_every_failing_call_is_told_and_healed(tmp_path, reference, file_format):
    counts = faults.count_syscalls(command(tmp_path / "count", file_format))
    for syscall, errors in {"mkdir": ["ENOSPC"], "writev": ["ENOSPC"], "fsync": ["EIO"], "linkat": ["EDQUOT"]}.items():
        for error in errors:
            for when in range(1, counts[syscall] + 1):
                path = tmp_path / f"{syscall}-{error}-{when}"
                check_failing_call(path, file_format, reference, syscall=syscall, when=when, error=error)


def check_failing_call(path, file_format, reference, *, syscall, when, error):
    outcome = faults.run_with_fault(command(path, file_format), syscall=syscall, when=when, fault=f"error={error}")
    assert outcome.returncode == 3, outcome
    lines = outcome.stderr.strip().splitlines()
    assert len(lines) == 1, "one sentence, no traceback"
    assert "run the same command again" in lines[0]
    assert ("free some space" in lines[0]) == (error in {"ENOSPC", "EDQUOT"})
    check_never_torn(path)
    check_healed(path, file_format, reference)


def test_killed_at_random_instants(tmp_path, reference):
    kill_at_random(tmp_path, reference, kills=3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_fifty_random_instants(tmp_path, reference):
    kill_at_random(tmp_path, reference, kills=50)


def kill_at_random(tmp_path, reference, *, kills):
    for kill in range(kills):
        file_format = FORMATS[kill % 2]
        path = tmp_path / str(kill)
        seconds = 0.2 * float(rng_for(0, "kill", kill).random())  # a whole run writes for about so long
        faults.kill_after(command(path, file_format), seconds=seconds, once=path / "featcache.json")
        check_never_torn(path)
        check_healed(path, file_format, reference)


@pytest.mark.parametrize("file_format", FORMATS)
def test_three_writers_at_once(tmp_path, reference, file_format):
    path = tmp_path / "store"
    outcomes = faults.run_together(command(path, file_format), count=3)
    assert [outcome.returncode for outcome in outcomes] == [0, 0, 0], outcomes
    assert faults.snapshot(path) == reference[file_format]
    check_healed(path, file_format, reference)


def test_full_disk_is_one_sentence_and_heals(tmp_path, reference):
    with faults.small_disk(48 << 10) as disk:
        if disk is None:
            pytest.skip("mounting a small disk needs root")
        path = disk / "store"
        outcome = subprocess.run(command(path, "zarr"), check=False, capture_output=True, text=True)
        assert outcome.returncode == 3, outcome.stderr
        assert "free some space" in outcome.stderr
        assert len(outcome.stderr.strip().splitlines()) == 1
        check_never_torn(path)
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        check_healed(path, "zarr", reference)


def test_file_size_limit_is_one_sentence(tmp_path, reference):
    """Works for any user, where a small disk needs root."""
    path = tmp_path / "store"
    outcome = subprocess.run(
        command(path, "hdf5"),
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
    )
    assert outcome.returncode == 3, outcome.stderr
    assert "free some space" in outcome.stderr
    check_never_torn(path)
    check_healed(path, "hdf5", reference)
