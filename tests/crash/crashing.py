"""Tries every state that a crash may leave a store in, and says which are neither the old store nor the new one."""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featcache.errors import CorruptStoreError, StoreError
from featcache.store.reader import Store, open_store
from featcache.store.verify import verify
from featcache.testing import faults
from featcache.testing.crash_model import Disk, Tree, crashes, read_tree, write_tree
from featcache.testing.recorded_calls import Call, recording
from tests.crash.histories import Program, Stage, collect

STORE = "store"
DAMAGED = "damaged"
PENDING = "pending"

Answer = dict[str, Any]
"""What a reader finds, by subject: the store, its plans, its videos and each feature. Empty: there is no store."""


def observe(path: Path) -> Answer:
    """Read all that a store holds."""
    try:
        store = open_store(path)
    except CorruptStoreError:
        return {"store": DAMAGED}
    except StoreError:
        return {}
    answer = {
        "store": (store.sampling, store.file_format),
        "plans": tuple(generation.plan_hash for generation in store.generations),
        "videos": tuple(store.videos.values()),
    }
    return answer | {f"feature {name}": _observe_feature(store, name) for name in store.features}


def _observe_feature(store: Store, name: str) -> dict[str, str] | str:
    """Video id to a digest of its rows, or why it has none."""
    try:
        coverage = store.coverage(name)
        found = dict.fromkeys(store.videos, PENDING) | {
            one.id: f"{one.status}: {one.reason}" for one in coverage.failures
        }
        with store.feature(name, partially=True) as features:
            values, table = features.gather(np.arange(features.num_rows)), features.rows
            columns = [values, table.clip, table.frames, table.pts_seconds, table.t0, table.y1, table.flip]
            for number, video_id in enumerate(features.video_ids):
                rows = table.video == number
                assert rows.any()
                digest = hashlib.sha256(b"".join(column[rows].tobytes() for column in columns))
                found[video_id] = digest.hexdigest()
        assert coverage.pending == sum(what == PENDING for what in found.values())
    except CorruptStoreError:
        return DAMAGED
    return found


def surprises(seen: Answer, answers: Sequence[Answer]) -> list[str]:
    """Subjects that are in none of the states that may be; of a damaged feature, videos may also be pending until it
    is healed."""
    found = []
    for subject in sorted({subject for answer in (seen, *answers) for subject in answer}):
        now, *may_be = (answer.get(subject) for answer in (seen, *answers))
        last = may_be[-1]
        is_healing = (
            DAMAGED in may_be
            and isinstance(now, dict)
            and isinstance(last, dict)
            and all(now.get(video_id) in (what, PENDING) for video_id, what in last.items())
        )
        if now not in may_be and not is_healing:
            found.append(f"{subject} is {now}, not one of {may_be}")
    return found


class WrongStoreError(AssertionError):
    """A crash has left a store that is neither old nor new, or that cannot be healed."""


@dataclass(kw_only=True)
class Recorded:
    """A program that ran undisturbed.

    Attributes:
        base: What was there before.
        calls: What it did.
        bounds: After how many calls each promise was given; the first, 0, is what was there before.
        answers: What a reader found at each.
        files: What it left.
    """

    base: Tree
    calls: list[Call]
    bounds: list[int]
    answers: list[Answer]
    files: dict[str, bytes]

    def promised(self, num_calls: int) -> int:
        """Which promise had been given after some calls."""
        return max(number for number, bound in enumerate(self.bounds) if bound <= num_calls)

    def under_way(self, num_calls: int) -> int:
        """Which promise was next, or had just been given."""
        return min(number for number, bound in enumerate(self.bounds) if bound >= num_calls)

    def instants(
        self, disk: Disk | None = None, *, at: str = "", every: int = 1, skipped: int = 0, promises: bool = True
    ) -> Iterator[tuple[int, Disk]]:
        """How many calls were made, and the disk after them: after calls that change it.

        Args:
            disk: As it was before; all that was there is durable unless given.
            at: Of the calls only those on a name that ends so,
            every: of them every so-manieth,
            skipped: and so many not before the first.
            promises: And at all promises.
        """
        disk = disk.copy() if disk else Disk(self.base)
        calls = [(number, call) for number, call in enumerate(self.calls, 1) if call.changes]
        numbers = [number for number, call in calls if not at or any(name.endswith(at) for name in call.names)]
        chosen = {*numbers[skipped::every], *(self.bounds if promises else ())}
        for number in range(len(self.calls) + 1):
            if number:
                disk.apply(self.calls[number - 1])
            if number in chosen:
                yield number, disk

    def tell(self, num_calls: int) -> str:
        """Which call was the last."""
        return f"after {num_calls} calls ({self.calls[num_calls - 1] if num_calls else 'none'})"


