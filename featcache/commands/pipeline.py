"""What shipped pipelines share: a folder of their own, videos to work on, and a result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from featcache.config import Settings, parse, read_mapping, to_dict, to_yaml
from featcache.data.motion import MotionSettings, make_motion_set, remove_motion_set
from featcache.errors import ConfigError
from featcache.files.publish import put_replace
from featcache.stages import OnStage
from featcache.summary import Summary

T = TypeVar("T", bound=Settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineResult:
    """What a pipeline found.

    Attributes:
        found: JSON-ready results of its steps, as in ``result.json``.
        shown: What to show of them.
    """

    found: dict[str, Any]
    shown: Summary

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return self.found

    def summary(self) -> Summary:
        """What to show of it."""
        return self.shown


def repeated(kind: type[T], settings: Settings, *, own: Mapping[str, Any]) -> T:
    """The settings of a command that a pipeline repeats: what the pipeline has under the same name, and its own.

    Args:
        kind: Settings of the command.
        settings: Of the pipeline.
        own: What the pipeline decides by itself, by name.
    """
    shared = (type(settings).model_fields.keys() & kind.model_fields.keys()) - {"command", "out"}
    return kind(**{name: getattr(settings, name) for name in shared} | dict(own))


def claim_folder(out: Path, settings: Settings, *, fixed: Sequence[str]) -> None:
    """Write ``config.yaml`` into a folder that is new, or holds a run of the same pipeline on the same features.

    Args:
        out: The folder.
        settings: Of the pipeline.
        fixed: Names of the settings that a second run in the folder may not change: its store could not be continued.

    Raises:
        ConfigError: The folder holds anything else, or torchrun started several processes.
        StoppedError: In the others of those.
    """
    from featcache.training.runs import refuse_company

    refuse_company("a pipeline runs in one (`train svt` alone can share its batches)")
    path = out / "config.yaml"
    if path.exists():
        former = read_mapping(path)
        if former.get("command") != to_dict(settings)["command"]:
            raise ConfigError(f"{out} holds the results of another command; choose another out")
        before = parse(type(settings), former)
        for name in fixed:
            if getattr(before, name) != getattr(settings, name):
                raise ConfigError(f"{out} holds a run with another {name}; choose another out, or delete it")
    put_replace(path, to_yaml(settings).encode())


def find_videos(source: str | None, *, folder: Path, motion: MotionSettings, on_stage: OnStage) -> str:
    """The source of a pipeline, or the listing of a motion set that is made where there is none.

    Args:
        source: A folder of videos or a listing; ``None``: the motion set.
        folder: Where the motion set goes; what a killed run left of one is removed first.
        motion: What it holds.
        on_stage: Called with (``"clips"``, done, total).
    """
    if source is not None:
        return source
    remove_motion_set(folder, motion)
    return str(make_motion_set(folder, motion, progress=lambda done, total: on_stage("clips", done, total)))
