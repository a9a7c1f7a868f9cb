import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from featcache.data.sampling import (
    bank_supports_stride,
    clip_times,
    count_rows,
    nearest_frames,
    normalised_coordinates,
    playback_rate_indices,
    sample_rows,
)
from featcache.data.types import Box, ClipSpec, Timeline
from featcache.recipes import ColorRecipe, SamplingRecipe

FRAME_RATES = [5.0, 10.0, 12.5, 15.0, 24000 / 1001, 24.0, 25.0, 30000 / 1001, 30.0, 50.0, 60000 / 1001, 120.0]


def constant(num_frames: int, fps: float, *, start: float = 0.0, tick: float = 0.0) -> Timeline:
    """A constant frame rate; ``tick`` rounds timestamps to a time base, as Matroska does to milliseconds."""
    pts = start + np.arange(num_frames) / fps
    if tick:
        pts = np.round(pts / tick) * tick
    return Timeline(pts_seconds=pts, duration_seconds=num_frames / fps, height=48, width=64)


def variable(gaps: list[float], *, start: float = 0.0) -> Timeline:
    edges = np.concatenate([[0.0], np.cumsum(gaps)])
    return Timeline(pts_seconds=start + edges[:-1], duration_seconds=float(edges[-1]), height=31, width=17)


timelines = st.one_of(
    st.builds(constant, st.integers(1, 150), st.sampled_from(FRAME_RATES), start=st.sampled_from([0.0, 1.4, -0.08])),
    st.builds(variable, st.lists(st.floats(0.004, 2.0), min_size=1, max_size=60), start=st.floats(-1, 10)),
)
spaces = st.fixed_dictionaries(
    {
        "spatial": st.sampled_from(["views", "random_resized", "random_short_side", "center_and_random"]),
        "num_crops": st.integers(1, 3),
        "flip_probability": st.sampled_from([0.0, 0.5]),
        "seed": st.integers(0, 3),
        "frame_stride": st.integers(1, 9),
        "target_fps": st.sampled_from([None, 0.7, 4.0, 10.0, 16.0, 29.97, 100.0]),
        "color": st.sampled_from([None, ColorRecipe(brightness=0.4, hue=0.1, blur_probability=0.5)]),
    }
).map(
    lambda space: {
        **space,
        "side_range": (0.5, 0.9) if space["spatial"] == "random_short_side" else None,
        "box_fraction": (0.9, 0.6) if space["spatial"] == "center_and_random" else None,
    }
)
clip_recipes = st.builds(
    lambda space, **rest: SamplingRecipe(**space, **rest),
    spaces,
    temporal=st.sampled_from(["uniform", "uniform_open", "random", "spread", "spread_random"]),
    num_clips=st.integers(1, 6),
    num_frames=st.integers(1, 20),
    short_videos=st.sampled_from(["loop", "clamp"]),
)
bank_recipes = st.builds(
    lambda space, start, length: SamplingRecipe(
        **space,
        layout="frames",
        temporal="bank",
        num_frames=1,
        start_seconds=start,
        end_seconds=None if length is None else (start or 0.0) + length,
    ),
    spaces,
    st.none() | st.floats(0, 6),
    st.none() | st.floats(0.01, 6),
)


def frames_of(recipe: SamplingRecipe, timeline: Timeline, video_id: str = "v") -> list[tuple[int, ...]]:
    return [row.frames for row in sample_rows(recipe, timeline, video_id)]


def bank(**changes: object) -> SamplingRecipe:
    return SamplingRecipe(**{"layout": "frames", "temporal": "bank", "num_frames": 1, **changes})


@given(clip_recipes | bank_recipes, timelines, st.sampled_from(["a", "ü/b c.mp4"]))
def test_rows_are_as_many_as_counted_and_usable(recipe: SamplingRecipe, timeline: Timeline, video_id: str):
    rows = sample_rows(recipe, timeline, video_id)
    counted = count_rows(recipe, num_frames=timeline.num_frames, duration_seconds=timeline.duration_seconds)
    assert len(rows) == counted
    assert [row.index for row in rows] == list(range(len(rows)))
    for row in rows:
        assert len(row.frames) == recipe.num_frames
        assert all(type(frame) is int and 0 <= frame < timeline.num_frames for frame in row.frames)
        assert 0 <= row.box.y0 < row.box.y1 <= timeline.height
        assert 0 <= row.box.x0 < row.box.x1 <= timeline.width
    assert rows == sample_rows(recipe, timeline, video_id)
    for first in range(0, len(rows), recipe.num_crops):
        moment = rows[first : first + recipe.num_crops]
        assert len({row.frames for row in moment}) == 1, "rows are time-major: one moment's crops lie side by side"


