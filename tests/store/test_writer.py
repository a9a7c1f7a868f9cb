"""Creating, opening and extending stores: what is refused, and in which words."""

import logging
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

from featcache.data.types import VideoOutcome
from featcache.errors import (
    ConfigError,
    ManifestError,
    NonFiniteFeatureError,
    RecipeMismatchError,
    StoreError,
    UnknownNameError,
)
from featcache.files import publish
from featcache.files.local import LocalFiles
from featcache.files.sealed import read_sealed, seal
from featcache.recipes import SamplingRecipe
from featcache.store import zarr_format
from featcache.store.plan import Segment
from featcache.store.reader import open_store
from featcache.store.writer import StoreWriter
from featcache.testing.stores import (
    PROVENANCE,
    StorePlan,
    add_generation,
    commit,
    make_recipe,
    make_record,
    make_videos,
    row_details,
    write_store,
)

RECORDS = {"a": make_record((4,))}
SAMPLING = SamplingRecipe()


def open_writer(path, **options):
    return StoreWriter.open(path, **{"sampling": SAMPLING, **options})


def test_another_sampling_recipe_is_refused_by_field(tmp_path):
    open_writer(tmp_path / "s").close()
    with pytest.raises(RecipeMismatchError, match=r"num_clips \(4 against 5\)"):
        open_writer(tmp_path / "s", sampling=replace(SAMPLING, num_clips=5))
    with pytest.raises(RecipeMismatchError, match="holds zarr files, not hdf5"):
        open_writer(tmp_path / "s", file_format="hdf5")


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"not a featcache store and not empty \(it holds 'notes.txt'\)"):
        open_writer(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]
    with pytest.raises(StoreError, match="is a file"):
        open_writer(tmp_path / "notes.txt")


def test_a_creation_that_was_killed_is_no_obstacle(tmp_path):
    (tmp_path / ".featcache.json.0011223344556677.tmp").write_bytes(b"half")
    (tmp_path / "zarr.json").write_bytes(zarr_format.group_metadata())
    with pytest.raises(StoreError, match="not empty"):
        open_writer(tmp_path, file_format="hdf5")
    open_writer(tmp_path).close()
    assert (tmp_path / ".featcache.json.0011223344556677.tmp").exists()


def test_a_newer_format_is_refused(tmp_path):
    open_writer(tmp_path / "s").close()
    path = tmp_path / "s" / "featcache.json"
    document = read_sealed(path, what="description")
    document.pop("checksum")
    path.write_bytes(seal({**document, "version": 4}))
    with pytest.raises(StoreError, match="version 4, this build reads <= 3"):
        open_writer(tmp_path / "s")


def test_another_feature_recipe_is_refused_by_field(tmp_path):
    with open_writer(tmp_path / "s") as writer:
        writer.declare_feature("a", make_recipe(), RECORDS["a"])
        writer.declare_feature("a", make_recipe(), RECORDS["a"])
        with pytest.raises(RecipeMismatchError, match=r"input_size \(224 against 256\)"):
            writer.declare_feature("a", make_recipe(input_size=256), RECORDS["a"])
        with pytest.raises(RecipeMismatchError, match="record"):
            writer.declare_feature("a", make_recipe(), make_record((5,)))
        assert writer.features() == {"a": (make_recipe(), RECORDS["a"])}


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "../a", "a\\b", ".hidden", "commits", "rows", "a.scale", "é", "a b", "a\n", "x" * 101],
)
def test_feature_names_that_are_no_plain_folder_are_refused(tmp_path, name):
    with open_writer(tmp_path / "s") as writer, pytest.raises(ConfigError, match="feature name"):
        writer.declare_feature(name, make_recipe(), RECORDS["a"])


def test_plans_that_do_not_fit_their_videos_are_refused(tmp_path):
    videos = make_videos(2, unusable={1: "missing"})
    options = {"shard_rows": 4, "encode_batch": 1, "threads": 1}
    with open_writer(tmp_path / "s") as writer:
        with pytest.raises(AssertionError, match="exactly the videos with status ok"):
            writer.add_generation(videos, [Segment(1, 0, 0, 0, 2)], 1, **options)
        with pytest.raises(AssertionError, match="every shard has rows"):
            writer.add_generation(videos, [Segment(0, 1, 0, 0, 2)], 2, **options)
        with pytest.raises(ManifestError, match="occurs twice"):
            writer.add_generation([videos[0], videos[0]], [], 0, **options)
        assert writer.generations() == []


