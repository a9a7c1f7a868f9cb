"""Pre-trains a backbone on a pretext task, from unlabelled videos, as a function of its settings."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from featcache.backbones import build_backbone
from featcache.backbones.registry import check_name
from featcache.backbones.trainable import check_names, clip_feature, clip_length, has_unused, weights_at_hand
from featcache.errors import ManifestError
from featcache.loaders.ahead import ViewLoader
from featcache.loaders.monitor import KnnMonitor, MonitoredVideos, draw_monitored
from featcache.loaders.sample import measure_source
from featcache.loaders.stand_ins import StandIns
from featcache.loaders.usable import extraction_of, list_videos, training_videos, usable_training_videos
from featcache.loaders.videos import VideoFiles
from featcache.loaders.views import ClipShape
from featcache.methods.pretext.cost import cost_of
from featcache.methods.pretext.module import PretextModule
from featcache.methods.pretext.objective import DrawnViews, PretextObjective
from featcache.methods.pretext.settings import PretextSettings
from featcache.methods.pretext.task import PretextTask
from featcache.networks.counting import count_parameters, count_trained
from featcache.stages import OnStage, ignore
from featcache.summary import Summary, counted
from featcache.training.collapse import bottleneck_sign
from featcache.training.cost import GIGA
from featcache.training.generators import seeded_torch
from featcache.training.kept import NetworkFile
from featcache.training.loop import OnEpoch, measure_nothing
from featcache.training.plan import TrainingPlan, forecast, step_cost
from featcache.training.pretrained import PretrainedResult
from featcache.training.runs import cores_of
from featcache.training.seeds import SeedRuns, last_epochs, open_runs
from featcache.training.shared_norm import share_batch_norms
from featcache.training.world import ALONE, World, join_world

log = logging.getLogger(__name__)

WEIGHTS = "backbone.safetensors"
_OF_THE_LOOP = ("step", "epoch", "lr", "peak_memory_bytes")
_SHOWN = {"items_per_second": "videos/s", "wait_share": "wait"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PretextResult(PretrainedResult):
    """A pre-training run.

    Attributes:
        task: Name of the task.
        backbone: Registry name of the backbone for extraction with ``weights``.
        num_short: Number of usable videos that are left out because they are too short for the task.
        chance: Accuracy of a guess; ``None``: the task has no answers to guess.
        weights: File with the network's weights, by seed.
    """

    task: str
    backbone: str
    num_short: int
    chance: float | None
    weights: Mapping[int, str]

    def summary(self) -> Summary:
        """The last epoch of each seed, with all metrics that the task logs."""
        names = [name for name in next(iter(self.seeds.values())) if name not in _OF_THE_LOOP]
        columns = {name: _SHOWN.get(name, name) for name in names}
        table = last_epochs(f"{self.task}, last epoch", self.seeds, columns)
        facts = self.facts() | ({"too short": counted(self.num_short, "video")} if self.num_short else {})
        if self.chance is not None:
            facts["a guess is right in"] = f"{self.chance:.1%}"
        return Summary(tables=(table,), facts=facts, next_command=self.next_command)


@dataclass(frozen=True, slots=True, kw_only=True)
class PretextPlan(TrainingPlan):
    """Plan of a run.

    Attributes:
        task: Name of the task.
        num_short: Number of usable videos that are too short for the task.
        num_clips: Number of clips per video and step that pass the network or the key network.
        num_head_parameters: Number of parameters of the heads.
        head_macs: Multiply-accumulates of the heads and the loss per video, in one forward pass.
    """

    task: str
    num_short: int
    num_clips: int
    num_head_parameters: int
    head_macs: int

    def summary(self) -> Summary:
        """The plan in words."""
        facts: dict[str, object] = {"task": self.task}
        facts["train"] = f"{self.num_train} videos, clips of each: {self.num_clips}"
        if self.num_short:
            facts["too short"] = counted(self.num_short, "video")
        facts["heads"] = f"{self.num_head_parameters:,} parameters, {self.head_macs / GIGA:.3g} GMACs per video"
        return self.summary_of(facts)


def pretrain(settings: PretextSettings, *, on_stage: OnStage = ignore) -> PretextResult:
    """Train a backbone on a pretext task with every seed.

    Unfinished runs are resumed, finished ones kept. The network of a seed is written to
    ``seed-N/backbone.safetensors``, a weights file for the backbone's name.

    Processes started by torchrun share each batch: the run is the same for any number of them, up to rounding and the
    draws of dropout and stochastic depth, and may be resumed with another number. BatchNorms then take the statistics
    of whole batches. The first process lists the videos, writes files and calls ``on_stage``.

    Args:
        settings: Settings of the run.
        on_stage: Called with the stage ``scan``, then with ``seed N`` after each step.

    Raises:
        ConfigError: The backbone cannot take such clips or lets no gradient through, there are fewer videos than the
            batch size, or the processes cannot share a batch or a BatchNorm.
        DivergedError: The loss is not finite; the last checkpoint is kept.
        ManifestError: There are no usable videos, or none that is long enough.
        StoppedError: Another process has raised an error.
        UnknownNameError: There is no such backbone, layer or split.
        VideoError: A video is missing or has changed since it was scanned, or too many cannot be decoded.
        WeightsError: The weights cannot be found, or belong to another network.
    """
    with join_world() as world:
        return _pretrain(settings, world, on_stage=on_stage)


def _pretrain(settings: PretextSettings, world: World, *, on_stage: OnStage) -> PretextResult:
    training, task = settings.training, settings.task
    runs = open_runs(
        settings,
        training,
        name=task.name,
        of=settings.videos_name,
        out=settings.out,
        items="videos",
        network=WEIGHTS,
        world=world,
        on_stage=on_stage,
    )
    check_names(settings.backbone, settings.weights)
    manifest = list_videos(settings, folder=runs.folder, world=world, on_stage=on_stage)
    usable = usable_training_videos(manifest, settings, world=world)
    monitored = draw_monitored(manifest, settings, settings.monitor)
    workers = cores_of(world) if settings.workers is None else settings.workers
    for seed in training.seeds:
        module = build_module(settings, seed=seed, device=runs.device, world=world)
        share_batch_norms(module, world)
        files, num_short = long_enough(usable.files, task, module.shape)
        identity = runs.identity(seed, {"videos": files.content, "weights": module.recipe.weights_hash})
        stand_ins = StandIns(files, seed=seed, skips=runs.skips(seed, files.videos, settings.max_damaged))
        source = DrawnViews(task, module.shape, seed=seed)
        with ViewLoader(source, files, workers=workers, stand_ins=stand_ins) as loader:
            runs.train(
                PretextObjective(
                    loader, task, module=module, batch_size=training.batch_size, num_epochs=training.epochs, seed=seed
                ),
                seed=seed,
                has_unused=world.size > 1 and has_unused(module, reads_map=task.reads == "map"),
                identity=identity,
                facts={"method": "pretext", "task": task.name, "backbone": settings.backbone},
                network=NetworkFile(
                    child="network",
                    facts={"backbone": settings.backbone, "recipe": dict(identity.values)},
                ),
                on_epoch=_monitor(monitored, settings, runs, module, workers=workers),
            )
        if world.is_first and (sign := bottleneck_sign(runs.lines[seed], workers=workers)):
            log.warning("%s", sign)
    return runs.finish(
        PretextResult(
            folder=str(runs.folder),
            task=task.name,
            backbone=settings.backbone,
            num_videos=len(files.videos),
            num_left_out=usable.num_left_out,
            replaced=runs.replaced,
            num_short=num_short,
            chance=task.chance,
            num_parameters=count_parameters(module.network),
            num_head_parameters=count_parameters(module.heads),
            weights=runs.weights,
            seeds=runs.lines,
            next_command=extraction_of(settings, backbone=settings.backbone, weights=runs.weights[training.seeds[0]]),
        )
    )


def plan_pretext(settings: PretextSettings, *, on_stage: OnStage = ignore) -> PretextPlan:
    """Scan the videos, decode some, build the network, and return the plan of a run.

    Nothing is written or downloaded; weights that are not at hand are named, and random ones take their place.

    Args:
        settings: Settings of the run.
        on_stage: Called with the stages ``scan`` and ``decode``.

    Raises:
        FeatcacheError: Those errors of :func:`pretrain` that occur before training, but for missing weights.
    """
    training, task = settings.training, settings.task
    check_name(settings.backbone)
    usable = training_videos(settings, on_stage=on_stage)
    weights, missing = weights_at_hand(settings.backbone, settings.weights)
    module = build_module(settings.model_copy(update={"weights": weights}), seed=training.seeds[0])
    files, num_short = long_enough(usable.files, task, module.shape)
    source = DrawnViews(task, module.shape, seed=training.seeds[0])
    objective = PretextObjective(
        ViewLoader(source, files, workers=0),
        task,
        module=module,
        batch_size=training.batch_size,
        num_epochs=training.epochs,
        seed=training.seeds[0],
    )
    cost = cost_of(task, module, source.draw(files.videos[0], epoch=0))
    return PretextPlan(
        task=task.name,
        num_train=len(files.videos),
        num_left_out=usable.num_left_out,
        num_short=num_short,
        num_clips=cost.num_clips,
        clip=(module.shape.num_frames, module.shape.size, module.shape.size),
        num_parameters=count_parameters(module.network),
        num_trained=count_trained(module),
        num_head_parameters=count_parameters(module.heads),
        head_macs=cost.head_macs,
        num_steps=training.epochs * training.steps_an_epoch(objective.num_batches),
        num_seeds=len(training.seeds),
        forecast=forecast(
            training,
            num_videos=len(files.videos),
            cost=step_cost(
                module,
                training,
                kept=module.network,
                trained_macs=cost.trained_macs,
                frozen_macs=cost.frozen_macs,
            ),
            decoding=measure_source(source, files, on_stage=on_stage),
            out=settings.out,
            missing=missing,
        ),
    )


def long_enough(files: VideoFiles, task: PretextTask, shape: ClipShape) -> tuple[VideoFiles, int]:
    """The videos that are long enough for a task, and the number of those that are not.

    Raises:
        ManifestError: None is.
    """
    least = task.min_frames(shape)
    kept = files.only(lambda video: video.num_frames >= least)
    num_short = len(files.videos) - len(kept.videos)
    if not kept.videos:
        raise ManifestError(
            f"all {num_short} usable videos are shorter than the {least} frames that the task {task.name!r} needs; "
            "give longer ones, or lower num_frames or the task's strides"
        )
    return kept, num_short


def build_module(
    settings: PretextSettings, *, seed: int, device: torch.device | str = "cpu", world: World = ALONE
) -> PretextModule:
    """The initial backbone and heads of a run with this seed.

    Args:
        settings: Backbone, weights and task.
        seed: Seed of the heads.
        device: Device of the module.
        world: The processes that share each batch.

    Raises:
        ConfigError: The backbone cannot take such clips.
        UnknownNameError: There is no such backbone or layer.
        WeightsError: The weights cannot be found or do not fit.
    """
    backbone = build_backbone(settings.backbone, weights=settings.weights)
    num_frames = clip_length(backbone, settings.num_frames)
    recipe = clip_feature(
        backbone, settings.backbone, num_frames=num_frames, layer=settings.layer, input_size=settings.input_size
    )
    task = settings.task
    follower = None if task.follows is None else build_backbone(settings.backbone, weights=settings.weights)
    with seeded_torch(seed, "pretext"):
        module = PretextModule(
            backbone,
            recipe,
            num_frames=num_frames,
            heads=task.heads,
            reads=task.reads,
            queues=task.queues,
            follower=follower,
            world=world,
        )
    return module.placed(device)


def _monitor(
    videos: MonitoredVideos | None, settings: PretextSettings, runs: SeedRuns, module: PretextModule, *, workers: int
) -> OnEpoch:
    """The vectors that the heads read, or nothing if the monitor is off."""
    if videos is None:
        return measure_nothing
    return KnnMonitor(
        videos=videos,
        settings=settings.monitor,
        runs=runs,
        module=module,
        encode=module.features,
        shape=module.shape,
        width=module.width,
        workers=workers,
    )
