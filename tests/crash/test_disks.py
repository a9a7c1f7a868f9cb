"""Disks of clusters: what they lack, a disk that fills, a store that is read while it grows."""

import contextlib
import errno
import fcntl
import itertools
import os
import re
import shutil
import subprocess
import traceback
from unittest import mock

import pytest
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.errors import DiskSpaceError, StoreError
from featcache.files import publish
from featcache.files.disks import RECORD
from featcache.files.local import LocalFiles
from featcache.store.reader import open_store
from featcache.store.verify import verify
from featcache.testing import faults
from featcache.testing.faults import DISKS
from featcache.testing.stores import StorePlan, check_reads_back, make_record, write_store
from tests.crash.test_store_faults import command, needs_strace
from tests.crash.write_store import PLANS


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "store"
    write_store(path, *PLANS)
    return faults.snapshot(path)


def forked(work):
    """Begin work in a process of its own; it ends with 0 only if it returns."""
    if process := os.fork():
        return process
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@needs_strace
@pytest.mark.parametrize(
    ("faults_of_calls", "lacks"),
    [
        (["linkat:error=EPERM"], {"links"}),
        (["flock:error=ENOLCK"], {"locks"}),
        pytest.param(["linkat:error=EMLINK"], {"links"}, marks=pytest.mark.slow),
        pytest.param(["linkat:error=ENOTSUP", "flock:error=ENOSYS"], {"links", "locks"}, marks=pytest.mark.slow),
    ],
)
def test_a_kernel_that_refuses(tmp_path, reference, faults_of_calls, lacks):
    """The calls themselves fail, in a process of its own."""
    inject = [option for fault in faults_of_calls for option in ("-e", f"inject={fault}")]
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", os.devnull, *inject, *command(tmp_path / "store", "zarr")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert faults.snapshot(tmp_path / "store") == reference
    record = (tmp_path / "store" / RECORD).read_text()
    assert {what for what in ("links", "locks") if f'"{what}":false' in record} == lacks
    assert verify(tmp_path / "store").ok
    check_reads_back(tmp_path / "store", *PLANS)


TINY = StorePlan(records={"a": make_record((2,))}, num_videos=1, rows_per_video=(1,))


@pytest.mark.parametrize("lasts", [True, False])
@pytest.mark.parametrize(("module", "call", "error"), [(os, "link", errno.EPERM), (fcntl, "flock", errno.ENOLCK)])
def test_a_refusal_that_begins_at_any_call(tmp_path, monkeypatch, module, call, error, lasts):
    """One that lasts is a kind of disk, and the writer goes on; one that does not is an error, which is healed."""
    write_store(tmp_path / "whole", TINY)
    real, refused = getattr(module, call), True
    for first in itertools.count(1):
        path, count = tmp_path / str(first), itertools.count(1)

        def refusing(*args, first=first, count=count, **options):
            number = next(count)
            if number == first or (lasts and number > first):
                raise OSError(error, os.strerror(error))
            return real(*args, **options)

        with monkeypatch.context() as patch, contextlib.nullcontext() if lasts else contextlib.suppress(StoreError):
            patch.setattr(module, call, refusing)
            write_store(path, TINY)
            refused = next(count) > first + 1
        if not refused:
            break
        assert (path / RECORD).exists() == lasts
        write_store(path, TINY)
        assert faults.snapshot(path) == faults.snapshot(tmp_path / "whole")
    assert first == {"link": 14, "flock": 4}[call]


