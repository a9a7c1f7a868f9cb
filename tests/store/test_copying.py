"""Copies: what stores hold is in the new store, bit for bit, whatever their history; refusals change nothing."""

import shutil
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.errors import (
    ConfigError,
    CorruptStoreError,
    DiskSpaceError,
    ManifestError,
    RecipeMismatchError,
    StoreError,
    UnknownNameError,
)
from featcache.extract.lacking import videos_to_add, worth_another_try
from featcache.files.local import LocalFiles
from featcache.store import copying
from featcache.store.copying import convert, merge, plan_merge
from featcache.store.gc import gc
from featcache.store.reader import open_store
from featcache.store.settings import ConvertSettings, MergeSettings
from featcache.store.verify import verify
from featcache.store.writer import StoreWriter
from featcache.testing.faults import flipped_bit, snapshot
from featcache.testing.stores import make_recipe, make_record
from tests.store.histories import FLOATS, MIXED, SAMPLING, add_feature, assert_same, extend, say, video


def merging(out, *stores, **options) -> MergeSettings:
    return MergeSettings(stores=tuple(map(str, stores)), out=str(out), **options)


@pytest.fixture
def grown(tmp_path):
    """Four videos, two more of which one fails, its second try, and a name that is other now."""
    path = tmp_path / "grown"
    extend(path, [video(number) for number in range(4)], failing={("map", "v0002"): "undecodable"})
    extend(path, [video(4), video(5, status="missing", reason="gone")], failing={("pooled", "v0004"): "timeout"})
    extend(path, [video(4)])
    say(path, ("v0001", {"id": "moved/a.mp4", "path": "moved/a.mp4", "labels": {"label": "new"}}))
    return path


# One store


def test_generations_become_one(grown, tmp_path):
    result = merge(merging(tmp_path / "m", grown))
    assert_same(grown, tmp_path / "m")
    assert verify(tmp_path / "m").ok
    assert (result.plan.generations_before, result.plan.generations) == (3, 1)
    assert (result.plan.videos, result.plan.removed) == (6, 0)
    assert result.rows_written == 2 * result.plan.rows
    with open_store(grown).feature("pooled") as before, open_store(tmp_path / "m").feature("pooled") as after:
        assert before.video_ids == after.video_ids
        assert np.array_equal(before[:], after[:])
    assert not gc(tmp_path / "m").num_bytes


