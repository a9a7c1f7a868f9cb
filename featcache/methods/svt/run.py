"""SVT's pre-training as a function of its settings: a video transformer out of videos."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.backbones.weights import write_weights
from featcache.config import to_yaml
from featcache.data.hashing import content_hash
from featcache.data.listing import OnScan
from featcache.data.types import VideoRecord
from featcache.errors import WeightsError
from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json
from featcache.loaders.ahead import ViewLoader
from featcache.loaders.usable import UsableVideos, list_videos, of_split, open_usable
from featcache.methods.svt.module import build_module
from featcache.methods.svt.objective import SvtObjective
from featcache.methods.svt.pixels import SvtViewSource
from featcache.methods.svt.settings import SvtSettings
from featcache.methods.svt.views import short_views
from featcache.networks.counting import count_parameters
from featcache.training.collapse import bottleneck_sign, collapse_sign
from featcache.training.identity import digest, identity_of
from featcache.training.logs import read_log
from featcache.training.loop import Progress, train
from featcache.training.runs import cores_of, prepare_torch, run_folder, seed_folder
from featcache.training.world import World, join_world

log = logging.getLogger(__name__)

OnSeed = Callable[[int, Progress], None]
TEACHER = "teacher.safetensors"
_STEM_OF = {"tiny": "svt-tiny", "small": "svt-s", "base": "svt-b"}


def ignore(seed: int, progress: Progress) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SvtResult:
    """A pre-training run.

    Attributes:
        folder: Where it is.
        backbone: Name under which its weights can be extracted with.
        num_videos: Videos that it learned from.
        num_left_out: Listed videos that cannot be used.
        num_parameters: Of the network, which is kept.
        num_head_parameters: Of the head, which is not.
        weights: The teacher's file of each seed.
        seeds: The last line of each seed's log.
    """

    folder: str
    backbone: str
    num_videos: int
    num_left_out: int
    num_parameters: int
    num_head_parameters: int
    weights: Mapping[int, str]
    seeds: Mapping[int, Mapping[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            **dataclasses.asdict(self),
            "weights": {str(seed): path for seed, path in self.weights.items()},
            "seeds": {str(seed): dict(line) for seed, line in self.seeds.items()},
        }


def pretrain_svt(
    settings: SvtSettings, *, on_scan: OnScan = lambda done, total: None, on_progress: OnSeed = ignore
) -> SvtResult:
    """Train a TimeSformer without labels, once a seed; runs that are there are taken up or left as they are.

    The teacher of a seed is written to ``seed-N/teacher.safetensors``, a weights file of the backbones ``svt-…``.

    Processes that torchrun starts share each batch: the run is the same for any number of them, up to rounding and to
    what stochastic depth draws, and may go on with another number. The first lists the videos, writes and calls back.

    Args:
        settings: Everything that can be chosen.
        on_scan: Called with (files listed, files in all).
        on_progress: Called with the seed and its progress.

    Raises:
        ConfigError: Fewer videos than a batch, or processes that cannot share it equally.
        DivergedError: The loss is not finite; the last checkpoint is kept.
        ManifestError: No usable videos.
        StoppedError: Another process raises what is wrong.
        UnknownNameError: No such split.
        VideoError: A video that cannot be used any more.
        WeightsError: Initial weights that are not there, cannot be read, or are of another size.
    """
    with join_world() as world:
        return _pretrain(settings, world, on_scan=on_scan, on_progress=on_progress)


def _pretrain(settings: SvtSettings, world: World, *, on_scan: OnScan, on_progress: OnSeed) -> SvtResult:
    device = prepare_torch(settings.training, world=world)
    world.from_first(lambda: check_weights(settings))
    files, num_left_out = world.from_first(lambda: open_videos(settings, on_scan=on_scan))
    name = Path(settings.source or settings.dataset or "").stem
    folder = run_folder(settings, out=settings.out, store=name, name="svt")
    workers = cores_of(world) if settings.workers is None else settings.workers
    contents = _contents(settings, files.videos)
    weights, logs = {}, {}
    for seed in settings.training.seeds:
        module = build_module(settings, seed=seed).to(device)
        here = seed_folder(folder, seed)
        with ViewLoader(SvtViewSource(files, settings.views, seed=seed), workers=workers) as loader:
            objective = SvtObjective(loader, settings, module=module, seed=seed, world=world)
            if world.is_first:
                put_replace(folder / "config.yaml", to_yaml(settings).encode())
            train(
                objective,
                settings.training,
                folder=here,
                seed=seed,
                identity=identity_of(settings, inputs=contents, seed=seed),
                facts={"method": "svt", "size": settings.size},
                frozen_epochs={"student.head.last_layer.": settings.head.frozen_epochs},
                world=world,
                on_progress=_watched(on_progress, settings, folder=here, seed=seed),
            )
        logs[seed] = world.from_first(lambda here=here: read_log(here)[-1])  # type: ignore[misc]
        weights[seed] = str(here / TEACHER)
        if world.is_first:
            network = module.teacher.backbone
            facts = {
                "backbone": _STEM_OF[settings.size],
                "network": dataclasses.asdict(network.config),
                "recipe": dict(identity_of(settings, inputs=contents, seed=seed).values),
                "seed": seed,
            }
            write_weights(here / TEACHER, network, facts=facts)
            if sign := bottleneck_sign(logs[seed], workers=workers):
                log.warning("%s", sign)
    num_parameters = count_parameters(module.student.backbone)
    result = SvtResult(
        folder=str(folder),
        backbone=_STEM_OF[settings.size],
        num_videos=len(files.videos),
        num_left_out=num_left_out,
        num_parameters=num_parameters,
        num_head_parameters=count_parameters(module.student) - num_parameters,
        weights=weights,
        seeds=logs,
    )
    if world.is_first:
        put_replace(folder / "result.json", canonical_json(result.to_dict()))
    return result


def check_weights(settings: SvtSettings) -> None:
    """Check that the initial weights are a file, before videos are listed, which takes long.

    Raises:
        WeightsError: They are not.
    """
    weights = settings.init.weights
    if weights is not None and not Path(weights).expanduser().is_file():
        raise WeightsError(f"init.weights {weights!r} is no file; give the path of one, or set init.start to random")


def open_videos(settings: SvtSettings, *, on_scan: OnScan = lambda done, total: None) -> UsableVideos:
    """List the training videos; those that cannot be used are left out, and short ones repeat frames: both are logged.

    Raises:
        ManifestError: None is usable, or a file of a manifest is gone.
        UnknownNameError: No such split.
    """
    manifest = list_videos(settings, on_scan=on_scan)
    videos = of_split(manifest.videos, settings.train_split)
    usable = open_usable(videos, root=manifest.root, decoder=settings.decoder)
    num_short = sum(
        bool(short_views(settings.views, num_frames=video.num_frames, duration_seconds=video.duration_seconds))
        for video in usable.files.videos
    )
    if num_short:
        log.warning(
            "%d of %d videos are shorter than some of their views, which repeat frames; lower views.local_frames, or "
            "raise views.local_time",
            num_short,
            len(usable.files.videos),
        )
    return usable


def _contents(settings: SvtSettings, videos: Sequence[VideoRecord]) -> dict[str, str]:
    """Digests of what a run reads: its videos, and the weights that it starts from."""
    contents = {"videos": digest([[video.id, video.content_hash, video.num_frames] for video in videos])}
    if settings.init.weights is not None:
        contents["init.weights"] = content_hash(Path(settings.init.weights).expanduser())
    return contents


def _watched(on_progress: OnSeed, settings: SvtSettings, *, folder: Path, seed: int) -> Callable[[Progress], None]:
    """Pass progress on, and warn once of collapse when an epoch after the warm-up ends."""
    warned: list[str] = []

    def watch(progress: Progress) -> None:
        on_progress(seed, progress)
        warmup = settings.training.schedule.warmup_fraction * progress.epochs
        if warned or not progress.epoch.is_integer() or progress.epoch <= warmup:
            return
        if sign := collapse_sign(read_log(folder)[-1], num_prototypes=settings.head.prototypes):
            warned.append(sign)
            log.warning(
                "epoch %d of seed %d looks collapsed: %s; lower training.optimiser.lr or loss.teacher_temperature, or "
                "check loss.center_momentum",
                progress.epoch,
                seed,
                sign,
            )

    return watch
