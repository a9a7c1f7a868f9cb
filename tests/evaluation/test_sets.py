"""Probes over sets: what they see of a model, of positions, of test epochs; and what they refuse."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from featcache.errors import ConfigError
from featcache.evaluation import clip_probe, sets
from featcache.evaluation.clip_probe import AS_RELEASED
from featcache.evaluation.clip_training import clip_table
from featcache.evaluation.data import make_data
from featcache.evaluation.run import run_probe
from featcache.evaluation.sets import with_summaries
from featcache.evaluation.settings import (
    ClipTraining,
    KnnSettings,
    MlpSettings,
    ScaleLinearSettings,
    TransformerSettings,
)
from featcache.methods.scale.saved import load_predictor
from featcache.networks.settings import SetPredictorSettings
from featcache.testing.probes import names_of, separable_data, small_settings, tiny_model

QUICK = ClipTraining(lrs=(1e-2,), batch_sizes=(64,), seeds=(0,), epochs=40)
PREDICTOR = SetPredictorSettings(width=32, depth=1, position_hidden=16, dropout=0.0)


def test_summaries_are_the_predictors():
    data = separable_data()
    found = with_summaries(data, model=tiny_model(), seed=None, device="cpu")
    predictor = load_predictor(Path(tiny_model())).predictor
    assert found.features.shape == (len(data.features), 8 + 32)
    assert np.array_equal(found.features[:, :8], data.features)
    for video in range(0, len(data.videos), 7):
        own = data.row_video == video
        with torch.no_grad():
            output = predictor(
                torch.from_numpy(data.features[own])[None], torch.from_numpy(data.positions["box6"][own])[None]
            )
        np.testing.assert_allclose(found.features[own, 8:], output.summary.expand(own.sum(), -1), rtol=1e-4, atol=1e-5)


def test_knn_with_a_model_is_centred_knn_of_clips_and_summaries():
    data = separable_data(spread=0.6)
    summed = with_summaries(data, model=tiny_model(), seed=None, device="cpu")
    found = run_probe("knn", data, KnnSettings(model=tiny_model(), model_seeds=(0, 1)))
    plain = run_probe("knn", summed, KnnSettings(center=True))
    uncentred = run_probe("knn", summed, KnnSettings())
    for split, numbers in plain.splits.items():
        assert found.splits[split].metrics["top1"].value == numbers.metrics["top1"].value
    assert KnnSettings(model="runs/x").is_centred
    assert not KnnSettings().is_centred
    assert uncentred.settings["center"] is None


def test_each_split_is_centred_on_itself():
    data = separable_data(spread=0.4)
    moved = data.features.copy()
    moved[np.array(data.splits)[data.row_video] == "test_unseen"] += 50.0  # as if from another camera
    shifted = dataclasses.replace(data, features=moved)
    one, other = (run_probe("knn", each, KnnSettings(center=True)) for each in (data, shifted))
    for split in one.splits:
        assert one.splits[split].metrics["top1"].value == other.splits[split].metrics["top1"].value


def test_positions_tell_classes_apart_to_a_transformer_and_not_to_an_mlp():
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    late = np.repeat(labels, 4)
    box = np.tile(np.float32([0, 0, 1, 1, 0, 0]), (480, 1))
    box[:, 4] = late * 0.5 + 0.2 * rng.random(480)  # class 1 lies in the second half
    box[:, 5] = box[:, 4] + 0.2
    data = make_data(
        rng.normal(size=(480, 8)),
        row_video=np.repeat(np.arange(120), 4),
        videos=[str(number) for number in range(120)],
        labels=["early", "late"] * 60,
        splits=["train"] * 60 + ["test"] * 60,
        positions={"box6": box},
    )
    placed = run_probe("transformer", data, TransformerSettings(predictor=PREDICTOR, training=QUICK))
    blind = run_probe("mlp", data, MlpSettings(hidden=(16,), training=QUICK))
    assert placed.splits["test"].metrics["top1"].value > 0.9
    assert blind.splits["test"].metrics["top1"].value < 0.75


@pytest.mark.parametrize("name", ["mlp", "scale-linear"])
def test_the_best_test_epoch_is_a_variant_and_never_the_number(name):
    data = separable_data(spread=0.8)
    plain = small_settings(name)
    training = dataclasses.replace(plain.training, lrs=(1e-2,), batch_norms=(False,), seeds=(0, 1))
    settings = dataclasses.replace(plain, training=training)
    watched = dataclasses.replace(settings, training=dataclasses.replace(training, as_released=True))
    ordinary, released = run_probe(name, data, settings), run_probe(name, data, watched)
    assert ordinary.variants == {}
    assert released.splits == ordinary.splits
    best = released.variants[AS_RELEASED]
    final = np.mean([numbers.metrics["top1"].value for numbers in released.splits.values()])
    assert np.mean([metrics["top1"].value for metrics in best.values()]) >= final


@pytest.mark.parametrize("name", ["mlp", "scale-linear"])
def test_how_many_networks_are_trained_as_one_makes_no_difference(name, monkeypatch):
    data = separable_data(spread=0.8)
    plain = small_settings(name)
    training = dataclasses.replace(
        plain.training, lrs=(1e-3, 1e-2), batch_norms=(False, True), seeds=(0, 1), epochs=5, batch_sizes=(8, 16)
    )
    settings = dataclasses.replace(plain, training=training)
    together = run_probe(name, data, settings)
    stacks = []
    real = clip_probe.train_stack
    monkeypatch.setattr(clip_probe, "CLIPS_IN_STACK", 1)
    monkeypatch.setattr(clip_probe, "OUTPUTS_IN_STACK", 1)
    monkeypatch.setattr(
        clip_probe, "train_stack", lambda *words, **more: stacks.append(words[4:6]) or real(*words, **more)
    )
    alone = run_probe(name, data, settings)
    assert all(len(candidates) == len(seeds) == 1 for candidates, seeds in stacks)
    assert len(stacks) == 8 * 2 + 2
    for one, other in zip(together.table, alone.table, strict=True):
        assert one["validation_loss"] == pytest.approx(other["validation_loss"], rel=1e-2)
        assert one["validation_top1"] == pytest.approx(other["validation_top1"])
        assert one["chosen"] == other["chosen"]
    assert {split: part.metrics for split, part in together.splits.items()} == {
        split: part.metrics for split, part in alone.splits.items()
    }


def test_a_refined_token_is_seen_too():
    data = separable_data()
    settings = dataclasses.replace(small_settings("scale-linear"), refined=True)
    found = run_probe("scale-linear", data, settings)
    assert found.settings["refined"]
    assert all(numbers.metrics["top1"].value == 1 for numbers in found.splits.values())


def test_the_grid_is_reported():
    result = run_probe("scale-linear", separable_data(), small_settings("scale-linear"))
    assert len(result.table) == 2
    assert sum(row["chosen"] for row in result.table) == 1
    assert {"optimizer", "lr", "weight_decay", "batch_norm", "batch_size", "validation_top1"} <= set(result.table[0])


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("scale-linear", ScaleLinearSettings(), "by --model"),
        ("scale-linear", ScaleLinearSettings(model="nowhere"), "nowhere holds no trained run"),
        ("knn", KnnSettings(model="nowhere"), "nowhere holds no trained run"),
    ],
)
def test_a_model_must_be_there(name, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        run_probe(name, separable_data(), settings)


@pytest.mark.parametrize("name", ["scale-linear", "scale-ft", "knn"])
def test_a_model_of_another_width_is_refused(name):
    data = separable_data()
    wide = make_data(
        np.repeat(data.features, 2, axis=1),
        row_video=data.row_video,
        videos=data.videos,
        labels=names_of(data),
        splits=data.splits,
        positions=data.positions,
    )
    settings = KnnSettings(model=tiny_model()) if name == "knn" else small_settings(name)
    with pytest.raises(ConfigError, match="has 16 channels and the set predictor was trained on 8"):
        run_probe(name, wide, settings)


@pytest.mark.parametrize("name", ["transformer", "scale-linear", "scale-ft"])
def test_data_without_positions_are_refused(name):
    data = dataclasses.replace(separable_data(), positions={})
    with pytest.raises(ConfigError, match="came without positions"):
        run_probe(name, data, small_settings(name))


def test_a_training_that_diverged_is_no_number():
    training = dataclasses.replace(QUICK, lrs=(1e38,), optimizers=("sgd",))
    with pytest.raises(ConfigError, match="diverged"):
        run_probe("mlp", separable_data(), MlpSettings(hidden=(16,), training=training))


@pytest.mark.parametrize(
    "change",
    [
        {"lrs": ()},
        {"batch_sizes": (2,)},
        {"num_clips": 0},
        {"loss": "median"},
        {"optimizers": ("lion",)},
        {"epochs": 0},
        {"seeds": (0, 0)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_settings_that_make_no_sense(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        ClipTraining(**change)


@pytest.mark.parametrize(("name", "is_frozen"), [("scale-linear", True), ("scale-ft", False)])
def test_training_starts_from_the_saved_weights(name, is_frozen, monkeypatch):
    seen = []
    real = sets.probe_clips
    monkeypatch.setattr(sets, "probe_clips", lambda task, embedding, training: (
        seen.append(embedding) or real(task, embedding, training)
    ))  # fmt: skip
    run_probe(name, separable_data(), small_settings(name))
    (embedding,) = seen
    saved = load_predictor(Path(tiny_model())).predictor.state_dict()
    started = embedding.make(0).predictor.state_dict()
    assert embedding.is_frozen == is_frozen
    assert all(torch.equal(started[name], value) for name, value in saved.items())


def test_a_model_gets_the_coordinates_that_it_was_trained_with(monkeypatch):
    data = separable_data()
    video = np.flatnonzero(data.row_video == 5)
    tables = {
        kind: clip_table(data, form="box6", coordinates=kind, device="cpu").positions.numpy()
        for kind in ("true", "shuffled", "zero")
    }
    assert np.array_equal(tables["true"], data.positions["box6"])
    assert not tables["zero"].any()
    assert not np.array_equal(tables["shuffled"], tables["true"])
    assert sorted(map(tuple, tables["shuffled"][video])) == sorted(map(tuple, tables["true"][video]))

    truly = with_summaries(data, model=tiny_model(), seed=None, device="cpu").features
    real = sets.load_predictor
    monkeypatch.setattr(
        sets, "load_predictor", lambda *words, **more: dataclasses.replace(real(*words, **more), coordinates="zero")
    )
    blindly = with_summaries(data, model=tiny_model(), seed=None, device="cpu").features
    nowhere = dataclasses.replace(data, positions={"box6": np.zeros_like(data.positions["box6"])})
    assert np.array_equal(blindly, with_summaries(nowhere, model=tiny_model(), seed=None, device="cpu").features)
    assert not np.array_equal(blindly, truly)


@pytest.mark.parametrize("has_splits", [True, False])
def test_a_store_without_splits_says_what_its_predictor_saw(has_splits):
    data = separable_data(splits=has_splits)
    training = dataclasses.replace(QUICK, epochs=1)
    knn = run_probe("knn", data, KnnSettings(model=tiny_model()))
    linear = run_probe("scale-linear", data, ScaleLinearSettings(model=tiny_model(), training=training))
    plain = run_probe("knn", data, KnnSettings())
    said = ["saw the scored videos too" in " ".join(result.notes) for result in (knn, linear, plain)]
    assert said == [not has_splits, not has_splits, False]
