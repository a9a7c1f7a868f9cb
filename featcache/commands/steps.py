"""Pipelines and sweeps: several commands in one file, one after another."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from featcache.commands.places import check_places, with_places
from featcache.commands.registry import command_of, settings_class, store_key
from featcache.commands.run import Watching, carry_out, unwatched
from featcache.config import Settings, apply_overrides, parse, read_json, to_yaml
from featcache.errors import ConfigError, UnknownNameError
from featcache.files.publish import put_replace
from featcache.report.tables import Cell, Table, value_at
from featcache.summary import Result, Summary

_FOLDER_OF_STEP = re.compile(r"@(?P<step>\d+)(?P<file>(/.+)?)")


class PipelineSettings(Settings):
    """Settings of a pipeline: commands one after another. Each command can be resumed, and so can the pipeline."""

    command: Literal["pipeline"] = "pipeline"
    """The command this file repeats."""
    title: str = ""
    """What it reproduces, e.g. a table of a paper."""
    store: str | None = None
    """Store of every step that names none: where ``extract`` writes, and what the others read."""
    feature: str | None = None
    """Array of every step after it that names none."""
    roots: dict[str, str] = Field(default_factory=dict)
    """Folder of each data set by its name, for every step that names it, e.g. ``{ucf101: /data/ucf101}``."""
    weights: dict[str, str] = Field(default_factory=dict)
    """File of weights of each backbone by its name, for every step that names it."""
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
    """Horizontal position of the row in a plot."""
    published: dict[str, float] = Field(default_factory=dict)
    """Numbers that the source prints, by column."""
    given: dict[str, float] = Field(default_factory=dict)
    """Numbers of ours in columns that no step measures, e.g. the epochs of a training that came before."""
    note: str = ""
    """A note, e.g. on a misprint in the source."""


class QuotedRow(Settings):
    """One row that the source prints and nothing runs, e.g. of another method."""

    name: str
    """The method with its backbone."""
    published: dict[str, float] = Field(min_length=1)
    """Numbers that the source prints, by column."""
    note: str = ""
    """A note, e.g. on other data."""


class SweepSettings(Settings):
    """Settings of a sweep: the same steps with one thing varied, and published numbers beside ours."""

    command: Literal["sweep"] = "sweep"
    """The command this file repeats."""
    title: str
    """What it reproduces, e.g. ``AdViSe, Table 3``."""
    store: str | None = None
    """Store of every step that names none."""
    feature: str | None = None
    """Array of every step that names none; null: the only one of the store."""
    roots: dict[str, str] = Field(default_factory=dict)
    """Folder of each data set by its name, for every step that names it, e.g. ``{ucf101: /data/ucf101}``."""
    weights: dict[str, str] = Field(default_factory=dict)
    """File of weights of each backbone by its name, for every step that names it."""
    steps: tuple[dict[str, Any], ...] = Field(min_length=1)
    """Settings of commands, each with its key ``command``; ``out`` is set by the sweep, where no row sets it. The value
    ``@N`` of a key is the folder of step N of the same row, and ``@N/FILE`` a file in it."""
    rows: tuple[SweepRow, ...] = Field(min_length=1)
    """Rows of the table."""
    quoted: tuple[QuotedRow, ...] = ()
    """Rows that are printed beside ours and not run; they come first in the table."""
    columns: dict[str, str | None] = Field(min_length=1)
    """Column to the place of its value: ``<step>.<path in result.json>``; the part ``*`` is the only key there is, e.g.
    the test split of any store that has one. Null: no step measures it, and a row may have it ``given``."""
    x_label: str = ""
    """Name of the horizontal axis; a plot is drawn where rows have ``x``."""
    out: str
    """Folder of the runs and of ``table.md``, ``table.json`` and ``plot.png``."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        every: tuple[QuotedRow | SweepRow, ...] = (*self.quoted, *self.rows)
        names = [row.name for row in every]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"two rows are named {twice!r}; give one another name")
        places = [place for place in self.columns.values() if place is not None]
        for row in every:
            if strangers := sorted(set(row.published) - set(self.columns)):
                raise ConfigError(f"row {row.name!r} has a published {strangers[0]!r}, which is no column")
        for row in self.rows:
            if measured := sorted(name for name in row.given if self.columns.get(name, "") is not None):
                raise ConfigError(
                    f"row {row.name!r} has a given {measured[0]!r}, which is no column without a place; write "
                    f"{measured[0]}: null under columns"
                )
        for place in (*places, *(key for row in self.rows for key in row.set)):
            number = place.partition(".")[0]
            if not number.isdigit() or int(number) >= len(self.steps):
                raise ConfigError(f"{place!r} names no step; begin with a number from 0 to {len(self.steps) - 1}")


def pipeline_steps(settings: PipelineSettings) -> list[dict[str, Any]]:
    """The steps of a pipeline with store and places put in, and ``@N`` replaced by the folder of step N."""
    steps = [
        with_places(
            with_store(step, store=settings.store, feature=settings.feature),
            roots=settings.roots,
            weights=settings.weights,
        )
        for step in settings.steps
    ]
    return [
        {key: _resolved(value, [step.get("out") for step in steps]) for key, value in step.items()} for step in steps
    ]


def with_store(step: Mapping[str, Any], *, store: str | None, feature: str | None) -> dict[str, Any]:
    """A step with ``store`` and ``feature`` where it names none."""
    filled = dict(step)
    place = _store_key(step)
    if not place:
        return filled
    section, _, name = place.rpartition(".")
    own = dict(filled.get(section) or {}) if section else filled
    # A command that makes its arrays, such as `extract`, names none.
    for key, value in ((name, store), ("feature" if name == "store" else "", feature)):
        if key and value is not None and own.get(key) is None:
            own[key] = value
    return {**filled, section: own} if section else own


