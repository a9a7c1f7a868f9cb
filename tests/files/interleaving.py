"""Runs writers call by call in every order: each is a thread that waits for its turn before each of some calls.

All schedules with a number of preemptions are tried: a writer that is preempted goes on after the others, or never,
like one that was killed.
"""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

CALLS = {os: ("mkdir", "open", "link", "rename", "replace", "unlink", "rmdir", "stat", "listdir")}
"""The system calls of publication, as gates."""

Gates = Mapping[object, Sequence[str]]


class _Ended(BaseException):
    """The run is over: a killed writer must not even clean up."""


@dataclass
class _Writer:
    work: Callable[[], Any]
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    paused: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    done: bool = False
    result: Any = None
    error: BaseException | None = None


@dataclass(frozen=True)
class Preemption:
    """At a step another writer goes on; the one before goes on after the others, or is killed."""

    step: int
    kills: bool


@dataclass
class Outcome:
    """What a run has come to.

    Attributes:
        results: What each writer returned; ``None`` if it was killed.
        num_steps: Number of calls.
        seen: What a watcher saw after each.
    """

    results: list[Any]
    num_steps: int
    seen: list[Any]


def run(
    works: Sequence[Callable[[], Any]],
    preemptions: Sequence[Preemption],
    *,
    gates: Gates,
    watch: Callable[[], Any] = lambda: None,
) -> Outcome:
    """Run writers with these preemptions; without more of them, a writer runs to its end."""
    writers = [_Writer(work) for work in works]
    mine = threading.local()
    ending = False

    def gated(function):
        def call(*args, **kwargs):
            if writer := getattr(mine, "writer", None):
                if not ending:
                    writer.paused.release()
                    writer.turn.acquire()
                if ending:
                    raise _Ended
            return function(*args, **kwargs)

        return call

    def begin(writer: _Writer) -> None:
        writer.turn.acquire()
        mine.writer = writer
        try:
            writer.result = writer.work()
        except _Ended:
            pass
        except BaseException as error:  # raised below
            writer.error = error
        mine.writer = None
        writer.done = True
        writer.paused.release()

    threads = [threading.Thread(target=begin, args=(writer,)) for writer in writers]
    left, killed, num_steps, seen = list(writers), [], 0, []
    plan = {one.step: one for one in preemptions}
    with ExitStack() as stack:
        for place, names in gates.items():
            for name in names:
                stack.enter_context(mock.patch.object(place, name, gated(getattr(place, name))))
        for thread in threads:
            thread.start()
        while left:
            if num_steps in plan and len(left) > 1:
                one = left.pop(0)
                (killed if plan[num_steps].kills else left).append(one)
            writer = left[0]
            writer.turn.release()
            writer.paused.acquire()
            num_steps += 1
            seen.append(watch())
            if writer.done:
                left.pop(0)
            assert num_steps < 1000, "writers wait for each other"
        ending = True
        for writer in killed:
            writer.turn.release()
        for thread in threads:
            thread.join()
    for writer in writers:
        if writer.error is not None:
            raise writer.error
    return Outcome([writer.result for writer in writers], num_steps, seen)


def schedules(
    try_one: Callable[[list[Preemption]], int], *, num_writers: int, num_preemptions: int
) -> Iterator[list[Preemption]]:
    """Every schedule, each after it was tried by a function that returns its number of steps."""
    pending: list[list[Preemption]] = [[]]
    while pending:
        preemptions = pending.pop()
        num_steps = try_one(preemptions)
        yield preemptions
        if len(preemptions) < num_preemptions:
            first = preemptions[-1].step + 1 if preemptions else 0
            num_killed = sum(one.kills for one in preemptions)
            pending += [
                [*preemptions, Preemption(step, kills)]
                for step in range(first, num_steps)
                for kills in ((False, True) if num_killed < num_writers - 1 else (False,))
            ]


@contextmanager
def in_memory() -> Iterator[Path]:
    """A folder in memory, where there is one."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def check_publication(put: Callable[[Path, bytes], bool], *, num_writers: int, num_preemptions: int) -> int:
    """Let writers publish one name in every order; returns the number of orders.

    Raises:
        AssertionError: The name was given twice, or not at all, or a writer was told otherwise.
    """
    contents = [bytes([65 + number]) * 10 for number in range(num_writers)]
    with in_memory() as folder:
        path = folder / "store" / "file"

        def try_one(preemptions: list[Preemption]) -> int:
            works = [lambda content=content: put(path, content) for content in contents]
            outcome = run(works, preemptions, gates=CALLS, watch=lambda: path.exists() and path.read_bytes())
            told = f"{outcome.results} after {preemptions}"
            found = [content for content in outcome.seen if content is not False]
            assert found, f"published by nobody: {told}"
            assert found[0] in contents, f"torn: {told}"
            assert len(set(found)) == 1, f"the file was replaced: {told}"
            winners = [content for content, result in zip(contents, outcome.results, strict=True) if result]
            assert len(winners) <= 1, f"published twice: {told}"
            assert not winners or winners[0] == found[0], f"another's bytes: {told}"
            assert winners or None in outcome.results, f"published by nobody: {told}"
            shutil.rmtree(path.parent)
            return outcome.num_steps

        return sum(1 for _ in schedules(try_one, num_writers=num_writers, num_preemptions=num_preemptions))
