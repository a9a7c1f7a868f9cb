"""Runs of every method that processes share, and what each of two processes does with them.

Steps are tiny, since so few clips and so many norms enlarge rounding: initial weights of an R3D-50 that differ by 1e-7
have losses that differ by 2e-3 after two steps of a rate of 5e-4. The sums of gradients, which are kept as momentum, do
not depend on the rate.
"""

import json
import logging
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

from featcache.config import parse
from featcache.data.manifest import write_parquet
from featcache.data.scan import scan
from featcache.extract.settings import ExtractSettings
from featcache.methods.advise.run import pretrain as pretrain_advise
from featcache.methods.advise.run import pretrain_r3d50
from featcache.methods.advise.settings import AdviseSettings, R3d50Settings, TmmFineTuneSettings
from featcache.methods.advise.tmm import run_temporal
from featcache.methods.pretext.run import pretrain as pretrain_task
from featcache.methods.pretext.settings import PretextSettings
from featcache.methods.scale.run import pretrain_scale
from featcache.methods.scale.settings import ScaleSettings
from featcache.testing.videos import write_video
from tests.methods.scale.helpers import located_sets

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
    "optimiser": {"name": "sgd", "lr": 1e-6, "momentum": 0.9},
    "schedule": {"kind": "constant"},
}


def write_videos(folder):
    """Eight training videos and five to test on, of two classes; one split has a single video."""
    splits = ["train"] * 8 + ["test"] * 4 + ["rare"]
    (folder / "videos").mkdir()
    for number in range(13):
        write_video(folder / "videos" / f"{number:02d}.mp4", num_frames=12 + number, width=96, height=64)
    found = scan(folder / "videos")
    videos = [
        replace(video, labels={"label": "ab"[number % 2]}, split=splits[number])
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
        "input_size": 64,
        "workers": 0,
        "monitor": {"knn_epochs": 2},
        "training": TRAINING,
        "out": str(folder / name),
    }
    return pretrain_task, parse(PretextSettings, {**given, **changes})


CLIPS = {"num_frames": 4, "num_clips": 2, "base_stride": 1}


def r3d50(folder, name, **changes):
    """A whole network on pixels; of two clips of a video, one follows the other."""
    given = {
        "source": str(folder / "videos.parquet"),
        "size": 64,
        "width": 4,
        "head_hidden": 8,
        "dropout": 0.0,
        "clips": CLIPS,
        "training": TRAINING,
        "out": str(folder / name),
    }
    return pretrain_r3d50, parse(R3d50Settings, {**given, **changes})


def frame_bank(folder, *, source="videos.parquet"):
    """Settings of an extraction of maps of every frame."""
    settings = {
        "source": str(folder / source),
        "out": str(folder / "bank"),
        "features": [
            {
                "backbone": "timm/test_resnet",
                "weights": "random",
                "output": "map",
                "input_size": 64,
            }
        ],
        "sampling": {"layout": "frames", "spatial": "center", "crop_fraction": 1.0},
        "runtime": {"device": "cpu", "threads": 1, "decode_workers": 1},
    }
    return parse(ExtractSettings, settings)


TMM = {"hidden": 4, "out": 8, "num_blocks": 1, "head_hidden": 8, "dropout": 0.0}


def advise(folder, name, **changes):
    """A temporal module on stored maps; of two clips of a video, one follows the other."""
    given = {
        "bank": {"store": str(folder / "bank")},
        "tmm": TMM,
        "clips": {**CLIPS, "speed_jitter": 0.0},
        "training": TRAINING,
        "out": str(folder / name),
    }
    return pretrain_advise, parse(AdviseSettings, {**given, **changes})


def tmm(folder, name, **changes):
    """A temporal module on labels; five videos to test on."""
    given = {
        "bank": {"store": str(folder / "bank")},
        "tmm": TMM,
        "num_frames": 4,
        "stride": 1,
        "num_clips": 2,
        "test_clips": 2,
        "training": TRAINING,
        "out": str(folder / name),
    }
    return run_temporal, parse(TmmFineTuneSettings, {**given, **changes})


def scale(folder, name, **changes):
    """A set predictor on sets of different sizes, which differ in how many clips are masked."""
    sets = located_sets(8, counts=[3, 4, 5, 6, 7, 8, 9, 16])
    given = {
        "sets": {"store": "sets"},
        "clips_per_set": 4,
        "predictor": {"width": 16, "depth": 1, "heads": 2, "dropout": 0.0, "position_hidden": 8},
        "heads": {"width": 8, "target_hidden": 16, "target_layers": 2, "hidden": 16},
        "training": TRAINING,
        "out": str(folder / name),
    }
    return partial(pretrain_scale, sets=sets), parse(ScaleSettings, {**given, **changes})


PAPER = {"mcm_per": "video", "symmetric": True, "set_loss": "clustering", "num_prototypes": 16, "mask_ratio": 0.5}
STACKED = {"batched_seeds": True, "training": {**TRAINING, "seeds": [0, 1]}, "loss": {"set_loss": "regression"}}
SINGLE = {"labels_per_class": 2, "num_clips": 1, "training": {**TRAINING, "batch_size": 2}}
"""One clip for each of two processes."""
METHODS = {
    "pretext": pretext,
    "r3d50": r3d50,
    "advise": advise,
    "tmm": tmm,
    "tmm_single": partial(tmm, **SINGLE),
    "scale": scale,
    "scale_paper": partial(scale, loss=PAPER),
    "scale_stacked": partial(scale, **STACKED),
}


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


def online(folder, name, **changes):
    """A temporal module whose maps are encoded when they are drawn, from the file of an extraction."""
    return advise(folder, name, bank={"store": str(folder / "bank.yaml"), "online": True, "workers": 0}, **changes)


def main_online(folder: Path) -> None:
    """What two processes do that encode in the training loop; each leaves the stages that it told of."""
    logging.basicConfig(filename=folder / f"rank-{os.environ['RANK']}.log", level=logging.INFO, force=True)
    stages: set[str] = set()
    function, settings = online(folder, "online-two")
    function(settings, on_stage=lambda stage, *rest: stages.add(stage))
    (folder / f"stages-{os.environ['RANK']}.json").write_text(json.dumps(sorted(stages)))
