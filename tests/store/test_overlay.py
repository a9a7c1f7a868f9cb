"""Overlays: videos are renamed, relabelled and taken out, and the features that are read stay those of their files."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.errors import CorruptStoreError, StoreError
from featcache.files import publish
from featcache.files.base import open_files
from featcache.store.gc import gc
from featcache.store.overlay import Amendment, publish_overlay
from featcache.store.reader import open_store
from featcache.store.verify import verify
from featcache.store.writer import StoreWriter
from featcache.testing.stores import StorePlan, add_generation, expected_rows, fill, make_record, write_store
from tests.store.histories import say

RECORD = make_record((3,))


def plan(first, num, **options) -> StorePlan:
    return StorePlan(records={"a": RECORD}, num_videos=num, first_video=first, rows_per_video=(2,), **options)


def grow(path, more: StorePlan) -> None:
    store = open_store(path)
    with StoreWriter.open(path, sampling=store.sampling, file_format=store.file_format) as writer:
        fill(writer, add_generation(writer, more), more)


def assert_is(path, origins: dict[str, str]) -> None:
    """The store holds these videos: id to the id that their features were computed under."""
    store = open_store(path)
    assert set(store.videos) == set(origins)
    with store.feature("a") as features:
        assert set(features.video_ids) == set(origins)
        for video, origin in origins.items():
            expected = expected_rows("a", [(origin, 0), (origin, 1)], RECORD)
            assert features.video(video).tobytes() == expected.tobytes(), video
    coverage = store.coverage("a")
    assert (coverage.ok, coverage.pending, coverage.total) == (len(origins), 0, len(origins))
    assert store.info()["features"]["a"]["num_rows"] == 2 * len(origins)


@pytest.fixture
def path(tmp_path) -> Path:
    write_store(tmp_path / "s", plan(0, 4))
    return tmp_path / "s"


def test_labels_splits_and_paths_are_the_latest(path):
    say(path, ("v0000", {"labels": {"label": "x", "verb": "run"}, "split": "val", "path": "there.mp4"}))
    say(path, ("v0001", {"labels": {}}), ("v0000", {"labels": {"label": "y"}}))
    store = open_store(path)
    assert store.labels() == {"v0000": "y", "v0002": "a", "v0003": "b"}
    assert (store.videos["v0000"].split, store.videos["v0000"].path) == ("val", "there.mp4")
    assert store.splits == ("test", "train", "val")
    assert_is(path, {f"v000{n}": f"v000{n}" for n in range(4)})
    assert verify(path).ok


def test_names_may_be_swapped_and_given_back(path):
    say(path, ("v0000", {"id": "v0001"}), ("v0001", {"id": "v0000"}))
    assert_is(path, {"v0000": "v0001", "v0001": "v0000", "v0002": "v0002", "v0003": "v0003"})
    say(path, ("v0000", {"id": "new/name.mp4"}))
    say(path, ("v0001", {"id": "v0000"}), ("new/name.mp4", {"id": "v0001"}))
    assert_is(path, {f"v000{n}": f"v000{n}" for n in range(4)})


def test_a_name_that_is_free_again_may_be_taken_by_another_file(path):
    """What an overlay says is about the generations before it."""
    say(path, ("v0003", {"id": "elsewhere"}))
    grow(path, plan(3, 2))
    assert_is(path, {"v0000": "v0000", "v0001": "v0001", "v0002": "v0002", "elsewhere": "v0003"} | {
        "v0003": "v0003", "v0004": "v0004"})  # fmt: skip
    say(path, ("v0003", {"labels": {"label": "later"}}), ("elsewhere", {"labels": {"label": "moved"}}))
    assert {name: open_store(path).labels()[name] for name in ("v0003", "elsewhere")} == {
        "v0003": "later",
        "elsewhere": "moved",
    }


def test_what_is_taken_out_is_nowhere_and_may_come_back(path):
    say(path, ("v0001", {"removed": True}))
    store = open_store(path)
    assert set(store.removed_videos) == {"v0001"}
    assert_is(path, {f"v000{n}": f"v000{n}" for n in (0, 2, 3)})
    assert "v0001" not in store.labels()
    assert store.info()["num_removed"] == 1
    say(path, ("v0001", {"removed": False}))
    assert_is(path, {f"v000{n}": f"v000{n}" for n in range(4)})


def test_failures_and_pending_videos_keep_their_state_under_another_name(tmp_path):
    partly = plan(0, 4, failing={1: "timeout"}, unusable={2: "missing"}, shard_rows=2)
    write_store(tmp_path / "s", partly)
    record = next((tmp_path / "s" / "g000" / "commits" / "a").glob("00002.json"))
    record.unlink()
    (tmp_path / "s" / "g000" / "commits" / "a" / "complete.json").unlink()
    say(tmp_path / "s", *((f"v000{n}", {"id": f"w{n}"}) for n in range(4)))
    coverage = open_store(tmp_path / "s").coverage()
    assert {failure.id: failure.status for failure in coverage.failures} == {"w1": "timeout", "w2": "missing"}
    assert (coverage.ok, coverage.pending, coverage.total) == (1, 1, 4)
    assert open_store(tmp_path / "s").tries() == {"w1": 1}


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["rename", "relabel", "remove", "restore", "swap", "grow"]),
            st.integers(0, 9),
            st.integers(0, 9),
        ),
        max_size=8,
    )
)
def test_any_order_of_what_may_be_said(tmp_path_factory, steps):
    """Against a plain list of videos: where its features come from, what it is called, its label, whether it is out."""
    path = tmp_path_factory.mktemp("overlays") / "s"
    write_store(path, plan(0, 3))
    videos = [{"origin": f"v000{n}", "id": f"v000{n}", "label": "ab"[n % 2], "out": False} for n in range(3)]
    for number, (what, first, second) in enumerate(steps):
        one, other = videos[first % len(videos)], videos[second % len(videos)]
        if what == "grow":
            start = len(videos)
            grow(path, plan(start, 1))
            name = f"v{start:04d}"
            videos.append({"origin": name, "id": name, "label": "ab"[start % 2], "out": False})
        elif what == "restore":
            say(path, (one["id"], {"removed": False}))
            one["out"] = False
        elif one["out"] or other["out"]:
            continue
        elif what == "rename":
            say(path, (one["id"], {"id": f"n{number}/{one['id']}"}))
            one["id"] = f"n{number}/{one['id']}"
        elif what == "relabel":
            say(path, (one["id"], {"labels": {"label": f"l{number}"}}))
            one["label"] = f"l{number}"
        elif what == "remove":
            say(path, (one["id"], {"removed": True}))
            one["out"] = True
        elif one is not other:
            say(path, (one["id"], {"id": other["id"]}), (other["id"], {"id": one["id"]}))
            one["id"], other["id"] = other["id"], one["id"]
    here = [video for video in videos if not video["out"]]
    assert_is(path, {video["id"]: video["origin"] for video in here})
    if here:
        assert open_store(path).labels() == {video["id"]: video["label"] for video in here}
    assert verify(path).ok


# Damage


def overlays(path, suffix=".json"):
    return sorted((path / "overlays").glob(f"*{suffix}"))


@pytest.fixture
def amended(path) -> Path:
    for label in "xyz":
        say(path, ("v0000", {"labels": {"label": label}}))
    return path


def test_a_flipped_bit_is_seen(amended):
    for victim in [*overlays(amended), *overlays(amended, ".parquet")]:
        whole = victim.read_bytes()
        middle = len(whole) // 2
        victim.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        with pytest.raises(CorruptStoreError):
            open_store(amended)
        assert not verify(amended).ok
        victim.write_bytes(whole)
    assert verify(amended).ok


@pytest.mark.parametrize("number", [0, 1])
def test_an_overlay_that_is_lost_is_damage(amended, number):
    overlays(amended)[number].unlink()
    with pytest.raises(CorruptStoreError, match=rf"00{number}.json is missing"):
        open_store(amended)
    assert not verify(amended).ok


def test_an_overlay_of_another_store_is_damage(amended, tmp_path):
    write_store(tmp_path / "t", plan(0, 4))
    for label in "pqr":
        say(tmp_path / "t", ("v0001", {"labels": {"label": label}}))
    for suffix in (".json", ".parquet"):
        theirs = overlays(tmp_path / "t", suffix)[1]
        (amended / "overlays" / theirs.name).write_bytes(theirs.read_bytes())
    with pytest.raises(CorruptStoreError, match="does not follow the overlay before it"):
        open_store(amended)
    assert not verify(amended).ok


def test_an_overlay_about_a_generation_that_is_lost_is_damage(path):
    grow(path, plan(4, 1))
    say(path, ("v0000", {"labels": {"label": "x"}}))
    shutil.rmtree(path / "g001")
    (path / "plans" / "001.json").unlink()
    with pytest.raises(CorruptStoreError, match="is about 2 generations, and 1 are there"):
        open_store(path)
    assert not verify(path).ok


def test_two_videos_of_one_name_are_damage(path):
    record = replace(open_store(path).videos["v0000"], id="v0001")
    publish_overlay(open_files(path), [Amendment(video="v0000", record=record)], num_generations=1)
    with pytest.raises(CorruptStoreError, match="gives 'v0000' the id of another video, 'v0001'"):
        list(open_store(path).videos)
    assert not verify(path).ok


def test_a_killed_writer_leaves_a_table_that_gc_takes_away(amended):
    kept = overlays(amended, ".parquet")
    left = amended / "overlays" / "003-0123456789abcdef.parquet"
    left.write_bytes(b"torn")
    assert any("003-0123456789abcdef" in note for note in verify(amended).notes)
    assert open_store(amended).labels()["v0000"] == "z"
    assert "overlays/003-0123456789abcdef.parquet" in gc(amended).removed
    assert overlays(amended, ".parquet") == kept
    assert verify(amended).ok


def test_two_writers_never_share_a_number(amended, monkeypatch):
    """The one that comes second finds the name taken, and takes the next."""
    plain, done = publish.put_new, []

    def put_new(path, data):
        if path.name == "003.json" and not done:
            done.append(path)
            say(amended, ("v0001", {"labels": {"label": "first"}}))
        return plain(path, data)

    store = open_store(amended)
    with StoreWriter.open(amended, sampling=store.sampling) as writer:
        record = replace(store.videos["v0002"], labels={"label": "second"})
        monkeypatch.setattr(publish, "put_new", put_new)
        monkeypatch.setattr(StoreWriter, "planning_lock", lambda self: nullcontext())  # as on a disk without locks
        writer.add_overlay([Amendment(video="v0002", record=record)])
    assert open_store(amended).labels() == {"v0000": "z", "v0001": "first", "v0002": "second", "v0003": "b"}
    assert [json.loads(path.read_bytes())["number"] for path in overlays(amended)] == [0, 1, 2, 3, 4]
    assert verify(amended).ok


def test_an_id_that_another_writer_has_given_meanwhile_is_not_given_twice(amended, monkeypatch):
    """On a disk without locks: the store would be unreadable."""
    plain, done = publish.put_new, []

    def put_new(path, data):
        if path.parent.name == "overlays" and path.suffix == ".json" and not done:
            done.append(path)
            say(amended, ("v0001", {"id": "new"}))
        return plain(path, data)

    store = open_store(amended)
    with StoreWriter.open(amended, sampling=store.sampling) as writer:
        record = replace(store.videos["v0002"], id="new")
        monkeypatch.setattr(publish, "put_new", put_new)
        monkeypatch.setattr(StoreWriter, "planning_lock", lambda self: nullcontext())
        with pytest.raises(StoreError, match=r"has renamed videos of .* meanwhile; run the same command again"):
            writer.add_overlay([Amendment(video="v0002", record=record)])
    assert set(open_store(amended).videos) >= {"new", "v0002"}


def test_links_are_refused(amended, tmp_path):
    victim = overlays(amended)[1]
    victim.rename(tmp_path / "elsewhere.json")
    victim.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(CorruptStoreError, match="symbolic link"):
        open_store(amended)


def test_rows_align_after_all_that(path):
    say(path, ("v0000", {"id": "z"}))
    with open_store(path).feature("a") as features:
        rows = features.rows
        assert [features.video_ids[video] for video in rows.video.tolist()] == ["z"] * 2 + ["v0001"] * 2 + [
            "v0002"
        ] * 2 + ["v0003"] * 2
        assert np.array_equal(rows.clip, [0, 1] * 4)
