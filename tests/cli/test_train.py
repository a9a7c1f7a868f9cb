"""Flags of ``train`` as settings; nothing is trained."""

import pytest

from tests.cli.helpers import settings_of


@pytest.mark.parametrize("command", ["advise", "tmm"])
def test_online_is_a_flag(command):
    assert settings_of("train", command, "store", "--online").bank.online
    given = settings_of("train", command, "store", "--set", "bank.online=true", "--set", "bank.videos=elsewhere").bank
    assert given.videos == "elsewhere"
    assert not settings_of("train", command, "store").bank.online


def test_the_baseline_has_the_released_settings_unless_told():
    settings = settings_of("train", "r3d50", "videos")
    assert (settings.training.optimiser.name, settings.training.optimiser.lr) == ("sgd", 0.04)
    assert (settings.clips.base_stride, settings.clips.starts, settings.clips.loss) == (1, "anywhere", "bce")
    assert (settings.head_hidden, settings.dropout, settings.training.schedule.warmup_fraction) == (4096, 0.2, 0.05)
    short = settings_of("train", "r3d50", "--dataset", "ucf101", "--root", "data", "--epochs", "5", "--set", "width=8")
    assert (short.dataset, short.root, short.width) == ("ucf101", "data", 8)
    assert short.training.model_copy(update={"epochs": 200}) == settings.training
