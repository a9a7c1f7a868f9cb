"""Clips of fine-tuning: which recipe settings mean, and pixels by video, epoch and seed."""

import dataclasses

import numpy as np
import pytest
import torch

from featcache.data.decoding.clips import CropSize
from featcache.data.sampling import sample_rows
from featcache.data.transforms import crop_resize
from featcache.errors import ConfigError
from featcache.loaders.labelled import read_data
from featcache.loaders.recipe_rows import RecipeSource
from featcache.methods.finetune.sampling import scoring_recipe, train_recipe
from featcache.methods.finetune.settings import FinetuneClipSettings, FinetuneSettings, FinetuneTestSettings
from featcache.seeding import seed_for
from featcache.testing.videos import sequential_frames
from tests.methods.finetune.helpers import settings, write_classes

CROP = CropSize(size=32, interpolation="bicubic")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    return read_data(settings(write_classes(folder, {"train": 2, "test": 1}), "unused")).train.files


def test_the_published_protocol():
    chosen = FinetuneSettings(source="videos", backbone="svt-b")
    recipe = train_recipe(chosen, num_frames=8)
    assert (recipe.temporal, recipe.num_clips, recipe.num_frames) == ("spread_random", 1, 8)
    assert (recipe.spatial, recipe.side_range, recipe.flip_probability) == ("random_short_side", (0.7, 0.875), 0.5)
    views = scoring_recipe(chosen, num_frames=8)
    assert (views.temporal, views.num_clips, views.spatial, views.num_crops) == ("spread", 1, "views", 3)
    assert (views.crop_fraction, views.flip_probability) == (1.0, 0.0)
    training = chosen.training
    optimiser = training.optimiser
    assert (training.epochs, training.batch_size, chosen.head_dropout) == (15, 32, 0.5)
    assert (optimiser.name, optimiser.lr, optimiser.momentum, optimiser.weight_decay) == ("sgd", 5e-3, 0.9, 1e-4)
    assert (training.schedule.step_fractions, training.schedule.step_factor) == ((11 / 15, 14 / 15), 0.1)


def test_a_stride_of_the_released_probe():
    clips = FinetuneClipSettings(frame_stride=32, target_fps=30.0)
    chosen = FinetuneSettings(source="videos", backbone="svt-b", clips=clips, test=FinetuneTestSettings(num_clips=4))
    for recipe, temporal in (
        (train_recipe(chosen, num_frames=8), "random"),
        (scoring_recipe(chosen, num_frames=8), "uniform"),
    ):
        assert (recipe.temporal, recipe.frame_stride, recipe.target_fps) == (temporal, 32, 30.0)
        assert recipe.short_videos == "clamp"


def test_pixels_are_those_of_the_recipe_and_new_in_each_epoch(files, tmp_path):
    recipe = train_recipe(settings("videos", "unused", clips=FinetuneClipSettings(num_frames=3)), num_frames=3)
    source = RecipeSource(recipe, crop=CROP, seed=5)
    (rows,) = source.pixels(files.file(1), 4)
    assert rows.shape == (1, 3, 3, 32, 32)
    assert source.video_bytes == rows.nbytes
    with files.open(1) as reader:
        drawn = dataclasses.replace(recipe, seed=seed_for(5, "clip", 4))
        (spec,) = sample_rows(drawn, reader.timeline, files.videos[1].id)
    pictures = sequential_frames(files.file(1).path)
    for place, frame in enumerate(spec.frames):
        image = torch.from_numpy(pictures[frame]).permute(2, 0, 1)
        expected = crop_resize(image, spec.box, size=32, interpolation="bicubic", flip=spec.flip)
        np.testing.assert_array_equal(rows[0, place], expected.numpy())
    np.testing.assert_array_equal(source.pixels(files.file(1), 4)[0], rows)
    assert not np.array_equal(source.pixels(files.file(1), 5)[0], rows)
    assert not np.array_equal(RecipeSource(recipe, crop=CROP, seed=6).pixels(files.file(1), 4)[0], rows)


def test_views_of_a_test_video_do_not_depend_on_the_epoch(files):
    views = FinetuneTestSettings(num_clips=2, num_crops=3)
    source = RecipeSource(scoring_recipe(settings("v", "o", test=views), num_frames=2), crop=CROP, seed=0)
    (rows,) = source.pixels(files.file(0), 0)
    assert rows.shape == (6, 2, 3, 32, 32)
    np.testing.assert_array_equal(source.pixels(files.file(0), 9)[0], rows)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clips": {"side_range": [0.9, 0.7]}}, "give an increasing pair above 0 and at most 1"),
        ({"clips": {"target_fps": 30.0}}, r"clips\.target_fps is given without clips\.frame_stride"),
        ({"backbone": "clip-l14+dinov2-l14"}, "joins several, whose weights go into no one file"),
        ({"training": {"ema_decay": 0.9}}, "fine-tuning keeps no average"),
        ({"dataset": "ucf101"}, "source 'videos' and dataset 'ucf101' are both given"),
    ],
)
def test_settings_at_odds_are_refused(changes, words):
    from featcache.config import parse

    with pytest.raises(ConfigError, match=words):
        parse(FinetuneSettings, {"source": "videos", "backbone": "svt-b", **changes})


@pytest.mark.parametrize(
    ("clips", "recipe"),
    [
        ({}, {"spatial": "random_short_side", "side_range": (0.7, 0.875)}),
        ({"crop": "resized"}, {"spatial": "random_resized", "scale": (0.25, 1.0), "ratio": (0.75, 4 / 3)}),
        ({"crop": "centre", "side_range": (0.5, 0.8)}, {"spatial": "center", "crop_fraction": 0.8}),
    ],
)
def test_the_crop_of_training_clips_is_a_law_of_the_sampling_recipe(clips, recipe):
    made = train_recipe(settings("videos", "unused", clips=FinetuneClipSettings(**clips)), num_frames=3)
    assert {name: getattr(made, name) for name in recipe} == recipe
