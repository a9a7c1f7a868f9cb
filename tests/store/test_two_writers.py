"""Two writers of a shard that compute different bytes, and whom no lock keeps apart."""

import logging
import shutil
from functools import partial

import pytest

from featcache.files import leases, publish
from featcache.files.local import LocalFiles
from featcache.recipes import SamplingRecipe
from featcache.store.gc import gc
from featcache.store.verify import verify
from featcache.store.writer import StoreWriter
from featcache.testing.faults import DISKS
from featcache.testing.stores import StorePlan, add_generation, make_recipe, make_record, write_store
from featcache.testing.stores import commit as commit_plan
from tests.crash.histories import _Doubled
from tests.files import interleaving

PLAN = StorePlan(records={"a": make_record((2, 3), "int8")}, num_videos=2)
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


def check_in_every_order(planned, *, num_preemptions):
    """What is left agrees, or is in doubt and the next writer sees it; returns the number of orders."""
    path = planned.with_name("store")

    def try_one(preemptions):
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

    return sum(1 for _ in interleaving.schedules(try_one, num_writers=2, num_preemptions=num_preemptions))


def test_record_and_files_agree_whatever_the_order(planned, caplog):
    caplog.set_level(logging.ERROR)
    assert check_in_every_order(planned, num_preemptions=1) > 30


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_record_and_files_agree_whatever_the_order_and_whoever_is_killed(planned, caplog):
    caplog.set_level(logging.ERROR)
    print(check_in_every_order(planned, num_preemptions=2), "orders")
