"""Arrays that others made: what becomes a row, a failed video, or a sentence."""

import json

import numpy as np
import pytest

from featcache.errors import (
    ConfigError,
    ExchangeError,
    ManifestError,
    NonFiniteFeatureError,
    RecipeMismatchError,
    StoreError,
)
from featcache.exchange.settings import TimingSettings
from featcache.extract.encoder import encoder
from featcache.extract.settings import SamplingSettings
from featcache.store.reader import open_store
from featcache.store.verify import verify
from tests.exchange.stores import bring, make_store, receive, send


def save(folder, name, values, **facts):
    path = folder / f"{name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.asarray(values), allow_pickle=False)
    if facts:
        path.with_suffix(".json").write_text(json.dumps(facts))
    return path


def rows(n, c=3, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal((n, c)).astype(dtype)


def test_a_folder_of_arrays(tmp_path):
    """Rows per video differ, the label is the folder, nothing is known of times and weights, and the store says so."""
    source = tmp_path / "in"
    first, second = rows(5, dtype=np.float16), rows(2, dtype=np.float16, seed=1)
    save(source, "run/a.b", first)
    save(source, "walk/ü 1", second)
    got = bring(source, tmp_path / "s")
    assert (got.videos_ok, got.videos_failed, got.rows_total, got.dtype) == (2, 0, 7, "float16")
    assert {"weights_hash", "layer", "input_size"} <= set(got.unknown)
    store = open_store(tmp_path / "s")
    assert store.labels() == {"run/a.b": "run", "walk/ü 1": "walk"}
    assert store.videos["run/a.b"].path == "run/a.b.npy"
    with store.feature() as features:
        assert features.video("run/a.b").tobytes() == first.tobytes()
        assert features.video("walk/ü 1").tobytes() == second.tobytes()
        assert features.recipe.weights_hash == "unknown"
        assert features.recipe.output == "mean"
        assert np.isnan(features.rows.t0).all()
        assert np.isnan(features.rows.pts_seconds).all()
        assert (features.rows.frames == -1).all()
        assert (features.rows.x1 == -1).all()
        assert features.rows.clip.tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert store.sampling.is_imported
    assert store.info()["features"][got.feature]["weights_hash"] == "unknown"
    assert verify(tmp_path / "s").ok


def test_nothing_can_be_encoded_or_extracted_for_it(tmp_path):
    save(tmp_path / "in", "a", rows(2))
    got = bring(tmp_path / "in", tmp_path / "s", feature={"backbone": "i3d", "weights_hash": "declared:rgb"})
    with pytest.raises(StoreError, match=rf"'{got.feature}' .* was imported"):
        encoder(tmp_path / "s")
    stored = open_store(tmp_path / "s").sampling
    with pytest.raises(ConfigError, match="'imported'"):
        SamplingSettings().resolve(num_frames=1, frame_stride=1, crop_fraction=1, stored=stored)


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 4), (3, 2, 2, 4), (3, 2, 2, 2, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_order_and_byte_order_do_not_matter(tmp_path, shape, order):
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    save(tmp_path / "in", "a", np.asarray(values.astype(">f4"), order=order))
    got = bring(tmp_path / "in", tmp_path / "s", shard_rows=2)
    with open_store(tmp_path / "s").feature() as features:
        assert features[:].tobytes() == values.tobytes()
        axes = {2: ("c",), 3: ("n", "c"), 4: ("h", "w", "c"), 5: ("t", "h", "w", "c")}[len(shape)]
        assert features.record.axes == axes
    assert got.dtype == "float32"


def test_a_vector_is_one_row(tmp_path):
    save(tmp_path / "in", "a", rows(1)[0])
    assert bring(tmp_path / "in", tmp_path / "s").rows_total == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (rows(2, dtype=np.float64), r"bad\.npy holds float64.*--precision float32"),
        (np.zeros((2, 3), np.int64), r"bad\.npy holds int64"),
        (np.array([["a"]]), r"bad\.npy holds <U1"),
        (np.full((2, 3), np.nan, np.float32), r"bad\.npy has 6 NaN or infinite"),
        (np.full((2, 3), np.inf, np.float16), r"bad\.npy has 6 NaN or infinite"),
    ],
)
def test_arrays_that_do_not_fit_stop_the_import_by_name(tmp_path, values, message):
    save(tmp_path / "in", "bad", values)
    with pytest.raises((ExchangeError, NonFiniteFeatureError), match=message):
        bring(tmp_path / "in", tmp_path / "s")


@pytest.mark.parametrize("other", [rows(2, 4), rows(2, dtype=np.float16), rows(2)[:, :, None]])
def test_arrays_of_two_kinds_stop_the_import(tmp_path, other):
    save(tmp_path / "in", "a", rows(2))
    save(tmp_path / "in", "b", other)
    with pytest.raises(ExchangeError, match=r"b\.npy has rows of .*a\.npy of float32\[3\]"):
        bring(tmp_path / "in", tmp_path / "s")


