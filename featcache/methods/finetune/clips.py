"""Which clips of a video are trained on and tested, as sampling recipes, and their pixels by video number."""

import dataclasses

import numpy as np

from featcache.data.decoding.clips import MAX_BATCH_BYTES, CropSize, decode_rows
from featcache.data.sampling import sample_rows
from featcache.loaders.ahead import Pixels
from featcache.loaders.videos import VideoFiles
from featcache.methods.finetune.settings import FinetuneSettings
from featcache.recipes import SamplingRecipe
from featcache.seeding import seed_for


def train_recipe(settings: FinetuneSettings, *, num_frames: int) -> SamplingRecipe:
    """One random clip a video: a place in time, a square by the law of a random short side, perhaps mirrored.

    Args:
        settings: Their laws.
        num_frames: Frames of a clip.
    """
    clips = settings.clips
    return SamplingRecipe(
        temporal="spread_random" if clips.frame_stride is None else "random",
        num_clips=1,
        num_frames=num_frames,
        frame_stride=clips.frame_stride or 1,
        target_fps=clips.target_fps,
        short_videos=clips.short_videos,
        spatial="random_short_side",
        side_range=clips.side_range,
        flip_probability=clips.flip_probability,
        color=clips.color,
        decoder=settings.decoder,
    )


def scoring_recipe(settings: FinetuneSettings, *, num_frames: int) -> SamplingRecipe:
    """The fixed views of a test video, its clips times their crops.

    Args:
        settings: How many, and where.
        num_frames: Frames of a clip.
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


class RecipeSource:
    """The rows that a recipe gives a video; see :class:`featcache.loaders.ahead.ViewSource`.

    Attributes:
        files: The videos.
        recipe: Which rows; the same number of each video.
    """

    def __init__(self, files: VideoFiles, recipe: SamplingRecipe, *, crop: CropSize, seed: int) -> None:
        self.files = files
        self.recipe = recipe
        self._crop = crop
        self._seed = seed

    @property
    def num_clips(self) -> int:
        """Rows of a video."""
        return self.recipe.num_clips * self.recipe.num_crops

    @property
    def video_bytes(self) -> int:
        """Pixels of a video."""
        return self.num_clips * self.recipe.num_frames * 3 * self._crop.size**2

    def pixels(self, video: int, epoch: int) -> Pixels:
        """All rows of one video as one array, uint8 [V, T, 3, S, S]; random ones are drawn anew in each epoch.

        Raises:
            VideoError: It could be used when it was scanned, and cannot now.
        """
        recipe = dataclasses.replace(self.recipe, seed=seed_for(self._seed, "clip", epoch))
        with self.files.open_scanned(video) as reader:
            specs = sample_rows(recipe, reader.timeline, self.files.videos[video].id)
            rows = np.empty((len(specs), recipe.num_frames, 3, self._crop.size, self._crop.size), np.uint8)
            for batch in decode_rows(reader, specs, [self._crop], max_batch_bytes=MAX_BATCH_BYTES):
                rows[list(batch.rows)] = batch.pixels[self._crop]
        return (rows,)
