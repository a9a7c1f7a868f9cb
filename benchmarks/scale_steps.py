"""SCALE's steps on sets in memory, with the objective and loop of ``train scale``, for several benchmarks."""

import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from cells import synchronise

from featcache.loaders.clip_sets import ClipSets, placed
from featcache.loaders.settings import ClipSetSettings
from featcache.machine import Matmul
from featcache.methods.scale.objective import ScaleObjective
from featcache.methods.scale.run import build_module
from featcache.methods.scale.settings import ScaleSettings
from featcache.training.identity import Identity
from featcache.training.loop import StepReport, train
from featcache.training.objective import Objective
from featcache.training.settings import TrainingSettings

CLIPS_PER_VIDEO = 16


class _EnoughError(Exception):
    """The budget is spent."""


def made_up_sets(num_videos: int, *, width: int = 768, clips: int = CLIPS_PER_VIDEO, numbers: int = 6) -> ClipSets:
    """Random float16 vectors and positions, ``clips`` per video."""
    generator = torch.Generator().manual_seed(0)
    num_rows = num_videos * clips
    return ClipSets(
        features=torch.randn(num_rows, width, generator=generator).half(),
        positions=torch.rand(num_rows, numbers, generator=generator),
        video_start=np.arange(0, num_rows + 1, clips, dtype=np.int64),
        video_ids=tuple(f"v{number}" for number in range(num_videos)),
        identity=f"made up, {num_videos} videos of {clips} clips, {width} channels",
    )


def scale_settings(
    *,
    batch: int,
    epochs: int = 1,
    device: str = "cpu",
    bfloat16: bool = False,
    threads: int = 0,
    compiled: bool | Literal["objective"] = False,
    draws: Literal["host", "device"] = "host",
    matmul: Matmul = "highest",
) -> ScaleSettings:
    """The published settings, at another batch size and for a few epochs."""
    default = ScaleSettings(sets=ClipSetSettings(store="memory"))
    training = default.training.model_dump() | {
        "epochs": epochs,
        "batch_size": batch,
        "schedule": {"warmup_fraction": 0.05},
        "precision": "bfloat16" if bfloat16 else "float32",
        "device": device,
        "matmul": matmul,
        "threads": threads,
        "checkpoint_seconds": 1e9,
        "tensorboard": False,
    }
    own = {"training": TrainingSettings.model_validate(training), "compile": compiled, "draws": draws}
    return default.model_copy(update=own)


def scale_objective(sets: ClipSets, settings: ScaleSettings, *, device: str) -> ScaleObjective:
    """The objective of ``train scale``, with its module and its clips on the device."""
    module = build_module(settings, width_in=sets.features.shape[1], seed=0).to(device)
    return ScaleObjective(
        placed(sets, storage="auto", device=torch.device(device)),
        settings.loss,
        module=module,
        clips_per_set=settings.clips_per_set,
        batch_size=settings.training.batch_size,
        seed=0,
        compiled=settings.compile,
        draws=settings.draws,
    )


def seconds_a_step_of_the_loop(
    objective: Objective[Any], settings: ScaleSettings, *, device: str, budget_seconds: float, warm_steps: int = 2
) -> float:
    """Mean seconds per step of the loop after ``warm_steps``, over as many steps as fit the budget, at least one."""
    began = time.perf_counter()
    stamps: list[float] = []

    def stop_in_time(_: StepReport) -> None:
        is_warm = len(stamps) + 1 <= warm_steps
        if is_warm:
            synchronise(device)
        now = time.perf_counter()
        stamps.append(now)
        if not is_warm and (now - began > budget_seconds or len(stamps) >= max_steps):
            synchronise(device)
            stamps[-1] = time.perf_counter()
            raise _EnoughError

    max_steps = 400
    training = settings.training.model_copy(update={"epochs": 1 + max_steps // objective.num_batches})
    with tempfile.TemporaryDirectory() as folder:
        run = {"folder": Path(folder), "seed": 0, "identity": Identity(values={}), "facts": {}}
        with contextlib.suppress(_EnoughError):
            train(objective, training, **run, on_step=stop_in_time)
    return (stamps[-1] - stamps[warm_steps - 1]) / (len(stamps) - warm_steps)
