"""SCALE from videos to figures: extract clips once, pre-train a set predictor, probe with it and without it.

Run it as ``featcache run configs/scale/motion.yaml``, on videos of one's own with ``--set source=videos/ --set
labels=[label]``.
"""

import dataclasses
from typing import Any, ClassVar, Literal

from pydantic import Field

from featcache.commands.pipeline import (
    DECIDED,
    PROBED,
    Asked,
    PipelineResult,
    ShippedSettings,
    begin,
    decide,
    extraction_with,
    keys,
)
from featcache.commands.probe import ProbeTarget
from featcache.data.motion import MotionSettings
from featcache.evaluation.settings import (
    ClipTraining,
    KnnSettings,
    LinearSettings,
    MlpSettings,
    ScaleFtSettings,
    ScaleLinearSettings,
    TransformerSettings,
)
from featcache.extract.settings import ExtractSettings, FeatureSettings, SamplingSettings
from featcache.loaders.settings import ClipSetSettings
from featcache.methods.scale.settings import ScaleHeadSettings, ScaleSettings
from featcache.recipes import PlainViews
from featcache.report.tables import probe_table
from featcache.stages import OnStage, ignore, renamed
from featcache.training.settings import OptimiserSettings, ScheduleSettings, TrainingSettings

SMALL_PROBE = ClipTraining(lrs=(3e-4, 1e-3), batch_sizes=(64,), seeds=(0,), epochs=20)
"""How the probes that train a network are trained on a laptop; SCALE's take three times the epochs."""


class ScalePipelineSettings(ShippedSettings):
    """Settings of ``pipelines/scale.py``: SCALE from videos to figures; the defaults make and use a motion set.

    The pipeline decides the videos, the store and the folder of each step, what is probed (``labels``), the run whose
    predictors the probes read, and the shape of the baseline "Transformer", which is that of ``pretraining``.
    """

    decided: ClassVar[tuple[str, ...]] = (
        *keys("pretraining", "sets.store", "sets.feature", "out"),
        *keys("probes", *PROBED),
        *keys("knn", "model", "model_seeds"),
        "scale_linear.model",
        "transformer.predictor",
        "scale_ft.model",
    )

    command: Literal["scale"] = "scale"
    """The command this file repeats."""
    out: str = "scale"
    """Folder for the store, the run and the table."""
    motion: MotionSettings = MotionSettings(
        num_frames=32, window=(0.15, 0.25), train_per_picture_motion=3, test_unseen_per_picture_motion=1
    )
    """The clips to make if no source is given."""
    feature: FeatureSettings = FeatureSettings(backbone="timm/tf_efficientnet_lite0", output="mean", input_size=160)
    """The vectors to store."""
    extraction: ExtractSettings = extraction_with(
        SamplingSettings(
            temporal="random",
            num_clips=16,
            num_frames=4,
            frame_stride=2,
            spatial="random_resized",
            scale=(0.3, 0.8),
            test=PlainViews(temporal="uniform_open", num_clips=5, num_crops=3, crop_fraction=0.75),
        )
    )
    """The extraction: 16 random clips of a video to train on, 5 x 3 views to test."""
    pretraining: ScaleSettings = ScaleSettings(
        sets=ClipSetSettings(store=DECIDED),
        heads=ScaleHeadSettings(target_hidden=512, hidden=1024),
        training=TrainingSettings(
            epochs=60,
            batch_size=64,
            optimiser=OptimiserSettings(lr=3e-4, weight_decay=1e-4),
            schedule=ScheduleSettings(warmup_fraction=0.05),
            tensorboard=False,
        ),
    )
    """Pre-training without labels, with heads of a quarter of the published width: they are most of the work."""
    labels: tuple[str, ...] = Field(default=("picture", "motion"), min_length=1)
    """Label columns to probe."""
    probes: ProbeTarget = ProbeTarget(command=DECIDED, store=DECIDED)
    """Settings of all probes."""
    knn: KnnSettings = KnnSettings(center=True)
    """kNN on vectors, and beside the summary of their video (SCALE_kNN)."""
    linear: LinearSettings = LinearSettings(seeds=(0,))
    """The linear baseline on vectors."""
    mlp: MlpSettings = MlpSettings(hidden=(512, 512, 256), training=SMALL_PROBE)
    """The baseline "MLP"."""
    scale_linear: ScaleLinearSettings = ScaleLinearSettings(training=SMALL_PROBE)
    """A linear classifier beside the frozen predictor (SCALE_linear)."""
    transformer: TransformerSettings = TransformerSettings(training=SMALL_PROBE)
    """The predictor's shape from random weights (Transformer)."""
    scale_ft: ScaleFtSettings = ScaleFtSettings(training=SMALL_PROBE)
    """The pre-trained predictor trained further (SCALE_ft)."""


def run(settings: ScalePipelineSettings, *, on_stage: OnStage = ignore) -> PipelineResult:
    """Run the whole pipeline; in an existing folder, unfinished steps are resumed and finished ones kept.

    Args:
        settings: Settings of the pipeline.
        on_stage: Called with each stage.

    Returns:
        The results of all steps, which are in ``result.json`` too.

    Raises:
        FeatcacheError: A user's mistake, as one sentence; finished steps are kept.
    """
    from featcache.methods.scale.run import pretrain_scale

    steps = begin(settings, on_stage=on_stage)
    extraction = steps.extract([settings.feature])
    steps.remove_videos()
    (feature,) = extraction.features
    own = {"sets.store": steps.store, "sets.feature": feature, "out": steps.folder("predictor")}
    pretrained = pretrain_scale(decide(settings.pretraining, own), on_stage=renamed(on_stage, "predictor"))
    probes = probes_of(settings, model=pretrained.folder, feature=feature)
    results = {label: steps.probe(settings.probes, label, probes) for label in settings.labels}
    loss = [line["loss"] for line in pretrained.seeds.values()]
    return steps.finish(
        {"extract": extraction.to_dict(), "predictor": pretrained.to_dict(), "probes": results},
        table=probe_table(results),
        facts={
            "pre-training": f"loss {sum(loss) / len(loss):.3f} in the last epoch",
            "predictor": pretrained.folder,
        },
    )


def probes_of(settings: ScalePipelineSettings, *, model: str, feature: str) -> dict[str, Asked]:
    """The paper's probes by its names; those of SCALE read the predictor of ``model``."""
    seeds, predictor = settings.pretraining.training.seeds, settings.pretraining.predictor
    probes: dict[str, tuple[str, Any]] = {
        "kNN": ("knn", settings.knn),
        "SCALE_kNN": ("knn", dataclasses.replace(settings.knn, model=model, model_seeds=seeds)),
        "linear": ("linear", settings.linear),
        "MLP": ("mlp", settings.mlp),
        "SCALE_linear": ("scale-linear", dataclasses.replace(settings.scale_linear, model=model)),
        "Transformer": ("transformer", dataclasses.replace(settings.transformer, predictor=predictor)),
        "SCALE_ft": ("scale-ft", dataclasses.replace(settings.scale_ft, model=model)),
    }
    return {name: Asked(probe, own, feature) for name, (probe, own) in probes.items()}
