"""Converts decoded frames to the displayed pictures: RGB, of one size, rotated as the container asks."""

from collections.abc import Mapping  # noqa: TC003  of a local name
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

_HDR = {16: "pq", 18: "hlg"}  # transfer characteristics, ITU-T H.273

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The effect of a display matrix on pictures, in this order.

    Attributes:
        swaps: Whether rows become columns.
        mirrors_x: Whether left and right are then swapped.
        mirrors_y: Whether top and bottom are then swapped.
    """

    swaps: bool = False
    mirrors_x: bool = False
    mirrors_y: bool = False

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height as shown, from those of the stored pictures."""
        return (height, width) if self.swaps else (width, height)

    def apply(self, picture: Pixels) -> Pixels:
        """``picture`` [H, W, …] as shown; a view of the same pixels."""
        if self.swaps:
            picture = picture.swapaxes(0, 1)
        if self.mirrors_x:
            picture = picture[:, ::-1]
        return picture[::-1] if self.mirrors_y else picture


def turn_of(frame: VideoFrame) -> Turn:
    """The nearest quarter turn, with or without mirroring, to the display matrix of a frame.

    The matrix stands for x' = ax + cy, y' = bx + dy. Halfway between two quarter turns (45 degrees) rows stay rows;
    scale and shear are ignored.
    """
    side_data: Mapping[str, Any] = frame.side_data
    if "DISPLAYMATRIX" not in side_data:
        return Turn()
    a, b, _, c, d = np.frombuffer(bytes(side_data["DISPLAYMATRIX"]), np.int32)[:5].astype(np.float64)
    swaps = bool(abs(b) > abs(a))
    if swaps:
        a, d = c, b
    return Turn(swaps=swaps, mirrors_x=bool(a < 0), mirrors_y=bool(d < 0))


def pixel_aspect(sample_aspect: Fraction | None, turn: Turn) -> float:
    """Width over height of a pixel as shown; 1 if the file states none, or a value that is not above 0."""
    if not sample_aspect or sample_aspect < 0:
        return 1.0
    return float(1 / sample_aspect if turn.swaps else sample_aspect)


def transfer_of(frame: VideoFrame) -> str:
    """``pq`` or ``hlg`` for a frame in HDR, otherwise empty."""
    return _HDR.get(int(frame.color_trc), "")


def to_rgb(frame: VideoFrame, reformatter: VideoReformatter, *, size: tuple[int, int]) -> Pixels:
    """Uint8 RGB [H, W, 3] of a frame as stored, scaled (bicubic) if it does not have the video's ``size`` (W, H)."""
    width, height = size
    if (frame.width, frame.height) == size:
        converted = reformatter.reformat(frame, format="rgb24", threads=1)
    else:
        converted = reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=Interpolation.BICUBIC, threads=1
        )
    plane = converted.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[call-overload]
    picture: Pixels = rows[:height, : 3 * width].reshape(height, width, 3)
    return picture
