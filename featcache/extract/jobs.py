"""The work of a decoding process for one segment: check the file, sample its rows, read them in one pass."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.data.decoding import open_video
from featcache.data.decoding.clips import MAX_BATCH_BYTES, CropSize, RowBatch, decode_rows
from featcache.data.hashing import check_unchanged
from featcache.data.sampling import clip_times, sample_stored
from featcache.data.types import ClipSpec, Timeline, VideoRecord
from featcache.errors import VideoError
from featcache.recipes import SamplingRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentJob:
    """The rows of one video that lie in one shard; picklable.

    Attributes:
        path: The file.
        video: Its manifest row.
        sampling: The store's recipe.
        first_clip: Ordinal of the segment's first row within the video.
        num_rows: Number of rows of the segment.
        sizes: Sizes to which each box is resized, one per distinct preprocessing.
    """

    path: str
    video: VideoRecord
    sampling: SamplingRecipe
    first_clip: int
    num_rows: int
    sizes: tuple[CropSize, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowDetails:
    """Boxes and times of the rows of a segment, the first payload of a job.

    Attributes:
        specs: The rows, in order.
        pts_seconds: Timestamps of each row's frames.
        times: float64 [num_rows, 2], start and end in seconds.
    """

    specs: tuple[ClipSpec, ...]
    pts_seconds: tuple[tuple[float, ...], ...]
    times: npt.NDArray[np.float64]


def describe_rows(specs: list[ClipSpec], timeline: Timeline) -> RowDetails:
    """Attach timestamps to sampled rows."""
    pts = timeline.pts_seconds
    return RowDetails(
        specs=tuple(specs),
        pts_seconds=tuple(tuple(float(pts[frame]) for frame in spec.frames) for spec in specs),
        times=np.array([clip_times(spec, timeline) for spec in specs], dtype=np.float64).reshape(-1, 2),
    )


def decode_segment(job: SegmentJob) -> Iterator[RowDetails | RowBatch]:
    """Yield the segment's :class:`RowDetails`, then its pixels as rows complete.

    Raises:
        VideoError: ``missing``, ``changed`` since the scan, or ``undecodable``.
    """
    path = Path(job.path)
    unchanged = partial(check_unchanged, video=job.video, name=path.name)
    with open_video(path, decoder=job.sampling.decoder, check=unchanged) as reader:
        timeline = reader.timeline
        if timeline.num_frames != job.video.num_frames:
            raise VideoError(
                "undecodable",
                f"{job.sampling.decoder} finds {timeline.num_frames} frames where the scan found "
                f"{job.video.num_frames}; use the decoder of the scan",
            )
        sampled = sample_stored(job.sampling.stored(job.video.split), timeline, job.video.id)
        specs = sampled[job.first_clip : job.first_clip + job.num_rows]
        assert len(specs) == job.num_rows, f"{job.video.id}: {len(specs)} rows sampled, {job.num_rows} planned"
        yield describe_rows(specs, timeline)
        yield from decode_rows(reader, specs, job.sizes, max_batch_bytes=MAX_BATCH_BYTES)


def timed_segment(job: SegmentJob) -> Iterator[tuple[float, RowDetails | RowBatch]]:
    """As :func:`decode_segment`, with the seconds that each payload took."""
    payloads = decode_segment(job)
    while True:
        started = time.perf_counter()
        payload = next(payloads, None)
        if payload is None:
            return
        yield time.perf_counter() - started, payload