HISTORY = st.lists(
    st.tuples(
        st.sampled_from(
            ["grow", "grow", "fail", "retry", "replace", "rename", "swap", "relabel", "remove", "restore", "feature"]
        ),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    max_size=9,
)


def play(path, steps, *, records, file_format) -> None:
    """Carry out a random history; what does not apply is left out."""
    extend(path, [video(0), video(1)], records=records, file_format=file_format)
    number, known = 2, dict(records)
    for what, one, two in steps:
        store = open_store(path)
        videos = list(store.videos.values())
        first, second = (videos[index % len(videos)] if videos else None for index in (one, two))
        failing = {(name, f"v{number:04d}"): ("timeout", "undecodable")[two % 2] for name in list(known)[: 1 + one % 2]}
        failed = {failure.id for name in known for failure in store.coverage(name).failures}
        if what == "grow":
            status = ("ok", "missing")[one == 9]
            new = video(number, status=status, reason="" if status == "ok" else "gone")
            extend(path, [new, video(number + 1)], records=known, encode_batch=(4, 8)[two == 9])
            number += 2
        elif what == "fail":
            extend(path, [video(number), video(number + 1)], records=known, failing=failing)
            number += 2
        elif what == "restore" and store.removed_videos:
            say(path, (next(iter(store.removed_videos)), {"removed": False}))
        elif what == "feature" and "late" not in known:
            known["late"] = make_record((3,))
            planned = [name for generation in store.generations for name in generation.video_ids]
            add_feature(path, "late", known["late"], failing={("late", planned[one % len(planned)]): "timeout"})
        elif first is None or second is None:
            continue
        elif what == "retry" and failed:
            again = [replace(store.videos[name], status="ok", reason="") for name in sorted(failed)]
            lasting = {("pooled", again[0].id): "timeout"} if one % 2 else {}
            extend(path, again, records=known, failing=lasting, encode_batch=(4, 8)[two == 9])
        elif what == "replace":
            extend(path, [replace(first, content_hash=f"sha256:other{number}", status="ok", reason="")], records=known)
            number += 1
        elif what == "rename":
            say(path, (first.id, {"id": f"n{number}/{first.id}"}))
            number += 1
        elif what == "relabel":
            say(path, (first.id, {"labels": {"label": f"l{number}"}, "split": "val"}))
        elif what == "remove":
            say(path, (first.id, {"removed": True}))
        elif what == "swap" and first.id != second.id:
            say(path, (first.id, {"id": second.id}), (second.id, {"id": first.id}))


@settings(max_examples=3)
@given(HISTORY, st.sampled_from(["zarr", "hdf5"]), st.booleans())
def test_a_history_is_kept(tmp_path_factory, steps, file_format, is_mixed):
    check_history(tmp_path_factory, steps, file_format=file_format, is_mixed=is_mixed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=200)
@given(HISTORY, st.sampled_from(["zarr", "hdf5"]), st.booleans())
def test_any_history_is_kept(tmp_path_factory, steps, file_format, is_mixed):
    check_history(tmp_path_factory, steps, file_format=file_format, is_mixed=is_mixed)


def check_history(tmp_path_factory, steps, *, file_format, is_mixed):
    folder = tmp_path_factory.mktemp("history")
    play(folder / "s", steps, records=MIXED if is_mixed else FLOATS, file_format=file_format)
    result = merge(merging(folder / "m", folder / "s"))
    assert_same(folder / "s", folder / "m")
    report = verify(folder / "m")
    assert report.ok, report.problems
    assert result.plan.generations <= max(1, result.plan.generations_before)
    before = snapshot(folder / "m")
    assert merge(merging(folder / "m", folder / "s")).rows_written == 0
    assert snapshot(folder / "m") == before
    shutil.rmtree(folder)


def test_names_that_went_round_in_a_circle(tmp_path):
    """The ids under which videos were planned, and their ids now, are the same names for others."""
    path = tmp_path / "s"
    extend(path, [video(0), video(1)])
    say(path, ("v0000", {"id": "v0009"}))
    extend(path, [video(0, path="new"), video(2)])
    say(path, ("v0001", {"id": "x"}), ("v0009", {"id": "v0001"}), ("v0000", {"id": "v0009"}))
    extend(path, [video(0, path="newest")])
    say(path, ("v0002", {"removed": True}))
    extend(path, [video(3)], encode_batch=8)
    say(path, ("v0003", {"id": "v0002/b"}))
    merge(merging(tmp_path / "m", path))
    assert_same(path, tmp_path / "m")
    assert len(open_store(tmp_path / "m").generations) == 4  # v0000 was planned three times, v0003 in another way
    assert verify(tmp_path / "m").ok


def test_removed_videos_stay_out_and_may_come_back_without_rows(grown, tmp_path):
    say(grown, ("v0000", {"removed": True}))
    result = merge(merging(tmp_path / "m", grown))
    assert_same(grown, tmp_path / "m")
    assert result.plan.removed == 1
    say(tmp_path / "m", ("v0000", {"removed": False}))
    (failure,) = [one for one in open_store(tmp_path / "m").coverage("map").failures if one.id == "v0000"]
    assert (failure.status, failure.reason) == ("missing", "it was removed from the store, and its rows were left out "
        "when the store was copied")  # fmt: skip


def test_what_was_replaced_is_left_behind(tmp_path):
    path = tmp_path / "s"
    extend(path, [video(0), video(1)])
    extend(path, [replace(video(0), content_hash="sha256:other")])
    merge(merging(tmp_path / "m", path))
    assert_same(path, tmp_path / "m")
    (generation,) = open_store(tmp_path / "m").generations
    assert len(generation.videos) == 2


def test_tries_add_up(tmp_path):
    path = tmp_path / "s"
    for _ in range(3):
        extend(path, [video(0)], failing={("pooled", "v0000"): "timeout"})
    merge(merging(tmp_path / "m", path))
    assert open_store(tmp_path / "m").tries("pooled") == {"v0000": 3}
    merge(merging(tmp_path / "n", tmp_path / "m"))
    assert open_store(tmp_path / "n").tries("pooled") == {"v0000": 3}


def test_nothing_is_planned_anew(grown, tmp_path):
    """An extraction finds the same to do as in the store that was copied: a video that hung, and what is new."""
    extend(grown, [video(6)], failing={("map", "v0006"): "timeout"})
    say(grown, ("v0003", {"removed": True}))
    merge(merging(tmp_path / "m", grown))
    scanned = [*open_store(grown).videos.values(), video(3), video(9)]
    todo = []
    for path in (grown, tmp_path / "m"):
        store = open_store(path)
        retry = worth_another_try(store, {one.id: one for one in scanned}, names=["map", "pooled"])
        todo.append(videos_to_add(scanned, store.videos, removed=store.removed_videos, retry=retry))
    assert [one.id for one in todo[0]] == ["v0006", "v0009"]
    assert todo[0] == todo[1]


def test_features_that_were_filled_by_different_generations(tmp_path):
    """A video whose rows of one feature were computed under another name than those of the other."""
    path = tmp_path / "s"
    extend(path, [video(0), video(1)], failing={("pooled", "v0000"): "timeout"})
    say(path, ("v0000", {"id": "b"}))
    extend(path, [replace(video(0), id="b")], failing={("map", "b"): "timeout"})
    merge(merging(tmp_path / "m", path))
    assert_same(path, tmp_path / "m")
    assert open_store(tmp_path / "m").coverage("map").failed == 0


def test_some_features_alone(grown, tmp_path):
    merge(merging(tmp_path / "m", grown, features=("map",)))
    assert_same(grown, tmp_path / "m", features=["map"])
    with pytest.raises(UnknownNameError, match="did you mean 'map'"):
        plan_merge(merging(tmp_path / "n", grown, features=("mapp",)))


def test_both_views_of_a_video_are_copied(tmp_path):
    from featcache.recipes import PlainViews

    both = replace(
        SAMPLING,
        temporal="random",
        num_clips=2,
        spatial="random_resized",
        test=PlainViews(num_clips=1, num_crops=1, spatial="center"),
        both_views=True,
    )
    extend(tmp_path / "s", [video(number) for number in range(4)], rows=(3,), sampling=both)
    extend(tmp_path / "s", [video(4)], rows=(3,), sampling=both)
    merge(merging(tmp_path / "m", tmp_path / "s"))
    assert_same(tmp_path / "s", tmp_path / "m")
    for splits in (None, {f"v000{number}": "test" for number in range(5)}):
        one, two = (open_store(tmp_path / name).feature("map", splits=splits) for name in "sm")
        assert np.array_equal(one[:], two[:])
        assert np.array_equal(one.is_test, two.is_test)


# Conversion


@pytest.mark.parametrize("records", [FLOATS, MIXED], ids=["floats", "int8"])
@pytest.mark.parametrize(("before", "after"), [("zarr", "hdf5"), ("hdf5", "zarr")])
def test_the_other_format_holds_the_same(tmp_path, before, after, records):
    extend(tmp_path / "s", [video(number) for number in range(5)], records=records, file_format=before)
    extend(tmp_path / "s", [video(5)], records=records, failing={("map", "v0005"): "timeout"}, file_format=before)
    convert(ConvertSettings(store=str(tmp_path / "s"), to=after, out=str(tmp_path / "c")))
    assert_same(tmp_path / "s", tmp_path / "c")
    assert open_store(tmp_path / "c").file_format == after
    assert verify(tmp_path / "c").ok
    convert(ConvertSettings(store=str(tmp_path / "c"), to=before, out=str(tmp_path / "again")))
    assert_same(tmp_path / "s", tmp_path / "again")


def test_a_store_that_has_the_format_already_is_refused(grown, tmp_path):
    with pytest.raises(ConfigError, match="holds zarr files already; `featcache merge` copies it"):
        convert(ConvertSettings(store=str(grown), to="zarr", out=str(tmp_path / "c")))


# Several stores


def test_two_stores_become_one_and_duplicates_are_taken_once(tmp_path):
    extend(tmp_path / "a", [video(0), video(1), video(2)], failing={("map", "v0001"): "timeout"})
    extend(tmp_path / "b", [video(2), video(1), video(3)], file_format="hdf5", failing={("pooled", "v0003"): "timeout"})
    say(tmp_path / "b", ("v0003", {"id": "v0000/d"}))
    result = merge(merging(tmp_path / "m", tmp_path / "a", tmp_path / "b"))
    assert result.plan.videos == 4
    merged, a, b = (open_store(tmp_path / name) for name in "mab")
    assert merged.file_format == "zarr"
    assert merged.videos == {**b.videos, **a.videos}
    assert {one.id for one in merged.coverage("pooled").failures} == {"v0000/d"}
    assert not merged.coverage("map").failures
    assert verify(tmp_path / "m").ok
    origins = {"v0000": a, "v0001": b, "v0002": a, "v0000/d": b}
    for name, origin in origins.items():
        assert np.array_equal(merged.feature("map").video(name), origin.feature("map").video(name)), name


def test_names_that_two_stores_gave_to_other_videos(tmp_path):
    """What is v0001 now was planned as v0000 in one store, and the other way round in the other."""
    extend(tmp_path / "a", [video(0)])
    say(tmp_path / "a", ("v0000", {"id": "v0001"}))
    extend(tmp_path / "b", [video(1)])
    say(tmp_path / "b", ("v0001", {"id": "v0000"}))
    extend(tmp_path / "c", [replace(video(5), id="v0000/x")])
    say(tmp_path / "c", ("v0000/x", {"removed": True}))
    merge(merging(tmp_path / "m", *(tmp_path / name for name in "abc")))
    merged = open_store(tmp_path / "m")
    assert {one.id: one.content_hash for one in merged.videos.values()} == {"v0001": "sha256:0", "v0000": "sha256:1"}
    assert set(merged.removed_videos) == {"v0000/x"}
    assert verify(tmp_path / "m").ok


def test_a_video_that_one_store_removed_and_the_other_has_is_taken(tmp_path):
    for name in "ab":
        extend(tmp_path / name, [video(0), video(1)])
    say(tmp_path / "a", ("v0000", {"removed": True}))
    merge(merging(tmp_path / "m", tmp_path / "a", tmp_path / "b"))
    assert_same(tmp_path / "b", tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"content_hash": "sha256:x"}, ManifestError, "have the video 'v0001' with other contents"),
        ({"labels": {"label": "x"}}, ManifestError, "give the video 'v0001' other labels"),
        ({"split": "x"}, ManifestError, "give the video 'v0001' other split"),
    ],
)
def test_a_video_that_is_another_one_is_named(tmp_path, change, error, match):
    extend(tmp_path / "a", [video(0), video(1)])
    extend(tmp_path / "b", [video(3), replace(video(1), **change)])
    with pytest.raises(error, match=match):
        merge(merging(tmp_path / "m", tmp_path / "a", tmp_path / "b"))
    assert not (tmp_path / "m").exists()