@pytest.mark.parametrize("disk", DISKS)
def test_three_writers_one_of_them_killed(tmp_path, reference, disk):
    path = tmp_path / "store"

    def work(dies):
        with DISKS[disk].imitated(patience=10), mock.patch.object(os, "fsync", dying if dies else os.fsync):
            write_store(path, *PLANS)

    def dying(descriptor, *, left=iter(range(60))):  # noqa: B008  each fork has its own
        if next(left, None) is None:
            os.kill(os.getpid(), 9)

    codes = [ended(process) for process in [forked(lambda dies=number == 0: work(dies)) for number in range(3)]]
    assert codes in ([-9, 0, 0], [0, 0, 0])
    assert faults.snapshot(path) == reference
    with DISKS[disk].imitated():
        assert verify(path).problems == []
        if DISKS[disk].lock_error:
            result = CliRunner().invoke(app, ["gc", str(path)])
            assert isinstance(result.exception, StoreError)
            assert "has no locks" in str(result.exception)
            assert "say so with --alone" in str(result.exception)
        result = CliRunner().invoke(app, ["gc", str(path), "--alone"])
        assert result.exit_code == 0, result.output
    assert faults.snapshot(path) == reference
    assert not list(path.rglob("*.tmp"))
    assert (path / RECORD).exists() == (disk != "ordinary")


def test_the_disk_of_one_of_eight_workers_is_full(tmp_path, reference):
    """One sentence; the others do its part."""
    path = tmp_path / "store"

    def full(descriptor, buffers):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def work(is_full):
        with mock.patch.object(os, "writev", full if is_full else os.writev):
            try:
                write_store(path, *PLANS)
            except DiskSpaceError as error:
                sentence = r"cannot write .*; free some space .*, then run the same command again"
                os._exit(7 if re.fullmatch(sentence, str(error)) else 8)

    processes = [forked(lambda is_full=number == 3: work(is_full)) for number in range(8)]
    assert [ended(process) for process in processes] in ([0, 0, 0, 7, 0, 0, 0, 0], [0] * 8)
    assert faults.snapshot(path) == reference
    assert verify(path).problems == []


def test_a_store_is_read_at_every_instant_while_it_grows(tmp_path, monkeypatch):
    """Whatever was published last, a reader finds sound features, and never fewer videos than before."""
    write_store(tmp_path / "s", PLANS[0])
    early = open_store(tmp_path / "s").feature("pooled")
    first = early[:].tobytes()
    real, counts = publish.put_new, []

    def put_new(path, data):
        published = real(path, data)
        store = open_store(tmp_path / "s")
        counts.append([len(store.feature(name, partially=True)[:]) for name in sorted(store.features)])
        assert verify(tmp_path / "s").problems == []
        return published

    monkeypatch.setattr(publish, "put_new", put_new)
    write_store(tmp_path / "s", *PLANS)
    assert len(counts) > 10
    assert all(one <= two for pair in itertools.pairwise(counts) for one, two in zip(*pair, strict=True))
    assert counts[0] != counts[-1]
    assert early[:].tobytes() == first


def test_a_copy_without_its_locks_is_tried_anew(tmp_path, reference):
    with DISKS["neither"].imitated():
        write_store(tmp_path / "s", PLANS[0])
    shutil.copytree(tmp_path / "s", tmp_path / "copy", ignore=shutil.ignore_patterns("locks"))
    write_store(tmp_path / "copy", *PLANS)
    assert not (tmp_path / "copy" / RECORD).exists()
    assert faults.snapshot(tmp_path / "copy") == reference
    with DISKS["neither"].imitated():
        write_store(tmp_path / "copy", *PLANS)


def test_a_listing_that_is_old_is_no_damage(tmp_path, monkeypatch):
    """Another host has published since; what this one looks for by name it finds."""
    write_store(tmp_path / "s", *PLANS)
    real, old = LocalFiles.names, {"", "g001/commits/pooled", "g000/commits/map"}
    monkeypatch.setattr(LocalFiles, "names", lambda files, folder: [] if folder in old else real(files, folder))
    check_reads_back(tmp_path / "s", *PLANS)
    write_store(tmp_path / "s", *PLANS, StorePlan(records=PLANS[0].records, num_videos=2, first_video=9))
    monkeypatch.undo()
    assert verify(tmp_path / "s").ok
    assert len(open_store(tmp_path / "s").generations) == 3
