"""Clips of pixels with new random crops and colours for every clip, as in AdViSe."""

import dataclasses
import hashlib

import numpy as np
import numpy.typing as npt
import torch

from featcache.data.boxes import sample_boxes, sample_color
from featcache.data.decoding.clips import MAX_BATCH_BYTES, CropSize, decode_rows
from featcache.data.types import ClipSpec
from featcache.errors import VideoError
from featcache.loaders.maps import ClipMaps
from featcache.loaders.videos import DamagedError, VideoFiles
from featcache.loaders.views import Look
from featcache.recipes import ColorRecipe, SamplingRecipe, recipe_hash

_FRESH = SamplingRecipe(
    layout="frames",
    temporal="bank",
    num_clips=1,
    num_frames=1,
    frame_stride=1,
    spatial="center_and_random",
    num_crops=2,
    crop_fraction=1.0,
    box_fraction=(0.875, 0.7),
    color=ColorRecipe(probability=0.8, brightness=0.2, contrast=0.2, saturation=0.2),
)
FRESH_LOOK_HASH = recipe_hash(_FRESH)
"""A hash that changes with the distribution of :func:`fresh_look`."""


def fresh_look(video_id: str, draw: int, *, height: int, width: int) -> Look:
    """AdViSe's augmentation: 224 out of a frame resized to 256 x 320, and colour jitter with probability 0.8.

    In source pixels, the box is 0.875 of the height and 0.7 of the width at a uniform place. Brightness, contrast and
    saturation change by at most 0.2 each, in random order (AdViSe §3.2; the hue, there at most one of 256 levels, is
    not changed).

    Args:
        video_id: Id of the video.
        draw: Any integer, which together with the id determines the result.
        height: Frame height in pixels.
        width: Frame width in pixels.
    """
    recipe = dataclasses.replace(_FRESH, seed=draw)
    box = sample_boxes(recipe, height=height, width=width, video_id=video_id, temporal_index=0)[1]
    return Look(box=box, flip=False, color=sample_color(recipe, video_id=video_id, temporal_index=0, crop=1))


class PixelSource:
    """A :class:`featcache.loaders.bank.ClipSource` whose maps are newly augmented pixels, uint8 [B, T, S, S, 3].

    Attributes:
        files: The videos.
        videos: Manifest rows.
    """

    def __init__(self, files: VideoFiles, *, size: int) -> None:
        self.files = files
        self.videos = files.videos
        self._crop = CropSize(size=size, interpolation="bilinear")
        self.video_ids = tuple(video.id for video in files.videos)
        self.num_source_frames = np.array([video.num_frames for video in files.videos], np.int64)
        self.bank_stride = 1
        self.shape = (size, size, 3)
        content = [FRESH_LOOK_HASH, str(size)]
        content += [f"{video.id}\0{video.content_hash}\0{video.num_frames}" for video in files.videos]
        self.identity = hashlib.sha256("\n".join(content).encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def clips(self, videos: npt.NDArray[np.int64], positions: npt.NDArray[np.int64], crops: npt.ArrayLike) -> ClipMaps:
        """See :meth:`featcache.loaders.bank.ClipSource.clips`; one pass per video, ``crops`` draw the looks.

        Raises:
            DamagedError: Videos do not decode.
            VideoError: A file does not exist any more, or has changed.
        """
        draws = np.asarray(crops, np.int64)
        side = self._crop.size
        pixels = np.empty((*positions.shape, 3, side, side), np.uint8)
        damaged: dict[int, VideoError] = {}
        for number in np.unique(videos).tolist():
            mine = np.flatnonzero(videos == number)
            try:
                self._read(number, mine, positions[mine], draws[mine], into=pixels)
            except VideoError as error:
                self.files.damage(number, error)
                damaged[number] = error
        if damaged:
            raise DamagedError(self.files, damaged)
        return ClipMaps.of(torch.from_numpy(pixels).permute(0, 1, 3, 4, 2))

    def _read(
        self,
        number: int,
        places: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        draws: npt.NDArray[np.int64],
        *,
        into: npt.NDArray[np.uint8],
    ) -> None:
        """Read the clips of one video into their places, in one pass."""
        with self.files.open(number) as reader:
            specs = []
            for place, frames, draw in zip(places.tolist(), positions.tolist(), draws.tolist(), strict=True):
                look = fresh_look(
                    self.video_ids[number], draw, height=reader.timeline.height, width=reader.timeline.width
                )
                specs.append(ClipSpec(index=place, frames=tuple(frames), box=look.box, flip=False, color=look.color))
            for batch in decode_rows(reader, specs, [self._crop], max_batch_bytes=MAX_BATCH_BYTES):
                into[places[list(batch.rows)]] = batch.pixels[self._crop]

    def ahead(self, videos: npt.NDArray[np.int64], positions: npt.NDArray[np.int64], crops: npt.ArrayLike) -> None:
        """Do nothing: clips are decoded when they are asked for."""

    def order(self, videos: npt.NDArray[np.int64]) -> None:
        """A full shuffle."""

    def num_crops(self, video: int) -> int:
        """One, since every draw gives another augmentation."""
        return 1
