import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2

from featcache.data.boxes import (
    center_box,
    random_placed_box,
    random_resized_box,
    random_short_side_box,
    sample_boxes,
    sample_flip,
    square_side,
    view_boxes,
)
from featcache.data.types import Box
from featcache.recipes import SamplingRecipe

sizes = st.integers(1, 70)
fractions = st.floats(0.001, 1.0)


def is_inside(box: Box, *, height: int, width: int) -> bool:
    return 0 <= box.y0 < box.y1 <= height and 0 <= box.x0 < box.x1 <= width


@given(sizes, sizes, fractions, st.integers(1, 12))
def test_squares_lie_inside_and_hold_a_pixel(height: int, width: int, fraction: float, num_views: int):
    boxes = view_boxes(height=height, width=width, num_views=num_views, fraction=fraction)
    assert len(boxes) == num_views
    side = square_side(height=height, width=width, fraction=fraction)
    for box in boxes:
        assert is_inside(box, height=height, width=width)
        assert box.y1 - box.y0 == box.x1 - box.x0 == side
    assert abs(side - fraction * min(height, width)) <= 0.5 or side == 1


@given(sizes, sizes, fractions, st.integers(2, 12))
def test_views_reach_both_ends_of_the_longer_side_and_are_evenly_spaced(
    height: int, width: int, fraction: float, num_views: int
):
    boxes = view_boxes(height=height, width=width, num_views=num_views, fraction=fraction)
    offsets = [box.x0 if width >= height else box.y0 for box in boxes]
    across = {(box.y0, box.y1) if width >= height else (box.x0, box.x1) for box in boxes}
    assert offsets[0] == 0
    assert max(boxes[-1].x1, boxes[-1].y1) == max(height, width)
    assert max(np.diff(offsets)) - min(np.diff(offsets)) <= 1
    assert len(across) == 1


@given(sizes, sizes, fractions)
def test_the_middle_of_three_views_is_the_centre(height: int, width: int, fraction: float):
    middle = view_boxes(height=height, width=width, num_views=3, fraction=fraction)[1]
    assert middle == center_box(height=height, width=width, fraction=fraction)
    assert view_boxes(height=height, width=width, num_views=1, fraction=fraction) == [middle]


def test_golden_squares():
    assert center_box(height=240, width=320, fraction=0.875) == Box(y0=15, x0=55, y1=225, x1=265)
    left, centre, right = view_boxes(height=240, width=320, num_views=3, fraction=1.0)
    assert [left, centre, right] == [Box(y0=0, x0=x, y1=240, x1=x + 240) for x in (0, 40, 80)]
    top, _, bottom = view_boxes(height=320, width=240, num_views=3, fraction=1.0)
    assert [top, bottom] == [Box(y0=y, x0=0, y1=y + 240, x1=240) for y in (0, 80)]
    assert center_box(height=1, width=1, fraction=0.1) == Box(y0=0, x0=0, y1=1, x1=1)


@given(
    sizes,
    sizes,
    st.tuples(st.floats(0.001, 1.0), st.floats(0.001, 1.0)).map(sorted),
    st.tuples(st.floats(0.1, 10.0), st.floats(0.1, 10.0)).map(sorted),
    st.integers(0, 9),
)
def test_random_boxes_lie_inside_and_hold_a_pixel(height, width, scale, ratio, seed):
    box = random_resized_box(np.random.default_rng(seed), height=height, width=width, scale=scale, ratio=ratio)
    assert is_inside(box, height=height, width=width)


@pytest.mark.parametrize(("height", "width"), [(10, 1000), (1000, 10), (7, 300), (1, 1), (1, 50), (50, 1)])
def test_fall_back_is_torchvisions(height: int, width: int):
    # The whole area at an aspect far from the frame's never fits, so both must fall back.
    crop = v2.RandomResizedCrop(8, scale=(1.0, 1.0), ratio=(0.75, 4 / 3))
    theirs = crop.make_params([torch.empty(3, height, width)])
    ours = random_resized_box(
        np.random.default_rng(0), height=height, width=width, scale=(1.0, 1.0), ratio=(0.75, 4 / 3)
    )
    assert (ours.y0, ours.x0, ours.y1 - ours.y0, ours.x1 - ours.x0) == tuple(
        theirs[name] for name in ("top", "left", "height", "width")
    )


