"""SVT on a slow and a fast view: the mean of two plain forwards, and what it costs."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from featcache.backbones import build_backbone
from featcache.backbones.svt_slowfast import CARDS, fast_size, slow_fast_views
from featcache.data.transforms import crop_resize
from featcache.data.types import Box
from featcache.errors import ClipLengthError, FeatcacheError, WeightsError
from featcache.networks.counting import count_macs
from featcache.networks.timesformer import SIZES, TimeSformer
from tests.backbones.test_svt import make

TERA = 1e12


def clip(num_frames=16, side=112, batch=2):
    return torch.randn((batch, num_frames, 3, side, side), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "teacher.safetensors"
    save_file(make().state_dict(), file)
    return str(file)


def test_it_is_the_mean_of_two_forwards(weights):
    plain, both = (build_backbone(name, weights=weights) for name in ("svt-tiny", "svt-tiny-slowfast"))
    assert plain.weights_hash == both.weights_hash
    pixels = clip()
    frames = [functional.interpolate(frame, (48, 48), mode="bicubic", antialias=True) for frame in pixels.unbind(dim=1)]
    slow = plain.encode(torch.stack([pixels[:, 0], pixels[:, 8]], dim=1), plain.layers)
    fast = plain.encode(torch.stack(frames, dim=1), plain.layers)
    got = both.encode(pixels, both.layers)
    assert both.layers == plain.layers
    for layer in both.layers:
        torch.testing.assert_close(got[layer].cls, (slow[layer].cls + fast[layer].cls) / 2)
        for moment in range(2):
            dense = sum(fast[layer].map[:, 8 * moment + step] for step in range(8)) / 8
            resized = functional.interpolate(dense.permute(0, 3, 1, 2), (7, 7), mode="bilinear").permute(0, 2, 3, 1)
            torch.testing.assert_close(got[layer].map[:, moment], (slow[layer].map[:, moment] + resized) / 2)
    assert not torch.allclose(slow["norm"].cls, fast["norm"].cls, atol=0.1)


@pytest.mark.parametrize(("side", "fast"), [(224, 96), (112, 48), (160, 64), (64, 32), (16, 16)])
def test_the_fast_view_keeps_the_ratio_of_the_paper(side, fast):
    assert fast_size(side, patch=16) == fast
    views = slow_fast_views(clip(num_frames=8, side=side, batch=1), patch=16)
    assert views.slow.shape == (1, 1, 3, side, side)
    assert views.fast.shape == (1, 8, 3, fast, fast)


def test_a_still_picture_is_resized_as_in_decoding():
    """But for rounding, which decoding does to whole numbers after each direction."""
    picture = torch.randint(0, 256, (3, 224, 224), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    views = slow_fast_views(picture.float().expand(1, 8, -1, -1, -1), patch=16)
    expected = crop_resize(picture, Box(y0=0, x0=0, y1=224, x1=224), size=96, interpolation="bicubic")
    difference = (views.fast.clamp(0, 255) - expected).abs()
    assert difference.max() < 2
    assert difference.mean() < 0.4


def test_cards_span_the_time_of_the_single_view():
    assert set(CARDS) == {"svt-b-slowfast", "svt-s-slowfast", "svt-tiny-slowfast"}
    card = CARDS["svt-b-slowfast"]
    assert (card.num_frames, card.frame_stride, card.input_size) == (64, 4, 224)
    assert card.file_name == "kinetics400_vitb_ssl.pth"


def test_gradients_reach_the_network_from_both_views(weights):
    backbone = build_backbone("svt-tiny-slowfast", weights=weights)
    assert not backbone.encode(clip(8), ["norm"])["norm"].cls.requires_grad
    backbone.network.requires_grad_(True)
    backbone.encode(clip(8), ["norm"])["norm"].cls.square().sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.network.parameters())


def test_what_it_cannot_take_is_a_sentence(weights):
    backbone = build_backbone("svt-tiny-slowfast", weights=weights)
    with pytest.raises(ClipLengthError, match="svt-tiny-slowfast takes clips of a multiple of 8 frames, not 12"):
        backbone.encode(clip(12), ["norm"])
    with pytest.raises(FeatcacheError, match="svt-tiny-slowfast has no classifier"):
        backbone.classify(clip(8))
    with pytest.raises(WeightsError, match=r"of svt-s does not fit"):
        build_backbone("svt-s-slowfast", weights=weights)


def test_the_0_59_tflops_of_the_paper_are_three_crops_of_the_slow_view():
    """TimeSformer's count: multiply-accumulates of 8 frames of 224 pixels, times three crops."""
    with torch.device("meta"):
        network = TimeSformer(dataclasses.replace(SIZES["base"], num_frames=8)).eval()
        slow = count_macs(network, torch.empty(1, 8, 3, 224, 224)) / TERA
        fast = count_macs(network, torch.empty(1, 64, 3, 96, 96)) / TERA
    assert 3 * slow == pytest.approx(0.59, rel=0.01)
    assert slow == pytest.approx(0.196, rel=0.01)
    assert fast == pytest.approx(0.284, rel=0.01)
    assert 3 * (slow + fast) == pytest.approx(1.44, rel=0.01)
