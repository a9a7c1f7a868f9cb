"""SVT's pre-training as a function of its settings: trains a video transformer on videos."""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from featcache.data.hashing import content_hash
from featcache.data.manifest import Manifest
from featcache.errors import WeightsError
from featcache.loaders.ahead import ViewLoader
from featcache.loaders.monitor import NAME as MONITORED
from featcache.loaders.monitor import KnnMonitor, MonitoredVideos, draw_monitored
from featcache.loaders.stand_ins import StandIns
from featcache.loaders.usable import UsableVideos, extraction_of, list_videos, usable_training_videos
from featcache.loaders.views import ClipShape
from featcache.methods.svt.module import build_module, network_input
from featcache.methods.svt.objective import SvtObjective
from featcache.methods.svt.settings import SvtSettings
from featcache.methods.svt.views import SvtViewSource, short_views
from featcache.networks.counting import count_parameters
from featcache.networks.self_distillation import SvtPretraining
from featcache.stages import OnStage, ignore
from featcache.training.collapse import bottleneck_sign
from featcache.training.kept import NetworkFile
from featcache.training.loop import OnEpoch, measure_nothing
from featcache.training.pretrained import PretrainedResult
from featcache.training.runs import cores_of
from featcache.training.seeds import SeedRuns, open_runs
from featcache.training.watching import watch_collapse
from featcache.training.world import ALONE, World, join_world

log = logging.getLogger(__name__)

