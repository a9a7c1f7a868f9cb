"""Grids: rows and columns of a sweep as a product of axes, and which steps each cell takes. Pure functions."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from featcache.config import Settings
from featcache.errors import ConfigError, unknown_name
from featcache.files.places import is_under
from featcache.files.sealed import canonical_json, sha256_bytes

Steps = Mapping[int, dict[str, Any]]
"""Settings of steps by their number."""


class GridSettings(Settings):
    """Rows and columns of a table as a product of axes."""

    axes: dict[str, dict[str, dict[str, Any]]] = Field(min_length=1)
    """Settings of the steps by axis and value, as in the ``set`` of a row, e.g. ``{subset: {10k:
    {0.selection.subset: 10000}}}``. Of two axes that set one key, the later one counts."""
    across: tuple[str, ...] = ()
    """Axes whose values are columns; those of the others make the rows."""
    published: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Numbers that the source prints, by row and column. Names of values are joined by ``, `` in both."""
    notes: dict[str, str] = Field(default_factory=dict)
    """A note by row."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        for axis in self.across:
            if axis not in self.axes:
                raise unknown_name("axis", axis, self.axes)
        if empty := next((axis for axis, values in self.axes.items() if not values), None):
            raise ConfigError(f"the axis {empty!r} has no values; give it some, or leave it out")
        if set(self.across) == set(self.axes):
            raise ConfigError("every axis of the grid runs across, and none makes the rows; take one out of across")
        for (first, one), (second, other) in itertools.combinations(self.axes.items(), 2):
            for key, later in itertools.product(_keys(one), _keys(other)):
                if key.startswith(f"{later}."):
                    raise ConfigError(
                        f"the axis {second!r} sets {later} as a whole, in which {first!r} sets {key} before it; give "
                        f"{first!r} after {second!r}"
                    )
        rows = {point.row for point in grid_points(self)}
        for name in (*self.published, *self.notes):
            if name not in rows:
                raise unknown_name("row of the grid", name, rows)


def _keys(values: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    return (key for changes in values.values() for key in changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One combination of the values of all axes; a row that is given as such is the value of an axis ``row``.

    Attributes:
        row: Name of the row.
        across: Values of the axes that run across.
        values: Value by axis.
        changes: Settings of the steps by ``<step>.<dotted.key>``; a number alone is the step as a whole.
    """

    row: str
    across: tuple[str, ...]
    values: Mapping[str, str]
    changes: Mapping[str, Any]


def grid_points(grid: GridSettings) -> list[Point]:
    """Every combination, row by row."""
    order = [axis for axis in grid.axes if axis not in grid.across] + list(grid.across)
    num_down = len(order) - len(grid.across)
    points = []
    for chosen in itertools.product(*(grid.axes[axis] for axis in order)):
        values = dict(zip(order, chosen, strict=True))
        changes: dict[str, Any] = {}
        for axis, known in grid.axes.items():
            changes |= known[values[axis]]
        points.append(Point(row=", ".join(chosen[:num_down]), across=chosen[num_down:], values=values, changes=changes))
    return points


def baseline(points: Sequence[Point], point: Point, against: str) -> Point:
    """The point that differs from another one in having the value ``against`` on the axis that has such a value.

    Raises:
        ConfigError: Several axes have such a value.
        UnknownNameError: None has.
    """
    axes = {axis for each in points for axis, value in each.values.items() if value == against}
    if not axes:
        raise unknown_name("row to compare with", against, {value for each in points for value in each.values.values()})
    if len(axes) > 1:
        raise ConfigError(f"several axes have a value {against!r}; give the one to compare with a name of its own")
    wanted = {**point.values, axes.pop(): against}
    return next(each for each in points if each.values == wanted)


def needed(every: Sequence[Steps], read: set[int]) -> list[Steps]:
    """The steps of each point without those that only other points depend on.

    Args:
        every: All steps of each point, each with its ``out``.
        read: Numbers of the steps whose results the table shows.
    """
    links = [_links(steps) for steps in every]
    leading = {number for link in links for before in link.values() for number in before}
    kept: list[Steps] = []
    for steps, link in zip(every, links, strict=True):
        wanted = closure({number for number in steps if number in read or number not in leading}, link)
        kept.append({number: step for number, step in steps.items() if number in wanted})
    return kept


def closure(numbers: set[int], link: Mapping[int, set[int]]) -> set[int]:
    """The steps, and all that they depend on."""
    found: set[int] = set()
    while numbers := numbers - found:
        found |= numbers
        numbers = {before for number in numbers for before in link.get(number, ())}
    return found


def _links(steps: Steps) -> dict[int, set[int]]:
    """The numbers of the steps in whose folders each step reads."""
    outs = {number: str(step["out"]) for number, step in steps.items()}
    return {
        number: {
            other
            for text in _texts({key: value for key, value in step.items() if key != "out"})
            for other, out in outs.items()
            if is_under(text, out) and outs[number] != out
        }
        for number, step in steps.items()
    }


def _texts(value: Any) -> Iterator[str]:
    """Every text in settings."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value


def varying(grid: GridSettings, every: Sequence[Steps], columns: Mapping[str, str | None]) -> set[str]:
    """The columns whose values the axes that run across change."""
    changed = {int(key.partition(".")[0]) for axis in grid.across for key in _keys(grid.axes[axis])}
    links = [_links(steps) for steps in every]
    return {
        column
        for column, place in columns.items()
        if place is not None and any(changed & closure({int(place.partition(".")[0])}, link) for link in links)
    }


def column_names(columns: Sequence[str], changed: set[str], point: Point) -> dict[str, str]:
    """The name of each column at a point.

    A column that no axis across changes has one name everywhere. Others are named by the values across, and by
    themselves where there are several.
    """
    several = len(changed) > 1
    return {
        column: ", ".join((*point.across, *([column] if several else []))) if column in changed else column
        for column in columns
    }


def folder_of(step: Mapping[str, Any]) -> str:
    """A name for the folder of a step by its command and a hash of its settings, in which equal steps share a run."""
    digest = sha256_bytes(canonical_json({key: value for key, value in step.items() if key != "out"}))
    return f"{step.get('command', 'step')}-{digest[:12]}"
