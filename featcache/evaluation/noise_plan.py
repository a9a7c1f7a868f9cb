"""What an evaluation under noise would take."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from featcache.evaluation.noise import named_runs, sharing, subject_of
from featcache.evaluation.noise_settings import NoiseEvaluationSettings
from featcache.loaders.recipe_rows import RecipeSource
from featcache.loaders.sample import measure_source
from featcache.machine import num_cores
from featcache.stages import OnStage, ignore
from featcache.summary import Summary, counted
from featcache.training.world import ALONE
from featcache.units import duration, readable_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisePlan:
    """Plan of an evaluation under noise.

    Attributes:
        num_runs: Number of runs.
        num_models: Number of classifiers, one per run and seed.
        num_passes: Number of decoding passes per video; runs with the same test clips share one.
        num_videos: Number of test videos, those of all passes.
        num_cells: Number of kinds and severities, and one without noise.
        num_clips: Number of clips that all classifiers score, forward passes of one clip each.
        video_bytes: Largest number of bytes of the views of a video with all noises.
        core_seconds: Seconds in which one core decodes, makes noise and crops, as measured on a few videos; ``None`` if
            none can be decoded.
        failures: Sampled videos that cannot be decoded, with reasons.
    """

    num_runs: int
    num_models: int
    num_passes: int
    num_videos: int
    num_cells: int
    num_clips: int
    video_bytes: int
    core_seconds: float | None
    failures: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return dataclasses.asdict(self)

    def summary(self) -> Summary:
        """The plan in words."""
        facts: dict[str, object] = {
            "models": f"{self.num_models} of {self.num_runs} runs",
            "cells": f"{self.num_cells}, one of them without noise",
            "decoded": f"{counted(self.num_videos, 'video')}, once for all cells, in {self.num_passes} passes",
            "forward": f"{self.num_clips:,} clips",
            "memory": f"{readable_bytes(self.video_bytes)} per video that is decoded ahead",
            "decoding": "unknown: no video of the sample can be decoded"
            if self.core_seconds is None
            else f"{duration(self.core_seconds)} on one core with all noises; this machine has {num_cores()}",
        }
        return Summary(facts=facts, lines=self.failures)


def plan_noise(settings: NoiseEvaluationSettings, *, on_stage: OnStage = ignore) -> NoisePlan:
    """List the videos, decode some of them with all noises, and return the plan; nothing is written but kept scans.

    Args:
        settings: Runs and noise.
        on_stage: Called with the stages ``scan`` and ``decode``.

    Raises:
        FeatcacheError: Those errors of :func:`featcache.evaluation.noise.score_under_noise` that occur before scoring.
    """
    subjects = [
        subject_of(name, run, settings, device=torch.device("cpu"), world=ALONE, on_stage=on_stage)
        for name, run in named_runs(settings.runs).items()
    ]
    noises = (None, *settings.recipes)
    groups = sharing(subjects)
    num_videos = num_clips = video_bytes = 0
    seconds: float | None = 0.0
    failures: list[str] = []
    for members in groups:
        first = members[0].first
        source = RecipeSource(first.views, crop=first.crop, seed=0, noises=noises)
        tests = [videos.files for videos in members[0].data.tests.values()]
        count = sum(len(files.videos) for files in tests)
        sample = measure_source(source, tests[0], on_stage=on_stage)
        seconds = None if sample is None or seconds is None else seconds + count * sample.seconds
        failures += [sample.failure] if sample is not None and sample.failure else []
        num_videos += count
        num_clips += count * source.num_clips * sum(len(each.classifiers) for each in members)
        video_bytes = max(video_bytes, source.video_bytes)
    return NoisePlan(
        num_runs=len(subjects),
        num_models=sum(len(each.classifiers) for each in subjects),
        num_passes=len(groups),
        num_videos=num_videos,
        num_cells=len(noises),
        num_clips=num_clips,
        video_bytes=video_bytes,
        core_seconds=seconds,
        failures=tuple(failures),
    )
