"""Positions of clips, by hand and against a plain loop."""

from dataclasses import dataclass
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.data.positions import VideoExtents, set_positions
from featcache.data.sampling import clip_times, normalised_coordinates, sample_rows
from featcache.data.types import Timeline
from featcache.networks.settings import NUM_NUMBERS
from featcache.recipes import PositionForm, SamplingRecipe


@dataclass
class Rows:
    """Columns as a row table has them."""

    video: np.ndarray
    t0: np.ndarray
    t1: np.ndarray
    y0: np.ndarray
    x0: np.ndarray
    y1: np.ndarray
    x1: np.ndarray
    flip: np.ndarray


def rows_of(*lines):
    """Lines (video, t0, t1, y0, x0, y1, x1, flip)."""
    names = Rows.__dataclass_fields__
    columns = dict(zip(names, zip(*lines, strict=True), strict=True))
    kinds = {"t0": np.float64, "t1": np.float64, "flip": bool}
    return Rows(**{name: np.array(values, kinds.get(name, np.int32)) for name, values in columns.items()})


def extents_of(*lines, is_view=None, start=0.0):
    """Lines (height, width, duration)."""
    height, width, duration = np.array(lines, np.float64).T
    return VideoExtents(
        height=height,
        width=width,
        duration=duration,
        start=np.full(len(lines), start),
        is_view=np.zeros(len(lines), bool) if is_view is None else np.array(is_view),
    )


ROWS = rows_of(
    (0, 1.0, 3.0, 20, 0, 120, 100, False),
    (0, 6.0, 8.0, 0, 50, 100, 150, True),
    (1, 0.0, 2.0, 10, 40, 60, 90, True),
)
EXTENTS = extents_of((200, 400, 10.0), (100, 100, 4.0), is_view=[False, True])


def test_six_numbers_are_shares_of_the_video():
    wanted = [
        [0.1, 0.0, 0.6, 0.25, 0.1, 0.3],
        [0.0, 0.125, 0.5, 0.375, 0.6, 0.8],
        [0.1, 0.4, 0.6, 0.9, 0.0, 0.5],
    ]
    got = set_positions(ROWS, form="box6", extents=EXTENTS)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_seven_numbers_are_shares_of_the_videos_own_clips():
    wanted = [
        [0, 20 / 120, 0, 1, 100 / 150, 0, 2 / 7],
        [1, 0, 50 / 150, 100 / 120, 1, 5 / 7, 1],
        [-1, 0, 0, 1, 1, 0, 1],
    ]
    np.testing.assert_allclose(set_positions(ROWS, form="code7", extents=EXTENTS), wanted, rtol=1e-6)


