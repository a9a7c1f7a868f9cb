"""Two writers of a shard that compute different bytes, and whom no lock keeps apart."""

import logging
import shutil
from functools import partial

import pytest

from featcache.files import leases, publish
from featcache.files.local import LocalFiles
from featcache.recipes import SamplingRecipe
from featcache.store import commit, paths
from featcache.store.gc import gc
from featcache.store.verify import verify
from featcache.store.writer import StoreWriter
from featcache.testing.faults import DISKS
from featcache.testing.stores import StorePlan, add_generation, make_recipe, make_record, write_store
from featcache.testing.stores import commit as commit_plan
from tests.crash.histories import _Doubled
from tests.files import interleaving

PLAN = StorePlan(records={"a": make_record((2, 3), "int8")}, num_videos=2)
PAUSE = 14  # steps until the first writer has published its data and not yet its record
GATES = {publish: ("put_new", "heal", "remove"), LocalFiles: ("exists",)}


@pytest.fixture(autouse=True)
def without_locks(monkeypatch):
    monkeypatch.setattr(leases, "_is_dead", lambda path: True)  # two hosts, each of which takes the other for dead
    with DISKS["no locks"].imitated():
        yield


@pytest.fixture
def planned():
    """An empty store of one shard, in memory."""
    with interleaving.in_memory() as folder:
        with StoreWriter.open(folder / "empty", sampling=SamplingRecipe()) as writer:
            add_generation(writer, PLAN)
            writer.declare_feature("a", make_recipe(precision="int8"), PLAN.records["a"])
            with writer.planning_lock():  # the record of the disk is made
                pass
        yield folder / "empty"


def work(path, *, doubled):
    with StoreWriter.open(path, sampling=SamplingRecipe()) as writer:
        commit_plan(_Doubled(writer) if doubled else writer, writer.generations()[0], 0, PLAN)
    return True


def try_order(planned, preemptions):
    """What is left agrees, or is in doubt and the next writer sees it; returns the number of steps."""
    path = planned.with_name("store")
    shutil.copytree(planned, path)
    works = [partial(work, path, doubled=doubled) for doubled in (False, True)]
    outcome = interleaving.run(works, preemptions, gates=GATES)
    report = verify(path)
    if None not in outcome.results:
        assert (report.problems, report.notes, report.num_pending) == ([], [], {"a": 0}), preemptions
    with StoreWriter.open(path, sampling=SamplingRecipe()) as writer:
        assert bool(writer.committed(writer.generations()[0], "a")) <= report.ok, (preemptions, report.problems)
    write_store(path, PLAN)
    assert verify(path).problems == [], preemptions
    gc(path, alone=True)
    assert verify(path).notes == []
    shutil.rmtree(path)
    return outcome.num_steps


def check_in_every_order(planned, *, num_preemptions):
    """Returns the number of orders."""
    return sum(
        1 for _ in interleaving.schedules(partial(try_order, planned), num_writers=2, num_preemptions=num_preemptions)
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_record_and_files_agree_whatever_the_order_and_whoever_is_killed(planned, caplog):
    caplog.set_level(logging.ERROR)
    print(check_in_every_order(planned, num_preemptions=2), "orders")


# Faults that the orders must show


def no_notes(monkeypatch):
    """A file is replaced without a note."""
    monkeypatch.setattr(commit, "doubt", lambda generation, name, shard: "locks/doubts/none")


def no_look(monkeypatch):
    """The first record stays, whatever became of its files."""

    def settle(generation, feature, shard, *, contents, record, sealed, file_format):
        for name, chunks in contents.items():
            generation.files.put_exact(name, chunks)
        generation.files.put_new(paths.commit(generation.number, feature.name, shard), sealed)

    monkeypatch.setattr(commit, "_settle", settle)


@pytest.mark.parametrize(("plant", "kills"), [(no_notes, True), (no_look, False)])
def test_a_planted_fault_is_seen(planned, monkeypatch, caplog, plant, kills):
    """The first writer pauses once its data are there, the second replaces them, and is killed or pauses too."""
    caplog.set_level(logging.ERROR)
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="is damaged"):
        pause_second(planned, kills=kills)


def pause_second(planned, *, kills):
    for step in range(PAUSE + 1, PAUSE + 40):
        try_order(planned, [interleaving.Preemption(PAUSE, kills=False), interleaving.Preemption(step, kills)])
        shutil.rmtree(planned.with_name("store"), ignore_errors=True)


@pytest.mark.parametrize("kills", [True, False])
def test_a_second_writer_that_replaces_data_is_paused_or_killed(planned, caplog, kills):
    caplog.set_level(logging.ERROR)
    pause_second(planned, kills=kills)


def test_a_note_of_doubt_counts_as_long_as_record_and_files_disagree(tmp_path):
    path = tmp_path / "s"
    write_store(path, PLAN)
    note = path / "locks" / "doubts" / "g000" / "a" / "00000-0123456789abcdef"
    note.parent.mkdir(parents=True)
    note.touch()
    assert "a killed writer may have replaced files" in verify(path).notes[0]
    assert note.relative_to(path).as_posix() in gc(path, alone=True).removed
    note.touch()
    data = path / "g000" / "a" / "c" / "0" / "0" / "0"
    content = data.read_bytes()
    data.write_bytes(content[:5] + b"x" + content[6:])
    assert not verify(path).ok
    assert note.relative_to(path).as_posix() not in gc(path, alone=True).removed
    with StoreWriter.open(path, sampling=SamplingRecipe()) as writer:
        assert writer.committed(writer.generations()[0], "a") == set()
        assert not writer.is_committed(writer.generations()[0], 0, feature="a")
    write_store(path, PLAN)
    assert data.read_bytes() == content
    assert gc(path, alone=True).removed == (note.relative_to(path).as_posix(),)
    assert (verify(path).problems, verify(path).notes) == ([], [])
