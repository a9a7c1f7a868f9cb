"""Windows of time in a video and the frames of views within them: pure index arithmetic."""

import math
from typing import NamedTuple

import numpy as np

from featcache.data.sampling import nearest_frames
from featcache.data.types import Timeline
from featcache.loaders.views import Indices


class Window(NamedTuple):
    """A window of time in a video.

    Attributes:
        start: Start in seconds after the first frame.
        width: Length in seconds.
    """

    start: float
    width: float


def tis_distance(uniform: float, *, room: float) -> float:
    """The distance of two clips' starts: density ``2 (1 - d / M) / M`` on [0, M] (CVRL, temporal interval sampler).

    Args:
        uniform: A uniform draw in [0, 1).
        room: The last possible start M of a clip.
    """
    return room * (1.0 - math.sqrt(1.0 - uniform))


def window_frames(window: Window, timeline: Timeline, *, num_frames: int) -> Indices:
    """Frames spread evenly from the first to the last frame of a window, int64 [num_frames]."""
    period = timeline.duration_seconds / timeline.num_frames
    last = max(window.start, window.start + window.width - period)
    times = np.linspace(window.start, last, num_frames)
    return nearest_frames(timeline.pts_seconds - timeline.pts_seconds[0], times)
