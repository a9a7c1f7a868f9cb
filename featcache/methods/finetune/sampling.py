"""Training and test clips of a video, as sampling recipes, and their pixels."""

from typing import Any

from featcache.data.decoding.clips import CropSize
from featcache.loaders.recipe_rows import RecipeSource
from featcache.methods.finetune.module import VideoClassifier
from featcache.methods.finetune.settings import FinetuneSettings
from featcache.recipes import SamplingRecipe


def train_recipe(settings: FinetuneSettings, *, num_frames: int) -> SamplingRecipe:
    """One random clip per video: its place in time, its box (unless that is the centre) and its mirroring are drawn.

    The side of a square is drawn as if the frame's shorter side had been scaled to a random length.

    Args:
        settings: Distributions of the draws.
        num_frames: Number of frames per clip.
    """
    clips = settings.clips
    laws: dict[str, dict[str, Any]] = {
        "short_side": {"spatial": "random_short_side", "side_range": clips.side_range},
        "resized": {"spatial": "random_resized", "scale": clips.scale, "ratio": clips.ratio},
        "centre": {"spatial": "center", "crop_fraction": clips.side_range[1]},
    }
    return SamplingRecipe(
        temporal="spread_random" if clips.frame_stride is None else "random",
        num_clips=1,
        num_frames=num_frames,
        frame_stride=clips.frame_stride or 1,
        target_fps=clips.target_fps,
        short_videos=clips.short_videos,
        flip_probability=clips.flip_probability,
        color=clips.color,
        decoder=settings.decoder,
        **laws[clips.crop],
    )


def scoring_recipe(settings: FinetuneSettings, *, num_frames: int) -> SamplingRecipe:
    """The fixed views of a test video, its clips times their crops.

    Args:
        settings: Number and place of the views.
        num_frames: Number of frames per clip.
    """
    clips, test = settings.clips, settings.test
    return SamplingRecipe(
        temporal="spread" if clips.frame_stride is None else "uniform",
        num_clips=test.num_clips,
        num_frames=num_frames,
        frame_stride=clips.frame_stride or 1,
        target_fps=clips.target_fps,
        short_videos=clips.short_videos,
        spatial="views",
        num_crops=test.num_crops,
        crop_fraction=test.crop_fraction,
        decoder=settings.decoder,
    )


def clip_source(settings: FinetuneSettings, module: VideoClassifier, *, seed: int | None) -> RecipeSource:
    """Random clips of the run of a seed, or the fixed test views if the seed is ``None``."""
    crop = CropSize(size=module.recipe.input_size, interpolation=module.recipe.interpolation)
    if seed is None:
        return RecipeSource(scoring_recipe(settings, num_frames=module.num_frames), crop=crop, seed=0)
    return RecipeSource(train_recipe(settings, num_frames=module.num_frames), crop=crop, seed=seed)
