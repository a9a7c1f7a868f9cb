"""Every probe from the command line: a store, a model trained on it, results that a file repeats."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.commands.registry import command_names
from featcache.errors import FeatcacheError
from featcache.evaluation.probe import PROBES as REGISTRY
from featcache.evaluation.reading import read_data
from featcache.loaders.clip_sets import open_clip_sets
from featcache.loaders.settings import ClipSetSettings
from featcache.testing import stores

PLAN = stores.StorePlan(
    records={"clips": stores.make_record((6,)), "wide": stores.make_record((9,))}, num_videos=24, rows_per_video=(4, 6)
)
TRAINING = {"epochs": 2, "batch_sizes": [8], "seeds": [0], "lrs": [1e-3]}


def featcache(*words: str) -> dict:
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def complaint(*words: str) -> str:
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, FeatcacheError), done.output
    return str(done.exception)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("probes") / "store"
    stores.write_store(path, PLAN)
    return path


@pytest.fixture(scope="module")
def model(store) -> str:
    small = {
        "predictor.width": 32,
        "predictor.depth": 1,
        "heads.target_hidden": 16,
        "heads.hidden": 16,
        "clips_per_set": 2,
        "training.epochs": 1,
        "training.batch_size": 8,
        "training.threads": 1,
        "training.schedule.warmup_fraction": 0,
        "training.tensorboard": "false",
    }
    settings = [word for key, value in small.items() for word in ("--set", f"{key}={value}")]
    out = str(store.parent / "model")
    featcache("train", "scale", str(store), "--feature", "clips", "--out", out, "--device", "cpu", *settings)
    return out


def test_the_commands_are_the_registered_probes():
    assert command_names("probe-") == [f"probe-{name}" for name in REGISTRY.names()]


@pytest.mark.parametrize("name", ["knn", "mlp", "transformer", "scale-linear", "scale-ft"])
def test_each_probe_runs_and_its_file_repeats_it(name, store, model, tmp_path):
    words = ["probe", name, str(store), "--feature", "clips", "--out", str(tmp_path / "one"), "--low-shot", "0.5"]
    if name != "knn":
        key = name.replace("-", "_")
        words += ["--set", f"{key}.training={json.dumps(TRAINING)}"]
    if name in ("knn", "scale-linear", "scale-ft"):
        words += ["--model", model]
    first = featcache(*words)
    assert first["probe"] == name
    assert "50 % of each class" in first["protocol"]
    config = yaml.safe_load((tmp_path / "one" / "config.yaml").read_text())
    assert config["command"] == f"probe-{name}"
    (tmp_path / "again.yaml").write_text(yaml.safe_dump({**config, "out": str(tmp_path / "two")}))
    again = featcache("run", str(tmp_path / "again.yaml"))
    assert again["splits"] == first["splits"]
    same = featcache("compare", str(tmp_path / "one"), str(tmp_path / "two"))
    assert set(same["splits"]) == set(first["splits"])
    for split, part in same["splits"].items():
        assert part["values"][0]["value"] == pytest.approx(first["splits"][split]["metrics"]["top1"]["value"])
        assert part["differences"] == [{"value": 0.0, "low": 0.0, "high": 0.0}]
        assert (tmp_path / "one" / f"confusion-{split}.csv").is_file()


def test_retrieval_runs_on_maps_repeats_and_compares(tmp_path):
    store = tmp_path / "store"
    records = {"map": stores.make_record((1, 2, 3, 4)), "clips": stores.make_record((6,))}
    stores.write_store(store, stores.StorePlan(records=records, num_videos=24, rows_per_video=(2,)))
    words = ("probe", "retrieval", str(store), "--train-split", "train", "--test-split", "test")
    out = ("--feature", "map", "--out", str(tmp_path / "one"))
    first = featcache(*words, *out, "--pool", "vcop", "-k", "2", "--ks", "8")
    assert list(first["splits"]["test"]["metrics"]) == ["r@1", "r@2", "r@8"]
    assert first["settings"] == {"ks": [2, 8], "pool": "vcop", "backend": "torch"}
    config = yaml.safe_load((tmp_path / "one" / "config.yaml").read_text())
    assert config["command"] == "probe-retrieval"
    assert config["retrieval"] == {"ks": [2, 8], "pool": "vcop", "backend": "torch"}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump({**config, "out": str(tmp_path / "two")}))
    assert featcache("run", str(tmp_path / "again.yaml"))["splits"] == first["splits"]
    same = featcache("compare", str(tmp_path / "one"), str(tmp_path / "two"))["splits"]["test"]
    assert same["metric"] == "r@1"
    assert same["values"][0]["value"] == pytest.approx(first["splits"]["test"]["metrics"]["r@1"]["value"])
    shown = CliRunner().invoke(app, [*words, *out, "--pool", "vcop", "-k", "2", "-k", "8"], env={"COLUMNS": "150"})
    assert all(word in shown.output for word in ("r@1", "r@2", "r@8", "computed before and kept"))
    pooled = complaint(*words, "--feature", "clips", "--pool", "vcop", "--out", str(tmp_path / "none"))
    assert "rows of 6, no maps" in pooled
    help_ = CliRunner().invoke(app, ["probe", "retrieval", "--help"], env={"COLUMNS": "150", "TERM": "dumb"}).output
    assert "featcache probe retrieval stores/mine --train-split train --test-split test" in help_
    assert all(flag in help_ for flag in ("--ks", "--pool", "--backend", "9,216"))


def test_positions_are_those_that_methods_read(store):
    sets = open_clip_sets(ClipSetSettings(store=str(store), feature="clips"), form="code7")
    data = read_data(store, feature="clips", positions="code7")
    assert np.array_equal(data.positions["code7"], sets.positions.numpy())
    assert read_data(store, feature="clips").positions == {}


def test_another_width_another_folder_and_words_for_numbers(store, model, tmp_path):
    scale = ("probe", "scale-linear", str(store), "--out", str(tmp_path))
    wide = complaint(*scale, "--feature", "wide", "--model", model)
    assert "has 9 channels and the set predictor was trained on 6" in wide
    assert "holds no trained run" in complaint(*scale, "--feature", "clips", "--model", str(tmp_path))
    assert "is not a number" in complaint("probe", "ridge", str(store), "--feature", "clips", "--out", str(tmp_path))
    assert not list(tmp_path.iterdir())
