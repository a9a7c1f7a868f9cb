"""Hands out shards to the workers of a cluster, and gathers what they report."""

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import Any

from distributed import Client, Future, KilledWorker

from featcache.errors import FeatcacheError
from featcache.extract.cluster_worker import TOPIC, run_shard
from featcache.extract.cluster_workers import Workers
from featcache.extract.filling import Filling
from featcache.extract.orders import Assignment, Remark, ShardOrder, ShardReport, Telling
from featcache.extract.progress import Progress
from featcache.store.writer import Generation

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often to look which workers are there."""
MAX_TRIES = 3
"""Number of workers that try a shard which fails, before it is set aside until all others are done."""
VISIBLE_SECONDS = 90.0
"""How long a committed shard may remain unseen here; an NFS client may keep its list of a folder for a minute."""


@dataclass(slots=True, kw_only=True)
class Gathering:
    """The shards of a run on their way through a cluster.

    Attributes:
        client: The client.
        workers: The workers.
        assignment: What workers have to know of the run.
        filling: The store and its progress.
    """

    client: Client
    workers: Workers
    assignment: Assignment
    filling: Filling
    _queue: SimpleQueue[Future[Any]] = field(default_factory=SimpleQueue)
    _waiting: dict[object, tuple[Future[Any], ShardOrder]] = field(default_factory=dict)
    _given: Future[Any] | None = None
    _name: str = field(default_factory=lambda: secrets.token_hex(8))  # no key is used twice
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _tellings: dict[str, Telling] = field(default_factory=dict)
    _failures: dict[ShardOrder, dict[str, str]] = field(default_factory=dict)  # sentences by worker
    _set_aside: list[ShardOrder] = field(default_factory=list)
    _started: float = 0.0
    _last_seen: float = 0.0
    _last_look: float = 0.0
    _present: set[str] = field(default_factory=set)

    def compute(self, orders: Sequence[ShardOrder], generations: Sequence[Generation]) -> None:
        """Have the shards computed.

        A shard is tried again elsewhere if its worker dies or fails. One that several workers did not manage is tried
        once more when all others are done, alone, since it may have failed with a neighbour.

        Raises:
            FeatcacheError: Some shards cannot be computed; the others are committed. Or none can, or the scheduler is
                gone.
        """
        self._started = time.monotonic() - self.filling.progress.elapsed_seconds
        self._last_seen = time.monotonic()
        self.client.subscribe_topic(TOPIC, self._hear)
        # One copy for all tasks: it is computed again if the workers that have it die.
        self._given = self.client.submit(_itself, self.assignment, key=f"featcache-run-{self._name}")
        try:
            reports = self._gather(orders)
            elsewhere = [report.order for report in reports if report.outcome == "elsewhere"]
            if elsewhere:  # its lock may have been that of a worker that was dying
                reports += self._gather(elsewhere)
            again, self._set_aside = self._set_aside, []
            for order in again:
                self._failures.pop(order, None)
                reports += self._gather([order])
            self._look()
            self._await_visible([report for report in reports if report.outcome == "committed"], generations)
        except Exception as error:
            if self.client.status == "running" or isinstance(error, FeatcacheError):
                raise
            raise self.workers.scheduler_is_gone() from error  # of many kinds, wherever Dask notices it first
        except asyncio.CancelledError as error:  # no Exception: a question that was under way when the connection ended
            raise self.workers.scheduler_is_gone() from error
        finally:
            self._cancel()
        if self._set_aside:
            raise self._given_up(self._set_aside, generations)

    def _gather(self, orders: Sequence[ShardOrder]) -> list[ShardReport]:
        """Hand out shards and wait until each is committed, claimed elsewhere, or set aside."""
        reports = []
        self._submit(orders)
        self._show()
        while self._waiting:
            if time.monotonic() - self._last_look >= LOOK_SECONDS:
                self._look()
            try:
                future = self._queue.get(timeout=LOOK_SECONDS / 2)
            except Empty:
                self._show()
                continue
            _, order = self._waiting.pop(future.key)
            report = self._report_of(future, order)
            if report is not None and report.outcome in ("committed", "elsewhere"):
                reports.append(report)
            self._show()
        return reports

    def _report_of(self, future: Future[Any], order: ShardOrder) -> ShardReport | None:
        """What a finished task says; ``None`` if its workers have died."""
        if future.status == "cancelled":
            raise self.workers.scheduler_is_gone()
        if future.status != "finished":
            if not isinstance(future.exception(), KilledWorker):
                future.result()  # raises what it is, with its traceback
            self._set_aside.append(order)
            return None
        report: ShardReport = future.result()
        if report.telling is not None:
            self._tellings[report.telling.session] = report.telling
        match report.outcome:
            case "committed":
                self._count(report)
            case "impossible":
                raise FeatcacheError(f"{report.sentence} (worker {report.worker}); what is committed stays")
            case "unfit":
                self.workers.leave_out(report.worker, report.sentence)
                self._submit([order])
            case "failed":
                self._try_elsewhere(report)
        return report

    def _try_elsewhere(self, report: ShardReport) -> None:
        """Give a shard that has failed to a worker that has not tried it, or set it aside."""
        order, worker = report.order, report.worker
        assert report.telling is not None, "a shard that failed had a session"
        log.warning("shard %d of generation %d failed at worker %s: %s",
                    order.shard, order.generation, worker, report.sentence)  # fmt: skip
        self.workers.strike(worker, report.telling.session, report.sentence)
        tried = self._failures.setdefault(order, {})
        tried[worker] = report.sentence
        if len(tried) < MAX_TRIES and set(self.workers.fit()) - set(tried):
            self._submit([order], tried=set(tried))
        else:
            self._set_aside.append(order)

    def _submit(self, orders: Sequence[ShardOrder], *, tried: Collection[str] = ()) -> None:
        # A worker that is restarted has another address, so the choice is a wish and not a condition.
        fit = sorted(set(self.workers.fit()) - set(tried)) if self.workers.unfit or tried else None
        futures = self.client.map(
            run_shard,
            orders,
            assignment=self._given,
            key=[(f"featcache-shard-{self._name}", next(self._numbers)) for _ in orders],
            retries=2,
            pure=False,
            resources=self.workers.resources or None,
            workers=fit,
            allow_other_workers=fit is not None,
        )
        for future, order in zip(futures, orders, strict=True):
            self._waiting[future.key] = (future, order)
            future.add_done_callback(self._queue.put)

    def _look(self) -> None:
        """See which workers are there; there must be one that can compute."""
        self._last_look = now = time.monotonic()
        if self.workers.fit():
            self._last_seen = now
        elif now - self._last_seen > self.workers.wait_seconds:
            raise self.workers.nobody()
        present = self.workers.present()
        for worker in sorted(self._present - present):
            log.warning("worker %s has gone; what it had begun is computed again", worker)
        self._present = present
        for name, telling in self._tellings.items():
            if telling.worker not in present:  # rows that it has not committed are lost
                self._tellings[name] = replace(telling, rows=0, frames=0, videos=0)

    def _cancel(self) -> None:
        """Take back what no worker has begun."""
        futures = [future for future, _ in self._waiting.values()]
        self._waiting.clear()
        if self.client.status == "running":
            self.client.unsubscribe_topic(TOPIC)
            self.client.cancel(futures, force=True)
        self._given = None

    def _hear(self, event: tuple[float, dict[str, Any]]) -> None:
        """Keep what a session tells, and repeat its warnings; in a thread of the client."""
        match event[1]:
            case {"run": self.assignment.run, "Telling": told}:
                self._tellings[told["session"]] = Telling(**told)
            case {"run": self.assignment.run, "Remark": told}:
                remark = Remark(**told)
                logging.getLogger(remark.logger).log(remark.level, "%s", remark.message)

    def _count(self, report: ShardReport) -> None:
        progress, committed = self.filling.progress, report.committed
        progress.videos_done += committed.num_videos
        progress.rows_done += committed.num_rows
        progress.frames_done += committed.num_frames
        progress.rows_failed += committed.rows_failed
        progress.bytes_written += committed.num_bytes
        progress.shards_done += 1
        for status, count in committed.failed.items():
            progress.failed[status] = progress.failed.get(status, 0) + count

    def _show(self) -> None:
        """Show the sum of all workers: what is committed, and what is on its way."""
        tellings = list(self._tellings.values())
        progress = self.filling.progress
        progress.elapsed_seconds = time.monotonic() - self._started
        for name in ("decode_wait_seconds", "encode_seconds", "commit_seconds"):
            setattr(progress, name, sum(getattr(each, name) for each in tellings))
        self.filling.on_progress(_with_rows(progress, tellings))

    def _await_visible(self, reports: Sequence[ShardReport], generations: Sequence[Generation]) -> None:
        """Wait until what workers have committed is seen here too."""
        by_number = {generation.number: generation for generation in generations}
        deadline = time.monotonic() + VISIBLE_SECONDS
        while unseen := self._unseen(reports, by_number):
            if time.monotonic() > deadline:
                order, worker = unseen[0].order, unseen[0].worker
                raise FeatcacheError(
                    f"worker {worker} has committed shard {order.shard} of generation {order.generation}, and this "
                    f"machine does not see it in {self.filling.writer.root}; give the same command again, and if that "
                    "does not help, look at the disk"
                )
            time.sleep(1.0)

    def _unseen(self, reports: Sequence[ShardReport], generations: dict[int, Generation]) -> list[ShardReport]:
        writer = self.filling.writer
        names = {(report.order.generation, name) for report in reports for name in report.order.features}
        seen = {each: writer.committed(generations[each[0]], each[1]) for each in names}
        return [
            report
            for report in reports
            if any(report.order.shard not in seen[report.order.generation, name] for name in report.order.features)
        ]

    def _given_up(self, orders: Sequence[ShardOrder], generations: Sequence[Generation]) -> FeatcacheError:
        """The error for shards that no worker could compute."""
        by_number = {generation.number: generation for generation in generations}
        first = orders[0]
        generation = by_number[first.generation]
        videos = [generation.videos[segment.video].id for segment in generation.shard_segments(first.shard)]
        failures = self._failures.get(first, {})
        why = next(iter(failures.values()), "no worker survived it, usually for lack of memory")
        others = f" and {len(orders) - 1} more" if len(orders) > 1 else ""
        return FeatcacheError(
            f"shard {first.shard} of generation {first.generation}{others} could not be computed: {why} (its videos: "
            f"{', '.join(videos[:3])}{', …' if len(videos) > 3 else ''}); all other shards are committed, and the same "
            "command tries again what is missing"
        )


def _itself(assignment: Assignment) -> Assignment:
    return assignment


def _with_rows(progress: Progress, tellings: Sequence[Telling]) -> Progress:
    """The counters, with the rows that are encoded and not committed yet."""
    return replace(
        progress,
        rows_done=progress.rows_done + sum(each.rows for each in tellings),
        frames_done=progress.frames_done + sum(each.frames for each in tellings),
        videos_done=progress.videos_done + sum(each.videos for each in tellings),
    )
