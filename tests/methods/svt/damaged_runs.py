"""Runs on videos of which some are damaged, and what each of two processes does with them."""

import os
import pickle
import shutil
from pathlib import Path

import torch.distributed as dist

from featcache.methods.svt.run import pretrain_svt
from featcache.methods.svt.settings import SvtHeadSettings, SvtSettings
from featcache.seeding import rng_for
from featcache.testing.damaged_files import overwrite_pictures
from featcache.testing.videos import picture, write_video
from featcache.training.settings import OptimiserSettings, TrainingSettings
from tests.methods.svt.helpers import small_views

DISTINCT = 30
"""Number of different videos, of each of which there are many."""


def write_videos(folder, *, num_videos, num_damaged):
    """Small videos that all pass the scan; returns the names of those that are damaged."""
    (folder / "videos").mkdir(parents=True)
    made = []
    for number in range(DISTINCT):
        pictures = [picture(17 * number + frame, width=32, height=32) for frame in range(8)]
        write_video(folder / f"{number}.mp4", pictures=pictures, options={"bf": "0"})
        shutil.copy(folder / f"{number}.mp4", folder / f"damaged-{number}.mp4")
        overwrite_pictures(folder / f"damaged-{number}.mp4", first=1 + number % 2, num=6)
        made.append([folder / f"{number}.mp4", folder / f"damaged-{number}.mp4"])
    damaged = set(rng_for(0, "damaged").permutation(num_videos)[:num_damaged].tolist())
    for number in range(num_videos):
        shutil.copy(made[number % DISTINCT][number in damaged], folder / "videos" / f"{number:05}.mp4")
    return {f"{number:05}.mp4" for number in damaged}


def settings(folder, name, **changes):
    """SGD, since Adam makes steps out of gradients that are nothing but rounding."""
    training = {"epochs": 2, "batch_size": 10, "device": "cpu", "threads": 1, "tensorboard": False}
    training |= {"checkpoint_seconds": 0.0, "clip_each_norm": 3.0, **changes.pop("training", {})}
    optimiser = OptimiserSettings(name="sgd", lr=changes.pop("lr", 0.1), weight_decay=1e-3, final_weight_decay=1e-2)
    given = {
        "source": str(folder / "videos"),
        "size": "tiny",
        "workers": 0,
        "drop_path": 0.0,
        "views": small_views(global_size=16, global_frames=(2, 2), local_frames=(2,)),
        "head": SvtHeadSettings(hidden=16, bottleneck=8, prototypes=32),
        "training": TrainingSettings(optimiser=optimiser, **training),
        "out": str(folder / name),
    }
    return SvtSettings(**{**given, **changes})


def main(folder: Path) -> None:
    """A run to its end, of which a copy is taken on the way; and the size of what the first process sends."""
    sent, broadcast = [], dist.broadcast_object_list

    def measuring(objects, **options):
        sent.append(len(pickle.dumps(objects)))
        broadcast(objects, **options)

    dist.broadcast_object_list = measuring

    def copy(stage, done, total, note="", num_failed=0):
        if stage == "seed 0" and 1.5 <= done < 1.6:
            shutil.copytree(folder / "two", folder / "two-then-one")

    pretrain_svt(settings(folder, "two"), on_stage=copy)
    if os.environ["RANK"] == "0":
        (folder / "sent").write_text(str(max(sent)))
