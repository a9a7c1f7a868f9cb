"""Functions that the shipped pipelines share: their folder, their videos and their result."""

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
    """The result of a pipeline.

    Attributes:
        found: JSON-ready results of its steps, as in ``result.json``.
        shown: The summary to print.
    """

    found: dict[str, Any]
    shown: Summary

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return self.found

    def summary(self) -> Summary:
        """The summary to print."""
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
        settings: Settings of the pipeline.
        fixed: Names of settings that a second run in the folder may not change, because its store would not fit.

    Raises:
        ConfigError: The folder holds anything else, or torchrun started several processes.
        StoppedError: In the other processes.
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
    """The source of a pipeline; without one, a motion set is made, and its listing is returned.

    Args:
        source: A folder of videos or a listing; ``None``: the motion set.
        folder: Folder of the motion set; the remains of a killed run are removed first.
        motion: Settings of the motion set.
        on_stage: Called with (``"clips"``, done, total).
    """
    if source is not None:
        return source
    remove_motion_set(folder, motion)
    return str(make_motion_set(folder, motion, progress=lambda done, total: on_stage("clips", done, total)))
