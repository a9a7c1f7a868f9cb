"""Formats ``actionformer`` and ``opentad``: the inputs of two libraries for temporal action localisation.

Both represent a video as ``[T, C]``, where row i stands for one moment. With ``s`` = ``feat_stride`` (ActionFormer) or
``feature_stride`` (OpenTAD) and ``o`` = ``num_frames / 2`` or ``offset_frames``, a time of ``x`` seconds is at row
``(x * fps - o) / s`` (ActionFormer, ``libs/datasets/thumos14.py``; OpenTAD, ``opentad/datasets/thumos.py``, where
``fps`` is ``frame / duration``). So the middle of row i must be at ``(o + i * s) / fps`` seconds, and ``s`` and ``o``
must be the same for all videos. They are computed from the times in the row table and checked against every row. Both
libraries count times from a video's first frame; the row table has the container's clock, which may begin later.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from featcache.data.types import VideoRecord
from featcache.errors import ExchangeError
from featcache.exchange.outgoing import Outgoing, Step
from featcache.exchange.settings import ExportSettings
from featcache.files.places import safe_join
from featcache.store.rows import RowTable

Seconds = npt.NDArray[np.float64]

_FRAMES = 0.5 + 1e-6  # a row may be off its place by half a frame, the rounding of timestamps
FEATURES = "features"
ANNOTATIONS = "annotations.json"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Track:
    """Times of the rows of one video.

    Attributes:
        id: Id of the video.
        middle: float64 [T], the middle of each row in seconds from the video's first frame, increasing.
        fps: Frames per second of the video; 0 if unknown.
    """

    id: str
    middle: Seconds
    fps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A regular grid of rows: the middle of row i is at ``(offset_frames + i * stride_frames) / fps`` seconds.

    Attributes:
        stride_frames: Number of frames from one row to the next.
        offset_frames: Number of frames from the beginning of a video to the middle of its first row.
        fps: Frames per second of the grid, the same for all videos; ``None``: each video's own.
    """

    stride_frames: float
    offset_frames: float
    fps: float | None

    def fps_of(self, track: Track) -> float:
        """Frames per second of a video on this grid."""
        return track.fps if self.fps is None else self.fps

    def error_frames(self, track: Track) -> float:
        """Largest distance, in frames, of a row of a video from its place on the grid."""
        places = self.offset_frames + np.arange(len(track.middle)) * self.stride_frames
        return float(np.abs(track.middle * self.fps_of(track) - places).max())


def find_grid(tracks: Iterable[Track], *, target_fps: float | None) -> Grid:
    """The grid on which the rows of all videos lie, at their own frame rates or else at one rate for all.

    Args:
        tracks: The videos, at least one.
        target_fps: Frame rate of the sampling recipe, if it has one: strides are then counted at that rate.

    Raises:
        ExchangeError: There is no such grid; names a video and says what to do.
    """
    tracks = list(tracks)
    longest = max(tracks, key=lambda track: len(track.middle))
    if len(longest.middle) < 2:
        raise ExchangeError(
            "every video has a single row, and a stride takes two; extract a frame bank (--layout frames) or more clips"
        )
    rates: list[float | None] = [None] if all(track.fps > 0 for track in tracks) else []
    rates += [target_fps] if target_fps is not None else [longest.fps] if longest.fps > 0 else []
    worst: tuple[float, Track] | None = None
    for rate in rates:
        grid = _grid_of(longest, rate)
        found = max(((grid.error_frames(track), track) for track in tracks), key=lambda pair: pair[0])
        if found[0] <= _FRAMES:
            return grid
        worst = min(worst, found, key=lambda pair: pair[0]) if worst is not None else found
    if worst is None:
        raise ExchangeError(
            "the frame rate of no video is known, and strides are counted in frames; import it with --fps, or with a "
            "column fps in the listing"
        )
    raise ExchangeError(
        f"rows are not equally spaced by one stride: those of {longest.id!r} lie on a grid from which rows of "
        f"{worst[1].id!r} are off by up to {worst[0]:.3g} frames; extract a frame bank (--layout frames), whose stride "
        "is the same in all videos"
    )


def _grid_of(track: Track, rate: float | None) -> Grid:
    fps = track.fps if rate is None else rate
    intervals = len(track.middle) - 1
    stride = float(track.middle[-1] - track.middle[0]) / intervals * fps
    if abs(round(stride) - stride) * intervals <= 0.5:  # timestamps are rounded, strides are mostly whole
        stride = float(round(stride))
    offset = float(track.middle[0]) * fps
    if abs(round(2 * offset) / 2 - offset) < 1e-2:
        offset = round(2 * offset) / 2
    return Grid(stride_frames=stride, offset_frames=offset, fps=rate)