@given(clip_recipes, timelines)
def test_a_clip_that_fits_plays_forward(recipe: SamplingRecipe, timeline: Timeline):
    rate = recipe.target_fps or timeline.fps
    assume(((recipe.num_frames - 1) * recipe.frame_stride + 1) / rate <= timeline.duration_seconds)
    for frames in frames_of(recipe, timeline):
        assert list(frames) == sorted(frames)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30, unique=True), st.lists(st.floats(-7, 7), max_size=30))
def test_nearest_frame_equals_a_plain_search(points: list[float], times: list[float]):
    pts = np.array(sorted(points))
    assume(len(pts) == 1 or np.diff(pts).min() > 1e-3)
    expected = []
    for time in times:
        best = 0
        for index in range(1, len(pts)):
            if abs(pts[index] - time) < abs(pts[best] - time) - 1e-6:
                best = index
        expected.append(best)
    assert nearest_frames(pts, times).tolist() == expected


def test_nearest_frame_ties_to_the_earlier_whatever_the_rounding():
    pts = np.arange(1000) / 30
    halves = (np.arange(999) + 0.5) / 30
    for error in (-1e-9, 0.0, 1e-9):
        assert nearest_frames(pts, halves + error).tolist() == list(range(999))
    assert nearest_frames([3.0], [-1.0, 3.0, 99.0]).tolist() == [0, 0, 0]
    assert nearest_frames(pts, np.zeros((2, 3))).shape == (2, 3)


@given(
    st.integers(1, 400),
    st.sampled_from(FRAME_RATES),
    st.sampled_from([0.0, 0.001, 1 / 90000]),
    st.integers(1, 7),
    st.integers(1, 16),
    st.integers(1, 9),
    st.sampled_from(["uniform", "uniform_open", "random"]),
)
def test_constant_rate_is_integer_arithmetic(num_frames, fps, tick, num_clips, length, stride, temporal):
    timeline = constant(num_frames, fps, start=0.5, tick=tick)
    last_start = num_frames - ((length - 1) * stride + 1)
    assume(last_start >= 0)
    recipe = SamplingRecipe(temporal=temporal, num_clips=num_clips, num_frames=length, frame_stride=stride)
    clips = frames_of(recipe, timeline)
    for frames in clips:
        assert list(frames) == [frames[0] + stride * j for j in range(length)]
        assert frames[0] <= last_start
    if temporal != "random" and not tick:
        wanted = [last_start * k / (num_clips - 1) for k in range(num_clips)] if num_clips > 1 else [last_start / 2]
        if temporal == "uniform_open":
            wanted = [last_start * k / num_clips for k in range(num_clips)]
        assert [frames[0] for frames in clips] == [math.ceil(place - 0.5 - 1e-6) for place in wanted]


def test_uniform_clips_golden():
    recipe = SamplingRecipe(num_clips=5, num_frames=4, frame_stride=2)
    starts = [frames[0] for frames in frames_of(recipe, constant(47, 25.0))]
    assert starts == [0, 10, 20, 30, 40]
    middle = SamplingRecipe(num_clips=1, num_frames=4, frame_stride=2)
    assert frames_of(middle, constant(47, 25.0)) == [(20, 22, 24, 26)]
    single_frames = SamplingRecipe(num_clips=3, num_frames=1)
    assert frames_of(single_frames, constant(9, 30.0)) == [(0,), (4,), (8,)]


def test_open_uniform_clips_golden():
    recipe = SamplingRecipe(temporal="uniform_open", num_clips=5, num_frames=4, frame_stride=2)
    assert [frames[0] for frames in frames_of(recipe, constant(47, 25.0))] == [0, 8, 16, 24, 32]
    assert frames_of(recipe, constant(3, 25.0)) == [(0, 2, 1, 0)] * 5


@given(bank_recipes, timelines)
def test_a_crop_of_a_bank_is_one_draw_a_video(recipe, timeline):
    rows = sample_rows(recipe, timeline, "v")
    for crop in range(recipe.num_crops):
        assert len({(row.box, row.flip, row.color) for row in rows[crop :: recipe.num_crops]}) <= 1
    more = sample_rows(dataclasses.replace(recipe, frame_stride=1), timeline, "v")
    if rows and recipe.spatial != "views":
        assert {row.box for row in rows} == {row.box for row in more}, "windows and strides leave the draws alone"


