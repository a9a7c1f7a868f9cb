"""Sweeps: the same steps with one thing varied, as a table with published numbers beside ours."""

import copy
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from featcache.commands.grids import (
    GridSettings,
    Point,
    Steps,
    baseline,
    column_names,
    folder_of,
    grid_points,
    needed,
    varying,
)
from featcache.commands.places import check_places, with_places
from featcache.commands.run import Watching, carry_out, unwatched
from featcache.commands.steps import parse_steps, with_folders, with_store
from featcache.config import Settings, read_json, to_yaml, with_values
from featcache.errors import ConfigError
from featcache.files.publish import put_replace
from featcache.report.tables import Cell, Table, value_at
from featcache.summary import Result, Summary


class SweepRow(Settings):
    """One row of a table."""

    name: str
    """What is varied, e.g. ``hidden 64``; a folder of that name holds its runs."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings of the steps by ``<step>.<dotted.key>``, e.g. ``0.tmm.hidden``; a number alone is the whole step."""
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
    ``@N`` of a key is the folder of an earlier step N of the same row, and ``@N/FILE`` a file in it. A row leaves out
    a step on which only other rows depend."""
    rows: tuple[SweepRow, ...] = ()
    """Rows of the table."""
    grid: GridSettings | None = None
    """Rows and columns as a product of axes, in place of ``rows``."""
    runs: str | None = None
    """Folder of the runs, each of which is named by its command and a hash of its settings, so that rows and tables
    with the same step share it; null: ``out`` for a grid, and a folder of its own for each of ``rows``."""
    against: str | None = None
    """A row, or a value of an axis: accuracies are compared with that row's, or with those of the cells that have this
    value and are alike otherwise, video by video; null: with nothing."""
    quoted: tuple[QuotedRow, ...] = ()
    """Rows that are printed beside ours and not run; they come first in the table."""
    columns: dict[str, str | None] = Field(min_length=1)
    """Column to the place of its value: ``<step>.<path in result.json>``; the part ``*`` is the only key there is, e.g.
    the test split of any store that has one. Null: no step measures it, and a row may have it ``given``."""
    x_label: str = ""
    """Name of the horizontal axis; a plot is drawn where rows have ``x``."""
    note: str = ""
    """What a reader of the whole table should know; printed below it."""
    out: str
    """Folder of the runs and of ``table.md``, ``table.json`` and ``plot.png``."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        if bool(self.rows) == (self.grid is not None):
            raise ConfigError("a sweep has either rows or a grid; give one of the two")
        every: tuple[QuotedRow | SweepRow, ...] = (*self.quoted, *self.rows)
        points = points_of(self)
        names = [row.name for row in every] + list(dict.fromkeys(point.row for point in points if self.grid))
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"two rows are named {twice!r}; give one another name")
        places = [place for place in self.columns.values() if place is not None]
        for row in self.rows:
            if measured := sorted(name for name in row.given if self.columns.get(name, "") is not None):
                raise ConfigError(
                    f"row {row.name!r} has a given {measured[0]!r}, which is no column without a place; write "
                    f"{measured[0]}: null under columns"
                )
        for place in (*places, *(key for point in points for key in point.changes)):
            number = place.partition(".")[0]
            if not number.isdigit() or int(number) >= len(self.steps):
                raise ConfigError(f"{place!r} names no step; begin with a number from 0 to {len(self.steps) - 1}")
        columns = table_columns(self)
        for name, published in (*((row.name, row.published) for row in every), *self.published_of_grid.items()):
            if strangers := sorted(set(published) - set(columns)):
                raise ConfigError(f"row {name!r} has a published {strangers[0]!r}, which is no column")
        if self.against is not None:
            baseline(points, points[0], self.against)

    @property
    def published_of_grid(self) -> Mapping[str, Mapping[str, float]]:
        """Numbers that the source prints by row and column of the grid; none without a grid."""
        return {} if self.grid is None else self.grid.published


def points_of(settings: SweepSettings) -> list[Point]:
    """The rows of a sweep, or the combinations of its grid."""
    if settings.grid is not None:
        return grid_points(settings.grid)
    return [Point(row=row.name, across=(), values={"row": row.name}, changes=row.set) for row in settings.rows]


def sweep_steps(settings: SweepSettings) -> list[Steps]:
    """The steps of each point of :func:`points_of` by their number, without those that only other points need."""
    read = {int(place.partition(".")[0]) for place in settings.columns.values() if place is not None}
    return needed(_every_step(settings), read)


def table_columns(settings: SweepSettings) -> list[str]:
    """The columns of the table; those that no axis across changes come first."""
    names = cell_names(settings)
    fixed = [column for column in settings.columns if all(each[column] == column for each in names)]
    return list(dict.fromkeys((*fixed, *(name for each in names for name in each.values()))))


def cell_names(settings: SweepSettings) -> list[dict[str, str]]:
    """The columns of the table in which the values of each point stand, by column of the settings."""
    changed: set[str] = set()
    if settings.grid is not None and settings.grid.across:
        changed = varying(settings.grid, _every_step(settings), settings.columns)
    return [column_names(list(settings.columns), changed, point) for point in points_of(settings)]


def _every_step(settings: SweepSettings) -> list[Steps]:
    """All steps of each point."""
    return [
        dict(enumerate(_filled(settings, point.changes, folder=f"{settings.out}/{slug(point.row)}")))
        for point in points_of(settings)
    ]


