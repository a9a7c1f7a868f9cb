"""SVT from videos to figures: train a video transformer without labels, extract with its teacher, probe, fine-tune.

Each step stands beside the network as it was before training. Run it as ``featcache run configs/svt/motion.yaml``, on
videos of one's own as ``featcache run configs/svt/folder.yaml --set source=videos/``.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from featcache.backbones.weights import write_weights
from featcache.commands.pipeline import claim_folder, find_videos
from featcache.data.motion import remove_motion_set
from featcache.evaluation.reading import read_data
from featcache.evaluation.run import run_probe
from featcache.extract.progress import OnProgress
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings
from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json
from featcache.methods.finetune.run import finetune
from featcache.methods.finetune.settings import FinetuneSettings
from featcache.methods.svt.module import build_module
from featcache.methods.svt.run import pretrain_svt
from featcache.methods.svt.settings import SvtSettings
from featcache.pipeline_settings import SvtPipelineSettings
from featcache.report.plots import write_table
from featcache.report.tables import probe_table
from featcache.stages import OnStage, ignore, renamed


def run(
    settings: SvtPipelineSettings,
    *,
    on_stage: OnStage = ignore,
    on_progress: OnProgress = lambda progress: None,
) -> dict[str, Any]:
    """The whole way; a second run in the same folder takes up or leaves what is there.

    Args:
        settings: Everything that can be chosen.
        on_stage: Called with each stage of the way.
        on_progress: Called with the figures of the extraction.

    Returns:
        JSON-ready results.

    Raises:
        FeatcacheError: A user's mistake, as one sentence; what was done before stays.
    """
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
        on_scan=lambda done, total: on_stage("scan", done, total),
        on_progress=on_progress,
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
    summary = {
        "store": str(out / "store"),
        "pretrained": pretrained.to_dict(),
        "extract": extraction.to_dict(),
        "probes": results,
        "table": table.to_dict(),
        "seconds": time.monotonic() - started,
    }
    put_replace(out / "result.json", canonical_json(summary))
    return summary


def pretraining_of(settings: SvtPipelineSettings, *, source: str, out: Path) -> SvtSettings:
    """The settings of ``train svt`` that the pipeline repeats."""
    return SvtSettings(
        source=source,
        selection=settings.selection,
        workers=settings.workers,
        size=settings.size,
        drop_path=settings.drop_path,
        init=settings.init,
        views=settings.views,
        head=settings.head,
        loss=settings.loss,
        teacher_momentum=settings.teacher_momentum,
        training=settings.pretraining,
        out=str(out),
    )


def write_untrained(settings: SvtSettings, folder: Path) -> dict[str, str]:
    """Write the network of each seed as its training begins; the files by name."""
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
    first = settings.pretraining.seeds[0]
    results = {}
    for name in (f"trained-{first}", f"untrained-{first}"):
        result = finetune(
            FinetuneSettings(
                source=source,
                selection=settings.selection,
                label=settings.finetune_label,
                workers=settings.workers,
                backbone=backbone,
                weights=weights[name],
                input_size=settings.input_size,
                head_dropout=settings.head_dropout,
                clips=settings.clips,
                test=settings.test,
                training=settings.finetuning,
                out=str(out / "finetuned" / name),
            ),
            on_stage=renamed(on_stage, f"fine-tuning {name}"),
        )
        results[name] = result.to_dict()
    return results