def test_clips_draw_for_themselves():
    recipe = SamplingRecipe(
        num_clips=40, num_frames=2, spatial="random_resized", num_crops=2, flip_probability=0.5,
        color=ColorRecipe(probability=1.0, brightness=0.5),
    )  # fmt: skip
    rows = sample_rows(recipe, constant(100, 25.0), "v")
    assert len({row.box for row in rows}) > 70
    assert len({row.color for row in rows}) == 80
    assert {row.flip for row in rows} == {False, True}


def test_strides_count_at_the_target_rate():
    recipe = SamplingRecipe(num_clips=2, num_frames=4, frame_stride=2, target_fps=15.0)
    assert frames_of(recipe, constant(60, 30.0)) == [(0, 4, 8, 12), (46, 50, 54, 58)]
    assert frames_of(recipe, constant(120, 60.0)) == [(0, 8, 16, 24), (92, 100, 108, 116)]
    fast = SamplingRecipe(num_clips=1, num_frames=6, frame_stride=1, target_fps=20.0)
    assert frames_of(fast, constant(3, 10.0)) == [(0, 0, 1, 1, 2, 2)]


def test_variable_rate_is_read_by_time():
    # Ten frames in the first second, two in the second one: mean rate 6 frames a second.
    timeline = variable([0.1] * 10 + [0.5, 0.5])
    recipe = SamplingRecipe(num_clips=1, num_frames=4, frame_stride=3)
    assert frames_of(recipe, timeline) == [(2, 7, 10, 11)]  # starts nearest to 1/6 s, then 0.5 s apart
    assert [row[0] for row in frames_of(bank(target_fps=2.0, frame_stride=1), timeline)] == [0, 5, 10, 11]


@pytest.mark.parametrize(("short_videos", "expected"), [("loop", (0, 2, 4, 1, 3, 0)), ("clamp", (0, 2, 4, 4, 4, 4))])
def test_short_videos_loop_or_clamp(short_videos, expected):
    recipe = SamplingRecipe(num_clips=2, num_frames=6, frame_stride=2, short_videos=short_videos, temporal="random")
    assert frames_of(recipe, constant(5, 30000 / 1001)) == [expected, expected]


@given(
    st.integers(1, 30), st.sampled_from(FRAME_RATES), st.integers(1, 40), st.integers(1, 9), st.sampled_from([1, 2, 3])
)
def test_loop_is_modulo_and_clamp_is_minimum(num_frames, fps, length, stride, slower):
    assume((length - 1) * stride + 1 > num_frames)
    timeline = constant(num_frames * slower, fps * slower, start=2.0)
    target = None if slower == 1 else fps
    for short_videos, fold in (("loop", lambda i: i % num_frames), ("clamp", lambda i: min(i, num_frames - 1))):
        recipe = SamplingRecipe(
            num_clips=1, num_frames=length, frame_stride=stride, short_videos=short_videos, target_fps=target
        )
        (frames,) = frames_of(recipe, timeline)
        expected = [fold(stride * j) * slower for j in range(length)]
        if short_videos == "clamp":  # at the target rate the last moment is the end of the video, not of its last step
            expected = [min(stride * j * slower, num_frames * slower - 1) for j in range(length)]
        assert list(frames) == expected


def test_random_starts_are_keyed_by_seed_and_video_and_cover_all_starts():
    recipe = SamplingRecipe(temporal="random", num_clips=400, num_frames=3, frame_stride=2)
    timeline = constant(12, 25.0)
    starts = [frames[0] for frames in frames_of(recipe, timeline)]
    counts = np.bincount(starts)
    assert len(counts) == 8
    assert np.sum((counts - 50) ** 2 / 50) < 29.9  # chi-square with 7 degrees of freedom at 1e-4
    more = SamplingRecipe(temporal="random", num_clips=450, num_frames=3, frame_stride=2)
    assert frames_of(more, timeline)[:400] == frames_of(recipe, timeline), "more clips leave the first ones alone"
    assert frames_of(recipe, timeline, "w") != frames_of(recipe, timeline)
    reseeded = SamplingRecipe(temporal="random", num_clips=400, num_frames=3, frame_stride=2, seed=1)
    assert frames_of(reseeded, timeline) != frames_of(recipe, timeline)


