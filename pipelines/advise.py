"""AdViSe from videos to figures: extract once, pre-train on playback rate, fine-tune against scratch, test the order.

Run it as ``featcache run configs/advise/motion.yaml``, on videos of one's own with ``--set source=videos/ --set
finetuning.label=label``.
"""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from featcache.commands.pipeline import DECIDED, PipelineResult, ShippedSettings, begin, decide, extraction_with, keys
from featcache.data.motion import MotionSettings
from featcache.extract.settings import ExtractSettings, FeatureSettings, SamplingSettings
from featcache.loaders.settings import BankSettings
from featcache.methods.advise.settings import AdviseSettings, TmmFineTuneSettings
from featcache.networks.settings import TmmSettings
from featcache.report.figure_settings import ActivationFigureSettings
from featcache.report.tables import Cell, Table
from featcache.stages import OnStage, ignore, renamed
from featcache.store.reader import open_store
from featcache.training.settings import ScheduleSettings, TrainingSettings

if TYPE_CHECKING:
    from featcache.methods.advise.tmm import TemporalResult

BANK = BankSettings(store=DECIDED)
TRAINING = TrainingSettings(epochs=30, schedule=ScheduleSettings(warmup_fraction=2 / 30), tensorboard=False)
"""Both trainings of the temporal module on a laptop."""


class AdvisePipelineSettings(ShippedSettings):
    """Settings of ``pipelines/advise.py``: AdViSe from videos to figures; the defaults make and use a motion set.

    The pipeline decides the videos, the store and the folder of each step, the module from which fine-tuning begins,
    that training from scratch stands beside it, and the video and the seed of the picture.
    """

    decided: ClassVar[tuple[str, ...]] = (
        *keys("pretraining", "bank.store", "bank.feature", "out"),
        *keys("finetuning", "bank.store", "bank.feature", "init", "compare_scratch", "out"),
        *keys("figure", "bank.store", "bank.feature", "run", "video", "seed", "out"),
    )

    command: Literal["advise"] = "advise"
    """The command this file repeats."""
    out: str = "advise"
    """Folder for the store, the runs, the table and the picture."""
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
    extraction: ExtractSettings = extraction_with(SamplingSettings(layout="frames", crop_fraction=1.0))
    """The extraction of the frame bank."""
    pretraining: AdviseSettings = AdviseSettings(
        bank=BANK,
        tmm=TmmSettings(hidden=64, out=128, num_blocks=1, temporal_kernel=3, head_hidden=128),
        training=TRAINING,
    )
    """Pre-training on playback rate; a temporal kernel of 1, as released, mixes no frames."""
    finetuning: TmmFineTuneSettings = TmmFineTuneSettings(
        bank=BANK, label="motion", sampler="spread", test_clips=1, training=TRAINING
    )
    """Fine-tuning on labels, and training from scratch beside it."""
    figure: ActivationFigureSettings = ActivationFigureSettings(bank=BANK, run=DECIDED, video=DECIDED, out="a.png")
    """The picture of a video that no module was trained on."""


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

    steps = begin(settings, on_stage=on_stage)
    extraction = steps.extract([settings.feature])
    bank = {"bank.store": steps.store, "bank.feature": extraction.features[0]}
    pretext = pretrain(
        decide(settings.pretraining, {**bank, "out": steps.folder("pretext")}),
        on_stage=renamed(on_stage, "pretext"),
    )
    own = {"init": pretext.folder, "compare_scratch": True, "out": steps.folder("finetuned")}
    tuned = run_temporal(decide(settings.finetuning, {**bank, **own}), on_stage=renamed(on_stage, "labels"))
    shown = {
        "run": tuned.folder,
        "video": test_video(
            Path(steps.store), extraction.features[0], train_split=settings.finetuning.bank.train_split
        ),
        "seed": settings.finetuning.training.seeds[0],
        "out": steps.folder("activation.png"),
    }
    picture = draw_activation(decide(settings.figure, {**bank, **shown}))
    accuracy = [100 * line["accuracy"] for line in pretext.seeds.values()]
    differences = {
        f"difference, {split}": f"{100 * delta.value:+.1f} [{100 * delta.low:+.1f}, {100 * delta.high:+.1f}] points"
        for split, delta in tuned.delta.items()
    }
    return steps.finish(
        {
            "extract": extraction.to_dict(),
            "pretext": pretext.to_dict(),
            "finetuned": tuned.to_dict(),
            "picture": picture.to_dict(),
        },
        table=order_table(tuned),
        facts={
            "playback rate": f"{sum(accuracy) / len(accuracy):.1f} % in the last epoch",
            **differences,
            "picture": steps.folder("activation.png"),
        },
    )


def test_video(store: Path, feature: str, train_split: str) -> str:
    """A video that no module was trained on, or the first of all."""
    with open_store(store).feature(feature) as features:
        ids = features.video_ids
    splits = {video.id: video.split for video in open_store(store).videos.values()}
    return next((name for name in ids if splits[name] not in ("", train_split)), ids[0])


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
