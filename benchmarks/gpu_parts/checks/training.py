"""Three steps of every method on the device, each loss against the CPU's; bfloat16; and a resumed run.

The networks use nothing random (dropout, stochastic depth), because a GPU draws other numbers than a CPU. The resumed
run has dropout, which each step seeds anew.
"""

import contextlib
import csv
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featcache.loaders.clip_sets import ClipSets
from featcache.loaders.settings import BankSettings, ClipSetSettings
from featcache.methods.advise.run import pretrain
from featcache.methods.advise.settings import AdviseSettings
from featcache.methods.finetune.run import finetune
from featcache.methods.finetune.settings import FinetuneSettings
from featcache.methods.scale.run import pretrain_scale
from featcache.methods.scale.settings import ScaleHeadSettings, ScaleSettings
from featcache.methods.svt.run import pretrain_svt
from featcache.methods.svt.settings import SvtHeadSettings, SvtSettings, SvtViewSettings
from featcache.networks.settings import SetPredictorSettings, TmmSettings
from featcache.recipes import SamplingRecipe
from featcache.testing.stores import StorePlan, make_record, write_store
from featcache.training.logs import read_log
from featcache.training.runs import seed_folder
from featcache.training.settings import Precision, ScheduleSettings, TrainingSettings
from gpu_parts.checks.comparing import BFLOAT16, LOSSES, Check, distance, within
from gpu_parts.media import make_clips

STEPS = 3
BANK = SamplingRecipe(layout="frames", temporal="bank", num_clips=1, num_frames=1, frame_stride=1)
NO_WARMUP = ScheduleSettings(kind="constant")
TMM = TmmSettings(hidden=16, out=32, num_blocks=1, temporal_kernel=3, head_hidden=32)
VIEWS = SvtViewSettings(
    global_frames=(2, 4), local_frames=(2, 2), global_size=32, local_size=16, local_time=0.5
)  # fmt: skip
Train = Callable[[Path, Path, TrainingSettings], object]
"""Takes the folder of the data that all runs read, the folder of this run, and its training settings."""


def loop(device: str, *, batch: int, precision: Precision = "float32") -> TrainingSettings:
    """One step per epoch, so that the log has a line for each step."""
    return TrainingSettings(
        epochs=STEPS, batch_size=batch, schedule=NO_WARMUP, precision=precision, device=device, threads=1,
        tensorboard=False,
    )  # fmt: skip


def advise(shared: Path, out: Path, training: TrainingSettings) -> object:
    """The playback-rate pretext on a bank of random maps."""
    if not (shared / "bank").exists():
        plan = StorePlan(records={"maps": make_record((4, 4, 16))}, rows_per_video=(30,), num_videos=9, shard_rows=90)
        write_store(shared / "bank", plan, sampling=BANK)
    bank = BankSettings(store=str(shared / "bank"))
    return pretrain(AdviseSettings(bank=bank, tmm=TMM, training=training, out=str(out)))


def scale(shared: Path, out: Path, training: TrainingSettings, *, dropout: float = 0.0) -> object:
    """Masked clips and sets of random vectors."""
    return pretrain_scale(scale_settings(out, training, dropout=dropout), sets=random_sets())


def scale_settings(out: Path, training: TrainingSettings, *, dropout: float) -> ScaleSettings:
    """A small predictor with small heads."""
    return ScaleSettings(
        sets=ClipSetSettings(store="memory"),
        predictor=SetPredictorSettings(width=32, depth=2, position_hidden=16, dropout=dropout),
        heads=ScaleHeadSettings(width=16, target_hidden=32, hidden=32),
        training=training,
        out=str(out),
    )