def test_random_starts_golden():
    recipe = SamplingRecipe(temporal="random", num_clips=5, num_frames=1)
    assert [frames[0] for frames in frames_of(recipe, constant(1000, 25.0), "clips/a.mp4")] == [557, 704, 190, 962, 700]


@given(st.integers(1, 500), st.sampled_from(FRAME_RATES), st.integers(1, 12), st.sampled_from([0.0, 0.001, 1 / 90000]))
def test_a_bank_of_a_whole_video_is_every_nth_frame(num_frames, fps, stride, tick):
    frames = frames_of(bank(frame_stride=stride), constant(num_frames, fps, start=3.2, tick=tick))
    assert [row[0] for row in frames] == list(range(0, num_frames, stride))


@given(timelines, st.integers(1, 5), st.sampled_from([None, 3.0, 12.0]), st.lists(st.floats(0.01, 9), max_size=4))
def test_windows_tile_the_bank(timeline, stride, target_fps, cuts):
    whole = frames_of(bank(frame_stride=stride, target_fps=target_fps), timeline)
    edges = [None, *sorted(set(cuts)), None]
    parts = []
    for start, end in itertools.pairwise(edges):
        window = bank(frame_stride=stride, target_fps=target_fps, start_seconds=start, end_seconds=end)
        parts += frames_of(window, timeline)
    assert parts == whole


def test_bank_windows_golden():
    timeline = constant(100, 10.0)
    assert frames_of(bank(frame_stride=4, start_seconds=1.0, end_seconds=2.4), timeline) == [(12,), (16,), (20,)]
    assert frames_of(bank(frame_stride=1, target_fps=1.0, start_seconds=8.0), timeline) == [(80,), (90,)]
    beyond = bank(start_seconds=11.0)
    assert frames_of(beyond, timeline) == []
    assert count_rows(beyond, num_frames=100, duration_seconds=10.0) == 0


def test_a_video_without_frames_has_no_rows():
    empty = Timeline(pts_seconds=np.empty(0), duration_seconds=0.0, height=0, width=0)
    assert sample_rows(SamplingRecipe(), empty, "v") == []
    assert count_rows(SamplingRecipe(), num_frames=0, duration_seconds=0.0) == 0


@given(timelines, st.integers(1, 20), st.integers(1, 5), st.booleans())
def test_a_spread_clip_has_a_frame_of_each_part_of_the_video(timeline, num_frames, num_clips, is_random):
    temporal = "spread_random" if is_random else "spread"
    recipe = SamplingRecipe(temporal=temporal, num_clips=num_clips, num_frames=num_frames, frame_stride=7)
    ends = np.append(timeline.pts_seconds[1:], timeline.pts_seconds[0] + timeline.duration_seconds)
    part = timeline.duration_seconds / num_frames
    for frames in frames_of(recipe, timeline):
        assert list(frames) == sorted(frames)
        for place, frame in enumerate(frames):  # it is shown at some time of its part
            shown = (timeline.pts_seconds[frame], ends[frame]) - timeline.pts_seconds[0]
            assert shown[0] <= (place + 1) * part + 1e-5
            assert shown[1] >= place * part - 1e-5


@pytest.mark.parametrize("fps", FRAME_RATES)
@pytest.mark.parametrize("num_clips", [1, 2, 3])
def test_spread_clips_golden(num_clips, fps):
    def spread(num_frames, length):
        recipe = SamplingRecipe(temporal="spread", num_clips=num_clips, num_frames=num_frames)
        return frames_of(recipe, constant(length, fps, start=1.4))

    assert spread(8, 8) == [tuple(range(8))] * num_clips
    assert (
        spread(4, 24)
        == {
            1: [(3, 9, 15, 21)],
            2: [(1, 7, 13, 19), (4, 10, 16, 22)],
            3: [(1, 7, 13, 19), (3, 9, 15, 21), (5, 11, 17, 23)],
        }[num_clips]
    )
    assert all(set(frames) == set(range(3)) for frames in spread(9, 3))


