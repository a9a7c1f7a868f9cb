"""Folders in which a file's name alone does not say whose array it is."""

import json
import shlex

import numpy as np
import pytest
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.errors import ConfigError, ExchangeError
from featcache.exchange.layouts import Placed, place
from featcache.exchange.settings import TimingSettings
from featcache.store.reader import open_store
from tests.exchange.stores import bring


def put(root, name, values):
    path = root / f"{name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.asarray(values), allow_pickle=False)


def vectors(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 8)).astype(np.float32)


def put_video(root, name, *, n=10, fps=25.0, feature="resnet", seed=0):
    """What the extractor writes of one video."""
    put(root, f"{name}_{feature}", vectors(n, seed))
    put(root, f"{name}_fps", np.array(fps))
    put(root, f"{name}_timestamps_ms", np.arange(n) * 1000 / fps)


def test_the_layout_of_video_features(tmp_path):
    put_video(tmp_path / "resnet" / "resnet50", "v_a")
    put_video(tmp_path / "resnet" / "resnet50", "v_a_b", n=3, fps=30000 / 1001, seed=1)
    got = bring(tmp_path / "resnet", tmp_path / "s", timing=TimingSettings(clip_frames=1))
    assert (got.videos_ok, got.videos_failed, got.rows_total) == (2, 0, 13)
    store = open_store(tmp_path / "s")
    rates = {name: video.fps for name, video in store.videos.items()}
    assert rates == {"resnet50/v_a": 25.0, "resnet50/v_a_b": 30000 / 1001}
    assert store.label_names == ()
    with store.feature() as features:
        assert features.video("resnet50/v_a").tobytes() == vectors(10).tobytes()
        assert features.video("resnet50/v_a_b").tobytes() == vectors(3, 1).tobytes()
        times = features.rows.t0[features.rows_of("resnet50/v_a")]
        np.testing.assert_allclose(times, np.arange(10) / 25, rtol=1e-12)
        np.testing.assert_allclose(features.rows.t1 - features.rows.t0, [1001 / 30000] * 3 + [1 / 25] * 10)


def test_times_are_on_the_clock_of_the_container(tmp_path):
    put_video(tmp_path / "in", "a", n=2)
    (tmp_path / "list.csv").write_text("id,start_seconds,label\na,1.5,x\n")
    bring(tmp_path / "in", tmp_path / "s", listing=str(tmp_path / "list.csv"))
    with open_store(tmp_path / "s").feature() as features:
        np.testing.assert_allclose(features.rows.t0, [1.5, 1.54])
        assert np.isnan(features.rows.t1).all()


def test_two_features_of_one_video_need_a_pattern(tmp_path):
    for feature, seed in (("rgb", 0), ("flow", 1)):
        put_video(tmp_path / "in", "a", n=4, feature=feature, seed=seed)
    with pytest.raises(ExchangeError, match=r"'a_flow.npy' and 'a_rgb.npy' are both of 'a'; .* e.g. '\{id\}_rgb.npy'"):
        bring(tmp_path / "in", tmp_path / "s")
    for feature, seed in (("rgb", 0), ("flow", 1)):
        declared = {"backbone": "i3d", "name": feature}
        bring(tmp_path / "in", tmp_path / "s", pattern=f"{{id}}_{feature}.npy", feature=declared)
        with open_store(tmp_path / "s").feature(feature) as features:
            assert features.video("a").tobytes() == vectors(4, seed).tobytes()
            np.testing.assert_allclose(features.rows.t0, np.arange(4) / 25)


def test_a_pattern_says_id_label_and_split(tmp_path):
    for split, label, name in (("train", "run", "a"), ("test", "walk", "b/c"), ("train", "walk", "d")):
        put(tmp_path / "in", f"{split}/{label}/{name}-r21d", vectors(2))
    put(tmp_path / "in", "train/run/a-other", vectors(5))
    line = (
        f"import {tmp_path}/in --format npy -b r21d --out {tmp_path}/s --pattern '{{split}}/{{label}}/{{id}}-r21d.npy'"
    )
    result = CliRunner().invoke(app, shlex.split(line))
    assert result.exit_code == 0, result.output
    store = open_store(tmp_path / "s")
    assert store.labels() == {"a": "run", "d": "walk", "b/c": "walk"}
    assert {name: video.split for name, video in store.videos.items()} == {"a": "train", "d": "train", "b/c": "test"}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{video}.npy", r"has '\{video\}'; it knows \{id\}, \{label\}, \{split\} and \*"),
        ("*.npy", r"needs \{id\} once"),
        ("{id}/{id}.npy", r"needs \{id\} once"),
    ],
)
def test_patterns_that_cannot_be_read(tmp_path, pattern, message):
    put(tmp_path / "in", "a", vectors(2))
    with pytest.raises((ConfigError, ValueError), match=message):
        bring(tmp_path / "in", tmp_path / "s", pattern=pattern)


def test_a_pattern_that_fits_nothing_or_not_the_format_is_told(tmp_path):
    put(tmp_path / "in", "a", vectors(2))
    with pytest.raises(ExchangeError, match=r"no \.npy file fits the pattern .*; they look like 'a\.npy'"):
        bring(tmp_path / "in", tmp_path / "s", pattern="{id}_x.npy")
    with pytest.raises(ValueError, match="format is 'hf'; leave it out"):
        bring(tmp_path / "in", tmp_path / "s", "hf", pattern="{id}.npy")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("a_fps", np.zeros((2, 3)), r"a_fps.npy holds float64\[2, 3\], and stands where the frame rate"),
        ("a_timestamps_ms", np.array(1.0), r"holds float64\[\], and stands where the times of the rows"),
        ("a_timestamps_ms", np.zeros(9), r"a_resnet.npy: '.*timestamps_ms' has 9 entries; expected a list of 10"),
    ],
)
def test_companions_that_are_none(tmp_path, name, values, message):
    put_video(tmp_path / "in", "a")
    put(tmp_path / "in", name, values)
    with pytest.raises(ExchangeError, match=message):
        bring(tmp_path / "in", tmp_path / "s")


def test_names_alone():
    paths = ["b/x_clip.npy", "b/x_fps.npy", "x_fps.npy", "y_timestamps_ms.npy", "a_b.npy"]
    assert place(paths, pattern=None) == [
        Placed(path="a_b.npy"),
        Placed(path="b/x_clip.npy", video="b/x", rate="b/x_fps.npy"),
        Placed(path="x_fps.npy"),
        Placed(path="y_timestamps_ms.npy"),
    ]


def test_arrays_with_facts_of_their_own_need_no_layout(tmp_path):
    """Such as the arrays of an export, whose ids may look like anything."""
    for name in ("x_fps", "x_clip", "x_timestamps_ms"):
        put(tmp_path / "in", name, vectors(2))
        (tmp_path / "in" / f"{name}.json").write_text(json.dumps({"id": name}))
    got = bring(tmp_path / "in", tmp_path / "s")
    assert (got.videos_ok, got.videos_failed) == (3, 0)
    assert set(open_store(tmp_path / "s").videos) == {"x_fps", "x_clip", "x_timestamps_ms"}
