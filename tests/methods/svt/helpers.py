"""Timelines and small views."""

import numpy as np

from featcache.data.types import Timeline
from featcache.methods.svt.settings import SvtViewSettings


def timeline(num_frames=60, *, fps=30.0, height=48, width=64, late=0.0, jitter=None):
    """A constant rate, or one where each frame comes up to ``jitter`` periods late."""
    pts = np.arange(num_frames) / fps + late
    if jitter is not None:
        pts = pts + np.random.default_rng(num_frames).uniform(0, jitter, num_frames) / fps
    return Timeline(pts_seconds=pts, duration_seconds=float(pts[-1] - pts[0]) + 1 / fps, height=height, width=width)


def small_views(**changes):
    return SvtViewSettings(**{"global_size": 32, "local_size": 16, "local_frames": (2, 4), **changes})
