"""Training and test views of every video in one store, read by any column of splits."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from featcache.config import parse
from featcache.data.manifest import write_parquet
from featcache.data.scan import scan_listed
from featcache.data.sources import list_source
from featcache.errors import ConfigError
from featcache.evaluation.reading import read_data
from featcache.evaluation.run import run_probe
from featcache.evaluation.settings import KnnSettings
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings
from featcache.loaders.bank import open_bank
from featcache.loaders.clip_sets import open_clip_sets
from featcache.loaders.settings import BankSettings, ClipSetSettings
from featcache.recipes import PlainViews, SamplingRecipe, from_dict, recipe_hash, to_dict
from featcache.store.reader import open_store
from featcache.testing import stores
from featcache.testing.videos import write_video

CLIPS = SamplingRecipe(
    temporal="random", num_clips=2, num_frames=2, spatial="random_short_side", side_range=(0.7, 0.875),
    flip_probability=0.5, test=PlainViews(num_clips=1, num_crops=3), both_views=True,
)  # fmt: skip
BANK = SamplingRecipe(
    layout="frames", temporal="bank", num_clips=1, num_frames=1, frame_stride=1, spatial="center_and_random",
    num_crops=2, box_fraction=(0.875, 0.7), test=PlainViews(temporal="bank", num_crops=3), both_views=True,
)  # fmt: skip


def test_only_recipes_that_use_it_have_the_member():
    plain = SamplingRecipe(test=PlainViews())
    assert "both_views" not in to_dict(plain)
    both = SamplingRecipe(test=PlainViews(), both_views=True)
    assert recipe_hash(both) != recipe_hash(plain)
    assert from_dict(SamplingRecipe, to_dict(both)) == both
    with pytest.raises(ConfigError, match=r"both_views needs sampling\.test"):
        SamplingRecipe(both_views=True)
    assert both.stored("train") == both.stored("test") == (both.for_split("train"), both.for_split("test"))
    assert plain.stored("test") == (plain.for_split("test"),)


@pytest.mark.parametrize(("sampling", "rows", "training"), [(CLIPS, (5,), (2,)), (BANK, (10, 25), (4, 10))])
@pytest.mark.parametrize("shard_rows", [3, 7, 64])
def test_a_reader_takes_the_views_of_the_split_wherever_shards_end(tmp_path, sampling, rows, training, shard_rows):
    record = stores.make_record((2, 2, 4))
    plan = stores.StorePlan(
        records={"map": record}, num_videos=7, rows_per_video=rows, shard_rows=shard_rows, failing={2: "undecodable"}
    )
    stores.write_store(tmp_path / "s", plan, sampling=sampling)
    store = open_store(tmp_path / "s")
    own = {video.id: video.split for video in store.videos.values()}
    other = {"v0000": "train", "v0001": "val", "v0004": "train", "v0005": "test"}  # the others have none
    for splits, given in ((own, None), (other, other)):
        opened = store.feature(splits=given)
        for features in (opened, pickle.loads(pickle.dumps(opened))):
            assert features.video_ids == tuple(f"v{number:04d}" for number in range(7) if number != 2)
            for place, video_id in enumerate(features.video_ids):
                is_test = splits.get(video_id, "") not in ("", "train")
                number = int(video_id[1:])
                boundary, total = training[number % len(training)], rows[number % len(rows)]
                clips = range(boundary, total) if is_test else range(boundary)
                expected = stores.expected_rows("map", [(video_id, clip) for clip in clips], record)
                assert np.array_equal(features.video(video_id), expected)
                assert features.is_test[place] == is_test
                assert features.num_crops[place] == sampling.for_split("test" if is_test else "train").num_crops
                assert features.rows.select(features.rows_of(video_id)).clip.tolist() == list(clips)
    assert (
        store.num_rows()
        == store.info()["features"]["map"]["num_rows"]
        == sum(rows[number % len(rows)] for number in range(7) if number != 2)
    )


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    rows = ["path,label,split,label.split2"]
    for number in range(6):
        write_video(folder / f"{number}.mp4", num_frames=9 + number)
        splits = ("train" if number < 3 else "test", "test" if number % 3 == 0 else "train")
        rows.append(f"{number}.mp4,{'ab'[number % 2]},{splits[0]},{splits[1]}")
    (folder / "list.csv").write_text("\n".join(rows))
    listed = list_source(folder / "list.csv")
    write_parquet(
        scan_listed(listed, decoder="pyav", deadline_seconds=60.0, progress=lambda done, total: None),
        folder / "scan.parquet",
    )
    return folder


def stored(videos, name, sampling, **changes):
    feature = {"backbone": "timm/tf_efficientnet_lite0", "weights": "random", "layer": "blocks.2", "input_size": 56}
    settings = {
        "source": str(videos / "scan.parquet"),
        "out": str(videos / name),
        "features": [{**feature, "output": "map" if sampling.layout == "frames" else "mean"}],
        "sampling": to_dict(sampling),
        "runtime": {"device": "cpu", "threads": 1, "encode_batch": 8},
        "shard_rows": 16,
        **changes,
    }
    extract(parse(ExtractSettings, settings))
    return videos / name


@pytest.mark.parametrize(
    ("sampling", "columns"),
    [
        pytest.param(CLIPS, ("split2",), id="clips"),
        pytest.param(BANK, (None, "split2"), id="bank", marks=pytest.mark.slow),
    ],
)
def test_any_column_reads_what_an_extraction_by_that_column_stores(videos, sampling, columns):
    layout = sampling.layout
    both = open_store(stored(videos, f"both-{layout}", sampling))
    for column in columns:
        single = replace(sampling, both_views=False)
        apart = open_store(stored(videos, f"{column}-{layout}", single, selection={"split_column": column}))
        features, expected = both.feature(splits=column and both.labels(column)), apart.feature()
        assert features.video_ids == expected.video_ids
        assert np.array_equal(features[...], expected[...])
        assert np.array_equal(features.rows.x0, expected.rows.x0)
        assert np.array_equal(features.rows.t0, expected.rows.t0)
        if layout == "frames":
            ours, theirs = (
                open_bank(BankSettings(store=str(store.path), split_column=name))
                for store, name in ((both, column), (apart, None))
            )
            assert [ours.num_crops(video) for video in range(6)] == [theirs.num_crops(video) for video in range(6)]
            chosen = np.arange(6), np.arange(12).reshape(6, 2) % 9, np.arange(6)
            assert ours.clips(*chosen).joined.equal(theirs.clips(*chosen).joined)
        else:
            ours, theirs = (
                open_clip_sets(ClipSetSettings(store=str(store.path), split_column=name), form="code7")
                for store, name in ((both, column), (apart, None))
            )
            assert ours.features.equal(theirs.features)
            assert ours.positions.equal(theirs.positions)
            scored = read_data(both, split_column=column)
            assert scored.is_random is None or not scored.is_random.any()
            assert run_probe("knn", scored, KnnSettings(ks=(1,))).splits["test"].num_videos == (2 if column else 3)
