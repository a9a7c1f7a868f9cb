"""Accuracy against cost, out of the tables of sweeps."""

import json
from pathlib import Path
from typing import Any

from featcache.errors import ConfigError, unknown_name
from featcache.io import put_replace
from featcache.report.figure_settings import CostFigureSettings
from featcache.report.plots import CostPoint, plot_cost


def draw_cost(settings: CostFigureSettings) -> list[CostPoint]:
    """Draw the rows of tables as points; rows of one name in several tables are one point.

    Raises:
        ConfigError: No table there, or no row that has both columns.
        UnknownNameError: No table has such a column.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name in settings.tables:
        for row in read_table(Path(name))["rows"]:
            rows.setdefault(row["name"], {}).update(row)
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
    return points


def read_table(path: Path) -> dict[str, Any]:
    """The ``table.json`` of a sweep, by the file or its folder.

    Raises:
        ConfigError: It is not there, or is something else.
    """
    file = path / "table.json" if path.is_dir() else path
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} is no table of a sweep ({error}); `featcache run` writes one") from error
    if not isinstance(table, dict) or not isinstance(table.get("rows"), list):
        raise ConfigError(f"{file} is no table of a sweep; give the table.json that `featcache run` wrote")
    return table


def _value(row: dict[str, Any], column: str | None) -> float | None:
    value: float | None = row[column]["value"] if column is not None and column in row else None
    return value
