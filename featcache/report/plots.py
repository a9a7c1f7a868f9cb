"""Plots of tables with matplotlib, without a display."""

import io
import math

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from featcache.report.tables import Table

INCHES = (4.2, 3.2)


def plot_table(table: Table) -> bytes:
    """One panel a column over ``x``: ours with intervals, published dashed. PNG bytes."""
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
