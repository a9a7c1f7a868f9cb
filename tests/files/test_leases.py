"""Leases keep others away while their holder lives, and end with it."""

import multiprocessing
import os
import threading

import pytest

from featcache.files import leases
from featcache.files.leases import lease, try_lease


def test_leases_exclude_each_other(tmp_path):
    path = tmp_path / "locks" / "one"
    with try_lease(path) as first, try_lease(path) as second, try_lease(tmp_path / "other") as other:
        assert (first, second, other) == (True, False, True)
    with try_lease(path) as again:
        assert again
    assert list(path.parent.iterdir()) == []


def test_a_lease_is_waited_for(tmp_path):
    came = threading.Event()

    def work():
        with lease(tmp_path / "one"):
            came.set()

    thread = threading.Thread(target=work)
    with lease(tmp_path / "one"):
        thread.start()
        assert not came.wait(0.1)
    thread.join()
    assert came.is_set()


def _hold_and_die(path):
    with lease(path):
        os._exit(9)


def test_a_lease_of_a_process_that_is_gone_is_taken_over_at_once(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_hold_and_die, args=(tmp_path / "one",))
    process.start()
    process.join()
    assert [path.name for path in tmp_path.iterdir()] == ["one.lease"]
    with try_lease(tmp_path / "one") as held:
        assert held


@pytest.mark.parametrize("text", ["elsewhere 1 0123\n", "", f"{os.uname().nodename} {os.getppid()} 0123\n"])
@pytest.mark.parametrize("skew", [0, 1000, -1000])
def test_a_lease_of_another_host_is_taken_over_once_it_stands_still(tmp_path, monkeypatch, text, skew):
    """Also by a process that has only begun, and by one whose clock is wrong."""
    monkeypatch.setattr(leases, "_ahead", {})
    now, real = leases.time.time(), leases.time.time
    monkeypatch.setattr(leases.time, "time", lambda: real() + skew)
    path = tmp_path / "one.lease"
    path.write_text(text)
    for age, is_free in ((0, False), (leases.DEAD_AFTER_SECONDS - 30, False), (leases.DEAD_AFTER_SECONDS + 1, True)):
        os.utime(path, (now - age, now - age))
        with try_lease(tmp_path / "one") as held:
            assert held == is_free
    assert list(tmp_path.iterdir()) == []


def test_a_holder_touches_its_lease(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.01)
    touched = threading.Event()
    monkeypatch.setattr(leases.os, "utime", lambda path: touched.set())
    with lease(tmp_path / "one"):
        assert touched.wait(10)


def test_a_lease_that_another_has_taken_over_is_left_to_it(tmp_path):
    with lease(tmp_path / "one"):
        (tmp_path / "one.lease").write_text("elsewhere 1 0123\n")
    assert (tmp_path / "one.lease").exists()
