"""Plot of accuracy against severity, a line for each kind of noise."""

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from featcache.evaluation.noise_result import NoiseResult
from featcache.metrics.intervals import Metric
from featcache.report.plots import INCHES
from featcache.report.tables import PERCENT


def plot_noise(result: NoiseResult) -> bytes:
    """One panel per run and split: top-1 accuracy over severity with intervals, without noise dashed; PNG bytes."""
    panels = [(f"{name}, {split}", part) for name, run in result.runs.items() for split, part in run.splits.items()]
    figure = Figure(figsize=(INCHES[0] * len(panels), INCHES[1]), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, part) in zip(all_axes, panels, strict=True):
        for kind in dict.fromkeys(cell.kind for cell in part.noisy.values()):
            cells = sorted((cell for cell in part.noisy.values() if cell.kind == kind), key=lambda cell: cell.severity)
            values, below, above = _bars([cell.metrics["top1"] for cell in cells])
            places = [cell.severity for cell in cells]
            axes.errorbar(places, values, yerr=[below, above], marker="o", capsize=3, label=kind)
        clean = part.clean["top1"]
        axes.axhline(PERCENT * clean.value, linestyle="--", color="black", label="clean")
        axes.axhspan(PERCENT * clean.low, PERCENT * clean.high, color="black", alpha=0.08)
        axes.set_xticks(sorted({cell.severity for cell in part.noisy.values()}))
        axes.set_xlabel("severity")
        axes.set_ylabel("top-1 accuracy, %")
        axes.set_title(title)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"noise on the {result.place}, table {result.table}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _bars(metrics: list[Metric]) -> tuple[list[float], list[float], list[float]]:
    """Values, and how far their intervals reach below and above them, in percent."""
    values = [PERCENT * each.value for each in metrics]
    below = [PERCENT * (each.value - each.low) for each in metrics]
    above = [PERCENT * (each.high - each.value) for each in metrics]
    return values, below, above
