"""Threads that read together, and a lock that survives forks."""

import os
import threading

import pytest

from featcache.files.threads import ProcessLock, ReadThreads


def test_every_item_is_done_once_and_several_at_a_time():
    threads = ReadThreads(3)
    together = threading.Barrier(3, timeout=30)
    done = []

    def work(item):
        if item < 3:
            together.wait()  # passes only if three wait at the same time
        done.append(item)

    threads.all(work, range(50))
    assert sorted(done) == list(range(50))
    threads.close()
    threads.all(done.append, [])
    threads.all(done.append, [50])
    threads.all(done.append, [51, 52])
    assert sorted(done) == list(range(53))
    threads.close()


def test_the_first_error_stops_the_rest():
    threads = ReadThreads(2)
    done = []

    def work(item):
        if item == 5:
            raise ValueError("five")
        done.append(item)

    with pytest.raises(ValueError, match="five"):
        threads.all(work, range(10_000))
    assert len(done) < 9_999
    count = len(done)
    threads.close()
    assert len(done) == count, "nothing goes on behind the error"


def test_what_has_not_begun_is_dropped():
    threads = ReadThreads(1)
    begun, going = threading.Event(), threading.Event()
    done = []

    def wait(_):
        begun.set()
        going.wait(30)

    threads.begin(wait, 0)
    begun.wait(30)
    later = threads.begin(done.append, 1)
    threading.Timer(0.05, going.set).start()
    threads.close()
    assert later.cancelled()
    assert not done


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_threads_and_locks_of_its_own():
    threads, lock = ReadThreads(2), ProcessLock()
    threads.all(str, range(4))
    with lock as is_forked:
        assert not is_forked
        pid = os.fork()
        if not pid:  # the lock is held by a thread that the child does not have
            done = []
            threads.all(done.append, range(4))
            with lock as first:
                pass
            with lock as second:
                pass
            threads.close()
            os._exit(0 if (first, second, sorted(done)) == (True, False, [0, 1, 2, 3]) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    threads.all(str, range(4))
    threads.close()
