"""AdViSe from videos to figures: extract once, pre-train on playback rate, fine-tune against scratch, test the order.

Run it as ``featcache run configs/advise/motion.yaml``, on videos of one's own with ``--set source=videos/ --set
label=label``.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from featcache.commands.extract import extract
from featcache.commands.pipeline import PipelineResult, claim_folder, find_videos
from featcache.config import Settings
from featcache.data.motion import MotionSettings, remove_motion_set
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json
from featcache.loaders.settings import BankSettings
from featcache.methods.advise.settings import AdviseSettings, PretextClipSettings, TmmFineTuneSettings
from featcache.networks.settings import TmmSettings
from featcache.report.figure_settings import ActivationFigureSettings
from featcache.report.tables import Cell, Table
from featcache.stages import OnStage, ignore, renamed
from featcache.store.reader import open_store
from featcache.summary import Summary
from featcache.training.settings import ScheduleSettings, TrainingSettings
from featcache.units import duration

if TYPE_CHECKING:
    from featcache.methods.advise.tmm import TemporalResult


class AdvisePipelineSettings(Settings):
    """Settings of ``pipelines/advise.py``: AdViSe from videos to figures; the defaults make and use a motion set."""

    command: Literal["advise"] = "advise"
    """The command this file repeats."""
    out: str = "advise"
    """Folder for the store, the runs, the table and the picture."""
    source: str | None = None
    """A folder of videos or a listing; null: the motion set, made first and deleted at the end."""
    motion: MotionSettings = MotionSettings(
        num_frames=32,
        window=(0.15, 0.25),
        num_unseen_pictures=16,
        train_per_picture_motion=2,
        test_unseen_per_picture_motion=0,
    )
    """The clips to make if no source is given: long enough to be played at several rates."""
    feature: FeatureSettings = FeatureSettings(
        backbone="timm/tf_efficientnet_lite0", layer="blocks.4", output="map", input_size=160
    )
    """The maps to store."""
    sampling: SamplingSettings = SamplingSettings(layout="frames", crop_fraction=1.0)
    """The frame bank."""
    runtime: RuntimeSettings = RuntimeSettings()
    """How the machine is used to extract."""
    tmm: TmmSettings = TmmSettings(hidden=64, out=128, num_blocks=1, temporal_kernel=3, head_hidden=128)
    """The temporal module; a temporal kernel of 1, as released, mixes no frames."""
    clips: PretextClipSettings = PretextClipSettings()
    """Clips of the pretext task."""
    pretext: TrainingSettings = TrainingSettings(
        epochs=30, schedule=ScheduleSettings(warmup_fraction=2 / 30), tensorboard=False
    )
    """Pre-training on playback rate."""
    label: str = "motion"
    """Label column to fine-tune on."""
    labels_per_class: int | None = Field(default=None, ge=1)
    """Number of training videos per class; null: all."""
    sampler: Literal["random", "spread"] = "spread"
    """Fine-tuning clips, as in ``train tmm``."""
    stride: int = Field(default=8, ge=1)
    """Distance between the clips' frames with ``random``."""
    test_clips: int = Field(default=1, ge=1)
    """Number of test clips per video."""
    finetuning: TrainingSettings = TrainingSettings(
        epochs=30, schedule=ScheduleSettings(warmup_fraction=2 / 30), tensorboard=False
    )
    """Fine-tuning, and training from scratch beside it."""
    keep_videos: bool = False
    """Keep the clips of the motion set."""


