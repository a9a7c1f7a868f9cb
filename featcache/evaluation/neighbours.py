"""The nearest training rows of each test row by cosine, exact; the search that kNN and retrieval share."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featcache.evaluation.data import ProbeData
from featcache.evaluation.flat_index import flat_index
from featcache.evaluation.probe import Task
from featcache.evaluation.settings import Backend, Views
from featcache.stages import OnStage, ignore

Neighbours = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
"""Similarities float32 [Q, k] in decreasing order, and bank indices int64 [Q, k]; -inf and -1 if there are fewer."""

SIMILARITIES_AT_ONCE = 2**24
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

    Equal rows have equal similarities: each is multiplied once, because the last bit of a matrix product depends on
    where a row lies. A row is never a neighbour of a query with the same owner (a video, or a group of videos).
    """
    k = min(k, len(bank))
    first, place = _distinct(bank)
    has_equals = len(first) < len(bank)
    table = torch.from_numpy(bank[first] if has_equals else bank).to(device)
    places, owners = torch.from_numpy(place).to(device), torch.from_numpy(bank_owner).to(device)
    chunk = max(1, SIMILARITIES_AT_ONCE // len(bank))
    parts = []
    for begin in range(0, len(queries), chunk):
        query = torch.from_numpy(queries[begin : begin + chunk]).to(device)
        owner = torch.from_numpy(query_owner[begin : begin + chunk]).to(device)
        similarity = query @ table.T
        if has_equals:
            similarity = similarity.index_select(1, places)
        similarity.masked_fill_(owner[:, None] == owners, -torch.inf)
        parts.append(_top(similarity, k))
        on_stage("search", min(begin + chunk, len(queries)), len(queries))
    return _ordered(torch.cat([s for s, _ in parts]).numpy(), torch.cat([i for _, i in parts]).numpy())


def _distinct(bank: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices of the first rows of equal ones, int64 [U] in order, and the place of each row among them, int64 [N]."""
    seen: dict[bytes, int] = {}
    # Adding zero makes -0 and 0 the same bytes.
    digests = (hashlib.blake2b((row + 0).tobytes(), digest_size=16).digest() for row in bank)
    place = np.array([seen.setdefault(digest, len(seen)) for digest in digests], np.int64)
    return np.unique(place, return_index=True)[1].astype(np.int64), place


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
    """The same search with faiss's exact inner-product index; see :mod:`featcache.evaluation.flat_index`.

    The index holds distinct rows; each that is found stands for its equals, as many as can be wanted.
    """
    own = int(np.bincount(bank_owner).max()) if np.isin(query_owner, bank_owner).any() else 0
    first, place = _distinct(bank)
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
    ordered, places = _ordered(similarity.reshape(len(queries), -1), neighbours.reshape(len(queries), -1))
    return ordered[:, :k], places[:, :k]


def _ordered(similarity: npt.NDArray[np.float32], neighbours: npt.NDArray[np.int64]) -> Neighbours:
    """Sort each row by decreasing similarity, then by increasing bank index; masked entries become index -1."""
    order = np.lexsort((neighbours, -similarity), axis=1)
    similarity = np.take_along_axis(similarity, order, axis=1)
    neighbours = np.take_along_axis(neighbours, order, axis=1)
    return similarity, np.where(np.isneginf(similarity), -1, neighbours)
