"""Temporal sampling: the frames of each row of a video. Pure index arithmetic over timestamps.

Positions are times on the grid of ``target_fps`` (or of the video's own mean rate), counted from the first frame; the
frame with the nearest timestamp is taken. For a constant frame rate and no ``target_fps`` that is exactly
``start + stride * j``. M temporal x N spatial views (5x3, 2x3, 10x3) are temporal ``uniform`` with spatial ``views``.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.data.boxes import sample_boxes, sample_color, sample_flip
from featcache.data.types import Box, ClipSpec, ColorStep, Timeline, VideoNoise
from featcache.errors import ConfigError
from featcache.recipes import SamplingRecipe
from featcache.seeding import rng_for

Indices = npt.NDArray[np.int64]
Seconds = npt.NDArray[np.float64]

# Times closer than this count as equal: far above float rounding, far below any frame interval.
_SAME_TIME_SECONDS = 1e-6
# The same for positions counted in frames or strides.
_SAME_POSITION = 1e-6


def nearest_frames(pts_seconds: npt.ArrayLike, times: npt.ArrayLike) -> Indices:
    """Index of the frame whose timestamp is nearest to each time; the earlier one of two equally near.

    Times before the first or after the last frame give that frame. Distances that differ by less than a microsecond
    count as equal, so that rounding never decides.

    Args:
        pts_seconds: float64 [num_frames], strictly increasing, at least one.
        times: float64 of any shape, same clock.

    Returns:
        int64 of the shape of ``times``.
    """
    pts, wanted = np.asarray(pts_seconds, np.float64), np.asarray(times, np.float64)
    right = np.clip(np.searchsorted(pts, wanted), 1, max(len(pts) - 1, 1))
    left = right - 1
    right = np.minimum(right, len(pts) - 1)
    is_right_nearer = np.abs(pts[right] - wanted) < np.abs(wanted - pts[left]) - _SAME_TIME_SECONDS
    return np.where(is_right_nearer, right, left).astype(np.int64)


def count_rows(recipe: SamplingRecipe, *, num_frames: int, duration_seconds: float) -> int:
    """Number of rows that a video gets, from the manifest alone; always ``len(sample_rows(...))``.

    Clips: ``num_clips x num_crops``. A bank: the number of grid positions inside its window x ``num_crops``, which is 0
    if the window begins after the video's end. A video without frames has no rows.
    """
    if num_frames == 0:
        return 0
    assert duration_seconds > 0, "a video with frames has a duration"
    if recipe.temporal != "bank":
        return recipe.num_clips * recipe.num_crops
    first, stop = _bank_range(recipe, num_frames=num_frames, duration_seconds=duration_seconds)
    return (stop - first) * recipe.num_crops


def sample_rows(recipe: SamplingRecipe, timeline: Timeline, video_id: str) -> list[ClipSpec]:
    """All rows of one video, time-major: row = temporal index x ``num_crops`` + crop index.

    A pure function of its arguments. Random starts, boxes, flips and colours are keyed by the seed, the video id and
    the row's two indices; all frames of a bank share the draws of index 0.

    Args:
        recipe: Which clips and boxes to sample; for a store, the result of ``for_split`` for the video's split.
        timeline: Timestamps and size of the video.
        video_id: Id of the video, which keys the random draws.

    Raises:
        ConfigError: The recipe is that of an imported store.
    """
    if recipe.is_imported:
        raise ConfigError("rows of an imported store were sampled elsewhere; no video can be sampled as they were")
    if timeline.num_frames == 0:
        return []
    frames = _bank_frames(recipe, timeline) if recipe.temporal == "bank" else _clip_frames(recipe, timeline, video_id)
    noise = None if recipe.noise is None else VideoNoise(recipe.noise, video_id)
    rows: list[ClipSpec] = []
    views: list[tuple[Box, bool, tuple[ColorStep, ...]]] = []
    for temporal_index, taken in enumerate(frames.tolist()):
        # Frames of a bank are assembled to clips later, and the frames of a clip must share one draw.
        if not views or recipe.layout == "clips":
            views = _draw_views(recipe, timeline, video_id, temporal_index)
        for box, flip, color in views:
            spec = ClipSpec(index=len(rows), frames=tuple(taken), box=box, flip=flip, color=color, noise=noise)
            rows.append(spec)
    return rows


def sample_stored(recipes: Sequence[SamplingRecipe], timeline: Timeline, video_id: str) -> list[ClipSpec]:
    """All rows that a store holds of one video: those of each recipe of ``SamplingRecipe.stored``, in their order."""
    rows: list[ClipSpec] = []
    for recipe in recipes:
        first = len(rows)
        rows += [replace(spec, index=first + spec.index) for spec in sample_rows(recipe, timeline, video_id)]
    return rows


def _draw_views(
    recipe: SamplingRecipe, timeline: Timeline, video_id: str, temporal_index: int
) -> list[tuple[Box, bool, tuple[ColorStep, ...]]]:
    """Draw box, flip and colours of each crop."""
    place: dict[str, Any] = {"video_id": video_id, "temporal_index": temporal_index}
    boxes = sample_boxes(recipe, height=timeline.height, width=timeline.width, **place)
    return [
        (box, sample_flip(recipe, crop=crop, **place), sample_color(recipe, crop=crop, **place))
        for crop, box in enumerate(boxes)
    ]


def clip_times(spec: ClipSpec, timeline: Timeline) -> tuple[float, float]:
    """Begin and end of a row in seconds, on the clock of ``pts_seconds``.

    A row lasts from the timestamp of its earliest frame to the end of its latest one (the next frame's timestamp, or
    the end of the video); a clip that loops spans all frames that it has looped over.
    """
    first, last = min(spec.frames), max(spec.frames)
    pts = timeline.pts_seconds
    end = pts[last + 1] if last + 1 < timeline.num_frames else pts[0] + timeline.duration_seconds
    return float(pts[first]), float(end)


def normalised_coordinates(specs: Sequence[ClipSpec], timeline: Timeline) -> npt.NDArray[np.float64]:
    """Positions of rows in their video, each in [0, 1]: SCALE Eq. 5.

    Returns:
        float64 [n, 6]: t0, y0, x0, t1, y1, x1, divided by duration, height and width.
    """
    start, duration = float(timeline.pts_seconds[0]), timeline.duration_seconds
    coordinates = np.empty((len(specs), 6), np.float64)
    for row, spec in enumerate(specs):
        t0, t1 = clip_times(spec, timeline)
        box = spec.box
        coordinates[row] = (
            (t0 - start) / duration,
            box.y0 / timeline.height,
            box.x0 / timeline.width,
            (t1 - start) / duration,
            box.y1 / timeline.height,
            box.x1 / timeline.width,
        )
    return np.clip(coordinates, 0.0, 1.0)  # (pts + duration) - pts may be rounded to slightly above the duration


def playback_rate_indices(
    num_rows: int,
    *,
    start: int | Indices,
    num_frames: int,
    base_stride: int,
    rate: int | Indices,
    wrap: bool = True,
) -> Indices:
    """Rows of a frame bank that make a clip at a playback rate: ``start + j * base_stride * rate``.

    ``start`` and ``rate`` may be arrays, one entry per clip.

    Args:
        num_rows: Number of rows (frames) of the video in the bank.
        start: First row, int or int64 [n].
        num_frames: Number of frames of the clip.
        base_stride: Distance of neighbouring frames at rate 1, in bank rows.
        rate: Playback rate, 1 = normal, int or int64 [n].
        wrap: After the last row, continue at the first (True) or repeat the last (False).

    Returns:
        int64 [num_frames] or [n, num_frames].
    """
    steps = np.arange(num_frames, dtype=np.int64) * base_stride
    indices = np.asarray(start, np.int64)[..., None] + np.asarray(rate, np.int64)[..., None] * steps
    return indices % num_rows if wrap else np.clip(indices, 0, num_rows - 1)


def bank_supports_stride(bank_stride: int, base_stride: int, jitter: float) -> bool:
    """Whether a frame bank is dense enough for clips whose stride is jittered.

    A bank coarser than ``base_stride x (1 - jitter)`` has to repeat rows to play slowly, and the repetitions would
    reveal the playback rate.

    Args:
        bank_stride: Distance of neighbouring bank rows, in frames.
        base_stride: The method's stride at rate 1, in frames.
        jitter: Fraction by which that stride varies, in [0, 1).
    """
    return bank_stride <= base_stride * (1 - jitter) + _SAME_POSITION


def _rate(recipe: SamplingRecipe, *, num_frames: int, duration_seconds: float) -> float:
    """Frames per second of the grid on which positions are counted."""
    return recipe.target_fps if recipe.target_fps is not None else num_frames / duration_seconds


def _bank_range(recipe: SamplingRecipe, *, num_frames: int, duration_seconds: float) -> tuple[int, int]:
    """First and end (exclusive) multiple of the bank's stride inside the window.

    The grid is that of the whole video for every window, so that adjacent windows tile it.
    """
    per_second = _rate(recipe, num_frames=num_frames, duration_seconds=duration_seconds) / recipe.frame_stride
    end = duration_seconds if recipe.end_seconds is None else min(recipe.end_seconds, duration_seconds)
    first = math.ceil((recipe.start_seconds or 0.0) * per_second - _SAME_POSITION)
    stop = math.ceil(end * per_second - _SAME_POSITION)
    return first, max(first, stop)


def _bank_frames(recipe: SamplingRecipe, timeline: Timeline) -> Indices:
    """Frames of a bank, int64 [num_rows, 1]."""
    num_frames, duration = timeline.num_frames, timeline.duration_seconds
    first, stop = _bank_range(recipe, num_frames=num_frames, duration_seconds=duration)
    period = recipe.frame_stride / _rate(recipe, num_frames=num_frames, duration_seconds=duration)
    times = timeline.pts_seconds[0] + np.arange(first, stop) * period
    return nearest_frames(timeline.pts_seconds, times)[:, None]


def _clip_frames(recipe: SamplingRecipe, timeline: Timeline, video_id: str) -> Indices:
    """Frames of all clips, int64 [num_clips, num_frames].

    A clip begins at a frame; its other frames are those nearest to that frame's timestamp plus multiples of the stride.
    """
    if recipe.temporal in ("spread", "spread_random"):
        return _spread_frames(recipe, timeline, video_id)
    pts, duration = timeline.pts_seconds - timeline.pts_seconds[0], timeline.duration_seconds
    rate = _rate(recipe, num_frames=timeline.num_frames, duration_seconds=duration)
    offsets = np.arange(recipe.num_frames) * (recipe.frame_stride / rate)
    span_seconds = offsets[-1] + 1 / rate
    last_start = duration - span_seconds
    if last_start < -_SAME_TIME_SECONDS:  # longer than the video: every clip begins at its first frame
        if recipe.short_videos == "loop":
            offsets = offsets % duration
            offsets[duration - offsets < _SAME_TIME_SECONDS] = 0.0  # a whole lap that rounding has left slightly short
        return np.tile(nearest_frames(pts, offsets), (recipe.num_clips, 1))
    num_starts = max(1, int(np.searchsorted(pts, last_start + _SAME_TIME_SECONDS, side="right")))
    if recipe.temporal == "random":
        starts = np.array(
            [rng_for(recipe.seed, "start", video_id, clip).integers(num_starts) for clip in range(recipe.num_clips)]
        )
    else:
        if recipe.temporal == "uniform_open":
            fractions = np.arange(recipe.num_clips) / recipe.num_clips
        else:
            fractions = np.linspace(0.0, 1.0, recipe.num_clips) if recipe.num_clips > 1 else np.array([0.5])
        starts = np.minimum(nearest_frames(pts, fractions * max(last_start, 0.0)), num_starts - 1)
    return nearest_frames(pts, pts[starts][:, None] + offsets)


def _spread_frames(recipe: SamplingRecipe, timeline: Timeline, video_id: str) -> Indices:
    """Frames of clips over the whole video, int64 [num_clips, num_frames]: the frame at one place of each equal part.

    A video with fewer frames than a clip repeats each frame for as long as it is shown; no clip wraps.
    """
    if recipe.temporal == "spread":
        places = (np.arange(recipe.num_clips) + 0.5) / recipe.num_clips
    else:
        places = np.array([rng_for(recipe.seed, "start", video_id, clip).random() for clip in range(recipe.num_clips)])
    times = (np.arange(recipe.num_frames) + places[:, None]) * (timeline.duration_seconds / recipe.num_frames)
    shown = np.searchsorted(timeline.pts_seconds - timeline.pts_seconds[0], times + _SAME_TIME_SECONDS, side="right")
    return (shown - 1).astype(np.int64)
