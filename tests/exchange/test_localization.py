"""Stride and offset of ActionFormer and OpenTAD, against the formulas of their datasets and real sampling."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.data.sampling import clip_times, sample_rows
from featcache.data.types import Timeline
from featcache.errors import ExchangeError
from featcache.exchange.localization import Track, find_grid
from featcache.recipes import SamplingRecipe
from featcache.store.reader import open_store
from featcache.testing.stores import make_record
from tests.exchange.stores import SAMPLING, make_store, send

BANK = SamplingRecipe(layout="frames", temporal="bank", num_frames=1, frame_stride=4)


def timeline(num_frames, fps):
    pts = np.round(np.arange(num_frames) / fps, 6)  # containers round timestamps
    return Timeline(pts_seconds=pts, duration_seconds=num_frames / fps, height=64, width=64)


def track(recipe, num_frames, fps, name="v"):
    line = timeline(num_frames, fps)
    times = np.array([clip_times(spec, line) for spec in sample_rows(recipe, line, name)])
    return Track(id=name, middle=times.mean(axis=1), fps=fps)


def actionformer_row(seconds, *, fps, feat_stride, num_frames):
    """Where a time is among rows: libs/datasets/thumos14.py, ``__getitem__``."""
    return (seconds * fps - 0.5 * num_frames) / feat_stride


def opentad_row(seconds, *, frame, duration, feature_stride, offset_frames):
    """Where a time is among rows: opentad/datasets/thumos.py, ``get_gt`` (without its rounding) and ``__getitem__``."""
    return (seconds / duration * frame - offset_frames) / feature_stride


@given(
    stride=st.integers(1, 64),
    rates=st.lists(st.sampled_from([10.0, 23.976, 25.0, 29.97, 30.0, 60.0]), min_size=1, max_size=4),
    lengths=st.lists(st.integers(2, 3000), min_size=4, max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_a_bank_has_its_own_stride_whatever_the_frame_rates(stride, rates, lengths):
    recipe = replace(BANK, frame_stride=stride)
    tracks = [track(recipe, n + stride, fps, str(i)) for i, (fps, n) in enumerate(zip(rates, lengths, strict=False))]
    grid = find_grid(tracks, target_fps=None)
    assert (grid.stride_frames, grid.offset_frames, grid.fps) == (stride, 0.5, None)
    for one in tracks:
        rows = actionformer_row(
            one.middle, fps=grid.fps_of(one), feat_stride=grid.stride_frames, num_frames=2 * grid.offset_frames
        )
        assert np.abs(rows - np.arange(len(rows))).max() <= 0.5 / stride + 1e-3


@pytest.mark.parametrize(("clip", "stride", "start"), [(16, 4, 0), (16, 16, 0), (64, 8, 0), (16, 4, 32)])
@pytest.mark.parametrize("fps", [25.0, 29.97])
def test_sliding_clips_have_their_length_and_stride(clip, stride, start, fps):
    """THUMOS14's I3D features (16 frames, stride 4) are the numbers of ActionFormer's configuration."""
    first = (start + np.arange(200) * stride) / fps
    tracks = [
        Track(id=name, middle=(first[:n] + first[:n] + clip / fps) / 2, fps=fps) for name, n in (("a", 200), ("b", 7))
    ]
    grid = find_grid(tracks, target_fps=None)
    assert grid.stride_frames == stride
    assert 2 * grid.offset_frames == clip + 2 * start


def test_one_rate_for_all_where_the_bank_counts_at_it():
    """A bank at 5 a second of videos of other rates: strides differ in their frames and agree at the target's."""
    recipe = replace(BANK, frame_stride=2, target_fps=10.0)
    tracks = [track(recipe, 900, 30.0, "a"), track(recipe, 500, 50.0, "b"), track(recipe, 400, 20.0, "c")]
    grid = find_grid(tracks, target_fps=10.0)
    assert (grid.stride_frames, grid.fps) == (2.0, 10.0)
    for one in tracks:
        rows = (one.middle * 10.0 - grid.offset_frames) / grid.stride_frames
        assert np.abs(rows - np.arange(len(rows))).max() <= 0.25


def test_clips_spread_over_each_video_have_no_stride():
    recipe = SamplingRecipe(num_clips=5, num_frames=8, frame_stride=2)
    with pytest.raises(ExchangeError, match=r"not equally spaced.*'b'.*frame bank"):
        find_grid([track(recipe, 900, 30.0, "a"), track(recipe, 200, 30.0, "b")], target_fps=None)


def test_what_gives_no_grid_is_said():
    times = np.array([0.0, 1.0])
    with pytest.raises(ExchangeError, match="single row"):
        find_grid([Track(id="a", middle=times[:1], fps=30.0)], target_fps=None)
    with pytest.raises(ExchangeError, match="frame rate of no video is known"):
        find_grid([Track(id="a", middle=times, fps=0.0)], target_fps=None)
    drifting = Track(id="b", middle=np.arange(500) * 0.1004, fps=30.0)
    with pytest.raises(ExchangeError, match="off by up to"):
        find_grid([Track(id="a", middle=np.arange(600) * 0.1, fps=30.0), drifting], target_fps=None)


@pytest.mark.parametrize("format_", ["actionformer", "opentad"])
def test_the_files_place_every_row_where_it_was_taken(tmp_path, format_):
    mine = make_store(tmp_path / "mine")  # rows of 3 frames every 2 frames at 30 a second
    sent = send(mine, tmp_path / "out", format_)
    assert sent.details["feat_stride"] == 2
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    database = json.loads((tmp_path / "out" / "annotations.json").read_text())["database"]
    with open_store(mine).feature() as features:
        assert set(database) == set(features.video_ids)
        for video_id, entry in database.items():
            found = np.load(tmp_path / "out" / "features" / f"{video_id}.npy", allow_pickle=False)
            assert found.tobytes() == features.video(video_id).tobytes()
            index = features.rows_of(video_id)
            middle = (features.rows.t0[index] + features.rows.t1[index]) / 2
            if format_ == "actionformer":
                options = config["dataset"]
                assert (options["feat_stride"], options["num_frames"], options["input_dim"]) == (2, 3, 6)
                keys = {name: options[name] for name in ("feat_stride", "num_frames")}
                rows = actionformer_row(middle, fps=entry["fps"], **keys)
            else:
                assert (config["feature_stride"], config["sample_stride"], config["offset_frames"]) == (2, 1, 1.5)
                keys = {name: config[name] for name in ("feature_stride", "offset_frames")}
                rows = opentad_row(middle, frame=entry["frame"], duration=entry["duration"], **keys)
            assert np.allclose(rows, np.arange(len(index)), atol=1e-9)
            assert entry["subset"] in ("train", "test")
            assert entry["annotations"] == []


def test_stores_that_fit_no_such_layout_are_refused(tmp_path):
    dense = make_store(tmp_path / "dense", record=make_record((2, 2, 3)))
    with pytest.raises(ExchangeError, match=r"\[2, 2, 3\].*pooled"):
        send(dense, tmp_path / "out", "opentad")
    single = make_store(tmp_path / "single", rows_per_video=(1,))
    with pytest.raises(ExchangeError, match="single row"):
        send(single, tmp_path / "out", "actionformer")
    assert not (tmp_path / "out").exists()
    assert SAMPLING.num_crops == 1
