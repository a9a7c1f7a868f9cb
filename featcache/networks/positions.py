"""Resizes position embeddings to grids of another size than the one they were trained on."""

from torch import Tensor
from torch.nn import functional

Grid = tuple[int, int, int]


def resize_positions(table: Tensor, *, native: Grid, grid: Grid) -> Tensor:
    """Interpolate position embeddings trilinearly in time, height and width (SCALE's rule for its test crops).

    Args:
        table: float [t h w, C], row after row, frame after frame.
        native: (t, h, w) of ``table``.
        grid: (t, h, w) of the result.

    Returns:
        float [t h w, C] of ``grid``; ``table`` itself if the grids are equal.
    """
    if grid == native:
        return table
    volume = table.T.reshape(1, -1, *native)
    resized = functional.interpolate(volume, size=grid, mode="trilinear", align_corners=False)
    return resized[0].flatten(1).T
