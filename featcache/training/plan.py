"""The plan of a run that trains on videos: what would be trained, on what, for how long, and what is missing."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from featcache.files.places import free_bytes
from featcache.machine import num_cores
from featcache.summary import Summary, counted
from featcache.training.forecast import DecodeSample, Forecast, StepCost
from featcache.training.settings import TrainingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """Plan of a run.

    Attributes:
        num_train: Number of training videos; ``None`` if they cannot be listed.
        num_left_out: Number of videos that cannot be used.
        clip: Frames, height and width of a clip.
        num_parameters: Number of parameters of the backbone.
        num_trained: Number of trained parameters, including heads.
        num_steps: Number of optimiser steps per seed; ``None`` if the videos cannot be listed, or make no batch.
        num_seeds: Number of seeds.
        forecast: Hours, cores and bytes, and what is missing.
    """

    num_train: int | None
    num_left_out: int
    clip: tuple[int, int, int]
    num_parameters: int
    num_trained: int
    num_steps: int | None
    num_seeds: int
    forecast: Forecast

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**dataclasses.asdict(self), "forecast": self.forecast.to_dict()}

    def summary_of(self, facts: Mapping[str, object]) -> Summary:
        """The plan in words: the facts of a method, then those of every plan, the table of GPUs, what is missing."""
        return Summary(
            tables=self.forecast.tables(),
            facts={**facts, **self.facts(), **self.forecast.facts()},
            lines=self.forecast.lines(),
        )

    def facts(self) -> dict[str, object]:
        """Names and values of the summary."""
        frames, height, width = self.clip
        facts: dict[str, object] = {
            "clip": f"{frames} frames of {height} x {width}",
            "parameters": f"{self.num_parameters:,} of the backbone; {self.num_trained:,} are trained, head included",
            "steps": "unknown" if self.num_steps is None else f"{self.num_steps:,}, {self.num_seeds} seeds",
        }
        if self.num_left_out:
            facts["left out"] = f"{counted(self.num_left_out, 'video')} that cannot be used"
        return facts


def step_cost(
    module: nn.Module,
    training: TrainingSettings,
    *,
    kept: nn.Module | None,
    whole: nn.Module | None = None,
    trained_macs: int,
    frozen_macs: int = 0,
    recomputes: bool = False,
) -> StepCost:
    """What a step computes, and the bytes that a run keeps.

    Args:
        module: Everything with state, on any device.
        training: Optimiser and average.
        kept: Network that is written as a file of weights, at the end and at ``keep_epochs``; ``None``: none is.
        whole: Module that is written beside it at the end, with its head; ``None``: none is.
        trained_macs: Multiply-accumulates of one forward pass of what is trained, per video.
        frozen_macs: Those of what gets no gradient, per video.
        recomputes: Whether the forward pass is repeated during the backward pass.
    """
    optimiser = training.optimiser
    moments = 2 if optimiser.name == "adamw" else 1 if optimiser.momentum else 0
    gradients = sum(each.numel() * each.element_size() for each in module.parameters() if each.requires_grad)
    state = _state_bytes(module) * (1 if training.ema_decay is None else 2)
    return StepCost(
        trained_macs=trained_macs,
        frozen_macs=frozen_macs,
        recomputes=recomputes,
        checkpoint_bytes=state + moments * gradients,
        weights_bytes=(0 if kept is None else _state_bytes(kept) * (1 + len(training.keep_epochs)))
        + (0 if whole is None else _state_bytes(whole)),
        gradient_bytes=gradients,
    )


def forecast(
    training: TrainingSettings,
    *,
    num_videos: int | None,
    cost: StepCost | None,
    decoding: DecodeSample | None,
    out: str | None,
    missing: Sequence[str] = (),
) -> Forecast:
    """What a run on this machine's disk takes.

    Args:
        training: Epochs and seeds.
        num_videos: Number of training videos; ``None`` if they cannot be listed.
        cost: Cost of a step.
        decoding: The measured sample.
        out: Folder of the run; ``None``: below ``runs``.
        missing: What is not at hand, a sentence each.
    """
    return Forecast(
        num_videos=num_videos,
        num_epochs=training.epochs,
        num_seeds=len(training.seeds),
        cost=cost,
        decoding=decoding,
        num_cores=num_cores(),
        free_bytes=free_bytes(Path(out or "runs")),
        precision="TF32" if training.precision == "float32" and training.matmul == "high" else training.precision,
        missing=tuple(missing),
    )


def _state_bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
