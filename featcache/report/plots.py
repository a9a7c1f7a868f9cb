"""Plots of tables with matplotlib, without a display."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from featcache.files.publish import put_replace
from featcache.files.sealed import canonical_json
from featcache.report.tables import Table

INCHES = (4.2, 3.2)
SMALLEST_AREA, LARGEST_AREA = 30.0, 1500.0  # square points


def plot_table(table: Table) -> bytes:
    """Plot one panel per column over ``x``: our values with intervals, published ones dashed. Returns PNG bytes."""
    figure = Figure(figsize=(INCHES[0] * len(table.columns), INCHES[1]), layout="constrained")
    FigureCanvasAgg(figure)
    placed = sorted(((x, cells) for _, x, _, cells in table.rows if x is not None), key=lambda row: row[0])
    places = [x for x, _ in placed]
    for number, column in enumerate(table.columns):
        axes = figure.add_subplot(1, len(table.columns), number + 1)
        cells = [cells[column] for _, cells in placed]
        values = [math.nan if cell.value is None else cell.value for cell in cells]
        below = [value - (value if cell.low is None else cell.low) for value, cell in zip(values, cells, strict=True)]
        above = [(value if cell.high is None else cell.high) - value for value, cell in zip(values, cells, strict=True)]
        axes.errorbar(places, values, yerr=[below, above], marker="o", capsize=3, label="ours")
        published = [(x, cell.published) for x, cell in zip(places, cells, strict=True) if cell.published is not None]
        if published:
            axes.plot(*zip(*published, strict=True), marker="x", linestyle="--", label="published")
        axes.set_xlabel(table.x_label)
        axes.set_ylabel(column)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(table.title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPoint:
    """One row of a table as a point of accuracy over cost.

    Attributes:
        name: Name of the row.
        cost: Cost, above 0.
        accuracy: Accuracy in percent.
        memory: Value to which the marker's area is proportional; ``None``: the area of the smallest marker.
    """

    name: str
    cost: float
    accuracy: float
    memory: float | None = None


def plot_cost(points: Sequence[CostPoint], *, cost_label: str, accuracy_label: str, memory_label: str | None) -> bytes:
    """Plot accuracy over logarithmic cost, with marker areas proportional to memory (AdViSe, Fig. 1); PNG bytes."""
    figure = Figure(figsize=(2 * INCHES[0], 1.6 * INCHES[1]), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    largest = max((point.memory or 0.0 for point in points), default=0.0)
    areas = [LARGEST_AREA * (point.memory or 0.0) / largest if largest else 0.0 for point in points]
    axes.scatter(
        [point.cost for point in points],
        [point.accuracy for point in points],
        s=[max(SMALLEST_AREA, area) for area in areas],
        alpha=0.6,
    )
    for point in points:
        axes.annotate(point.name, (point.cost, point.accuracy), xytext=(6, 6), textcoords="offset points")
    axes.set_xscale("log")
    axes.margins(0.15)
    axes.set_xlabel(cost_label)
    axes.set_ylabel(accuracy_label)
    if memory_label is not None and largest:
        axes.set_title(f"area: {memory_label}, at most {largest:.3g}")
    axes.grid(alpha=0.3, which="both")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def write_table(table: Table, folder: Path) -> None:
    """Write ``table.json``, ``table.md`` and, if rows have an ``x``, ``plot.png``."""
    put_replace(folder / "table.json", canonical_json(table.to_dict()))
    put_replace(folder / "table.md", table.to_markdown().encode())
    if any(x is not None for _, x, _, _ in table.rows):
        put_replace(folder / "plot.png", plot_table(table))
