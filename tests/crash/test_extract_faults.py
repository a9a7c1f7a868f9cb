"""A whole extraction that is killed, starved or contended: run again, it gives the bytes of one left in peace.

``FEATCACHE_KILLS`` sets how many random instants the slow test kills at.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from featcache.config import parse, read_mapping
from featcache.data.manifest import write_parquet
from featcache.data.motion import MotionSettings, make_motion_set
from featcache.data.scan import scan
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings
from featcache.seeding import rng_for
from featcache.store.verify import verify
from featcache.testing import faults
from tests.crash.forked import Forks, nothing_left_of

NUM_KILLS = int(os.environ.get("FEATCACHE_KILLS", "50"))
MAX_KILLS_IN_A_ROW = 4
NUM_SWEEP_CLIPS = 3

OPTIONS = (
    *("--backbone", "timm/tf_efficientnet_lite0", "--weights", "random", "--device", "cpu", "--clips", "2"),
    *("--frames", "2", "--disk-fraction", "1000", "--set", "features.0.input_size=64", "--set", "runtime.threads=1"),
)

needs_strace = pytest.mark.skipif(not faults.has_strace(), reason="strace is not installed or may not trace here")


def arguments(source: Path, *, shard_rows: int) -> list[str]:
    """``extract`` into the folder ``store`` of the working directory, so that all runs have the same configuration."""
    return [
        "extract",
        str(source),
        *OPTIONS,
        "--set",
        f"shard_rows={shard_rows}",
        "--out",
        "store",
        "--json",
        "--quiet",
    ]


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    with Forks(tmp_path_factory.mktemp("log")) as running:
        yield running


@pytest.fixture(scope="module")
def listing(tmp_path_factory):
    """Sixteen clips, one of them damaged: the ledger is part of what must come back."""
    settings = MotionSettings(
        size=64, num_unseen_pictures=21, train_per_picture_motion=1, test_unseen_per_picture_motion=0
    )
    path = make_motion_set(tmp_path_factory.mktemp("motion"), settings)
    victim = path.parent / json.loads(path.read_text().splitlines()[4])["path"]
    victim.write_bytes(victim.read_bytes()[:-1000])
    return path


@pytest.fixture(scope="module")
def manifest(listing):
    """A few of the clips, scanned, and one of them lost since."""
    lines = listing.read_text().splitlines()[:NUM_SWEEP_CLIPS]
    few = listing.with_name("few.jsonl")
    few.write_text("\n".join(lines) + "\n")
    path = listing.with_name("few.parquet")
    write_parquet(scan(few), path)
    return path


class Undisturbed:
    """An extraction left in peace: the measure of all others."""

    def __init__(self, command: list[str], folder: Path, forks: Forks) -> None:
        self.command = command
        began = time.monotonic()
        outcome = forks.run(command, cwd=folder)
        self.seconds = time.monotonic() - began
        assert outcome.returncode == 0, outcome
        assert verify(folder / "store").ok
        self.files = faults.snapshot(folder / "store")
        (self.config,) = (folder / "store" / "config").iterdir()

    def heal(self, folder: Path) -> None:
        """Run it again in this process, from the configuration that the store keeps."""
        with contextlib.chdir(folder):
            extract(parse(ExtractSettings, read_mapping(self.config)))
        self.check(folder)

    def check(self, folder: Path) -> None:
        """The store is complete and equals this one, in every file but locks and left-overs."""
        assert faults.snapshot(folder / "store") == self.files
        report = verify(folder / "store")
        assert report.problems == []
        assert set(report.num_pending.values()) == {0}


@pytest.fixture(scope="module")
def whole(listing, forks, tmp_path_factory):
    return Undisturbed(arguments(listing, shard_rows=2), tmp_path_factory.mktemp("whole"), forks)


@pytest.fixture(scope="module")
def small(manifest, forks, tmp_path_factory):
    return Undisturbed(arguments(manifest, shard_rows=4), tmp_path_factory.mktemp("small"), forks)


def check_never_torn(folder: Path) -> None:
    """Whatever an extraction died of: every file under its final name is whole."""
    if (folder / "store" / "featcache.json").exists():
        assert verify(folder / "store").problems == []


def num_files(folder: Path) -> int:
    return len(faults.store_files(folder / "store"))


# Killed


def test_killed_at_random_instants(small, forks, tmp_path):
    assert kill_at_random(small, forks, tmp_path, kills=2, kills_in_a_row=2) == 2


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_at_many_random_instants(whole, forks, tmp_path):
    assert kill_at_random(whole, forks, tmp_path, kills=NUM_KILLS, kills_in_a_row=MAX_KILLS_IN_A_ROW) >= NUM_KILLS


def kill_at_random(expected, forks, tmp_path, *, kills, kills_in_a_row) -> int:
    """Kill extractions up to so many times in a row before one is left to finish; returns the kills in all.

    Every second kill comes after a random time, the others as one more of the store's files appears, or a little later:
    most of a small extraction is start-up.
    """
    done = 0
    for chain in range(kills):
        folder = tmp_path / f"chain{chain}"
        folder.mkdir()
        rng = rng_for(0, "kill", chain)
        while done < min(kills, (chain + 1) * kills_in_a_row) and num_files(folder) < len(expected.files):
            started_with = num_files(folder)
            by_time = done % 2 == 1
            wanted = int(rng.integers(started_with, len(expected.files), endpoint=True))
            seconds = float(rng.random()) * (expected.seconds if by_time else 0.02)
            command = forks.start(expected.command, cwd=folder)
            while command.is_running() and not by_time and num_files(folder) < wanted:
                time.sleep(0.001)
            deadline = time.monotonic() + seconds
            while command.is_running() and time.monotonic() < deadline:
                time.sleep(0.001)
            with nothing_left_of(command):
                outcome = command.kill()
            check_never_torn(folder)
            assert outcome.was_killed or outcome.returncode == 0, outcome
            print(f"chain {chain}: {started_with} files, {num_files(folder)} at {outcome.returncode}")
            if not outcome.was_killed:
                break
            done += 1
            if done == kills:
                break
        outcome = forks.run(expected.command, cwd=folder)
        assert outcome.returncode == 0, outcome
        expected.check(folder)
        if done == kills:
            break
    return done


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_while_it_starts(whole, tmp_path):
    """The real command, from its first instruction: imports, scan, plan."""
    command = [sys.executable, "-m", "featcache", *whole.command]
    for number in range(5):
        folder = tmp_path / str(number)
        folder.mkdir()
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
            time.sleep(float(rng_for(0, "start", number).random()) * 2 * whole.seconds)
            process.kill()
        deadline = time.monotonic() + 10
        while faults.decoding_workers(process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        check_never_torn(folder)
        whole.heal(folder)


@needs_strace
@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("syscall", faults.COMMIT_SYSCALLS)
def test_killed_at_every_call_of_the_commit_path(small, forks, tmp_path, syscall):
    for when in range(1, 1000):
        folder = tmp_path / str(when)
        folder.mkdir()
        outcome = forks.run_with_fault(small.command, cwd=folder, syscall=syscall, when=when, fault="signal=KILL")
        if outcome.returncode == 0:
            break
        assert outcome.was_killed, outcome
        check_never_torn(folder)
        small.heal(folder)
    small.check(folder)
    print(f"{syscall}: killed at {when - 1} calls")
    assert when > 10


# Starved


@needs_strace
@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("syscall", "error"), [("mkdir", "ENOSPC"), ("writev", "ENOSPC"), ("linkat", "EIO"), ("fsync", "EIO")]
)
def test_every_failing_call_is_told_and_healed(small, forks, tmp_path, syscall, error):
    for when in range(1, 1000):
        folder = tmp_path / str(when)
        folder.mkdir()
        outcome = forks.run_with_fault(small.command, cwd=folder, syscall=syscall, when=when, fault=f"error={error}")
        if outcome.returncode == 0:
            break
        check_told(outcome, full=error == "ENOSPC")
        check_never_torn(folder)
        small.heal(folder)
    small.check(folder)
    print(f"{syscall}: {error} at {when - 1} calls")
    assert when > 10


def check_told(outcome, *, full):
    """Exit code 1 and one sentence that says what to do."""
    assert outcome.returncode == 1, outcome
    (line,) = (line for line in outcome.stderr.splitlines() if not line.startswith("WARNING"))
    assert line.startswith("error: cannot"), outcome
    assert line.endswith("run the same command again"), outcome
    assert ("free some space" in line) == full


@pytest.mark.parametrize("kilobytes", [pytest.param(16, marks=pytest.mark.slow), 60])
def test_full_disk_is_one_sentence_and_heals(small, forks, kilobytes):
    """The disk is full while the plan is written, or while shards are."""
    with faults.small_disk(kilobytes << 10) as disk:
        if disk is None:
            pytest.skip("mounting a small disk needs root")
        check_told(forks.run(small.command, cwd=disk), full=True)
        check_never_torn(disk)
        again = forks.run(small.command, cwd=disk)  # with nothing free at all, its plan is refused
        assert (again.returncode, len(again.stderr.splitlines())) == (1, 1), again
        check_never_torn(disk)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        small.heal(disk)


@needs_strace
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("syscall", "error", "warning"),
    [("linkat", "EPERM", "has no hard links"), ("flock", "ENOLCK", "has no locks")],
)
def test_a_disk_that_lacks_something_is_a_warning(small, forks, tmp_path, syscall, error, warning):
    outcome = forks.run_with_fault(small.command, cwd=tmp_path, syscall=syscall, when="1+", fault=f"error={error}")
    assert outcome.returncode == 0, outcome
    (line,) = (line for line in outcome.stderr.splitlines() if "the disk of store" in line)
    assert line.startswith("WARNING")
    assert warning in line
    small.check(tmp_path)


# Contended


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_extractions_at_once(whole, tmp_path):
    command = [sys.executable, "-m", "featcache", *whole.command]
    with contextlib.chdir(tmp_path):
        outcomes = faults.run_together(command, count=3)
    assert [outcome.returncode for outcome in outcomes] == [0, 0, 0], outcomes
    for outcome in outcomes:
        print(outcome.stderr)
        assert "Traceback" not in outcome.stderr
    whole.check(tmp_path)
