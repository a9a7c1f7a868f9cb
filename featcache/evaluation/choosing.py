"""Chooses a setting from a grid on held-out training videos, never on test videos."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.evaluation.settings import Candidate, Head
from featcache.metrics.splits import hold_out

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Result of one setting on the held-out videos.

    Attributes:
        top1: Accuracy over videos and seeds; 0 for regression.
        loss: Mean cross-entropy, or mean squared error; infinite if it is not a number.
        diverged: Whether a seed's training loss was not finite at the end.
    """

    top1: float
    loss: float
    diverged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The chosen setting.

    Attributes:
        index: Position of the setting in the grid.
        table: The grid with its validation numbers.
        notes: Sentences about deviations from the request.
    """

    index: int
    table: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()


def choose(
    grid: Sequence[Head] | Sequence[Candidate],
    labels: npt.NDArray[np.int64],
    *,
    groups: npt.NDArray[np.int64],
    fraction: float,
    fallback: int,
    evaluate: Callable[[Mask, Mask], Sequence[Trial]],
) -> Choice:
    """Choose the setting with the highest validation accuracy; among equals, the one with the lower validation loss.

    Args:
        grid: Settings; a single one is chosen without a trial.
        labels: int64 [A], classes of the training videos.
        groups: int64 [A], group numbers of the training videos, which keep groups together; see
            :meth:`Task.groups_of`.
        fraction: Share of each class's videos to hold out.
        fallback: Position to choose if no class has two videos (of different groups), so that none can be held out.
        evaluate: Trains every setting on the videos of the first mask, bool [A], and scores it on those of the second.
    """
    rows = [dataclasses.asdict(setting) for setting in grid]
    if len(grid) == 1:
        return Choice(index=0, table=({**rows[0], "chosen": True},))
    held = hold_out(labels, fraction=fraction, seed=0, groups=groups)
    if not held.any():
        return Choice(
            index=fallback,
            table=tuple({**row, "chosen": place == fallback} for place, row in enumerate(rows)),
            notes=(
                "no class has two training videos (of different groups), so none could be held out to choose a head; "
                "the first optimiser, BatchNorm and weight decay of the grid with its middle learning rate, "
                f"{grid[fallback].lr:g}, is used",
            ),
        )
    trials = evaluate(~held, held)
    chosen = max(range(len(grid)), key=lambda place: (trials[place].top1, -trials[place].loss))
    return Choice(
        index=chosen,
        table=tuple(
            {
                **row,
                "chosen": place == chosen,
                "validation_top1": trial.top1,
                "validation_loss": trial.loss if np.isfinite(trial.loss) else None,
                "diverged": trial.diverged,
            }
            for place, (row, trial) in enumerate(zip(rows, trials, strict=True))
        ),
    )
