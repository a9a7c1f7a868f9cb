"""The values passed from a source to a shard: videos, their timing, clips and row metadata."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from featcache.noise import NoiseRecipe

Status = Literal["ok", "missing", "undecodable", "too_short", "timeout", "changed", "unreadable"]
STATUSES: tuple[Status, ...] = get_args(Status)
PASSING: tuple[Status, ...] = ("timeout", "unreadable")
"""Faults that may be temporary, such as a stalled disk or a failing read, so that another try makes sense."""

_SQUARE_WITHIN = 0.01


MAX_GIGAPIXELS = 4000.0
"""Default limit of decoded pixels per file: two hours of 4K at 60 frames per second, 18 hours of full HD at 30."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoRecord:
    """One row of a manifest.

    Attributes:
        id: Unique name; by default the path relative to the root, with ``/`` separators.
        path: Path of the file, relative to the manifest's root (``/`` separators) or absolute.
        num_bytes: File size; 0 if unknown.
        content_hash: ``sha256:…`` of the file; empty if it could not be read.
        num_frames: Number of frames that decode, counted by presentation timestamps; 0 if not ``ok``.
        fps: Mean frame rate, ``num_frames / duration_seconds``.
        duration_seconds: From the first frame's timestamp to the end of the last frame.
        start_seconds: Timestamp of the first frame on the container's clock, which need not begin at 0.
        height: Height in pixels as shown (after rotation).
        width: Width in pixels as shown (after rotation).
        codec: Codec name, e.g. ``h264``.
        pixel_aspect: Width of a pixel over its height, as shown; 1 if the file states none.
        transfer: ``pq`` or ``hlg`` for HDR, whose values stand for another brightness than in SDR; otherwise empty.
        labels: Label columns, e.g. ``{"label": "wave"}``; a missing label has no entry.
        split: ``train``, ``test``, …; empty if the source has none.
        status: ``ok``, or why the video cannot be used.
        reason: One sentence for a status that is not ``ok``.
    """

    id: str
    path: str
    num_bytes: int = 0
    content_hash: str = ""
    num_frames: int = 0
    fps: float = 0.0
    duration_seconds: float = 0.0
    start_seconds: float = 0.0
    height: int = 0
    width: int = 0
    codec: str = ""
    pixel_aspect: float = 1.0
    transfer: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    split: str = ""
    status: Status = "ok"
    reason: str = ""

    @property
    def has_square_pixels(self) -> bool:
        """Whether pixels are as wide as they are high, to within a hundredth (which allows for rounding)."""
        return abs(self.pixel_aspect - 1) <= _SQUARE_WITHIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Timestamps and frame size of a video, which is all that sampling needs, and the meaning of its pixels.

    Attributes:
        pts_seconds: float64 [num_frames], strictly increasing presentation timestamps.
        duration_seconds: From the first timestamp to the end of the last frame.
        height: Height in pixels, after rotation.
        width: Width in pixels, after rotation.
        pixel_aspect: As in :class:`VideoRecord`.
        transfer: As in :class:`VideoRecord`.
    """

    pts_seconds: npt.NDArray[np.float64]
    duration_seconds: float
    height: int
    width: int
    pixel_aspect: float = 1.0
    transfer: str = ""

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.pts_seconds)

    @property
    def fps(self) -> float:
        """Mean frame rate."""
        return self.num_frames / self.duration_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A box in source pixels, half open: rows ``y0 <= y < y1``, columns ``x0 <= x < x1``."""

    y0: int
    x0: int
    y1: int
    x1: int


ColorName = Literal["brightness", "contrast", "saturation", "hue", "grey", "blur", "solarise", "gamma"]


class ColorStep(NamedTuple):
    """One step of a row's colour augmentation.

    Attributes:
        name: Name of the step.
        amount: Factor of brightness, contrast or saturation; turns of the hue circle; sigma of the blur in pixels; the
            value, out of 255, from which solarisation inverts; the exponent of gamma; 1 for grey.
    """

    name: ColorName
    amount: float


class VideoNoise(NamedTuple):
    """Noise on the frames of a video; see :func:`featcache.data.noise.add_noise`.

    Attributes:
        recipe: The noise.
        video_id: Id of the video, which keys the draws.
    """

    recipe: NoiseRecipe
    video_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSpec:
    """One row to be read: ordered frames of one video from one box.

    Attributes:
        index: Ordinal of the row within its video.
        frames: Frame indices, one per frame of the clip, in the clip's order (they repeat if a short video loops).
        box: Box to read from each frame.
        flip: Whether the row is mirrored left to right.
        color: Colour steps, applied in order after the resize.
        noise: Noise on the frames, or on the resized boxes; ``None``: none.
    """

    index: int
    frames: tuple[int, ...]
    box: Box
    flip: bool
    color: tuple[ColorStep, ...] = ()
    noise: VideoNoise | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOutcome:
    """Outcome of one video's rows in one shard (a long video may span several shards).

    Attributes:
        id: The video's id.
        status: ``ok``, or why its rows are absent.
        reason: One sentence for a status that is not ``ok``.
        first_row: First row within the shard.
        num_rows: Number of rows that the plan gives the video in this shard.
        tries: Number of tries for which this outcome stands; more than 1 where several generations became one.
    """

    id: str
    status: Status
    reason: str
    first_row: int
    num_rows: int
    tries: int = 1
