"""The probe ``retrieval``: whether training videos of a test video's class are among its nearest (R@k)."""

import numpy as np

from featcache.evaluation.neighbours import find_neighbours
from featcache.evaluation.probe import Prediction, Task
from featcache.evaluation.settings import RetrievalSettings


def retrieval(task: Task, settings: RetrievalSettings, /) -> Prediction:
    """Score each class by the place of its nearest training video (as VCOP, PRP and RSPNet do).

    Each video is the mean of its rows, at unit length, and finds training videos by cosine, never its own group's;
    among equal cosines the earlier one comes first. The score of a class is minus the number of videos that are
    nearer than its nearest, or -inf if it is not among the largest of ``ks``. So a test video is a hit at k if the
    score of its class is above -k.
    """
    ks = tuple(sorted({1, *settings.ks}))
    found = find_neighbours(task, k=ks[-1], by_group=True, backend=settings.backend)
    labels = task.data.labels[found.bank_video]
    scores = np.full((len(task.test), len(task.data.classes)), -np.inf)
    for place in reversed(range(found.rows.shape[1])):  # nearer ones overwrite farther ones
        rows = found.rows[:, place]
        queries = np.flatnonzero(rows >= 0)
        scores[queries, labels[rows[queries]]] = -place
    notes = []
    if too_many := [str(k) for k in ks if k > found.fewest]:
        notes.append(
            f"k={', '.join(too_many)} is more than the {found.fewest} training videos at hand: all of them are "
            "searched, and R@k is the share of videos whose class they have"
        )
    return Prediction(scores=scores[None], ks=ks, notes=tuple(notes))
