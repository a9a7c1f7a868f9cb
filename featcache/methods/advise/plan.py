"""The plan of the R3D-50's pre-training: what a run would take on GPUs, and what is missing; nothing is written."""

from dataclasses import dataclass

import numpy as np
import torch

from featcache.loaders.fresh import PixelSource
from featcache.loaders.sample import Preview, measure, preview
from featcache.methods.advise.playback import playback_objective
from featcache.methods.advise.settings import R3d50Settings
from featcache.networks.counting import count_macs, count_parameters, count_trained
from featcache.networks.r3d50 import R3d50
from featcache.stages import OnStage, ignore
from featcache.summary import Summary
from featcache.training.forecast import DecodeSample
from featcache.training.plan import TrainingPlan, forecast, step_cost

_AT_ONCE = 2
"""Videos of a measured batch: BatchNorm's least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class R3d50Plan(TrainingPlan):
    """Plan of a run.

    Attributes:
        num_clips: Number of clips per video and step.
    """

    num_clips: int

    def summary(self) -> Summary:
        """The plan in words."""
        num_train = "unknown" if self.num_train is None else f"{self.num_train:,} videos"
        return self.summary_of({"train": f"{num_train}, clips of each: {self.num_clips}"})


def plan_r3d50(settings: R3d50Settings, *, on_stage: OnStage = ignore) -> R3d50Plan:
    """List the videos, decode some of them, count the network, and return the plan of a run; nothing is written.

    Args:
        settings: Settings of the run.
        on_stage: Called with the stages ``sample`` and ``decode``.

    Raises:
        UnknownNameError: There is no such data set, decoder, split or column.
        ConfigError: The videos do not allow the selection.
    """
    training, clips = settings.training, settings.clips
    found = preview(settings, split=settings.train_split, on_stage=on_stage)
    with torch.device("meta"):
        module = R3d50(
            num_classes=len(clips.rates),
            width=settings.width,
            head_hidden=settings.head_hidden,
            dropout=settings.dropout,
        )
        macs = count_macs(module.eval(), torch.empty(1, clips.num_frames, settings.size, settings.size, 3))
    num_steps = None
    if found.num_train:
        num_batches = found.num_train // min(training.batch_size, found.num_train)
        num_steps = training.epochs * training.steps_an_epoch(num_batches)
    return R3d50Plan(
        num_clips=clips.num_clips,
        num_train=found.num_train,
        num_left_out=found.num_left_out,
        clip=(clips.num_frames, settings.size, settings.size),
        num_parameters=count_parameters(module.network),
        num_trained=count_trained(module),
        num_steps=num_steps,
        num_seeds=len(training.seeds),
        forecast=forecast(
            training,
            num_videos=found.num_train,
            cost=step_cost(module, training, kept=module.network, trained_macs=clips.num_clips * macs),
            decoding=_decoding(found, settings, module, on_stage=on_stage),
            out=settings.out,
            missing=found.missing,
        ),
    )


def _decoding(found: Preview, settings: R3d50Settings, module: R3d50, *, on_stage: OnStage) -> DecodeSample | None:
    """How fast one core decodes a video's clips; ``None`` if there are too few videos."""
    if found.sample is None or len(found.sample.videos) < _AT_ONCE:
        return None
    source = PixelSource(found.sample, size=settings.size)
    objective = playback_objective(
        source,
        np.arange(len(source.videos)),
        settings.clips,
        module=module,
        batch_size=_AT_ONCE,
        seed=settings.training.seeds[0],
    )
    return measure(
        lambda batch: objective.parts(0, batch),
        [f"batch {batch}" for batch in range(objective.num_batches)],
        num_at_once=_AT_ONCE,
        failures=found.failures,
        on_stage=on_stage,
    )
