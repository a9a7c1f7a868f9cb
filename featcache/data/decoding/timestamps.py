"""When frames are shown: pure functions from decoded timestamps to a timeline."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Containers without presentation times number the packets: a packed bitstream then seems to skip a frame or two.
_NUMBERING_SLACK_FRAMES = 2.5


def presentation_seconds(times: Sequence[float | None], *, step_seconds: float) -> npt.NDArray[np.float64]:
    """Strictly increasing timestamps for frames in presentation order, whatever the container says.

    Timestamps that increase strictly are kept. Otherwise the container has none (AVI numbers its packets in decoding
    order, so reordered frames come with times that go back and forth): the sorted times are kept if they are distinct
    and have real gaps, else the frames are spaced equally by ``step_seconds`` from the earliest time.

    Args:
        times: Seconds of each frame in presentation order; ``None`` where the stream gives none.
        step_seconds: The stream's nominal frame duration.

    Returns:
        float64 [len(times)].
    """
    known = np.array([time for time in times if time is not None], dtype=np.float64)
    if len(known) == len(times):
        if (np.diff(known) > 0).all():
            return known
        ordered = np.sort(known)
        skipped = (ordered[-1] - ordered[0]) / step_seconds - (len(ordered) - 1)
        if (np.diff(ordered) > 0).all() and skipped > _NUMBERING_SLACK_FRAMES:
            return ordered
    start = float(known.min()) if len(known) else 0.0
    return start + np.arange(len(times), dtype=np.float64) * step_seconds


def duration_seconds(times: npt.NDArray[np.float64], *, step_seconds: float) -> float:
    """From the first timestamp to the end of the last frame, which lasts the median spacing.

    Args:
        times: float64 [num_frames], strictly increasing, at least one.
        step_seconds: How long the only frame of a one-frame video lasts.
    """
    last = float(np.median(np.diff(times))) if len(times) > 1 else step_seconds
    return float(times[-1] - times[0]) + last
