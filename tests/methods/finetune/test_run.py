"""Fine-tuning whole: it learns, a killed run goes on, its backbone extracts, and what is refused."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch
from safetensors import safe_open

from featcache.backbones import build_backbone
from featcache.data.decoding.clips import CropSize
from featcache.errors import (
    ConfigError,
    FeatcacheError,
    ManifestError,
    RecipeMismatchError,
    UnknownNameError,
    VideoError,
    WeightsError,
)
from featcache.loaders.labelled import read_data
from featcache.loaders.recipe_rows import RecipeSource
from featcache.methods.finetune.module import build_classifier
from featcache.methods.finetune.plan import plan_finetune
from featcache.methods.finetune.run import finetune
from featcache.methods.finetune.sampling import scoring_recipe
from featcache.methods.finetune.scoring import video_scores
from featcache.methods.finetune.settings import FinetuneClipSettings, FinetuneTestSettings
from featcache.metrics.intervals import rank_of_truth
from featcache.metrics.predictions import read_outcomes
from featcache.training.loop import trained_state
from featcache.training.meter import DivergedError
from featcache.training.settings import OptimiserSettings
from tests.methods.finetune.helpers import changed, settings, training, write_classes

STRANGER = "test-red-0.mp4"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_classes(tmp_path_factory.mktemp("classes"), {"train": 6, "test": 4})


@pytest.fixture(scope="module")
def straight(manifest, tmp_path_factory):
    """A run to its end."""
    folder = tmp_path_factory.mktemp("straight")
    return folder, finetune(settings(manifest, folder, training=training(epochs=4)))


def relabelled(video, label):
    return dataclasses.replace(video, labels={"label": label})


def test_it_learns_what_can_be_told_apart(straight):
    folder, result = straight
    test = result.splits["test"]
    assert (result.classes, result.num_train, result.num_left_out, result.num_views) == (("blue", "red"), 12, 1, 1)
    assert dataclasses.astuple(test.coverage) == (8, 1, 9, 0)
    assert (test.num_videos, test.num_unseen) == (8, 0)
    assert test.metrics["top1"].value == 1.0
    assert result.seeds[0]["step"] == 16
    assert result.seeds[0]["accuracy"] > 0.9
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(result.to_dict()))
    assert read_outcomes(folder).values.mean() == 1.0
    assert len(read_outcomes(folder).keys) == 8


def test_a_killed_run_goes_on_with_the_same_bits(manifest, straight, tmp_path):
    folder, result = straight
    chosen = settings(manifest, tmp_path, training=training(epochs=4))

    def kill(stage, done, total, note="", num_failed=0):
        if stage == "seed 0" and done > 1.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(chosen, on_stage=kill)
    assert trained_state(tmp_path / "seed-0").step == 5
    resumed = finetune(chosen)
    states = [trained_state(each / "seed-0").tensors for each in (folder, tmp_path)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())
    assert (tmp_path / "seed-0" / "backbone.safetensors").read_bytes() == (
        folder / "seed-0" / "backbone.safetensors"
    ).read_bytes()
    assert resumed.splits == result.splits
    with pytest.raises(RecipeMismatchError, match=r"a run with training\.epochs 4, which is 5 here"):
        finetune(settings(manifest, tmp_path, training=training(epochs=5)))
    finetune(settings(manifest, tmp_path, training=training(epochs=4), test=FinetuneTestSettings(num_clips=2)))


def test_a_tuned_backbone_extracts(straight):
    folder, result = straight
    backbone = build_backbone("svt-tiny", weights=result.weights[0])
    state = trained_state(folder / "seed-0").part("module")
    assert all(torch.equal(state[f"network.{name}"], each) for name, each in backbone.network.state_dict().items())
    fresh = build_backbone("svt-tiny", weights="random")
    assert backbone.weights_hash != fresh.weights_hash
    with safe_open(result.weights[0], "pt") as file:
        facts = json.loads(file.metadata()["featcache"])
    assert (facts["backbone"], facts["recipe"]["content of weights"]) == ("svt-tiny", fresh.weights_hash)


def test_the_head_alone_leaves_the_backbone_as_it_is(manifest, tmp_path):
    optimiser = OptimiserSettings(name="sgd", lr=1.0, weight_decay=0.0)
    chosen = settings(manifest, tmp_path, frozen=True, head_dropout=0.0, training=training(optimiser=optimiser))
    result = finetune(chosen)
    assert result.weights == {}
    assert result.num_trained == 2 * 192 + 2
    state = trained_state(tmp_path / "seed-0").part("module")
    fresh = build_backbone("svt-tiny", weights="random").network.state_dict()
    assert all(torch.equal(state[f"network.{name}"], tensor) for name, tensor in fresh.items())
    assert state["head.bias"].any()
    assert not list(tmp_path.rglob("backbone.safetensors"))


def test_a_video_has_the_mean_over_its_views_one_by_one(manifest):
    chosen = settings(manifest, "unused", test=FinetuneTestSettings(num_clips=2, num_crops=3))
    data = read_data(chosen)
    module = build_classifier(chosen, num_classes=2, seed=3, device=torch.device("cpu")).eval()
    crop = CropSize(size=32, interpolation="bicubic")
    files = data.tests["test"].files
    source = RecipeSource(scoring_recipe(chosen, num_frames=2), crop=crop, seed=0)
    by_view = []
    with torch.no_grad():
        module.head.weight.mul_(30)  # else softmax is as good as linear
        for video in range(8):
            (views,) = source.pixels(files.file(video), 0)
            by_view.append(torch.cat([module(torch.from_numpy(view[None])) for view in views]).double())
    seen = []
    for average in ("softmax", "logits"):
        values = [each.softmax(1) if average == "softmax" else each for each in by_view]
        expected = torch.stack([each.mean(0) for each in values]).numpy()
        scored, got = video_scores(
            module, source, files, workers=0, clips_at_once=5, average=average, on_stage=lambda *each: seen.append(each)
        )
        assert scored == list(range(8))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
        assert seen[-1] == ("test", 8, 8)
    again = pickle.loads(pickle.dumps(source))  # how it gets into another process
    np.testing.assert_array_equal(again.pixels(files.file(3), 0)[0], source.pixels(files.file(3), 0)[0])


def test_classes_that_were_not_taught_count_as_wrong(manifest, tmp_path):
    other = changed(manifest, "stranger", lambda video: relabelled(video, "aqua") if video.id == STRANGER else video)
    data = read_data(settings(other, "unused"))
    assert (data.classes, data.num_taught) == (("blue", "red", "aqua"), 2)
    assert sorted(data.tests["test"].labels.tolist()) == [0] * 4 + [1] * 3 + [2]
    result = finetune(settings(other, tmp_path, training=training(epochs=4)))
    assert result.splits["test"].num_unseen == 1
    assert result.splits["test"].metrics["top1"].value == pytest.approx(7 / 8)
    assert rank_of_truth(np.array([[0.9, 0.1, -np.inf]]), np.array([2])).tolist() == [3]


def test_a_plan_writes_nothing(manifest, tmp_path):
    plan = plan_finetune(settings(manifest, tmp_path / "out", training=training(epochs=5, seeds=(0, 1))))
    assert (plan.num_train, plan.num_test, plan.num_left_out, plan.num_views) == (12, {"test": 8}, 1, 1)
    assert (plan.clip, plan.feature, plan.num_steps, plan.num_seeds) == ((2, 32, 32), "norm cls", 20, 2)
    assert plan.num_trained == plan.num_parameters + 2 * 192 + 2
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(manifest, tmp_path):
    wild = training(epochs=5, optimiser=OptimiserSettings(name="sgd", lr=1e30, weight_decay=0.0))
    with pytest.raises(DivergedError, match=r"not finite by step \d .* the last checkpoint there is good"):
        finetune(settings(manifest, tmp_path, training=wild))
    assert trained_state(tmp_path / "seed-0").step >= 1
    assert not (tmp_path / "result.json").exists()


def test_what_cannot_be_trained_is_a_sentence(manifest, straight, tmp_path):
    with pytest.raises(ConfigError, match=r"12 training videos make no batch of 13; .*training\.batch_size=12"):
        finetune(settings(manifest, tmp_path / "a", training=training(batch_size=13)))
    assert not (tmp_path / "a").exists()
    for changes, kind, words in (
        ({"label": "lable"}, UnknownNameError, "unknown label column 'lable'; did you mean 'label'"),
        ({"train_split": "trian"}, UnknownNameError, "unknown split 'trian'; did you mean 'train'"),
        ({"test_splits": ("val",)}, UnknownNameError, "unknown split 'val'"),
        ({"backbone": "svt-tyni"}, UnknownNameError, "did you mean 'svt-tiny'"),
        ({"layer": "nrom"}, UnknownNameError, "unknown layer of svt-tiny 'nrom'"),
        ({"weights": "no.safetensors"}, WeightsError, "'no.safetensors' of svt-tiny are no file"),
        ({"backbone": "svt-s", "weights": straight[1].weights[0]}, WeightsError, "of svt-s does not fit"),
        ({"input_size": 33}, ConfigError, "TimeSformer takes sides that are multiples of 16"),
    ):
        with pytest.raises(kind, match=words):
            finetune(settings(manifest, tmp_path / "b", **changes))
    for wrong in ({"backbone": "svt-tyni"}, {"weights": "no.safetensors"}):
        with pytest.raises(FeatcacheError, match="svt-tiny"):  # not after an hour of reading videos
            finetune(settings("absent", tmp_path / "b", **wrong))
    flat = changed(manifest, "flat", lambda video: dataclasses.replace(video, split=""))
    with pytest.raises(ManifestError, match=r"have no splits, .* --test-fraction 0\.3"):
        read_data(settings(flat, "unused"))
    one = changed(manifest, "one", lambda video: relabelled(video, "red"))
    with pytest.raises(ManifestError, match=r"\(split 'train'\) have 1 class in column 'label'"):
        read_data(settings(one, "unused"))
    bare = changed(manifest, "bare", lambda video: dataclasses.replace(video, labels={}))
    with pytest.raises(ManifestError, match=r"no video of .* has a label"):
        read_data(settings(bare, "unused"))


def test_a_test_split_without_usable_videos(manifest):
    broken = changed(
        manifest, "broken", lambda video: video if video.status == "ok" else dataclasses.replace(video, split="val")
    )
    with pytest.raises(ManifestError, match="no usable test video with a label"):
        read_data(settings(broken, "unused", test_splits=("val",)))


def test_a_video_that_changes_stops_the_run(manifest, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    mine = write_classes(folder, {"train": 2, "test": 1})
    chosen = settings(mine, tmp_path / "out", training=training(batch_size=2, epochs=3))

    (folder / "test-red-0.mp4").write_bytes(b"cut off")
    with pytest.raises(VideoError, match=r"'test-red-0\.mp4' passed the scan and cannot be used now"):
        finetune(chosen)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("backbone", ["r3d_18", "timm/test_resnet", "timm/test_vit", "svt-tiny-slowfast", "i3d"])
def test_other_backbones_learn_too(manifest, tmp_path, backbone):
    frames = {"svt-tiny-slowfast": 8, "i3d": 9}.get(backbone, 4)
    size = {"timm/test_resnet": 64, "timm/test_vit": 160, "i3d": 64}.get(backbone, 32)
    optimiser = OptimiserSettings(lr=1e-3, weight_decay=0.0)
    chosen = settings(
        manifest,
        tmp_path,
        backbone=backbone,
        input_size=size,
        clips=FinetuneClipSettings(num_frames=frames),
        training=training(epochs=6, optimiser=optimiser),
    )
    result = finetune(chosen)
    assert result.splits["test"].metrics["top1"].value > 0.8
    tuned = build_backbone(backbone, weights=result.weights[0])
    assert tuned.weights_hash != build_backbone(backbone, weights="random").weights_hash
