"""The plan of a run that trains on videos: what would be trained, on what, and for how long."""

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """Plan of a run.

    Attributes:
        num_train: Number of training videos.
        num_left_out: Number of videos that cannot be used.
        clip: Frames, height and width of a clip.
        num_parameters: Number of parameters of the backbone.
        num_trained: Number of trained parameters, including heads.
        num_steps: Number of optimiser steps per seed.
        num_seeds: Number of seeds.
    """

    num_train: int
    num_left_out: int
    clip: tuple[int, int, int]
    num_parameters: int
    num_trained: int
    num_steps: int
    num_seeds: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return dataclasses.asdict(self)

    def facts(self) -> dict[str, object]:
        """Names and values of the summary."""
        frames, height, width = self.clip
        facts: dict[str, object] = {
            "clip": f"{frames} frames of {height} x {width}",
            "parameters": f"{self.num_parameters:,} of the backbone; {self.num_trained:,} are trained, head included",
            "steps": f"{self.num_steps:,}, {self.num_seeds} seeds",
        }
        if self.num_left_out:
            facts["left out"] = f"{self.num_left_out} videos that cannot be used"
        return facts
