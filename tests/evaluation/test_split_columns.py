"""Several official splits in one store: the probe reads the split from a label column, and counts with it."""

import dataclasses
from pathlib import Path

import pytest

from featcache.errors import ConfigError, UnknownNameError
from featcache.evaluation.reading import read_data
from featcache.evaluation.run import run_probe
from featcache.evaluation.settings import KnnSettings
from featcache.metrics.result import Coverage
from featcache.recipes import PlainViews
from featcache.store.reader import open_store
from featcache.testing import stores

RECORD = stores.make_record((8,))
KNN = KnnSettings(ks=(3,))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """24 videos in ``split1`` (every third tests), ``split2`` (the second half tests, v0005 in none), one task."""
    plain = stores.make_videos

    def make_videos(count, *, first=0, unusable=None):
        made = []
        for number, video in enumerate(plain(count, first=first, unusable=unusable)):
            columns = {"split1": video.split, "split2": "train" if number < 12 else "test"}
            if number == 5:
                del columns["split2"]
            task = {"scene": "cd"[number % 2], "split_scene": ("train", "val")[number % 2 if number > 3 else 0]}
            made.append(dataclasses.replace(video, labels={**video.labels, **columns, **task}))
        return made

    monkeypatch.setattr(stores, "make_videos", make_videos)
    path = tmp_path / "store"
    plan = stores.StorePlan(records={"pooled": RECORD}, num_videos=24, failing={1: "timeout"}, unusable={20: "missing"})
    stores.write_store(path, plan)
    return path


def test_the_split_is_read_from_a_column(store: Path) -> None:
    data = read_data(store, split_column="split2")
    expected = {f"v{n:04d}": "" if n == 5 else "train" if n < 12 else "test" for n in range(24) if n not in (1, 20)}
    assert dict(zip(data.videos, data.splits, strict=True)) == expected
    assert data.coverage == {
        "": Coverage(ok=1, failed=0, total=1),
        "test": Coverage(ok=11, failed=1, total=12),
        "train": Coverage(ok=10, failed=1, total=11),
    }
    result = run_probe("knn", data, KNN)
    assert result.protocol == "trained on split 'train' of column 'split2'"
    assert result.train == data.coverage["train"]
    assert result.splits["test"].num_videos == 11
    assert "1 videos belong to no split and are not used" in result.notes


def test_the_column_of_the_stored_split_gives_the_same_numbers(store: Path) -> None:
    own, column = (run_probe("knn", read_data(store, split_column=name), KNN) for name in (None, "split1"))
    assert own.splits == column.splits
    assert own.protocol == "trained on split 'train'"


def test_a_task_is_probed_on_its_own_split(store: Path) -> None:
    data = read_data(store, label="scene")
    assert data.split_column == "split_scene"
    assert set(data.splits) == {"train", "val"}
    assert read_data(store, label="scene", split_column="split1").split_column == "split1"
    assert read_data(store).split_column is None


def test_an_alternate_split_trains_on_what_the_other_tests(store: Path) -> None:
    data = read_data(store, split_column="split1")
    result = run_probe("knn", data, KNN, train_split="test", test_splits=("train",))
    assert result.train == data.coverage["test"]
    assert set(result.splits) == {"train"}


def test_a_column_that_is_not_there_or_holds_no_such_split(store: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'split"):
        read_data(store, split_column="split3")
    with pytest.raises(UnknownNameError, match="split 'train'"):
        run_probe("knn", read_data(store, split_column="label"), KNN)


def test_videos_are_not_scored_by_the_random_views_of_training(store: Path) -> None:
    opened = open_store(store)
    views = dataclasses.replace(opened.sampling, spatial="random_resized", test=PlainViews())
    opened.sampling = views
    assert run_probe("knn", read_data(opened), KNN).splits  # the store's own test split has test views
    with pytest.raises(ConfigError, match=r"of split 'test' were extracted into .* with the random views of training"):
        run_probe("knn", read_data(opened, split_column="split2"), KNN)
    with pytest.raises(ConfigError, match="views follow the split that a video has at extraction"):
        run_probe("knn", read_data(opened), KNN, train_split="test", test_splits=("train",))
