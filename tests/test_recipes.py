"""Recipes: identity, JSON, and which recipe a video of a split gets."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.errors import ConfigError
from featcache.noise import NoiseRecipe
from featcache.recipes import (
    ColorRecipe,
    FeatureRecipe,
    PlainViews,
    SamplingRecipe,
    first_difference,
    from_dict,
    recipe_hash,
    to_dict,
)

SCALE = SamplingRecipe(
    temporal="random",
    num_clips=16,
    num_frames=16,
    spatial="random_short_side",
    side_range=(0.7, 0.875),
    flip_probability=0.5,
    color=ColorRecipe(brightness=0.6),
    test=PlainViews(temporal="uniform_open"),
)
BANK = SamplingRecipe(
    layout="frames",
    temporal="bank",
    num_frames=1,
    spatial="center_and_random",
    num_crops=4,
    box_fraction=(0.875, 0.7),
    test=PlainViews(temporal="bank"),
)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (SamplingRecipe(), "2b3543d174b45597"),
        (SamplingRecipe(layout="frames", temporal="bank", num_frames=1), "9e002b69c387f298"),
        (SCALE, "add2b9e108ec385c"),
        (BANK, "2001eb02bfecd0ae"),
    ],
)
def test_golden_hashes(recipe, expected):
    assert recipe_hash(recipe) == expected


def test_a_feature_that_is_not_enlarged_has_the_hash_it_had_before_any_could_be():
    recipe = FeatureRecipe(backbone="clip-b16", weights_hash="sha256:0", layer="norm", output="map")
    assert recipe_hash(recipe) == "3a5b42304295a1b0"
    enlarged = dataclasses.replace(recipe, input_size=112, enlarge=2)
    assert enlarged.backbone_size == recipe.backbone_size == 224
    assert "enlarge" not in to_dict(recipe)
    assert from_dict(FeatureRecipe, to_dict(enlarged)) == enlarged
    assert recipe_hash(enlarged) != recipe_hash(dataclasses.replace(enlarged, enlarge=None))
    with pytest.raises(ConfigError, match="enlarge is 1; it must be at least 2, or null"):
        dataclasses.replace(recipe, enlarge=1)


@given(
    st.none() | st.builds(ColorRecipe, brightness=st.floats(0, 3), blur_sigma=st.just((0.5, 1.5))),
    st.none() | st.builds(PlainViews, train_splits=st.sampled_from([("train",), ("train1", "extra")])),
)
def test_json_round_trip(color, test):
    recipe = SamplingRecipe(spatial="random_short_side", side_range=(0.6, 0.9), color=color, test=test)
    data = to_dict(recipe)
    assert from_dict(SamplingRecipe, data) == recipe
    assert ("color" in data, "test" in data) == (color is not None, test is not None)
    assert "box_fraction" not in data


def test_every_part_is_identity():
    changed = [
        dataclasses.replace(SCALE, side_range=(0.7, 0.9)),
        dataclasses.replace(SCALE, color=None),
        dataclasses.replace(SCALE, color=ColorRecipe(brightness=0.5)),
        dataclasses.replace(SCALE, test=None),
        dataclasses.replace(SCALE, test=PlainViews(temporal="uniform_open", num_clips=2)),
    ]
    assert len({recipe_hash(recipe) for recipe in [SCALE, *changed]}) == 6
    assert (first_difference(SCALE, changed[0]) or "").startswith("side_range")
    with pytest.raises(ConfigError, match="ColorRecipe has no field 'tint'"):
        from_dict(SamplingRecipe, {**to_dict(SCALE), "color": {"tint": 1}})


def test_test_videos_get_plain_views():
    for split in ("", "train"):
        recipe = SCALE.for_split(split)
        assert recipe == dataclasses.replace(SCALE, test=None)
        assert recipe.for_split("test") == recipe
    plain = SCALE.for_split("validation")
    assert (plain.temporal, plain.num_clips, plain.spatial, plain.num_crops) == ("uniform_open", 5, "views", 3)
    assert (plain.flip_probability, plain.color, plain.side_range, plain.crop_fraction) == (0.0, None, None, 1.0)
    assert (plain.num_frames, plain.frame_stride, plain.seed) == (16, SCALE.frame_stride, SCALE.seed)
    assert BANK.for_split("test").layout == "frames"
    others = dataclasses.replace(SCALE, test=PlainViews(train_splits=("test", "train")))
    assert others.for_split("test").num_clips == 16
    assert SamplingRecipe().for_split("test") == SamplingRecipe()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"spatial": "random_short_side"}, "side_range is None .* which needs it"),
        ({"spatial": "center_and_random"}, "box_fraction is None .* which needs it"),
        ({"side_range": (0.5, 0.6)}, "side_range is .* it belongs to 'random_short_side'"),
        ({"spatial": "random_short_side", "side_range": (0.9, 0.7)}, "increasing pair"),
        ({"spatial": "random_short_side", "side_range": (0.7, 1.1)}, r"must be in \(0, 1\]"),
        ({"spatial": "center_and_random", "box_fraction": (0.0, 0.5)}, r"must be in \(0, 1\]"),
        ({"test": PlainViews(temporal="bank")}, "for all its videos or for none"),
        ({"test": PlainViews(spatial="center")}, "spatial 'center' has 1"),
        ({"test": PlainViews(num_clips=0)}, "num_clips is 0"),
    ],
)
def test_contradictions_are_refused(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        SamplingRecipe(**changes)


@pytest.mark.parametrize("splits", [(), ("",)])
def test_training_splits_have_names(splits):
    with pytest.raises(ConfigError, match="name at least one split"):
        PlainViews(train_splits=splits)


def test_only_recipes_with_noise_have_the_member():
    noise = NoiseRecipe(kind="shot", severity=2, place="crop")
    noisy = dataclasses.replace(SCALE, noise=noise)
    assert "noise" not in to_dict(SCALE)
    assert to_dict(noisy)["noise"] == {"kind": "shot", "severity": 2, "table": "video", "place": "crop", "seed": 0}
    assert from_dict(SamplingRecipe, to_dict(noisy)) == noisy
    hashes = {
        recipe_hash(dataclasses.replace(noisy, noise=each))
        for each in (None, noise, dataclasses.replace(noise, severity=3))
    }
    assert len(hashes) == 3
    assert "add2b9e108ec385c" in hashes, "as without noise before"
    assert first_difference(SCALE, noisy) == f"noise (None against {noise!r})"
    assert noisy.for_split("train").noise == noisy.for_split("test").noise == noise, "all videos have it"
