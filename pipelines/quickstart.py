"""The whole way in one script: make clips, extract features once, delete the clips, probe the store.

Run it as ``featcache quickstart`` or ``featcache run configs/quickstart.yaml``.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from featcache.commands import QuickstartSettings
from featcache.config import to_yaml
from featcache.evaluation.run import run_probe
from featcache.evaluation.tables import read_data
from featcache.extract.progress import OnProgress, ignore
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, SamplingSettings
from featcache.io import canonical_json, put_replace
from featcache.testing.motion import MOTIONS, PHOTOGRAPHS, make_motion_set

BACKBONE = "timm/tf_efficientnet_lite0"
OnStage = Callable[[str, float, float], None]


def run(
    settings: QuickstartSettings,
    *,
    on_stage: OnStage = lambda stage, done, total: None,
    on_progress: OnProgress = ignore,
) -> dict[str, Any]:
    """Make the motion set, extract, delete the clips, probe both labels.

    Args:
        settings: Everything that can be chosen.
        on_stage: Called with (stage, done, total).
        on_progress: Called with the figures of the extraction.

    Returns:
        JSON-ready results: one row a (label, feature, probe, split).
    """
    started = time.monotonic()
    out = Path(settings.out)
    videos, store = out / "videos", out / "store"
    out.mkdir(parents=True, exist_ok=True)
    put_replace(out / "config.yaml", to_yaml(settings).encode())

    listing = make_motion_set(videos, settings.motion, progress=lambda done, total: on_stage("clips", done, total))

    extraction = extract(
        extract_settings(settings, listing=listing, store=store),
        on_scan=lambda done, total: on_stage("scan", done, total),
        on_progress=on_progress,
    )

    if not settings.keep_videos:
        shutil.rmtree(videos)

    chances = {"picture": 1 / (len(PHOTOGRAPHS) - settings.motion.num_unseen_pictures), "motion": 1 / len(MOTIONS)}
    questions = [
        (label, feature, probe, own)
        for label in chances
        for feature in extraction.features
        for probe, own in (("knn", settings.knn), ("linear", settings.linear))
    ]
    results = []
    for done, (label, feature, probe, own) in enumerate(questions):
        on_stage("probe", done, len(questions))
        data = read_data(store, feature=feature, label=label)
        # Nothing can be said of photographs that are in no training clip.
        splits = ("test_seen",) if label == "picture" else ("test_seen", "test_unseen")
        result = run_probe(probe, data, own, intervals=settings.intervals, test_splits=splits).to_dict()
        results += [
            {
                "label": label,
                "feature": feature,
                "probe": probe,
                "split": split,
                "top1": numbers["metrics"]["top1"],
                "chance": chances[label],
                "coverage": numbers["coverage"],
            }
            for split, numbers in result["splits"].items()
        ]
    on_stage("probe", len(questions), len(questions))
    summary = {
        "store": str(store),
        "num_videos": extraction.videos_total,
        "num_rows": extraction.rows_total,
        "extract": extraction.to_dict(),
        "results": results,
        "seconds": time.monotonic() - started,
    }
    put_replace(out / "result.json", canonical_json(summary))
    return summary


def extract_settings(settings: QuickstartSettings, *, listing: Path, store: Path) -> ExtractSettings:
    """A frame bank of two arrays from one decoding pass: maps of the stride-16 layer and vectors of the last."""
    return ExtractSettings(
        source=str(listing),
        out=str(store),
        file_format=settings.file_format,
        features=(
            FeatureSettings(
                name="map16", backbone=BACKBONE, layer="blocks.4", output="map", input_size=settings.motion.size
            ),
            FeatureSettings(name="pooled", backbone=BACKBONE, output="mean", input_size=settings.motion.size),
        ),
        sampling=SamplingSettings(layout="frames", crop_fraction=1.0),
        runtime=settings.runtime,
    )