@pytest.mark.parametrize("start", [1.4, 1000.0, -0.5])
def test_times_count_from_the_first_frame(start):
    rows = rows_of((0, start + 2, start + 4, 0, 0, 10, 10, False), (0, start + 0.5, start + 2.5, 0, 0, 10, 10, False))
    got = set_positions(rows, form="box6", extents=extents_of((10, 10, 10.0), start=start))
    np.testing.assert_allclose(got[:, 4:], [[0.2, 0.4], [0.05, 0.25]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("start", [1.4, 1000.0, -0.5])
def test_an_unknown_clock_is_moved_so_that_all_clips_lie_inside(start):
    rows = rows_of((0, start, start + 2, 0, 0, 10, 10, False), (0, start + 8, start + 10, 0, 0, 10, 10, False))
    got = set_positions(rows, form="box6", extents=extents_of((10, 10, 10.0)))
    np.testing.assert_allclose(got[:, 4:], [[0, 0.2], [0.8, 1]], rtol=1e-5, atol=1e-6)


def test_what_is_not_known_is_nan():
    rows = rows_of(
        (0, np.nan, np.nan, 0, 0, 10, 10, False), (0, 0, 1, -1, -1, -1, -1, False), (0, 0, 1, 0, 0, 5, 5, False)
    )
    for form, first in (("box6", 0), ("code7", 1)):
        got = np.isnan(set_positions(rows, form=form, extents=extents_of((10, 10, 2.0)))[:, first:])
        assert got.tolist() == [[False] * 4 + [True] * 2, [True] * 4 + [False] * 2, [False] * 6]
    sizeless = set_positions(ROWS, form="box6", extents=extents_of((0, 400, 10.0), (100, 100, 0.0)))
    assert np.isnan(sizeless[0]).tolist() == [True, False, True, False, False, False]
    assert np.isnan(sizeless[2]).tolist() == [False] * 4 + [True] * 2
    assert np.isfinite(set_positions(ROWS, form="code7", extents=extents_of((0, 0, 0.0), (0, 0, 0.0)))).all()


def plain(rows, form, extents):
    """One row after another."""
    result = []
    for row in range(len(rows.video)):
        video = rows.video[row]
        mine = [other for other in range(len(rows.video)) if rows.video[other] == video]
        if form == "box6":
            height, width, duration = extents.height[video], extents.width[video], extents.duration[video]
            result.append(
                [
                    rows.y0[row] / height,
                    rows.x0[row] / width,
                    rows.y1[row] / height,
                    rows.x1[row] / width,
                    rows.t0[row] / duration,
                    rows.t1[row] / duration,
                ]
            )
            continue
        line = [-1.0 if extents.is_view[video] else float(rows.flip[row])]
        for low, high in (("y0", "y1"), ("x0", "x1"), ("t0", "t1")):
            least = min(getattr(rows, low)[other] for other in mine)
            most = max(getattr(rows, high)[other] for other in mine)
            line += [(getattr(rows, name)[row] - least) / (most - least) for name in (low, high)]
        flip, y0, y1, x0, x1, t0, t1 = line
        result.append([flip, y0, x0, y1, x1, t0, t1])
    return np.array(result, np.float32)


box = st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(1, 50), st.integers(1, 50))
clip = st.tuples(st.integers(0, 2), st.floats(0, 5), st.floats(0.1, 5), box, st.booleans())


@settings(max_examples=50)
@given(clips=st.lists(clip, min_size=1, max_size=12), form=st.sampled_from(["box6", "code7"]))
def test_equals_a_plain_loop(clips, form):
    clips.sort(key=lambda one: one[0])
    rows = rows_of(
        *(
            (video, start, start + length, y, x, y + height, x + width, flip)
            for video, start, length, (y, x, height, width), flip in clips
        )
    )
    extents = extents_of((100, 110, 10.0), (120, 100, 11.0), (100, 100, 12.0), is_view=[False, True, False])
    got = set_positions(rows, form=form, extents=extents)
    np.testing.assert_allclose(got, plain(rows, form, extents), rtol=1e-5, atol=1e-6)
    assert got[:, -6:].min() >= 0
    assert got[:, -6:].max() <= 1


def test_equals_the_coordinates_of_the_sampled_rows():
    recipe = SamplingRecipe(temporal="random", num_clips=9, num_frames=4, spatial="random_resized", num_crops=2)
    pts = np.cumsum(np.linspace(0.02, 0.06, 80)) + 5.0
    timeline = Timeline(pts_seconds=pts, duration_seconds=pts[-1] - pts[0] + 0.06, height=90, width=160)
    specs = sample_rows(recipe, timeline, "video")
    lines = [
        (0, *clip_times(spec, timeline), spec.box.y0, spec.box.x0, spec.box.y1, spec.box.x1, spec.flip)
        for spec in specs
    ]
    extents = extents_of((90, 160, timeline.duration_seconds), start=pts[0])
    got = set_positions(rows_of(*lines), form="box6", extents=extents)
    t0, y0, x0, t1, y1, x1 = normalised_coordinates(specs, timeline).T
    np.testing.assert_allclose(got, np.stack([y0, x0, y1, x1, t0, t1], axis=1), rtol=1e-5, atol=1e-6)


def test_the_network_knows_every_form():
    assert set(NUM_NUMBERS) == set(get_args(PositionForm))
