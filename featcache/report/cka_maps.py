"""Pictures of CKA: a map of layers by layers for each network and pair, with that of random weights beside it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from featcache.evaluation.cka import BlockMeasures, Map

SIDE_INCHES = 4.6
_MOST_TICKS = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CkaMap:
    """CKA between the layers of a network and those of itself or another one.

    Attributes:
        title: Name of the network, or of both.
        values: CKA, float64 [La, Lb]; NaN where it is not defined.
        rows: Names of the layers of the first network, from the first to the last.
        columns: Names of those of the second one.
        measures: What the map shows.
    """

    title: str
    values: Map
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    measures: BlockMeasures


def draw_maps(pairs: Sequence[tuple[CkaMap, CkaMap | None]]) -> bytes:
    """Draw maps, one below the other, each with its untrained twin beside it; PNG bytes.

    First layers are at the bottom left. The frame of a map's largest block is drawn.

    Args:
        pairs: Maps, and the same of networks with random weights if there are any.
    """
    num_columns = 2 if any(twin is not None for _, twin in pairs) else 1
    figure = Figure(figsize=(SIDE_INCHES * num_columns + 1.0, SIDE_INCHES * len(pairs)), layout="constrained")
    FigureCanvasAgg(figure)
    for line, pair in enumerate(pairs):
        for column, drawn in enumerate(pair):
            if drawn is None:
                continue
            axes = figure.add_subplot(len(pairs), num_columns, line * num_columns + column + 1)
            image = axes.imshow(drawn.values, origin="lower", cmap="magma", vmin=0.0, vmax=1.0, aspect="auto")
            axes.set_title(f"{drawn.title}\n{_told(drawn.measures)}", fontsize=8)
            _name(axes.set_xticks, drawn.columns, rotation=90)
            _name(axes.set_yticks, drawn.rows, rotation=0)
            if (block := drawn.measures.largest) is not None and block.num_layers > 1:
                corner = (block.first - 0.5, block.first - 0.5)
                axes.add_patch(Rectangle(corner, block.num_layers, block.num_layers, fill=False, edgecolor="cyan"))
            figure.colorbar(image, ax=axes, shrink=0.8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _told(measures: BlockMeasures) -> str:
    block = "" if measures.largest is None else f", largest block {measures.largest.num_layers}"
    return f"mean {measures.mean:.2f}, above {measures.threshold:g}: {measures.share_above:.0%}{block}"


def _name(set_ticks: object, layers: Sequence[str], *, rotation: int) -> None:
    """Name some layers of an axis, evenly spaced."""
    step = -(-len(layers) // _MOST_TICKS)
    places = range(0, len(layers), step)
    set_ticks(list(places), [layers[place] for place in places], fontsize=5, rotation=rotation)  # type: ignore[operator]
