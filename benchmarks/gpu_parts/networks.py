"""A training step of each 3-D network of the pretext-task benchmark, and of each pretext task: time and memory.

One batch of random clips is in memory, so that nothing is decoded and only the step is measured.
"""

from functools import partial
from typing import Any
from unittest import mock

from scale_steps import seconds_a_step_of_the_loop

from featcache.config import parse
from featcache.loaders.ahead import ViewLoader
from featcache.loaders.usable import training_videos
from featcache.loaders.videos import VideoFiles
from featcache.methods.pretext.objective import AskedClips, DrawnViews, PretextObjective
from featcache.methods.pretext.run import build_module
from featcache.methods.pretext.settings import PretextSettings
from featcache.methods.pretext.task import TASKS
from featcache.networks.catalogue import NETWORKS
from featcache.testing.pretext import batch_of
from gpu_parts.bench import Bench, SkippedError, took
from gpu_parts.media import make_clips

LONG_ENOUGH = 136
"""Number of frames of a video, of which PRP needs 128."""


def run(bench: Bench) -> None:
    """Measure RotNet on each network in both precisions, and the other tasks on one; thin networks if it is small."""
    batch, seconds, ending = (2, 0.5, "-tiny") if bench.is_small else (32, 1.5, "")
    of_tasks = "bfloat16" if bench.on_gpu else "float32"
    make_clips(bench.folder / "videos", batch, num_frames=LONG_ENOUGH, width=96, height=64)
    files = training_videos(settings_of(bench, "rotnet", "r3d", batch=batch, precision="float32")).files
    cells = [("rotnet", name, precision) for name in NETWORKS for precision in ("float32", "bfloat16")]
    cells += [(task, "r21d", of_tasks) for task in TASKS.names() if task != "rotnet"]
    for task, network, precision in cells:
        settings = settings_of(bench, task, network + ending, batch=batch, precision=precision)
        measure = partial(step, bench, files, settings, seconds=seconds)
        bench.row(f"{task} on {network}{ending}, {batch} videos, {precision}", measure, needs=seconds + 2)


def settings_of(bench: Bench, task: str, name: str, *, batch: int, precision: str) -> PretextSettings:
    """A task with a network."""
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
        {"task": {"name": task}, "backbone": name, "source": str(bench.folder / "videos"), "training": training},
    )


def step(bench: Bench, files: VideoFiles, settings: PretextSettings, *, seconds: float) -> dict[str, Any]:
    """Steps of the training loop on one batch of random clips and targets."""
    if not bench.on_gpu and settings.training.precision == "bfloat16":
        raise SkippedError("on a CPU torch's gradient of a 3-D convolution over two frames is wrong in bfloat16")
    task, batch = settings.task, settings.training.batch_size
    module = build_module(settings, seed=0, device=bench.device)
    loader = ViewLoader(DrawnViews(task, module.shape, seed=0), files, workers=0)
    objective = PretextObjective(loader, task, module=module, batch_size=batch, num_epochs=1, seed=0)
    clips, targets = batch_of(task, size=batch, shape=module.shape)
    part = AskedClips(clips=clips, targets=targets)
    with mock.patch.object(objective, "parts", return_value=[part]):
        each = seconds_a_step_of_the_loop(objective, settings, device=bench.device, budget_seconds=seconds)
    return took(each, "a step") | {"videos_per_second": batch / each, "note": f"{batch / each:.3g} videos/s"}