def test_conversion_only_when_asked_and_never_over_the_edge(tmp_path):
    values = rows(2, dtype=np.float64)
    save(tmp_path / "in", "a", values)
    bring(tmp_path / "in", tmp_path / "s", feature={"backbone": "x", "precision": "float32"})
    with open_store(tmp_path / "s").feature() as features:
        assert features[:].tobytes() == values.astype(np.float32).tobytes()
    save(tmp_path / "in", "a", np.full((1, 3), 65520.0, np.float32))
    with pytest.raises(NonFiniteFeatureError, match=r"a\.npy reaches 65520, beyond float16's 65504"):
        bring(tmp_path / "in", tmp_path / "t", feature={"backbone": "x", "precision": "float16"})


def test_unreadable_files_are_failed_videos(tmp_path):
    """Damage is ledgered with its reason; the neighbours are imported."""
    source = tmp_path / "in"
    save(source, "good", rows(3))
    save(source, "empty rows", rows(0))
    whole = save(source, "short", rows(9)).read_bytes()
    (source / "short.npy").write_bytes(whole[:-1])
    (source / "empty.npy").write_bytes(b"")
    (source / "text.npy").write_bytes(b"not an array" * 9)
    (source / "head.npy").write_bytes(whole[:40])
    huge = whole.replace(b"(9, 3)", b"(%d, 3)" % 10**15)
    (source / "huge.npy").write_bytes(huge)
    (source / "later.npy").write_bytes(whole[:6] + b"\x09" + whole[7:])
    np.save(source / "scalar.npy", np.float32(1))
    got = bring(source, tmp_path / "s")
    assert (got.videos_ok, got.videos_failed) == (1, 8)
    reasons = {name: (status, reason) for name, status, reason in got.failures}
    assert reasons["empty rows"] == ("too_short", "its array has no rows")
    assert reasons["short"][0] == "undecodable"
    assert f"{len(whole) - 1} bytes, its header says {len(whole)}" in reasons["short"][1]
    assert "version 9" in reasons["later"][1]
    assert all(status == "undecodable" for name, (status, _) in reasons.items() if name != "empty rows")
    assert verify(tmp_path / "s").ok


def test_a_listing_decides(tmp_path):
    """Order, labels and splits are the listing's; what it names and is not there is missing."""
    source = tmp_path / "in"
    for name in ("a", "b", "left out"):
        save(source, f"folder/{name}", rows(2))
    listing = tmp_path / "list.csv"
    listing.write_text('id,label,label.verb,split,fps\nfolder/b,x,"run, fast",test,25\ngone,y,,train,\nfolder/a,,,,\n')
    got = bring(source, tmp_path / "s", listing=str(listing))
    store = open_store(tmp_path / "s")
    assert list(store.videos) == ["folder/b", "gone", "folder/a"]
    assert store.videos["folder/b"].labels == {"label": "x", "verb": "run, fast"}
    assert store.videos["folder/b"].fps == 25
    assert store.videos["folder/a"].labels == {}
    assert store.videos["gone"].status == "missing"
    assert (got.not_listed, got.videos_ok, got.videos_failed) == (1, 2, 1)


def test_how_a_listing_was_saved_does_not_matter(tmp_path):
    save(tmp_path / "in", "a", rows(2))
    save(tmp_path / "in", "b", rows(2), label=1.0)
    text = "id ;label;split\r\na; 1.0 ;train\r\nb;;test\r\n ;;\r\n"
    (tmp_path / "list.csv").write_bytes(text.encode("utf-8-sig"))
    bring(tmp_path / "in", tmp_path / "s", listing=str(tmp_path / "list.csv"))
    store = open_store(tmp_path / "s")
    assert store.labels() == {"a": "1", "b": "1"}
    assert [video.split for video in store.videos.values()] == ["train", "test"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name\na\n", "no column 'id'"),
        ("id\na\na\n", "line 3: id 'a' occurs twice"),
        ("id,label\na\n", "line 2: 1 cells for 2 columns"),
        ("id,fps\na,fast\n", "'fps' is 'fast'; expected a number"),
        ("id,status\na,great\n", "status is 'great'"),
        ("id\nz\n", "no array of .* is named in .*; its ids look like 'a'"),
    ],
)
def test_listings_that_cannot_be_used(tmp_path, text, message):
    save(tmp_path / "in", "a", rows(2))
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ExchangeError, match=message):
        bring(tmp_path / "in", tmp_path / "s", listing=str(tmp_path / "list.csv"))


def test_times_from_timing(tmp_path):
    """Row i begins at (offset + i * stride) / fps; a video's own facts go before the settings."""
    save(tmp_path / "in", "a", rows(3))
    save(tmp_path / "in", "b", rows(2), fps=10, stride_frames=5, offset_frames=1, label="own")
    timing = TimingSettings(fps=25, stride_frames=4, clip_frames=16)
    bring(tmp_path / "in", tmp_path / "s", timing=timing)
    store = open_store(tmp_path / "s")
    with store.feature() as features:
        assert np.array_equal(features.rows.t0, [0, 4 / 25, 8 / 25, 1 / 10, 6 / 10])
        assert np.array_equal(features.rows.t1, [16 / 25, 20 / 25, 24 / 25, 17 / 10, 22 / 10])
    assert store.labels() == {"b": "own"}