def run(settings: AdvisePipelineSettings, *, on_stage: OnStage = ignore) -> PipelineResult:
    """Run the whole pipeline; in an existing folder, unfinished steps are resumed and finished ones kept.

    Args:
        settings: Settings of the pipeline.
        on_stage: Called with each stage.

    Returns:
        The results of all steps, which are in ``result.json`` too.

    Raises:
        FeatcacheError: A user's mistake, as one sentence; finished steps are kept.
    """
    from featcache.methods.advise.run import pretrain
    from featcache.methods.advise.tmm import run_temporal
    from featcache.report.activation_maps import draw_activation
    from featcache.report.plots import write_table

    started = time.monotonic()
    out = Path(settings.out)
    claim_folder(out, settings, fixed=("source", "motion", "feature", "sampling"))
    source = find_videos(settings.source, folder=out / "videos", motion=settings.motion, on_stage=on_stage)

    extraction = extract(
        ExtractSettings(
            source=source,
            out=str(out / "store"),
            features=(settings.feature,),
            sampling=settings.sampling,
            runtime=settings.runtime,
        ),
        on_stage=on_stage,
    )
    bank = BankSettings(store=str(out / "store"), feature=extraction.features[0])

    pretext = pretrain(
        AdviseSettings(
            bank=bank, tmm=settings.tmm, clips=settings.clips, training=settings.pretext, out=str(out / "pretext")
        ),
        on_stage=renamed(on_stage, "pretext"),
    )
    tuned = run_temporal(
        TmmFineTuneSettings(
            bank=bank,
            label=settings.label,
            init=pretext.folder,
            compare_scratch=True,
            labels_per_class=settings.labels_per_class,
            sampler=settings.sampler,
            stride=settings.stride,
            test_clips=settings.test_clips,
            training=settings.finetuning,
            out=str(out / "finetuned"),
        ),
        on_stage=renamed(on_stage, "labels"),
    )

    table = order_table(tuned)
    write_table(table, out)
    picture = draw_activation(
        ActivationFigureSettings(
            bank=bank,
            run=tuned.folder,
            video=test_video(out / "store", bank),
            seed=settings.finetuning.seeds[0],
            out=str(out / "activation.png"),
        )
    )
    if settings.source is None and not settings.keep_videos:
        remove_motion_set(out / "videos", settings.motion)
    found = {
        "store": str(out / "store"),
        "extract": extraction.to_dict(),
        "pretext": pretext.to_dict(),
        "finetuned": tuned.to_dict(),
        "table": table.to_dict(),
        "picture": picture.to_dict(),
        "seconds": time.monotonic() - started,
    }
    put_replace(out / "result.json", canonical_json(found))
    accuracy = [100 * line["accuracy"] for line in pretext.seeds.values()]
    differences = {
        f"difference, {split}": f"{100 * delta.value:+.1f} [{100 * delta.low:+.1f}, {100 * delta.high:+.1f}] points"
        for split, delta in tuned.delta.items()
    }
    facts = {
        "playback rate": f"{sum(accuracy) / len(accuracy):.1f} % in the last epoch",
        **differences,
        "picture": str(out / "activation.png"),
        "store": str(out / "store"),
        "time": duration(time.monotonic() - started),
    }
    return PipelineResult(found=found, shown=Summary(tables=(table.summary_table(),), facts=facts))


def test_video(store: Path, bank: BankSettings) -> str:
    """A video that no module was trained on, or the first of all."""
    with open_store(store).feature(bank.feature) as features:
        ids = features.video_ids
    splits = {video.id: video.split for video in open_store(store).videos.values()}
    return next((name for name in ids if splits[name] not in ("", bank.train_split)), ids[0])


def order_table(result: "TemporalResult") -> Table:
    """Top-1 in percent by arm and split, with one column per order of frames."""
    rows = tuple(
        (
            f"{arm}, {split}",
            None,
            "",
            {
                order: Cell(value=100 * top1.value, low=100 * top1.low, high=100 * top1.high)
                for order, metrics in orders.items()
                for top1 in [metrics["top1"]]
            },
        )
        for arm, splits in result.metrics.items()
        for split, orders in splits.items()
    )
    return Table(title=f"Top-1 of {result.label!r} by order of frames", columns=tuple(rows[0][3]), rows=rows)
