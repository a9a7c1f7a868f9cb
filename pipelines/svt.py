"""SVT from videos to figures: train a video transformer without labels, extract with its teacher, probe, fine-tune.

Each step stands beside the network as it was before training. Run it as ``featcache run configs/svt/motion.yaml``, on
videos of one's own as ``featcache run configs/svt/folder.yaml --set source=videos/``.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from featcache.commands.pipeline import (
    DECIDED,
    PROBED,
    VIDEOS,
    Asked,
    PipelineResult,
    PipelineRun,
    ShippedSettings,
    begin,
    decide,
    extraction_with,
    keys,
)
from featcache.commands.probe import ProbeTarget
from featcache.data.motion import MotionSettings
from featcache.evaluation.settings import KnnSettings, LinearSettings
from featcache.extract.settings import ExtractSettings, FeatureSettings, SamplingSettings
from featcache.methods.finetune.settings import FinetuneClipSettings, FinetuneSettings, FinetuneTestSettings
from featcache.methods.svt.settings import (
    PATCH_SIZE,
    SvtHeadSettings,
    SvtInitSettings,
    SvtLossSettings,
    SvtSettings,
    SvtViewSettings,
)
from featcache.report.tables import probe_table
from featcache.stages import OnStage, ignore, renamed
from featcache.training.settings import OptimiserSettings, ScheduleSettings, TrainingSettings


class SvtPipelineSettings(ShippedSettings):
    """Settings of ``pipelines/svt.py``: SVT from videos to figures; the defaults make and use a motion set.

    The pipeline decides the videos and the folder of each step, the networks that are extracted and fine-tuned, the
    side at which both see a frame (``input_size``), and what is probed (``labels``).
    """

    decided: ClassVar[tuple[str, ...]] = (
        *keys("pretraining", *VIDEOS, "out"),
        *keys("feature", "backbone", "weights", "name", "input_size"),
        *keys("probes", *PROBED),
        *keys("finetuning", *VIDEOS, "backbone", "weights", "input_size", "out"),
    )

    command: Literal["svt"] = "svt"
    """The command this file repeats."""
    out: str = "svt"
    """Folder for the runs, the store and the table."""
    motion: MotionSettings = MotionSettings(size=64)
    """The clips to make if no source is given."""
    pretraining: SvtSettings = SvtSettings(
        source=DECIDED,
        size="tiny",
        stem="difference",
        drop_path=0.0,
        init=SvtInitSettings(std=192**-0.5, time_std=0.5),
        views=SvtViewSettings(
            global_frames=(8, 8),
            local_frames=(4, 4),
            global_size=32,
            local_size=32,
            global_time=1.0,
            local_time=0.5,
            local_scale=(0.2, 0.6),
            flip_probability=0.0,
        ),
        head=SvtHeadSettings(hidden=256, bottleneck=64, prototypes=1024, frozen_epochs=0.5),
        loss=SvtLossSettings(centering="reversal", teacher_temperature=0.02, first_teacher_temperature=0.02),
        teacher_momentum=0.99,
        training=TrainingSettings(
            epochs=12,
            batch_size=16,
            optimiser=OptimiserSettings(lr=5e-4, weight_decay=0.04, final_weight_decay=0.1),
            schedule=ScheduleSettings(warmup_fraction=1 / 12, final_factor=0.01),
            clip_each_norm=3.0,
            tensorboard=False,
        ),
    )
    """Pre-training without labels. The defaults suit short clips and few steps: small views, never mirrored, since
    direction is what is asked for; a network that sees motion from its first layer on, and targets without what a clip
    shares with its reversal; a head for small data sets; a teacher that moves faster than the paper's."""
    input_size: int = Field(default=32, ge=PATCH_SIZE, multiple_of=PATCH_SIZE)
    """Side in pixels at which the trained network is used."""
    feature: FeatureSettings = FeatureSettings(backbone=DECIDED, output="cls")
    """The feature to store of each network, trained and untrained."""
    extraction: ExtractSettings = extraction_with(
        SamplingSettings(temporal="spread", num_clips=1, num_frames=8, crop_fraction=1.0)
    )
    """The extraction."""
    labels: tuple[str, ...] = Field(default=("picture", "motion"), min_length=1)
    """Label columns to probe."""
    probes: ProbeTarget = ProbeTarget(command=DECIDED, store=DECIDED)
    """Settings of all probes."""
    knn: KnnSettings = KnnSettings()
    """kNN on the class tokens."""
    linear: LinearSettings = LinearSettings(seeds=(0,))
    """The linear probe on the class tokens."""
    finetuning: FinetuneSettings | None = FinetuneSettings(
        source=DECIDED,
        backbone=DECIDED,
        label="motion",
        clips=FinetuneClipSettings(side_range=(0.7, 1.0), flip_probability=0.0),
        test=FinetuneTestSettings(num_crops=1),
        head_dropout=0.0,
        training=TrainingSettings(
            epochs=15,
            batch_size=32,
            optimiser=OptimiserSettings(lr=7e-4, weight_decay=0.05),
            schedule=ScheduleSettings(warmup_fraction=0.1),
            clip_norm=3.0,
            tensorboard=False,
        ),
    )
    """Fine-tuning, from the first seed's teacher and from the network as it was before training; null: none."""


