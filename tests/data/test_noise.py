"""Noise on pixels: its laws against closed forms and against the plain way, and that a draw belongs to its place."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.util import random_noise

from featcache.data.boxes import center_box
from featcache.data.noise import NUM_DRAWS, add_noise, outcomes
from featcache.data.transforms import crop_resize
from featcache.data.types import Box, VideoNoise
from featcache.errors import ConfigError, UnknownNameError
from featcache.noise import AMOUNTS, KINDS, SEVERITIES, NoiseRecipe
from featcache.testing.videos import picture

GREY = 128
CELLS = [
    (kind, amount) for kind in KINDS for amount in sorted({row for table in AMOUNTS.values() for row in table[kind]})
]


def law(kind: str, amount: float, value: int) -> np.ndarray:
    """Exact probabilities of the 256 outcomes of a value, clipping and truncation included."""
    x, chances = value / 255, np.zeros(256)
    match kind:
        case "impulse":
            chances[value] += 1 - amount
            chances[0] += amount / 2
            chances[255] += amount / 2
        case "shot":
            rate = x * amount
            for k in range(int(rate + 20 * math.sqrt(rate) + 60)):
                chance = math.exp(k * math.log(rate) - rate - math.lgamma(k + 1)) if rate else float(k == 0)
                chances[int(min(k / amount, 1) * 255)] += chance
        case _:
            deviation = 255 * amount * (x if kind == "speckle" else 1)
            if not deviation:
                chances[value] = 1
                return chances
            normal = NormalDist(value, deviation)
            below = np.array([0.0, *(normal.cdf(edge) for edge in range(1, 256)), 1.0])  # ends take all beyond them
            chances = np.diff(below)
    return chances


def recipe(kind: str, amount: float) -> NoiseRecipe:
    table = next(name for name, rows in AMOUNTS.items() if amount in rows[kind])
    return NoiseRecipe(kind=kind, severity=AMOUNTS[table][kind].index(amount) + 1, table=table)


@pytest.mark.parametrize(("kind", "amount"), CELLS)
def test_mean_and_variance_on_grey_are_those_of_the_closed_form(kind, amount):
    grey = np.full((240, 320, 3), GREY, np.uint8)
    noise = VideoNoise(recipe(kind, amount), "a video")
    assert noise.recipe.amount == amount
    values = add_noise(grey, noise, frame=0).reshape(-1).astype(np.float64)
    chances, levels = law(kind, amount, GREY), np.arange(256)
    mean = chances @ levels
    variance, fourth = (chances @ (levels - mean) ** power for power in (2, 4))
    assert abs(values.mean() - mean) < 3 * math.sqrt(variance / values.size)
    assert abs(values.var() - variance) < 3 * math.sqrt((fourth - variance**2) / values.size)


@pytest.mark.parametrize(("kind", "amount"), CELLS)
def test_outcomes_are_within_half_a_quantile_of_the_exact_law(kind, amount):
    draws = np.arange(NUM_DRAWS, dtype=np.uint16)
    tolerance = 0.5 / (4096 if kind == "shot" else NUM_DRAWS) + 1e-6
    for value in (0, 1, 60, GREY, 200, 254, 255):
        changed = outcomes(np.full(NUM_DRAWS, value, np.uint8), draws, kind=kind, amount=amount)
        share = np.cumsum(np.bincount(changed, minlength=256)) / NUM_DRAWS
        assert np.abs(share - np.cumsum(law(kind, amount, value))).max() <= tolerance
        assert (np.diff(changed.astype(int)) >= 0).all()


def released(pixels: np.ndarray, kind: str, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Noise the plain way: in floating point, one draw per value."""
    x = pixels / 255.0
    match kind:
        case "gaussian":
            x = x + rng.normal(size=x.shape, scale=amount)
        case "shot":
            x = rng.poisson(x * amount) / amount
        case "impulse":
            x = random_noise(x, mode="s&p", amount=amount, rng=rng)
        case "speckle":
            x = x + x * rng.normal(size=x.shape, scale=amount)
    return np.uint8(np.clip(x, 0, 1) * 255)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_has_the_distribution_of_the_plain_way(kind):
    pixels = np.repeat(np.array([3, 90, GREY, 240], np.uint8), 30_000)
    noise = NoiseRecipe(kind=kind, severity=3)
    mine = add_noise(pixels, VideoNoise(noise, "v"), frame=5).reshape(4, -1)
    plain = released(pixels, kind, noise.amount, np.random.default_rng(0)).reshape(4, -1)
    for ours, theirs in zip(mine, plain, strict=True):  # two samples, chi-square over outcomes that occur
        counts = np.stack([np.bincount(each, minlength=256) for each in (ours, theirs)]).astype(float)
        often = counts[:, counts.sum(axis=0) >= 10]
        statistic = ((often[0] - often[1]) ** 2 / often.sum(axis=0)).sum()
        degrees = often.shape[1] - 1
        assert statistic < degrees + 4 * math.sqrt(2 * degrees) + 4


