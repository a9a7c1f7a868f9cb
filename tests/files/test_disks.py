"""A disk that lacks hard links or locks is found out once, recorded, and used in the same way by all."""

import errno
import fcntl
import logging
import os
import pickle

import pytest

from featcache.errors import CorruptStoreError, StoreError
from featcache.files import claims, disks
from featcache.files.base import open_files
from featcache.files.disks import RECORD, Offer, examine
from featcache.files.publish import NO_LINKS
from featcache.store import paths
from featcache.testing.faults import DISKS, DiskKind

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


@pytest.fixture
def files(tmp_path):
    return open_files(tmp_path / "s")


def names(files):
    return [name for name, _ in files.walk()]


@pytest.mark.parametrize(
    "kind", [*(DiskKind(link_error=one) for one in sorted(NO_LINKS)), *map(DiskKind, [0] * 3, NO_LOCKS)]
)
def test_what_a_disk_offers(tmp_path, kind):
    assert examine(tmp_path) == Offer(links=True, locks=True)
    with kind.imitated():
        assert examine(tmp_path) == Offer(links=not kind.link_error, locks=not kind.lock_error)
    assert list(tmp_path.iterdir()) == []


def test_the_record_is_where_the_store_looks_for_it():
    assert paths.DISK == RECORD


def test_an_ordinary_disk_is_not_tried_and_has_no_record(files, monkeypatch):
    monkeypatch.setattr(disks, "examine", lambda folder: pytest.fail("tried"))
    assert files.put_new("a", b"1")
    with files.lock("locks/x", exclusive=True), files.try_lock("locks/y", exclusive=True) as held:
        assert held
    assert names(files) == ["a", "locks/x", "locks/y"]


@pytest.mark.parametrize("name", ["no links", "no locks", "neither"])
def test_a_disk_that_lacks_something_is_recorded_once_and_said_once(files, name, caplog):
    with DISKS[name].imitated(), caplog.at_level(logging.WARNING):
        for other in (files, open_files(files.root)):
            other.put_new("deep/a", b"1")
            with other.lock("locks/x", exclusive=True), other.try_lock("locks/y", exclusive=True) as held:
                assert held
            assert not other.put_new("deep/a", b"2")
            other.put_exact("b", b"1")
            other.put_exact("b", b"2")
    assert len(caplog.messages) == 1
    assert (files.read("deep/a", what="file"), files.read("b", what="file")) == (b"1", b"2")
    assert [name for name in names(files) if not name.startswith("locks/")] == ["b", "deep/a"]
    assert RECORD in names(files)


def test_hosts_that_see_more_do_as_the_record_says(files, monkeypatch):
    """One that has hard links and locks publishes and claims like one that has not."""
    with DISKS["neither"].imitated():
        files.put_new("a", b"1")
    monkeypatch.setattr(os, "link", lambda *args, **options: pytest.fail("linked"))
    monkeypatch.setattr(fcntl, "flock", lambda *args: pytest.fail("locked"))
    again = pickle.loads(pickle.dumps(open_files(files.root)))
    assert again.put_new("b", b"1")
    with again.lock("locks/x", exclusive=True), files.try_lock("locks/x", exclusive=True) as held:
        assert not held


def test_two_hosts_that_find_different_things_agree_on_the_first_record(files):
    other = open_files(files.root)
    with DISKS["no links"].imitated():
        files.put_new("a", b"1")
    with DISKS["neither"].imitated():
        with pytest.raises(StoreError, match=r"disk.json says that the disk has no hard links.*here it.*has no locks"):
            other.lock("locks/x", exclusive=True).__enter__()
        assert other.put_new("b", b"1")


@pytest.mark.parametrize("error", [errno.EPERM, errno.EIO])
def test_a_hitch_is_an_error_and_no_kind_of_disk(files, monkeypatch, error):
    real, failed = os.link, []

    def link(*args, **options):
        if not failed:
            failed.append(True)
            raise OSError(error, os.strerror(error))
        real(*args, **options)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StoreError, match=rf"{os.strerror(error)}.* run the same command again"):
        files.put_new("a", b"1")
    assert files.put_new("a", b"1")
    assert names(files) == ["a"]


def test_a_disk_without_a_safe_way_is_refused(files, monkeypatch):
    monkeypatch.setattr(disks, "_spares_full_folders", lambda box: False)
    with DISKS["no links"].imitated(), pytest.raises(StoreError, match=r"lacks hard links.*choose another disk"):
        files.put_new("a", b"1")
    assert names(files) == []


@pytest.mark.parametrize("is_over_full", [True, False])
def test_a_rename_that_clobbers_or_is_refused_is_seen(tmp_path, monkeypatch, is_over_full):
    def rename(source, target):
        if not is_over_full:
            raise OSError(errno.ENOTSUP, "no")
        if target.exists():
            target.replace(f"{target}.old")
        return source.replace(target)

    monkeypatch.setattr(type(tmp_path), "rename", rename)
    assert not disks._spares_full_folders(tmp_path)


def test_a_damaged_record_is_told(files):
    with DISKS["no links"].imitated():
        files.put_new("a", b"1")
    (files.root / RECORD).write_bytes(b"{}")
    with pytest.raises(CorruptStoreError, match=r"disk.json is damaged; remove it"):
        open_files(files.root).put_new("b", b"1")


def test_who_relies_on_being_alone_is_refused_without_locks(files):
    with DISKS["no locks"].imitated():
        with files.lock("locks/x", exclusive=False, wait_seconds=1), files.lock("locks/x", exclusive=False):
            pass
        with pytest.raises(StoreError, match="--alone"):
            files.lock("locks/x", exclusive=True, wait_seconds=1).__enter__()


def test_left_overs_in_folders_are_listed_and_removed_with_them(files):
    files.put_new("a", b"")
    for name in (".a.claim.tmp/.a.0123456789abcdef.tmp", ".b.0.tmp/.c.tmp/.d.tmp"):
        (files.root / name).parent.mkdir(parents=True)
        (files.root / name).write_bytes(b"x")
    (files.root / ".e.tmp").mkdir()
    found = [name for name, _ in files.walk() if name != "a"]
    assert found == [".a.claim.tmp/.a.0123456789abcdef.tmp", ".b.0.tmp/.c.tmp/.d.tmp", ".e.tmp"]
    for name in found:
        files.remove(name)
    assert [path.name for path in files.root.iterdir()] == ["a"]


def test_a_stale_handle_is_asked_for_again(files, monkeypatch):
    files.put_new("a", b"123")
    real, failed = os.open, []

    def opened(path, *args):
        if str(path).endswith("/a") and len(failed) < 2:
            failed.append(True)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(path, *args)

    monkeypatch.setattr(os, "open", opened)
    assert files.read("a", what="file") == b"123"
    failed.clear()
    assert files.map("a", num_bytes=3, what="file").tobytes() == b"123"
    assert claims.put_new(files.root / "a", b"") is False
