"""H.264 clips of moving noise, which need no photograph and so no package that contains one."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from featcache.testing.videos import Picture, write_video

WIDTH, HEIGHT = 320, 240
_FREE_BOX = b"\x00\x00\x00\x10free"
"""Head of a box of 16 bytes that every reader of MP4 skips."""


def make_clips(
    folder: Path, count: int, *, num_frames: int, width: int = WIDTH, height: int = HEIGHT, distinct: int = 8
) -> list[Path]:
    """Make clips with a key frame every 12 frames and distinct file contents; beyond ``distinct`` the pictures repeat.

    Args:
        folder: Output folder; created if needed.
        count: Number of clips.
        num_frames: Number of frames per clip.
        width: Width in pixels, even.
        height: Height in pixels, even.
        distinct: Number of clips that are encoded; the rest are copies with a number in a box that readers skip.
    """
    folder.mkdir(parents=True, exist_ok=True)
    distinct = min(distinct, count)

    def encode(number: int) -> bytes:
        path = folder / f"{number:05d}.mp4"
        pictures = drifting(number, num_frames=num_frames, width=width, height=height)
        write_video(path, pictures=pictures, options={"g": "12", "preset": "veryfast"})
        return path.read_bytes()

    with ThreadPoolExecutor() as pool:
        encoded = list(pool.map(encode, range(distinct)))
    for number in range(distinct, count):
        data = encoded[number % distinct] + _FREE_BOX + number.to_bytes(8, "big")
        (folder / f"{number:05d}.mp4").write_bytes(data)
    return [folder / f"{number:05d}.mp4" for number in range(count)]


def drifting(seed: int, *, num_frames: int, width: int, height: int) -> Sequence[Picture]:
    """Coarse noise that moves by a few pixels per frame: uint8 RGB [height, width, 3] each."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 8, width // 8 + 8, 3), dtype=np.uint8)
    picture = coarse.repeat(8, axis=0).repeat(8, axis=1)
    step_y, step_x = rng.integers(1, 4, 2).tolist()
    return [
        np.roll(picture, (step_y * index, step_x * index), axis=(0, 1))[:height, :width].copy()
        for index in range(num_frames)
    ]