def test_a_generation_without_usable_videos(tmp_path):
    plan = StorePlan(records=RECORDS, num_videos=2, unusable={0: "missing", 1: "undecodable"})
    with open_writer(tmp_path / "s") as writer:
        generation = add_generation(writer, plan)
        assert (generation.num_shards, generation.segments) == (0, ())
        writer.declare_feature("a", make_recipe(), RECORDS["a"])
        assert writer.committed(generation, "a") == set()


def test_writers_that_add_generations_at_once_get_different_numbers(tmp_path, monkeypatch):
    """Without the planning lock: the second finds the number taken and takes the next."""
    with open_writer(tmp_path / "s") as first, open_writer(tmp_path / "s") as second:
        real = publish.put_new
        raced = []

        def put_new(path, data):
            if path.name == "plan.json" and not raced:
                raced.append(True)
                add_generation(second, StorePlan(records=RECORDS, num_videos=3))
            return real(path, data)

        monkeypatch.setattr(publish, "put_new", put_new)
        mine = add_generation(first, StorePlan(records=RECORDS, num_videos=2, first_video=3))
        assert mine.number == 1
        assert [len(generation.videos) for generation in first.generations()] == [3, 2]


def test_a_planner_that_is_killed_before_its_note_leaves_no_gap(tmp_path):
    """Another writer had opened the store before, and plans the next generation."""
    with open_writer(tmp_path / "s") as first, open_writer(tmp_path / "s") as second:
        killed = mock.patch.object(StoreWriter, "_note_planned", side_effect=KeyboardInterrupt)
        with killed, pytest.raises(KeyboardInterrupt):
            add_generation(first, StorePlan(records=RECORDS, num_videos=2))
        add_generation(second, StorePlan(records=RECORDS, num_videos=2, first_video=2))
    assert len(open_store(tmp_path / "s").generations) == 2


def test_claims_exclude_each_other(tmp_path):
    with open_writer(tmp_path / "s") as first, open_writer(tmp_path / "s") as second:
        generation = add_generation(first, StorePlan(records=RECORDS))
        with first.shard_lock(generation, 0) as mine, second.shard_lock(generation, 0) as theirs:
            assert (mine, theirs) == (True, False)
            with second.shard_lock(generation, 1) as other:
                assert other
        with second.shard_lock(generation, 0) as free:
            assert free


def test_an_unknown_feature_is_told_with_a_guess(tmp_path):
    with open_writer(tmp_path / "s") as writer:
        writer.declare_feature("pooled", make_recipe(), RECORDS["a"])
        generation = add_generation(writer, StorePlan(records=RECORDS))
        with pytest.raises(UnknownNameError, match="did you mean 'pooled'"):
            writer.committed(generation, "poled")


@pytest.fixture
def one_shard(tmp_path):
    """A writer, a generation of one shard of two videos of four rows, and what commits it."""
    with open_writer(tmp_path / "s") as writer:
        generation = add_generation(writer, StorePlan(records=RECORDS, num_videos=2))
        writer.declare_feature("a", make_recipe(), RECORDS["a"])
        rows = row_details(generation.segments)
        outcomes = [_ok(generation, segment) for segment in generation.segments]
        yield (
            writer,
            generation,
            {
                "features": {"a": np.ones((8, 4), np.float16)},
                "present": np.ones(8, bool),
                "rows": rows,
                "outcomes": outcomes,
                "provenance": PROVENANCE,
            },
        )


