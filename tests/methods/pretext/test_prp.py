"""PRP: frames, motion masks and losses by hand."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from featcache.errors import ConfigError
from featcache.loaders.views import ClipShape
from featcache.methods.pretext.motion_mask import motion_mask, weights_of
from featcache.methods.pretext.prp import Prp
from featcache.methods.pretext.reconstruction import Fit, PixelBranch, pixel_loss, real_frames
from featcache.methods.pretext.task import Footage
from featcache.testing import pretext as suite

SHAPE = ClipShape(16, 112)


def drawn(rate):
    task, rng = Prp(), np.random.default_rng(0)
    while True:
        views, targets = task.draw(Footage("v", 200, 128, 171, 8.0), SHAPE, rng)
        if targets["rate"] == [1, 2, 4, 8].index(rate):
            start = views[0].frames[0]
            return [[frame - start for frame in view.frames] for view in views]


@pytest.mark.parametrize("rate", [1, 2, 4, 8])
def test_frames_are_those_of_the_release(rate):
    clip, target, moves = drawn(rate)
    assert clip == [rate * place for place in range(16)]
    if rate == 1:
        assert target == [place // 2 for place in range(32)]
    else:
        assert target == [place * rate // 2 for place in range(32)]
    parts = np.array(moves).reshape(8, 4)
    assert np.array_equal(parts[:: 8 // rate], [[16 * part + at for at in (0, 5, 10, 15)] for part in range(rate)])
    assert all(
        (parts[8 // rate * part : 8 // rate * (part + 1)] == parts[8 // rate * part]).all() for part in range(rate)
    )
    assert Prp().min_frames(SHAPE) == 128
    assert Prp(complexity="c1").min_frames(SHAPE) == 32


def middles(place, num_frames):
    """Middles of many clips by rate."""
    task, rng, found = Prp(place=place), np.random.default_rng(0), {rate: [] for rate in range(4)}
    for _ in range(2000):
        views, targets = task.draw(Footage("v", num_frames, 128, 171, 8.0), SHAPE, rng)
        assert all(0 <= frame < num_frames for view in views for frame in view.frames)
        found[targets["rate"]].append(np.mean(views[0].frames))
    return found


@pytest.mark.parametrize("num_frames", [128, 129, 140])
def test_the_middle_of_a_clip_tells_no_rate(num_frames):
    fastest = 60 + np.arange(num_frames - 127)
    for found in middles("even", num_frames).values():
        shares = np.bincount(np.floor(found).astype(int), minlength=num_frames) / len(found)
        assert np.abs(shares[fastest] - 1 / len(fastest)).max() < 0.06, "each as often as another"


def test_a_released_clip_lies_anywhere_so_that_slow_ones_reach_the_ends():
    found = middles("any", 200)
    assert [round(min(found[rate]), 1) for rate in (0, 3)] == [7.5, 60.0]
    assert [round(max(found[rate]), 1) for rate in (0, 3)] == [191.5, 132.0]


def test_a_static_clip_weighs_one_everywhere():
    still = torch.rand(1, 1, 3, 112, 112).expand(2, 4, 3, 112, 112)
    assert torch.equal(motion_mask(still), torch.ones(2, 3, 13, 13))


def test_one_moving_patch_weighs_two_at_its_cell_and_least_far_away():
    frames = torch.full((1, 4, 3, 112, 112), 0.5)
    frames[:, 1::2, :, 28:56, 63:91] = 1.0
    weights = motion_mask(frames)
    assert weights.shape == (1, 3, 13, 13)
    assert torch.allclose(weights[0, :, 4, 9], torch.tensor(2.0))
    assert torch.allclose(weights[0, :, 9, 2], torch.tensor(0.8), atol=1e-4)
    assert float(weights.max()) == pytest.approx(2.0)


def test_a_channel_that_stands_still_weighs_most_where_another_one_moves():
    frames = torch.zeros(1, 4, 3, 112, 112)
    frames[:, 1::2, 0, 28:56, 63:91] = 1.0
    weights = motion_mask(frames)
    assert torch.allclose(weights[0, 1:], torch.tensor(2.0)), "0.8 + 1.2 * 1e-6 / 1e-6, as released"


def test_weights_of_parts_are_the_release_s_trilinear_masks():
    frames = torch.rand(2, 8, 4, 3, 32, 32)
    found = weights_of(frames, num_frames=32)
    for part in range(8):
        regions = motion_mask(frames[:, part])[:, :, None]
        expected = functional.interpolate(regions, (4, 32, 32), mode="trilinear", align_corners=False)
        assert torch.allclose(found[:, 4 * part : 4 * part + 4], expected.transpose(1, 2), atol=1e-6)


def test_rate_one_counts_sixteen_of_thirty_two_frames():
    counts = real_frames(torch.tensor([True, False]), num_frames=32)
    assert counts.sum(dim=1).tolist() == [16, 32]
    assert counts[0, ::2].all()
    pixels = torch.zeros(2, 32, 3, 4, 4)
    target = torch.ones(2, 32, 3, 4, 4)
    target[0, 1::2] = 9.0
    weights = torch.full_like(pixels, 2.0)
    weights[1, :16] = 1.0
    assert float(pixel_loss(pixels, target, weights, counts)) == pytest.approx((2.0 + 1.5) / 2)


def test_the_decoder_is_that_of_the_release():
    assert [(type(step).__name__, step.in_channels, step.out_channels) for step in PixelBranch(512).steps
            if hasattr(step, "in_channels")] == [
        ("ConvTranspose3d", width, width) for width in (512, 256, 128, 64)
    ]  # fmt: skip
    convolutions = [step[0] for step in PixelBranch(512).steps if isinstance(step, torch.nn.Sequential)]
    assert [(conv.in_channels, conv.out_channels) for conv in convolutions] == [
        (512, 512), (512, 256), (256, 128), (128, 64), (64, 3),
    ]  # fmt: skip
    pixels = PixelBranch(16)(torch.randn(1, 16, 2, 3, 3))
    assert pixels.shape == (1, 32, 3, 48, 48)
    assert float(pixels.detach().min()) >= 0


def test_maps_of_small_networks_are_fitted():
    maps = torch.randn(2, 520, 1, 4, 4)
    assert Fit(520)(maps, (2, 7, 7)).shape == (2, 512, 2, 7, 7)
    same = torch.randn(2, 64, 2, 7, 7)
    assert Fit(64)(same, (2, 7, 7)) is same


def test_targets_come_from_plain_pixels_not_from_normalised_ones():
    task = Prp()
    module = suite.module_of(task)
    clips, targets = suite.batch_of(task)
    black = tuple(torch.zeros_like(clip) for clip in clips)
    with torch.no_grad():
        for parameter in module.heads["pixels"].steps[-1].parameters():
            parameter.zero_()
        loss = task.loss(module, black, targets)
    assert float(loss.metrics["pixel_loss"]) == 0.0, "zeros are black"
    assert float(loss.total) == pytest.approx(0.1 * float(loss.metrics["class_loss"]))


def test_other_lengths_and_sizes_are_refused():
    for shape in (ClipShape(12, 112), ClipShape(16, 100)):
        with pytest.raises(ConfigError, match="prp reconstructs clips of 8, 16, … frames and 16, 32, … pixels"):
            Prp().min_frames(shape)
