"""Pre-training runs that processes share, and what each of two processes does with them."""

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

from featcache.data.manifest import write_parquet
from featcache.data.scan import scan
from featcache.loaders.settings import MonitorSettings
from featcache.methods.svt.run import pretrain_svt
from featcache.methods.svt.settings import SvtHeadSettings, SvtLossSettings, SvtSettings
from featcache.testing.videos import write_video
from featcache.training.settings import OptimiserSettings, TrainingSettings
from tests.methods.svt.helpers import small_views

NUM_STEPS = 4
PAIRED = {"stem": "difference", "loss": SvtLossSettings(centering="reversal", teacher_temperature=0.02)}
SINGLE = {"recomputes_blocks": True, "loss": SvtLossSettings(single_teacher=True)}


def write_videos(folder):
    """Five videos of two classes, of which a batch takes four, and their manifest."""
    (folder / "videos").mkdir()
    for number, num_frames in enumerate((24, 20, 28, 22, 30)):
        write_video(folder / "videos" / f"{number}.mp4", num_frames=num_frames)
    found = scan(folder / "videos")
    videos = [replace(video, labels={"label": "ab"[number % 2]}) for number, video in enumerate(found.videos)]
    write_parquet(replace(found, videos=tuple(videos)), folder / "videos.parquet")


def settings(folder, name, **changes):
    """A step an epoch, so that the log has a line for each; the prototypes stay for the first.

    SGD, since Adam makes steps out of gradients that are nothing but rounding, as those of the biases of keys are.
    """
    training = TrainingSettings(
        epochs=NUM_STEPS,
        batch_size=4,
        device="cpu",
        threads=1,
        tensorboard=False,
        checkpoint_seconds=0,
        optimiser=OptimiserSettings(name="sgd", lr=0.1, weight_decay=1e-3, final_weight_decay=1e-2),
        clip_each_norm=3.0,
    )
    given = {
        "source": str(folder / "videos.parquet"),
        "size": "tiny",
        "workers": 0,
        "drop_path": 0.0,
        "views": small_views(global_frames=(2, 4), local_frames=(2, 4)),
        "head": SvtHeadSettings(hidden=16, bottleneck=8, prototypes=32),
        "training": training,
        "monitor": MonitorSettings(knn_epochs=3),
        "out": str(folder / name),
    }
    return SvtSettings(**{**given, **changes})


def main(folder: Path) -> None:
    """A run to its end, of which a copy is taken on the way; one that another world began; another loss."""
    logging.basicConfig(filename=folder / f"rank-{os.environ['RANK']}.log", level=logging.INFO, force=True)

    def copy(stage, done, total, note="", num_failed=0):
        if stage == "seed 0" and done == 3:  # the checkpoint of this step is yet to be written
            shutil.copytree(folder / "two", folder / "two-then-one")

    pretrain_svt(settings(folder, "two"), on_stage=copy)
    pretrain_svt(settings(folder, "one-then-two"))
    pretrain_svt(settings(folder, "single-two", **SINGLE))
    pretrain_svt(settings(folder, "paired-two", **PAIRED))
