"""Colour draws: their laws and keys, and pixels equal to torchvision's own transforms and to plain arithmetic."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torchvision.transforms import v2

from featcache.data.boxes import sample_color, sample_flip
from featcache.data.transforms import recolor
from featcache.data.types import ColorStep
from featcache.errors import ConfigError
from featcache.recipes import ColorRecipe, SamplingRecipe

MOCO = ColorRecipe(brightness=0.6, contrast=0.6, saturation=0.6, hue=0.15, grey_probability=0.2, blur_probability=0.5)
JITTER = ("brightness", "contrast", "saturation", "hue")


def draw(color: ColorRecipe, index: int, *, video_id: str = "v", crop: int = 1, **changes: object):
    recipe = SamplingRecipe(**{"spatial": "random_resized", "num_crops": 9, "color": color, **changes})
    return sample_color(recipe, video_id=video_id, temporal_index=index, crop=crop)


def image(height: int = 40, width: int = 60) -> torch.Tensor:
    """Smooth gradients and noise, uint8 [3, height, width]."""
    rng = np.random.default_rng(0)
    ramp = (
        np.add.outer(np.linspace(0, 120, height), np.linspace(0, 100, width)) * np.array([1, 0.7, 0.4])[:, None, None]
    )
    return torch.from_numpy((ramp + rng.integers(0, 35, ramp.shape)).astype(np.uint8))


def test_amounts_are_uniform_and_steps_as_frequent_as_asked():
    draws = [draw(MOCO, index) for index in range(3000)]
    amounts = {
        name: np.array([s.amount for steps in draws for s in steps if s.name == name]) for name in (*JITTER, "blur")
    }
    ranges = {**dict.fromkeys(JITTER, (0.4, 1.6)), "hue": (-0.15, 0.15), "blur": (0.1, 2.0)}
    for name, (low, high) in ranges.items():
        values = amounts[name]
        assert low <= values.min() <= values.max() <= high
        spread = (high - low) / math.sqrt(12)
        assert abs(values.mean() - (low + high) / 2) < 5 * spread / math.sqrt(len(values))
        assert abs(values.std() - spread) < 0.05 * spread
    for name, chance in {**dict.fromkeys(JITTER, 0.8), "grey": 0.2, "blur": 0.5}.items():
        share = np.mean([name in [step.name for step in steps] for steps in draws])
        assert abs(share - chance) < 5 * math.sqrt(chance * (1 - chance) / len(draws))
    orders = Counter(tuple(step.name for step in steps if step.name in JITTER) for steps in draws)
    assert len(orders) == 24 + 1, "each order of the four, and none"
    assert {names[-1] for steps in draws if (names := [s.name for s in steps]) and "blur" in names} == {"blur"}


def test_a_draw_is_keyed_and_its_amounts_do_not_depend_on_chances():
    assert draw(MOCO, 3) == draw(MOCO, 3) == draw(MOCO, 3, num_crops=2)
    others = {draw(MOCO, 3), draw(MOCO, 4), draw(MOCO, 3, crop=2), draw(MOCO, 3, video_id="w"), draw(MOCO, 3, seed=1)}
    assert len(others) == 5
    always = ColorRecipe(probability=1.0, brightness=0.6, contrast=0.6, saturation=0.6, hue=0.15)
    for index in range(50):
        kept = tuple(step for step in draw(MOCO, index) if step.name in JITTER)
        assert kept in ((), draw(always, index))
    only = ColorRecipe(probability=1.0, contrast=2.0)
    assert {step.name for index in range(9) for step in draw(only, index)} == {"contrast"}
    assert all(0 <= step.amount <= 3 for index in range(99) for step in draw(only, index))


def test_golden_draw():
    steps = draw(MOCO, 5, video_id="clips/a.mp4", crop=0)
    assert [(step.name, round(step.amount, 6)) for step in steps] == [
        ("brightness", 1.196587),
        ("hue", -0.131714),
        ("saturation", 0.839167),
        ("contrast", 1.349689),
        ("grey", 1.0),
        ("blur", 1.276114),
    ]


def test_the_centre_crop_of_a_bank_is_plain():
    recipe = SamplingRecipe(
        layout="frames", temporal="bank", num_frames=1, spatial="center_and_random", num_crops=3,
        box_fraction=(0.5, 0.5), flip_probability=1.0, color=ColorRecipe(probability=1.0, brightness=0.5),
    )  # fmt: skip
    place = {"video_id": "v", "temporal_index": 0}
    assert [bool(sample_color(recipe, crop=crop, **place)) for crop in range(3)] == [False, True, True]
    assert [sample_flip(recipe, crop=crop, **place) for crop in range(3)] == [False, True, True]
    assert draw(None, 0) == ()


@given(st.permutations(range(4)), *[st.floats(0.0, 2.0)] * 3, st.floats(-0.5, 0.5))
def test_jitter_equals_torchvisions_transform(order, brightness, contrast, saturation, hue):
    amounts = dict(zip(JITTER, (brightness, contrast, saturation, hue), strict=True))
    steps = [ColorStep(JITTER[index], amounts[JITTER[index]]) for index in order]
    params = {f"{name}_factor": amount for name, amount in amounts.items()}
    expected = v2.ColorJitter().transform(image(), {"fn_idx": torch.tensor(order), **params})
    assert torch.equal(recolor(image(), steps), expected)


def test_grey_and_blur_equal_torchvisions_and_leave_the_input_alone():
    pixels = image()
    assert recolor(pixels, ()) is pixels
    assert torch.equal(recolor(pixels, [ColorStep("grey", 1.0)]), v2.Grayscale(3)(pixels))
    blurred = recolor(pixels, [ColorStep("blur", 1.3)])
    assert torch.equal(blurred, v2.GaussianBlur(13, 1.3)(pixels))
    assert torch.equal(pixels, image())
    tiny = image(4, 5)
    assert recolor(tiny, [ColorStep("blur", 2.0)]).shape == tiny.shape


def test_steps_are_what_they_say():
    pixels, plain = image(), image().numpy().astype(float)
    weights = np.array([0.2989, 0.587, 0.114])[:, None, None]
    grey = (plain * weights).sum(0)

    def check(name: str, amount: float, expected: np.ndarray) -> None:
        got = recolor(pixels, [ColorStep(name, amount)]).numpy().astype(float)
        assert np.abs(got - np.clip(expected, 0, 255)).max() < 2.0, name  # torchvision rounds down, grey first

    check("brightness", 1.4, plain * 1.4)
    check("contrast", 0.5, grey.mean() + 0.5 * (plain - grey.mean()))
    check("saturation", 0.3, grey + 0.3 * (plain - grey))
    check("solarise", 128.0, np.where(plain >= 128, 255 - plain, plain))
    check("hue", 1 / 3, plain[[2, 0, 1]])  # a third of a turn: red becomes green
    check("grey", 1.0, np.broadcast_to(grey, plain.shape))
    check("blur", 1.5, gaussian_filter(plain, (0, 1.5, 1.5), mode="mirror"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("probability", 1.1), ("grey_probability", -0.1), ("blur_probability", 2.0), ("brightness", -0.1),
        ("contrast", math.inf), ("hue", 0.6), ("blur_sigma", (2.0, 1.0)), ("blur_sigma", (0.0, 1.0)),
    ],
)  # fmt: skip
def test_impossible_colours_are_refused(field, value):
    with pytest.raises(ConfigError, match=rf"sampling\.color\.{field} is .*must be"):
        ColorRecipe(**{field: value})