def test_videos_of_unknown_files_are_compared_by_their_rows(tmp_path):
    unknown = replace(video(1), content_hash="")
    extend(tmp_path / "a", [unknown])
    extend(tmp_path / "b", [unknown])
    extend(tmp_path / "c", [video(0)])
    extend(tmp_path / "c", [unknown])  # the values are those of another generation
    merge(merging(tmp_path / "m", tmp_path / "a", tmp_path / "b"))
    assert_same(tmp_path / "a", tmp_path / "m")
    with pytest.raises(ManifestError, match="'v0001' with other rows of 'map', and do not know of which file"):
        merge(merging(tmp_path / "n", tmp_path / "a", tmp_path / "c"))


def test_other_recipes_are_named(tmp_path):
    extend(tmp_path / "a", [video(0)])
    extend(tmp_path / "sampled", [video(1)], sampling=replace(SAMPLING, seed=3))
    extend(tmp_path / "fewer", [video(1)], records={"map": FLOATS["map"]})
    extend(tmp_path / "shaped", [video(1)], records={**FLOATS, "map": make_record((2, 2, 4), "float32")})
    extend(tmp_path / "precise", [video(1)], records={**FLOATS, "pooled": make_record((5,), "float32")})
    with StoreWriter.open(tmp_path / "weights", sampling=SAMPLING) as writer:
        for name, record in FLOATS.items():
            recipe = make_recipe(precision=record.dtype, weights_hash="sha256:1")
            writer.declare_feature(name, recipe, record)
    for name, match in {
        "sampled": r"another sampling recipe than .*: seed \(0 against 3\)",
        "fewer": "has the feature 'pooled' and .*fewer does not; extract it there too, or name the common ones",
        "shaped": r"feature 'map' of .*shaped was made with another recipe than .*record \(RecordSpec",
        "precise": r"feature 'pooled' of .*precise .*precision \('float16' against 'float32'\)",
        "weights": r"feature 'map' of .*weights_hash \('sha256:0' against 'sha256:1'\)",
    }.items():
        with pytest.raises(RecipeMismatchError, match=match):
            merge(merging(tmp_path / "m", tmp_path / "a", tmp_path / name))
    assert not (tmp_path / "m").exists()
    merge(merging(tmp_path / "m", tmp_path / "a", tmp_path / "fewer", features=("map",)))
    assert set(open_store(tmp_path / "m").videos) == {"v0000", "v0001"}


