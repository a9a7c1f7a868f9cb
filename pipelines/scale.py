"""SCALE from videos to figures: extract clips once, pre-train a set predictor, probe with it and without it.

Run it as ``featcache run configs/scale/motion.yaml``, on videos of one's own with ``--set source=videos/ --set
labels=[label]``.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

from featcache.commands.pipeline import claim_folder, find_videos
from featcache.data.motion import remove_motion_set
from featcache.evaluation.reading import read_data
from featcache.evaluation.run import run_probe
from featcache.extract.progress import OnProgress
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings
from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json
from featcache.loaders.settings import ClipSetSettings
from featcache.machine import resolve_device
from featcache.methods.scale.run import pretrain_scale
from featcache.methods.scale.settings import ScaleSettings
from featcache.pipeline_settings import ScalePipelineSettings
from featcache.report.plots import write_table
from featcache.report.tables import probe_table
from featcache.stages import OnStage, ignore, renamed


def run(
    settings: ScalePipelineSettings,
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
        on_scan=lambda done, total: on_stage("scan", done, total),
        on_progress=on_progress,
    )
    if settings.source is None and not settings.keep_videos:  # nothing below reads a video
        remove_motion_set(out / "videos", settings.motion)

    pretrained = pretrain_scale(
        ScaleSettings(
            sets=ClipSetSettings(store=str(out / "store"), feature=extraction.features[0]),
            clips_per_set=settings.clips_per_set,
            predictor=settings.predictor,
            heads=settings.heads,
            loss=settings.loss,
            training=settings.pretraining,
            out=str(out / "predictor"),
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
    summary = {
        "store": str(out / "store"),
        "extract": extraction.to_dict(),
        "predictor": pretrained.to_dict(),
        "probes": results,
        "table": table.to_dict(),
        "seconds": time.monotonic() - started,
    }
    put_replace(out / "result.json", canonical_json(summary))
    return summary


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
