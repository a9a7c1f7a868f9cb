"""``diff`` finds what differs, wherever rows lie, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from featcache.errors import CorruptStoreError, StoreError, UnknownNameError
from featcache.store import comparing
from featcache.store.comparing import diff
from featcache.store.copying import convert, merge
from featcache.store.plan import plan_segments
from featcache.store.reader import open_store
from featcache.store.settings import ConvertSettings, DiffSettings, MergeSettings
from featcache.store.writer import StoreWriter
from featcache.testing.faults import flipped_bit
from featcache.testing.stores import make_recipe, make_record
from tests.store.histories import FLOATS, MIXED, SAMPLING, extend, say, video


def between(one, other, **options):
    return diff(DiffSettings(store=str(one), other_store=str(other), **options))


@pytest.fixture
def pair(tmp_path):
    for name in "ab":
        extend(tmp_path / name, [video(number) for number in range(5)], records=MIXED)
    return tmp_path / "a", tmp_path / "b"


def test_copies_are_equal_whatever_their_format_and_generations(tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, "_CHUNK_BYTES", 64)  # several chunks
    path = tmp_path / "s"
    extend(path, [video(0), video(1), video(2)], records=MIXED, failing={("map", "v0001"): "timeout"})
    extend(path, [video(1), video(3, status="missing", reason="gone")], records=MIXED)
    say(path, ("v0000", {"id": "b"}), ("v0002", {"removed": True}))
    merge(MergeSettings(stores=(str(path),), out=str(tmp_path / "m")))
    convert(ConvertSettings(store=str(path), to="hdf5", out=str(tmp_path / "h")))
    for one, other in (("s", "m"), ("m", "s"), ("s", "h"), ("h", "m"), ("s", "s")):
        found = between(tmp_path / one, tmp_path / other)
        assert found.kinds == []
        assert found.summary().problem is None
        assert found.to_dict()["is_equal"]
        assert all(each.rows_compared == each.rows_equal > 0 for each in found.features), found.features


def test_videos_labels_and_splits(pair):
    say(pair[1], ("v0000", {"labels": {"label": "x", "verb": "run"}}), ("v0001", {"split": "val"}))
    say(pair[1], ("v0002", {"id": "other"}), ("v0003", {"removed": True}))
    found = between(*pair)
    assert found.videos_only == (("v0002", "v0003"), ("other",))
    assert {name: [(one.name, one.left, one.right) for one in others] for name, others in found.labels.items()} == {
        "label": [("v0000", "a", "x")],
        "verb": [("v0000", None, "run")],
    }
    assert [(one.name, one.left, one.right) for one in found.splits] == [("v0001", "train", "val")]
    assert found.kinds == ["videos", "splits", "labels"]
    assert str(found.summary().problem) == f"{pair[0]} and {pair[1]} differ in: videos, splits, labels"


def test_rows_are_measured_as_numpy_does(tmp_path):
    """Values depend on the generation, so that v0001 has others."""
    extend(tmp_path / "a", [video(0), video(1), video(2)], records=MIXED)
    extend(tmp_path / "b", [video(2)], records=MIXED)
    extend(tmp_path / "b", [video(1)], records=MIXED)
    extend(tmp_path / "b", [video(0)], records=MIXED)
    found = {one.name: one for one in between(tmp_path / "a", tmp_path / "b").features}
    for name, one in found.items():
        stores = [open_store(tmp_path / store).feature(name) for store in "ab"]
        ids = ("v0000", "v0001", "v0002")
        picked = [np.concatenate([store.rows_of(each) for each in ids]) for store in stores]
        values = [store.gather(chosen, dequantised=True) for store, chosen in zip(stores, picked, strict=True)]
        rows = [each.reshape(len(each), -1).astype(float) for each in values]
        cosines = (rows[0] * rows[1]).sum(1) / np.linalg.norm(rows[0], axis=1) / np.linalg.norm(rows[1], axis=1)
        assert one.rows_compared == len(rows[0])
        assert one.largest_difference == pytest.approx(np.abs(rows[0] - rows[1]).max())
        assert one.least_cosine == pytest.approx(cosines.min())
        assert one.mean_cosine == pytest.approx(cosines.mean())
        assert one.other_places == 0
        if name != "small":  # the scales of the other shard make v0002 another row
            assert set(one.videos_differing) == {"v0000", "v0001"}
            assert one.rows_equal == (rows[0] == rows[1]).all(1).sum()


def test_an_int8_row_with_another_scale_is_another_row(tmp_path):
    records = {"small": make_record((4,), "int8")}
    extend(tmp_path / "a", [video(0)], records=records, rows=(1,))
    extend(tmp_path / "b", [video(0), video(1)], records=records, rows=(1,))
    (one,) = between(tmp_path / "a", tmp_path / "b").features
    assert (one.rows_compared, one.rows_equal) == (1, 0)
    assert one.largest_difference < 0.05


def test_outcomes_row_counts_and_contents(tmp_path):
    extend(tmp_path / "a", [video(0), video(1), video(2)], rows=(2,))
    extend(tmp_path / "b", [replace(video(2), content_hash="sha256:x")], rows=(2,))
    extend(tmp_path / "b", [video(0)], failing={("map", "v0000"): "timeout"}, rows=(2,))
    extend(tmp_path / "b", [video(1)], rows=(3,))
    found = between(tmp_path / "a", tmp_path / "b")
    assert found.contents == ("v0002",)
    maps, pooled = found.features
    assert [(one.name, one.left, one.right) for one in maps.outcomes] == [("v0000", "ok", "timeout")]
    assert not pooled.outcomes
    assert [(one.name, one.left, one.right) for one in pooled.row_counts] == [("v0001", 2, 3)]
    assert (maps.rows_compared, pooled.rows_compared) == (0, 2)
    titles = [table.title for table in found.summary().tables]
    assert titles == ["videos", "1 videos with another outcome", "features"]


def test_recipes_field_by_field(tmp_path):
    extend(tmp_path / "a", [video(0)])
    other = {"pooled": make_record((5,), "float32"), "map": make_record((2, 2, 4), "float32"), "more": FLOATS["map"]}
    extend(tmp_path / "b", [video(0)], records=other, sampling=replace(SAMPLING, seed=1, num_clips=7))
    found = between(tmp_path / "a", tmp_path / "b")
    assert [(one.name, one.left, one.right) for one in found.sampling] == [("num_clips", 4, 7), ("seed", 0, 1)]
    assert found.features_only == ((), ("more",))
    maps, pooled = found.features
    assert [(one.name, one.left, one.right) for one in maps.recipe] == [("record.shape", (2, 2, 3), (2, 2, 4))]
    assert [(one.name, one.left, one.right) for one in pooled.recipe] == [("precision", "float16", "float32")]
    assert (maps.rows_compared, pooled.rows_equal) == (0, 0)
    assert 0 < pooled.largest_difference < 0.01
    assert pooled.least_cosine > 0.999
    assert between(tmp_path / "a", tmp_path / "b", features=("pooled",)).features == (pooled,)
    with pytest.raises(UnknownNameError, match=r"unknown feature of .*a 'more'"):
        between(tmp_path / "a", tmp_path / "b", features=("more",))


def test_weights_that_are_others_are_named(tmp_path):
    for name, weights in (("a", "sha256:0"), ("b", "sha256:1")):
        with StoreWriter.open(tmp_path / name, sampling=SAMPLING) as writer:
            writer.declare_feature("map", make_recipe(precision="float32", weights_hash=weights), FLOATS["map"])
    found = between(tmp_path / "a", tmp_path / "b")
    assert [(one.name, one.left, one.right) for one in found.features[0].recipe] == [
        ("weights_hash", "sha256:0", "sha256:1")
    ]
    assert found.kinds == ["feature 'map'"]


def test_a_store_that_grows_is_compared_as_far_as_it_is(pair):
    with StoreWriter.open(pair[1], sampling=SAMPLING) as writer:
        segments, shards = plan_segments([2], shard_rows=8)
        writer.add_generation([video(7)], segments, shards, shard_rows=8, encode_batch=4, threads=1)
        found = between(*pair)
    assert found.videos_only == ((), ("v0007",))
    assert all(one.is_equal for one in found.features)


def test_damage_and_what_is_no_store(pair, tmp_path):
    with pytest.raises(StoreError, match="is not a featcache store"):
        between(pair[0], tmp_path)
    with open_store(pair[1]).feature("map") as features:
        where, first = pair[1] / features._index.files[0].name, 8 * int(features._index.offset[0])
    with flipped_bit(where, first), pytest.raises(CorruptStoreError, match="g000/map/c/0"):
        between(*pair)
