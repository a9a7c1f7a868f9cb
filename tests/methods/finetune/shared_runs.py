"""Fine-tuning runs that processes share, and what each of two processes does with them."""

import dataclasses
import shutil
from pathlib import Path

from featcache.methods.finetune.run import finetune
from featcache.methods.finetune.settings import FinetuneTestSettings
from featcache.training.settings import OptimiserSettings
from tests.methods.finetune.helpers import changed, settings, training, write_classes

NUM_STEPS = 4


def write_videos(folder):
    """Eight training videos and five to test on, with their manifest."""
    (folder / "videos").mkdir()
    manifest = write_classes(folder / "videos", {"train": 4, "test": 3})
    changed(
        manifest,
        "five",
        lambda video: dataclasses.replace(video, split="other") if video.id == "test-red-2.mp4" else video,
    )


def chosen(folder, name, **changes):
    """A network with BatchNorms and a head that takes no part; a batch takes four videos.

    The steps are small, since so few videos and so many norms enlarge rounding.
    """
    given = {
        "backbone": "timm/test_resnet",
        "input_size": 64,
        "head_dropout": 0.0,
        "test_splits": ("test",),
        "test": FinetuneTestSettings(num_clips=2, num_crops=1),
        "training": training(batch_size=4, epochs=2, log_steps=1, optimiser=OptimiserSettings(name="sgd", lr=5e-4)),
    }
    return settings(folder / "videos" / "five.parquet", folder / name, **{**given, **changes})


def main(folder: Path) -> None:
    """A run to its end, of which a copy is taken on the way; one that another world began; the head alone."""

    def copy(stage, done, total, note="", num_failed=0):
        if stage == "seed 0" and done == 1.5:  # the checkpoint of this step is yet to be written
            shutil.copytree(folder / "two", folder / "two-then-one")

    finetune(chosen(folder, "two"), on_stage=copy)
    finetune(chosen(folder, "one-then-two"))
    finetune(chosen(folder, "head-two", frozen=True))
