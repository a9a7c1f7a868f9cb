"""A distillation that processes share, and what each of two processes does with it."""

from pathlib import Path

import numpy as np

from featcache.data.manifest import read_parquet
from featcache.methods.distill.run import distill
from featcache.methods.distill.settings import StudentSettings
from featcache.training.settings import OptimiserSettings
from tests.methods.distill.helpers import settings
from tests.methods.finetune.helpers import training, write_classes

STUDENTS = (
    StudentSettings(backbone="timm/test_resnet", input_size=64),
    StudentSettings(backbone="timm/test_resnet", input_size=48, name="smaller"),
)


def write_inputs(folder):
    """Eight training videos, and what two teachers say of them."""
    (folder / "videos").mkdir()
    videos = read_parquet(write_classes(folder / "videos", {"train": 4, "test": 2})).videos
    ids = np.array([each.id for each in videos])
    for key in (0, 1):
        logits = np.random.default_rng(key).normal(size=(len(ids), 2)) * 3
        np.savez(folder / f"{key}.npz", ids=ids, logits=logits, classes=np.array(["blue", "red"]))


def chosen(folder, name):
    """Students that draw nothing in training, with small steps, since so few videos and many norms enlarge rounding."""
    return settings(
        folder / "videos" / "videos.parquet",
        folder / name,
        students=STUDENTS,
        teachers=tuple(str(folder / f"{key}.npz") for key in (0, 1)),
        mode="aekd",
        head_dropout=0.0,
        training=training(batch_size=4, epochs=2, log_steps=1, optimiser=OptimiserSettings(name="sgd", lr=5e-4)),
    )


def main(folder: Path) -> None:
    """A run to its end."""
    distill(chosen(folder, "two"))
