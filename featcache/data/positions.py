"""Positions of clips in their video, as the numbers that a set predictor takes."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from featcache.recipes import PositionForm

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]


# The end of a clip may be rounded to slightly after the end of the video.
_SAME_TIME_SECONDS = 1e-6


class ClipRows(Protocol):
    """Columns of a row table, N rows grouped by video: see :class:`featcache.store.rows.RowTable`."""

    @property
    def video(self) -> Ints:
        """[N], index of the video, not decreasing."""

    @property
    def t0(self) -> Floats:
        """[N], start in seconds."""

    @property
    def t1(self) -> Floats:
        """[N], end in seconds."""

    @property
    def y0(self) -> Ints:
        """[N], top of the box in source pixels."""

    @property
    def x0(self) -> Ints:
        """[N], left of the box."""

    @property
    def y1(self) -> Ints:
        """[N], bottom of the box."""

    @property
    def x1(self) -> Ints:
        """[N], right of the box."""

    @property
    def flip(self) -> npt.NDArray[np.bool_]:
        """[N], whether the row is mirrored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoExtents:
    """Size and duration of each of V videos.

    Attributes:
        height: float64 [V], pixels; 0 if unknown.
        width: float64 [V], pixels; 0 if unknown.
        duration: float64 [V], seconds; 0 if unknown.
        start: float64 [V], the time of the first frame, in seconds.
        is_view: bool [V], whether the video has fixed test views, which are never mirrored.
    """

    height: npt.NDArray[np.float64]
    width: npt.NDArray[np.float64]
    duration: npt.NDArray[np.float64]
    start: npt.NDArray[np.float64]
    is_view: npt.NDArray[np.bool_]


def set_positions(rows: ClipRows, *, form: PositionForm, extents: VideoExtents) -> npt.NDArray[np.float32]:
    """Positions of clips in their videos.

    Rows have the times of the container's clock, which need not begin at 0 with the first frame. If clips lie outside
    the video (imported rows, whose clock is unknown), the clock is moved so that they lie inside.

    Args:
        rows: Rows whose ``video`` indexes ``extents``.
        form: ``box6``: (y0 / H, x0 / W, y1 / H, x1 / W, t0 / T, t1 / T), in [0, 1] (SCALE, Eq. 5). ``code7``, as
            released: (flip, y0, x0, y1, x1, t0, t1), scaled so that the video's own clips span [0, 1] in each of y, x
            and t; flip is 0 or 1, and -1 for test views.
        extents: Extents of the videos; ``code7`` needs no sizes.

    Returns:
        float32 [N, 6] or [N, 7]; unknown coordinates are NaN.
    """
    video = np.asarray(rows.video, np.int64)
    low = {"y": _known(rows.y0), "x": _known(rows.x0), "t": np.asarray(rows.t0, np.float64)}
    high = {"y": _known(rows.y1), "x": _known(rows.x1), "t": np.asarray(rows.t1, np.float64)}
    num_videos = len(extents.duration)
    if form == "box6":
        first = _by_video(np.fmin, low["t"], video, num_videos)
        last = _by_video(np.fmax, high["t"], video, num_videos)
        clock = np.where(
            first < extents.start, first, np.maximum(last - extents.duration - _SAME_TIME_SECONDS, extents.start)
        )
        origin = {"y": np.zeros(num_videos), "x": np.zeros(num_videos), "t": clock}
        span = {"y": extents.height, "x": extents.width, "t": extents.duration}
    else:
        origin = {axis: _by_video(np.fmin, low[axis], video, num_videos) for axis in "yxt"}
        span = {axis: _by_video(np.fmax, high[axis], video, num_videos) - origin[axis] for axis in "yxt"}
    scaled = []
    for values in (low, high):
        for axis in "yxt":
            length = np.where(span[axis] > 0, span[axis], np.nan)
            scaled.append(np.clip((values[axis] - origin[axis][video]) / length[video], 0.0, 1.0))
    y0, x0, t0, y1, x1, t1 = scaled
    columns = [y0, x0, y1, x1, t0, t1]
    if form == "code7":
        columns = [np.where(extents.is_view[video], -1.0, np.asarray(rows.flip, np.float64)), *columns]
    return np.stack(columns, axis=1).astype(np.float32)


def _known(pixels: Ints) -> npt.NDArray[np.float64]:
    """Pixels as floats; -1, which stands for an unknown box in a row table, becomes NaN."""
    return np.where(pixels < 0, np.nan, pixels).astype(np.float64)


def _by_video(
    reduce: np.ufunc, values: npt.NDArray[np.float64], video: npt.NDArray[np.int64], num_videos: int
) -> npt.NDArray[np.float64]:
    """The least or greatest known value of each video, float64 [V]; NaN if the video has none."""
    result = np.full(num_videos, np.nan)
    reduce.at(result, video, values)
    return result
