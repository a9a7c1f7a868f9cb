"""Pre-training on the playback rate as a function of its settings: a temporal module on stored maps, or an R3D-50.

The R3D-50 is the end-to-end baseline of AdViSe's cost table: the same pretext on pixels, with a network that is trained
whole. Differs from the paper: as :mod:`featcache.methods.advise.playback`, but its crops and colours are new for every
clip.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from featcache.loaders.bank import ClipSource
from featcache.loaders.choice import training_videos, video_splits
from featcache.loaders.fresh import PixelSource
from featcache.loaders.online import open_source
from featcache.loaders.stand_ins import StandIns
from featcache.loaders.unstored import open_videos
from featcache.loaders.usable import KEPT, extraction_of, list_videos, open_usable
from featcache.methods.advise.objective import clip_contents
from featcache.methods.advise.playback import playback_objective
from featcache.methods.advise.settings import AdviseSettings, R3d50Settings
from featcache.networks.counting import count_parameters
from featcache.networks.r3d50 import R3d50
from featcache.networks.slow_r50 import SlowR50Config
from featcache.networks.tmm import TmmClassifier
from featcache.networks.tmm_cost import MEGA, counted_cost
from featcache.stages import OnStage, ignore
from featcache.training.cost import measured_cost
from featcache.training.generators import seeded_torch
from featcache.training.kept import NetworkFile
from featcache.training.pretrained import PretrainedResult
from featcache.training.runs import seed_folder
from featcache.training.seeds import SeedRuns, open_runs
from featcache.training.shared_norm import share_batch_norms
from featcache.training.world import ALONE, World, join_world

WEIGHTS = "backbone.safetensors"
SLOW_R50 = "rho-byol-r50"
"""The registry's name of the Slow R50, whatever trained it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaybackResult(PretrainedResult):
    """A pre-training run; fine-tuning drops the head.

    Attributes:
        cost: Counts of :func:`featcache.networks.tmm_cost.counted_cost` and what ``measured_cost`` says of the runs.
    """

    title = "pretext, last epoch"
    dropped = "head"
    columns: ClassVar[Mapping[str, str]] = {
        "loss": "loss",
        "accuracy": "rate accuracy",
        "items_per_second": "clips/s",
    }

    cost: Mapping[str, float | None]


def pretrain(settings: AdviseSettings, *, on_stage: OnStage = ignore) -> PlaybackResult:
    """Train a temporal module on the playback rate, once per seed; unfinished runs are resumed, finished ones kept.

    Processes started by torchrun share each batch: the run is the same for any number of them, up to rounding and the
    draws of dropout, and may be resumed with another number. BatchNorms then take the statistics of whole batches. The
    first process writes files and calls ``on_stage``.

    Args:
        settings: Settings of the run.
        on_stage: Called with the stage ``scan`` where videos are scanned, then with ``seed N`` after each step.

    Raises:
        ConfigError: The bank is too coarse, the store has none, or the processes cannot share a batch equally.
        NonFiniteFeatureError: Features are not finite.
        StoppedError: Another process has raised an error.
    """
    with join_world() as world:
        return _pretrain(settings, world, on_stage=on_stage)


def _pretrain(settings: AdviseSettings, world: World, *, on_stage: OnStage) -> PlaybackResult:
    where, tmm, clips = settings.bank.store, settings.tmm, settings.clips
    runs = open_runs(
        settings, settings.training, name="advise", of=where, out=settings.out, world=world, on_stage=on_stage
    )
    device = str(runs.device)
    listed = open_videos(settings.bank, device=device, kept=runs.folder / KEPT, world=world, on_stage=on_stage)
    bank = open_source(settings.bank, videos=listed, device=device, world=world)
    height, _, width = bank.shape
    return _trained(
        runs,
        settings,
        bank,
        training_videos(bank.video_ids, video_splits(listed, settings.bank.split_column), settings.bank.train_split),
        build=lambda: TmmClassifier(tmm, width_in=width, grid=height, num_classes=len(clips.rates)),
        facts={"method": "advise", "tmm": dataclasses.asdict(tmm), "width_in": width},
        cost=counted_cost(tmm, shape=bank.shape, num_frames=clips.num_frames, num_classes=len(clips.rates)),
        max_damaged=settings.bank.max_damaged,
        next_command=f"featcache train tmm {where} --init {runs.folder}{' --online' if settings.bank.online else ''}",
    )


def pretrain_r3d50(settings: R3d50Settings, *, on_stage: OnStage = ignore) -> PlaybackResult:
    """Train an R3D-50 on the playback rate, once per seed; unfinished runs are resumed, finished ones kept.

    The network of a seed without its head is written to ``seed-N/backbone.safetensors``. With a ``width`` of 64 it is a
    weights file for the backbone ``rho-byol-r50``.

    Processes started by torchrun share it as they share :func:`pretrain`; the first one lists the videos.

    Args:
        settings: Settings of the run.
        on_stage: Called with the stage ``scan``, then with ``seed N`` after each step.

    Raises:
        ConfigError: The processes cannot share a batch equally.
        ManifestError: There are no usable videos.
        StoppedError: Another process has raised an error.
        VideoError: A video is missing or has changed since it was scanned, or too many cannot be decoded.
        UnknownNameError: There is no such split.
    """
    with join_world() as world:
        return _pretrain_r3d50(settings, world, on_stage=on_stage)