@given(
    st.builds(
        NoiseRecipe, kind=st.sampled_from(KINDS), severity=st.sampled_from([1, 5]), seed=st.integers(0, 3)
    ),
    st.integers(0, 9), st.integers(1, 9), st.integers(0, 9), st.integers(1, 9), st.integers(0, 2**40),
)  # fmt: skip
def test_a_part_of_a_frame_has_the_noise_of_the_whole(noise, y, height, x, width, frame):
    pixels = np.random.default_rng(1).integers(0, 256, (18, 18 + x, 3), np.uint8)
    video = VideoNoise(noise, "v")
    box = Box(y0=y, x0=x, y1=y + height, x1=x + width)
    whole, part = (add_noise(pixels, video, frame=frame, box=each) for each in (None, box))
    inside = np.zeros(pixels.shape, bool)
    inside[y : y + height, x : x + width] = True
    assert np.array_equal(part, np.where(inside, whole, pixels))


def test_a_draw_belongs_to_seed_video_frame_kind_and_severity():
    grey = np.full((24, 32, 3), GREY, np.uint8)
    base = NoiseRecipe(kind="gaussian", severity=3)

    def field(noise: NoiseRecipe = base, video: str = "a", frame: int = 0) -> np.ndarray:
        before = grey.copy()
        result = add_noise(grey, VideoNoise(noise, video), frame=frame)
        assert np.array_equal(grey, before), "the frame itself stays"
        return result

    assert np.array_equal(field(), field())
    others = [
        field(frame=1),
        field(video="b"),
        field(NoiseRecipe(kind="gaussian", severity=3, seed=1)),
        field(NoiseRecipe(kind="gaussian", severity=4)),
        field(NoiseRecipe(kind="speckle", severity=3)),
    ]
    for other in others:  # independent, and so uncorrelated to within 4 standard errors
        assert abs(np.corrcoef(field().reshape(-1), other.reshape(-1))[0, 1]) < 4 / math.sqrt(grey.size)
    lag = field().reshape(-1).astype(float)
    assert abs(np.corrcoef(lag[1:], lag[:-1])[0, 1]) < 4 / math.sqrt(grey.size)
    assert np.array_equal(field(NoiseRecipe(kind="gaussian", severity=3, table="imagenet-c")), field())


def test_a_golden_draw():
    noise = VideoNoise(NoiseRecipe(kind="shot", severity=2), "v")
    assert add_noise(np.full(8, GREY, np.uint8), noise, frame=7).tolist() == [145, 102, 147, 142, 117, 132, 145, 150]


def test_noise_on_the_frame_is_weakened_by_the_resize():
    shown = picture(0, width=320, height=240) // 8 * 7 + 16  # cutting at 0 and 255 weakens the noise of extreme values
    box = center_box(height=240, width=320, fraction=0.875)
    noise = VideoNoise(NoiseRecipe(kind="gaussian", severity=3), "v")

    def crop(frame: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(frame).permute(2, 0, 1)
        return crop_resize(image, box, size=112, interpolation="bilinear").numpy()

    clean = crop(shown)
    errors = [
        np.sqrt(np.mean((noisy.astype(float) - clean) ** 2))
        for noisy in (crop(add_noise(shown, noise, frame=0)), add_noise(clean, noise, frame=0))
    ]
    assert errors[0] == pytest.approx(16, abs=1)
    assert errors[1] == pytest.approx(44, abs=2)
    assert 0.36 < errors[0] / errors[1] < 0.38


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"severity": 6}, ConfigError, "noise severity is 6; it must be a whole number from 1 to 5"),
        ({"kind": "gausian"}, UnknownNameError, "gaussian"),
        ({"table": "imagenet_c"}, UnknownNameError, "imagenet-c"),
        ({"place": "crops"}, UnknownNameError, "crop"),
    ],
)
def test_a_wrong_value_is_named(changes, error, message):
    with pytest.raises(error, match=message):
        NoiseRecipe(**{"kind": "gaussian", "severity": 1, **changes})


def test_the_constants_are_those_of_the_two_papers():
    assert {kind: AMOUNTS["video"][kind] for kind in KINDS} == {
        "gaussian": (0.08, 0.12, 0.18, 0.26, 0.38),
        "shot": (250, 100, 50, 30, 15),
        "impulse": (0.03, 0.06, 0.09, 0.17, 0.27),
        "speckle": (0.15, 0.2, 0.25, 0.3, 0.35),
    }
    differing = {kind for kind in KINDS if AMOUNTS["imagenet-c"][kind] != AMOUNTS["video"][kind]}
    assert differing == {"shot", "speckle"}
    assert AMOUNTS["imagenet-c"]["shot"] == (60, 25, 12, 5, 3)
    assert AMOUNTS["imagenet-c"]["speckle"] == (0.15, 0.2, 0.35, 0.45, 0.6)
    assert SEVERITIES == (1, 2, 3, 4, 5)