# Places


def test_places_that_cannot_be(grown, tmp_path):
    for out in (grown, grown / "inside", grown.parent):
        with pytest.raises(ConfigError, match="lie in each other; choose another folder for --out"):
            merge(merging(out, grown))
    with pytest.raises(ConfigError, match="are the same store; name each once"):
        merge(merging(tmp_path / "m" / "x", grown, grown.parent / "." / grown.name))
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("x")
    with pytest.raises(StoreError, match=r"not empty \(it holds 'thesis.txt'\)"):
        merge(merging(full, grown))
    with pytest.raises(StoreError, match="is not a featcache store"):
        merge(merging(tmp_path / "m", full))
    assert [one.name for one in full.iterdir()] == ["thesis.txt"]


def test_another_store_at_the_place_is_not_touched(grown, tmp_path):
    extend(tmp_path / "other", [video(0)])
    before = snapshot(tmp_path / "other")
    with pytest.raises(StoreError, match=r"is a store already, and not a copy of what .*grown holds now"):
        merge(merging(tmp_path / "other", grown))
    assert snapshot(tmp_path / "other") == before


def test_a_store_that_still_grows_is_refused(grown, tmp_path):
    with StoreWriter.open(grown, sampling=SAMPLING) as writer:
        from featcache.store.plan import plan_segments

        segments, shards = plan_segments([2], shard_rows=8)
        writer.add_generation([video(7)], segments, shards, shard_rows=8, encode_batch=4, threads=1)
        with pytest.raises(StoreError, match=r"feature 'map' of .* still lacks 1 of 7 videos; run the command"):
            merge(merging(tmp_path / "m", grown))
    assert not (tmp_path / "m").exists()


