"""Locks exclude each other and die with their process."""

import multiprocessing
import os

import pytest

from featcache.errors import StoreError
from featcache.files.locks import lock, try_lock


def test_locks_exclude_each_other(tmp_path):
    path = tmp_path / "locks" / "one"
    with try_lock(path, exclusive=True) as first, try_lock(path, exclusive=True) as second:
        assert first
        assert not second
        with pytest.raises(StoreError, match="in use"), lock(path, exclusive=False, wait_seconds=0.05):
            pass
    with (
        lock(path, exclusive=False),
        lock(path, exclusive=False, wait_seconds=0),
        try_lock(path, exclusive=True) as held,
    ):
        assert not held
    with lock(path, exclusive=True, wait_seconds=0):
        pass


def _hold_and_die(path, ready):
    with lock(path, exclusive=True):
        ready.set()
        os.kill(os.getpid(), 9)


def test_a_lock_dies_with_its_process(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold_and_die, args=(tmp_path / "one", ready))
    process.start()
    process.join()
    assert process.exitcode == -9
    with lock(tmp_path / "one", exclusive=True, wait_seconds=0):
        pass
