"""Retrieval against a loop over queries, against the chance of random features, and its rules: ties, groups, pools."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from featcache.errors import ConfigError, ManifestError, RecipeMismatchError, UnknownNameError
from featcache.evaluation.data import make_data
from featcache.evaluation.parts import Parts
from featcache.evaluation.pooling import pooled
from featcache.evaluation.probe import Prediction, ProbeEntry
from featcache.evaluation.reading import open_source, read_data
from featcache.evaluation.run import run_probe
from featcache.evaluation.settings import RetrievalSettings
from featcache.evaluation.two_stores import check_alike
from featcache.metrics.settings import IntervalSettings
from featcache.testing import stores
from featcache.testing.plugins import put_package
from featcache.training.identity import Identity
from tests.evaluation.helpers import clusters

KS = (1, 5, 10, 20, 50)
QUICK = IntervalSettings(num_resamples=100)


def tied_data(*, splits=True, groups=False, seed=0):
    """200 videos, a third of them with the vector of an earlier one, of whatever class; rows average to the vector."""
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-8, 9, size=(200, 6)).astype(np.float64)
    for video in rng.permutation(np.arange(1, 200))[:66]:
        vectors[video] = vectors[rng.integers(video)]
    spread = rng.integers(1, 9, size=(200, 6))
    rows = np.stack([vectors - spread, vectors + spread], axis=1).reshape(400, 6)
    return make_data(
        rows,
        row_video=np.repeat(np.arange(200), 2),
        videos=[f"video{number:03d}" for number in range(200)],
        labels=[f"class{label:02d}" for label in rng.integers(20, size=200)],
        splits=[("train", "test")[number % 3 == 0] for number in range(200)] if splits else None,
        groups=[f"group{number // 4}" for number in range(200)] if groups else None,
        group_column="group" if groups else None,
    )


def plain_nearer(data):
    """For each test video the number of training videos before the first of its class, one query at a time."""
    means = [data.features[data.row_video == video].astype(np.float64).mean(axis=0) for video in range(200)]
    unit = [mean / np.linalg.norm(mean) for mean in means]
    splits = np.array(data.splits)
    train = [video for video in range(200) if splits[video] != "test"]
    test = [video for video in range(200) if splits[video] != "train"]
    owner = np.arange(200) if data.groups is None else data.groups
    nearer = []
    for query in test:
        # Python's sum goes through each pair alone, so that equal vectors have equal cosines.
        pairs = [(-sum((unit[query] * unit[video]).tolist()), video) for video in train if owner[video] != owner[query]]
        order = [data.labels[video] for _, video in sorted(pairs)]
        nearer.append(order.index(data.labels[query]) if data.labels[query] in order else math.inf)
    return np.array(nearer, np.float64)


@pytest.mark.parametrize("backend", ["torch", "faiss"])
@pytest.mark.parametrize("groups", [False, True], ids=["videos", "groups"])
@pytest.mark.parametrize("splits", [False, True], ids=["all", "splits"])
def test_equals_the_plain_loop_with_ties(backend, groups, splits):
    data = tied_data(splits=splits, groups=groups)
    result = run_probe("retrieval", data, RetrievalSettings(backend=backend), intervals=QUICK)
    nearer = plain_nearer(data)
    nearer[nearer >= 50] = math.inf  # what is not among the fifty nearest is not found
    assert result.predictions.ranks[0].tolist() == nearer.tolist()
    (numbers,) = result.splits.values()
    assert list(numbers.metrics) == [f"r@{k}" for k in KS]
    for k in KS:
        metric = numbers.metrics[f"r@{k}"]
        assert metric.value == pytest.approx(np.mean(nearer < k), abs=1e-12)
        assert metric.low <= metric.value <= metric.high
    assert result.variants == {}


@pytest.mark.parametrize("splits", [False, True])
def test_random_features_are_at_chance(splits):
    rng = np.random.default_rng(1)
    labels, is_train = rng.integers(30, size=900), np.arange(900) % 3 > 0
    data = make_data(
        rng.normal(size=(900, 24)),
        row_video=range(900),
        videos=[str(number) for number in range(900)],
        labels=[f"class{label:02d}" for label in labels],
        splits=np.where(is_train, "train", "test").tolist() if splits else None,
    )
    (numbers,) = run_probe("retrieval", data, intervals=QUICK).splits.values()
    own = labels[~is_train] if splits else labels
    size = 600 if splits else 899
    count = np.bincount(labels[is_train] if splits else labels, minlength=30)[own] - (0 if splits else 1)
    for k in KS:
        missed = np.array([math.comb(size - n, k) / math.comb(size, k) for n in count.tolist()])
        deviation = math.sqrt((missed * (1 - missed)).sum()) / len(own)
        assert abs(numbers.metrics[f"r@{k}"].value - (1 - missed).mean()) <= 3 * deviation, k


def test_a_hit_at_one_is_among_the_results_whatever_ks_are():
    result = run_probe("retrieval", clusters(noise=2.0), RetrievalSettings(ks=(7, 3)), intervals=QUICK)
    assert list(result.splits["test"].metrics) == ["r@1", "r@3", "r@7"]
    more = run_probe("retrieval", clusters(noise=2.0), intervals=QUICK).splits["test"].metrics
    assert result.splits["test"].metrics["r@1"] == more["r@1"]
    assert [metric.value for metric in more.values()] == sorted(metric.value for metric in more.values())


def test_too_large_k_searches_all_and_says_so():
    result = run_probe("retrieval", clusters(num_videos=24), intervals=QUICK)
    (note,) = (note for note in result.notes if note.startswith("k="))
    assert note.startswith("k=20, 50 is more than the 12 training videos at hand: all of them are searched, and R@k")
    metrics = result.splits["test"].metrics
    assert metrics["r@20"].value == metrics["r@50"].value == 1
    alone = run_probe("retrieval", clusters(num_videos=24, splits=None), intervals=QUICK)
    assert any(note.startswith("k=50 is more than the 23 training videos") for note in alone.notes)


def test_a_class_without_training_videos_is_a_miss_and_is_counted():
    data = clusters(noise=0.01)
    labels = ["new" if split == "test" and label == 0 else data.classes[label] for split, label in zip(
        data.splits, data.labels, strict=True
    )]  # fmt: skip
    changed = make_data(data.features, row_video=data.row_video, videos=data.videos, labels=labels, splits=data.splits)
    result = run_probe("retrieval", changed, intervals=QUICK)
    numbers = result.splits["test"]
    assert numbers.num_unseen == 6
    assert {metric.value for metric in numbers.metrics.values()} == {0.75}
    assert "6 videos of 'test' have a class that no training video has and count as wrong" in result.notes


def test_a_test_split_without_labels_is_one_sentence():
    data = clusters()
    bare = make_data(
        data.features,
        row_video=data.row_video,
        videos=data.videos,
        labels=[data.classes[label] if split == "train" else None for label, split in zip(
            data.labels, data.splits, strict=True
        )],
        splits=data.splits,
    )  # fmt: skip
    with pytest.raises(ManifestError, match=r"no video in the test splits \(test\) of arrays has features and a label"):
        run_probe("retrieval", bare)


def test_a_videos_group_is_not_searched_whatever_the_splits():
    # Each group is one point with a class of its own, and half of it is in the training split.
    point = np.repeat(np.arange(10), 4)
    data = make_data(
        np.random.default_rng(0).normal(size=(10, 8))[point],
        row_video=range(40),
        videos=[f"video{number}" for number in range(40)],
        labels=[f"class{number}" for number in point],
        splits=["train", "train", "test", "test"] * 10,
        groups=[f"group{number}" for number in point],
        group_column="group",
    )
    result = run_probe("retrieval", data, intervals=QUICK)
    assert {metric.value for metric in result.splits["test"].metrics.values()} == {0}
    assert any(
        note == "10 groups have videos in the training split and in 'test': a video is scored without the training "
        "videos of its own group"
        for note in result.notes
    )
    free = run_probe("retrieval", dataclasses.replace(data, groups=None, group_column=None), intervals=QUICK)
    assert free.splits["test"].metrics["r@1"].value == 1


@pytest.mark.parametrize(("bad", "error"), [
    ({"ks": ()}, ConfigError), ({"ks": (0,)}, ConfigError), ({"ks": (5, 5)}, ConfigError),
    ({"pool": "vcp"}, UnknownNameError),
])  # fmt: skip
def test_bad_settings(bad, error):
    with pytest.raises(error):
        RetrievalSettings(**bad)


def test_maxima_of_maps_are_those_of_max_pooling():
    maps = np.random.default_rng(0).normal(size=(3, 2, 7, 7, 512)).astype(np.float32)
    found = pooled(maps, "vcop")
    theirs = torch.nn.MaxPool3d((1, 2, 2))(torch.from_numpy(maps).permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
    assert found.shape == (3, 9216)
    np.testing.assert_array_equal(found, theirs.reshape(3, -1).numpy())


def write(path, shape, precision="float16", **plan):
    records = {"clips": stores.make_record(shape, precision)}
    stores.write_store(path, stores.StorePlan(records=records, num_videos=18, rows_per_video=(2, 3), **plan))
    return path


@pytest.mark.parametrize(("precision", "dtype"), [("float16", np.float16), ("float32", np.float32)])
def test_stored_maps_are_read_as_maxima(precision, dtype, tmp_path):
    store = write(tmp_path / "store", (2, 3, 4, 5), precision)
    data = read_data(store, pool="vcop")
    assert data.features.dtype == dtype
    with open_source(store).features as features:
        records = features.gather(np.arange(features.num_rows), dequantised=True)
    np.testing.assert_array_equal(data.features, pooled(records, "vcop"))
    assert data.features.shape[1] == 2 * 1 * 2 * 5
    assert data.pool == "vcop"
    result = run_probe("retrieval", data, RetrievalSettings(pool="vcop"), intervals=QUICK)
    assert result.settings["pool"] == "vcop"
    with pytest.raises(ConfigError, match=r"has pool 'vcop', and .* was read with pool 'mean'; read it by read_data"):
        run_probe("retrieval", read_data(store), RetrievalSettings(pool="vcop"))
    with pytest.raises(ConfigError, match="has pool 'mean'"):
        run_probe("knn", data)


@pytest.mark.parametrize(("shape", "words"), [
    ((6,), "rows of 6, no maps; extract the backbone's last map with --output map, or use pool=mean"),
    ((3, 6), "rows of 3 x 6, no maps"),
    ((2, 4, 1, 6), "has maps of 2 x 4 x 1 x 6; extract larger maps, or use pool=mean"),
])  # fmt: skip
def test_what_has_no_maps_of_the_size_is_refused(shape, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        read_data(write(tmp_path / "store", shape), pool="vcop")


def test_maps_of_two_sizes_are_refused_and_their_means_are_not(tmp_path):
    one, other = write(tmp_path / "one", (4, 4, 6)), write(tmp_path / "other", (6, 6, 6))
    with pytest.raises(RecipeMismatchError, match=r"4 x 4 x 6 and 6 x 6 x 6 in .* makes vectors of 24 and 54 channels"):
        check_alike(open_source(one, pool="vcop"), open_source(other, pool="vcop"))
    check_alike(open_source(one), open_source(other))


def foldwise(task, settings, /):
    """A retrieval that does not leave videos out by itself: every training video is the nearest of its class."""
    nearer = np.cumsum(np.isin(np.arange(len(task.data.classes)), task.data.labels[task.train])) - 1
    return Prediction(scores=np.tile(-nearer.astype(float), (1, len(task.test), 1)), ks=(1, 2))


FOLDWISE = ProbeEntry(probe=foldwise, settings=RetrievalSettings)


def test_a_retrieval_from_another_package_is_scored_fold_by_fold(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(
        put_package(tmp_path, "lab", files={}, entries={"featcache.probes": {"mine": f"{__name__}:FOLDWISE"}})
    )
    parts = Parts(folder=tmp_path / "parts", identity=Identity(values={"probe": "mine"}), seconds=0)
    computed = [run_probe("mine", clusters(splits=None), intervals=QUICK, parts=parts).splits for _ in range(2)]
    assert {name: metric.value for name, metric in computed[0]["all"].metrics.items()} == {"r@1": 0.25, "r@2": 0.5}
    assert computed[1] == computed[0]  # out of the kept folds
