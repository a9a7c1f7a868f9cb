"""Both engines give what sorting all cosines gives."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.retrieval.nearest import nearest, unit

ENGINES = ("exact", "faiss")


def blocks_of(vectors, sizes):
    bounds = np.cumsum([0, *sizes, len(vectors)]).clip(max=len(vectors))
    return [(np.arange(a, b), vectors[a:b]) for a, b in itertools.pairwise(bounds)]


def plain(vectors, queries, k):
    """The definition: every cosine, the best over queries, sorted."""
    scores = (unit(vectors).astype(np.float64) @ unit(queries).astype(np.float64).T).max(axis=1)
    order = np.argsort(-scores, kind="stable")[:k]
    return scores[order], order


@pytest.mark.parametrize("engine", ENGINES)
@settings(deadline=None)  # the first call imports faiss
@given(
    num_items=st.integers(1, 30),
    num_queries=st.integers(1, 4),
    k=st.integers(1, 40),
    sizes=st.lists(st.integers(0, 12), max_size=4),
    seed=st.integers(0, 10**6),
)
def test_engines_equal_the_definition(engine, num_items, num_queries, k, sizes, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((num_items, 5), np.float32) * 10.0 ** rng.integers(-15, 15, (num_items, 1))
    vectors = vectors.astype(np.float32)
    queries = rng.standard_normal((num_queries, 5), np.float32)
    scores, items = nearest(blocks_of(vectors, sizes), queries, k=k, engine=engine)
    wanted_scores, wanted = plain(vectors, queries, k)
    assert items.tolist() == wanted.tolist()
    np.testing.assert_allclose(scores, wanted_scores, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_equals_come_in_order_and_zero_vectors_have_similarity_zero(engine):
    vectors = np.array([[0, 0], [1, 0], [2, 0], [-1, 0]], np.float32)
    scores, items = nearest(blocks_of(vectors, [2]), np.array([[3, 0]], np.float32), k=4, engine=engine)
    assert items.tolist() == [1, 2, 0, 3]
    assert scores.tolist() == [1, 1, 0, -1]


@pytest.mark.parametrize("num_channels", [16, 33, 64])
@pytest.mark.parametrize("num_queries", [1, 3])
def test_equals_come_in_order_wherever_they_lie_in_their_block(num_queries, num_channels):
    rng = np.random.default_rng(0)
    distinct = rng.standard_normal((3, num_channels), np.float32)
    queries = rng.standard_normal((num_queries, num_channels), np.float32)
    for size in (7, 13, 50):
        found = nearest(blocks_of(distinct[np.arange(size) % 3], [size // 2]), queries, k=size)[1].tolist()
        kinds = dict.fromkeys(item % 3 for item in found)
        assert found == [item for kind in kinds for item in range(kind, size, 3)]


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_to_search_is_no_hit(engine):
    scores, items = nearest([], np.ones((1, 3), np.float32), k=2, engine=engine)
    assert (len(scores), len(items)) == (0, 0)
