"""What a worker of a cluster does with its shards, without a cluster."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import featcache
from featcache.errors import DiskSpaceError, FeatcacheError
from featcache.extract import shard_session
from featcache.extract.orders import Assignment, ShardOrder
from featcache.extract.progress import Progress
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings
from featcache.extract.shard_session import (
    SessionClosedError,
    ShardSession,
    check_sees,
    check_versions,
    device_for,
    use_files,
)
from featcache.store.writer import StoreWriter
from tests.extract.conftest import Make
from tests.extract.test_cluster import arrays

ORDERS = [ShardOrder(generation=0, shard=shard, features=("pooled",)) for shard in range(4)]


@contextmanager
def planned(settings: ExtractSettings) -> Iterator[Assignment]:
    """A store with a plan, marked for a run, and what a worker is told of it."""

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(settings, on_progress=interrupt)
    source = Path(str(settings.source))
    told = {"root": str(source.parent), "seen": (str(source),), "weights_folder": "nowhere"}
    sampling = featcache.open(settings.out).sampling
    with StoreWriter.open(settings.out, sampling=sampling) as writer, writer.marked("run1"):
        yield Assignment(
            run="run1", settings=settings, moved={}, used_files={}, versions={}, is_on_gpu=False, sharing=1, **told
        )
    assert not list(Path(settings.out).rglob("*.mark"))


def test_it_commits_what_the_local_engine_commits(make: Make, extracted: Path) -> None:
    settings, told = make(), []
    with planned(settings) as assignment:
        session = ShardSession(assignment, worker="here", tell=told.append)
        sampling = featcache.open(settings.out).sampling
        with (
            StoreWriter.open(settings.out, sampling=sampling) as other,
            other.shard_lock(other.generations()[0], 1),
        ):
            left = session.take(ORDERS[1])
            assert left.settled.wait(120)
        assert (left.committed, left.error) == (None, None), "another process had claimed it"
        tickets = [session.take(order) for order in reversed(ORDERS)]
        assert session.take(ORDERS[0]) is tickets[-1]
        for ticket in tickets:
            assert ticket.settled.wait(120)
            assert ticket.drawn.is_set()
            assert ticket.error is None
        assert sum(ticket.committed.num_rows for ticket in tickets) == 32
        assert (session.telling().rows, session.telling().videos) == (0, 0)
        again = session.take(ORDERS[2])
        assert again.settled.wait(60)
        assert again.committed.num_rows == 0, "it was committed already"
        session.close()
        with pytest.raises(SessionClosedError):
            session.take(ORDERS[0])
    assert told[-1].encode_seconds > 0
    extract(settings)  # seals what is complete
    assert arrays(settings.out) == arrays(extracted)


def test_all_who_wait_hear_of_an_error(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with planned(make()) as assignment:
        session = ShardSession(assignment, worker="here", tell=lambda told: None)

        def full(*args: Any, **kwargs: Any) -> None:
            raise DiskSpaceError("the disk is full")

        monkeypatch.setattr(StoreWriter, "commit_shard", full)
        tickets = [session.take(order) for order in ORDERS]
        for ticket in tickets:
            assert ticket.settled.wait(120)
            assert isinstance(ticket.error, DiskSpaceError)
        with pytest.raises(SessionClosedError):
            session.take(ORDERS[0])
        session.close()


def test_a_worker_must_see_the_store_of_the_run_and_its_videos(make: Make, tmp_path: Path) -> None:
    with planned(make()) as assignment:
        check_sees(assignment)
        copy = tmp_path / "copy"
        shutil.copytree(assignment.settings.out, copy, ignore=shutil.ignore_patterns("*.mark"))
        for out, message in ((copy, "it sees another store at"), (tmp_path / "none", "it sees no store at")):
            settings = assignment.settings.model_copy(update={"out": str(out)})
            with pytest.raises(FeatcacheError, match=f"{message} {out}; every worker needs the same disk"):
                check_sees(replace(assignment, settings=settings))
        assert not (tmp_path / "none").exists()
        with pytest.raises(FeatcacheError, match=r"it does not see the video /no/such\.mp4; every worker needs"):
            check_sees(replace(assignment, seen=(*assignment.seen, "/no/such.mp4")))


def test_a_worker_must_have_the_versions_and_the_kind_of_device_of_the_run(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FeatcacheError, match=r"it has torch .*, and this run 0\.1; install the same version"):
        check_versions({"torch": "0.1"})
    assert device_for(make(), is_on_gpu=False) == "cpu"
    with pytest.raises(FeatcacheError, match="it has no GPU, and the run was planned for workers with GPUs"):
        device_for(make(), is_on_gpu=True)
    monkeypatch.setattr(shard_session, "resolve_device", lambda name: "cuda")
    with pytest.raises(FeatcacheError, match="it has a GPU, and the run was planned for workers without"):
        device_for(make(), is_on_gpu=False)


def test_a_file_of_the_user_is_the_same_on_every_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that lives longer than a run may have run it before it was edited."""
    from featcache.backbones import from_file

    monkeypatch.setattr(from_file, "_KNOWN", {})
    monkeypatch.setattr(shard_session, "_USED", {})
    file = tmp_path / "net.py"
    given = f"{file}:build"
    file.write_text("def build(name, weights): ...\n")
    use_files({given: shard_session.sha256_of_file(given)})
    file.write_text("def build(name, weights): return 1\n")
    with pytest.raises(FeatcacheError, match=r"it has run another .*net\.py:build than this run; start the worker"):
        use_files({given: shard_session.sha256_of_file(given)})