def test_the_law_is_torchvisions():
    height, width, scale, ratio, draws = 120, 180, (0.1, 0.9), (0.5, 2.0), 4000
    rng = np.random.default_rng(0)
    ours = np.array(
        [
            (box.y0, box.x0, box.y1 - box.y0, box.x1 - box.x0)
            for box in (
                random_resized_box(rng, height=height, width=width, scale=scale, ratio=ratio) for _ in range(draws)
            )
        ]
    )
    crop, image = v2.RandomResizedCrop(8, scale=scale, ratio=ratio), torch.empty(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        params = [crop.make_params([image]) for _ in range(draws)]
    theirs = np.array([(p["top"], p["left"], p["height"], p["width"]) for p in params])
    for measure in (
        lambda b: b[:, 2] * b[:, 3] / (height * width),
        lambda b: np.log(b[:, 3] / b[:, 2]),
        lambda b: b[:, 0] / height,
        lambda b: b[:, 1] / width,
    ):
        mine, reference = np.sort(measure(ours)), np.sort(measure(theirs))
        # Two-sample Kolmogorov-Smirnov at about 1e-5: the law, not only its mean.
        grid = np.concatenate([mine, reference])
        gap = np.abs(np.searchsorted(mine, grid, "right") - np.searchsorted(reference, grid, "right")).max() / draws
        assert gap < 2.47 * math.sqrt(2 / draws)


ranges = st.tuples(st.floats(0.001, 1.0), st.floats(0.001, 1.0)).map(lambda pair: tuple(sorted(pair)))


@given(sizes, sizes, ranges, st.integers(0, 9))
def test_short_side_boxes_are_squares_inside_of_a_side_in_range(height, width, side_range, seed):
    rng = np.random.default_rng(seed)
    box = random_short_side_box(rng, height=height, width=width, side_range=side_range)
    assert is_inside(box, height=height, width=width)
    low, high = (square_side(height=height, width=width, fraction=fraction) for fraction in side_range)
    assert low <= box.y1 - box.y0 == box.x1 - box.x0 <= high


def test_the_short_side_law_is_pyslowfasts():
    height, width, draws = 2400, 3200, 4000  # large, so that rounding to pixels does not matter
    rng = np.random.default_rng(0)
    boxes = [random_short_side_box(rng, height=height, width=width, side_range=(0.7, 0.875)) for _ in range(draws)]
    sides = np.array([box.y1 - box.y0 for box in boxes])
    short_side = 224 * height / sides  # of the resized frame out of which 224 are cut
    places = np.array([[box.y0 / (height - s), box.x0 / (width - s)] for box, s in zip(boxes, sides, strict=True)])
    for values, low, high in ((short_side, 256, 320), (places[:, 0], 0, 1), (places[:, 1], 0, 1)):
        unit = np.sort((values - low) / (high - low))
        # One-sample Kolmogorov-Smirnov against the uniform law at about 1e-5.
        assert np.abs(unit - (np.arange(draws) + 0.5) / draws).max() < 2.47 / math.sqrt(draws)


@given(sizes, sizes, st.tuples(fractions, fractions), st.integers(0, 9))
def test_placed_boxes_have_one_size_and_lie_inside(height, width, box_fraction, seed):
    box = random_placed_box(np.random.default_rng(seed), height=height, width=width, box_fraction=box_fraction)
    assert is_inside(box, height=height, width=width)
    for side, fraction, size in ((box.y1 - box.y0, box_fraction[0], height), (box.x1 - box.x0, box_fraction[1], width)):
        assert abs(side - fraction * size) <= 0.5 or side == 1


def test_placed_boxes_reach_every_place_alike():
    rng = np.random.default_rng(0)
    boxes = [random_placed_box(rng, height=256, width=320, box_fraction=(0.875, 0.7)) for _ in range(4000)]
    assert {(box.y1 - box.y0, box.x1 - box.x0) for box in boxes} == {(224, 224)}
    for offsets, num_places in (([box.y0 for box in boxes], 33), ([box.x0 for box in boxes], 97)):
        counts = np.bincount(offsets, minlength=num_places)
        assert len(counts) == num_places
        expected = 4000 / num_places
        degrees = num_places - 1
        assert np.sum((counts - expected) ** 2 / expected) < degrees + 5 * math.sqrt(2 * degrees)


def test_a_bank_has_the_centre_and_nested_random_boxes():
    def boxes(num_crops: int) -> list[Box]:
        recipe = random_recipe(spatial="center_and_random", num_crops=num_crops, box_fraction=(0.875, 0.7))
        return sample_boxes(recipe, height=240, width=320, video_id="v", temporal_index=0)

    assert boxes(1) == [center_box(height=240, width=320, fraction=0.875)]
    assert boxes(5)[:3] == boxes(3)
    assert {(box.y1 - box.y0, box.x1 - box.x0) for box in boxes(5)[1:]} == {(210, 224)}
    assert len(set(boxes(5))) == 5


def random_recipe(**changes: object) -> SamplingRecipe:
    return SamplingRecipe(**{"spatial": "random_resized", "num_crops": 2, **changes})


def test_random_boxes_are_keyed_by_seed_video_time_and_crop():
    def boxes(recipe: SamplingRecipe, video_id: str, temporal_index: int) -> list[Box]:
        return sample_boxes(recipe, height=240, width=320, video_id=video_id, temporal_index=temporal_index)

    base = boxes(random_recipe(), "a", 0)
    assert base == boxes(random_recipe(), "a", 0)
    assert base == boxes(random_recipe(num_crops=5), "a", 0)[:2], "more crops leave the first ones alone"
    everything = {*base, *boxes(random_recipe(), "a", 1), *boxes(random_recipe(), "b", 0)}
    everything |= set(boxes(random_recipe(seed=1), "a", 0))
    assert len(everything) == 8


def test_random_boxes_golden():
    box = sample_boxes(random_recipe(num_crops=1), height=240, width=320, video_id="clips/a.mp4", temporal_index=3)
    assert box == [Box(y0=88, x0=62, y1=239, x1=191)]


def test_flips():
    def flips(probability: float, seed: int = 0) -> list[bool]:
        recipe = SamplingRecipe(flip_probability=probability, seed=seed)
        return [sample_flip(recipe, video_id="v", temporal_index=t, crop=c) for t in range(500) for c in range(4)]

    assert not any(flips(0.0))
    assert all(flips(1.0))
    assert abs(np.mean(flips(0.3)) - 0.3) < 5 * math.sqrt(0.21 / 2000)
    assert flips(0.5) == flips(0.5) != flips(0.5, seed=1)
    assert all(often or not seldom for seldom, often in zip(flips(0.2), flips(0.6), strict=True))