def _store_key(step: Mapping[str, Any]) -> str:
    """The setting of a step's store; empty if it has none, or if its command is unknown."""
    try:
        return store_key(str(step.get("command")))
    except UnknownNameError:
        return ""  # said with the number of the step by `parse_steps`


def sweep_steps(settings: SweepSettings) -> list[list[dict[str, Any]]]:
    """The steps of every row; see :func:`row_steps`."""
    return [row_steps(settings, row, folder=f"{settings.out}/{slug(row.name)}") for row in settings.rows]


def row_steps(settings: SweepSettings, row: SweepRow, *, folder: str) -> list[dict[str, Any]]:
    """The steps of one row: its own settings put in, ``@N`` and ``out`` replaced by folders under ``folder``.

    A row that sets ``N.out`` has step N there, so that rows of several tables can share one training.
    """
    filled = []
    for number, step in enumerate(settings.steps):
        own = {key.partition(".")[2]: value for key, value in row.set.items() if int(key.partition(".")[0]) == number}
        assignments = [f"{key}={json.dumps(value)}" for key, value in own.items()]
        own_step = apply_overrides({**step, "out": f"{folder}/{number}-{step.get('command', 'step')}"}, assignments)
        stored = with_store(own_step, store=settings.store, feature=settings.feature)
        filled.append(with_places(stored, roots=settings.roots, weights=settings.weights))
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
        if place is None:
            cells[column] = Cell(value=row.given.get(column), published=row.published.get(column))
            continue
        number, *path = place.split(".")
        file = Path(folders[int(number)]) / "result.json"
        ours = value_at(read_json(file, what="result of a step"), path, where=str(file))
        cells[column] = Cell(value=ours.value, low=ours.low, high=ours.high, published=row.published.get(column))
    return cells


def _quoted(settings: SweepSettings, row: QuotedRow) -> tuple[str, dict[str, Cell]]:
    """Note and cells of a row that is not run."""
    cells = {column: Cell(value=None, published=row.published.get(column)) for column in settings.columns}
    return "; ".join(filter(None, ("quoted, not run", row.note))), cells


def parse_steps(steps: Sequence[Mapping[str, Any]]) -> list[Settings]:
    """Settings of each step.

    Raises:
        ConfigError: A step without a known command, or with an unusable setting; names the step.
    """
    parsed = []
    for number, step in enumerate(steps):
        name = str(step.get("command"))
        try:
            parsed.append(parse(settings_class(name), step))
        except UnknownNameError as error:
            raise UnknownNameError(f"step {number}: {error}") from error
        except ConfigError as error:
            raise ConfigError(f"step {number} ({name}): {error}") from error
    return parsed


def pipeline(settings: PipelineSettings, *, watching: Watching = unwatched) -> Iterator[str | Result]:
    """Carry out the steps one after another; every step is checked before the first begins.

    Args:
        settings: The steps.
        watching: As in :func:`featcache.commands.run.carry_out`.

    Yields:
        A heading before each step, and its result after it.
    """
    steps = parse_steps(pipeline_steps(settings))
    check_places(steps, roots=settings.roots, weights=settings.weights)
    for number, step in enumerate(steps):
        yield f"{number + 1}/{len(steps)} {command_of(step)}"
        yield from carry_out(step, watching=watching)


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """The table of a sweep.

    Attributes:
        table: Our numbers and the published ones.
        folder: Folder that holds ``table.md``, ``table.json`` and the plot.
    """

    table: Table
    folder: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**self.table.to_dict(), "out": self.folder}

    def summary(self) -> Summary:
        """The summary to print."""
        heading = f"{self.table.title}: ours [95 % interval] (published, ours - published)"
        shown = self.table.summary_table(notes=True)
        return Summary(tables=(replace(shown, title=heading),), lines=(f"written to {self.folder}",))


def sweep(settings: SweepSettings, *, watching: Watching = unwatched) -> Iterator[str | Result]:
    """Carry out the steps of every row, then write the table; every step is checked before the first begins.

    Args:
        settings: The steps, and what is varied.
        watching: As in :func:`featcache.commands.run.carry_out`.

    Yields:
        A heading before each row, the result of each step, and the table.
    """
    from featcache.report.plots import write_table

    folder = Path(settings.out)
    planned = sweep_steps(settings)
    parsed = [parse_steps(steps) for steps in planned]
    every_step = itertools.chain.from_iterable(parsed)
    check_places(every_step, roots=settings.roots, weights=settings.weights)
    put_replace(folder / "config.yaml", to_yaml(settings).encode())
    rows: list[tuple[str, float | None, str, dict[str, Cell]]] = [
        (row.name, None, *_quoted(settings, row)) for row in settings.quoted
    ]
    for row, raw, steps in zip(settings.rows, planned, parsed, strict=True):
        yield f"{settings.title}: {row.name}"
        for step in steps:
            yield from carry_out(step, watching=watching)
        rows.append((row.name, row.x, row.note, read_row(settings, row, [step["out"] for step in raw])))
    table = Table(title=settings.title, columns=tuple(settings.columns), rows=tuple(rows), x_label=settings.x_label)
    write_table(table, folder)
    yield Swept(table=table, folder=str(folder))


def slug(name: str) -> str:
    """A folder name made from a row's name."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.") or "row"
