"""The linear probe: a grid of heads; the best one is chosen on held-out training videos and trained on all of them."""

import numpy as np
import numpy.typing as npt
import torch

from featcache.errors import ConfigError
from featcache.evaluation.choosing import Mask, Trial, choose
from featcache.evaluation.grid import TrainedGrid, iter_video_probabilities, train_grid
from featcache.evaluation.probe import Prediction, Task
from featcache.evaluation.settings import Head, LinearSettings
from featcache.metrics.intervals import rank_of_truth


def linear(task: Task, settings: LinearSettings, /) -> Prediction:
    """Train every head on part of the training videos, choose on the rest, train the chosen one on all.

    Every row is an example of its video's class. A video's score is the softmax averaged over its rows after the last
    epoch (not the best one). The head with the highest validation accuracy over the seeds is chosen; among equals, the
    one with the lower validation loss. Test videos are not used for the choice.

    Differs from the papers: SCALE reports the best test accuracy over epochs, DINO and V-JEPA the best head on test.
    """
    classes, local = np.unique(task.data.labels[task.train], return_inverse=True)
    heads = settings.heads

    def evaluate(kept: Mask, held: Mask) -> list[Trial]:
        grid = _fit(task, task.train[kept], local[kept], heads, settings, name="grid")
        return _validate(grid, task, task.train[held], local[held])

    choice = choose(
        heads,
        local,
        groups=task.groups_of(task.train),
        fraction=settings.validation_fraction,
        fallback=len(settings.lrs) // 2,
        evaluate=evaluate,
    )
    chosen = heads[choice.index]
    final = _fit(task, task.train, local, (chosen,), settings, name="chosen")
    rows, counts = task.data.rows_of(task.test)
    scores = np.full((len(settings.seeds), len(task.test), len(task.data.classes)), -np.inf)
    if not final.train_loss.isfinite().all():
        raise ConfigError(
            f"the chosen head diverged ({chosen.optimizer}, lr {chosen.lr:g}) on feature "
            f"{task.data.feature!r} of {task.data.store}; give smaller learning rates or batch_norms true"
        )
    for videos, probabilities in iter_video_probabilities(final, _to_device(task, rows), counts):
        scores[:, videos, classes] = probabilities[:, :, 0].cpu().numpy()
    return Prediction(scores=scores, table=choice.table, notes=choice.notes, seeds=settings.seeds)


def _fit(
    task: Task,
    videos: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    heads: tuple[Head, ...],
    settings: LinearSettings,
    *,
    name: str,
) -> TrainedGrid:
    rows, counts = task.data.rows_of(videos)
    targets = torch.from_numpy(np.repeat(labels, counts)).to(task.device)
    return train_grid(
        _to_device(task, rows),
        targets,
        heads,
        num_classes=int(labels.max()) + 1,
        settings=settings,
        name=name,
        parts=task.parts,
        on_epochs=lambda done: task.on_stage(name, done, settings.epochs, f"{len(heads)} heads, epochs"),
    )


def _validate(
    grid: TrainedGrid, task: Task, videos: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]
) -> list[Trial]:
    """Validation metrics of each head over seeds and videos."""
    rows, counts = task.data.rows_of(videos)
    right, loss = np.zeros(grid.num_heads), np.zeros(grid.num_heads)
    for part, probabilities in iter_video_probabilities(grid, _to_device(task, rows), counts):
        by_head = probabilities.permute(0, 2, 1, 3).cpu().numpy()  # [S, H, m, C]
        right += (rank_of_truth(by_head, labels[part]) == 0).sum(axis=(0, 2))
        truth = np.take_along_axis(by_head, labels[part][None, None, :, None], axis=-1)
        loss -= np.log(np.maximum(truth, np.finfo(np.float32).tiny)).sum(axis=(0, 2, 3))  # NaN stays NaN
    share = len(videos) * len(by_head)
    loss = np.where(np.isnan(loss), np.inf, loss / share)
    diverged = ~grid.train_loss.isfinite().all(dim=0).numpy()
    return [
        Trial(top1=float(right[head] / share), loss=float(loss[head]), diverged=bool(diverged[head]))
        for head in range(grid.num_heads)
    ]


def _to_device(task: Task, rows: npt.NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(task.data.features[rows]).to(task.device)
