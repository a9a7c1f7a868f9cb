"""Choosing a head: on held-out training videos, stated, and never on test."""

import math

import numpy as np
import pytest

from featcache.errors import ConfigError
from featcache.evaluation.data import make_data
from featcache.evaluation.linear import linear
from featcache.evaluation.probe import Task
from featcache.evaluation.run import run_probe
from featcache.evaluation.settings import LEARNING_RATES, Head, LinearSettings
from tests.evaluation.helpers import clusters


def test_the_default_grid_has_52_heads():
    heads = LinearSettings().heads
    assert len(heads) == len(set(heads)) == 52
    assert heads[0] == Head(optimizer="sgd", lr=LEARNING_RATES[0], weight_decay=0.0, batch_norm=False)


def test_the_whole_grid_is_reported_and_the_best_on_validation_chosen():
    settings = LinearSettings(lrs=(1e-6, 0.1), weight_decays=(0.0, 1e-3), seeds=(0, 1), epochs=15)
    result = run_probe("linear", clusters(noise=0.5, num_videos=80), settings)
    assert len(result.table) == len(settings.heads) == 16
    chosen = [row for row in result.table if row["chosen"]]
    assert len(chosen) == 1
    best = max(row["validation_top1"] for row in result.table)
    assert chosen[0]["validation_top1"] == best == 1
    tied = [row for row in result.table if row["validation_top1"] == best]
    assert chosen[0]["validation_loss"] == min(row["validation_loss"] for row in tied)
    assert chosen[0]["lr"] == 0.1
    losses = {row["lr"]: row["validation_loss"] for row in result.table if row["optimizer"] == "sgd"}
    assert losses[1e-6] == pytest.approx(math.log(4), abs=0.1)  # hardly trained


def test_a_head_that_diverges_is_never_chosen_and_marked():
    settings = LinearSettings(lrs=(0.1, 1e38), weight_decays=(1.0,), optimizers=("sgd",), seeds=(0,), epochs=10)
    result = run_probe("linear", clusters(noise=0.5), settings)
    assert [row["diverged"] for row in result.table] == [False, True, False, True]
    assert [row["validation_loss"] is None for row in result.table] == [False, True, False, True]
    assert next(row for row in result.table if row["chosen"])["lr"] == 0.1
    result.to_json()


def test_only_diverging_heads_are_an_error():
    settings = LinearSettings(lrs=(1e38,), weight_decays=(1.0,), optimizers=("sgd",), batch_norms=(False,), seeds=(0,))
    with pytest.raises(ConfigError, match=r"the chosen head diverged .* give smaller learning rates"):
        run_probe("linear", clusters(), settings)


def test_one_video_a_class_takes_the_middle_rate_and_says_so():
    data = clusters(num_videos=8, noise=0.05)
    result = run_probe("linear", data)
    assert any("none could be held out to choose a head" in note for note in result.notes)
    chosen = next(row for row in result.table if row["chosen"])
    assert (chosen["optimizer"], chosen["batch_norm"], chosen["lr"]) == ("sgd", False, 0.01)
    assert "validation_top1" not in chosen


def test_seeds_are_slices_of_the_scores():
    data = clusters(noise=2.0)
    splits = np.array(data.splits)
    task = Task(data=data, train=np.flatnonzero(splits == "train"), test=np.flatnonzero(splits == "test"), device="cpu")
    base = {"lrs": (0.1,), "optimizers": ("sgd",), "batch_norms": (False,), "epochs": 3}
    both = linear(task, LinearSettings(seeds=(0, 5), **base)).scores
    alone = linear(task, LinearSettings(seeds=(5,), **base)).scores
    assert both.shape == (2, 24, 4)
    np.testing.assert_allclose(both[1], alone[0], rtol=1e-5)
    np.testing.assert_allclose(both.sum(axis=-1), 1, rtol=1e-5)


def test_views_are_averaged():
    # The test video's rows speak for two classes; the softmax mean follows the more confident one.
    corners = np.eye(2) * 4
    data = make_data(
        np.concatenate([np.repeat(corners, 6, axis=0), corners[:1], corners[1:] * 0.01, corners[1:] * 0.01]),
        row_video=[*range(12), 12, 12, 12],
        videos=[str(index) for index in range(13)],
        labels=["a"] * 6 + ["b"] * 6 + ["a"],
        splits=["train"] * 12 + ["test"],
    )
    settings = LinearSettings(lrs=(0.5,), optimizers=("sgd",), batch_norms=(False,), seeds=(0,))
    assert run_probe("linear", data, settings).splits["test"].metrics["top1"].value == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"lrs": ()},
        {"lrs": (0.0,)},
        {"lrs": (0.1, 0.1)},
        {"weight_decays": (-1.0,)},
        {"optimizers": ("lion",)},
        {"seeds": ()},
        {"epochs": 0},
        {"batch_size": 2},
        {"momentum": 1.0},
        {"schedule": "step"},
        {"warmup_fraction": 1.0},
        {"validation_fraction": 0.0},
    ],
)
def test_bad_settings(bad):
    with pytest.raises(ConfigError):
        LinearSettings(**bad)
