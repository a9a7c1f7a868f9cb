"""SVT from videos to figures: train a video transformer without labels, extract with its teacher, probe, fine-tune.

Each step stands beside the network as it was before training. Run it as ``featcache run configs/svt/motion.yaml``, on
videos of one's own as ``featcache run configs/svt/folder.yaml --set source=videos/``.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from featcache.commands.extract import extract
from featcache.commands.pipeline import PipelineResult, claim_folder, find_videos, repeated
from featcache.config import Settings
from featcache.data.motion import MotionSettings, remove_motion_set
from featcache.data.selection import Selection
from featcache.evaluation.settings import KnnSettings, LinearSettings
from featcache.extract.settings import ExtractSettings, FeatureSettings, RuntimeSettings, SamplingSettings
from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json
from featcache.methods.finetune.settings import FinetuneClipSettings, FinetuneSettings, FinetuneTestSettings
from featcache.methods.svt.settings import (
    PATCH_SIZE,
    Size,
    SvtHeadSettings,
    SvtInitSettings,
    SvtLossSettings,
    SvtSettings,
    SvtViewSettings,
)
from featcache.metrics.settings import IntervalSettings
from featcache.report.tables import probe_table
from featcache.stages import OnStage, ignore, renamed
from featcache.summary import Summary
from featcache.training.settings import OptimiserSettings, ScheduleSettings, TrainingSettings
from featcache.units import duration


class SvtPipelineSettings(Settings):
    """Settings of ``pipelines/svt.py``: SVT from videos to figures; the defaults make and use a motion set."""

    command: Literal["svt"] = "svt"
    """The command this file repeats."""
    out: str = "svt"
    """Folder for the runs, the store and the table."""
    source: str | None = None
    """A folder of videos or a listing; null: the motion set, made first and deleted at the end."""
    selection: Selection = Selection()
    """Which column holds the split, and which of the listed videos are used."""
    motion: MotionSettings = MotionSettings(size=64)
    """The clips to make if no source is given."""
    size: Size = "tiny"
    """``tiny``, ``small`` or ``base``."""
    time_positions: int = Field(default=16, ge=1)
    """Learned positions in time, as in ``train svt``."""
    recomputes_blocks: bool = False
    """Keep no activations inside blocks while pre-training: less memory, about a third more time."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth of the last block."""
    init: SvtInitSettings = SvtInitSettings()
    """Initial weights of the network."""
    views: SvtViewSettings = SvtViewSettings(
        global_frames=(8, 8),
        local_frames=(4, 4),
        global_size=32,
        local_size=32,
        global_time=1.0,
        local_time=0.5,
        local_scale=(0.2, 0.6),
        flip_probability=0.0,
    )
    """Views that suit clips of 8 frames: small, and never mirrored, since direction is what is asked for."""
    head: SvtHeadSettings = SvtHeadSettings(hidden=256, bottleneck=64, prototypes=1024, frozen_epochs=0.5)
    """The projection head, sized for small data sets."""
    loss: SvtLossSettings = SvtLossSettings()
    """Settings of the loss."""
    teacher_momentum: float = Field(default=0.99, ge=0, le=1)
    """Momentum of the teacher's moving average at the start; a short run needs less than the paper's 0.996."""
    workers: int | None = Field(default=None, ge=0)
    """Number of decoding processes during training; null: one per core."""
    pretraining: TrainingSettings = TrainingSettings(
        epochs=12,
        batch_size=16,
        optimiser=OptimiserSettings(lr=5e-4, weight_decay=0.04, final_weight_decay=0.1),
        schedule=ScheduleSettings(warmup_fraction=1 / 12, final_factor=0.01),
        clip_each_norm=3.0,
        tensorboard=False,
    )
    """Pre-training without labels."""
    input_size: int = Field(default=32, ge=PATCH_SIZE, multiple_of=PATCH_SIZE)
    """Side in pixels at which the trained network is used."""
    sampling: SamplingSettings = SamplingSettings(temporal="spread", num_clips=1, num_frames=8, crop_fraction=1.0)
    """The clips of a video that are stored."""
    runtime: RuntimeSettings = RuntimeSettings()
    """How the machine is used to extract."""
    labels: tuple[str, ...] = Field(default=("picture", "motion"), min_length=1)
    """Label columns to probe."""
    knn: KnnSettings = KnnSettings()
    """kNN on the class tokens."""
    linear: LinearSettings = LinearSettings(seeds=(0,))
    """The linear probe on the class tokens."""
    intervals: IntervalSettings = IntervalSettings()
    """How intervals are drawn."""
    finetune_label: str = "motion"
    """Label column to fine-tune on."""
    clips: FinetuneClipSettings = FinetuneClipSettings(side_range=(0.7, 1.0), flip_probability=0.0)
    """Training clips of fine-tuning."""
    test: FinetuneTestSettings = FinetuneTestSettings(num_crops=1)
    """Test views of a video after fine-tuning."""
    head_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the head that is fine-tuned; SVT has 0.5."""
    finetuning: TrainingSettings = TrainingSettings(
        epochs=10,
        batch_size=32,
        optimiser=OptimiserSettings(lr=1e-3, weight_decay=0.05),
        schedule=ScheduleSettings(warmup_fraction=0.1),
        clip_norm=3.0,
        tensorboard=False,
    )
    """Fine-tuning, from the first seed's teacher and from the network as it was before training."""
    keep_videos: bool = False
    """Keep the clips of the motion set."""


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
    from featcache.report.plots import write_table

    started = time.monotonic()
    out = Path(settings.out)
    claim_folder(out, settings, fixed=("source", "selection", "motion", "input_size", "sampling"))
    source = find_videos(settings.source, folder=out / "videos", motion=settings.motion, on_stage=on_stage)

    training = pretraining_of(settings, source=source, out=out / "pretrained")
    pretrained = pretrain_svt(training, on_stage=renamed(on_stage, "pre-training"))
    weights = {f"trained-{seed}": path for seed, path in pretrained.weights.items()}
    weights |= write_untrained(training, out / "untrained")

    extraction = extract(
        ExtractSettings(
            source=source,
            selection=settings.selection,
            out=str(out / "store"),
            features=tuple(
                FeatureSettings(
                    name=name,
                    backbone=pretrained.backbone,
                    weights=path,
                    output="cls",
                    input_size=settings.input_size,
                )
                for name, path in weights.items()
            ),
            sampling=settings.sampling,
            runtime=settings.runtime,
        ),
        on_stage=on_stage,
    )
    results = probe(settings, out / "store", features=extraction.features, on_stage=on_stage)
    tuned = finetune_both(
        settings, source=source, backbone=pretrained.backbone, weights=weights, out=out, on_stage=on_stage
    )
    for name, result in tuned.items():
        results.setdefault(settings.finetune_label, {})[f"fine-tuned, {name}"] = result

    if settings.source is None and not settings.keep_videos:
        remove_motion_set(out / "videos", settings.motion)
    table = probe_table(results)
    write_table(table, out)
    found = {
        "store": str(out / "store"),
        "pretrained": pretrained.to_dict(),
        "extract": extraction.to_dict(),
        "probes": results,
        "table": table.to_dict(),
        "seconds": time.monotonic() - started,
    }
    put_replace(out / "result.json", canonical_json(found))
    last = pretrained.seeds.values()
    shown = {"loss": "loss", "entropy": "entropy", "feature_deviation": "deviation", "rank": "rank"}
    means = (f"{word} {sum(line[name] for line in last) / len(last):.3g}" for name, word in shown.items())
    facts = {
        "pre-training": f"{', '.join(means)} in the last epoch",
        "teacher": next(iter(pretrained.weights.values())),
        "store": str(out / "store"),
        "time": duration(time.monotonic() - started),
    }
    return PipelineResult(found=found, shown=Summary(tables=(table.summary_table(),), facts=facts))


