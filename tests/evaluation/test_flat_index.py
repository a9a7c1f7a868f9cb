"""faiss searches on a GPU only where a trial in a child process agreed with torch."""

import sys

import faiss
import numpy as np
import pytest

from featcache.errors import ConfigError
from featcache.evaluation.flat_index import agrees, card_of, flat_index, import_faiss, same_as_torch


class Swapped:
    """An index that confuses the first two neighbours."""

    def __init__(self, index):
        self.index, self.add = index, index.add

    def search(self, queries, k):
        found, places = self.index.search(queries, k)
        return found, places[:, [1, 0, *range(2, k)]]


def test_the_trial_tells_right_neighbours_from_wrong_ones():
    assert same_as_torch(faiss.IndexFlatIP(64), device="cpu")
    assert not same_as_torch(Swapped(faiss.IndexFlatIP(64)), device="cpu")
    assert not same_as_torch(faiss.IndexFlatL2(64), device="cpu")


def test_a_card_that_fails_its_trial_is_left_alone(monkeypatch):
    assert card_of("cuda:1") is None  # this faiss is built for the CPU
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)  # only here: the child fails
    assert (card_of("cpu"), card_of("cuda"), card_of("cuda:1")) == (None, 0, 1)
    agrees.cache_clear()
    index = flat_index(2, device="cuda", k=1)
    index.add(np.eye(2, dtype=np.float32))
    assert index.search(np.eye(2, dtype=np.float32), 1)[1].ravel().tolist() == [0, 1]
    assert type(index) is faiss.IndexFlatIP
    assert agrees.cache_info().misses == 1


def test_without_faiss_there_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"faiss-cpu.*never both"):
        import_faiss()