def test_random_places_of_spread_clips_are_keyed_and_cover_each_part():
    recipe = SamplingRecipe(temporal="spread_random", num_clips=200, num_frames=4)
    clips = frames_of(recipe, constant(24, 25.0))
    assert clips == frames_of(recipe, constant(24, 25.0))
    assert {frames[0] for frames in clips} == set(range(6))
    assert all(np.diff(frames).tolist() == [6, 6, 6] for frames in clips)
    assert clips != frames_of(dataclasses.replace(recipe, seed=1), constant(24, 25.0))
    assert clips != frames_of(recipe, constant(24, 25.0), "another")
    assert clips[:50] == frames_of(dataclasses.replace(recipe, num_clips=50), constant(24, 25.0))


def test_one_frame_fills_any_clip():
    recipe = SamplingRecipe(num_clips=2, num_frames=4, target_fps=7.0)
    assert frames_of(recipe, constant(1, 25.0)) == [(0, 0, 0, 0)] * 2


@pytest.mark.parametrize("num_clips", [2, 5, 10])
def test_multi_view_protocols_are_uniform_times_views(num_clips):
    recipe = SamplingRecipe(num_clips=num_clips, spatial="views", num_crops=3, crop_fraction=1.0)
    rows = sample_rows(recipe, constant(300, 30.0), "v")
    assert len(rows) == num_clips * 3
    assert [row.box.x0 for row in rows] == [0, 8, 16] * num_clips
    starts = [row.frames[0] for row in rows]
    assert starts[0] == 0
    assert starts[-1] == 300 - 29
    assert starts == [start for start in starts[::3] for _ in range(3)]


def test_clip_times_reach_to_the_end_of_the_last_frame():
    timeline = variable([0.1, 0.2, 0.3, 0.4], start=5.0)

    def spec(*frames: int) -> ClipSpec:
        return ClipSpec(index=0, frames=frames, box=Box(y0=1, x0=2, y1=31, x1=10), flip=False)

    assert clip_times(spec(0, 1), timeline) == pytest.approx((5.0, 5.3))
    assert clip_times(spec(2, 3), timeline) == pytest.approx((5.3, 6.0))
    assert clip_times(spec(2, 3, 0), timeline) == pytest.approx((5.0, 6.0)), "a loop spans what it looped over"
    coordinates = normalised_coordinates([spec(0, 1), spec(3)], timeline)
    assert coordinates.dtype == np.float64
    np.testing.assert_allclose(
        coordinates, [[0.0, 1 / 31, 2 / 17, 0.3, 1.0, 10 / 17], [0.6, 1 / 31, 2 / 17, 1.0, 1.0, 10 / 17]]
    )
    assert normalised_coordinates([], timeline).shape == (0, 6)


@given(clip_recipes | bank_recipes, timelines)
def test_coordinates_lie_in_the_unit_cube_and_round_trip(recipe, timeline):
    rows = sample_rows(recipe, timeline, "v")
    coordinates = normalised_coordinates(rows, timeline)
    assert ((coordinates >= 0) & (coordinates <= 1)).all()
    assert (coordinates[:, :3] < coordinates[:, 3:]).all()
    for row, (_, y0, x0, _, y1, x1) in zip(rows, coordinates.tolist(), strict=True):
        scaled = (y0 * timeline.height, x0 * timeline.width, y1 * timeline.height, x1 * timeline.width)
        assert tuple(map(round, scaled)) == (row.box.y0, row.box.x0, row.box.y1, row.box.x1)


@given(st.integers(1, 60), st.integers(0, 70), st.integers(1, 12), st.integers(1, 5), st.integers(1, 8), st.booleans())
def test_playback_rates_gather_from_a_bank(num_rows, start, num_frames, base_stride, rate, wrap):
    expected = []
    for j in range(num_frames):
        row = start + j * base_stride * rate
        expected.append(row % num_rows if wrap else min(row, num_rows - 1))
    options = {"num_frames": num_frames, "base_stride": base_stride, "wrap": wrap}
    assert playback_rate_indices(num_rows, start=start, rate=rate, **options).tolist() == expected
    many = playback_rate_indices(num_rows, start=np.array([start, 0]), rate=np.array([rate, 1]), **options)
    assert many.shape == (2, num_frames)
    assert many[0].tolist() == expected


def test_a_bank_must_be_finer_than_the_jittered_stride():
    assert bank_supports_stride(4, 4, 0.0)
    assert not bank_supports_stride(4, 4, 0.25)
    assert bank_supports_stride(3, 4, 0.25)
    assert not bank_supports_stride(5, 4, 0.0)
    assert bank_supports_stride(7, 10, 0.3), "10 * (1 - 0.3) must not round below 7"
