"""Views against a slow plain reference, the laws of their draws, and what a short video gives."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from featcache.data.types import Box, ColorStep, VideoRecord
from featcache.loaders.views import Look, frames_of
from featcache.loaders.windows import tis_distance, window_frames
from featcache.methods.svt.settings import SvtViewSettings
from featcache.methods.svt.views import (
    draw_views,
    draw_windows,
    same_shapes,
    short_views,
)
from tests.methods.svt.helpers import small_views, timeline

TIS = {"sampler": "tis", "global_frames": (8, 8), "tis_stride": 3}
timelines = st.builds(
    timeline,
    st.integers(1, 90),
    fps=st.sampled_from([5.0, 24000 / 1001, 30.0, 60.0]),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    late=st.sampled_from([0.0, 1.7]),
    jitter=st.sampled_from([None, 0.9]),
)
laws = st.builds(
    small_views,
    global_frames=st.sampled_from([(8, 16), (8, 8)]),
    span_seconds=st.sampled_from([None, 0.5, 2.0]),
    global_time=st.sampled_from([0.9, 1.0]),
    consistent=st.booleans(),
    no_spatial=st.booleans(),
    no_temporal=st.booleans(),
) | st.builds(small_views, sampler=st.just("tis"), global_frames=st.just((8, 8)), tis_stride=st.integers(1, 9))


def windows(law, line, *, video_id="v", epoch=0, seed=0):
    return draw_windows(law, line, video_id=video_id, epoch=epoch, seed=seed)


def slow_frames(window, line, num_frames):
    """The nearest timestamp by looking at all of them; of two equally near, the earlier."""
    pts = [pts - line.pts_seconds[0] for pts in line.pts_seconds]
    last = max(window.start, window.start + window.width - line.duration_seconds / len(pts))
    frames = []
    for number in range(num_frames):
        time = window.start + (last - window.start) * number / max(num_frames - 1, 1)
        distances = [abs(time - shown) for shown in pts]
        frames.append(next(i for i, distance in enumerate(distances) if distance <= min(distances) + 1e-6))
    return frames


@settings(max_examples=60)
@given(laws, timelines, st.integers(0, 3), st.integers(0, 3))
def test_views_equal_the_slow_reference(law, line, epoch, seed):
    views = draw_views(law, line, video_id="v", epoch=epoch, seed=seed)
    drawn = windows(law, line, epoch=epoch, seed=seed)
    assert len(views) == len(drawn) == 2 + len(law.local_frames)
    for view, window, num_frames, size in zip(views, drawn, law.num_frames, law.sizes, strict=True):
        assert list(view.frames) == slow_frames(window, line, num_frames)
        assert list(view.frames) == sorted(view.frames)
        assert view.size == size
        assert len(set(view.looks)) == 1 or not law.consistent
        for look in view.looks:
            box = look.box
            assert 0 <= box.y0 < box.y1 <= line.height
            assert 0 <= box.x0 < box.x1 <= line.width


@given(laws, timelines)
def test_windows_lie_in_the_video_and_in_one_span(law, line):
    drawn = windows(law, line)
    starts, ends = zip(*((window.start, window.start + window.width) for window in drawn), strict=True)
    assert min(starts) >= 0
    assert max(ends) <= line.duration_seconds + 1e-9
    assert max(ends) - min(starts) <= min(law.span_seconds or 1e9, line.duration_seconds) + 1e-9
    if law.no_temporal:
        assert len(set(drawn)) == 1


@given(laws, timelines)
def test_the_union_is_what_all_views_take(law, line):
    views = draw_views(law, line, video_id="v", epoch=0, seed=0)
    frames = frames_of(views)
    assert frames.tolist() == sorted(set(itertools.chain(*(view.frames for view in views))))


def test_every_frame_of_a_whole_video():
    line = timeline(16)
    law = small_views(global_time=1.0, global_frames=(16, 8))
    assert window_frames(windows(law, line)[0], line, num_frames=16).tolist() == list(range(16))
    assert window_frames(windows(law, line)[1], line, num_frames=6).tolist() == [0, 3, 6, 9, 12, 15]
    assert window_frames(windows(law, line)[1], line, num_frames=1).tolist() == [0]


@settings(max_examples=60)
@given(laws, st.integers(1, 90), st.integers(0, 9))
def test_only_short_views_repeat_frames(law, num_frames, epoch):
    line = timeline(num_frames, fps=25.0)
    short = short_views(law, line)
    for number, view in enumerate(draw_views(law, line, video_id="v", epoch=epoch, seed=0)):
        assert number in short or len(set(view.frames)) == len(view.frames)
        assert len(view.frames) <= num_frames or number in short


def test_views_of_a_short_video_repeat_frames_in_order():
    long = VideoRecord(id="v", path="v.mp4", num_frames=300, duration_seconds=10.0)
    assert short_views(SvtViewSettings(), long) == ()
    assert short_views(SvtViewSettings(), timeline(64, fps=32.0)) == (8, 9)
    assert short_views(SvtViewSettings(), timeline(3, fps=3.0)) == tuple(range(10))
    views = draw_views(SvtViewSettings(), timeline(3, fps=3.0), video_id="v", epoch=0, seed=0)
    assert len(views[1].frames) == 16
    assert set(views[1].frames) == {0, 1, 2}
    (only,) = {view.frames for view in draw_views(small_views(), timeline(1), video_id="v", epoch=0, seed=0)[:1]}
    assert only == (0,) * 8


def test_draws_are_keyed():
    def draw(video_id="v", epoch=0, seed=0):
        return draw_views(small_views(), timeline(), video_id=video_id, epoch=epoch, seed=seed)

    assert draw() == draw()
    others = [draw(video_id="w"), draw(epoch=1), draw(seed=1)]
    for other in others:
        assert all(one.looks[0].box != two.looks[0].box for one, two in zip(draw(), other, strict=True))


def test_without_consistency_the_first_frame_keeps_its_look_and_each_has_its_own():
    line = timeline(height=400, width=600)
    together = draw_views(small_views(), line, video_id="v", epoch=0, seed=0)
    apart = draw_views(small_views(consistent=False), line, video_id="v", epoch=0, seed=0)
    for one, other in zip(together, apart, strict=True):
        assert one.frames == other.frames
        assert one.looks[0] == other.looks[0]
        assert len(set(other.looks)) == len(other.looks)


def test_whole_frames_are_left_as_they_are():
    line = timeline()
    for view in draw_views(small_views(no_spatial=True), line, video_id="v", epoch=0, seed=0):
        assert view.size == 32
        assert set(view.looks) == {Look(box=Box(y0=0, x0=0, y1=48, x1=64), flip=False, color=())}


@pytest.fixture(scope="module")
def many():
    """Looks of 500 epochs with DINO's blur and solarisation, and their windows."""
    law = small_views(blur=(1.0, 0.1, 0.5), solarise=(0.0, 0.2, 0.0))
    line = timeline(height=200, width=300)
    drawn = [draw_views(law, line, video_id="v", epoch=epoch, seed=0) for epoch in range(500)]
    return [[view.looks[0] for view in views] for views in drawn], [windows(law, line, epoch=e) for e in range(500)]


