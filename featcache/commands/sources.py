"""The videos of a pipeline as they were scanned, and other videos to pre-train on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from featcache.commands.pipeline import PipelineRun, make_videos
from featcache.commands.scan import ScanSettings, scan
from featcache.commands.sweeps import slug
from featcache.config import Settings
from featcache.data.motion import MotionSettings, remove_motion_set
from featcache.data.selection import Selection
from featcache.errors import ConfigError


class OtherSource(Settings):
    """Other videos to pre-train on, so that the table is one of sources and tasks."""

    source: str | None = None
    """A folder of videos or a listing; null: another motion set, which is made and deleted."""
    selection: Selection = Selection()
    """Which column holds the split, and which of the listed videos are used."""
    motion: MotionSettings = MotionSettings()
    """The clips to make if no source is given."""
    tasks: tuple[str, ...] = Field(min_length=1)
    """Names of the tasks to train on them."""


def check_lengths(name: str, source: str | None, motion: MotionSettings, least: Mapping[str, int]) -> None:
    """Check that a motion set, if one is made, is long enough for all tasks.

    Args:
        name: Name of the setting of the motion set.
        source: The videos; ``None``: the motion set.
        motion: Settings of the motion set.
        least: Number of frames that each task needs, by its name.

    Raises:
        ConfigError: It is too short; names the task that needs most.
    """
    longest = max(least, key=least.__getitem__)
    if source is None and motion.num_frames < least[longest]:
        raise ConfigError(
            f"{name}.num_frames is {motion.num_frames}, and {longest} needs videos of {least[longest]} frames "
            f"or more; set {name}.num_frames={least[longest]}"
        )


def scanned(steps: PipelineRun, videos: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """Scan videos into a manifest, so that no step opens them again to know how long they are.

    Args:
        steps: The pipeline.
        videos: Source and selection, by the names of their settings.
        name: Name of the manifest in the folder of the pipeline, without its ending.

    Returns:
        Source and selection of the manifest.
    """
    listing = ScanSettings.model_validate({**videos, "out": steps.folder(f"{name}.parquet")})
    scan(listing, on_stage=steps.on_stage)
    return {"source": listing.out, "selection": Selection()}


def other_videos(steps: PipelineRun, other: OtherSource, *, name: str) -> dict[str, Any]:
    """Source and selection of other videos, which are scanned, and made if there are none.

    Args:
        steps: The pipeline.
        other: The other videos.
        name: Their name in the table.
    """
    source = other.source or make_videos(_folder(steps, name), other.motion, on_stage=steps.on_stage)
    return scanned(steps, {"source": source, "selection": other.selection}, name=f"videos-{slug(name)}")


def remove_other(steps: PipelineRun, other: OtherSource, *, name: str) -> None:
    """Remove another motion set, unless videos are to be kept; a source that was given is left alone."""
    if other.source is None and not steps.settings.keep_videos:
        remove_motion_set(_folder(steps, name), other.motion)


def too_short(num_short: int, num_videos: int) -> str:
    """How many videos a training has left out because they are too short, in words; nothing if none.

    Args:
        num_short: Number of those videos.
        num_videos: Number of the others.
    """
    return f"{num_short} of {num_short + num_videos} videos too short" if num_short else ""


def _folder(steps: PipelineRun, name: str) -> Path:
    return Path(steps.folder(f"videos-{slug(name)}"))
