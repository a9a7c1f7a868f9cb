"""Settings of pipelines and sweeps: several commands in one file, without torch."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from featcache.config import Settings, apply_overrides
from featcache.errors import ConfigError


class PipelineSettings(Settings):
    """Settings of a pipeline: commands one after another. Each resumes by itself, so the whole does."""

    command: Literal["pipeline"] = "pipeline"
    """The command this file repeats."""
    title: str = ""
    """What it reproduces, e.g. a table of a paper."""
    steps: tuple[dict[str, Any], ...] = Field(min_length=1)
    """Settings of commands, each with its key ``command``."""


class SweepRow(Settings):
    """One row of a table."""

    name: str
    """What is varied, e.g. ``hidden 64``; a folder of that name holds its runs."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings of the steps by ``<step>.<dotted.key>``, e.g. ``0.tmm.hidden``."""
    x: float | None = None
    """Where the row stands in a plot."""
    published: dict[str, float] = Field(default_factory=dict)
    """What the source prints, by column."""
    note: str = ""
    """E.g. a misprint of the source."""


class SweepSettings(Settings):
    """Settings of a sweep: the same steps with one thing varied, and published numbers beside ours."""

    command: Literal["sweep"] = "sweep"
    """The command this file repeats."""
    title: str
    """What it reproduces, e.g. ``AdViSe, Table 3``."""
    steps: tuple[dict[str, Any], ...] = Field(min_length=1)
    """Settings of commands, each with its key ``command``; ``out`` is set by the sweep. The value ``@N`` of a key is
    the folder of step N of the same row."""
    rows: tuple[SweepRow, ...] = Field(min_length=1)
    """Rows of the table."""
    columns: dict[str, str] = Field(min_length=1)
    """Column to the place of its value: ``<step>.<path in result.json>``."""
    x_label: str = ""
    """Name of the horizontal axis; a plot is drawn where rows have ``x``."""
    out: str
    """Folder of the runs and of ``table.md``, ``table.json`` and ``plot.png``."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        names = [row.name for row in self.rows]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"two rows are named {twice!r}; give one another name")
        for row in self.rows:
            if strangers := sorted(set(row.published) - set(self.columns)):
                raise ConfigError(f"row {row.name!r} has a published {strangers[0]!r}, which is no column")
        for place in (*self.columns.values(), *(key for row in self.rows for key in row.set)):
            number = place.partition(".")[0]
            if not number.isdigit() or int(number) >= len(self.steps):
                raise ConfigError(f"{place!r} names no step; begin with a number from 0 to {len(self.steps) - 1}")


def row_steps(settings: SweepSettings, row: SweepRow, *, folder: str) -> list[dict[str, Any]]:
    """The steps of one row: its own settings put in, ``@N`` and ``out`` replaced by folders under ``folder``."""
    folders = [f"{folder}/{number}-{step.get('command', 'step')}" for number, step in enumerate(settings.steps)]
    steps = []
    for number, step in enumerate(settings.steps):
        own = {key.partition(".")[2]: value for key, value in row.set.items() if int(key.partition(".")[0]) == number}
        assignments = [f"{key}={json.dumps(value)}" for key, value in own.items()]
        filled = apply_overrides({**step, "out": folders[number]}, assignments)
        steps.append({key: _resolved(value, folders) for key, value in filled.items()})
    return steps


def _resolved(value: Any, folders: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _resolved(item, folders) for key, item in value.items()}
    if isinstance(value, str) and value.startswith("@") and value[1:].isdigit():
        return folders[int(value[1:])]
    return value
