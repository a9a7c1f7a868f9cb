"""Frames of clips at several rates and spreads: pure index arithmetic over a frame bank.

Positions are source frames, from 0 to ``num_frames - 1`` of a video, and become rows of a bank that holds every
``bank_stride``-th of them. With a bank of stride 1 the indices are those of the published sampler.
"""

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def playback_clip(
    num_source_frames: int,
    *,
    start: float,
    rate: float,
    jitter: float,
    num_frames: int,
    base_stride: float,
    bank_stride: int = 1,
) -> Indices:
    """Bank positions of a clip at a playback rate: floor(start + k * base_stride * rate * jitter), modulo the length.

    Equal to ``num_frames`` stamps equally spaced from ``start`` to ``start + num_frames * base_stride * rate *
    jitter``, the end excluded (AdViSe's released sampler).

    Args:
        num_source_frames: Number of frames L of the video.
        start: First stamp in source frames.
        rate: Playback rate, 1 = normal.
        jitter: Factor of the speed, 1 = none.
        num_frames: Number of frames of the clip.
        base_stride: Distance of frames at rate 1, in source frames.
        bank_stride: Number of source frames per bank position.

    Returns:
        int64 [num_frames] in [0, ceil(L / bank_stride)).
    """
    stamps = start + np.arange(num_frames) * (base_stride * rate * jitter)
    positions: Indices = np.floor(stamps + 1e-9).astype(np.int64) % num_source_frames // bank_stride
    return positions


def pretext_start(num_source_frames: int, *, num_frames: int, base_stride: float, draw: float) -> int:
    """First frame of a pretext clip: uniform integer in [0, L - num_frames * base_stride], 0 for shorter videos.

    Args:
        num_source_frames: Number of frames L of the video.
        num_frames: Number of frames of the clip.
        base_stride: Distance of frames at rate 1.
        draw: Uniform in [0, 1).
    """
    last = max(0, num_source_frames - round(num_frames * base_stride))
    return int(draw * (last + 1))


def spread_clip(
    num_source_frames: int, *, num_frames: int, first_draw: float, last_draw: float, bank_stride: int = 1
) -> Indices:
    """The simple-uniform sampler: stamps from near the beginning to near the end of the video.

    interval = L // num_frames; the first stamp is an integer in [0, interval], the last is L minus an integer in
    [1, interval], and the others lie linearly between, rounded down (AdViSe's sampler for Diving48 and SSv2).

    Args:
        num_source_frames: Number of frames L of the video.
        num_frames: Number of frames of the clip.
        first_draw: Uniform in [0, 1).
        last_draw: Uniform in [0, 1).
        bank_stride: Number of source frames per bank position.

    Returns:
        int64 [num_frames].
    """
    interval = max(1, num_source_frames // num_frames)
    first = int(first_draw * (interval + 1))
    last = num_source_frames - 1 - int(last_draw * interval)
    stamps = np.floor(np.linspace(first, last, num_frames) + 1e-9).astype(np.int64)
    return np.clip(stamps, 0, num_source_frames - 1) // bank_stride


def view_starts(num_source_frames: int, *, num_clips: int, num_frames: int, stride: float) -> Indices:
    """First frames of test clips: equally spaced from 0 to L - num_frames * stride - 1, both included.

    A single clip lies in the middle; a video shorter than a clip gives 0 for every clip, and the clip wraps.

    Returns:
        int64 [num_clips].
    """
    last = max(0, num_source_frames - round(num_frames * stride) - 1)
    if num_clips == 1:
        return np.array([last // 2], np.int64)
    return np.floor(np.linspace(0, last, num_clips) + 1e-9).astype(np.int64)
