"""Devices by name, and products of float32: set for a block, recorded with what they made."""

import json

import pytest
import torch

from featcache.errors import ConfigError
from featcache.extract.encode import float32_products
from featcache.extract.run import extract
from featcache.extract.settings import RuntimeSettings
from featcache.machine import resolve_device
from featcache.training.runs import prepare_torch
from featcache.training.settings import TrainingSettings


def products():
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.fixture(autouse=True)
def restored():
    former = products()
    yield
    torch.set_float32_matmul_precision(former[0])
    torch.backends.cudnn.allow_tf32 = former[1]


def test_auto_is_a_gpu_where_there_is_one(monkeypatch):
    for there, wanted in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert resolve_device("auto") == wanted
    for name in ("gpu", "cuda:x", "cpu:1", "cuda:99"):
        with pytest.raises(ConfigError, match=name):
            resolve_device(name)


def test_products_hold_for_a_block_of_convolutions_too():
    former = products()
    with float32_products("high"):
        assert products() == ("high", True)
        with float32_products("highest"):
            assert products() == ("highest", False)
        assert products() == ("high", True)
    assert products() == former


def test_a_training_sets_its_products():
    for matmul, wanted in (("high", ("high", True)), ("highest", ("highest", False))):
        prepare_torch(TrainingSettings(device="cpu", threads=torch.get_num_threads(), matmul=matmul))
        assert products() == wanted


def test_shards_know_how_float32_was_multiplied(make, tmp_path):
    seen = []
    runtime = RuntimeSettings(device="cpu", threads=1, encode_batch=3, matmul="high")
    extract(make(runtime=runtime), on_progress=lambda progress: seen.append(products()))
    assert set(seen) == {("high", True)}
    commits = [json.loads(path.read_bytes()) for path in (tmp_path / "store").rglob("*.json")]
    recorded = [commit["provenance"]["matmul"] for commit in commits if "provenance" in commit]
    assert recorded
    assert set(recorded) == {"high"}
