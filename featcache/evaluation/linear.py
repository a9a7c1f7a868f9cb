"""The linear probe: a grid of heads, the best chosen on held-out training videos, then trained on all of them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from featcache.errors import ConfigError
from featcache.evaluation.grid import TrainedGrid, iter_video_probabilities, train_grid
from featcache.evaluation.metrics import rank_of_truth
from featcache.evaluation.probe import Prediction, Task, register_probe
from featcache.evaluation.settings import Head, LinearSettings
from featcache.evaluation.splits import hold_out


@register_probe("linear", summary="linear classifier; a whole grid of heads in one pass", settings=LinearSettings)
def linear(task: Task, settings: LinearSettings, /) -> Prediction:
    """Train every head on part of the training videos, choose on the rest, train the chosen one on all.

    Every row is an example of its video's class. A video's score is the softmax averaged over its rows, after the last
    epoch (not the best). The head with the highest validation accuracy over the seeds is chosen, of equals the one
    with the lower validation loss; test videos play no part.

    Differs from the papers: SCALE reports the best test accuracy over epochs, DINO and V-JEPA the best head on test.
    """
    classes, local = np.unique(task.data.labels[task.train], return_inverse=True)
    heads = settings.heads
    notes: tuple[str, ...] = ()
    if len(heads) == 1:
        chosen, table = 0, [_describe(heads[0], is_chosen=True)]
    else:
        held = hold_out(local, fraction=settings.validation_fraction, seed=0)
        if held.any():
            grid = _fit(task, task.train[~held], local[~held], heads, settings)
            accuracy, loss = _validate(grid, task, task.train[held], local[held])
            chosen = max(range(len(heads)), key=lambda head: (accuracy[head], -loss[head]))
            table = [
                {
                    **_describe(head, is_chosen=place == chosen),
                    "validation_top1": accuracy[place],
                    "validation_loss": loss[place] if np.isfinite(loss[place]) else None,
                    "diverged": not bool(grid.train_loss[:, place].isfinite().all()),
                }
                for place, head in enumerate(heads)
            ]
        else:
            chosen = len(settings.lrs) // 2
            table = [_describe(head, is_chosen=place == chosen) for place, head in enumerate(heads)]
            notes = (
                "no class has two training videos, so none could be held out to choose a head; the first optimiser, "
                f"BatchNorm and weight decay of the grid with its middle learning rate, {heads[chosen].lr:g}, is used",
            )

    final = _fit(task, task.train, local, (heads[chosen],), settings)
    rows, counts = task.data.rows_of(task.test)
    scores = np.full((len(settings.seeds), len(task.test), len(task.data.classes)), -np.inf)
    if not final.train_loss.isfinite().all():
        raise ConfigError(
            f"the chosen head diverged ({heads[chosen].optimizer}, lr {heads[chosen].lr:g}) on feature "
            f"{task.data.feature!r} of {task.data.store}; give smaller learning rates or batch_norms true"
        )
    for videos, probabilities in iter_video_probabilities(final, _to_device(task, rows), counts):
        scores[:, videos, classes] = probabilities[:, :, 0].cpu().numpy()
    return Prediction(scores=scores, table=tuple(table), notes=notes)


def _fit(
    task: Task,
    videos: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    heads: tuple[Head, ...],
    settings: LinearSettings,
) -> TrainedGrid:
    rows, counts = task.data.rows_of(videos)
    targets = torch.from_numpy(np.repeat(labels, counts)).to(task.device)
    return train_grid(_to_device(task, rows), targets, heads, num_classes=int(labels.max()) + 1, settings=settings)


def _validate(
    grid: TrainedGrid, task: Task, videos: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]
) -> tuple[list[float], list[float]]:
    """Top-1 accuracy and mean cross-entropy of each head, over seeds and videos."""
    rows, counts = task.data.rows_of(videos)
    right, loss = np.zeros(grid.num_heads), np.zeros(grid.num_heads)
    for part, probabilities in iter_video_probabilities(grid, _to_device(task, rows), counts):
        by_head = probabilities.permute(0, 2, 1, 3).cpu().numpy()  # [S, H, m, C]
        right += (rank_of_truth(by_head, labels[part]) == 0).sum(axis=(0, 2))
        truth = np.take_along_axis(by_head, labels[part][None, None, :, None], axis=-1)
        loss -= np.log(np.maximum(truth, np.finfo(np.float32).tiny)).sum(axis=(0, 2, 3))  # NaN stays NaN
    share = len(videos) * len(by_head)
    return (right / share).tolist(), np.where(np.isnan(loss), np.inf, loss / share).tolist()


def _to_device(task: Task, rows: npt.NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(task.data.features[rows]).to(task.device)


def _describe(head: Head, *, is_chosen: bool) -> dict[str, Any]:
    return {
        "optimizer": head.optimizer,
        "lr": head.lr,
        "weight_decay": head.weight_decay,
        "batch_norm": head.batch_norm,
        "chosen": is_chosen,
    }
