"""AdViSe from videos to figures: extract once, pre-train on playback rate, fine-tune against scratch, test the order.

Run it as ``featcache run configs/advise/motion.yaml``, on videos of one's own with ``--set source=videos/ --set
label=label``.
"""

import time
from pathlib import Path
from typing import Any

from featcache.commands.pipeline import claim_folder, find_videos
from featcache.commands.registry import AdvisePipelineSettings
from featcache.data.motion import remove_motion_set
from featcache.extract.progress import OnProgress
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings
from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json
from featcache.loaders.settings import BankSettings
from featcache.methods.advise.run import pretrain
from featcache.methods.advise.settings import AdviseSettings, TmmFineTuneSettings
from featcache.methods.advise.tmm import TemporalResult, run_temporal
from featcache.report.activation_maps import draw_activation
from featcache.report.figure_settings import ActivationFigureSettings
from featcache.report.plots import write_table
from featcache.report.tables import Cell, Table
from featcache.stages import OnStage, ignore, renamed
from featcache.store.reader import open_store


def run(
    settings: AdvisePipelineSettings,
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
    bank = BankSettings(store=str(out / "store"), feature=extraction.features[0])

    pretext = pretrain(
        AdviseSettings(
            bank=bank, tmm=settings.tmm, clips=settings.clips, training=settings.pretext, out=str(out / "pretext")
        ),
        on_stage=renamed(on_stage, "pretext"),
    )
    tuned = run_temporal(
        TmmFineTuneSettings(
            bank=bank,
            label=settings.label,
            init=pretext.folder,
            compare_scratch=True,
            labels_per_class=settings.labels_per_class,
            sampler=settings.sampler,
            stride=settings.stride,
            test_clips=settings.test_clips,
            training=settings.finetuning,
            out=str(out / "finetuned"),
        ),
        on_stage=renamed(on_stage, "labels"),
    )

    table = order_table(tuned)
    write_table(table, out)
    picture = draw_activation(
        ActivationFigureSettings(
            bank=bank,
            run=tuned.folder,
            video=test_video(out / "store", bank),
            seed=settings.finetuning.seeds[0],
            out=str(out / "activation.png"),
        )
    )
    if settings.source is None and not settings.keep_videos:
        remove_motion_set(out / "videos", settings.motion)
    summary = {
        "store": str(out / "store"),
        "extract": extraction.to_dict(),
        "pretext": pretext.to_dict(),
        "finetuned": tuned.to_dict(),
        "table": table.to_dict(),
        "picture": picture,
        "seconds": time.monotonic() - started,
    }
    put_replace(out / "result.json", canonical_json(summary))
    return summary


def test_video(store: Path, bank: BankSettings) -> str:
    """A video that no module was trained on, or the first of all."""
    with open_store(store).feature(bank.feature) as features:
        ids = features.video_ids
    splits = {video.id: video.split for video in open_store(store).videos.values()}
    return next((name for name in ids if splits[name] not in ("", bank.train_split)), ids[0])


def order_table(result: TemporalResult) -> Table:
    """Top-1 in percent by arm and split, a column an order of frames."""
    rows = tuple(
        (
            f"{arm}, {split}",
            None,
            "",
            {
                order: Cell(value=100 * top1.value, low=100 * top1.low, high=100 * top1.high)
                for order, metrics in orders.items()
                for top1 in [metrics["top1"]]
            },
        )
        for arm, splits in result.metrics.items()
        for split, orders in splits.items()
    )
    return Table(title=f"Top-1 of {result.label!r} by order of frames", columns=tuple(rows[0][3]), rows=rows)
