"""Publication without hard links: the promises of put_new hold in every order of calls of several writers."""

import errno
import os
import threading
from pathlib import Path

import pytest

from featcache.files import claims, publish
from tests.files import interleaving


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    """Nobody waits for the claim of another."""
    monkeypatch.setattr(claims, "PATIENCE_SECONDS", 0.0)


@pytest.mark.parametrize(("put", "num_preemptions"), [(publish.put_new, 1), (claims.put_new, 2)], ids=["link", "claim"])
def test_one_of_two_writers_publishes_in_every_order(put, num_preemptions):
    assert interleaving.check_publication(put, num_writers=2, num_preemptions=num_preemptions) > 30


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("num_writers", "num_preemptions"), [(2, 3), (3, 2)])
def test_one_of_several_writers_publishes_in_every_order(num_writers, num_preemptions):
    num_tried = interleaving.check_publication(claims.put_new, num_writers=num_writers, num_preemptions=num_preemptions)
    print(f"{num_tried} schedules")


# Faults that the schedules must show


def unchecked(monkeypatch):
    """The name is not looked at once the claim is held."""
    monkeypatch.setattr(claims, "_is_taken", lambda path: False)
    return claims.put_new


def early_look(monkeypatch):
    """The name is looked at before the claim is held, not after."""
    put = unchecked(monkeypatch)
    return lambda path, data: not path.exists() and put(path, data)


def self_assured(monkeypatch):
    """A file that has left the claim is taken to have got the name."""
    monkeypatch.setattr(publish, "is_file", lambda path, known: True)
    return claims.put_new


def bare_claim(monkeypatch):
    """The claim is an empty file, created exclusively and broken if its holder seems dead, and holds nothing back."""
    return put_by_bare_claim


def put_by_bare_claim(path, data):
    publish.ensure_folder(path.parent)
    temp, claim = publish.write_temp(path, data), path.with_name(".claim.tmp")
    while True:
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            claim.unlink(missing_ok=True)
            continue
        is_free = not path.exists()
        if is_free:
            temp.rename(path)
        claim.unlink(missing_ok=True)
        return is_free


@pytest.mark.parametrize("plant", [unchecked, early_look, self_assured, bare_claim])
def test_a_planted_fault_is_seen(monkeypatch, plant):
    put = plant(monkeypatch)
    with pytest.raises(AssertionError, match=r"replaced|published|another's"):
        interleaving.check_publication(put, num_writers=2, num_preemptions=2)


# Faults of disks


def test_the_file_of_a_killed_process_is_removed_from_the_claim(tmp_path):
    dead = tmp_path / ".file.claim.tmp" / ".file.0123456789abcdef.tmp"
    dead.parent.mkdir()
    dead.write_bytes(b"dead")
    assert claims.put_new(tmp_path / "file", b"mine")
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_known_bytes_are_left_alone_or_replaced(tmp_path):
    claims.put_exact(tmp_path / "file", b"first")
    before = (tmp_path / "file").stat().st_ino
    claims.put_exact(tmp_path / "file", b"first")
    assert (tmp_path / "file").stat().st_ino == before
    claims.put_exact(tmp_path / "file", (b"sec", b"ond"))
    assert (tmp_path / "file").read_bytes() == b"second"


@pytest.mark.parametrize("call", ["link", "rename", "replace", "unlink"])
@pytest.mark.parametrize(
    "put", [publish.put_new, claims.put_new, publish.put_replace], ids=["link", "claim", "replace"]
)
def test_a_call_whose_answer_is_lost_is_not_taken_for_another_writers(tmp_path, monkeypatch, put, call):
    """A disk on a network carries out a call, loses the answer, and finds its own work when it is asked again."""
    real, answer = getattr(os, call), errno.EEXIST if call == "link" else errno.ENOENT

    def twice(*args, **kwargs):
        real(*args, **kwargs)
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(os, call, twice)
    assert put(tmp_path / "file", b"mine") in (True, None)
    monkeypatch.undo()
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert not list(tmp_path.rglob("*.tmp/*"))


def test_many_threads_publish_one_file(tmp_path):
    path, published = tmp_path / "file", []

    def work(number):
        if claims.put_new(path, str(number).encode() * 1000):
            published.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(published) == 1
    assert path.read_bytes() == str(published[0]).encode() * 1000
    assert [found.name for found in Path(tmp_path).iterdir()] == ["file"]
