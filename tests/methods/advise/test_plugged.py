"""A trained module on another store: what it scored on its own, and sentences where it cannot."""

import json

import pytest
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.commands.registry import load
from featcache.config import parse
from featcache.errors import ConfigError, ManifestError
from featcache.methods.advise.settings import TmmEvaluationSettings, TmmFineTuneSettings
from featcache.methods.advise.tmm import evaluate_plugged, run_temporal
from featcache.metrics.predictions import read_outcomes
from featcache.recipes import SamplingRecipe
from featcache.testing import stores

BANK = SamplingRecipe(layout="frames", temporal="bank", num_clips=1, num_frames=1, frame_stride=1)


def write(path, **shapes):
    records = {name: stores.make_record(shape) for name, shape in shapes.items()}
    plan = stores.StorePlan(records=records, num_videos=12, rows_per_video=(20, 17), shard_rows=32)
    stores.write_store(path, plan, sampling=BANK)
    return str(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store of three arrays, two of one width, and a run on the first."""
    folder = tmp_path_factory.mktemp("plugged")
    store = write(folder / "store", clip=(2, 2, 6), dino=(3, 3, 6), wide=(2, 2, 8))
    settings = {
        "bank": {"store": store, "feature": "clip"},
        "tmm": {"hidden": 4, "out": 8, "num_blocks": 1, "head_hidden": 8},
        "training": {"epochs": 2, "batch_size": 4, "seeds": [0, 1], "tensorboard": False, "device": "cpu"},
        "test_clips": 2,
        "out": str(folder / "run"),
    }
    return store, run_temporal(parse(TmmFineTuneSettings, settings)), folder


def settings(store, run, **changes):
    return parse(TmmEvaluationSettings, {"bank": {"store": store, "feature": "clip"}, "run": run, **changes})


def test_on_its_own_features_it_scores_what_it_scored(trained):
    store, result, folder = trained
    again = evaluate_plugged(settings(store, result.folder, out=str(folder / "again")))
    assert again.metrics == result.metrics
    assert again.coverage == result.coverage
    assert again.cost == result.cost


def test_what_it_predicted_is_kept(trained):
    _, result, folder = trained
    found = read_outcomes(folder / "run")
    assert found.seeds == (0, 1)
    for split, orders in result.metrics["scratch"].items():
        mine = [place for place, (name, _) in enumerate(found.keys) if name == split]
        assert found.values[:, mine].mean() == pytest.approx(orders["true"]["top1"].value)


def test_on_another_array_of_its_width_it_runs_as_it_is(trained):
    store, result, folder = trained
    before = sorted((path, path.stat().st_mtime_ns) for path in (folder / "run").rglob("*"))
    other = ["--feature", "dino", "--out", str(folder / "other"), "--json"]
    printed = CliRunner().invoke(
        app, ["evaluate", "tmm", store, "--run", result.folder, *other], catch_exceptions=False
    )
    plugged = json.loads(printed.output)
    assert set(plugged["metrics"]["scratch"]["test"]) == {"true", "reversed", "shuffled", "one frame"}
    assert plugged["num_views"] == 2
    assert "not on this store" in plugged["protocol"]
    assert sorted((path, path.stat().st_mtime_ns) for path in (folder / "run").rglob("*")) == before
    assert load(folder / "other" / "config.yaml") == settings(
        store, result.folder, bank={"store": store, "feature": "dino"}, out=str(folder / "other")
    )


def test_another_width_is_a_sentence(trained):
    store, result, _ = trained
    with pytest.raises(ConfigError, match="trained on 6 channels, this feature has 8; choose a feature of that width"):
        evaluate_plugged(settings(store, result.folder, bank={"store": store, "feature": "wide"}))


def test_what_is_no_run_and_classes_of_another_task_are_sentences(trained, tmp_path):
    store, result, _ = trained
    with pytest.raises(ConfigError, match="not a run of `featcache train tmm`"):
        evaluate_plugged(settings(store, str(tmp_path)))
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_bytes((trained[2] / "run" / "config.yaml").read_bytes())
    with pytest.raises(ConfigError, match="is not finished"):
        evaluate_plugged(settings(store, str(run)))
    (run / "result.json").write_text(json.dumps({**result.to_dict(), "classes": ["a", "c"]}))
    with pytest.raises(ManifestError, match="class 'b'"):
        evaluate_plugged(settings(store, str(run)))