def row_steps(settings: SweepSettings, row: SweepRow, *, folder: str) -> list[dict[str, Any]]:
    """The steps of one row: its own settings put in, ``@N`` and ``out`` replaced by folders under ``folder``.

    A row that sets ``N.out`` has step N there, so that rows of several tables can share one training.
    """
    return _filled(settings, row.set, folder=folder)


def _filled(settings: SweepSettings, changes: Mapping[str, Any], *, folder: str) -> list[dict[str, Any]]:
    """All steps with some changes, under ``folder`` unless runs are shared."""
    shared = settings.runs or (None if settings.grid is None else settings.out)
    filled: list[dict[str, Any]] = []
    for number, given in enumerate(settings.steps):
        own = {key.partition(".")[2]: value for key, value in changes.items() if int(key.partition(".")[0]) == number}
        whole = own.pop("", given)
        step = with_values({key: value for key, value in whole.items() if key != "out"}, copy.deepcopy(own))
        step = with_store(step, store=settings.store, feature=settings.feature)
        folders = [each["out"] for each in filled]
        step = {key: with_folders(value, folders) for key, value in step.items()}
        if "out" not in step:
            name = f"{number}-{step.get('command', 'step')}"
            step["out"] = f"{folder}/{name}" if shared is None else f"{shared}/{folder_of(step)}"
        filled.append(step)
    return [with_places(step, roots=settings.roots, weights=settings.weights) for step in filled]


def _read(settings: SweepSettings, point: Point, steps: Steps, names: Mapping[str, str]) -> dict[str, Cell]:
    """The cells of a point by column of the settings, from the results of its steps."""
    row = next((row for row in settings.rows if row.name == point.row), None)
    printed = settings.published_of_grid.get(point.row, {}) if row is None else row.published
    cells = {}
    for column, place in settings.columns.items():
        published = printed.get(names[column])
        if place is None:
            cells[column] = Cell(value=None if row is None else row.given.get(column), published=published)
            continue
        number, *path = place.split(".")
        run = str(steps[int(number)]["out"])
        file = Path(run) / "result.json"
        ours = value_at(read_json(file, what="result of a step"), path, where=str(file))
        cells[column] = replace(ours, published=published, run=run)
    return cells


def _quoted(settings: SweepSettings, row: QuotedRow) -> tuple[str, dict[str, Cell]]:
    """Note and cells of a row that is not run."""
    cells = {column: Cell(value=None, published=row.published.get(column)) for column in table_columns(settings)}
    return "; ".join(filter(None, ("quoted, not run", row.note))), cells


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
        legend = self.table.legend.replace(";", "")
        heading = f"{self.table.title}: {legend[0].lower()}{legend[1:]}"
        shown = self.table.summary_table(notes=True)
        lines = (*filter(None, [self.table.note]), f"written to {self.folder}")
        return Summary(tables=(replace(shown, title=heading),), lines=lines)


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
    points, planned, names = points_of(settings), sweep_steps(settings), cell_names(settings)
    parsed = [parse_steps(steps) for steps in planned]
    every_step = itertools.chain.from_iterable(parsed)
    check_places(every_step, roots=settings.roots, weights=settings.weights)
    put_replace(folder / "config.yaml", to_yaml(settings).encode())
    done: dict[str, Settings] = {}
    found = []
    for point, raw, steps, columns in zip(points, planned, parsed, names, strict=True):
        heading = ", ".join((point.row, *point.across))
        for out, step in zip((each["out"] for each in raw.values()), steps, strict=True):
            if done.get(out) == step:  # shared with a point before
                continue
            if heading:
                yield f"{settings.title}: {heading}"
                heading = ""
            yield from carry_out(step, watching=watching)
            done[out] = step
        found.append(_read(settings, point, raw, columns))
    table = _tabulated(settings, found)
    write_table(table, folder)
    yield Swept(table=table, folder=str(folder))


def _tabulated(settings: SweepSettings, found: Sequence[Mapping[str, Cell]]) -> Table:
    """The table of the cells of all points."""
    points, against = points_of(settings), settings.against
    rows: dict[str, dict[str, Cell]] = {}
    for point, cells, names in zip(points, found, cell_names(settings), strict=True):
        other = None if against is None else found[points.index(baseline(points, point, against))]
        for column, cell in cells.items():
            compared = cell if other is None else _compared(cell, other[column], settings.columns[column])
            rows.setdefault(point.row, {}).setdefault(names[column], compared)
    about = {row.name: (row.x, row.note) for row in settings.rows}
    notes = {} if settings.grid is None else settings.grid.notes
    return Table(
        title=settings.title,
        columns=tuple(table_columns(settings)),
        rows=(
            *((row.name, None, *_quoted(settings, row)) for row in settings.quoted),
            *((name, *about.get(name, (None, notes.get(name, ""))), cells) for name, cells in rows.items()),
        ),
        x_label=settings.x_label,
        against=settings.against or "",
        note=settings.note,
    )


def _compared(mine: Cell, theirs: Cell, place: str | None) -> Cell:
    """A cell with its gain over another one."""
    from featcache.report.paired import paired_gain

    if place is None or mine.run is None or theirs.run is None:
        return mine
    return replace(mine, gain=paired_gain(mine.run, theirs.run, place.split(".")[1:]))


def slug(name: str) -> str:
    """A folder name made from a row's name."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.") or "row"
