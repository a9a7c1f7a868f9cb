"""SCALE from videos to figures: extract clips once, pre-train a set predictor, probe with it and without it.

Run it as ``featcache run configs/scale/motion.yaml``, on videos of one's own with ``--set source=videos/ --set
labels=[label]``.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from featcache.commands.extract import extract
from featcache.commands.pipeline import PipelineResult, claim_folder, find_videos, repeated
from featcache.config import Settings
from featcache.data.motion import MotionSettings, remove_motion_set
from featcache.evaluation.settings import (
    ClipTraining,
    KnnSettings,
    LinearSettings,
    MlpSettings,
    ScaleFtSettings,
    ScaleLinearSettings,
    TransformerSettings,
)
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json
from featcache.loaders.settings import ClipSetSettings, Coordinates
from featcache.machine import resolve_device
from featcache.methods.scale.settings import ScaleHeadSettings, ScaleLossSettings, ScaleSettings
from featcache.metrics.settings import IntervalSettings
from featcache.networks.settings import SetPredictorSettings
from featcache.recipes import PlainViews
from featcache.report.tables import probe_table
from featcache.stages import OnStage, ignore, renamed
from featcache.summary import Summary
from featcache.training.settings import OptimiserSettings, ScheduleSettings, TrainingSettings
from featcache.units import duration

SMALL_PROBE = ClipTraining(lrs=(3e-4, 1e-3), batch_sizes=(64,), seeds=(0,), epochs=20)
"""How the probes that train a network are trained on a laptop; SCALE's take three times the epochs."""


class ScalePipelineSettings(Settings):
    """Settings of ``pipelines/scale.py``: SCALE from videos to figures; the defaults make and use a motion set."""

    command: Literal["scale"] = "scale"
    """The command this file repeats."""
    out: str = "scale"
    """Folder for the store, the run and the table."""
    source: str | None = None
    """A folder of videos or a listing; null: the motion set, made first and deleted after the extraction."""
    motion: MotionSettings = MotionSettings(
        num_frames=32, window=(0.15, 0.25), train_per_picture_motion=3, test_unseen_per_picture_motion=1
    )
    """The clips to make if no source is given."""
    feature: FeatureSettings = FeatureSettings(backbone="timm/tf_efficientnet_lite0", output="mean", input_size=160)
    """The vectors to store."""
    sampling: SamplingSettings = SamplingSettings(
        temporal="random",
        num_clips=16,
        num_frames=4,
        frame_stride=2,
        spatial="random_resized",
        scale=(0.3, 0.8),
        test=PlainViews(temporal="uniform_open", num_clips=5, num_crops=3, crop_fraction=0.75),
    )
    """The clips of a video: 16 random ones to train on, 5 x 3 views to test."""
    runtime: RuntimeSettings = RuntimeSettings()
    """How the machine is used to extract."""
    clips_per_set: int = Field(default=8, ge=1)
    """Clips of each of the two sets of a video."""
    coordinates: Coordinates = "true"
    """For comparison, as in ``train scale``: ``shuffled`` among the clips of each video, or ``zero``."""
    compile: bool = False
    """Compile the predictor with ``torch.compile``; it takes a minute and pays in long runs on a GPU."""
    batched_seeds: bool = False
    """Train all seeds as one stack, each on its own batches."""
    predictor: SetPredictorSettings = SetPredictorSettings()
    """The set predictor, and the baseline "Transformer"."""
    heads: ScaleHeadSettings = ScaleHeadSettings(target_hidden=512, hidden=1024)
    """The heads of pre-training, a quarter of the published width: they are most of the work."""
    loss: ScaleLossSettings = ScaleLossSettings()
    """Settings of the losses."""
    pretraining: TrainingSettings = TrainingSettings(
        epochs=60,
        batch_size=64,
        optimiser=OptimiserSettings(lr=3e-4, weight_decay=1e-4),
        schedule=ScheduleSettings(warmup_fraction=0.05),
        tensorboard=False,
    )
    """Pre-training without labels."""
    labels: tuple[str, ...] = Field(default=("picture", "motion"), min_length=1)
    """Label columns to probe."""
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
    intervals: IntervalSettings = IntervalSettings()
    """How intervals are drawn."""
    keep_videos: bool = False
    """Keep the clips of the motion set."""


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
    from featcache.evaluation.reading import read_data
    from featcache.evaluation.run import run_probe
    from featcache.methods.scale.run import pretrain_scale
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
    if settings.source is None and not settings.keep_videos:  # nothing below reads a video
        remove_motion_set(out / "videos", settings.motion)

    pretrained = pretrain_scale(
        repeated(
            ScaleSettings,
            settings,
            own={
                "sets": ClipSetSettings(store=str(out / "store"), feature=extraction.features[0]),
                "training": settings.pretraining,
                "out": str(out / "predictor"),
            },
        ),
        on_stage=renamed(on_stage, "predictor"),
    )

    results: dict[str, dict[str, Any]] = {}
    probes = probes_of(settings, model=pretrained.folder)
    for number, (label, name) in enumerate((label, name) for label in settings.labels for name in probes):
        on_stage("probes", number, len(settings.labels) * len(probes))
        probe, own = probes[name]
        data = read_data(
            out / "store", feature=extraction.features[0], label=label, positions=settings.predictor.position
        )
        device = resolve_device(settings.pretraining.device)
        result = run_probe(probe, data, own, intervals=settings.intervals, device=device)
        results.setdefault(label, {})[name] = result.to_dict()
    on_stage("probes", len(settings.labels) * len(probes), len(settings.labels) * len(probes))

    table = probe_table(results)
    write_table(table, out)
    found = {
        "store": str(out / "store"),
        "extract": extraction.to_dict(),
        "predictor": pretrained.to_dict(),
        "probes": results,
        "table": table.to_dict(),
        "seconds": time.monotonic() - started,
    }
    put_replace(out / "result.json", canonical_json(found))
    loss = [line["loss"] for line in pretrained.seeds.values()]
    facts = {
        "pre-training": f"loss {sum(loss) / len(loss):.3f} in the last epoch",
        "predictor": pretrained.folder,
        "store": str(out / "store"),
        "time": duration(time.monotonic() - started),
    }
    return PipelineResult(found=found, shown=Summary(tables=(table.summary_table(),), facts=facts))


def probes_of(settings: ScalePipelineSettings, *, model: str) -> dict[str, tuple[str, Any]]:
    """The paper's probes by its names: registry name and settings; those of SCALE read the predictor of ``model``."""
    seeds = settings.pretraining.seeds
    return {
        "kNN": ("knn", settings.knn),
        "SCALE_kNN": ("knn", dataclasses.replace(settings.knn, model=model, model_seeds=seeds)),
        "linear": ("linear", settings.linear),
        "MLP": ("mlp", settings.mlp),
        "SCALE_linear": ("scale-linear", dataclasses.replace(settings.scale_linear, model=model)),
        "Transformer": ("transformer", dataclasses.replace(settings.transformer, predictor=settings.predictor)),
        "SCALE_ft": ("scale-ft", dataclasses.replace(settings.scale_ft, model=model)),
    }
