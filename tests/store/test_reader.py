"""What an open store answers, and how it reads when maps, memory or files are short."""

import subprocess
import sys

import numpy as np
import pytest
import zarr

from featcache.errors import CorruptStoreError, FeatcacheError, RowError, StoreError, UnknownNameError
from featcache.recipes import PlainViews, SamplingRecipe
from featcache.store import completion, generation, maps
from featcache.store.reader import open_store
from featcache.store.writer import StoreWriter
from featcache.testing.stores import (
    DEVICES,
    StorePlan,
    add_generation,
    check_reads_back,
    expected_rows,
    fill,
    make_recipe,
    make_record,
    write_store,
)

RECORDS = {"pooled": make_record((6,)), "map": make_record((2, 2, 4), "float32")}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A store of two features, failures and two generations."""
    root = tmp_path_factory.mktemp("reader") / "store"
    write_store(
        root,
        StorePlan(
            records=RECORDS, num_videos=9, rows_per_video=(4, 2, 11), unusable={3: "missing"}, failing={5: "timeout"}
        ),
        StorePlan(records=RECORDS, num_videos=3, first_video=9),
    )
    return root


def test_labels_splits_and_videos(path):
    store = open_store(path)
    assert list(store.videos) == [f"v{n:04d}" for n in range(12)]
    assert store.splits == ("test", "train")
    assert store.label_names == ("label",)
    assert store.labels("label", split="test") == {"v0000": "a", "v0003": "b", "v0006": "a", "v0009": "b"}
    assert len(store.labels()) == 12
    assert store.sampling == SamplingRecipe()
    with pytest.raises(UnknownNameError, match="did you mean 'label'"):
        store.labels("labels")
    with pytest.raises(UnknownNameError, match="did you mean 'train'"):
        store.labels(split="trian")


def test_features_are_asked_for_by_name(path):
    store = open_store(path)
    assert set(store.features) == {"pooled", "map"}
    with pytest.raises(UnknownNameError, match=r"several features \(map, pooled\); name one"):
        store.feature()
    with pytest.raises(UnknownNameError, match="did you mean 'pooled'"):
        store.feature("poled")


def test_coverage_lists_every_failure(path):
    coverage = open_store(path).coverage("pooled")
    assert (coverage.ok, coverage.failed, coverage.pending, coverage.total) == (10, 2, 0, 12)
    assert coverage.by_status == {
        "ok": 10,
        "missing": 1,
        "undecodable": 0,
        "too_short": 0,
        "timeout": 1,
        "changed": 0,
        "unreadable": 0,
    }
    assert [(f.id, f.status, f.reason) for f in coverage.failures] == [
        ("v0003", "missing", "made so"),
        ("v0005", "timeout", "made to fail"),
    ]


def test_info_is_json(path):
    import json

    info = json.loads(json.dumps(open_store(path).info()))
    assert info["num_videos"] == 12
    assert info["features"]["pooled"]["coverage"]["failed"] == 2
    assert info["features"]["pooled"]["num_rows"] == open_store(path).feature("pooled").num_rows


def test_rows_of_all_features_align(path):
    store = open_store(path)
    pooled, dense = store.feature("pooled"), store.feature("map")
    assert pooled.video_ids == dense.video_ids
    for name in ("video", "clip", "frames", "pts_seconds", "t0", "t1", "y0", "x0", "y1", "x1", "flip"):
        np.testing.assert_array_equal(getattr(pooled.rows, name), getattr(dense.rows, name))


def test_the_ways_of_asking_for_rows_agree(path):
    features = open_store(path).feature("map")
    everything = features[:]
    assert everything.shape == features.shape == (len(features), 2, 2, 4)
    np.testing.assert_array_equal(features[3], everything[3])
    np.testing.assert_array_equal(features[-1], everything[-1])
    np.testing.assert_array_equal(features[np.array([[4, 4], [0, -2]])], everything[[[4, 4], [0, -2]]])
    np.testing.assert_array_equal(features[np.arange(len(features)) % 2 == 0], everything[::2])
    np.testing.assert_array_equal(features[5:2:-1], everything[5:2:-1])
    np.testing.assert_array_equal(features.clips([[0, 2, 4], [1, 3, 5]]), everything[[[0, 2, 4], [1, 3, 5]]])
    np.testing.assert_array_equal(features.gather([2, 1], dequantised=True), everything[[2, 1]])
    assert features.gather([]).shape == (0, 2, 2, 4)


def test_videos_by_id(path):
    features = open_store(path).feature("map")
    for number, video_id in enumerate(features.video_ids):
        rows = features.rows_of(video_id)
        assert (features.video_index[rows] == number).all()
        assert features.rows.clip[rows].tolist() == list(range(len(rows)))
        ids = [(video_id, clip) for clip in range(len(rows))]
        assert features.video(video_id).tobytes() == expected_rows("map", ids, features.record).tobytes()
    with pytest.raises(UnknownNameError):
        features.rows_of("v0003")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "rows",
    [
        3,
        -1,
        np.uint64(2),
        [-1, 0, -2],
        [],
        [[4, 4], [0, -2]],
        np.zeros((2, 0), int),
        np.arange(48) % 3 == 0,
        [True] * 48,
        np.arange(5, dtype=np.uint8),
    ],
    ids=str,
)
def test_rows_are_asked_for_by_the_rules_of_numpy(path, rows, device):
    features = open_store(path).feature("map", device=device)
    everything = features[:]
    assert len(features) == 48
    wanted = everything[rows if not isinstance(rows, list) or rows else np.zeros(0, int)]
    for got in (features.gather(rows), features[rows], features.gather(rows, dequantised=True)):
        assert got.shape == wanted.shape
        np.testing.assert_array_equal(got, wanted)
    out = np.empty_like(wanted)
    assert features.gather(rows, out=out) is out
    np.testing.assert_array_equal(out, wanted)


def test_one_row_of_a_loaded_feature_is_a_copy(path):
    features = open_store(path).feature("map", device="ram")
    before = features[3]
    features[3][...] = 7
    features.gather(3)[...] = 7
    np.testing.assert_array_equal(features[3], before)


@pytest.mark.parametrize("how", ["gather", "__getitem__", "clips"])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 10**6], r"row 1000000 is not in \[-48, 48\)"),
        (-49, r"row -49 is not in"),
        (np.uint64(2**64 - 1), r"is not in"),
        ([1.7], "row numbers are float64, not integers"),
        (1.0, "row numbers are float64"),
        ("1", "row numbers are <U1"),
        (None, "row numbers are object"),
        ([[1], [2, 3]], "row numbers are no array"),
        ([True, False], r"a mask \[2\] does not fit 48 rows"),
        (True, r"a mask \[\] does not fit"),
    ],
)
def test_what_is_no_row_is_an_error(path, rows, message, how):
    with pytest.raises(RowError, match=message) as caught:
        getattr(open_store(path).feature("map"), how)(rows)
    assert isinstance(caught.value, IndexError)
    assert isinstance(caught.value, FeatcacheError)


def test_further_axes_belong_to_what_comes_back(path):
    features = open_store(path).feature("map")
    with pytest.raises(RowError, match="is indexed by row alone"):
        features[1, 0]
    np.testing.assert_array_equal(features[...], features[:])


def test_reading_goes_on_after_close(path):
    features = open_store(path).feature("map")
    before = features[:]
    features.close()
    assert features.num_open_maps == 0
    np.testing.assert_array_equal(features[:], before)


def test_maps_far_apart_are_read_row_by_row(path, monkeypatch):
    """Where the span of the maps is too wide for one array."""
    before = open_store(path).feature("map")[:]
    monkeypatch.setattr(maps, "_MAX_ARRAY_BYTES", 0)
    features = open_store(path).feature("map")
    np.testing.assert_array_equal(features[:], before)
    out = np.empty_like(before)
    np.testing.assert_array_equal(features.gather(np.arange(len(before)), out=out), before)


def test_long_rows_go_straight_into_out(path, monkeypatch):
    monkeypatch.setattr(maps, "_LARGE_ROW_BYTES", 1)
    features = open_store(path).feature("map", max_open_maps=2)
    before = open_store(path).feature("map")[:]
    rows = np.random.default_rng(0).permutation(len(before))
    out = np.empty_like(before)
    np.testing.assert_array_equal(features.gather(rows, out=out), before[rows])


def test_a_folder_that_is_no_store(tmp_path):
    with pytest.raises(StoreError, match="is not a featcache store"):
        open_store(tmp_path)


def test_a_missing_plan_is_an_error(tmp_path):
    plans = [StorePlan(records=RECORDS, num_videos=2, first_video=first) for first in (0, 2)]
    write_store(tmp_path / "s", *plans)
    plan = tmp_path / "s" / "g001" / "plan.json"
    content = plan.read_bytes()
    plan.unlink()
    with pytest.raises(CorruptStoreError, match=r"plan\.json is missing"):
        open_store(tmp_path / "s")
    plan.write_bytes(content)
    (tmp_path / "s" / "g000" / "plan.json").unlink()
    with pytest.raises(CorruptStoreError, match=r"plan\.json is missing"):
        open_store(tmp_path / "s")


def test_a_store_without_data_opens(tmp_path):
    with StoreWriter.open(tmp_path / "s", sampling=SamplingRecipe()) as writer:
        store = open_store(tmp_path / "s")
        assert (store.features, store.videos, store.splits) == ({}, {}, ())
        plan = StorePlan(records=RECORDS, num_videos=3)
        generation = add_generation(writer, plan)
        assert open_store(tmp_path / "s").info()["num_videos"] == 3
        fill(writer, generation, plan)
    check_reads_back(tmp_path / "s", plan)


def test_any_zarr_client_reads_the_store(path):
    """Groups, arrays, values, absent rows as NaN; other files are no part of the hierarchy."""
    with pytest.warns(UserWarning, match="not recognized as a component of a Zarr hierarchy"):
        names = {name for name, _ in zarr.open_group(str(path), mode="r").members(max_depth=None)}
    assert names == {"g000", "g001", "g000/pooled", "g000/map", "g001/pooled", "g001/map"}
    store = open_store(path)
    for name in RECORDS:
        features = store.feature(name)
        first = features.rows_of("v0009")[0]
        theirs = zarr.open_array(str(path / "g000" / name), mode="r")
        assert theirs.shape[0] == store.generations[0].num_shards * 8
        present = ~np.isnan(theirs[:].reshape(theirs.shape[0], -1)).any(axis=1)
        assert theirs[:][present].tobytes() == features[:first].tobytes()
        theirs = zarr.open_array(str(path / "g001" / name), mode="r")
        assert theirs[:12].tobytes() == features[first:].tobytes()


READ_ALL = """
import resource, sys
import numpy as np
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from featcache.store.reader import open_store
features = open_store(sys.argv[1]).feature()
rows = np.random.default_rng(0).permutation(features.num_rows)
values = features.gather(rows)
assert features.num_open_maps <= 128
assert len(features.rows) == features.num_rows
np.save(sys.argv[2], values[np.argsort(rows)])
"""


def check_many_shards(tmp_path, *, num_shards, limit):
    record = make_record((3,))
    plan = StorePlan(records={"a": record}, num_videos=num_shards, rows_per_video=(2,), shard_rows=2)
    write_store(tmp_path / "s", plan)
    script = READ_ALL.replace("256", str(limit)).replace("128", str(limit // 2))
    out = tmp_path / "values.npy"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "s"), str(out)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    ids = [(f"v{n:04d}", clip) for n in range(num_shards) for clip in range(2)]
    assert np.load(out).tobytes() == expected_rows("a", ids, record).tobytes()
    assert len(list((tmp_path / "s" / "g000" / "commits" / "a").glob("0*.json"))) == num_shards


def test_more_shards_than_file_descriptors(tmp_path):
    check_many_shards(tmp_path, num_shards=140, limit=64)


@pytest.mark.slow
def test_1200_shards_under_the_usual_limit(tmp_path):
    check_many_shards(tmp_path, num_shards=1200, limit=1024)


def test_crops_of_training_and_test_videos(tmp_path):
    sampling = SamplingRecipe(spatial="views", num_crops=2, test=PlainViews(num_crops=3))
    long = StorePlan(
        records=RECORDS, num_videos=5, rows_per_video=(12, 6, 18), unusable={1: "missing"}, failing={3: "timeout"}
    )
    later = StorePlan(records=RECORDS, num_videos=5, first_video=2, rows_per_video=(6,))
    write_store(tmp_path / "store", long, later, sampling=sampling)
    store = open_store(tmp_path / "store")
    with store.feature("map") as features:
        assert features.video_ids == ("v0000", *(f"v{n:04d}" for n in range(2, 7)))
        for video_id, num_crops in zip(features.video_ids, features.num_crops.tolist(), strict=True):
            assert num_crops == (3 if store.videos[video_id].split == "test" else 2)
            clips = features.rows.clip[features.rows_of(video_id)]
            assert clips.tolist() == list(range(12 if video_id == "v0000" else 6))
            for crop in range(num_crops):
                rows = features.rows_of(video_id, crop=crop)
                assert features.rows.clip[rows].tolist() == clips[clips % num_crops == crop].tolist()
            for crop in (-1, num_crops):
                with pytest.raises(IndexError, match=f"crop {crop} of '{video_id}' is not in"):
                    features.rows_of(video_id, crop=crop)
    write_store(tmp_path / "plain", StorePlan(records=RECORDS), sampling=SamplingRecipe(spatial="views", num_crops=2))
    assert open_store(tmp_path / "plain").feature("pooled").num_crops.tolist() == [2] * 10


def test_a_writer_beside_may_finish_while_a_reader_looks(tmp_path, monkeypatch):
    """Notes of what must be there are read before it is listed, so that what comes meanwhile is no damage."""
    plan = StorePlan(records={"a": make_record((4,))}, num_videos=4)
    more = StorePlan(records={"a": make_record((4,))}, num_videos=2, first_video=4)
    with StoreWriter.open(tmp_path / "s", sampling=SamplingRecipe()) as writer:
        add_generation(writer, plan)
        real_list, real_read = completion.recorded_shards, generation.read_generation

        def list_shards(*arguments):
            found = real_list(*arguments)
            monkeypatch.setattr(completion, "recorded_shards", real_list)
            fill(writer, writer.generations()[0], plan)
            return found

        def read_plan(*arguments):
            found = real_read(*arguments)
            monkeypatch.setattr(generation, "read_generation", real_read)
            add_generation(writer, more)
            return found

        writer.declare_feature("a", make_recipe(), make_record((4,)))
        monkeypatch.setattr(completion, "recorded_shards", list_shards)
        coverage = open_store(tmp_path / "s").coverage("a")
        assert (coverage.ok, coverage.pending) == (0, 4)
        assert open_store(tmp_path / "s").coverage("a").ok == 4
        monkeypatch.setattr(generation, "read_generation", read_plan)
        assert len(open_store(tmp_path / "s").generations) == 1
        assert len(open_store(tmp_path / "s").generations) == 2
