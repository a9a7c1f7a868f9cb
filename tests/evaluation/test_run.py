"""What run_probe makes of splits, labels and folds."""

import json

import numpy as np
import pytest

from featcache.errors import ConfigError, FeatcacheError, ManifestError, UnknownNameError
from featcache.evaluation.data import make_data
from featcache.evaluation.run import run_probe
from featcache.evaluation.settings import KnnSettings, LinearSettings
from tests.evaluation.helpers import clusters

QUICK = LinearSettings(lrs=(0.1,), optimizers=("sgd",), batch_norms=(False,), seeds=(0,), epochs=5)


def names(data):
    return [data.classes[label] for label in data.labels]


def build(*, labels, splits):
    rng = np.random.default_rng(0)
    return make_data(
        rng.normal(size=(len(labels), 4)),
        row_video=range(len(labels)),
        videos=[str(index) for index in range(len(labels))],
        labels=labels,
        splits=splits,
    )


def test_every_other_split_is_reported_unless_named():
    data = clusters(splits=("train", "test_seen", "test_unseen"))
    assert set(run_probe("knn", data).splits) == {"test_seen", "test_unseen"}
    assert set(run_probe("knn", data, test_splits=["test_unseen"]).splits) == {"test_unseen"}
    swapped = run_probe("knn", data, train_split="test_seen")
    assert set(swapped.splits) == {"train", "test_unseen"}
    assert swapped.protocol == "trained on split 'test_seen'"


def test_a_split_does_not_depend_on_which_others_are_reported():
    data = clusters(splits=("train", "a", "b"), noise=2.0)
    for name, settings in (("knn", None), ("linear", QUICK)):
        both = run_probe(name, data, settings)
        one = run_probe(name, data, settings, test_splits=["b"])
        assert one.splits["b"] == both.splits["b"]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"train_split": "trian"}, UnknownNameError, "did you mean 'train'"),
        ({"test_splits": ["tset"]}, UnknownNameError, "did you mean 'test'"),
        ({"test_splits": ["train"]}, ManifestError, "both trained on and reported"),
    ],
)
def test_wrong_splits(arguments, kind, message):
    with pytest.raises(kind, match=message):
        run_probe("knn", clusters(), **arguments)


@pytest.mark.parametrize(
    ("labels", "splits", "message"),
    [
        ([None] * 4, None, "no video of arrays has a label in column 'label'; put videos in one folder per class"),
        ([None, None, "a", "b"], ["train", "train", "test", "test"], "no video in split 'train'"),
        (["a", "b", None, None], ["train", "train", "test", "test"], r"no video in the test splits \(test\)"),
        (["a", "b", "a", "b"], ["train"] * 4, "has the split 'train' alone"),
        (["a", "a", "a", "b"], ["train", "train", "test", "test"], "all 2 training videos .* have the label 'a'"),
        (["a", "a", "a", "a"], None, "all 4 training videos"),
    ],
)
def test_what_cannot_be_probed(labels, splits, message):
    with pytest.raises(ManifestError, match=message):
        run_probe("knn", build(labels=labels, splits=splits))


def test_split_options_need_splits():
    with pytest.raises(ManifestError, match="has no splits"):
        run_probe("knn", clusters(splits=None), test_splits=["test"])


def test_an_unlabelled_test_split_is_noted():
    data = build(labels=["a", "b", "a", None], splits=["train", "train", "test", "blind"])
    result = run_probe("knn", data)
    assert set(result.splits) == {"test"}
    assert "split 'blind' has no video with features and a label and is not reported" in result.notes


def test_videos_without_a_split_are_noted():
    data = build(labels=["a", "b", "a", "b"], splits=["train", "train", "test", ""])
    result = run_probe("knn", data, test_splits=["test"])
    assert "1 videos belong to no split and are not used" in result.notes
    assert set(run_probe("knn", data).splits) == {"test"}


def test_unknown_probe_and_foreign_settings():
    with pytest.raises(UnknownNameError, match="did you mean 'linear'"):
        run_probe("liner", clusters())
    with pytest.raises(ConfigError, match="probe 'linear' takes LinearSettings, not KnnSettings"):
        run_probe("linear", clusters(), KnnSettings())


def test_folds_over_videos():
    data = clusters(num_videos=48, splits=None, noise=0.1)
    result = run_probe("linear", data, QUICK)
    assert result.protocol == "5 folds over videos"
    assert result.splits["all"].num_videos == 48
    assert result.splits["all"].metrics["top1"].value == 1
    assert [row["fold"] for row in result.table] == [0, 1, 2, 3, 4]


def test_few_videos_are_left_out_one_by_one():
    # As a folder of ten labelled clips: classes of one video can only be wrong, and that is stated.
    labels = ["wave"] * 3 + ["cartwheel"] * 2 + ["juggle"] * 2 + ["climb", "clean", "wrestle"]
    index = [sorted(set(labels)).index(label) for label in labels]
    data = make_data(
        np.eye(6)[index] + 0.01 * np.arange(10)[:, None],
        row_video=range(10),
        videos=[str(place) for place in range(10)],
        labels=labels,
    )
    for name in ("knn", "linear"):
        result = run_probe(name, data)
        assert result.protocol == "leave-one-out over videos"
        numbers = result.splits["all"]
        assert (numbers.num_videos, numbers.num_unseen) == (10, 3)
        assert numbers.metrics["top1"].value == pytest.approx(0.7)
        assert "3 videos of 'all' have a class that no training video has and count as wrong" in result.notes


def test_two_videos_of_two_classes_cannot_be_right():
    result = run_probe("linear", build(labels=["a", "b"], splits=None))
    assert result.splits["all"].metrics["top1"].value == 0
    assert result.splits["all"].num_unseen == 2


def test_the_result_is_json():
    result = run_probe("knn", clusters(noise=2.0))
    plain = json.loads(result.to_json())
    assert plain == result.to_dict()
    assert plain["splits"]["test"]["coverage"] == {"ok": 24, "failed": 0, "total": 24, "unlabelled": 0}
    assert plain["settings"]["ks"] == [20, 1, 5, 10]
    assert set(plain["variants"]) == {"k=20", "k=1", "k=5", "k=10"}
    assert plain["variants"]["k=20"] == {"test": plain["splits"]["test"]["metrics"]}
    assert issubclass(ManifestError, FeatcacheError)


def test_the_device_is_chosen_checked_and_told():
    data = clusters()
    assert run_probe("knn", data, device="auto").device == run_probe("knn", data).device
    assert run_probe("knn", data, device="cpu").device == "cpu"
    with pytest.raises(ConfigError, match="'gpu'; give auto, cpu"):
        run_probe("knn", data, device="gpu")
