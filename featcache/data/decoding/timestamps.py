"""When frames are shown: pure functions from decoded timestamps to a timeline."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

# Containers without presentation times number the packets: a packed bitstream then seems to skip a frame or two.
_NUMBERING_SLACK_FRAMES = 2.5
# A clock that ticks at least so often is no frame rate: WebM's has 1000 ticks a second, a transport stream's 90 000.
_CLOCK_HZ = 600
# How long a frame lasts where neither the container nor another frame says so.
_UNSTATED_SECONDS = 1 / 25


def stated_step_seconds(
    average_rate: Fraction | None, *, duration_ticks: int, guessed_rate: Fraction | None = None, time_base: Fraction
) -> float | None:
    """How long a frame lasts by what the container says; ``None`` where it says nothing.

    FFmpeg gives a stream that states no rate the rate of its clock; that, and a duration of one tick, say nothing.

    Args:
        average_rate: FFmpeg's mean frame rate of the stream, which goes before all else.
        duration_ticks: How long the first frame lasts, in units of ``time_base``; 0 if unknown.
        guessed_rate: FFmpeg's guess, which may count fields; the last resort.
        time_base: One tick of the stream's clock, in seconds.
    """
    is_clock = time_base * _CLOCK_HZ <= 1

    average, guessed = (
        None if not rate or (is_clock and rate * time_base >= 1) else float(1 / rate)
        for rate in (average_rate, guessed_rate)
    )
    if average is not None:
        return average
    return float(duration_ticks * time_base) if duration_ticks > is_clock else guessed


def presentation_seconds(times: Sequence[float | None], *, step_seconds: float | None) -> npt.NDArray[np.float64]:
    """Strictly increasing timestamps for frames in presentation order, whatever the container says.

    Timestamps that increase strictly are kept. Otherwise the container has none (AVI numbers its packets in decoding
    order, so reordered frames come with times that go back and forth): the sorted times are kept if they are distinct
    and have real gaps, else the frames are spaced equally by ``step_seconds`` from the earliest time.
    Without a step, distinct times are kept, others spread equally from the earliest to the latest.

    Args:
        times: Seconds of each frame in presentation order; ``None`` where the stream gives none.
        step_seconds: The stream's nominal frame duration; ``None`` if it states none.

    Returns:
        float64 [len(times)].
    """
    known = np.array([time for time in times if time is not None], dtype=np.float64)
    if len(known) == len(times):
        if (np.diff(known) > 0).all():
            return known
        ordered = np.sort(known)
        nominal = (len(ordered) - 1 + _NUMBERING_SLACK_FRAMES) * (step_seconds or 0.0)
        if (np.diff(ordered) > 0).all() and ordered[-1] - ordered[0] > nominal:
            return ordered
    start = float(known.min()) if len(known) else 0.0
    if step_seconds is None:
        span = float(known.max() - known.min()) if len(known) else 0.0
        step_seconds = span / (len(times) - 1) if span else _UNSTATED_SECONDS
    return start + np.arange(len(times), dtype=np.float64) * step_seconds


def duration_seconds(times: npt.NDArray[np.float64], *, step_seconds: float | None) -> float:
    """From the first timestamp to the end of the last frame, which lasts the median spacing.

    Args:
        times: float64 [num_frames], strictly increasing, at least one.
        step_seconds: How long the only frame of a one-frame video lasts; ``None``: 1/25 s.
    """
    last = float(np.median(np.diff(times))) if len(times) > 1 else step_seconds or _UNSTATED_SECONDS
    return float(times[-1] - times[0]) + last
