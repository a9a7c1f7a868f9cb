"""Weighted nearest neighbours by cosine: exact, several k from one search."""

import dataclasses

import numpy as np
import numpy.typing as npt

from featcache.evaluation.neighbours import find_neighbours
from featcache.evaluation.probe import Prediction, Task
from featcache.evaluation.settings import KnnSettings
from featcache.metrics.neighbours import vote
from featcache.recipes import PositionForm


def position_form(settings: KnnSettings) -> PositionForm | None:
    """The form of positions of the predictor, if there is one."""
    if settings.model is None:
        return None
    from featcache.evaluation.sets import saved_form  # imports the training of predictors

    return saved_form(settings)


def knn(task: Task, settings: KnnSettings, /) -> Prediction:
    """Score each test video by its nearest training rows, never by its own rows or, in leave-one-out, its group's.

    Each of the k neighbours votes for its class with weight exp(cosine / temperature) (Wu et al., CVPR 2018, Sec. 3.4;
    DINO's and SVT's evaluation). The scores are the shares of the votes; a class without a vote scores -inf. With a
    model, rows are [x; CLS] and each split is centred (SCALE_kNN).
    """
    if settings.model is None:
        return _neighbours(task, settings)
    from featcache.evaluation.sets import with_notes, with_summaries

    parts = []
    for seed in settings.model_seeds:
        data = with_summaries(task.data, model=settings.model, seed=seed, device=task.device)
        parts.append(_neighbours(dataclasses.replace(task, data=data), settings))
    prediction = Prediction(
        scores=np.concatenate([part.scores for part in parts]),
        variants={name: np.concatenate([part.variants[name] for part in parts]) for name in parts[0].variants},
        notes=parts[0].notes,
        seeds=settings.model_seeds,
    )
    return with_notes(prediction, task.data)


def _neighbours(task: Task, settings: KnnSettings) -> Prediction:
    # In leave-one-out neither a video's own rows nor those of its group help to score it.
    found = find_neighbours(
        task,
        k=max(settings.ks),
        by_group=task.leaves_one_out,
        views=settings.views,
        is_centred=settings.is_centred,
        backend=settings.backend,
    )
    units = "videos" if settings.views == "mean" else "rows"
    labels, query_video = task.data.labels[found.bank_video], found.query_video

    def scores(k: int) -> npt.NDArray[np.float64]:
        near, rows = found.similarities[:, :k], found.rows[:, :k]
        shares = vote(near, rows, labels, len(task.data.classes), temperature=settings.temperature)
        position = np.searchsorted(task.test, query_video)  # the rows of a video are neighbours in ``queries``
        starts = np.flatnonzero(np.diff(position, prepend=-1))
        mean = np.add.reduceat(shares, starts, axis=0) / np.diff(np.append(starts, len(position)))[:, None]
        return np.where(mean > 0, mean, -np.inf)[None]

    return Prediction(
        scores=scores(settings.ks[0]),
        variants={f"k={k}": scores(k) for k in settings.ks},
        notes=tuple(
            f"k={k} is more than the {found.fewest} training {units} at hand: all of them vote"
            for k in settings.ks
            if k > found.fewest
        ),
    )
