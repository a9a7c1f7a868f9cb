"""Exact nearest neighbours by cosine over blocks of vectors, so that a store need not fit into memory.

With several query vectors the similarity of an item is the largest over all of them.
"""

from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from featcache.evaluation.flat_index import flat_index

Engine = Literal["exact", "faiss"]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Blocks = Iterable[tuple[Ints, Floats]]
"""Item numbers int64 [n] and their vectors float32 [n, D]; each item occurs once."""


def nearest(
    blocks: Blocks, queries: Floats, *, k: int, engine: Engine = "exact", device: str = "cpu"
) -> tuple[Floats, Ints]:
    """The ``k`` items most similar to any of the queries.

    Args:
        blocks: Items, block after block; vectors need not have unit length, zero vectors have similarity 0.
        queries: float32 [Q, D].
        k: Number of items to return, at least 1.
        engine: ``exact``: torch, one block in memory. ``faiss``: its flat inner-product index, all items in memory.
        device: Device on which faiss may search; see :mod:`featcache.evaluation.flat_index`.

    Returns:
        Cosines float32 [n] in decreasing order (among equal ones the lower item comes first), and item numbers int64
        [n]; n is ``k``, or the number of items if there are fewer.

    Raises:
        ConfigError: faiss is asked for and not installed.
    """
    assert k >= 1, f"k is {k}"
    assert queries.ndim == 2, f"queries {queries.shape} is not [Q, D]"
    return _exact(blocks, unit(queries), k) if engine == "exact" else _faiss(blocks, unit(queries), k, device)


def unit(vectors: Floats) -> Floats:
    """Rows of unit length; zero rows stay zero."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)  # float64: no scale under- or overflows
    return np.ascontiguousarray(vectors / np.where(norms > 0, norms, 1), dtype=np.float32)


def _exact(blocks: Blocks, queries: Floats, k: int) -> tuple[Floats, Ints]:
    """Compute matrix products block by block and keep the best items so far.

    In float64, whose last bits are cut off: those of a float32 product depend on where a row lies in its block, so that
    equal items would differ.
    """
    best, items = np.zeros(0, np.float32), np.zeros(0, np.int64)
    table = torch.from_numpy(queries).double()
    for numbers, vectors in blocks:
        similarity = (torch.from_numpy(unit(vectors)).double() @ table.T).amax(dim=1).float().numpy()
        best, items = _best(np.concatenate([best, similarity]), np.concatenate([items, numbers]), k)
    return best, items


def _faiss(blocks: Blocks, queries: Floats, k: int, device: str) -> tuple[Floats, Ints]:
    """The same with faiss: the best items over all queries are among the best of some single query."""
    index = flat_index(queries.shape[1], device=device, k=k)
    numbers = [np.zeros(0, np.int64)]
    for items, vectors in blocks:
        index.add(unit(vectors))
        numbers.append(items)
    similarity, places = index.search(queries, k)
    found = places >= 0  # -1 if there are fewer than k items
    similarity, found_items = similarity[found], np.concatenate(numbers)[places[found]]
    order = np.lexsort((found_items, -similarity))
    _, first = np.unique(found_items[order], return_index=True)
    return _best(similarity[order][first], found_items[order][first], k)


def _best(similarity: Floats, items: Ints, k: int) -> tuple[Floats, Ints]:
    """The first ``k`` by decreasing similarity, then by increasing item number."""
    order = np.lexsort((items, -similarity))[:k]
    return similarity[order], items[order]