def pretraining_of(settings: SvtPipelineSettings, *, source: str, out: Path) -> SvtSettings:
    """The settings of ``train svt`` that the pipeline repeats."""
    return repeated(SvtSettings, settings, own={"source": source, "training": settings.pretraining, "out": str(out)})


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


def probe(
    settings: SvtPipelineSettings, store: Path, *, features: Sequence[str], on_stage: OnStage
) -> dict[str, dict[str, Any]]:
    """Both probes, kNN and linear, of each feature, by label and ``<probe>, <feature>``."""
    from featcache.evaluation.reading import read_data
    from featcache.evaluation.run import run_probe

    probes = {"kNN": ("knn", settings.knn), "linear": ("linear", settings.linear)}
    asked = [(label, feature, name) for label in settings.labels for name in probes for feature in features]
    results: dict[str, dict[str, Any]] = {}
    for number, (label, feature, name) in enumerate(asked):
        on_stage("probes", number, len(asked))
        probe, own = probes[name]
        data = read_data(store, feature=feature, label=label)
        result = run_probe(probe, data, own, intervals=settings.intervals)
        results.setdefault(label, {})[f"{name}, {feature}"] = result.to_dict()
    on_stage("probes", len(asked), len(asked))
    return results


def finetune_both(
    settings: SvtPipelineSettings,
    *,
    source: str,
    backbone: str,
    weights: Mapping[str, str],
    out: Path,
    on_stage: OnStage,
) -> dict[str, dict[str, Any]]:
    """Fine-tune the first seed's teacher, and the network as it was before training; results by name."""
    from featcache.methods.finetune.run import finetune

    first = settings.pretraining.seeds[0]
    results = {}
    for name in (f"trained-{first}", f"untrained-{first}"):
        result = finetune(
            repeated(
                FinetuneSettings,
                settings,
                own={
                    "source": source,
                    "label": settings.finetune_label,
                    "backbone": backbone,
                    "weights": weights[name],
                    "training": settings.finetuning,
                    "out": str(out / "finetuned" / name),
                },
            ),
            on_stage=renamed(on_stage, f"fine-tuning {name}"),
        )
        results[name] = result.to_dict()
    return results
