"""Weighted nearest neighbours by cosine: exact, several k from one search."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featcache.evaluation.data import ProbeData
from featcache.evaluation.flat_index import flat_index
from featcache.evaluation.probe import Prediction, Task
from featcache.evaluation.settings import KnnSettings
from featcache.recipes import PositionForm
from featcache.stages import OnStage, ignore

Neighbours = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
"""Similarities float32 [Q, k] in decreasing order, and bank indices int64 [Q, k]; -inf and -1 if there are fewer."""

SIMILARITIES_AT_ONCE = 2**24
VALUES_AT_ONCE = 2**22


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
    bank, bank_video = _vectors(task.data, task.train, settings)
    queries, query_video = _vectors(task.data, task.test, settings)
    search = _search_faiss if settings.backend == "faiss" else search_torch
    own, asking = bank_video, query_video
    if task.leaves_one_out:  # neither a video's own rows nor those of its group help to score it
        own, asking = task.groups_of(bank_video), task.groups_of(query_video)
    found = search(bank, own, queries, asking, max(settings.ks), task.device, task.on_stage)
    labels = task.data.labels[bank_video]

    def scores(k: int) -> npt.NDArray[np.float64]:
        shares = vote(
            found[0][:, :k], found[1][:, :k], labels, len(task.data.classes), temperature=settings.temperature
        )
        position = np.searchsorted(task.test, query_video)  # the rows of a video are neighbours in ``queries``
        starts = np.flatnonzero(np.diff(position, prepend=-1))
        mean = np.add.reduceat(shares, starts, axis=0) / np.diff(np.append(starts, len(position)))[:, None]
        return np.where(mean > 0, mean, -np.inf)[None]

    fewest = int((found[1] >= 0).sum(axis=1).min())
    return Prediction(
        scores=scores(settings.ks[0]),
        variants={f"k={k}": scores(k) for k in settings.ks},
        notes=tuple(
            f"k={k} is more than the {fewest} training {'videos' if settings.views == 'mean' else 'rows'} at hand: "
            "all of them vote"
            for k in settings.ks
            if k > fewest
        ),
    )


def vote(
    similarities: npt.NDArray[np.float32],
    neighbours: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    num_classes: int,
    *,
    temperature: float,
) -> npt.NDArray[np.float64]:
    """Compute the shares of the weighted votes.

    Args:
        similarities: float32 [Q, k], cosines; -inf for no neighbour.
        neighbours: int64 [Q, k], indices into ``labels``; -1 for no neighbour.
        labels: int64 [N], class of each bank row.
        num_classes: Number of classes C.
        temperature: Temperature of the weights exp(s / temperature).

    Returns:
        float64 [Q, C]; each row sums to 1.
    """
    weights = np.exp(similarities.astype(np.float64) / temperature)  # exp(-inf) = 0: no neighbour, no vote
    cells = np.arange(len(weights))[:, None] * num_classes + labels[neighbours]
    votes = np.bincount(cells.ravel(), weights.ravel(), minlength=len(weights) * num_classes)
    votes = votes.reshape(len(weights), num_classes)
    shares: npt.NDArray[np.float64] = votes / votes.sum(axis=1, keepdims=True)
    return shares


def _vectors(
    data: ProbeData, videos: npt.NDArray[np.int64], settings: KnnSettings
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Unit vectors float32 [R, D] of ``videos`` (zero vectors stay zero) and the video of each, int64 [R]."""
    if settings.views == "mean":
        vectors, owners = data.video_means(videos), videos
    else:
        rows, counts = data.rows_of(videos)
        vectors, owners = data.features[rows].astype(np.float32, copy=False), np.repeat(videos, counts)
    if settings.is_centred:
        split = np.array(data.splits)[owners]
        for name in np.unique(split):
            mine = np.flatnonzero(split == name)
            mean = vectors[mine].mean(axis=0, dtype=np.float64).astype(np.float32)
            for part in _chunks(mine, vectors):
                vectors[part] -= mean
    for part in _chunks(np.arange(len(vectors)), vectors):
        wide = vectors[part].astype(np.float64)  # in float64 no scale under- or overflows
        norms = np.linalg.norm(wide, axis=1, keepdims=True)
        vectors[part] = wide / np.where(norms > 0, norms, 1)
    return vectors, owners


