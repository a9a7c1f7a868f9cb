"""Settings of the audit of a pretext task."""

from typing import Literal

from pydantic import Field

from featcache.config import Aside, Settings
from featcache.data.motion import MotionSettings
from featcache.methods.pretext.settings import AnyTask
from featcache.metrics.settings import IntervalSettings


class LeakSettings(Settings):
    """Settings of ``featcache audit leaks``: can the answer of a pretext task be told without motion?"""

    command: Literal["audit-leaks"] = "audit-leaks"
    """The command this file repeats."""
    task: AnyTask
    """The task: its ``name``, e.g. ``prp``, and its own settings."""
    num_frames: int = Field(default=16, ge=2)
    """Number of frames per clip."""
    input_size: int = Field(default=64, ge=8)
    """Side of a clip in pixels."""
    num_videos: int = Field(default=22, ge=2)
    """Number of videos, of one photograph each in turn."""
    num_draws: int = Field(default=40, ge=2)
    """Number of draws from each video."""
    video_frames: int = 300
    """Number of frames of a video, at least those that the task needs, at most 512."""
    video_size: int = 96
    """Side of a video in pixels."""
    fps: int = 30
    """Frame rate of the videos."""
    crf: int = 20
    """Quality of the H.264 encoder; lower is better."""
    gops: tuple[int, ...] = (24, 250, 1)
    """Distances of key frames of the videos in which the camera stands still."""
    seed: int = 0
    """Seed of the videos and of the draws."""
    intervals: IntervalSettings = IntervalSettings(num_resamples=10_000, confidence=0.999)
    """Intervals of accuracies; an audit compares about thirty with a guess, so they are wide."""
    out: Aside[str | None] = None
    """Folder of the result; null: ``runs/<task>/leaks-<hash>``."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        for gop in self.gops:
            self.camera(gop=gop, moves=False)

    def camera(self, *, gop: int, moves: bool) -> MotionSettings:
        """How videos are drawn and encoded.

        Args:
            gop: Distance of key frames.
            moves: Whether the camera moves.

        Raises:
            ConfigError: Videos cannot be made so.
        """
        return MotionSettings(
            num_frames=self.video_frames,
            size=self.video_size,
            fps=self.fps,
            seed=self.seed,
            crf=self.crf,
            gop=gop,
            window=(0.15, 0.25) if moves else (0.35, 0.6),
            travel=(0.6, 0.9) if moves else (0.0, 0.0),
        )