def record(program: Program, folder: Path, disk: Disk | None = None) -> Recorded:
    """Run a program on the store in a folder, and check that its calls were all recorded.

    Args:
        program: What is run.
        folder: Where the store is.
        disk: What of the folder lasts; all of it unless given.
    """
    base = read_tree(folder)
    disk = disk or Disk(base)
    answers, bounds, followed = [observe(folder / STORE)], [0], 0
    with recording(folder) as made:
        for _ in program(folder / STORE):
            bounds.append(len(made.calls))
            answers.append(observe(folder / STORE))
            for call in made.calls[followed : bounds[-1]]:
                disk.apply(call)
            followed = bounds[-1]
            assert disk.tree() == read_tree(folder), "the recorded calls do not give what is there"
    bounds[-1] = len(made.calls)
    return Recorded(base=base, calls=made.calls, bounds=bounds, answers=answers, files=faults.snapshot(folder / STORE))


@dataclass
class Checker:
    """Opens what crashes leave, and lets the next writer finish it.

    Attributes:
        work: Folder for the states, best in memory.
        program: The next writer.
        whole: What it must come to.
        newest: As for :func:`featcache.testing.crash_model.crashes`.
        samples: Likewise.
        num_prefixes: Instants at which the machine died.
        num_states: States of the disk that were tried: instants, and what was lost at them.
        num_opened: Those that differ in a name or a byte; each was opened and healed.
    """

    work: Path
    program: Program
    whole: Recorded
    newest: int = 4
    samples: int = 8
    num_prefixes: int = 0
    num_states: int = 0
    num_opened: int = 0
    _known: dict[frozenset[tuple[str, bytes | None]], Answer] = field(default_factory=dict)

    def check_disk(self, disk: Disk, answers: Sequence[Answer], *, when: str) -> None:
        """Try all that a disk may hold after a crash: each subject as in one of the answers, and the rest as it was."""
        self.num_prefixes += 1
        for choice in crashes(disk, seed=self.num_prefixes, newest=self.newest, samples=self.samples):
            self.num_states += 1
            with _told(f"{when}; of {disk.pending()} effects the crash left {choice}"):
                found = surprises(self._answer(disk.tree(choice)), answers)
                assert not found, "; ".join(found)

    def _answer(self, tree: Tree) -> Answer:
        key = frozenset(tree.items())
        if key not in self._known:
            self._known[key] = self._try(tree)
        return self._known[key]

    def _try(self, tree: Tree) -> Answer:
        folder = self.work / str(self.num_opened)
        self.num_opened += 1
        write_tree(folder, tree)
        path = folder / STORE
        try:
            answer = observe(path)
            if answer and DAMAGED not in answer.values():
                problems = verify(path).problems
                assert not problems, f"verify finds {problems}"
            for _ in self.program(path):
                pass
            assert faults.snapshot(path) == self.whole.files, "the next writer has left other bytes"
            if self.num_opened % 10 == 0:
                collect(path)
                assert faults.snapshot(path) == self.whole.files, "gc has removed what it must not"
                assert not list(path.rglob("*.tmp"))
        finally:
            shutil.rmtree(folder)
        return answer


@contextmanager
def _told(when: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise WrongStoreError(f"{when}: {error}") from error


def check_prefixes(checker: Checker, recorded: Recorded, *, at: str = "", every: int = 1) -> None:
    """The machine dies at each instant; ``at`` and ``every`` as in :meth:`Recorded.instants`."""
    for number, disk in recorded.instants(at=at, every=every):
        answers = recorded.answers[recorded.promised(number) : recorded.under_way(number) + 1]
        checker.check_disk(disk, answers, when=f"dead {recorded.tell(number)}")


def check_resumed(checker: Checker, recorded: Recorded, *, at: str = "", every: int = 1, then_every: int = 1) -> None:
    """The process dies at each instant, the next one goes on from what it finds, and then the machine dies.

    What the second process has promised must last, whichever of the two has written it.
    """
    for number, disk in recorded.instants(at=at, every=every, promises=False):
        folder = checker.work / "resumed"
        write_tree(folder, disk.tree())
        second = record(checker.program, folder, disk.copy())
        shutil.rmtree(folder)
        assert second.files == checker.whole.files
        redone = recorded.under_way(number)
        for again, then in second.instants(disk, every=then_every, skipped=number % then_every):
            promised = second.promised(again)
            first = promised if promised >= redone else recorded.promised(number)
            answers = recorded.answers[first : max(redone, second.under_way(again)) + 1]
            when = f"killed {recorded.tell(number)}, and dead {second.tell(again)} of the next run"
            checker.check_disk(then, answers, when=when)


def live(stages: list[Stage], folder: Path, check: Callable[[Stage, Recorded], None]) -> None:
    """Go through the stages of a store's life, each left in peace and then checked."""
    folder.mkdir(exist_ok=True)
    for stage in stages:
        stage.before(folder / STORE)
        check(stage, record(stage.program, folder))
