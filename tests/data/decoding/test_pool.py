import errno
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from featcache.data.decoding import heartbeat
from featcache.data.decoding.messages import pack, receive, send
from featcache.data.decoding.pool import Failed, Finished, Payload, Restarted, WorkerPool
from featcache.errors import FeatcacheError
from tests.data.decoding import jobs


def events_of(events, item):
    return [event for event in events if event.item == item]


def gone(process: int) -> bool:
    """Whether a process has ended (a zombie that init has not collected yet has)."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(condition, *, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.02)


# Messages


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"a": [1, "b"], "c": np.arange(5)},
        [np.zeros((3, 0)), np.arange(1 << 20, dtype=np.float32).reshape(4, -1), np.arange(6).reshape(2, 3)[:, ::2]],
    ],
    ids=["none", "small", "arrays"],
)
def test_messages_arrive_as_they_were_sent(value):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=send, args=(theirs, pack(value)))
        sender.start()
        sizes = []
        found = receive(ours, make_room=sizes.append)
        sender.join()
    np.testing.assert_equal(found, value)
    assert len(sizes) == 1
    for array in found if isinstance(found, list) else []:
        assert array.flags.writeable


def test_large_arrays_are_not_copied_into_the_pickle():
    array = np.zeros(1 << 20, np.uint8)
    head, raw = pack({"pixels": array})
    assert len(head) < 500
    assert np.shares_memory(np.frombuffer(raw, np.uint8), array)


def test_a_closed_channel_is_the_end():
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(b"\x01")
        theirs.close()
        with pytest.raises(EOFError):
            receive(ours)
        with pytest.raises(EOFError):
            send(ours, [bytes(1 << 22)])


# The plain course of things


def test_every_item_is_done_in_order_of_its_payloads():
    with WorkerPool(jobs.count, num_workers=2) as pool:
        for _ in range(2):  # the workers stay warm
            events = list(pool.run(range(8)))
            for item in range(8):
                expected = [Payload(item, (item, number)) for number in range(item)]
                assert events_of(events, item) == [*expected, Finished(item)]


def test_no_items_is_no_events():
    with WorkerPool(jobs.count) as pool:
        assert list(pool.run([])) == []


def test_items_are_drawn_lazily_and_payloads_wait_for_the_consumer():
    drawn = []

    def items():
        for number in itertools.count():
            drawn.append(number)
            yield 3, 100_000

    with WorkerPool(jobs.arrays, num_workers=2, ahead_bytes=400_000) as pool:
        run = pool.run(items())
        next(run)
        seen = -1
        while len(drawn) != seen:  # until nothing moves any more
            seen = len(drawn)
            time.sleep(0.3)
        # The queue takes 4 arrays; each socket, and each worker's hands, some more.
        assert seen <= 16
        run.close()
        assert pool.blocked_seconds > 0
        assert list(pool.run([(1, 10)])) != [], "the pool is of use after a run that was left"


def test_a_payload_larger_than_the_room_travels_alone():
    with WorkerPool(jobs.arrays, num_workers=2, ahead_bytes=10) as pool:
        values = [event.value for event in pool.run([(3, 1 << 20)] * 3) if isinstance(event, Payload)]
    assert sorted(value["number"] for value in values) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for value in values:
        assert (value["pixels"] == value["number"]).all()
        assert value["pixels"].shape == (1 << 20,)


def test_waiting_is_counted():
    with WorkerPool(jobs.misbehave, deadline_seconds=60) as pool:
        assert pool.wait_seconds == 0
        list(pool.run([("beat", os.devnull)]))
        assert pool.wait_seconds > 2


# Misfortunes


@pytest.fixture
def one(tmp_path):
    """Runs one misbehaving item and one good one after it on a single worker."""

    def run(what, *, deadline_seconds=60.0):
        with WorkerPool(jobs.misbehave, deadline_seconds=deadline_seconds) as pool:
            events = list(pool.run([(what, str(tmp_path / "first")), ("work", str(tmp_path / "second"))]))
        assert events_of(events, 1) == [Payload(1, "begun"), Payload(1, "ended"), Finished(1)]
        return events_of(events, 0)

    return run


@pytest.mark.parametrize(("what", "death"), [("segfault", "signal 11 (SIGSEGV)"), ("exit", "exit code 3")])
def test_a_crash_gets_one_more_chance(one, what, death):
    begun, again, begun_again, failed = one(what)
    assert (begun, again, begun_again) == (Payload(0, "begun"), Restarted(0), Payload(0, "begun"))
    assert failed.status == "undecodable"
    assert failed.reason == f"the decoder crashed twice, the last time with {death}"


def test_a_crash_that_does_not_repeat_is_no_failure(one):
    assert one("exit once") == [
        *(Payload(0, "begun"), Restarted(0)),
        *(Payload(0, "begun"), Payload(0, "ended"), Finished(0)),
    ]


@pytest.mark.parametrize(
    ("what", "death"),
    [("kill", r"signal 9 \(SIGKILL, most often for want of memory\)"), ("terminate", r"signal 15 \(SIGTERM\)")],
)
def test_a_worker_that_is_killed_from_outside_is_the_machine_s_fault(what, death, tmp_path):
    with WorkerPool(jobs.misbehave, name=lambda item: f"{item[0]}.mp4") as pool:
        with pytest.raises(FeatcacheError, match=rf"killed at {what}\.mp4 by {death}: the machine failed, not the"):
            list(pool.run([(what, str(tmp_path / "x"))]))
        assert (tmp_path / "x").read_text() == "x", "it is not tried again at once, when memory is short"
        assert list(pool.run([("work", str(tmp_path / "y"))]))[-1] == Finished(0), "the pool is of use after that"


def test_what_was_read_before_a_worker_was_killed_arrives_first(tmp_path):
    items = [("work", str(tmp_path / "a")), ("work", str(tmp_path / "b")), ("kill", str(tmp_path / "x"))]
    with WorkerPool(jobs.misbehave) as pool:
        run = pool.run([*items, ("work", str(tmp_path / "never"))])
        events = [next(run)]
        wait_until((tmp_path / "x").exists)
        time.sleep(0.5)  # by now the worker is dead, and the consumer has taken one event
        with pytest.raises(FeatcacheError, match="the machine failed"):
            events.extend(run)
    assert [event for event in events if isinstance(event, Finished)] == [Finished(0), Finished(1)]
    assert not (tmp_path / "never").exists()


def test_a_hung_decoder_is_killed_by_deadline(one):
    begun, failed = one("hang", deadline_seconds=2.0)
    assert begun == Payload(0, "begun")
    assert failed == Failed(0, "timeout", "the decoder gave no sign of life for 2 seconds and was stopped")


def test_a_slow_decoder_that_beats_is_left_alone(one):
    assert one("beat", deadline_seconds=2.0)[-1] == Finished(0)


def test_a_bad_video_is_a_failure(one):
    assert one("video error")[-1] == Failed(0, "undecodable", "frame 3 is damaged")


@pytest.mark.parametrize(("what", "reason"), [("disk", "Input/output error"), ("stale", "Stale file handle")])
def test_an_error_of_reading_one_file_is_a_failure_that_may_pass(one, what, reason):
    assert one(what)[-1] == Failed(0, "unreadable", f"reading it fails ({reason})")


@pytest.mark.parametrize(
    ("what", "error"), [("bug", ZeroDivisionError), ("descriptors", OSError), ("unpicklable", AttributeError)]
)
def test_any_other_exception_reaches_the_consumer_and_names_the_item(what, error, tmp_path):
    with WorkerPool(jobs.misbehave, name=lambda item: f"{item[0]}.mp4", num_workers=2) as pool:
        with pytest.raises(error) as caught:
            list(pool.run([(what, str(tmp_path / "x"))]))
        assert f"In a decoding worker, at {what}.mp4:" in caught.value.__notes__[0]
        assert "Traceback" in caught.value.__notes__[0]
        if error is OSError:
            assert (caught.value.errno, caught.value.filename) == (errno.EMFILE, "descriptors.mp4")
        events = list(pool.run([("work", str(tmp_path / "y"))]))
        assert events[-1] == Finished(0), "the pool is of use after an error"


def test_an_exception_of_the_items_reaches_the_consumer():
    def items():
        yield 1
        raise LookupError("no more")

    with WorkerPool(jobs.count, num_workers=2) as pool, pytest.raises(LookupError, match="no more"):
        list(pool.run(items()))


def test_a_job_that_is_not_at_module_level_is_refused():
    with pytest.raises((AttributeError, TypeError, ValueError), match="local"):
        WorkerPool(lambda item: iter([item]))


def test_a_job_that_cannot_be_imported_reaches_the_consumer(monkeypatch):
    module = type(sys)("module_of_this_process_only")
    exec("def job(item):\n    yield item\n", module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with WorkerPool(module.job) as pool, pytest.raises(ModuleNotFoundError, match=module.__name__):
        list(pool.run([1]))


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        WorkerPool(jobs.count, num_workers=0)
    with WorkerPool(jobs.count) as pool:
        run = pool.run([1, 1])
        next(run)
        with pytest.raises(RuntimeError, match="in use"):
            next(pool.run([1]))
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(pool.run([1]))


# Endings


def test_closing_ends_workers_in_the_middle_of_their_work():
    with WorkerPool(jobs.process_id, num_workers=2) as pool:
        run = pool.run(["wait", "wait"])
        processes = [next(run).value, next(run).value]
        assert not any(gone(process) for process in processes)
    assert all(gone(process) for process in processes)


def test_leaving_a_run_frees_the_pool():
    with WorkerPool(jobs.process_id, num_workers=2) as pool:
        run = pool.run(["wait", "go", "go"])
        next(run)
        run.close()
        assert len(list(pool.run(["go"] * 4))) == 8


PARENT = """
import sys
from featcache.data.decoding.pool import WorkerPool
from tests.data.decoding import jobs

