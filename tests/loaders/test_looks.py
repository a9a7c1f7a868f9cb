"""Looks: the laws of their boxes, colours and tilts, and pixels equal to torchvision's own transforms."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from featcache.config import parse
from featcache.data.transforms import cut_tilted, tilted_box
from featcache.data.types import Box, ColorStep
from featcache.errors import ConfigError
from featcache.loaders.looks import LookSettings, draw_look
from featcache.loaders.views import Look, View, cut_views

SIDES = st.integers(2, 400)


def drawn(settings, *, height, width, seed=0):
    return draw_look(settings, np.random.default_rng(seed), height=height, width=width)


@given(height=SIDES, width=SIDES, seed=st.integers(0, 99))
@pytest.mark.parametrize("crop", ["short_side", "resized", "stretched", "centre", "stretched_centre"])
def test_boxes_lie_in_the_frame(crop, height, width, seed):
    box = drawn(LookSettings(crop=crop), height=height, width=width, seed=seed).box
    assert 0 <= box.y0 < box.y1 <= height
    assert 0 <= box.x0 < box.x1 <= width


def test_boxes_of_fixed_size():
    look = {crop: drawn(LookSettings(crop=crop, side_range=(0.5, 0.875)), height=128, width=171).box
            for crop in ("stretched", "centre", "stretched_centre")}  # fmt: skip
    assert (look["stretched"].y1 - look["stretched"].y0, look["stretched"].x1 - look["stretched"].x0) == (112, 112)
    assert look["centre"] == look["stretched_centre"] == Box(y0=8, x0=29, y1=120, x1=141)
    wide = drawn(LookSettings(crop="stretched_centre"), height=256, width=684).box  # twice as high, four times as wide
    assert (wide.y1 - wide.y0, wide.x1 - wide.x0) == (224, 448)


def test_a_stretched_box_is_a_crop_of_the_stretched_frame():
    frame = np.random.default_rng(0).integers(0, 255, (256, 320, 3)).astype(np.uint8)
    settings = LookSettings(crop="stretched_centre", box_fraction=(112 / 128, 112 / 160))
    view = View(frames=(0,), looks=(drawn(settings, height=256, width=320),), size=112)
    (clip,) = cut_views([(0, frame)], [view])
    image = torch.from_numpy(frame).permute(2, 0, 1)
    whole = functional.resize(image, [128, 160], interpolation=InterpolationMode.BICUBIC, antialias=True)
    whole = functional.center_crop(whole, [112, 112])
    inner = (slice(None), slice(4, -4), slice(4, -4))  # at its border a crop before the resize sees less
    assert (clip[0][inner].int() - whole[inner].int()).abs().max() <= 1


@given(height=st.integers(2, 90), width=st.integers(2, 90), tilt=st.floats(-45, 45), data=st.data())
def test_a_tilted_box_is_that_of_the_frame_rotated_as_a_whole(height, width, tilt, data):
    y0, x0 = (data.draw(st.integers(0, side - 1)) for side in (height, width))
    y1, x1 = data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width))
    frame = torch.from_numpy(np.random.default_rng(height).integers(0, 255, (3, height, width)).astype(np.uint8))
    cut = cut_tilted(frame, tilted_box(Box(y0=y0, x0=x0, y1=y1, x1=x1), tilt, height=height, width=width))
    whole = functional.rotate(frame, tilt, interpolation=InterpolationMode.BILINEAR)
    assert cut.dtype == torch.uint8
    assert cut.shape == (3, y1 - y0, x1 - x0)
    assert (cut.int() - whole[:, y0:y1, x0:x1].int()).abs().max() <= 1


@pytest.mark.parametrize("tilt", [-7.5, 10.0])
def test_a_view_is_tilted_cut_resized_mirrored_and_turned_in_this_order(tilt):
    frame = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    box = Box(y0=8, x0=16, y1=44, x1=50)
    views = [View(frames=(0,), looks=(Look(box=box, flip=True, color=(), turns=1, tilt=tilt),), size=32),
             View(frames=(0,), looks=(Look(box=box, flip=False, color=()),), size=32)]  # fmt: skip
    turned, plain = cut_views([(0, frame)], views)
    image = torch.from_numpy(frame).permute(2, 0, 1)

    def resized(image):
        part = image[:, 8:44, 16:50].contiguous()
        return functional.resize(part, [32, 32], interpolation=InterpolationMode.BICUBIC, antialias=True)

    expected = resized(functional.rotate(image, tilt, interpolation=InterpolationMode.BILINEAR)).flip(-1)
    assert (turned[0].int() - torch.rot90(expected, 1, (-2, -1)).int()).abs().max() <= 1
    assert torch.equal(plain[0], resized(image))  # other views of the frame are not turned


def test_frames_of_one_look_share_the_places_of_its_pixels(monkeypatch):
    computed = []

    def counted(*args, **kwargs):
        computed.append(args)
        return tilted_box(*args, **kwargs)

    monkeypatch.setattr("featcache.loaders.views.tilted_box", counted)
    frames = list(enumerate(np.zeros((6, 48, 64, 3), np.uint8)))
    looks = [Look(box=Box(y0=8, x0=16, y1=44, x1=50), flip=False, color=(), tilt=tilt) for tilt in (3.0, -4.0)]
    cut_views(frames, [View(frames=tuple(range(6)), looks=(look,) * 6, size=32) for look in looks])
    assert len(computed) == 2


@pytest.mark.parametrize("tilt", [0.0, 5.0])
def test_a_box_outside_the_frame_is_an_error_tilted_or_not(tilt):
    look = Look(box=Box(y0=8, x0=16, y1=49, x1=50), flip=False, color=(), tilt=tilt)
    with pytest.raises(ValueError, match="does not fit an image of 64x48"):
        cut_views([(0, np.zeros((48, 64, 3), np.uint8))], [View(frames=(0,), looks=(look,), size=32)])


def test_gamma_solarisation_and_tilt_are_as_frequent_and_as_large_as_asked():
    settings = LookSettings(gamma_probability=0.5, gamma=(0.7, 1.5), solarise_probability=0.2, tilt_degrees=10.0)
    looks = [drawn(settings, height=48, width=64, seed=seed) for seed in range(2000)]
    gammas = [step.amount for look in looks for step in look.color if step.name == "gamma"]
    assert abs(len(gammas) / 2000 - 0.5) < 0.05
    assert 0.7 <= min(gammas) < 0.72
    assert 1.48 < max(gammas) <= 1.5
    assert abs(np.mean([any(step.name == "solarise" for step in look.color) for look in looks]) - 0.2) < 0.04
    tilts = np.array([look.tilt for look in looks])
    assert -10 <= tilts.min() < -9.5
    assert 9.5 < tilts.max() <= 10
    assert abs(tilts.mean()) < 0.5


def test_gamma_is_torchvision_s():
    frame = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    look = Look(box=Box(y0=0, x0=0, y1=8, x1=8), flip=False, color=(ColorStep("gamma", 0.8),))
    (clip,) = cut_views([(0, frame)], [View(frames=(0,), looks=(look,), size=8)])
    assert torch.equal(clip[0], functional.adjust_gamma(torch.from_numpy(frame).permute(2, 0, 1), 0.8))


def test_what_is_not_used_changes_no_draw():
    plain = [drawn(LookSettings(), height=48, width=64, seed=seed) for seed in range(20)]
    tilted = [drawn(LookSettings(tilt_degrees=5.0), height=48, width=64, seed=seed) for seed in range(20)]
    assert [look._replace(tilt=0.0) for look in tilted] == plain


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"side_range": (0.9, 0.5)}, r"side_range is \[0.9, 0.5\]; give an increasing pair above 0 and at most 1"),
        ({"scale": (0.3, 1.2)}, "at most 1"),
        ({"gamma": (0.0, 1.0)}, r"gamma is \[0.0, 1.0\]; give an increasing pair above 0"),
        ({"box_fraction": (0.5, 1.5)}, "give two shares above 0 and at most 1"),
    ],
)
def test_ranges_are_checked(values, message):
    with pytest.raises(ConfigError, match=message):
        parse(LookSettings, values)