def test_a_full_disk_is_foreseen(grown, tmp_path, monkeypatch):
    monkeypatch.setattr(copying, "room_for_store", lambda path: 10)
    with pytest.raises(DiskSpaceError, match=r"the copy needs [0-9.]+ k?B and 10 B are free"):
        merge(merging(tmp_path / "m", grown))
    assert not (tmp_path / "m").exists()


def test_a_dry_run_writes_nothing(grown, tmp_path):
    said = plan_merge(merging(tmp_path / "m", grown))
    assert not (tmp_path / "m").exists()
    made = merge(merging(tmp_path / "m", grown)).plan
    assert replace(made, free_bytes=0) == replace(said, free_bytes=0)


# Damage, and interruptions


def test_a_damaged_block_is_named_and_nothing_of_its_shard_is_published(grown, tmp_path):
    with open_store(grown).feature("map") as features:
        where, first = grown / features._index.files[0].name, 8 * int(features._index.offset[0])
    with flipped_bit(where, first), pytest.raises(CorruptStoreError, match=r"g000/map/c/0/0/0/0"):
        merge(merging(tmp_path / "m", grown))
    store = open_store(tmp_path / "m")
    assert store.coverage("map").pending
    with pytest.raises(StoreError, match="still lacks"):
        store.feature("map")
    assert verify(tmp_path / "m").ok
    merge(merging(tmp_path / "m", grown))
    assert_same(grown, tmp_path / "m")


