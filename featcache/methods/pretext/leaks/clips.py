"""Videos of an audit: the camera stands still or moves, with and without a codec."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from featcache.data.decoding.base import open_video
from featcache.data.motion import MOTIONS, PHOTOGRAPHS, Frames, MotionClip, encode_clip, load_photograph, render_frames
from featcache.methods.pretext.leaks.settings import LeakSettings

ALL_INTRA = 1


class Control(NamedTuple):
    """A kind of videos.

    Attributes:
        name: What it is called.
        gop: Distance of key frames; ``None``: frames do not pass a codec.
        moves: Whether the camera moves.
    """

    name: str
    gop: int | None
    moves: bool = False


REPEATED = Control("one frame repeated", None)
MOVING = Control("camera moves, all-intra", ALL_INTRA, moves=True)


def controls(gops: Sequence[int]) -> tuple[Control, ...]:
    """One frame repeated, a camera that stands still with key frames at each of these distances, and one that moves."""
    still = (Control("still, all-intra" if gop == ALL_INTRA else f"still, GOP {gop}", gop) for gop in gops)
    return (REPEATED, *still, MOVING)


def video_frames(control: Control, number: int, settings: LeakSettings, *, folder: Path) -> Frames:
    """Frames of a video as they are decoded, uint8 RGB [T, S, S, 3].

    Args:
        control: The kind of video.
        number: Which video; it says which photograph, where the camera is and how it moves.
        settings: Length, size and quality.
        folder: Where the encoded video is written and removed again.
    """
    camera = settings.camera(gop=control.gop or ALL_INTRA, moves=control.moves)
    photograph = PHOTOGRAPHS[number % len(PHOTOGRAPHS)]
    clip = MotionClip(
        split="train", picture=photograph.name, motion=MOTIONS[number % len(MOTIONS)], number=number // len(PHOTOGRAPHS)
    )
    image = load_photograph(photograph, camera)
    if control.moves:
        frames = render_frames(camera, clip, image)
    else:
        still = render_frames(dataclasses.replace(camera, num_frames=8), clip, image)[0]
        frames = np.repeat(still[None], camera.num_frames, axis=0)
    if control.gop is None:
        return frames
    path = folder / f"{number}.mp4"
    encode_clip(path, frames, camera)
    with open_video(path) as reader:
        decoded = np.stack([frame.copy() for _, frame in reader.read(range(camera.num_frames))])
    path.unlink()
    return decoded
