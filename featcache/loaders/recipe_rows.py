"""Pixels of the rows that a sampling recipe gives each video, drawn anew in every epoch."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from featcache.data.decoding.clips import MAX_BATCH_BYTES, CropSize, decode_rows
from featcache.data.sampling import sample_rows
from featcache.loaders.ahead import Batch, Pixels
from featcache.loaders.videos import VideoFile
from featcache.noise import NoiseRecipe
from featcache.recipes import SamplingRecipe
from featcache.seeding import seed_for

_BYTES_AT_ONCE = 64 << 20


class RecipeSource:
    """The rows that a recipe gives a video; see :class:`featcache.loaders.ahead.ViewSource`.

    Attributes:
        recipe: Recipe of the rows; every video has the same number.

    Args:
        recipe: The recipe.
        crop: Size of the pixels.
        seed: Seed of random rows.
        beside: Further sizes, of which there are further arrays from the same decoding pass.
        noises: The rows are repeated with each of these, ``None`` for none, all from the same decoding pass; not given:
            they have the recipe's own.
    """

    def __init__(
        self,
        recipe: SamplingRecipe,
        *,
        crop: CropSize,
        seed: int,
        beside: Sequence[CropSize] = (),
        noises: Sequence[NoiseRecipe | None] | None = None,
    ) -> None:
        self.recipe = recipe
        self._noises = (recipe.noise,) if noises is None else tuple(noises)
        self._crops = (crop, *beside)
        self._seed = seed

    @property
    def num_noises(self) -> int:
        """Number of times that the rows are repeated."""
        return len(self._noises)

    @property
    def num_clips(self) -> int:
        """Number of rows of a video, those with each noise."""
        return len(self._noises) * self.recipe.num_clips * self.recipe.num_crops

    @property
    def video_bytes(self) -> int:
        """Number of bytes of a video's pixels."""
        return self.num_clips * self.recipe.num_frames * 3 * sum(crop.size**2 for crop in self._crops)

    def batches(self, numbers: Sequence[int], *, at_least: int) -> list[Batch]:
        """Some videos in order, as many at a time as fit 64 MiB, and at least so many."""
        size = max(1, at_least, _BYTES_AT_ONCE // self.video_bytes)
        return [Batch(0, tuple(numbers[first : first + size])) for first in range(0, len(numbers), size)]

    def pixels(self, file: VideoFile, epoch: int) -> Pixels:
        """All rows of one video as one array per size, uint8 [V, T, 3, S, S]; random ones are drawn anew in each epoch.

        Raises:
            VideoError: The video is missing, has changed since it was scanned, or cannot be decoded.
        """
        recipe = dataclasses.replace(self.recipe, seed=seed_for(self._seed, "clip", epoch))
        with file.open() as reader:
            specs = [
                spec
                for noise in self._noises
                for spec in sample_rows(dataclasses.replace(recipe, noise=noise), reader.timeline, file.video.id)
            ]
            shape = (len(specs), recipe.num_frames, 3)
            arrays = {crop: np.empty((*shape, crop.size, crop.size), np.uint8) for crop in self._crops}
            for batch in decode_rows(reader, specs, self._crops, max_batch_bytes=MAX_BATCH_BYTES):
                for crop, rows in arrays.items():
                    rows[list(batch.rows)] = batch.pixels[crop]
        return tuple(arrays.values())


class SeveralRecipes:
    """The rows of several recipes of each video, one array each; see :class:`featcache.loaders.ahead.ViewSource`."""

    def __init__(self, sources: Sequence[RecipeSource]) -> None:
        self._sources = tuple(sources)

    def pixels(self, file: VideoFile, epoch: int) -> Pixels:
        """The rows of a video by each recipe, uint8 [V, T, 3, S, S].

        Raises:
            VideoError: The video is missing, has changed since it was scanned, or cannot be decoded.
        """
        return tuple(rows for source in self._sources for rows in source.pixels(file, epoch))
