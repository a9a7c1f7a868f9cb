"""A machine that dies at any call of the commit path, and loses any of what was not synced, leaves the old or the new.

The states tried are counted; `-s` prints the counts. That the checks would see a fault is shown by planting some.
"""

import os
import tempfile
from collections import defaultdict
from functools import partial
from pathlib import Path

import pytest

from featcache.files import publish
from featcache.testing.crash_model import Disk, crashes, read_tree, write_tree
from featcache.testing.faults import DISKS
from featcache.testing.recorded_calls import recording
from tests.crash.crashing import Checker, WrongStoreError, check_prefixes, check_resumed, live
from tests.crash.histories import short_stages, stages

FORMATS = ("zarr", "hdf5")
LACKING = ("no links", "no locks", "neither")


@pytest.fixture
def work(tmp_path):
    """A folder in memory, where there is one: states are many and small."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


def check_life(life, work, check, *, samples=8):
    """Check every stage of a life; returns how many states were tried."""
    total = 0

    def check_stage(stage, recorded):
        nonlocal total
        states = work / stage.name
        states.mkdir()
        checker = Checker(states, stage.program, recorded, samples=samples)
        check(checker, recorded)
        print(
            f"{stage.name}: {checker.num_prefixes} instants, {checker.num_states} states, {checker.num_opened} opened"
        )
        total += checker.num_states

    live(life, work / "life", check_stage)
    print(f"{total} states in all")
    return total


# The store


@pytest.mark.parametrize(("file_format", "every"), [("zarr", 61), ("hdf5", 31)])
def test_a_crash_leaves_the_old_store_or_the_new_one(work, file_format, every):
    assert check_life(short_stages(file_format), work, partial(check_prefixes, every=every), samples=2) > 80


def test_what_a_resumed_writer_promises_survives_a_crash(work):
    check = partial(check_resumed, every=45, then_every=1000)
    assert check_life(short_stages("hdf5"), work, check, samples=2) > 100


@pytest.mark.parametrize("disk", LACKING)
def test_a_crash_of_a_disk_that_lacks_something_leaves_the_old_store_or_the_new_one(work, disk):
    with DISKS[disk].imitated():
        check_life(short_stages("hdf5")[:3:2], work, partial(check_prefixes, every=67), samples=1)
        states = work / "resumed"
        states.mkdir()
        check_life(short_stages("hdf5")[:1], states, partial(check_resumed, every=151, then_every=1000), samples=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("disk", DISKS)
@pytest.mark.parametrize("file_format", FORMATS)
def test_every_crash_leaves_the_old_store_or_the_new_one(work, file_format, disk):
    with DISKS[disk].imitated():
        assert check_life(stages(file_format), work, check_prefixes) > 4000


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("disk", DISKS)
@pytest.mark.parametrize("file_format", FORMATS)
def test_whatever_a_resumed_writer_promises_survives_every_crash(work, file_format, disk):
    with DISKS[disk].imitated():
        assert check_life(short_stages(file_format), work, partial(check_resumed, then_every=11)) > 5000


# Faults that the checks must see


def unsynced_files(monkeypatch):
    """The bytes of a file are linked before they are durable."""

    def write_temp(path, data):
        temp = path.with_name(f".{path.name}.0123456789abcdef.tmp")
        write_bare(temp, data)
        return temp

    monkeypatch.setattr(publish, "write_temp", write_temp)


def write_bare(path, data, *, flags=os.O_EXCL):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o666)
    os.write(fd, b"".join(map(bytes, [data] if isinstance(data, bytes) else data)))
    os.close(fd)


def unsynced_folders(monkeypatch):
    monkeypatch.setattr(publish, "_sync_folder", lambda path: None)


def torn_publication(monkeypatch):
    """A file is written under its final name."""

    def put_new(path, data):
        publish.ensure_folder(path.parent)
        if path.exists():
            return False
        write_bare(path, data)
        publish._sync_file(path)
        publish._sync_folder(path.parent)
        return True

    monkeypatch.setattr(publish, "put_new", put_new)


def torn_replacement(monkeypatch):
    """A file that others rely on is emptied and filled, where it is put right although nothing is wrong with it."""

    def put_exact(path, data):
        publish.ensure_folder(path.parent)
        write_bare(path, data, flags=os.O_TRUNC)
        publish._sync_file(path)
        publish._sync_folder(path.parent)

    monkeypatch.setattr(publish, "put_exact", put_exact)


def record_before_data(monkeypatch):
    late(monkeypatch, ".h5", until="commits")


def plan_before_tables(monkeypatch):
    late(monkeypatch, ".parquet", until="g000")


def late(monkeypatch, suffix, *, until):
    """Hold back files until a document has been published in, or below, a folder."""
    held, put_new = [], publish.put_new

    def put_new_then_held(path, data):
        if path.suffix == suffix:
            held.append((path, data))
            return True
        published = put_new(path, data)
        if path.suffix == ".json" and until in path.parts and path.name != "zarr.json":
            while held:
                put_new(*held.pop())
        return published

    monkeypatch.setattr(publish, "put_new", put_new_then_held)


def record_stays(monkeypatch):
    """The record of a lost data file is removed after the new data is there, not before."""
    held, put_exact, remove = [], publish.put_exact, publish.remove

    def put_exact_then_remove(path, data):
        put_exact(path, data)
        while held and path.suffix == ".h5":
            remove(held.pop())

    monkeypatch.setattr(publish, "remove", lambda path: held.append(path) if "commits" in path.parts else remove(path))
    monkeypatch.setattr(publish, "put_exact", put_exact_then_remove)


def unsynced_removal(monkeypatch):
    monkeypatch.setattr(publish, "remove", lambda path: path.unlink())


def trusted_folders(monkeypatch):
    """A folder that is there is taken to be durable."""
    monkeypatch.setattr(publish, "_sync_name_of_empty", lambda path: None)


def trusted(monkeypatch, folder):
    """What is found in a folder is taken to be durable."""
    sync = publish.sync_folder
    monkeypatch.setattr(publish, "sync_folder", lambda path: None if folder in path.parts[-2:] else sync(path))


def trusted_plans(monkeypatch):
    trusted(monkeypatch, "g000")


def trusted_records(monkeypatch):
    """Those that are there, and that one is not."""
    trusted(monkeypatch, "commits")


@pytest.mark.parametrize(
    ("plant", "stage", "check", "message"),
    [
        (unsynced_files, "create", partial(check_prefixes, at="/featcache.json"), "store description .* is damaged"),
        (unsynced_folders, "create", partial(check_prefixes, at="/featcache.json"), "store is None, not one of"),
        (torn_publication, "create", partial(check_prefixes, at="/featcache.json"), "store description .* is damaged"),
        (torn_replacement, "feature", partial(check_prefixes, at=".parquet"), "feature map is damaged"),
        (record_before_data, "create", partial(check_prefixes, at="/00000.json"), "feature map is damaged"),
        (plan_before_tables, "create", partial(check_prefixes, at="/plan.json"), "table of videos .* is missing"),
        (record_stays, "heal", partial(check_prefixes, at=".h5"), "the next writer has left other bytes"),
        (unsynced_removal, "heal", partial(check_prefixes, at=".h5"), "the next writer has left other bytes"),
        (trusted_folders, "create", partial(check_resumed, at="/commits/map", then_every=1000), "feature map is "),
        (trusted_plans, "create", partial(check_resumed, at="/plan.json", then_every=1000), "generation 0 .* is lost"),
        (trusted_records, "create", partial(check_resumed, at="/00000.json", then_every=1000), "feature map is "),
        (
            trusted_records,
            "heal",
            partial(check_resumed, at="/00000.json", then_every=5),
            "the next writer has left other bytes",
        ),
    ],
)
def test_a_planted_fault_is_seen(work, monkeypatch, plant, stage, check, message):
    """The fault is there from the stage on; only instants at which it may show are tried."""

    def check_stage(found, recorded):
        if found.name == stage:
            with pytest.raises(WrongStoreError, match=message):
                check(Checker(work, found.program, recorded), recorded)
            seen.append(stage)

    seen = []
    for one in short_stages("hdf5"):
        if one.name == stage:
            plant(monkeypatch)
        if not seen:
            live([one], work / "life", check_stage)
    assert seen


# The recording and the model themselves


def test_a_change_past_the_recording_is_noticed(work):
    with pytest.raises(AssertionError, match="missed"), recording(work):
        (work / "file").write_bytes(b"by another way")


def test_the_disk_of_the_model_is_that_of_the_recording(work):
    disk = Disk({})
    with recording(work) as made:
        publish.put_new(work / "deep" / "file", [b"first", b"second"])
        publish.put_replace(work / "deep" / "file", b"third")
        publish.put_new(work / "deep" / "other", b"")
        publish.remove(work / "deep" / "other")
    for call in made.calls:
        disk.apply(call)
    assert disk.tree() == read_tree(work) == {"deep": None, "deep/file": b"third"}
    assert disk.pending() == []


def test_what_a_crash_may_leave_of_a_publication(work):
    """Every state by hand: of the temporary name, the final name and the bytes, before and after they are synced."""
    with recording(work) as made:
        publish.put_new(work / "file", b"abcd")
    kinds = [call.kind for call in made.calls]
    assert kinds == ["create", "write", "fsync", "link", "unlink", "open", "fsync"]
    temp = made.calls[0].names[0]
    nothing, lost, torn, zeros, whole = {}, {temp: b""}, {temp: b"ab"}, {temp: bytes(4)}, {temp: b"abcd"}
    published, both = {"file": b"abcd"}, {"file": b"abcd", temp: b"abcd"}
    expected = [
        [nothing],
        [nothing, lost],
        [nothing, lost, torn, zeros, whole],
        [nothing, whole],
        [nothing, whole, published, both],
        [nothing, whole, published, both],
        [nothing, whole, published, both],
        [published],
    ]
    disk, found = Disk({}), defaultdict(list)
    for number in range(len(made.calls) + 1):
        if number:
            disk.apply(made.calls[number - 1])
        for choice in crashes(disk, seed=0):
            if disk.tree(choice) not in found[number]:
                found[number].append(disk.tree(choice))
    for number, trees in enumerate(expected):
        assert len(found[number]) == len(trees)
        assert all(tree in found[number] for tree in trees)


def test_of_many_pending_effects_the_extremes_are_tried(work):
    disk = Disk({})
    with recording(work) as made:
        for number in range(10):
            (work / str(number)).mkdir()
    for call in made.calls:
        disk.apply(call)
    trees = [set(disk.tree(choice)) for choice in crashes(disk, seed=0, newest=3, samples=5)]
    assert len(trees) == 8 + 1 + 5
    assert set() in trees
    assert set(map(str, range(10))) in trees
    write_tree(work / "copy", dict.fromkeys(max(trees, key=len)))
    assert set(read_tree(work / "copy")) == max(trees, key=len)
