"""Settings of pre-training on a pretext task; the task's own settings are parsed by the class with its name."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from featcache.config import Aside, Input, parse
from featcache.data.selection import TrainingVideosSettings
from featcache.errors import ConfigError
from featcache.loaders.settings import MonitorSettings
from featcache.methods.pretext.task import TASKS, PretextTask
from featcache.training.settings import OptimiserSettings, ScheduleSettings, TrainingSettings


def _task(data: Any) -> Any:
    """The settings of the task that is called ``name``."""
    if not isinstance(data, Mapping):
        return data
    if not isinstance(data.get("name"), str):
        raise ConfigError(f"task has no name; give one of: {', '.join(TASKS.names())}")
    return parse(TASKS.load(data["name"]), data)


AnyTask = Annotated[SerializeAsAny[PretextTask], BeforeValidator(_task)]
"""A task, or a mapping with its ``name`` and its own settings."""


class PretextSettings(TrainingVideosSettings):
    """Settings of ``featcache train pretext``: a backbone trained on a pretext task, from unlabelled videos."""

    command: Literal["train-pretext"] = "train-pretext"
    """The command this file repeats."""
    task: AnyTask
    """The task: its ``name``, e.g. ``rotnet``, and its own settings."""
    backbone: str
    """Registry name, e.g. ``i3d`` or ``svt-tiny``; image backbones are averaged over frames."""
    weights: Input[str] = "random"
    """Initial weights: ``random`` (the same for every seed), ``default`` or the path of a file."""
    layer: str = "last"
    """Layer that the heads read; ``last`` is the backbone's default."""
    num_frames: int | None = Field(default=None, ge=1)
    """Number of frames per clip; null: the backbone's, or 8 for an image backbone."""
    input_size: int | None = Field(default=None, ge=1)
    """Input side in pixels; null: the backbone's."""
    training: TrainingSettings = TrainingSettings(
        epochs=200,
        batch_size=32,
        optimiser=OptimiserSettings(name="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4),
        schedule=ScheduleSettings(),
    )
    """Training settings; the papers of the tasks use different ones."""
    monitor: Aside[MonitorSettings] = MonitorSettings()
    """Accuracy of nearest neighbours by the backbone's features, while it is trained."""
    out: Aside[str | None] = None
    """Folder of the run; null: ``runs/<source>/<task>-<hash>``."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        super().model_post_init(context)
        if self.training.ema_decay is not None:
            raise ConfigError("training.ema_decay is given, and pretext tasks keep no average; leave it out")
        if "+" in self.backbone:
            raise ConfigError(f"backbone {self.backbone!r} joins several, whose weights go into no one file; train one")
