"""Accuracies of a table's cells against those of other cells, video by video."""

from collections.abc import Sequence
from pathlib import Path

from featcache.metrics.comparison import compare
from featcache.metrics.result import share_right
from featcache.report.tables import PERCENT, Cell


def paired_gain(run: str, baseline: str, path: Sequence[str]) -> Cell | None:
    """Accuracy of a run minus that of another one on the videos that both scored, in percent with a paired interval.

    Resamples draw groups of videos where the runs know groups. Runs keep whether each video is right, so there is no
    gain of other numbers than top-1 and R@1.

    Args:
        run: Folder of the run.
        baseline: Folder of the other one.
        path: Place of the accuracy in ``result.json``, e.g. ``splits.test.metrics.top1``.

    Returns:
        The gain; ``None`` if the place is no such accuracy, or both runs are one.

    Raises:
        ConfigError: A run has no predictions, or they have no video in common.
    """
    if run == baseline or len(path) != 4 or path[0] != "splits" or share_right({path[3]: True}) is None:
        return None
    splits = compare([Path(baseline), Path(run)]).splits
    (gain,) = splits[next(iter(splits)) if path[1] == "*" else path[1]].differences
    return Cell(value=PERCENT * gain.value, low=PERCENT * gain.low, high=PERCENT * gain.high)
