"""All steps in one script: make clips, extract features once, delete the clips, probe the store, train on it.

Run it as ``featcache quickstart`` or ``featcache run configs/quickstart.yaml``.
"""

import dataclasses
from typing import Any, ClassVar, Literal

from featcache.commands.pipeline import (
    DECIDED,
    PROBED,
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
from featcache.data.motion import MOTIONS, PHOTOGRAPHS
from featcache.evaluation.settings import KnnSettings, LinearSettings
from featcache.extract.settings import ExtractSettings, FeatureSettings, SamplingSettings
from featcache.loaders.settings import BankSettings
from featcache.methods.advise.settings import TmmFineTuneSettings
from featcache.networks.settings import TmmSettings
from featcache.stages import OnStage, ignore, renamed
from featcache.store.reader import open_store
from featcache.summary import Summary, SummaryTable, percent
from featcache.training.settings import OptimiserSettings, ScheduleSettings, TrainingSettings
from featcache.units import duration

BACKBONE = "timm/tf_efficientnet_lite0"


class QuickstartSettings(ShippedSettings):
    """Settings of ``featcache quickstart``.

    The pipeline decides the videos, which are those of the motion set, the features, the store and the folder of each
    step, and what is probed: both labels, each in the splits in which it can be known.
    """

    decided: ClassVar[tuple[str, ...]] = (
        "source",
        "selection",
        *keys("probes", *PROBED, "test_splits"),
        *keys("temporal", "bank.store", "bank.feature", "label", "init", "compare_scratch", "out"),
    )

    command: Literal["quickstart"] = "quickstart"
    """The command this file repeats."""
    out: str = "quickstart"
    """Folder for the store, the results and, while they are needed, the clips."""
    extraction: ExtractSettings = extraction_with(SamplingSettings(layout="frames", crop_fraction=1.0))
    """The extraction of the frame bank."""
    probes: ProbeTarget = ProbeTarget(command=DECIDED, store=DECIDED)
    """Settings of all probes; the intervals are those of the temporal module, too."""
    knn: KnnSettings = KnnSettings()
    """Settings of the kNN probe."""
    linear: LinearSettings = LinearSettings()
    """Settings of the linear probe."""
    temporal: TmmFineTuneSettings = TmmFineTuneSettings(
        bank=BankSettings(store=DECIDED),
        tmm=TmmSettings(hidden=64, out=128, num_blocks=2, temporal_kernel=3, head_hidden=128),
        sampler="spread",
        test_clips=1,
        order_test=False,
        training=TrainingSettings(
            epochs=30,
            optimiser=OptimiserSettings(weight_decay=1.0),
            schedule=ScheduleSettings(warmup_fraction=2 / 30),
            tensorboard=False,
        ),
    )
    """The temporal module that learns motion from the stored maps; averaged features stand beside it."""


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
    steps = begin(settings, on_stage=on_stage)
    extraction = steps.extract(features_of(settings))
    steps.remove_videos()

    chances = {"picture": 1 / (len(PHOTOGRAPHS) - settings.motion.num_unseen_pictures), "motion": 1 / len(MOTIONS)}
    # Nothing can be said of photographs that are in no training clip.
    tested = {"picture": ("test_seen",), "motion": ("test_seen", "test_unseen")}
    stored = open_store(steps.store).splits
    asked = {
        f"{probe} of {feature}": Asked(probe, own, feature)
        for feature in extraction.features
        for probe, own in (("knn", settings.knn), ("linear", settings.linear))
    }
    results = []
    for label, splits in tested.items():
        target = settings.probes.model_copy(update={"test_splits": tuple(split for split in splits if split in stored)})
        results += [
            {
                "label": label,
                "feature": asked[name].feature,
                "probe": asked[name].probe,
                "split": split,
                "top1": numbers["metrics"]["top1"],
                "chance": chances[label],
                "coverage": numbers["coverage"],
            }
            for name, result in steps.probe(target, label, asked).items()
            for split, numbers in result["splits"].items()
        ]
    results += temporal_results(settings, steps)
    found = steps.write(
        {
            "num_videos": extraction.videos_total,
            "num_rows": extraction.rows_total,
            "extract": extraction.to_dict(),
            "results": results,
        }
    )
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


def temporal_results(settings: QuickstartSettings, steps: PipelineRun) -> list[dict[str, Any]]:
    """Motion from the maps: a head on averaged frames, and a temporal module that sees their order."""
    from featcache.methods.advise.tmm import run_temporal

    temporal = settings.temporal.tmm or TmmSettings()
    modules = {"averaged": dataclasses.replace(temporal, kind="skip"), "temporal module": temporal}
    bank = {"bank.store": steps.store, "bank.feature": "map16"}
    results = []
    for name, tmm in modules.items():
        own = {"label": "motion", "tmm": tmm, "out": steps.folder(name.replace(" ", "-"))}
        trained = run_temporal(
            decide(settings.temporal, {**bank, **own}),
            intervals=settings.probes.intervals,
            on_stage=renamed(steps.on_stage, name),
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


def features_of(settings: QuickstartSettings) -> list[FeatureSettings]:
    """Two arrays from one decoding pass: maps of the stride-16 layer and vectors of the last."""
    size = settings.motion.size
    return [
        FeatureSettings(name="map16", backbone=BACKBONE, layer="blocks.4", output="map", input_size=size),
        FeatureSettings(name="pooled", backbone=BACKBONE, output="mean", input_size=size),
    ]
