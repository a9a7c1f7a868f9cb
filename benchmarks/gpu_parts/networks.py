"""A training step of each 3-D network of the pretext-task benchmark, in float32 and bfloat16: time and memory.

One batch of random clips is in memory, so that nothing is decoded and only the step is measured.
"""

from functools import partial
from typing import Any
from unittest import mock

import torch
from scale_steps import seconds_a_step_of_the_loop

from featcache.config import parse
from featcache.loaders.ahead import ViewLoader
from featcache.loaders.usable import training_videos
from featcache.loaders.videos import VideoFiles
from featcache.methods.pretext.objective import AskedClips, DrawnViews, PretextObjective
from featcache.methods.pretext.run import build_module
from featcache.methods.pretext.settings import PretextSettings
from featcache.networks.catalogue import NETWORKS
from gpu_parts.bench import Bench, took
from gpu_parts.media import make_clips


def run(bench: Bench) -> None:
    """Measure each network at 32 clips in both precisions, or thin ones at two."""
    batch, seconds = (2, 0.5) if bench.is_small else (32, 1.5)
    make_clips(bench.folder / "videos", batch, num_frames=32, width=96, height=64)
    files = training_videos(settings_of(bench, "r3d", batch=batch, precision="float32")).files
    for network in NETWORKS:
        for precision in ("float32", "bfloat16"):
            name = f"{network}-tiny" if bench.is_small else network
            settings = settings_of(bench, name, batch=batch, precision=precision)
            measure = partial(step, bench, files, settings, seconds=seconds)
            bench.row(f"{name}, {batch} clips, {precision}", measure, needs=seconds + 2)


def settings_of(bench: Bench, name: str, *, batch: int, precision: str) -> PretextSettings:
    """RotNet with a network."""
    training = {
        "epochs": 1,
        "batch_size": batch,
        "device": bench.device,
        "threads": int(bench.is_small),
        "precision": precision,
        "tensorboard": False,
        "checkpoint_seconds": 1e9,
        "optimiser": {"name": "sgd", "lr": 0.01, "momentum": 0.9},
    }
    return parse(
        PretextSettings,
        {"task": {"name": "rotnet"}, "backbone": name, "source": str(bench.folder / "videos"), "training": training},
    )


def step(bench: Bench, files: VideoFiles, settings: PretextSettings, *, seconds: float) -> dict[str, Any]:
    """Steps of the training loop on one batch of random clips and turns."""
    batch = settings.training.batch_size
    module = build_module(settings, seed=0, device=bench.device)
    loader = ViewLoader(DrawnViews(files, settings.task, module.shape, seed=0), workers=0)
    objective = PretextObjective(loader, settings.task, module=module, batch_size=batch, num_epochs=1, seed=0)
    generator = torch.Generator().manual_seed(0)
    size = module.shape.size
    clips = torch.randint(256, (batch, module.num_frames, 3, size, size), dtype=torch.uint8, generator=generator)
    turns = torch.randint(4, (batch,), generator=generator)
    part = AskedClips(clips=(clips,), targets={"turns": turns})
    with mock.patch.object(objective, "parts", return_value=[part]):
        each = seconds_a_step_of_the_loop(objective, settings, device=bench.device, budget_seconds=seconds)
    return took(each, "a step") | {"videos_per_second": batch / each, "note": f"{batch / each:.3g} clips/s"}
