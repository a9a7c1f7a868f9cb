"""SVT's settings: the published values, a round trip, and what is refused."""

import pytest
import yaml

from featcache.config import apply_overrides, parse, to_yaml
from featcache.errors import ConfigError
from featcache.methods.svt.settings import SvtSettings
from featcache.networks.timesformer import SIZES


def parsed(*assignments):
    return parse(SvtSettings, apply_overrides({"source": "videos"}, assignments))


def test_defaults_are_the_published_ones():
    settings = parsed()
    training = settings.training
    assert training.optimiser.lr * training.batch_size / training.optimiser.lr_batch == pytest.approx(6.25e-5)
    assert 6.25e-5 * training.schedule.final_factor == pytest.approx(1e-6)
    assert settings.views.num_frames == (8, 16, 2, 2, 4, 4, 8, 8, 16, 16)
    assert settings.views.sizes == (224, 224, *[96] * 8)
    assert all(96 % SIZES[size].patch_size == 224 % SIZES[size].patch_size == 0 for size in ("tiny", "small", "base"))


def test_whole_frames_all_have_the_size_of_a_global_view():
    assert parsed("views.no_spatial=true").views.sizes == (224,) * 10


def test_yaml_round_trip():
    settings = parsed("views.blur=[1, 0.1, 0.5]", "loss.routes=[l2l]", "init.start=image", "init.weights=dino.pth")
    assert parse(SvtSettings, yaml.safe_load(to_yaml(settings))) == settings


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["views.global_frames=[8]"], "global_frames"),
        (["views.local_frames=[2, 0]"], "at least 1"),
        (["views.local_size=90"], "multiple of 16"),
        (["views.global_scale=[0.4, 1.5]"], "at most 1"),
        (["views.ratio=[2, 1]"], "increasing pair"),
        (["views.blur=[1, 2, 0]"], r"in \[0, 1\]"),
        (["views.color={blur_probability: 0.5}"], "views.blur"),
        (["views.color=null", "views.solarise=[0, 0.2, 0]"], "without views.color"),
        (["views.sampler=tis"], "two equal numbers"),
        (["views.sampler=tis", "views.global_frames=[8, 8]", "views.no_temporal=true"], "contradict"),
        (["loss.routes=[]"], "one or more"),
        (["loss.routes=[l2g, l2g]"], "different"),
        (["loss.routes=[l2l]", "loss.single_teacher=true"], "single_teacher=false"),
        (["loss.routes=[l2g]", "views.local_frames=[]"], "no pair with 0 local views"),
        (["loss.routes=[l2l]", "views.local_frames=[4]"], "no pair with 1 local views"),
        (["init.start=image"], "without init.weights"),
        (["init.weights=dino.pth"], "with init.weights 'dino.pth'"),
        (["loss.centering=reversal", "views.local_frames=[1, 4]"], "is its own reversal"),
        (["dataset=ucf101"], "both given"),
    ],
)
def test_settings_at_odds_are_refused(assignments, message):
    with pytest.raises(ConfigError, match=message):
        parsed(*assignments)