pool = WorkerPool(jobs.process_id, num_workers=2, deadline_seconds={deadline_seconds})
run = pool.run([{item!r}, {item!r}])
try:
    print(next(run).value, next(run).value, flush=True)
    {then}
except KeyboardInterrupt:
    pool.close()
    print("closed", flush=True)
"""


@contextmanager
def parent_process(
    then: str, *, item: object = "wait", deadline_seconds: float = 60.0
) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process with a pool of two busy workers, and the workers' process ids."""
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", PARENT.format(then=then, item=item, deadline_seconds=deadline_seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        text=True,
    ) as parent:
        try:
            assert parent.stdout is not None
            yield parent, [int(number) for number in parent.stdout.readline().split()]
        finally:
            parent.kill()


def test_workers_die_with_a_parent_that_is_killed():
    with parent_process("next(run)") as (parent, processes):
        assert len(processes) == 2
        parent.kill()
        wait_until(lambda: all(gone(process) for process in processes))


def test_a_suspended_machine_is_no_hung_decoder():
    """All processes stop for longer than the deadline, and the parent is the first to wake up."""
    then = "print([type(event).__name__ for event in run])"
    with parent_process(then, item=1.0, deadline_seconds=3.0) as (parent, processes):
        stopped = [parent.pid, *processes]
        for process in stopped:
            os.kill(process, signal.SIGSTOP)
        time.sleep(4)
        for process in stopped:
            with suppress(ProcessLookupError):  # the parent may have killed it already
                os.kill(process, signal.SIGCONT)
            time.sleep(0.3)
        out, error = parent.communicate(timeout=60)
    assert (out, error) == ("['Finished', 'Finished']\n", "")


def test_an_interrupt_is_the_parent_s_to_handle():
    with parent_process("next(run)") as (parent, processes):
        parent.send_signal(signal.SIGINT)
        out, error = parent.communicate(timeout=60)
        assert (out, error) == ("closed\n", "")
        assert all(gone(process) for process in processes)


def test_a_parent_that_forgets_to_close_ends_all_the_same():
    with parent_process("pass") as (parent, processes):
        parent.communicate(timeout=60)
        assert parent.returncode == 0
        wait_until(lambda: all(gone(process) for process in processes))


def test_beats_go_nowhere_outside_a_worker():
    heartbeat.beat()
    count = []
    heartbeat.listen(lambda: count.append(1))
    heartbeat.beat()
    heartbeat.listen(None)
    heartbeat.beat()
    assert len(count) == 1
