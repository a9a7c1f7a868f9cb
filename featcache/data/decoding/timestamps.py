"""Display times of frames: pure functions from decoded timestamps to a timeline."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

# Containers without presentation times number the packets: a packed bitstream then seems to skip a frame or two.
_NUMBERING_SLACK_FRAMES = 2.5
# A clock with at least this many ticks per second is not a frame rate: WebM's has 1000, a transport stream's 90 000.
_CLOCK_HZ = 600
# Duration of a frame if neither the container nor another frame tells it.
_UNSTATED_SECONDS = 1 / 25


def stated_step_seconds(
    average_rate: Fraction | None, *, duration_ticks: int, guessed_rate: Fraction | None = None, time_base: Fraction
) -> float | None:
    """Duration of a frame in seconds as stated by the container; ``None`` if it states none.

    FFmpeg gives a stream that states no rate the rate of its clock; such a rate, and a duration of one tick, are
    ignored.

    Args:
        average_rate: FFmpeg's mean frame rate of the stream, which takes precedence.
        duration_ticks: Duration of the first frame, in units of ``time_base``; 0 if unknown.
        guessed_rate: FFmpeg's guess, which may count fields; used last.
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

    Timestamps that increase strictly are kept. Otherwise the container has no presentation times (AVI numbers its
    packets in decoding order, so the times of reordered frames go back and forth): the sorted times are kept if they
    are distinct and have real gaps; otherwise the frames are spaced equally by ``step_seconds`` from the earliest time.
    Without a step, distinct times are kept, and others are spread equally from the earliest to the latest.

    Args:
        times: Time of each frame in seconds, in presentation order; ``None`` for a frame without a time.
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
    """Time from the first timestamp to the end of the last frame, which lasts the median spacing.

    Args:
        times: float64 [num_frames], strictly increasing, at least one.
        step_seconds: Duration of the frame of a one-frame video; ``None``: 1/25 s.
    """
    last = float(np.median(np.diff(times))) if len(times) > 1 else step_seconds or _UNSTATED_SECONDS
    return float(times[-1] - times[0]) + last
