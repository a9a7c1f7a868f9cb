"""Videos that a method decodes while it trains: their files, fresh views of them, and clips of pixels."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featcache.data.boxes import sample_boxes, sample_color
from featcache.data.decoding import open_video
from featcache.data.decoding.base import VideoReader
from featcache.data.decoding.clips import MAX_BATCH_BYTES, CropSize, decode_rows
from featcache.data.hashing import check_unchanged
from featcache.data.types import Box, ClipSpec, ColorStep, VideoRecord
from featcache.errors import ManifestError, VideoError
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

    @contextmanager
    def open_scanned(self, number: int) -> Iterator[VideoReader]:
        """Open a video for a block of a run that must not go on without it.

        Raises:
            VideoError: It could be used when it was scanned, and cannot now; names it.
        """
        try:
            with self.open(number) as reader:
                yield reader
        except VideoError as error:
            raise VideoError(
                error.status,
                f"{self.videos[number].id!r} passed the scan and cannot be used now ({error.reason}); restore it and "
                "run the same command again, or take it out of the source and start anew",
            ) from error


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


class PixelSource:
    """A :class:`featcache.loaders.bank.ClipSource` whose maps are the pixels of fresh views, uint8 [B, T, S, S, 3].

    Attributes:
        videos: Manifest rows.
    """

    def __init__(self, files: VideoFiles, *, size: int) -> None:
        self._files = files
        self.videos = files.videos
        self._crop = CropSize(size=size, interpolation="bilinear")
        self.video_ids = tuple(video.id for video in files.videos)
        self.num_source_frames = np.array([video.num_frames for video in files.videos], np.int64)
        self.bank_stride = 1
        self.shape = (size, size, 3)
        content = [FRESH_VIEW_HASH, str(size)]
        content += [f"{video.id}\0{video.content_hash}\0{video.num_frames}" for video in files.videos]
        self.identity = hashlib.sha256("\n".join(content).encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def clips(self, videos: npt.NDArray[np.int64], positions: npt.NDArray[np.int64], crops: npt.ArrayLike) -> Tensor:
        """See :meth:`featcache.loaders.bank.ClipSource.clips`; one pass a video, ``crops`` draw the views.

        Raises:
            VideoError: A file that is gone, has changed, or does not decode.
        """
        draws = np.asarray(crops, np.int64)
        side = self._crop.size
        pixels = np.empty((*positions.shape, 3, side, side), np.uint8)
        for number in np.unique(videos).tolist():
            mine = np.flatnonzero(videos == number)
            with self._files.open(number) as reader:
                specs = []
                for place in mine.tolist():
                    view = fresh_view(
                        self.video_ids[number],
                        int(draws[place]),
                        height=reader.timeline.height,
                        width=reader.timeline.width,
                    )
                    frames = tuple(positions[place].tolist())
                    specs.append(ClipSpec(index=place, frames=frames, box=view.box, flip=False, color=view.color))
                for batch in decode_rows(reader, specs, [self._crop], max_batch_bytes=MAX_BATCH_BYTES):
                    pixels[mine[list(batch.rows)]] = batch.pixels[self._crop]
        return torch.from_numpy(pixels).permute(0, 1, 3, 4, 2)

    def num_crops(self, video: int) -> int:
        """One: every draw is another view."""
        return 1