TEACHER = "teacher.safetensors"
_REMEDY = "lower training.optimiser.lr or loss.teacher_temperature, or check loss.center_momentum"
_STEM_OF = {"tiny": "svt-tiny", "small": "svt-s", "base": "svt-b"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SvtResult(PretrainedResult):
    """A pre-training run.

    Attributes:
        backbone: Name of the backbone for extraction with its weights.
        weights: The teacher's file of each seed.
    """

    title = "video transformer, last epoch"
    columns: ClassVar[Mapping[str, str]] = {
        "loss": "loss",
        "entropy": "entropy",
        "mean_entropy": "of the mean",
        "feature_deviation": "deviation",
        "rank": "rank",
        MONITORED: "kNN",
        "items_per_second": "videos/s",
        "wait_share": "wait",
    }
    dropped = "head"

    backbone: str
    weights: Mapping[int, str]


def pretrain_svt(settings: SvtSettings, *, on_stage: OnStage = ignore) -> SvtResult:
    """Train a TimeSformer without labels, once per seed; unfinished runs are resumed, finished ones kept.

    The teacher of a seed is written to ``seed-N/teacher.safetensors``, a weights file of the backbones ``svt-…``.

    Processes started by torchrun share each batch: the run is the same for any number of them, up to rounding and the
    draws of stochastic depth, and may be resumed with another number. The first process lists the videos, writes files
    and calls ``on_stage``.

    Args:
        settings: Settings of the run.
        on_stage: Called with the stage ``scan``, then with ``seed N`` after each step.

    Raises:
        ConfigError: There are fewer videos than the batch size, or the processes cannot share a batch equally.
        DivergedError: The loss is not finite; the last checkpoint is kept.
        ManifestError: There are no usable videos.
        StoppedError: Another process has raised an error.
        UnknownNameError: There is no such split.
        VideoError: A video is missing or has changed since it was scanned, or too many cannot be decoded.
        WeightsError: Initial weights do not exist, cannot be read, or have another size.
    """
    with join_world() as world:
        return _pretrain(settings, world, on_stage=on_stage)


def _pretrain(settings: SvtSettings, world: World, *, on_stage: OnStage) -> SvtResult:
    runs = open_runs(
        settings,
        settings.training,
        name="svt",
        of=settings.videos_name,
        out=settings.out,
        items="videos",
        network=TEACHER,
        world=world,
        on_stage=on_stage,
    )
    world.from_first(lambda: check_weights(settings))
    manifest = list_videos(settings, folder=runs.folder, world=world, on_stage=on_stage)
    files, num_left_out = _usable(manifest, settings, world=world)
    monitored = draw_monitored(manifest, settings, settings.monitor)
    workers = cores_of(world) if settings.workers is None else settings.workers
    contents = {"videos": files.content}
    if settings.init.weights is not None:
        contents["init.weights"] = content_hash(Path(settings.init.weights).expanduser())
    backbone = _STEM_OF[settings.size]
    for seed in settings.training.seeds:
        module = build_module(settings, seed=seed).to(runs.device)
        identity = runs.identity(seed, contents)
        stand_ins = StandIns(files, seed=seed, skips=runs.skips(seed, files.videos, settings.max_damaged))
        source = SvtViewSource(settings.views, seed=seed)
        with ViewLoader(source, files, workers=workers, stand_ins=stand_ins) as loader:
            runs.train(
                SvtObjective(loader, settings, module=module, seed=seed, world=world),
                seed=seed,
                identity=identity,
                facts={"method": "svt", "size": settings.size},
                frozen_epochs={"student.head.last_layer.": settings.head.frozen_epochs},
                network=NetworkFile(
                    child="teacher.backbone",
                    facts={
                        "backbone": backbone,
                        "network": dataclasses.asdict(module.teacher.backbone.config),
                        "recipe": dict(identity.values),
                    },
                ),
                on_epoch=_monitor(monitored, settings, runs, module, workers=workers),
                on_step=watch_collapse(runs, seed, num_prototypes=settings.head.prototypes, remedy=_REMEDY),
            )
        if world.is_first and (sign := bottleneck_sign(runs.lines[seed], workers=workers)):
            log.warning("%s", sign)
    num_parameters = count_parameters(module.student.backbone)
    return runs.finish(
        SvtResult(
            folder=str(runs.folder),
            backbone=backbone,
            num_videos=len(files.videos),
            num_left_out=num_left_out,
            replaced=runs.replaced,
            num_parameters=num_parameters,
            num_head_parameters=count_parameters(module.student) - num_parameters,
            weights=runs.weights,
            seeds=runs.lines,
            next_command=extraction_of(settings, backbone=backbone, weights=next(iter(runs.weights.values()))),
        )
    )


def check_weights(settings: SvtSettings) -> None:
    """Check that the initial weights are a file, before videos are listed, which takes long.

    Raises:
        WeightsError: There is no such file.
    """
    weights = settings.init.weights
    if weights is not None and not Path(weights).expanduser().is_file():
        raise WeightsError(f"init.weights {weights!r} is not a file; give the path of one, or set init.start to random")


def open_videos(settings: SvtSettings, *, on_stage: OnStage = ignore) -> UsableVideos:
    """List the training videos and log how many are unusable and left out, and how many repeat frames.

    Args:
        settings: Settings of the run.
        on_stage: Called with the stage ``scan``.

    Raises:
        ManifestError: No video is usable, or a file of a manifest does not exist any more.
        UnknownNameError: There is no such split.
    """
    return _usable(list_videos(settings, on_stage=on_stage), settings, world=ALONE)


def _usable(manifest: Manifest, settings: SvtSettings, *, world: World) -> UsableVideos:
    usable = usable_training_videos(manifest, settings, world=world)
    num_short = sum(bool(short_views(settings.views, video)) for video in usable.files.videos)
    if num_short and world.is_first:
        log.warning(
            "%d of %d videos are shorter than some of their views, which repeat frames; lower views.local_frames, or "
            "raise views.local_time",
            num_short,
            len(usable.files.videos),
        )
    return usable


def _monitor(
    videos: MonitoredVideos | None, settings: SvtSettings, runs: SeedRuns, module: SvtPretraining, *, workers: int
) -> OnEpoch:
    """The teacher's class tokens of clips like the first global view, or nothing if the monitor is off."""
    if videos is None:
        return measure_nothing
    teacher = module.teacher.backbone
    return KnnMonitor(
        videos=videos,
        settings=settings.monitor,
        runs=runs,
        module=teacher,
        encode=lambda clips: teacher(network_input(clips)),
        shape=ClipShape(settings.views.global_frames[0], settings.views.global_size),
        width=teacher.config.width,
        workers=workers,
    )