def _ok(generation, segment):
    return VideoOutcome(
        id=generation.videos[segment.video].id,
        status="ok",
        reason="",
        first_row=segment.first_row,
        num_rows=segment.num_rows,
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_never_committed(one_shard, value):
    writer, generation, arguments = one_shard
    arguments["features"]["a"][5, 2] = value
    with pytest.raises(NonFiniteFeatureError, match=r"feature 'a' cannot be stored: rows 0 to 7 hold NaN"):
        writer.commit_shard(generation, 0, **arguments)
    assert writer.committed(generation, "a") == set()


def test_broken_promises_of_the_caller_are_caught(one_shard):
    writer, generation, arguments = one_shard
    rows, outcomes = arguments["rows"], arguments["outcomes"]
    for change, message in [
        ({"outcomes": outcomes[:1]}, "outcomes"),
        ({"outcomes": outcomes[::-1]}, "outcomes"),
        ({"outcomes": [outcomes[0], replace(outcomes[1], status="timeout")]}, "present rows"),
        ({"present": np.arange(8) < 7}, "present rows"),
        ({"present": np.ones(7, bool)}, "present is"),
        ({"rows": rows.select(slice(0, 7))}, "row table and present rows"),
        ({"rows": replace(rows, video=rows.video[::-1])}, "other videos"),
        ({"rows": replace(rows, clip=rows.clip[::-1])}, "other clips"),
        ({"features": {"a": np.ones((8, 5), np.float16)}}, "is \\(8, 5\\)"),
        ({"features": {"a": np.ones((8, 4), np.float32)}}, "is float32, not float16"),
    ]:
        with pytest.raises(AssertionError, match=message):
            writer.commit_shard(generation, 0, **{**arguments, **change})
    assert writer.committed(generation, "a") == set()
    writer.commit_shard(generation, 0, **arguments)
    assert writer.committed(generation, "a") == {0}


def test_absent_rows_may_hold_anything(one_shard):
    writer, generation, arguments = one_shard
    outcomes = arguments["outcomes"]
    arguments["features"]["a"][4:] = np.nan
    writer.commit_shard(
        generation,
        0,
        **{
            **arguments,
            "outcomes": [outcomes[0], replace(outcomes[1], status="timeout", reason="slow")],
            "present": np.arange(8) < 4,
            "rows": arguments["rows"].select(slice(0, 4)),
        },
    )
    assert writer.committed(generation, "a") == {0}


def test_a_duplicate_with_other_bytes_is_logged_and_loses(one_shard, caplog):
    writer, generation, arguments = one_shard
    writer.commit_shard(generation, 0, **arguments)
    with caplog.at_level(logging.WARNING):
        writer.commit_shard(generation, 0, **arguments)
        assert caplog.messages == []
        writer.commit_shard(generation, 0, **{**arguments, "features": {"a": np.zeros((8, 4), np.float16)}})
    assert "shard 0 of 'a' is committed already with other bytes" in caplog.text


def test_records_whose_files_are_gone_or_damaged_are_not_committed(tmp_path):
    plan = StorePlan(records=RECORDS, num_videos=8)
    write_store(tmp_path / "s", plan)
    root = tmp_path / "s" / "g000"
    (root / "a" / "c" / "0" / "0").unlink()
    record = root / "commits" / "a" / "00001.json"
    record.write_bytes(record.read_bytes().replace(b'"shard":1', b'"shard":2'))
    next((root / "rows").glob("00002-*")).write_bytes(b"")
    with open_writer(tmp_path / "s") as writer:
        generation = writer.generations()[0]
        assert writer.committed(generation, "a") == {3}
        for shard in (0, 1, 2):
            commit(writer, generation, shard, plan)
        assert writer.committed(generation, "a") == {0, 1, 2, 3}


def test_a_writer_leaves_the_temporary_files_of_others_alone(tmp_path):
    """A start-up sweep removes what a live sibling is about to link."""
    plan = StorePlan(records=RECORDS, num_videos=4)
    write_store(tmp_path / "s", plan)
    siblings = [
        folder / f".sibling.0123456789abcdef{publish.TEMP_SUFFIX}"
        for folder in (
            tmp_path / "s",
            tmp_path / "s/g000/a/c/0",
            tmp_path / "s/g000/commits/a",
            tmp_path / "s/g000/rows",
        )
    ]
    for sibling in siblings:
        sibling.write_bytes(b"half")
    write_store(tmp_path / "s", plan, StorePlan(records=RECORDS, num_videos=4, first_video=4))
    assert all(sibling.read_bytes() == b"half" for sibling in siblings)


def test_a_store_that_another_process_creates_meanwhile_is_no_foreign_folder(tmp_path, monkeypatch):
    real, raced = LocalFiles.names, []

    def names(files, folder):
        if not raced:
            raced.append(True)
            open_writer(tmp_path / "s").close()
        return real(files, folder)

    monkeypatch.setattr(LocalFiles, "names", names)
    open_writer(tmp_path / "s").close()
    assert raced
