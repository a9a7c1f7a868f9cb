"""Every registered backbone and some timm families through the conformance suite; the suite against wrong ones."""

import dataclasses

import pytest
import torch

from featcache.backbones import BACKBONES, LayerOutput, torchvision, videomae
from featcache.backbones.clip_networks import CARDS as CLIP_NETWORKS
from featcache.backbones.vit import SHORT_NAMES
from featcache.testing import backbones as suite

QUICK_VITS = {"dinov2-s14", "dinov3-s16"}
VIDEO_LIBRARIES = {*torchvision.VARIANTS, *videomae.VARIANTS, "xclip-b16", "vjepa2-l"}
HEAVY = {"clip-l14", "clip-b16", "open_clip/RN50:openai", *SHORT_NAMES, *VIDEO_LIBRARIES} - QUICK_VITS - {"r3d_18"}
HEAVY |= {"r21d", "r3d", "c3d", "swin3d"}
HEAVY |= {"svt-b", "svt-s", "svt-b-slowfast", "svt-s-slowfast", "rho-byol-r50"}
# Short clips where the network allows: as many frames as its pools or its classifier need, or two tokens in time.
NUM_FRAMES = {
    **{name: 8 if name.startswith("c3d") else 4 for name in CLIP_NETWORKS},
    **dict.fromkeys(VIDEO_LIBRARIES, 4),
    "s3d": 13,
    "i3d": 9,
    "svt-b": 2,
    "svt-s": 2,
    "rho-byol-r50": 2,
}
NUM_FRAMES |= {f"svt-{size}-slowfast": 8 for size in ("b", "s", "tiny")}
# Tiny members of families with other layouts: tokens, class and register tokens, NHWC, relative positions.
TIMM = ["timm/test_vit", "timm/test_vit3", "timm/test_vit_relpos", "timm/test_mambaout", "timm/test_resnet"]
BUILT_IN = [place.example or place.name for place in BACKBONES.places() if place.origin == "built in"]


class TestBuiltIn(suite.BackboneTests):
    names = tuple(
        pytest.param(name, marks=[pytest.mark.slow, pytest.mark.timeout(1200)]) if name in HEAVY else name
        for name in [*BUILT_IN, *TIMM]
    )
    num_frames = NUM_FRAMES


class Wrapped:
    """A backbone that does one thing wrong."""

    def __init__(self, backbone, change):
        self.kind, self.card, self.layers = backbone.kind, backbone.card, backbone.layers
        self.weights_hash, self.classes, self.classify = backbone.weights_hash, backbone.classes, backbone.classify
        self.network = backbone.network
        self._encode, self._change = backbone.encode, change

    def encode(self, pixels, layers):
        return {layer: self._change(output) for layer, output in self._encode(pixels, layers).items()}


def normalise_over_batch(output):
    return LayerOutput(map=output.map - output.map.mean(dim=0), cls=output.cls)


def add_noise(output):
    return LayerOutput(map=output.map + torch.randn_like(output.map), cls=output.cls)


def halve(output):
    return LayerOutput(map=output.map.half(), cls=output.cls)


def channels_first(output):
    return LayerOutput(map=output.map.permute(0, 3, 1, 2).flatten(2), cls=output.cls)


def forget_the_input(output):
    return LayerOutput(map=torch.ones_like(output.map), cls=output.cls)


def detach(output):
    return LayerOutput(map=output.map.detach(), cls=output.cls)


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (normalise_over_batch, suite.a_row_does_not_depend_on_the_others),
        (forget_the_input, suite.a_row_does_not_depend_on_the_others),
        (add_noise, suite.a_second_run_changes_nothing),
        (add_noise, suite.a_layer_asked_for_alone_is_the_same),
        (halve, suite.outputs_are_finite_floats_without_gradients),
        (channels_first, suite.outputs_are_finite_floats_without_gradients),
        (detach, suite.gradients_reach_the_network),
        (forget_the_input, suite.gradients_reach_the_network),
    ],
)
def test_the_suite_catches(change, check):
    good = suite.make_subject("timm/test_resnet")
    backbone = Wrapped(good.backbone, change)
    wrong = dataclasses.replace(good, backbone=backbone, outputs=backbone.encode(good.pixels, good.backbone.layers))
    with pytest.raises(AssertionError):
        check(wrong)


def test_the_suite_catches_a_wrong_claim():
    good = suite.make_subject("timm/test_resnet")
    layer = good.backbone.layers[-1]
    smaller = LayerOutput(map=good.outputs[layer].map[:, 1:], cls=None)
    wrong = dataclasses.replace(good, outputs={**good.outputs, layer: smaller})
    with pytest.raises(AssertionError, match=layer):
        suite.records_have_the_shape_they_claim(wrong)
