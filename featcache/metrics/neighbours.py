"""Nearest neighbours by cosine and their votes: exact, several k from one search."""

import hashlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featcache.stages import OnStage, ignore

Neighbours = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
"""Similarities float32 [Q, k] in decreasing order, and bank indices int64 [Q, k]; -inf and -1 if there are fewer."""

SIMILARITIES_AT_ONCE = 2**24


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
    first, place = distinct(bank)
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
    return ordered(torch.cat([s for s, _ in parts]).numpy(), torch.cat([i for _, i in parts]).numpy())


def distinct(bank: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
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
        every, places = similarity[tied].sort(dim=1, descending=True, stable=True)
        values[tied], indices[tied] = every[:, :k], places[:, :k]
    return values.cpu(), indices.cpu()


def ordered(similarity: npt.NDArray[np.float32], neighbours: npt.NDArray[np.int64]) -> Neighbours:
    """Sort each row by decreasing similarity, then by increasing bank index; masked entries become index -1."""
    order = np.lexsort((neighbours, -similarity), axis=1)
    similarity = np.take_along_axis(similarity, order, axis=1)
    neighbours = np.take_along_axis(neighbours, order, axis=1)
    return similarity, np.where(np.isneginf(similarity), -1, neighbours)
