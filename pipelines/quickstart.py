"""The whole way in one script: make clips, extract features once, delete the clips, probe the store, train on it.

Run it as ``featcache quickstart`` or ``featcache run configs/quickstart.yaml``.
"""

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

from featcache.commands.registry import QuickstartSettings, load
from featcache.config import to_yaml
from featcache.data.motion import MOTIONS, PHOTOGRAPHS, make_motion_set, remove_motion_set
from featcache.errors import ConfigError
from featcache.evaluation.reading import read_data
from featcache.evaluation.run import run_probe
from featcache.extract.progress import OnProgress
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings, FeatureSettings, SamplingSettings
from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json
from featcache.loaders.settings import BankSettings
from featcache.methods.advise.settings import TmmFineTuneSettings
from featcache.methods.advise.tmm import run_temporal
from featcache.stages import OnStage, ignore, renamed
from featcache.store.reader import open_store

BACKBONE = "timm/tf_efficientnet_lite0"


def run(
    settings: QuickstartSettings,
    *,
    on_stage: OnStage = ignore,
    on_progress: OnProgress = lambda progress: None,
) -> dict[str, Any]:
    """Make the motion set, extract, delete the clips, probe both labels.

    A second run in the same folder makes the same clips, finds their features in the store, and probes again; a run
    that was killed is taken up where it stopped.

    Args:
        settings: Everything that can be chosen.
        on_stage: Called with each stage of the way.
        on_progress: Called with the figures of the extraction.

    Returns:
        JSON-ready results: one row a (label, feature, probe, split).

    Raises:
        ConfigError: The folder holds something else.
    """
    started = time.monotonic()
    out = Path(settings.out)
    videos, store = out / "videos", out / "store"
    check_former_run(out, settings)
    remove_motion_set(videos, settings.motion)  # what a killed run left
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
    splits = open_store(store).splits
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
        wanted = ("test_seen",) if label == "picture" else ("test_seen", "test_unseen")
        asked = tuple(split for split in wanted if split in splits)
        result = run_probe(probe, data, own, intervals=settings.intervals, test_splits=asked).to_dict()
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
    results += temporal_results(settings, store=store, out=out, on_stage=on_stage)
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


def temporal_results(
    settings: QuickstartSettings, *, store: Path, out: Path, on_stage: OnStage
) -> list[dict[str, Any]]:
    """Motion from the maps: a head on averaged frames, and a temporal module that sees their order."""
    modules = {"averaged": dataclasses.replace(settings.tmm, kind="skip"), "temporal module": settings.tmm}
    results = []
    for name, tmm in modules.items():
        trained = run_temporal(
            TmmFineTuneSettings(
                bank=BankSettings(store=str(store), feature="map16"),
                label="motion",
                tmm=tmm,
                sampler="spread",
                test_clips=1,
                order_test=False,
                training=settings.tmm_training,
                out=str(out / name.replace(" ", "-")),
            ),
            intervals=settings.intervals,
            on_stage=renamed(on_stage, name),
        )
        results += [
            {
                "label": "motion",
                "feature": "map16",
                "probe": name,
                "split": split,
                "top1": dataclasses.asdict(orders["true"]["top1"]),
                "chance": 1 / len(MOTIONS),
                "coverage": dataclasses.asdict(trained.coverage[split]),
            }
            for split, orders in trained.metrics["scratch"].items()
        ]
    return results


def check_former_run(out: Path, settings: QuickstartSettings) -> None:
    """Refuse a folder that holds anything but a quickstart of the same clips: its store could not be continued."""
    if not (out / "config.yaml").exists():
        return
    former = load(out / "config.yaml")
    if not isinstance(former, QuickstartSettings):
        raise ConfigError(f"{out} holds the results of another command; choose another --out")
    if (former.motion, former.file_format) != (settings.motion, settings.file_format):
        raise ConfigError(f"{out} holds a quickstart with other clips or files; choose another --out, or delete it")


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
