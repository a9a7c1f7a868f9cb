"""Small runs of all seven tasks, and what each of two processes does with them."""

from pathlib import Path

from featcache.config import parse
from featcache.data.manifest import write_parquet
from featcache.data.scan import scan
from featcache.methods.pretext.run import pretrain
from featcache.methods.pretext.settings import PretextSettings
from featcache.testing.videos import write_video

SMALL = {
    "rotnet": {},
    "vcop": {"dropout": 0.0, "gap": 2},
    "prp": {"complexity": "c2"},
    "cvrl": {"hidden": 16},
    "tdl": {"queue": 6, "stride": 2, "key_splits": 3},
    "rspnet": {"queue": 6, "key_splits": 3},
    "videomae": {"stride": 2},
}
"""Settings with which the videos are long enough, queues go on at their beginning, and of two processes
each has clips of two of the three parts of the keys."""
NUM_FRAMES = (38, 40, 44, 39, 41, 15)


def write_videos(folder):
    """Five videos that are long enough for all tasks, and one that is for some."""
    (folder / "videos").mkdir()
    for number, num_frames in enumerate(NUM_FRAMES):
        write_video(folder / "videos" / f"{number}.mp4", num_frames=num_frames, width=64, height=48)
    write_parquet(scan(folder / "videos"), folder / "videos.parquet")


def settings(folder, task, name, **training):
    """A run of three epochs of one step each, at a rate at which rounding stays rounding."""
    return parse(
        PretextSettings,
        {
            "source": str(folder / "videos.parquet"),
            "task": {"name": task, **SMALL[task]},
            "backbone": "r21d-tiny",
            "num_frames": 8,
            "input_size": 32,
            "workers": 0,
            "training": {
                "epochs": 3,
                "batch_size": 4,
                "log_steps": 1,
                "device": "cpu",
                "threads": 1,
                "tensorboard": False,
                "checkpoint_seconds": 0.0,
                "optimiser": {"name": "sgd", "lr": 1e-6, "momentum": 0.9},
                "schedule": {"kind": "constant"},
                **training,
            },
            "out": str(folder / f"{task}-{name}"),
        },
    )


def brief(folder, task, name):
    """As :func:`settings`, but CVRL takes one step: three norms over four clips enlarge rounding."""
    return settings(folder, task, name, epochs=1 if task == "cvrl" else 3)


def main(folder: Path) -> None:
    """A run of every task."""
    for task in SMALL:
        pretrain(brief(folder, task, "two"))