def write_actionformer(out: Outgoing, folder: Path, settings: ExportSettings, step: Step) -> dict[str, Any]:
    """Write ``features/<id>.npy`` [T, C], ``annotations.json`` and ``config.yaml`` for ActionFormer's dataset.

    ``num_frames`` is twice the offset, which is the length of a clip if the first clip begins with the video.
    """
    grid, written = _write(out, folder, step)
    config = {
        "dataset": {
            "json_file": ANNOTATIONS,
            "feat_folder": FEATURES,
            "file_prefix": None,
            "file_ext": ".npy",
            "input_dim": out.record.shape[0],
            "feat_stride": _plain(grid.stride_frames),
            "num_frames": _plain(2 * grid.offset_frames),
            "default_fps": None,
            "downsample_rate": 1,
        }
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return {**_summary(grid), "num_frames": _plain(2 * grid.offset_frames), "videos_written": written}


def write_opentad(out: Outgoing, folder: Path, settings: ExportSettings, step: Step) -> dict[str, Any]:
    """Write ``features/<id>.npy`` [T, C], ``annotations.json`` and ``config.yaml`` for OpenTAD's datasets."""
    grid, written = _write(out, folder, step)
    config = {
        "ann_file": ANNOTATIONS,
        "data_path": FEATURES,
        "feature_stride": _plain(grid.stride_frames),
        "sample_stride": 1,
        "offset_frames": _plain(grid.offset_frames),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return {**_summary(grid), "offset_frames": _plain(grid.offset_frames), "videos_written": written}


def _summary(grid: Grid) -> dict[str, Any]:
    return {"feat_stride": _plain(grid.stride_frames), "fps": "each video's own" if grid.fps is None else grid.fps}


def _write(out: Outgoing, folder: Path, step: Step) -> tuple[Grid, int]:
    """Write arrays and annotations; returns the grid that both libraries need."""
    if len(out.record.shape) != 1:
        raise ExchangeError(
            f"a row of feature {out.features.name!r} is {list(out.record.shape)}; localisation reads one vector per "
            "row, export a pooled feature (output mean or cls)"
        )
    usable = [video for video in out.videos if out.num_rows(video.id)]
    if not usable:
        raise ExchangeError(f"no video of feature {out.features.name!r} has rows; nothing can be exported")
    tracks = [track(out, video) for video in usable]
    grid = find_grid(tracks, target_fps=out.sampling.target_fps)
    database = {}
    for number, (video, one) in enumerate(zip(usable, tracks, strict=True)):
        path = safe_join(folder / FEATURES, f"{video.id}.npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            np.lib.format.write_array(file, out.values(video.id), allow_pickle=False)
        fps = grid.fps_of(one)
        rows = out.rows_of(video.id)
        duration = video.duration_seconds or float(rows.t1[-1]) - first_frame_seconds(video, rows)
        database[video.id] = {
            "subset": video.split,
            "duration": duration,
            "fps": fps,
            "frame": _plain(duration * fps),
            "annotations": [],
            "labels": dict(video.labels),
        }
        step(number + 1, len(usable))
    document = {"version": "featcache", "database": database}
    (folder / ANNOTATIONS).write_text(json.dumps(document, indent=1), encoding="ascii")
    return grid, len(usable)


def track(out: Outgoing, video: VideoRecord) -> Track:
    """The times of one video's rows.

    Raises:
        ExchangeError: The times are unknown, or do not increase from row to row.
    """
    rows = out.rows_of(video.id)
    middle = (rows.t0 + rows.t1) / 2 - first_frame_seconds(video, rows)
    if np.isnan(middle).any():
        raise ExchangeError(
            f"the times of rows of {video.id!r} are not known, so nothing says where they lie; import the features "
            "with --fps, --stride and --clip-frames"
        )
    if (np.diff(middle) <= 0).any():
        crops = out.sampling.num_crops
        raise ExchangeError(
            f"rows of {video.id!r} do not follow each other in time"
            f"{f' (there are {crops} crops per time)' if crops > 1 else ''}; localisation reads one row per time, "
            "extract a frame bank with one crop"
        )
    return Track(id=video.id, middle=middle, fps=video.fps)


def first_frame_seconds(video: VideoRecord, rows: RowTable) -> float:
    """Time of a video's first frame on the clock of its rows.

    A row that contains that frame gives its time; records from before ``VideoRecord.start_seconds`` was added do not.
    """
    shown = rows.pts_seconds[rows.frames == 0]
    return float(shown[0]) if len(shown) and not np.isnan(shown[0]) else video.start_seconds


def _plain(number: float) -> int | float:
    """A float without a fraction as an int, any other number unchanged."""
    return round(number) if abs(number - round(number)) < 1e-6 else number
