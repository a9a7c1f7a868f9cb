"""Videos that a method decodes while it trains: their files, and fresh views of them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from featcache.data.boxes import sample_boxes, sample_color
from featcache.data.decoding import open_video
from featcache.data.decoding.base import VideoReader
from featcache.data.types import Box, ColorStep, VideoRecord
from featcache.errors import ManifestError, VideoError
from featcache.extract.jobs import check_unchanged
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
FRESH_VIEW_HASH = recipe_hash(_FRESH)
"""Changes with the law of :func:`fresh_view`."""


class View(NamedTuple):
    """What all frames of a clip share: the box they are cut from, and what is done to its colours."""

    box: Box
    color: tuple[ColorStep, ...]


def fresh_view(video_id: str, draw: int, *, height: int, width: int) -> View:
    """AdViSe's augmentation: 224 out of a frame resized to 256 x 320, jittered colours with a chance of 0.8.

    In source pixels, the box is 0.875 of the height and 0.7 of the width at a uniform place. Brightness, contrast and
    saturation change by at most 0.2 each, in random order (AdViSe §3.2; hue, there at most one of 256 levels, stays).

    Args:
        video_id: Of the video.
        draw: Any integer; with the id it decides everything.
        height: Frame height in pixels.
        width: Frame width in pixels.
    """
    recipe = dataclasses.replace(_FRESH, seed=draw)
    box = sample_boxes(recipe, height=height, width=width, video_id=video_id, temporal_index=0)[1]
    return View(box=box, color=sample_color(recipe, video_id=video_id, temporal_index=0, crop=1))


class VideoFiles:
    """Videos by number, opened again and again; a file is checked against its hash when it is first opened.

    Attributes:
        videos: Their manifest rows.
    """

    def __init__(self, videos: Sequence[VideoRecord], paths: Sequence[Path], *, decoder: str) -> None:
        self.videos = tuple(videos)
        self._paths = tuple(paths)
        self._decoder = decoder
        self._checked: set[int] = set()

    def open(self, number: int) -> VideoReader:
        """Open a video.

        Raises:
            VideoError: ``missing``, ``changed`` since it was scanned, or ``undecodable``.
        """
        video, path = self.videos[number], self._paths[number]
        if number not in self._checked:
            check_unchanged(path, video)
            self._checked.add(number)
        reader = open_video(path, decoder=self._decoder)
        if reader.timeline.num_frames != video.num_frames:
            raise VideoError(
                "undecodable",
                f"{self._decoder} finds {reader.timeline.num_frames} frames in {path.name} where the scan found "
                f"{video.num_frames}; use the decoder of the scan",
            )
        return reader


def find_files(videos: Sequence[VideoRecord], roots: Sequence[Path], *, decoder: str, hint: str) -> VideoFiles:
    """The files of videos under the first of some folders that has them.

    Args:
        videos: Manifest rows; their paths are absolute, or relative to a root.
        roots: Folders.
        decoder: Registered decoder.
        hint: What to do about missing files, the end of a sentence.

    Raises:
        ManifestError: A file is in none of the folders.
    """
    paths = [next((root / video.path for root in roots if (root / video.path).is_file()), None) for video in videos]
    gone = [video.path for video, path in zip(videos, paths, strict=True) if path is None]
    if gone:
        where = f" below {', '.join(str(root) for root in roots)}" if roots else ""
        raise ManifestError(f"{len(gone)} of {len(videos)} videos are not there{where}, e.g. {gone[0]!r}; {hint}")
    return VideoFiles(videos, [path for path in paths if path is not None], decoder=decoder)