def _pretrain_r3d50(settings: R3d50Settings, world: World, *, on_stage: OnStage) -> PlaybackResult:
    runs = open_runs(
        settings,
        settings.training,
        name="r3d50",
        of=settings.videos_name,
        out=settings.out,
        network=WEIGHTS,
        world=world,
        on_stage=on_stage,
    )
    source, num_left_out = open_pixels(settings, folder=runs.folder, world=world, on_stage=on_stage)
    splits = {video.id: video.split for video in source.videos if video.split}
    num_classes = len(settings.clips.rates)
    is_as_published = settings.width == SlowR50Config().width
    weights = seed_folder(runs.folder, settings.training.seeds[0]) / WEIGHTS
    return _trained(
        runs,
        settings,
        source,
        training_videos(source.video_ids, splits, settings.train_split),
        build=lambda: R3d50(
            num_classes=num_classes,
            width=settings.width,
            head_hidden=settings.head_hidden,
            dropout=settings.dropout,
        ),
        facts={"method": "r3d50", "width": settings.width, "num_classes": num_classes},
        cost={},
        max_damaged=settings.max_damaged,
        num_left_out=num_left_out,
        next_command=extraction_of(settings, backbone=SLOW_R50, weights=str(weights)) if is_as_published else None,
    )


def open_pixels(
    settings: R3d50Settings, *, folder: Path | None = None, world: World = ALONE, on_stage: OnStage = ignore
) -> tuple[PixelSource, int]:
    """The usable videos of a source as clips of pixels, and the number of those that cannot be used.

    Raises:
        ManifestError: No video is usable, or a file of a manifest does not exist any more.
    """
    manifest = list_videos(settings, folder=folder, world=world, on_stage=on_stage)
    usable = open_usable(manifest.videos, root=manifest.root, decoder=settings.decoder, world=world)
    return PixelSource(usable.files, size=settings.size), usable.num_left_out


def _trained(
    runs: SeedRuns,
    settings: AdviseSettings | R3d50Settings,
    source: ClipSource,
    videos: npt.NDArray[np.int64],
    *,
    build: Callable[[], TmmClassifier | R3d50],
    facts: Mapping[str, Any],
    cost: Mapping[str, float],
    max_damaged: float,
    num_left_out: int = 0,
    next_command: str | None = None,
) -> PlaybackResult:
    """Train a network with every seed, and write the result.

    Args:
        runs: The run.
        settings: Its settings.
        source: Source of the maps, or of the pixels.
        videos: int64 [A], numbers of the training videos.
        build: Makes the network with its head.
        facts: Facts to keep in the checkpoints.
        cost: Counts of the network, beside its parameters.
        max_damaged: Share of the training videos that may turn out not to decode.
        num_left_out: Number of videos that cannot be used.
        next_command: A command that people often run next.
    """
    training, clips = settings.training, settings.clips
    is_stored = isinstance(settings, AdviseSettings)
    for seed in training.seeds:
        with seeded_torch(seed, "tmm" if is_stored else "r3d50"):
            module = build().to(runs.device)
        share_batch_norms(module, runs.world)
        objective = playback_objective(
            source,
            videos,
            clips,
            module=module,
            batch_size=training.batch_size,
            seed=seed,
            stand_ins=StandIns.of(
                source.files, among=videos, seed=seed, skips=runs.skips(seed, videos.tolist(), max_damaged)
            ),
            world=runs.world,
        )
        if is_stored:  # pixels are finite
            objective.check_finite()
        contents = clip_contents(source, videos, name="bank.store" if is_stored else "source")
        runs.train(
            objective,
            seed=seed,
            identity=runs.identity(seed, contents),
            facts=facts,
            network=None if is_stored else NetworkFile(child="network", facts={"backbone": SLOW_R50, **facts}),
        )
    measured = measured_cost(
        list(runs.lines.values()), num_videos=min(training.batch_size, len(videos)), num_clips=clips.num_clips
    )
    num_parameters, num_head_parameters = count_parameters(module), count_parameters(module.head)
    result = PlaybackResult(
        folder=str(runs.folder),
        num_videos=len(videos),
        num_left_out=num_left_out,
        replaced=runs.replaced,
        num_parameters=num_parameters - num_head_parameters,
        num_head_parameters=num_head_parameters,
        seeds=runs.lines,
        cost={"megaparameters": num_parameters / MEGA, **cost, **measured},
        next_command=next_command,
    )
    return runs.finish(result)
