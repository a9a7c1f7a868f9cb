"""Clips out of a store: what is read, where it lies, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch

from featcache.errors import ConfigError, NonFiniteFeatureError, StoreError, UnknownNameError
from featcache.loaders.clip_sets import open_clip_sets, placed
from featcache.loaders.settings import ClipSetSettings
from featcache.recipes import PlainViews, SamplingRecipe
from featcache.store.features import Features
from featcache.store.reader import open_store
from featcache.testing import stores
from featcache.testing.stores import StorePlan, expected_rows, make_record, write_store

RECORD = make_record((6,))
PLAN = StorePlan(records={"clips": RECORD}, rows_per_video=(4, 6), num_videos=9, unusable={4: "missing"})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "store"
    write_store(path, PLAN)
    return path


def test_reads_the_rows_of_the_training_split(store):
    sets = open_clip_sets(ClipSetSettings(store=str(store)), only_training=True)
    assert sets.video_ids == ("v0001", "v0002", "v0005", "v0007", "v0008")
    assert sets.num_clips.tolist() == [6, 4, 6, 6, 4]
    rows = [(video, clip) for video, count in zip(sets.video_ids, sets.num_clips, strict=True) for clip in range(count)]
    assert sets.features.dtype == torch.float16
    assert np.array_equal(sets.features.numpy(), expected_rows("clips", rows, RECORD))
    # stores.row_details: boxes of 224 in 320 x 240 from x = clip % 7, frames from clip * 2 at 30 a second
    clip = np.array([number for _, number in rows])
    wanted = np.stack(
        [clip * 0.0, clip % 7 / 320, clip * 0 + 224 / 240, (clip % 7 + 224) / 320, clip / 15, clip / 15 + 0.1], axis=1
    )
    np.testing.assert_allclose(sets.positions.numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_reads_all_videos_for_those_who_ask(store):
    opened = open_store(store)
    sets = open_clip_sets(ClipSetSettings(store=str(store)), form="code7", store=opened)
    features = opened.feature("clips")
    assert sets.video_ids == features.video_ids
    assert np.array_equal(sets.video_start, features.video_start)
    assert np.array_equal(sets.features.numpy(), features[:])
    assert sets.positions[:, 0].tolist() == (features.rows.flip * 1.0).tolist()


def test_test_views_have_no_flip(tmp_path):
    write_store(tmp_path / "store", PLAN, sampling=SamplingRecipe(num_clips=4, test=PlainViews(num_clips=2)))
    opened = open_store(tmp_path / "store")
    sets = open_clip_sets(ClipSetSettings(store=str(tmp_path / "store")), form="code7", store=opened)
    is_test = [opened.videos[video_id].split == "test" for video_id in sets.video_ids]
    flip = sets.positions[:, 0].numpy()
    assert np.array_equal(flip == -1, np.repeat(is_test, sets.num_clips))


def test_int8_is_read_as_float32(tmp_path):
    plan = StorePlan(records={"clips": make_record((6,), "int8")}, num_videos=3)
    write_store(tmp_path / "store", plan)
    sets = open_clip_sets(ClipSetSettings(store=str(tmp_path / "store")))
    features = open_store(tmp_path / "store").feature("clips")
    assert sets.features.dtype == torch.float32
    assert np.array_equal(sets.features.numpy(), features.gather(np.arange(len(features)), dequantised=True))


def test_identity_tells_form_and_videos_apart(store):
    settings = ClipSetSettings(store=str(store))
    same = [open_clip_sets(settings, only_training=True).identity for _ in range(2)]
    others = [open_clip_sets(settings).identity, open_clip_sets(settings, form="code7").identity]
    assert len(set(same)) == 1
    assert len({*same, *others}) == 3


def test_lie_where_they_are_wanted(store):
    sets = open_clip_sets(ClipSetSettings(store=str(store)))
    assert placed(sets, storage="device", device=torch.device("cpu")) is sets
    meta = torch.device("meta")
    assert placed(sets, storage="ram", device=meta) is sets
    moved = placed(sets, storage="device", device=meta)
    assert moved.features.device == moved.positions.device == meta
    assert moved.identity == sets.identity


def test_refuses_frame_banks_and_maps(tmp_path):
    write_store(
        tmp_path / "bank", PLAN, sampling=SamplingRecipe(layout="frames", temporal="bank", num_frames=1, num_clips=1)
    )
    with pytest.raises(ConfigError, match=r"holds a frame bank.*--preset scale"):
        open_clip_sets(ClipSetSettings(store=str(tmp_path / "bank")))
    maps = StorePlan(records={"maps": make_record((2, 2, 3))}, num_videos=3)
    write_store(tmp_path / "maps", maps)
    with pytest.raises(ConfigError, match=r"holds one vector per clip"):
        open_clip_sets(ClipSetSettings(store=str(tmp_path / "maps")))
    with pytest.raises(ConfigError, match=r"rows of shape \[2, 2, 3\]"):
        open_clip_sets(ClipSetSettings(store=str(tmp_path / "maps"), feature="maps"))


def test_refuses_names_that_are_not_there(store, tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'clips'"):
        open_clip_sets(ClipSetSettings(store=str(store), feature="clip"))
    with pytest.raises(UnknownNameError, match="unknown split"):
        open_clip_sets(ClipSetSettings(store=str(store), train_split="val"), only_training=True)
    two = StorePlan(records={"a": RECORD, "b": RECORD}, num_videos=3)
    write_store(tmp_path / "two", two)
    with pytest.raises(UnknownNameError, match=r"several features \(a, b\); name one"):
        open_clip_sets(ClipSetSettings(store=str(tmp_path / "two")))


def test_refuses_a_store_without_rows(tmp_path):
    write_store(
        tmp_path / "none",
        StorePlan(records={"clips": RECORD}, num_videos=2, unusable=dict.fromkeys(range(2), "missing")),
    )
    with pytest.raises(StoreError, match="no video"):
        open_clip_sets(ClipSetSettings(store=str(tmp_path / "none")))


def test_refuses_rows_that_are_not_finite(store, monkeypatch):
    real = Features.gather

    def damaged(self, rows, **options):  # the writer refuses such rows
        values = real(self, rows, **options)
        values[self.video_index[rows] == self.video_ids.index("v0005"), 2] = np.nan
        return values

    monkeypatch.setattr(Features, "gather", damaged)
    with pytest.raises(NonFiniteFeatureError, match=r"first in video 'v0005'.*extract this feature again as float32"):
        open_clip_sets(ClipSetSettings(store=str(store)))


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [("y0", -1, r"have no coordinates, the first in video 'v0000'; import"), ("t0", np.nan, "import them with lists")],
)
def test_refuses_clips_without_coordinates(tmp_path, monkeypatch, column, value, sentence):
    real = stores.row_details

    def without(segments):
        rows = real(segments)
        getattr(rows, column)[:] = value
        return rows

    monkeypatch.setattr(stores, "row_details", without)
    write_store(tmp_path / "store", PLAN)
    for form in ("box6", "code7"):
        with pytest.raises(ConfigError, match=sentence):
            open_clip_sets(ClipSetSettings(store=str(tmp_path / "store")), form=form)


def test_videos_without_a_size_need_the_other_form(tmp_path, monkeypatch):
    real = stores.make_videos
    monkeypatch.setattr(
        stores, "make_videos", lambda *args, **kwargs: [dataclasses.replace(v, height=0) for v in real(*args, **kwargs)]
    )
    write_store(tmp_path / "store", PLAN)
    with pytest.raises(ConfigError, match=r"predictor\.position=code7"):
        open_clip_sets(ClipSetSettings(store=str(tmp_path / "store")))
    assert open_clip_sets(ClipSetSettings(store=str(tmp_path / "store")), form="code7").positions.isfinite().all()
