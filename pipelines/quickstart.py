"""All steps in one script: make clips, extract features once, delete the clips, probe the store, train on it.

Run it as ``featcache quickstart`` or ``featcache run configs/quickstart.yaml``.
"""

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any, Literal

from featcache.commands.extract import extract
from featcache.commands.pipeline import PipelineResult
from featcache.commands.registry import load
from featcache.config import Settings, to_yaml
from featcache.data.motion import MOTIONS, PHOTOGRAPHS, MotionSettings, make_motion_set, remove_motion_set
from featcache.errors import ConfigError
from featcache.evaluation.settings import KnnSettings, LinearSettings
from featcache.extract.settings import ExtractSettings, FeatureSettings, FileFormat, RuntimeSettings, SamplingSettings
from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json
from featcache.loaders.settings import BankSettings
from featcache.methods.advise.settings import TmmFineTuneSettings
from featcache.metrics.settings import IntervalSettings
from featcache.networks.settings import TmmSettings
from featcache.stages import OnStage, ignore, renamed
from featcache.store.reader import open_store
from featcache.summary import Summary, SummaryTable, percent
from featcache.training.settings import OptimiserSettings, ScheduleSettings, TrainingSettings
from featcache.units import duration

BACKBONE = "timm/tf_efficientnet_lite0"


class QuickstartSettings(Settings):
    """Settings of ``featcache quickstart``."""

    command: Literal["quickstart"] = "quickstart"
    """The command this file repeats."""
    out: str = "quickstart"
    """Folder for the store, the results and, while they are needed, the clips."""
    motion: MotionSettings = MotionSettings()
    """The clips to make."""
    file_format: FileFormat = "zarr"
    """Shard files: ``zarr`` or ``hdf5``."""
    runtime: RuntimeSettings = RuntimeSettings()
    """How the machine is used."""
    knn: KnnSettings = KnnSettings()
    """Settings of the kNN probe."""
    linear: LinearSettings = LinearSettings()
    """Settings of the linear probe."""
    intervals: IntervalSettings = IntervalSettings()
    """How intervals are drawn."""
    tmm: TmmSettings = TmmSettings(hidden=64, out=128, num_blocks=2, temporal_kernel=3, head_hidden=128)
    """The temporal module that learns motion from the stored maps; averaged features stand beside it."""
    tmm_training: TrainingSettings = TrainingSettings(
        epochs=30,
        optimiser=OptimiserSettings(weight_decay=1.0),
        schedule=ScheduleSettings(warmup_fraction=2 / 30),
        tensorboard=False,
    )
    """Training of the temporal module."""
    keep_videos: bool = False
    """Keep the clips instead of deleting them before the probes."""


def run(settings: QuickstartSettings, *, on_stage: OnStage = ignore) -> PipelineResult:
    """Make the motion set, extract, delete the clips, probe both labels.

    A second run in the same folder makes the same clips, finds their features in the store, and probes again; a run
    that was killed is resumed where it stopped.

    Args:
        settings: Settings of the pipeline.
        on_stage: Called with each stage.

    Returns:
        One row for each label, feature, probe and split; they are in ``result.json`` too.

    Raises:
        ConfigError: The folder holds something else.
    """
    from featcache.evaluation.reading import read_data
    from featcache.evaluation.run import run_probe

    started = time.monotonic()
    out = Path(settings.out)
    videos, store = out / "videos", out / "store"
    check_former_run(out, settings)
    remove_motion_set(videos, settings.motion)  # what a killed run left
    put_replace(out / "config.yaml", to_yaml(settings).encode())

    listing = make_motion_set(videos, settings.motion, progress=lambda done, total: on_stage("clips", done, total))

    extraction = extract(
        extract_settings(settings, listing=listing, store=store),
        on_stage=on_stage,
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
    found = {
        "store": str(store),
        "num_videos": extraction.videos_total,
        "num_rows": extraction.rows_total,
        "extract": extraction.to_dict(),
        "results": results,
        "seconds": time.monotonic() - started,
    }
    put_replace(out / "result.json", canonical_json(found))
    return PipelineResult(found=found, shown=summary_of(found, are_clips_kept=settings.keep_videos))


def summary_of(found: dict[str, Any], *, are_clips_kept: bool) -> Summary:
    """The summary to print."""
    rows = tuple(
        (
            *(row[name] for name in ("label", "feature", "probe", "split")),
            percent(**row["top1"]),
            f"{100 * row['chance']:.1f}",
            f"{row['coverage']['ok']}/{row['coverage']['total']}",
        )
        for row in found["results"]
    )
    title = "top-1 accuracy in percent [95 % interval]"
    columns = ("label", "feature", "probe", "split", "top-1", "chance", "coverage")
    return Summary(
        tables=(SummaryTable(title=title, columns=columns, rows=rows, num_text=4),),
        lines=(
            "Averaged frames know the picture, not the motion; a temporal module on the stored maps learns it.",
            f"{found['num_videos']} videos, {found['num_rows']} rows, {duration(found['seconds'])}; "
            f"store: {found['store']}; the clips are {'kept' if are_clips_kept else 'deleted'}.",
        ),
    )


def temporal_results(
    settings: QuickstartSettings, *, store: Path, out: Path, on_stage: OnStage
) -> list[dict[str, Any]]:
    """Motion from the maps: a head on averaged frames, and a temporal module that sees their order."""
    from featcache.methods.advise.tmm import run_temporal

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
