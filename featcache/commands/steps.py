"""Settings of pipelines and sweeps: several commands in one file, without torch."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from featcache.config import Settings, apply_overrides, read_json
from featcache.errors import ConfigError
from featcache.report.tables import Cell, value_at

STORE_KEYS: Mapping[str, str] = {
    "evaluate-tmm": "bank.store",
    "extract": "out",
    "probe-knn": "store",
    "probe-linear": "store",
    "probe-mlp": "store",
    "probe-ridge": "store",
    "probe-scale-ft": "store",
    "probe-scale-linear": "store",
    "probe-transformer": "store",
    "train-advise": "bank.store",
    "train-scale": "sets.store",
    "train-tmm": "bank.store",
}
"""Where a command's settings name its store."""
FEATURE_KEYS: Mapping[str, str] = {
    "evaluate-tmm": "bank.feature",
    "probe-knn": "feature",
    "probe-linear": "feature",
    "probe-mlp": "feature",
    "probe-ridge": "feature",
    "probe-scale-ft": "feature",
    "probe-scale-linear": "feature",
    "probe-transformer": "feature",
    "train-advise": "bank.feature",
    "train-scale": "sets.feature",
    "train-tmm": "bank.feature",
}
"""Where they name its array."""
_FOLDER_OF_STEP = re.compile(r"@(?P<step>\d+)(?P<file>(/.+)?)")


class PipelineSettings(Settings):
    """Settings of a pipeline: commands one after another. Each resumes by itself, so the whole does."""

    command: Literal["pipeline"] = "pipeline"
    """The command this file repeats."""
    title: str = ""
    """What it reproduces, e.g. a table of a paper."""
    store: str | None = None
    """Store of every step that names none: where ``extract`` writes, and what the others read."""
    feature: str | None = None
    """Array of every step after it that names none."""
    steps: tuple[dict[str, Any], ...] = Field(min_length=1)
    """Settings of commands, each with its key ``command``. The value ``@N`` of a key is the ``out`` of step N, and
    ``@N/FILE`` a file in it."""


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
    store: str | None = None
    """Store of every step that names none."""
    feature: str | None = None
    """Array of every step that names none; null where the store has one."""
    steps: tuple[dict[str, Any], ...] = Field(min_length=1)
    """Settings of commands, each with its key ``command``; ``out`` is set by the sweep, where no row sets it. The value
    ``@N`` of a key is the folder of step N of the same row, and ``@N/FILE`` a file in it."""
    rows: tuple[SweepRow, ...] = Field(min_length=1)
    """Rows of the table."""
    columns: dict[str, str] = Field(min_length=1)
    """Column to the place of its value: ``<step>.<path in result.json>``; the part ``*`` is the only key there is, e.g.
    the test split of any store that has one."""
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


def pipeline_steps(settings: PipelineSettings) -> list[dict[str, Any]]:
    """The steps of a pipeline with the store put in, and ``@N`` replaced by the folder of step N."""
    steps = [with_store(step, store=settings.store, feature=settings.feature) for step in settings.steps]
    return [
        {key: _resolved(value, [step.get("out") for step in steps]) for key, value in step.items()} for step in steps
    ]


def with_store(step: Mapping[str, Any], *, store: str | None, feature: str | None) -> dict[str, Any]:
    """A step with ``store`` and ``feature`` where it names none."""
    filled = dict(step)
    for value, places in ((store, STORE_KEYS), (feature, FEATURE_KEYS)):
        section, _, name = places.get(step.get("command", ""), "").rpartition(".")
        own = dict(filled.get(section) or {}) if section else filled
        if value is None or not name or own.get(name) is not None:
            continue
        own[name] = value
        filled = {**filled, section: own} if section else own
    return filled


def row_steps(settings: SweepSettings, row: SweepRow, *, folder: str) -> list[dict[str, Any]]:
    """The steps of one row: its own settings put in, ``@N`` and ``out`` replaced by folders under ``folder``.

    A row that sets ``N.out`` has step N there, so that rows of several tables can share one training.
    """
    filled = []
    for number, step in enumerate(settings.steps):
        own = {key.partition(".")[2]: value for key, value in row.set.items() if int(key.partition(".")[0]) == number}
        assignments = [f"{key}={json.dumps(value)}" for key, value in own.items()]
        own_step = apply_overrides({**step, "out": f"{folder}/{number}-{step.get('command', 'step')}"}, assignments)
        filled.append(with_store(own_step, store=settings.store, feature=settings.feature))
    folders = [step["out"] for step in filled]
    return [{key: _resolved(value, folders) for key, value in step.items()} for step in filled]


def _resolved(value: Any, folders: Sequence[str | None]) -> Any:
    """``value`` with every ``@N`` and ``@N/file`` in it as a path."""
    if isinstance(value, Mapping):
        return {key: _resolved(item, folders) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(item, folders) for item in value]
    if isinstance(value, str) and (found := _FOLDER_OF_STEP.fullmatch(value)):
        number = int(found["step"])
        if number >= len(folders) or folders[number] is None:
            raise ConfigError(
                f"{value!r} is the folder of a step that is not there or has no 'out'; give that step one"
            )
        return f"{folders[number]}{found['file']}"
    return value


def read_row(settings: SweepSettings, row: SweepRow, folders: Sequence[str]) -> dict[str, Cell]:
    """The cells of one row, from the results of its steps."""
    cells = {}
    for column, place in settings.columns.items():
        number, *path = place.split(".")
        file = Path(folders[int(number)]) / "result.json"
        ours = value_at(read_json(file, what="result of a step"), path, where=str(file))
        cells[column] = Cell(value=ours.value, low=ours.low, high=ours.high, published=row.published.get(column))
    return cells
