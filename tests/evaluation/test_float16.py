"""Rows that are stored as float16 stay float16 in memory, and every figure stays as it is, to the bit."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

from featcache.evaluation.clip_training import clip_table
from featcache.evaluation.knn import knn
from featcache.evaluation.probe import PROBES, Prediction, ProbeEntry, Task
from featcache.evaluation.reading import read_data
from featcache.evaluation.run import run_probe
from featcache.evaluation.settings import KnnSettings, LinearSettings
from featcache.testing import stores
from featcache.testing.probes import numbered, separable_data, small_settings, tiny_model
from tests.evaluation.helpers import clusters

CASES = {
    "knn": KnnSettings(ks=(3,)),
    "retrieval": None,
    "linear": LinearSettings(epochs=3, lrs=(1e-2, 0.1), batch_norms=(False, True), batch_size=16),
    "mlp": None,
    "transformer": None,
    "scale-linear": None,
    "ridge": None,
}


def as_stored(data):
    """The same data as float16, and with the same values as float32."""
    half = dataclasses.replace(data, features=data.features.astype(np.float16))
    return half, dataclasses.replace(half, features=half.features.astype(np.float32))


@pytest.mark.parametrize("name", CASES)
def test_figures_are_the_same_to_the_bit(name):
    data = separable_data(spread=0.7)
    half, single = as_stored(numbered(data) if name == "ridge" else data)
    settings = CASES[name] or small_settings(name)
    found = [run_probe(name, each, settings) for each in (half, single)]
    assert half.features.dtype == np.float16
    assert np.array_equal(found[0].predictions.scores, found[1].predictions.scores)
    one, other = (dataclasses.replace(each, seconds=0.0).to_dict() for each in found)
    assert one == other


@pytest.mark.parametrize(
    "change", [{"views": "vote"}, {"center": True}, {"model": tiny_model()}], ids=["vote", "center", "model"]
)
def test_neighbours_are_the_same_to_the_bit(change):
    half, single = as_stored(separable_data(spread=0.7))
    one, other = (run_probe("knn", each, KnnSettings(ks=(3,), **change)) for each in (half, single))
    assert np.array_equal(one.predictions.scores, other.predictions.scores)


@pytest.mark.parametrize(("shape", "precision", "dtype"), [
    ((6,), "float16", np.float16), ((6,), "float32", np.float32), ((6,), "int8", np.float32),
    ((2, 2, 6), "float16", np.float32),
])  # fmt: skip
def test_a_store_of_vectors_is_read_as_it_is(shape, precision, dtype, tmp_path):
    record = stores.make_record(shape, precision)
    stores.write_store(tmp_path / "store", stores.StorePlan(records={"clips": record}))
    data = read_data(tmp_path / "store")
    assert data.features.dtype == dtype
    assert clip_table(data, form=None, coordinates="true", device="cpu").features.numpy().dtype == dtype
    assert str(np.dtype(dtype)) in repr(data)


def test_a_probe_that_does_not_ask_for_float16_is_given_float32(monkeypatch):
    seen = []

    def probe(task, settings, /):
        seen.append(task.data.features.dtype)
        return Prediction(scores=np.zeros((1, len(task.test), len(task.data.classes))))

    half, _ = as_stored(clusters())
    train, test = np.arange(24), np.arange(24, 48)
    for takes in (False, True):
        entry = ProbeEntry(probe=probe, settings=KnnSettings, takes_float16=takes)
        entry.run(Task(data=half, train=train, test=test, device="cpu"), KnnSettings())
    assert seen == [np.float32, np.float16]
    assert all(PROBES.load(name).takes_float16 for name in CASES)


def test_rows_that_vote_are_in_memory_once_as_float32(monkeypatch):
    monkeypatch.setattr("featcache.evaluation.neighbours.VALUES_AT_ONCE", 2**14)
    monkeypatch.setattr("featcache.metrics.neighbours.SIMILARITIES_AT_ONCE", 2**14)
    half, _ = as_stored(clusters(num_videos=200, num_rows=20, num_channels=256))
    task = Task(data=half, train=np.arange(100), test=np.arange(100, 200), device="cpu")
    tracemalloc.start()
    knn(task, KnnSettings(views="vote"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * 4 * half.features.size  # both tables as float32; it was more than three times as much
