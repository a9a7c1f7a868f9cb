"""Stride and offset of ActionFormer and OpenTAD, against the formulas of their datasets and real sampling."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.data.sampling import clip_times, sample_rows
from featcache.data.types import Timeline
from featcache.errors import ExchangeError
from featcache.exchange.localization import Track, find_grid, first_frame_seconds
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.recipes import SamplingRecipe
from featcache.store.reader import open_store
from featcache.testing.stores import make_record
from featcache.testing.videos import write_video
from tests.exchange.stores import SAMPLING, bring, make_store, send

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
@settings(max_examples=60)
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


# Videos whose clock does not begin at 0


def clips(folder):
    """A UCF101-like clip (XviD, 25 a second) and one as HMDB51's: B-frames in AVI, so the clock begins at 1/30 s."""
    folder.mkdir()
    write_video(folder / "ucf.avi", num_frames=50, codec="mpeg4", fps=25, time_base=Fraction(1, 25))
    options = {"bf": "2", "b_strategy": "0"}
    write_video(folder / "hmdb.avi", num_frames=60, codec="mpeg4", options=options, fps=30, time_base=Fraction(1, 30))
    return folder


def bank(folder, out):
    return extract(
        ExtractSettings(
            source=str(folder),
            out=str(out),
            features=(
                FeatureSettings(name="f", backbone="timm/tf_efficientnet_lite0", weights="random", input_size=32),
            ),
            sampling=SamplingSettings(layout="frames", temporal="bank", frame_stride=4),
            runtime=RuntimeSettings(device="cpu", threads=1),
        )
    ).store


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    root = tmp_path_factory.mktemp("clock")
    return bank(clips(root / "videos"), root / "store")


@pytest.mark.parametrize("format_", ["actionformer", "opentad"])
def test_a_bank_of_clips_whose_clocks_begin_apart_is_exported(both, tmp_path, format_):
    starts = {name: video.start_seconds for name, video in open_store(both).videos.items()}
    assert starts == {"ucf.avi": 0.0, "hmdb.avi": pytest.approx(1 / 30)}, "no clock begins late: this shows nothing"
    sent = send(both, tmp_path / "out", format_)
    assert sent.details["feat_stride"] == 4
    database = json.loads((tmp_path / "out" / "annotations.json").read_text())["database"]
    assert {name: (entry["fps"], entry["duration"]) for name, entry in database.items()} == {
        "ucf.avi": (pytest.approx(25), pytest.approx(2)),
        "hmdb.avi": (pytest.approx(30), pytest.approx(2)),
    }
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    for name, entry in database.items():
        # Frame 4 i, counted from the first one, is in the middle of row i.
        middle = (4 * np.arange(len(np.load(tmp_path / "out" / "features" / f"{name}.npy"))) + 0.5) / entry["fps"]
        if format_ == "actionformer":
            options = config["dataset"]
            assert options["num_frames"] == 1, "single frames"
            rows = actionformer_row(middle, fps=entry["fps"], feat_stride=4, num_frames=options["num_frames"])
        else:
            assert config["offset_frames"] == 0.5
            times = {"frame": entry["frame"], "duration": entry["duration"]}
            rows = opentad_row(middle, **times, feature_stride=4, offset_frames=config["offset_frames"])
        np.testing.assert_allclose(rows, np.arange(len(rows)), atol=1e-6)


def test_single_frames_of_hmdb51_alone_are_single_frames(both, tmp_path):
    send(both, tmp_path / "out", "actionformer", videos=("hmdb.avi",))
    options = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["dataset"]
    assert (options["feat_stride"], options["num_frames"]) == (4, 1)


def test_the_first_frame_is_known_to_a_record_or_to_its_row(both):
    store = open_store(both)
    with store.feature() as features:
        rows = features.rows.select(features.rows_of("hmdb.avi"))
    record = store.videos["hmdb.avi"]
    older = replace(record, start_seconds=0.0)  # as a store reads that was made before the field
    assert first_frame_seconds(record, rows) == first_frame_seconds(older, rows) == pytest.approx(1 / 30)
    later = rows.select(slice(1, None))
    assert first_frame_seconds(record, later) == pytest.approx(1 / 30)
    unknown = replace(rows, pts_seconds=np.full_like(rows.pts_seconds, np.nan))
    assert first_frame_seconds(record, unknown) == pytest.approx(1 / 30)


def test_imported_rows_of_a_late_clock_come_out_again_from_their_first_frame(tmp_path):
    source = tmp_path / "arrays"
    source.mkdir()
    for name in ("early", "late"):
        np.save(source / f"{name}.npy", np.zeros((9, 4), np.float32))
    (source / "videos.csv").write_text("id,fps,start_seconds\nearly,25,\nlate,30,0.5\n")
    store = tmp_path / "store"
    bring(source, store, timing={"stride_frames": 4, "clip_frames": 16})
    with open_store(store).feature() as features:
        assert features.rows.t0[features.rows_of("late")][0] == 0.5
    send(store, tmp_path / "out", "opentad")
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert (config["feature_stride"], config["offset_frames"]) == (4, 8)
