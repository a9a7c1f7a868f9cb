"""Runs of every method that processes share, and what each of two processes does with them.

Steps are small and plain, since so few clips and so many norms enlarge rounding.
"""

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

from featcache.config import parse
from featcache.data.manifest import write_parquet
from featcache.data.scan import scan
from featcache.methods.pretext.run import pretrain as pretrain_task
from featcache.methods.pretext.settings import PretextSettings
from featcache.testing.videos import write_video

NUM_STEPS = 4
"""Two batches in each of two epochs."""
TRAINING = {
    "epochs": 2,
    "batch_size": 4,
    "log_steps": 1,
    "device": "cpu",
    "threads": 1,
    "tensorboard": False,
    "checkpoint_seconds": 0.0,
    "optimiser": {"name": "sgd", "lr": 5e-4},
    "schedule": {"kind": "constant"},
}


def write_videos(folder):
    """Eight training videos and five to test on, of two classes."""
    (folder / "videos").mkdir()
    for number in range(13):
        write_video(folder / "videos" / f"{number:02d}.mp4", num_frames=12 + number, width=48, height=32)
    found = scan(folder / "videos")
    videos = [
        replace(video, labels={"label": "ab"[number % 2]}, split="train" if number < 8 else "test")
        for number, video in enumerate(found.videos)
    ]
    write_parquet(replace(found, videos=tuple(videos)), folder / "videos.parquet")


def pretext(folder, name, **changes):
    """A network with BatchNorms and a layer that takes no part."""
    given = {
        "source": str(folder / "videos.parquet"),
        "task": {"name": "rotnet"},
        "backbone": "timm/test_resnet",
        "num_frames": 2,
        "input_size": 32,
        "workers": 0,
        "monitor": {"knn_epochs": 2},
        "training": TRAINING,
        "out": str(folder / name),
    }
    return pretrain_task, parse(PretextSettings, {**given, **changes})


METHODS = {"pretext": pretext}


def run(method, folder, name, *, on_stage=None):
    """One run of a method."""
    function, settings = METHODS[method](folder, f"{method}-{name}")
    return function(settings) if on_stage is None else function(settings, on_stage=on_stage)


def kill(stage, done, total, note="", num_failed=0):
    """Kill a run after three of its steps; the checkpoint of the third is yet to be written."""
    if stage == "seed 0" and done == 1.5:
        raise KeyboardInterrupt


def main(folder: Path) -> None:
    """A run of every method to its end, of which a copy is taken on the way, and which one and two processes go on."""
    logging.basicConfig(filename=folder / f"rank-{os.environ['RANK']}.log", level=logging.INFO, force=True)
    for method in METHODS:

        def copy(stage, done, total, note="", num_failed=0, method=method):
            if stage == "seed 0" and done == 1.5:
                for name in ("two-then-one", "two-again"):
                    shutil.copytree(folder / f"{method}-two", folder / f"{method}-{name}")

        run(method, folder, "two", on_stage=copy)
        run(method, folder, "two-again")
        run(method, folder, "one-then-two")
