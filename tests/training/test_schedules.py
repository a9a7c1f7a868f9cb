"""Learning rates by fractional epoch, against values by hand."""

import math

import pytest

from featcache.config import parse
from featcache.errors import ConfigError
from featcache.training.schedules import cosine, learning_rate_factor
from featcache.training.settings import ScheduleSettings, TrainingSettings


@pytest.mark.parametrize(
    ("epoch", "factor"),
    [(0, 0.0), (2.5, 0.5), (5, 1.0), (5 + 95 / 2, 0.5), (5 + 95 / 4, 0.5 * (1 + math.cos(math.pi / 4))), (100, 0.0)],
)
def test_warm_up_then_half_a_cosine(epoch, factor):
    schedule = ScheduleSettings(warmup_fraction=0.05)
    assert learning_rate_factor(epoch, epochs=100, schedule=schedule) == pytest.approx(factor, abs=1e-12)


def test_a_cosine_may_begin_and_end_above_zero():
    schedule = ScheduleSettings(warmup_fraction=1 / 3, warmup_factor=0.1, final_factor=0.2)
    assert learning_rate_factor(0, epochs=30, schedule=schedule) == pytest.approx(0.1)
    assert learning_rate_factor(5, epochs=30, schedule=schedule) == pytest.approx(0.55)
    assert learning_rate_factor(30, epochs=30, schedule=schedule) == pytest.approx(0.2)


def test_steps():
    schedule = ScheduleSettings(kind="step", step_fractions=(0.6, 0.8))
    factors = [learning_rate_factor(epoch, epochs=10, schedule=schedule) for epoch in (0, 5.99, 6, 7.99, 8, 10)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_momentum_of_a_teacher():
    assert cosine(0.996, 1.0, 0.0) == pytest.approx(0.996)
    assert cosine(0.996, 1.0, 0.5) == pytest.approx(0.998)
    assert cosine(0.996, 1.0, 1.0) == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": {"kind": "step"}}, "step_fractions"),
        ({"schedule": {"warmup_fraction": 1.0}}, "warmup_fraction"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"clip_norm": 1.0, "clip_each_norm": 1.0}, "clip_each_norm"),
        ({"optimiser": {"weight_decay": 0.0, "final_weight_decay": 0.1}}, "final_weight_decay"),
    ],
)
def test_settings_at_odds_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        parse(TrainingSettings, settings)