class Killed(BaseException):
    """As if the process ended."""


def check_kills(tmp_path, monkeypatch, *, records, step) -> int:
    """Stop a copy before every ``step``-th publication in turn; the second run ends with the bytes of a whole one.

    Returns:
        Number of places at which it was stopped.
    """
    path = tmp_path / "s"
    extend(path, [video(0), video(1)], records=records)
    say(path, ("v0000", {"id": "b"}))
    extend(path, [video(0, path="new.mp4"), video(2)], records=records)
    merge(merging(tmp_path / "m", path))
    whole = {name: data for name, data in snapshot(tmp_path / "m").items() if not name.startswith("locks/")}
    plain = {name: getattr(LocalFiles, name) for name in ("put_new", "put_exact")}
    left = [0]  # publications before the one that does not come to pass

    def stopped(name):
        def put(self, *given):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return plain[name](self, *given)

        return put

    for name in plain:
        monkeypatch.setattr(LocalFiles, name, stopped(name))
    for number in count():
        shutil.rmtree(tmp_path / "m")
        left[0] = 1 + number * step
        try:
            merge(merging(tmp_path / "m", path))
        except Killed:
            merge(merging(tmp_path / "m", path))
        else:
            return number
        again = {name: data for name, data in snapshot(tmp_path / "m").items() if not name.startswith("locks/")}
        assert again == whole, number
    raise AssertionError


def test_a_killed_copy_goes_on(tmp_path, monkeypatch):
    assert check_kills(tmp_path, monkeypatch, records=FLOATS, step=7) > 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("records", [FLOATS, MIXED], ids=["floats", "int8"])
def test_a_copy_that_is_killed_anywhere_goes_on(tmp_path, monkeypatch, records):
    assert check_kills(tmp_path, monkeypatch, records=records, step=1) > 20


def test_a_copy_that_began_before_the_store_changed_is_refused(grown, tmp_path):
    merge(merging(tmp_path / "m", grown))
    extend(grown, [video(8)])
    before = snapshot(tmp_path / "m")
    with pytest.raises(StoreError, match="remove it if the copy began before the store changed"):
        merge(merging(tmp_path / "m", grown))
    assert snapshot(tmp_path / "m") == before
