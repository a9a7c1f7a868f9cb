"""The work of a decoding process for a backbone in the training loop: the pixels of clips of one video."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featcache.data.decoding.clips import MAX_BATCH_BYTES, CropSize, RowBatch, decode_rows
from featcache.data.sampling import sample_rows
from featcache.data.types import ClipSpec, Timeline
from featcache.loaders.fresh import fresh_look
from featcache.loaders.videos import VideoFile
from featcache.recipes import SamplingRecipe

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipsJob:
    """Clips of one video; picklable.

    Attributes:
        file: The video.
        sampling: Recipe of the rows that a store of this video has or would have.
        positions: int64 [n, T], moments of the frames of each clip.
        crops: int64 [n]; below ``sampling.num_crops`` the recipe's own crop, otherwise a new view of that number.
        sizes: Sizes to which each box is resized.
    """

    file: VideoFile
    sampling: SamplingRecipe
    positions: Positions
    crops: Positions
    sizes: tuple[CropSize, ...]


def decode_clips(job: ClipsJob) -> Iterator[Positions | RowBatch]:
    """Yield the row of each frame, int64 [n, T], then the pixels of the rows; equal views of a frame are one row.

    Raises:
        VideoError: ``missing``, ``changed`` since the scan, or ``undecodable``.
    """
    with job.file.open() as reader:
        wanted = _specs(job, reader.timeline)
        rows = {spec: row for row, spec in enumerate(dict.fromkeys(spec for clip in wanted for spec in clip))}
        yield np.array([[rows[spec] for spec in clip] for clip in wanted], np.int64)
        yield from decode_rows(reader, list(rows), job.sizes, max_batch_bytes=MAX_BATCH_BYTES)


def _specs(job: ClipsJob, timeline: Timeline) -> list[list[ClipSpec]]:
    """The row of each frame of each clip: the recipe's row, or that frame with a new view."""
    stored, per_frame = sample_rows(job.sampling, timeline, job.file.video.id), job.sampling.num_crops
    clips = []
    for places, crop in zip(job.positions.tolist(), job.crops.tolist(), strict=True):
        if crop < per_frame:
            clips.append([stored[place * per_frame + crop] for place in places])
            continue
        look = fresh_look(job.file.video.id, crop, height=timeline.height, width=timeline.width)
        clips.append(
            [
                dataclasses.replace(stored[place * per_frame], box=look.box, flip=look.flip, color=look.color)
                for place in places
            ]
        )
    return clips