def random_sets(*, num_videos: int = 16, clips: int = 16, width: int = 24) -> ClipSets:
    """Vectors in float16, as stores hold them."""
    generator = torch.Generator().manual_seed(0)
    return ClipSets(
        features=torch.randn(num_videos * clips, width, generator=generator).half(),
        positions=torch.rand(num_videos * clips, 6, generator=generator),
        video_start=np.arange(0, num_videos * clips + 1, clips, dtype=np.int64),
        video_ids=tuple(f"v{number}" for number in range(num_videos)),
        identity="random",
    )


def svt(shared: Path, out: Path, training: TrainingSettings) -> object:
    """Self-distillation of the tiny network from videos."""
    if not (shared / "videos").exists():
        make_clips(shared / "videos", training.batch_size, num_frames=24, width=96, height=64)
    settings = SvtSettings(
        source=str(shared / "videos"), size="tiny", drop_path=0.0, views=VIEWS, workers=0,
        head=SvtHeadSettings(hidden=64, bottleneck=32, prototypes=64), training=training, out=str(out),
    )  # fmt: skip
    return pretrain_svt(settings)


def fine_tuning(shared: Path, out: Path, training: TrainingSettings) -> object:
    """A small image transformer with a head, whole, on labelled videos."""
    listing = shared / "videos.csv"
    if not listing.exists():
        videos = make_clips(shared / "labelled", training.batch_size + 2, num_frames=16, width=96, height=64)
        with listing.open("w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file)
            lines.writerow(("path", "label", "split"))
            for number, video in enumerate(videos):
                split = "train" if number < training.batch_size else "test"
                lines.writerow((str(video), "ab"[number % 2], split))
    settings = FinetuneSettings(
        source=str(listing), backbone="timm/test_vit", weights="random", input_size=160, head_dropout=0.0, workers=0,
        training=training, out=str(out),
    )  # fmt: skip
    return finetune(settings)


METHODS: dict[str, tuple[Train, int]] = {"AdViSe": (advise, 6), "SCALE": (scale, 16), "SVT": (svt, 2)}
METHODS["fine-tuning"] = (fine_tuning, 4)


def losses(folder: Path) -> np.ndarray:
    """The loss of each step of a run's first seed."""
    found = np.array([line["loss"] for line in read_log(seed_folder(folder, 0))])
    assert len(found) == STEPS, f"{len(found)} steps instead of {STEPS}"
    return found


def steps(name: str, device: str, folder: Path) -> str:
    """Three steps of a method in float32 and in bfloat16."""
    train, batch = METHODS[name]
    train(folder, folder / "cpu", loop("cpu", batch=batch))
    train(folder, folder / "device", loop(device, batch=batch))
    wanted, found = losses(folder / "cpu"), losses(folder / "device")
    assert len(set(wanted.tolist())) == STEPS, "the loss does not move"
    said = within(distance(found, wanted), LOSSES, "losses")
    train(folder, folder / "low", loop(device, batch=batch, precision="bfloat16"))
    return said + ", " + within(distance(losses(folder / "low"), wanted), BFLOAT16, "in bfloat16")


class _KilledError(Exception):
    """Stands for a kill."""


def taken_up(device: str, folder: Path) -> str:
    """A run with dropout that is killed after its first step and resumed, against an uninterrupted one."""
    training = loop(device, batch=16).model_copy(update={"checkpoint_seconds": 0.0})

    def kill(stage: str, done: float, *_: object) -> None:
        if done >= 2:  # the checkpoint of the previous step exists, that of this step does not
            raise _KilledError

    def run(out: str, **more: Any) -> None:
        pretrain_scale(scale_settings(folder / out, training, dropout=0.1), sets=random_sets(), **more)

    run("straight")
    with contextlib.suppress(_KilledError):
        run("killed", on_stage=kill)
    run("killed")
    # Sums on a GPU are not always in the same order, so the bits may differ.
    return within(distance(losses(folder / "killed"), losses(folder / "straight")), LOSSES, "losses")


CHECKS: dict[str, Check] = {
    **{f"three steps of {name}": functools.partial(steps, name) for name in METHODS},
    "a run taken up": taken_up,
}