def test_chances_and_areas_are_those_of_the_settings(many):
    looks, _ = many

    def share(view, name):
        return np.mean([any(step.name == name for step in row[view].color) for row in looks])

    assert np.mean([row[view].flip for row in looks for view in range(4)]) == pytest.approx(0.5, abs=0.05)
    assert [share(view, "blur") for view in (0, 1, 2, 3)] == pytest.approx([1.0, 0.1, 0.5, 0.5], abs=0.07)
    assert [share(view, "solarise") for view in (0, 1, 2, 3)] == pytest.approx([0.0, 0.2, 0.0, 0.0], abs=0.06)
    assert share(0, "brightness") == pytest.approx(0.8, abs=0.06)
    assert share(2, "grey") == pytest.approx(0.2, abs=0.06)
    assert share(0, "hue") == 0
    solarised = next(row[1].color for row in looks if row[1].color and row[1].color[-1].name == "solarise")
    assert solarised[-1] == ColorStep("solarise", 128.0)
    for view, (low, high) in enumerate([(0.4, 1.0)] * 2 + [(0.05, 0.4)] * 2):
        areas = [(row[view].box.y1 - row[view].box.y0) * (row[view].box.x1 - row[view].box.x0) for row in looks]
        assert low * 60_000 - 500 <= min(areas) < max(areas) <= high * 60_000 + 500
        assert np.ptp(areas) > 0.7 * (high - low) * 60_000, "boxes of 3:2 are outside the ratio"


def test_places_of_windows_are_uniform_and_independent(many):
    _, drawn = many
    starts = np.array([[window.start for window in row] for row in drawn])
    for view, width in enumerate([1.8, 1.8, 0.25, 0.25]):
        assert {round(row[view].width, 9) for row in drawn} == {width}
        assert kstest(starts[:, view] / (2.0 - width), "uniform").pvalue > 0.001
    correlation = np.corrcoef(starts.T) - np.eye(4)
    assert np.abs(correlation).max() < 0.2


def test_tis_draws_cvrl_s_distances_in_either_order():
    law, line = small_views(**TIS), timeline(100, fps=25.0)
    drawn = [windows(law, line, epoch=epoch) for epoch in range(3000)]
    room = 4.0 - (7 * 3 + 1) / 25
    first, second = (np.array([row[view].start for row in drawn]) for view in (0, 1))
    assert {round(row[0].width, 9) for row in drawn} == {0.88}
    distance = np.abs(second - first) / room
    assert kstest(distance, lambda x: 2 * x - x**2).pvalue > 0.001
    earlier = np.minimum(first, second)
    assert kstest(earlier / (room * (1 - distance)), "uniform").pvalue > 0.001
    assert np.mean(first < second) == pytest.approx(0.5, abs=0.04)
    views = draw_views(law, line, video_id="v", epoch=0, seed=0)
    assert [set(np.diff(view.frames)) for view in views[:2]] == [{3}, {3}]
    assert tis_distance(0.0, room=5.0) == 0
    assert tis_distance(0.75, room=5.0) == pytest.approx(2.5)


def test_tis_clips_longer_than_the_video_span_it():
    views = draw_views(small_views(**TIS), timeline(15), video_id="v", epoch=0, seed=0)
    assert [view.frames for view in views[:2]] == [(0, 2, 4, 6, 8, 10, 12, 14)] * 2


def test_locals_do_not_depend_on_the_sampler_of_globals():
    line = timeline()
    plain, tis = (draw_views(small_views(**changes), line, video_id="v", epoch=0, seed=0) for changes in ({}, TIS))
    assert plain[2:] == tis[2:]


def test_views_of_one_shape():
    assert same_shapes(SvtViewSettings()) == ((0,), (1,), (2, 3), (4, 5), (6, 7), (8, 9))
    assert same_shapes(SvtViewSettings(no_spatial=True)) == ((0, 6, 7), (1, 8, 9), (2, 3), (4, 5))
    assert same_shapes(SvtViewSettings(global_frames=(8, 8), local_frames=())) == ((0, 1),)
