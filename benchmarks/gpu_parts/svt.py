"""A step of SVT's pre-training in bfloat16: time and memory, with activations kept and recomputed.

All ten published views of a batch are in memory, so that nothing is decoded and only the step is measured.
"""

from functools import partial
from typing import Any
from unittest import mock

import torch
from scale_steps import seconds_a_step_of_the_loop

from featcache.loaders.ahead import ViewLoader
from featcache.loaders.videos import VideoFiles
from featcache.methods.svt.module import build_module
from featcache.methods.svt.objective import SvtObjective, ViewBatch
from featcache.methods.svt.run import open_videos
from featcache.methods.svt.settings import SvtHeadSettings, SvtSettings, SvtViewSettings
from featcache.methods.svt.views import SvtViewSource
from gpu_parts.bench import Bench, took
from gpu_parts.media import make_clips

SMALL = {
    "views": SvtViewSettings(global_frames=(2, 4), local_frames=(2, 2), global_size=64, local_size=32),
    "head": SvtHeadSettings(prototypes=256),
    "size": "tiny",
}


def run(bench: Bench) -> None:
    """Measure each batch size, with and without recomputation."""
    batches = (2,) if bench.is_small else (4, 32)
    seconds = 1.0 if bench.is_small else 5.0
    make_clips(bench.folder / "videos", max(batches), num_frames=16, width=96, height=64)
    files = open_videos(SvtSettings(source=str(bench.folder / "videos"))).files
    size = "tiny" if bench.is_small else "base"
    for batch in batches:
        for recomputes in (False, True):
            what = f"{size}, {batch} videos, bfloat16, activations {'recomputed' if recomputes else 'kept'}"
            measure = partial(step, bench, files, batch=batch, recomputes=recomputes, seconds=seconds)
            bench.row(what, measure, needs=seconds + 3)


def step(bench: Bench, files: VideoFiles, *, batch: int, recomputes: bool, seconds: float) -> dict[str, Any]:
    """Steps of the training loop on one batch of random pixels."""
    settings = SvtSettings(source=str(bench.folder / "videos"))
    training = settings.training.model_copy(
        update={
            "batch_size": batch,
            "device": bench.device,
            "threads": int(bench.is_small),
            "precision": "bfloat16",
            "tensorboard": False,
            "checkpoint_seconds": 1e9,
            "schedule": settings.training.schedule.model_copy(update={"warmup_fraction": 0.0}),
        }
    )
    small = SMALL if bench.is_small else {}
    settings = settings.model_copy(update={"training": training, "recomputes_blocks": recomputes, **small})
    source = SvtViewSource(settings.views, seed=0)
    module = build_module(settings, seed=0).to(bench.device)
    objective = SvtObjective(ViewLoader(source, files, workers=0), settings, module=module, seed=0)
    part = ViewBatch(clips=random_views(settings.views, batch), epoch=0.0, teacher_view=None)
    with mock.patch.object(objective, "parts", return_value=[part]):
        each = seconds_a_step_of_the_loop(objective, settings, device=bench.device, budget_seconds=seconds)
    return took(each, "a step") | {"videos_per_second": batch / each, "note": f"{batch / each:.3g} videos/s"}


def random_views(views: SvtViewSettings, batch: int) -> tuple[torch.Tensor, ...]:
    """Noise of the views' shapes, uint8 [B, T, 3, S, S] each, on the CPU, as a loader gives them."""
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randint(256, (batch, frames, 3, size, size), dtype=torch.uint8, generator=generator)
        for frames, size in zip(views.num_frames, views.sizes, strict=True)
    )
