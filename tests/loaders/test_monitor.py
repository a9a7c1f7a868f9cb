"""Which videos a monitor draws, and what it says of features that are known."""

import dataclasses
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from featcache.data.decoding.clips import CropSize
from featcache.data.manifest import Manifest, read_parquet
from featcache.errors import ManifestError, UnknownNameError
from featcache.loaders.monitor import KnnMonitor, draw_monitored, evaluating
from featcache.loaders.recipe_rows import RecipeSource
from featcache.loaders.settings import MonitorSettings
from featcache.loaders.views import ClipShape
from featcache.methods.svt.settings import SvtSettings
from featcache.recipes import SamplingRecipe
from featcache.training.generators import seeded_torch
from featcache.training.settings import TrainingSettings
from featcache.training.world import ALONE
from tests.methods.finetune.helpers import write_classes

ON = MonitorSettings(knn_epochs=2)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Six videos of each of two classes to train on, three of each to test, and one that is broken."""
    return read_parquet(write_classes(tmp_path_factory.mktemp("classes"), {"train": 6, "test": 3}))


def drawn(manifest, *, settings=None, **changes):
    settings = settings or SvtSettings(source="videos")
    return draw_monitored(manifest, settings, ON.model_copy(update=changes))


def mapped(manifest, change):
    return Manifest(root=manifest.root, videos=tuple(change(video) for video in manifest.videos))


def ids(videos):
    names = [video.id for video in videos.files.videos]
    return names[: videos.num_voting], names[videos.num_voting :]


def test_both_sides_are_drawn_from_their_splits_and_balanced(manifest):
    all_of_them = drawn(manifest)
    voting, classified = ids(all_of_them)
    assert (len(voting), len(classified), all_of_them.num_classes) == (12, 6, 2)
    assert {name.partition("-")[0] for name in voting} == {"train"}
    assert {name.partition("-")[0] for name in classified} == {"test"}
    few = drawn(manifest, videos=4)
    for side, names in zip(ids(few), (voting, classified), strict=True):
        assert set(side) < set(names)
        assert Counter(name.split("-")[1] for name in side) == {"blue": 2, "red": 2}
    assert ids(drawn(manifest, videos=4)) == ids(few), "held fixed"
    assert [few.files.videos[number].labels["label"] for number in range(8)] == [
        ("blue", "red")[label] for label in few.labels
    ]


def test_a_split_may_be_named_and_without_splits_halves_share_no_group(manifest):
    named = drawn(mapped(manifest, lambda video: dataclasses.replace(video, split=video.split.replace("test", "val"))))
    assert len(ids(named)[1]) == 6
    assert len(ids(drawn(manifest, split="test"))[1]) == 6
    with pytest.raises(UnknownNameError, match="did you mean 'test'"):
        drawn(manifest, split="tset")
    flat = mapped(manifest, lambda video: dataclasses.replace(video, split=""))
    voting, classified = ids(drawn(flat))
    assert len(voting) == len(classified) == 9
    assert not set(voting) & set(classified)

    def grouped(video):
        return dataclasses.replace(video, split="", labels=video.labels | {"group": video.id[-5]})

    sides = [{name[-5] for name in side} for side in ids(drawn(mapped(manifest, grouped)))]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == set("012345")


def test_what_cannot_be_monitored_is_a_sentence_before_training(manifest):
    assert draw_monitored(manifest, SvtSettings(source="videos"), MonitorSettings()) is None
    with pytest.raises(ManifestError, match=r"knn_epochs is 2 and no video of videos has a label; set it to 0"):
        drawn(mapped(manifest, lambda video: dataclasses.replace(video, labels={})))
    with pytest.raises(UnknownNameError, match="did you mean 'label'"):
        drawn(manifest, label="lable")
    with pytest.raises(ManifestError, match="are left that are classified"):
        drawn(
            mapped(manifest, lambda video: dataclasses.replace(video, split="", labels=video.labels | {"group": "1"}))
        )
    bare = mapped(manifest, lambda video: video if video.split == "test" else dataclasses.replace(video, labels={}))
    with pytest.raises(ManifestError, match="are left that vote"):
        drawn(bare)


def test_the_accuracy_is_that_of_a_plain_search(manifest):
    """Features are three random sums of the pixels."""
    videos = drawn(manifest)
    with seeded_torch(0, "monitor"):
        module = nn.Sequential(nn.Dropout(0.5), nn.Flatten(1), nn.Linear(2 * 3 * 16 * 16, 3)).requires_grad_(False)
    progress = []
    runs = SimpleNamespace(
        device=torch.device("cpu"),
        training=TrainingSettings(epochs=5),
        world=ALONE,
        on_stage=lambda *figures: progress.append(figures),
    )
    module.train()
    module[1].eval()
    monitor = KnnMonitor(
        videos=videos,
        settings=ON,
        runs=runs,
        module=module,
        encode=lambda clips: module(clips.float()),
        shape=ClipShape(2, 16),
        width=3,
        workers=0,
    )
    draws = torch.get_rng_state()
    values = [monitor(epoch) for epoch in range(1, 6)]
    assert torch.equal(torch.get_rng_state(), draws)
    assert [part.training for part in module] == [True, False, True]
    assert [bool(each) for each in values] == [False, True, False, True, True]  # every second, and the last
    assert values[1] == values[3] == values[4]
    assert progress[-1] == ("knn", 18, 18)
    recipe = SamplingRecipe(temporal="spread", num_clips=1, num_frames=2, frame_stride=1, spatial="views", num_crops=1)
    source = RecipeSource(recipe, crop=CropSize(size=16, interpolation="bicubic"), seed=0)
    module.eval()
    clips = [torch.from_numpy(source.pixels(videos.files.file(number), 0)[0]) for number in range(18)]
    features = torch.cat([module(each.float()) for each in clips]).double().numpy()
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    right = 0
    for query in range(12, 18):
        votes = np.zeros(2)
        for neighbour in range(12):  # fewer than 20, so all of them vote
            votes[videos.labels[neighbour]] += np.exp(features[query] @ features[neighbour] / 0.07)
        right += votes.argmax() == videos.labels[query]
    assert values[1] == {"knn_top1": right / 6}


def test_every_part_returns_to_its_mode():
    module = nn.Sequential(nn.Dropout(), nn.Dropout())
    module[1].eval()
    with evaluating(module):
        assert not any(part.training for part in module.modules())
    assert [part.training for part in module.modules()] == [True, True, False]
