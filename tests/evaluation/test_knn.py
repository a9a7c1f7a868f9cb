"""kNN against a loop over queries, and its rules: ties, own rows, views, back ends."""

import numpy as np
import pytest

from featcache.errors import ConfigError
from featcache.evaluation.data import make_data
from featcache.evaluation.knn import knn
from featcache.evaluation.neighbours import find_neighbours
from featcache.evaluation.probe import Task
from featcache.evaluation.run import run_probe
from featcache.evaluation.settings import KnnSettings
from tests.evaluation.helpers import clusters


def task_of(data, *, leave_one_out=False):
    every = np.arange(len(data.videos))
    splits = np.array(data.splits)
    train, test = (every, every) if leave_one_out else (every[splits == "train"], every[splits == "test"])
    return Task(data=data, train=train, test=test, device="cpu")


def plain_knn(data, train, test, settings, k):
    """One query at a time, in float64."""

    def unit(videos):
        parts = [data.features[data.row_video == video].astype(np.float64) for video in videos]
        if settings.views == "mean":
            parts = [part.mean(axis=0, keepdims=True) for part in parts]
        owner = np.repeat(videos, [len(part) for part in parts])
        table = np.concatenate(parts)
        if settings.center:
            split = np.array(data.splits)[owner]
            table = np.stack([row - table[split == own].mean(axis=0) for row, own in zip(table, split, strict=True)])
        return table / np.linalg.norm(table, axis=1, keepdims=True), owner

    bank, bank_owner = unit(train)
    queries, query_owner = unit(test)
    shares = []
    for query, owner in zip(queries, query_owner, strict=True):
        cosine = bank @ query
        cosine[bank_owner == owner] = -np.inf
        nearest = np.argsort(-cosine, kind="stable")[:k]
        nearest = nearest[np.isfinite(cosine[nearest])]
        votes = np.zeros(len(data.classes))
        for place in nearest:
            votes[data.labels[bank_owner[place]]] += np.exp(cosine[place] / settings.temperature)
        shares.append(votes / votes.sum())
    table = np.array([np.mean([s for s, o in zip(shares, query_owner, strict=True) if o == v], axis=0) for v in test])
    return np.where(table > 0, table, -np.inf)


@pytest.mark.parametrize("backend", ["torch", "faiss"])
@pytest.mark.parametrize("views", ["mean", "vote"])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_equals_the_plain_loop(backend, views, center, leave_one_out, monkeypatch):
    monkeypatch.setattr("featcache.metrics.neighbours.SIMILARITIES_AT_ONCE", 300)  # several chunks
    data = clusters(noise=1.5)
    task = task_of(data, leave_one_out=leave_one_out)
    settings = KnnSettings(ks=(7, 1, 20), views=views, center=center, backend=backend)
    prediction = knn(task, settings)
    assert prediction.scores.shape == (1, len(task.test), 4)
    for k in settings.ks:
        plain = plain_knn(data, task.train, task.test, settings, k)
        np.testing.assert_allclose(prediction.variants[f"k={k}"][0], plain, rtol=1e-3, atol=1e-9)
    np.testing.assert_array_equal(prediction.scores, prediction.variants["k=7"])


@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_of_equal_neighbours_the_first_bank_rows_vote(backend):
    # Twelve training videos with the same vector; only the first three may vote.
    names = ["b", "a", "b", *["a"] * 9, "a"]
    data = make_data(
        np.tile([1.0, 2.0, 3.0], (13, 1)),
        row_video=range(13),
        videos=[str(index) for index in range(13)],
        labels=names,
        splits=["train"] * 12 + ["test"],
    )
    scores = knn(task_of(data), KnnSettings(ks=(3,), backend=backend)).scores
    np.testing.assert_allclose(scores[0, 0], [1 / 3, 2 / 3])


@pytest.mark.parametrize("backend", ["torch", "faiss"])
@pytest.mark.parametrize("size", [(7, 33), (13, 64), (50, 33), (257, 16)])
def test_equal_rows_come_in_order_wherever_they_lie_in_the_matrix_product(backend, size):
    # The last bit of a product depends on the place of a row in the table, so that products of equal rows differ.
    num_rows, num_channels = size
    rng = np.random.default_rng(0)
    distinct = rng.normal(size=(3, num_channels))
    queries = rng.normal(size=(20, num_channels))
    data = make_data(
        np.concatenate([distinct[np.arange(num_rows) % 3], queries]),
        row_video=range(num_rows + 20),
        videos=[str(index) for index in range(num_rows + 20)],
        labels=["a"] * (num_rows + 20),
        splits=["train"] * num_rows + ["test"] * 20,
    )
    found = find_neighbours(task_of(data), k=num_rows, by_group=False, backend=backend)
    for query, rows in zip(queries, found.rows, strict=True):
        nearest = np.argsort(-distinct @ query / np.linalg.norm(distinct, axis=1))
        assert rows.tolist() == [row for kind in nearest for row in range(kind, num_rows, 3)]


def test_own_rows_never_vote():
    # Each video's rows are identical and each video is its class's only one: every neighbour is of another class.
    rng = np.random.default_rng(0)
    data = make_data(
        np.repeat(rng.normal(size=(6, 5)), 4, axis=0),
        row_video=np.repeat(np.arange(6), 4),
        videos=list("abcdef"),
        labels=list("uvwxyz"),
    )
    for views in ("mean", "vote"):
        for backend in ("torch", "faiss"):
            result = run_probe("knn", data, KnnSettings(views=views, backend=backend))
            assert result.splits["all"].metrics["top1"].value == 0
            assert result.splits["all"].metrics["top5"].value == 0
            assert result.splits["all"].num_unseen == 6


def test_too_large_k_uses_all_and_says_so():
    data = clusters(num_videos=8, splits=None, noise=0.1)
    result = run_probe("knn", data)
    assert result.protocol == "leave-one-out over videos"
    assert any(note.startswith("k=20 is more than the 7 training videos") for note in result.notes)
    assert result.variants["k=20"]["all"]["top1"].value == 1


def test_zero_vectors_are_no_error():
    data = clusters(num_videos=16)
    zeroed = make_data(
        np.where(data.row_video[:, None] == 3, 0, data.features),
        row_video=data.row_video,
        videos=data.videos,
        labels=[data.classes[label] for label in data.labels],
        splits=data.splits,
    )
    assert np.isfinite(knn(task_of(zeroed), KnnSettings()).scores.max(axis=-1)).all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_does_not_matter(scale):
    data = clusters(noise=1.5)
    scaled = make_data(
        data.features * np.float32(scale),
        row_video=data.row_video,
        videos=data.videos,
        labels=[data.classes[label] for label in data.labels],
        splits=data.splits,
    )
    np.testing.assert_allclose(
        knn(task_of(scaled), KnnSettings()).scores, knn(task_of(data), KnnSettings()).scores, rtol=1e-3
    )


@pytest.mark.parametrize("bad", [{"ks": ()}, {"ks": (0,)}, {"ks": (5, 5)}, {"temperature": 0.0}])
def test_bad_settings(bad):
    with pytest.raises(ConfigError):
        KnnSettings(**bad)