def _chunks(rows: npt.NDArray[np.int64], vectors: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.int64]]:
    """Some rows at a time, so that only as many are in memory twice."""
    size = max(1, VALUES_AT_ONCE // vectors.shape[1])
    for begin in range(0, len(rows), size):
        yield rows[begin : begin + size]


def search_torch(
    bank: npt.NDArray[np.float32],
    bank_owner: npt.NDArray[np.int64],
    queries: npt.NDArray[np.float32],
    query_owner: npt.NDArray[np.int64],
    k: int,
    device: str,
    on_stage: OnStage = ignore,
) -> Neighbours:
    """Exact search by matrix products in chunks; among equal similarities the lower bank index is taken.

    A row is never a neighbour of a query with the same owner (a video, or a group of videos).
    """
    k = min(k, len(bank))
    table, owners = torch.from_numpy(bank).to(device), torch.from_numpy(bank_owner).to(device)
    chunk = max(1, SIMILARITIES_AT_ONCE // len(bank))
    parts = []
    for begin in range(0, len(queries), chunk):
        query = torch.from_numpy(queries[begin : begin + chunk]).to(device)
        owner = torch.from_numpy(query_owner[begin : begin + chunk]).to(device)
        similarity = query @ table.T
        similarity.masked_fill_(owner[:, None] == owners, -torch.inf)
        parts.append(_top(similarity, k))
        on_stage("search", min(begin + chunk, len(queries)), len(queries))
    return _ordered(torch.cat([s for s, _ in parts]).numpy(), torch.cat([i for _, i in parts]).numpy())


def _top(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Top k of each row; rows with a tie at the k-th place are sorted, because ``topk`` takes any of the tied ones."""
    values, indices = similarity.topk(k, dim=1)
    tied = (similarity >= values[:, -1:]).sum(dim=1) > k
    if tied.any():
        ordered, places = similarity[tied].sort(dim=1, descending=True, stable=True)
        values[tied], indices[tied] = ordered[:, :k], places[:, :k]
    return values.cpu(), indices.cpu()


def _search_faiss(
    bank: npt.NDArray[np.float32],
    bank_owner: npt.NDArray[np.int64],
    queries: npt.NDArray[np.float32],
    query_owner: npt.NDArray[np.int64],
    k: int,
    device: str,
    on_stage: OnStage = ignore,
) -> Neighbours:
    """The same search with faiss's exact inner-product index; see :mod:`featcache.evaluation.flat_index`."""
    own = int(np.bincount(bank_owner).max()) if np.isin(query_owner, bank_owner).any() else 0
    wanted = min(k + own, len(bank))
    index = flat_index(bank.shape[1], device=device, k=wanted)
    index.add(np.ascontiguousarray(bank))
    similarity, neighbours = index.search(np.ascontiguousarray(queries), wanted)
    on_stage("search", len(queries), len(queries))
    similarity = np.where(bank_owner[neighbours] == query_owner[:, None], -np.inf, similarity).astype(np.float32)
    ordered, places = _ordered(similarity, neighbours)
    return ordered[:, :k], places[:, :k]


def _ordered(similarity: npt.NDArray[np.float32], neighbours: npt.NDArray[np.int64]) -> Neighbours:
    """Sort each row by decreasing similarity, then by increasing bank index; masked entries become index -1."""
    order = np.lexsort((neighbours, -similarity), axis=1)
    similarity = np.take_along_axis(similarity, order, axis=1)
    neighbours = np.take_along_axis(neighbours, order, axis=1)
    return similarity, np.where(np.isneginf(similarity), -1, neighbours)
