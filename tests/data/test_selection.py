"""What is taken of a source, against plain counts; random splits that would leak are refused."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.data.importers import list_dataset
from featcache.data.manifest import Manifest
from featcache.data.selection import Selection, select
from featcache.data.types import VideoRecord
from featcache.errors import ConfigError, ManifestError, UnknownNameError
from featcache.testing.datasets import make_ucf101


def manifest(*, num_videos: int = 60, num_classes: int = 3, splits: bool = True, groups: int = 0) -> Manifest:
    return Manifest(
        root="/videos",
        videos=tuple(
            VideoRecord(
                id=f"v{index:03d}",
                path=f"v{index:03d}.mp4",
                labels={
                    "label": f"class{index % num_classes}",
                    **({"group": f"g{index % groups}", "film": f"f{index % 2}"} if groups else {}),
                },
                split=("test" if index % 4 == 3 else "train") if splits else "",
            )
            for index in range(num_videos)
        ),
    )


def ids(chosen: Manifest, split: str) -> list[str]:
    return [video.id for video in chosen.videos if video.split == split]


def test_the_default_takes_everything():
    assert select(manifest(), Selection()) == manifest()


@given(st.integers(1, 45), st.integers(1, 45), st.integers(0, 3))
def test_subsets_are_balanced_nested_and_keep_the_test_videos(one, other, seed):
    source = manifest()
    small, large = (select(source, Selection(subset=size, seed=seed)) for size in sorted((one, other)))
    for size, chosen in zip(sorted((one, other)), (small, large), strict=True):
        counts = Counter(video.labels["label"] for video in chosen.videos if video.split == "train")
        assert counts.total() == size
        assert max(counts.values()) - min([counts[f"class{index}"] for index in range(3)]) <= 1
        assert ids(chosen, "test") == ids(source, "test")
    assert set(ids(small, "train")) <= set(ids(large, "train"))
    assert [video.id for video in large.videos] == sorted(video.id for video in large.videos)


def test_kinetics_sizes_divide_over_400_classes_and_a_small_class_gives_all():
    source = manifest(num_videos=4000, num_classes=400, splits=False)
    chosen = select(source, Selection(subset=2000))
    assert set(Counter(video.labels["label"] for video in chosen.videos).values()) == {5}
    fewer = Manifest(root="/", videos=tuple(v for v in source.videos if v.labels["label"] != "class7" or v.id < "v02"))
    num_left = sum(video.labels["label"] == "class7" for video in fewer.videos)
    counts = Counter(video.labels["label"] for video in select(fewer, Selection(subset=2000)).videos)
    assert counts.pop("class7") == num_left < 5
    assert set(counts.values()) == {5, 6}


def test_low_shot_takes_the_first_of_each_class_in_list_order():
    chosen = select(manifest(num_videos=120), Selection(low_shot=0.1))
    plain = {}
    for video in manifest(num_videos=120).videos:
        if video.split == "train":
            plain.setdefault(video.labels["label"], []).append(video.id)
    expected = sorted(name for names in plain.values() for name in names[: max(1, int(0.1 * len(names)))])
    assert ids(chosen, "train") == expected
    assert len(ids(chosen, "test")) == 30


def test_a_source_without_splits_is_all_training_videos():
    assert len(select(manifest(splits=False), Selection(subset=7))) == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subset": 46}, "a subset of 46 of 45 items does not exist"),
        ({"test_fraction": 0.5}, "has splits of its own"),
    ],
)
def test_impossible_selections_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        select(manifest(), Selection(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subset": 5, "low_shot": 0.1}, "subset and low_shot both"),
        ({"group_by": "group"}, "it belongs to test_fraction"),
        ({"split_column": "split2", "test_fraction": 0.3}, "both choose the split"),
        ({"test_fraction": 1.0}, "must be between 0 and 1"),
        ({"low_shot": 0.0}, "must be in"),
        ({"subset": 0}, "at least 1"),
    ],
)
def test_settings_at_odds_are_one_sentence(settings, message):
    with pytest.raises(ConfigError, match=message):
        Selection(**settings)


def test_training_videos_need_a_label_and_a_train_split():
    videos = tuple(replace(video, labels={}) if video.id == "v004" else video for video in manifest().videos)
    with pytest.raises(ManifestError, match="'v004' has no label"):
        select(Manifest(root="/", videos=videos), Selection(low_shot=0.5))
    with pytest.raises(UnknownNameError, match="unknown label column 'label'"):
        select(Manifest(root="/", videos=(VideoRecord(id="a", path="a"),)), Selection(subset=1))
    only_test = tuple(replace(video, split="test") for video in manifest().videos)
    with pytest.raises(ConfigError, match="no video is in the split 'train'"):
        select(Manifest(root="/", videos=only_test), Selection(subset=1))


def test_a_split_by_group_separates_no_group():
    source = manifest(splits=False, groups=20)
    chosen = select(source, Selection(test_fraction=0.3, group_by="group"))
    sides = {(video.labels["group"], video.split) for video in chosen.videos}
    assert len(sides) == 20
    assert len(ids(chosen, "test")) == 18
    assert [video.id for video in chosen.videos] == [video.id for video in source.videos]
    assert select(source, Selection(test_fraction=0.3, group_by="group", seed=1)) != chosen


def test_a_random_split_of_grouped_videos_is_refused():
    source = manifest(splits=False, groups=20)
    with pytest.raises(ConfigError, match="would leak: clips of one group share scene and people"):
        select(source, Selection(test_fraction=0.3))
    with pytest.raises(ConfigError, match=r"grouped by 'label', .* would be in train and test"):
        select(manifest(splits=False, groups=20), Selection(test_fraction=0.4, group_by="label"))
    assert select(source, Selection(test_fraction=0.5, group_by="film"))  # of each group all videos are of one film


def test_videos_without_groups_are_split_by_video():
    chosen = select(manifest(splits=False), Selection(test_fraction=0.25))
    assert (len(ids(chosen, "train")), len(ids(chosen, "test"))) == (45, 15)


def test_a_video_without_group_is_named():
    videos = (VideoRecord(id="a", path="a", labels={"film": "x"}), VideoRecord(id="b", path="b"))
    with pytest.raises(ManifestError, match="'b' has no 'film'"):
        select(Manifest(root="/", videos=videos), Selection(test_fraction=0.5, group_by="film"))


def test_a_random_split_of_ucf101_is_refused_however_it_is_read(tmp_path):
    make_ucf101(tmp_path)
    listed = list_dataset("ucf101", root=tmp_path)
    with pytest.raises(ConfigError, match="would leak: clips of one group share scene and people"):
        select(listed, Selection(test_fraction=0.3))
    by_name = Manifest(root="/", videos=tuple(VideoRecord(id=video.path, path=video.path) for video in listed.videos))
    with pytest.raises(ConfigError, match="would leak: these are clips of UCF101 by their names"):
        select(by_name, Selection(test_fraction=0.3))
    chosen = select(listed, Selection(test_fraction=0.3, group_by="group"))
    assert len({(video.labels["group"], video.split) for video in chosen.videos}) == 6


def test_any_official_split_can_be_the_training_one(tmp_path):
    make_ucf101(tmp_path)
    listed = list_dataset("ucf101", root=tmp_path)
    chosen = select(listed, Selection(split_column="split3", low_shot=0.5))
    assert len(ids(chosen, "train")) == 4
    assert all(video.labels["split3"] == video.split for video in chosen.videos)
    with pytest.raises(UnknownNameError, match="unknown label column 'split4'"):
        select(listed, Selection(split_column="split4"))