def test_a_frame_rate_alone_places_no_row(tmp_path):
    save(tmp_path / "in", "a", rows(1), fps=25)
    bring(tmp_path / "in", tmp_path / "s")
    with open_store(tmp_path / "s").feature() as features:
        assert np.isnan(features.rows.t0).all()


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"rows": {"t0": [0.0]}}, "'rows.t0' has 1 entries; expected a list of 2"),
        ({"rows": {"x0": [2**40, 0]}}, "beyond 32 bits"),
        ({"rows": {"flip": [0.5, 1]}}, "'rows.flip' cannot be read"),
        ({"rows": {"frames": [[1, 2], [3, 4]]}}, "'rows.frames' cannot be read"),
        ({"rows": [1]}, "'rows' is list"),
        ({"labels": ["x"]}, "'labels' is"),
        ({"fps": 1e999}, "'fps' is inf"),
    ],
)
def test_facts_of_the_wrong_shape_are_sentences(tmp_path, facts, message):
    save(tmp_path / "in", "a", rows(2), **facts)
    with pytest.raises(ExchangeError, match=message):
        bring(tmp_path / "in", tmp_path / "s")


def test_an_import_that_stopped_goes_on_where_it_was(tmp_path):
    """A bad value in the second shard: the first stays committed, and mending the file finishes the store."""
    source = tmp_path / "in"
    save(source, "a", rows(4))
    save(source, "b", np.full((4, 3), np.nan, np.float32))
    with pytest.raises(NonFiniteFeatureError, match=r"b\.npy"):
        bring(source, tmp_path / "s", shard_rows=4)
    save(source, "b", rows(4, seed=1))
    save(source, "c", rows(2, seed=2))
    got = bring(source, tmp_path / "s", shard_rows=4)
    assert (got.rows_written, got.rows_total) == (6, 10)
    assert bring(source, tmp_path / "s", shard_rows=4).rows_written == 0
    with open_store(tmp_path / "s").feature() as features:
        assert features.video("c").tobytes() == rows(2, seed=2).tobytes()


def test_another_feature_of_the_same_videos(tmp_path):
    """It aligns row for row, lacks what its source lacks, and is refused where rows do not fit."""
    for name, count in (("a", 4), ("b", 2)):
        save(tmp_path / "one", name, rows(count))
    save(tmp_path / "two", "a", rows(4, 5))
    bring(tmp_path / "one", tmp_path / "s", feature={"backbone": "x", "name": "x"})
    got = bring(tmp_path / "two", tmp_path / "s", feature={"backbone": "y", "name": "y"})
    assert (got.videos_ok, got.failures[0][:2]) == (1, ("b", "missing"))
    with open_store(tmp_path / "s").feature("y") as features:
        assert features.video("a").tobytes() == rows(4, 5).tobytes()
    save(tmp_path / "two", "b", rows(3, 5))
    with pytest.raises(ExchangeError, match=r"b\.npy has 3 rows, and .* has 2 of video 'b'"):
        bring(tmp_path / "two", tmp_path / "s", feature={"backbone": "z", "name": "z"})
    with pytest.raises(RecipeMismatchError, match="backbone"):
        bring(tmp_path / "one", tmp_path / "s", feature={"backbone": "other", "name": "x"})


def test_a_recipe_that_fixes_the_rows_is_not_believed_against_the_arrays(tmp_path):
    save(tmp_path / "in", "a", rows(4))
    save(tmp_path / "in", "b", rows(3))
    sampling = {"temporal": "uniform", "spatial": "center", "num_clips": 4}
    with pytest.raises(ExchangeError, match=r"b\.npy has 3 rows, and sampling 'uniform' gives a video 4"):
        bring(tmp_path / "in", tmp_path / "s", sampling=sampling)


def test_sources_without_arrays(tmp_path):
    (tmp_path / "in").mkdir()
    for source, message in (("in", "holds no .npy file"), ("gone", "is not a folder")):
        with pytest.raises(ExchangeError, match=message):
            bring(tmp_path / source, tmp_path / "s")
    save(tmp_path / "in", "a", rows(0))
    with pytest.raises(ExchangeError, match="no array of the source has rows"):
        bring(tmp_path / "in", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_two_videos_of_one_id_are_refused(tmp_path):
    save(tmp_path / "in", "a", rows(2), id="same")
    save(tmp_path / "in", "b", rows(2), id="same")
    with pytest.raises(ManifestError, match=r"b\.npy: video id 'same' is that of .*a\.npy too"):
        bring(tmp_path / "in", tmp_path / "s")


def test_stores_of_hdf5_files_come_back_too(tmp_path):
    mine = make_store(tmp_path / "mine")
    send(mine, tmp_path / "out", "npy")
    receive(tmp_path / "out", tmp_path / "theirs", "npy", file_format="hdf5")
    assert open_store(tmp_path / "theirs").feature()[:].tobytes() == open_store(mine).feature()[:].tobytes()
