"""The nearest training rows of each test row by cosine, exact; the search that kNN and retrieval share."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featcache.evaluation.data import ProbeData
from featcache.evaluation.flat_index import flat_index
from featcache.evaluation.probe import Task
from featcache.evaluation.settings import Backend, Views
from featcache.metrics.neighbours import Neighbours, distinct, ordered, search_torch
from featcache.stages import OnStage, ignore

VALUES_AT_ONCE = 2**22


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """The neighbours of the test rows of a task.

    Attributes:
        similarities: float32 [Q, k], cosines in decreasing order; -inf for no neighbour.
        rows: int64 [Q, k], indices of bank rows; among equal cosines the lower one comes first; -1 for no neighbour.
        bank_video: int64 [N], the video of each bank row.
        query_video: int64 [Q], the video of each test row, in the order of the task's test videos.
    """

    similarities: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]
    bank_video: npt.NDArray[np.int64]
    query_video: npt.NDArray[np.int64]

    @property
    def fewest(self) -> int:
        """The smallest number of neighbours that a test row has."""
        return int((self.rows >= 0).sum(axis=1).min())


def find_neighbours(
    task: Task, *, k: int, by_group: bool, views: Views = "mean", is_centred: bool = False, backend: Backend = "torch"
) -> Found:
    """Search the ``k`` nearest training rows of each test row.

    Args:
        task: Training and test videos.
        k: Number of neighbours; all rows are found if there are fewer.
        by_group: Leave out the rows of a test video's group, not only its own; the same if no groups are known.
        views: ``mean``: each video is one row, the mean of its rows. ``vote``: rows as they are.
        is_centred: Whether each split's own mean is subtracted.
        backend: ``torch`` or ``faiss``.
    """
    bank, bank_video = _vectors(task.data, task.train, views=views, is_centred=is_centred)
    queries, query_video = _vectors(task.data, task.test, views=views, is_centred=is_centred)
    search = _search_faiss if backend == "faiss" else search_torch
    own, asking = (task.groups_of(videos) if by_group else videos for videos in (bank_video, query_video))
    similarities, rows = search(bank, own, queries, asking, k, task.device, task.on_stage)
    return Found(similarities=similarities, rows=rows, bank_video=bank_video, query_video=query_video)


def _vectors(
    data: ProbeData, videos: npt.NDArray[np.int64], *, views: Views, is_centred: bool
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Unit vectors float32 [R, D] of ``videos`` (zero vectors stay zero) and the video of each, int64 [R]."""
    if views == "mean":
        vectors, owners = data.video_means(videos), videos
    else:
        rows, counts = data.rows_of(videos)
        vectors, owners = data.features[rows].astype(np.float32, copy=False), np.repeat(videos, counts)
    if is_centred:
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


def _search_faiss(
    bank: npt.NDArray[np.float32],
    bank_owner: npt.NDArray[np.int64],
    queries: npt.NDArray[np.float32],
    query_owner: npt.NDArray[np.int64],
    k: int,
    device: str,
    on_stage: OnStage = ignore,
) -> Neighbours:
    """The same search with faiss's exact inner-product index; see :mod:`featcache.evaluation.flat_index`.

    The index holds distinct rows; each that is found stands for its equals, as many as can be wanted.
    """
    own = int(np.bincount(bank_owner).max()) if np.isin(query_owner, bank_owner).any() else 0
    first, place = distinct(bank)
    wanted = min(k + own, len(first))
    index = flat_index(bank.shape[1], device=device, k=wanted)
    index.add(np.ascontiguousarray(bank[first]))
    similarity, found = index.search(np.ascontiguousarray(queries), wanted)
    on_stage("search", len(queries), len(queries))
    num_equal, members = np.bincount(place), np.argsort(place, kind="stable")
    step = np.arange(min(k + own, num_equal.max()))
    starts = (np.cumsum(num_equal) - num_equal)[found][..., None]
    neighbours = members[np.minimum(starts + step, len(bank) - 1)]  # [Q, wanted, equal rows]
    is_other = (step >= num_equal[found][..., None]) | (bank_owner[neighbours] == query_owner[:, None, None])
    similarity = np.where(is_other, -np.inf, similarity[..., None]).astype(np.float32)
    near, places = ordered(similarity.reshape(len(queries), -1), neighbours.reshape(len(queries), -1))
    return near[:, :k], places[:, :k]
