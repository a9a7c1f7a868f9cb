"""The videos of a command that trains on videos: lists them, selects a split, and keeps the usable ones."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from featcache.data.listing import is_scanned, read_videos
from featcache.data.manifest import Manifest, read_parquet
from featcache.data.notices import warn
from featcache.data.selection import TrainingVideosSettings, VideosSettings
from featcache.data.types import VideoRecord
from featcache.errors import ConfigError, ManifestError, unknown_name
from featcache.loaders.videos import VideoFiles, find_files
from featcache.machine import num_cores
from featcache.stages import OnStage, ignore
from featcache.training.world import ALONE, World

log = logging.getLogger(__name__)


KEPT = "videos.parquet"
"""Name of the file in a run's folder that keeps the scan of its videos."""


class UsableVideos(NamedTuple):
    """The usable videos of a list.

    Attributes:
        files: Files of the usable videos, by number.
        num_left_out: Number of videos that cannot be used.
    """

    files: VideoFiles
    num_left_out: int


def list_videos(
    settings: VideosSettings, *, folder: Path | None = None, world: World = ALONE, on_stage: OnStage = ignore
) -> Manifest:
    """List and scan the source that settings name; see :func:`featcache.data.listing.read_videos`.

    Of several processes the first one lists; the others read what it has found.

    Args:
        settings: Where videos come from.
        folder: Folder of the run, which keeps the scan: the next start opens only files that are new or have changed.
            ``None``: nothing is kept.
        world: The processes that share the run, and its folder.
        on_stage: Called with the stage ``scan``, files listed and files in total.

    Raises:
        ConfigError: A process does not find the folder.
        ManifestError: There are no videos, or the folder of a manifest does not exist any more.
        StoppedError: In the other processes, when the first raises an error.
    """
    assert folder is not None or world.size == 1, "processes share a run's folder"
    kept = None if folder is None else folder / KEPT

    def read() -> Manifest:
        return read_videos(
            source=settings.source,
            dataset=settings.dataset,
            root=settings.root,
            selection=settings.selection,
            decoder=settings.decoder,
            deadline_seconds=settings.deadline_seconds,
            max_gigapixels=settings.max_gigapixels,
            num_workers=num_cores(),
            kept=kept,
            on_scan=lambda done, total: on_stage("scan", done, total),
        )

    found: list[Manifest] = []
    world.from_first(lambda: found.append(read()))  # a manifest can have hundreds of megabytes, and is not sent
    if found:
        warn(found[0])
        return found[0]
    if is_scanned(settings.source):
        return read()
    assert kept is not None, "processes share a run's folder"
    return listed_by_first(kept, world=world)


def listed_by_first(kept: Path, *, world: World) -> Manifest:
    """What the first process has scanned, in another one.

    Args:
        kept: The file in which the first keeps its scan.
        world: The processes that share the run, and its folder.

    Raises:
        ConfigError: There is no such file.
    """
    if not kept.exists():
        raise ConfigError(
            f"process {world.rank} does not find {kept}, which the first has written; put the run on a disk that all "
            "machines share"
        )
    return read_parquet(kept)


def of_split(videos: Sequence[VideoRecord], split: str) -> list[VideoRecord]:
    """The videos of a split, or all videos if there are no splits.

    Raises:
        UnknownNameError: There are splits, but not this one.
    """
    splits = {video.split for video in videos} - {""}
    if splits and split not in splits:
        raise unknown_name("split", split, splits)
    return [video for video in videos if not splits or video.split == split]


def open_usable(videos: Sequence[VideoRecord], *, root: str, decoder: str, world: World = ALONE) -> UsableVideos:
    """The files of the usable videos; the number of unusable ones is logged in the first process.

    Args:
        videos: One or more videos.
        root: Root of their manifest.
        decoder: Name of a registered decoder.
        world: The processes that share the run.

    Raises:
        ManifestError: No video is usable, or a file of a manifest does not exist any more.
    """
    usable = [video for video in videos if video.status == "ok"]
    if not usable:
        raise ManifestError(f"none of {len(videos)} videos can be used, e.g. {videos[0].id!r} ({videos[0].reason})")
    num_left_out = len(videos) - len(usable)
    if num_left_out and world.is_first:
        log.warning("%d of %d videos cannot be used; `featcache scan` says why", num_left_out, len(videos))
    return UsableVideos(find_files(usable, [Path(root)], decoder=decoder, hint="scan the videos again"), num_left_out)


def training_videos(
    settings: TrainingVideosSettings,
    *,
    folder: Path | None = None,
    world: World = ALONE,
    on_stage: OnStage = ignore,
) -> UsableVideos:
    """The usable training videos of a source; the number of unusable ones is logged.

    Args:
        settings: Where videos come from, and the split to train on.
        folder: As in :func:`list_videos`.
        world: As in :func:`list_videos`.
        on_stage: As in :func:`list_videos`.

    Raises:
        ManifestError: No video is usable, or a file of a manifest does not exist any more.
        UnknownNameError: There is no such split.
    """
    manifest = list_videos(settings, folder=folder, world=world, on_stage=on_stage)
    return usable_training_videos(manifest, settings, world=world)


def usable_training_videos(
    manifest: Manifest, settings: TrainingVideosSettings, *, world: World = ALONE
) -> UsableVideos:
    """As :func:`training_videos`, of videos that are listed already."""
    videos = of_split(manifest.videos, settings.train_split)
    return open_usable(videos, root=manifest.root, decoder=settings.decoder, world=world)


def extraction_of(settings: VideosSettings, *, backbone: str, weights: str) -> str:
    """The command that extracts features of the same videos with trained weights.

    Args:
        settings: Source of the videos.
        backbone: Registry name of the backbone.
        weights: File of its weights.
    """
    where = settings.source if settings.dataset is None else f"--dataset {settings.dataset} --root {settings.root}"
    return f"featcache extract {where} --backbone {backbone} --weights {weights}"
