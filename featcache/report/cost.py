"""Plots accuracy against cost from the tables of sweeps."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featcache.config import read_json
from featcache.errors import ConfigError, unknown_name
from featcache.files.publish import put_replace
from featcache.report.figure_settings import CostFigureSettings
from featcache.report.plots import CostPoint, plot_cost
from featcache.stages import OnStage, ignore
from featcache.summary import Summary, SummaryTable


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPlot:
    """A plot that was written.

    Attributes:
        points: What it shows.
        columns: Names of the horizontal and the vertical axis.
        out: The picture.
    """

    points: tuple[CostPoint, ...]
    columns: tuple[str, str]
    out: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {"points": [asdict(point) for point in self.points], "out": self.out}

    def summary(self) -> Summary:
        """What to show of it."""
        rows = tuple((point.name, f"{point.cost:.4g}", f"{point.accuracy:.1f}") for point in self.points)
        table = SummaryTable(title="accuracy against cost", columns=("", *self.columns), rows=rows)
        return Summary(tables=(table,), lines=(f"drawn to {self.out}",))


def draw_cost(settings: CostFigureSettings, *, on_stage: OnStage = ignore) -> CostPlot:
    """Draw the rows of tables as points; rows with the same name in several tables become one point.

    Args:
        settings: Everything that can be chosen.
        on_stage: Never called: a plot takes a second.

    Raises:
        ConfigError: A table does not exist, or no row has both columns.
        UnknownNameError: No table has such a column.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name in settings.tables:
        for row in read_table(Path(name))["rows"]:
            rows.setdefault(str(row["name"]), {}).update(row)
    columns = {column for row in rows.values() for column in row} - {"name", "x", "note"}
    for column in (settings.cost, settings.accuracy, settings.memory):
        if column is not None and column not in columns:
            raise unknown_name("column", column, columns)
    points = [
        CostPoint(name=name, cost=cost, accuracy=accuracy, memory=_value(row, settings.memory))
        for name, row in rows.items()
        if (cost := _value(row, settings.cost)) and (accuracy := _value(row, settings.accuracy)) is not None
    ]
    if not points:
        raise ConfigError(
            f"no row has a value of both {settings.cost!r} (above 0) and {settings.accuracy!r}; give the tables that "
            "have them under the same row names"
        )
    put_replace(
        Path(settings.out),
        plot_cost(points, cost_label=settings.cost, accuracy_label=settings.accuracy, memory_label=settings.memory),
    )
    return CostPlot(points=tuple(points), columns=(settings.cost, settings.accuracy), out=settings.out)


def read_table(path: Path) -> dict[str, Any]:
    """Read the ``table.json`` of a sweep, given the file or its folder.

    Raises:
        ConfigError: The file does not exist, or is not a table of a sweep.
    """
    file = path / "table.json" if path.is_dir() else path
    table = read_json(file, what="table of a sweep, which `featcache run` writes")
    rows = table.get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "name" in row for row in rows):
        raise ConfigError(f"{file} is no table of a sweep; give the table.json that `featcache run` wrote")
    return table


def _value(row: dict[str, Any], column: str | None) -> float | None:
    cell = row.get(column) if column is not None else None
    value = cell.get("value") if isinstance(cell, dict) else None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < sys.float_info.max:
        raise ConfigError(
            f"column {column!r} of row {row['name']!r} holds {value!r:.50}; correct the table, or name another"
        )
    return float(value)