def run(settings: SvtPipelineSettings, *, on_stage: OnStage = ignore) -> PipelineResult:
    """Run the whole pipeline; in an existing folder, unfinished steps are resumed and finished ones kept.

    Args:
        settings: Settings of the pipeline.
        on_stage: Called with each stage.

    Returns:
        The results of all steps, which are in ``result.json`` too.

    Raises:
        FeatcacheError: A user's mistake, as one sentence; finished steps are kept.
    """
    from featcache.methods.svt.run import pretrain_svt

    steps = begin(settings, on_stage=on_stage)
    training = decide(settings.pretraining, {**steps.videos, "out": steps.folder("pretrained")})
    pretrained = pretrain_svt(training, on_stage=renamed(on_stage, "pre-training"))
    weights = {f"trained-{seed}": path for seed, path in pretrained.weights.items()}
    weights |= write_untrained(training, Path(steps.folder("untrained")))

    network = {"backbone": pretrained.backbone, "input_size": settings.input_size}
    extraction = steps.extract(
        [decide(settings.feature, {**network, "name": name, "weights": path}) for name, path in weights.items()]
    )
    probes = {
        f"{name}, {feature}": Asked(probe, own, feature)
        for name, probe, own in (("kNN", "knn", settings.knn), ("linear", "linear", settings.linear))
        for feature in extraction.features
    }
    results = {label: steps.probe(settings.probes, label, probes) for label in settings.labels}
    if settings.finetuning is not None:
        for name, result in finetune_both(
            settings, settings.finetuning, steps, network=network, weights=weights
        ).items():
            results.setdefault(settings.finetuning.label, {})[f"fine-tuned, {name}"] = result

    last = pretrained.seeds.values()
    shown = {"loss": "loss", "entropy": "entropy", "feature_deviation": "deviation", "rank": "rank"}
    means = (f"{word} {sum(line[name] for line in last) / len(last):.3g}" for name, word in shown.items())
    return steps.finish(
        {"pretrained": pretrained.to_dict(), "extract": extraction.to_dict(), "probes": results},
        table=probe_table(results),
        facts={
            "pre-training": f"{', '.join(means)} in the last epoch",
            "teacher": next(iter(pretrained.weights.values())),
        },
    )


def write_untrained(settings: SvtSettings, folder: Path) -> dict[str, str]:
    """Write the initial network of each seed; returns the files by name."""
    from featcache.backbones.weights import write_weights
    from featcache.methods.svt.module import build_module

    files = {}
    for seed in settings.training.seeds:
        path = folder / f"seed-{seed}.safetensors"
        network = build_module(settings, seed=seed).teacher.backbone
        write_weights(path, network, facts={"network": asdict(network.config), "seed": seed})
        files[f"untrained-{seed}"] = str(path)
    return files


def finetune_both(
    settings: SvtPipelineSettings,
    finetuning: FinetuneSettings,
    steps: PipelineRun,
    *,
    network: Mapping[str, object],
    weights: Mapping[str, str],
) -> dict[str, dict[str, Any]]:
    """Fine-tune the first seed's teacher, and the network as it was before training; results by name."""
    from featcache.methods.finetune.run import finetune

    first = settings.pretraining.training.seeds[0]
    results = {}
    for name in (f"trained-{first}", f"untrained-{first}"):
        own = {**network, "weights": weights[name], "out": steps.folder(f"finetuned/{name}")}
        step = decide(finetuning, {**steps.videos, **own})
        results[name] = finetune(step, on_stage=renamed(steps.on_stage, f"fine-tuning {name}")).to_dict()
    return results
