"""What a training is said to take, against arithmetic by hand."""

import math

import pytest
from torch import nn

from featcache.config import parse
from featcache.training.forecast import PEAKS, UTILISATION, DecodeSample, Forecast, StepCost
from featcache.training.plan import forecast, step_cost
from featcache.training.settings import TrainingSettings

COST = StepCost(
    trained_macs=10**12, frozen_macs=5 * 10**11, checkpoint_bytes=3_000, weights_bytes=1_000, gradient_bytes=500
)
DECODING = DecodeSample(num_videos=8, seconds=0.25)


def forecast_of(**changes):
    given = {
        "num_videos": 1_000, "num_epochs": 20, "num_seeds": 2, "cost": COST, "decoding": DECODING, "num_cores": 4,
        "free_bytes": 10**9, "precision": "float32",
    }  # fmt: skip
    return Forecast(**given | changes)


def test_hours_cores_and_bytes_by_hand():
    found = forecast_of()
    operations = 2 * (3 * 1e12 + 0.5e12)  # forward, and a backward pass of twice that; the frozen part only forward
    assert COST.operations == operations
    assert found.num_bytes == 2 * 4_000
    assert found.decode_hours == 1_000 * 20 * 2 * 0.25 / 4 / 3600
    assert [(one.gpu, one.precision) for one in found.gpus] == [
        (gpu, precision) for gpu in ("A100", "H100") for precision in ("float32", "TF32", "bfloat16")
    ]
    for one in found.gpus:
        rate = PEAKS[one.gpu][one.precision] * 1e12 * UTILISATION[one.precision] / operations
        assert one.videos_a_second == pytest.approx(rate)
        assert one.cores == math.ceil(rate / 4)
        assert one.hours == pytest.approx({n: 40_000 / rate / n / 3600 for n in (1, 4, 8)})


def test_gradient_checkpointing_is_one_more_forward_pass():
    again = StepCost(trained_macs=10, recomputes=True, checkpoint_bytes=0, weights_bytes=0, gradient_bytes=0)
    assert again.operations == 2 * 4 * 10


def test_the_json_and_the_words_have_all_of_it():
    found = forecast_of(missing=("the file a.pth",))
    data = found.to_dict()
    assert (data["num_bytes"], data["videos_a_second_a_core"], data["operations_a_video"]) == (8_000, 4.0, 7e12)
    assert data["missing"] == ("the file a.pth",)
    assert set(data["gpus"][0]["hours"]) == {"1", "4", "8"}
    (table,) = found.tables()
    assert table.rows[2][:4] == ("A100, bfloat16", "40% of 312", "17.8", 5)
    assert found.facts()["decoding"].startswith("4 videos/s per core with these views, measured on 8")
    assert found.facts()["disk"].startswith("8.0 kB of 1.0 GB free: per seed a checkpoint of 3.0 kB")
    assert found.lines() == ("missing: the file a.pth", "1 thing is missing")
    assert forecast_of().lines() == ("nothing is missing",)


def test_what_is_not_known_is_left_out():
    bare = forecast_of(num_videos=None, decoding=None)
    assert (bare.decode_hours, {one.cores for one in bare.gpus}, bare.gpus[0].hours) == (None, {None}, {})
    assert bare.tables()[0].rows[0][3:] == ("-", "-", "-", "-")
    assert not {"decoding", "this machine"} & set(bare.facts())
    unbuilt = forecast_of(cost=None)
    assert (unbuilt.gpus, unbuilt.tables(), unbuilt.num_bytes) == ((), (), None)
    assert not {"disk", "memory", "operations"} & set(unbuilt.facts())


@pytest.mark.parametrize(
    ("changes", "num_copies"),
    [
        ({"optimiser": {"name": "adamw"}}, 2),
        ({"optimiser": {"name": "sgd"}}, 1),
        ({"optimiser": {"name": "sgd", "momentum": 0.0}}, 0),
        ({"optimiser": {"name": "lars"}}, 1),
    ],
)
def test_bytes_of_a_checkpoint(changes, num_copies):
    module = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2).requires_grad_(requires_grad=False))
    trained, frozen = 4 * (3 * 5 + 5), 4 * (5 * 2 + 2)
    training = parse(TrainingSettings, changes)
    cost = step_cost(module, training, kept=module[0], trained_macs=1)
    assert (cost.gradient_bytes, cost.weights_bytes) == (trained, trained)
    assert cost.checkpoint_bytes == trained + frozen + num_copies * trained
    more = parse(TrainingSettings, {**changes, "keep_epochs": [1, 5]})
    assert step_cost(module, more, kept=module[0], trained_macs=1).weights_bytes == 3 * trained
    assert step_cost(module, more, kept=None, whole=module, trained_macs=1).weights_bytes == trained + frozen
    average = step_cost(module, parse(TrainingSettings, {**changes, "ema_decay": 0.9}), kept=None, trained_macs=1)
    assert (average.checkpoint_bytes, average.weights_bytes) == (cost.checkpoint_bytes + trained + frozen, 0)


@pytest.mark.parametrize(
    ("changes", "precision"),
    [({}, "float32"), ({"matmul": "high"}, "TF32"), ({"precision": "bfloat16", "matmul": "high"}, "bfloat16")],
)
def test_the_precision_of_the_settings_is_said(changes, precision, tmp_path):
    training = parse(TrainingSettings, changes)
    found = forecast(training, num_videos=1, cost=COST, decoding=None, out=str(tmp_path / "none" / "yet"))
    assert (found.precision, found.num_epochs, found.num_seeds) == (precision, 50, 1)
    assert found.free_bytes > 0
