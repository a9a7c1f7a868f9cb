"""The shipped files of SCALE: every step can be used as it stands, and they run on stores that are not theirs."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from featcache.backbones import BACKBONES as REGISTRY
from featcache.cli.main import app
from featcache.cli.report import parse_steps
from featcache.commands.registry import load
from featcache.commands.steps import PipelineSettings, SweepSettings, pipeline_steps, row_steps
from featcache.config import read_mapping
from featcache.data.importers import DATASETS
from featcache.evaluation.settings import PROPOSED_LRS
from featcache.extract.presets import with_preset
from featcache.extract.settings import ExtractSettings
from featcache.methods.scale.settings import ScaleSettings
from featcache.testing import stores

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "scale").glob("*.yaml"))
SWEEPS = [path for path in CONFIGS if read_mapping(path)["command"] == "sweep"]
PIPELINES = [path for path in CONFIGS if read_mapping(path)["command"] == "pipeline"]
ABLATIONS = ("table8", "table9", "table10", "table11")
BACKBONES = set(REGISTRY.names())


def every_step(path):
    """Settings of all steps of all rows."""
    settings = load(path)
    if isinstance(settings, PipelineSettings):
        return parse_steps(pipeline_steps(settings))
    assert isinstance(settings, SweepSettings)
    return [step for row in settings.rows for step in parse_steps(row_steps(settings, row, folder="runs"))]


def own_settings(step):
    """A probe's own settings, or ``None``."""
    if not step.command.startswith("probe-"):
        return None
    return getattr(step, step.command.removeprefix("probe-").replace("-", "_"))


def test_there_is_a_file_for_every_table():
    assert {path.stem.partition("_")[0] for path in SWEEPS} == {f"table{number}" for number in range(2, 12)}


@pytest.mark.parametrize("path", SWEEPS + PIPELINES, ids=lambda path: path.stem)
def test_every_step_of_every_row_has_the_paper_s_setting(path):
    varied = {key for row in read_mapping(path).get("rows", ()) for key in row.get("set", ())}
    for step in every_step(path):
        if isinstance(step, ScaleSettings):
            default = ScaleSettings(sets=step.sets)
            assert step.training.optimiser == default.training.optimiser
            assert step.training.schedule == default.training.schedule
            assert step.training.epochs == (200 if path.stem.partition("_")[0] in ABLATIONS else 500)
            if not any(key.startswith("0.predictor") for key in varied):
                assert step.predictor == default.predictor
            if not any(key.startswith("0.loss") for key in varied):
                assert step.loss == default.loss
            if "0.clips_per_set" not in varied:
                assert (step.clips_per_set, step.training.batch_size) == (8, 512)
        own = own_settings(step)
        if hasattr(own, "training"):
            assert (own.training.epochs, own.training.num_clips, own.training.lrs) == (60, 8, PROPOSED_LRS)
        if hasattr(own, "ks"):
            assert (own.ks, own.temperature, own.center) == ((20,), 0.07, True)


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_pipelines_extract_by_the_preset_into_one_store_a_data_set(path):
    extract, scale, *probes = every_step(path)
    assert isinstance(extract, ExtractSettings)
    assert isinstance(scale, ScaleSettings)
    DATASETS.load(extract.dataset)
    step = load(path).steps[0]
    preset = "scale-ssv2" if extract.dataset == "ssv2" else "scale"
    assert step["sampling"] == with_preset(preset, {"features": []})["sampling"]
    (feature,) = extract.features
    assert feature.name == feature.backbone
    assert feature.backbone in BACKBONES
    fine_tuned = feature.backbone in ("videomae-b-k400", "videomae-b-ssv2")  # fc_norm of the mean, as the head reads it
    assert feature.output == ("cls" if fine_tuned or feature.backbone.startswith("svt") else "mean")
    assert feature.mean == (0.45, 0.45, 0.45)  # PySlowFast's, for every backbone
    assert feature.std == (0.225, 0.225, 0.225)
    assert {extract.out} == {scale.sets.store, *(probe.store for probe in probes)}
    assert {feature.name} == {scale.sets.feature, *(probe.feature for probe in probes)}
    models = {own_settings(probe).model for probe in probes if getattr(own_settings(probe), "model", None)}
    assert models == {scale.out}
    outs = [scale.out, *(probe.out for probe in probes)]
    assert len(set(outs)) == len(outs)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_row_names_one_feature_and_its_own_predictor(path):
    settings = load(path)
    for row in settings.rows:
        scale, *probes = parse_steps(row_steps(settings, row, folder="runs"))
        assert {scale.sets.feature} == {probe.feature for probe in probes}
        assert scale.sets.feature in BACKBONES
        models = {own_settings(probe).model for probe in probes if getattr(own_settings(probe), "model", None)}
        assert models == {scale.out}


def test_what_is_said_to_be_published():
    said = {
        (path.stem, row["name"]): row["published"]
        for path in SWEEPS
        for row in read_mapping(path)["rows"]
        if "published" in row
    }
    assert said == {("table4_ucf101", "svt-b"): {"linear": 92.65}}  # no other number is at hand


def small(path, *, store, rows=None):
    """A shipped file at sizes that run in seconds: its rows, columns and steps, small numbers."""
    data = read_mapping(path)
    data |= {"store": store, "feature": None}
    for step in data["steps"]:
        if step["command"] == "train-scale":
            step |= {"clips_per_set": 2, "heads": {"target_hidden": 8, "hidden": 8}}
            step["predictor"] |= {"width": 32, "depth": 1}
            step["training"] |= {"epochs": 1, "batch_size": 4, "tensorboard": False, "device": "cpu", "threads": 1}
            step["training"]["schedule"] = {"warmup_fraction": 0}
        for own in step.values():
            if isinstance(own, dict) and isinstance(own.get("training"), dict) and step["command"] != "train-scale":
                own["training"] |= {"epochs": 1, "seeds": [0], "lrs": [0.001], "batch_sizes": [4]}
                own["training"] |= {"optimizers": ["adamw"], "batch_norms": [False]}
        if "mlp" in step:
            step["mlp"]["hidden"] = [4]
        if "linear" in step:
            step["linear"] |= {"epochs": 1, "seeds": [0], "lrs": [0.001], "optimizers": ["sgd"]}
        if step["command"].startswith("probe-"):
            step["intervals"] = {"num_resamples": 20}
            step |= {"label": "label", "test_splits": None, "numbers": False}
    for row in data.get("rows", ()):
        sizes = {"0.predictor.width": 1 / 8, "0.clips_per_set": 1 / 4, "0.training.batch_size": 1 / 128}
        row["set"] = {
            key: max(1, int(value * sizes[key])) if key in sizes else value
            for key, value in row.get("set", {}).items()
            if not key.endswith("feature")
        }
        if "0.predictor.width" in row["set"]:
            row["set"] |= {"0.predictor.heads": 4}
    if rows is not None:
        data["rows"] = data["rows"][:rows]
    return data


def run_small(data, folder):
    """Run it; the table's rows."""
    data = {**data, "out": str(folder / "table")}
    (folder / "small.yaml").write_text(yaml.safe_dump(data))
    result = CliRunner().invoke(app, ["run", str(folder / "small.yaml")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads((folder / "table" / "table.json").read_text())["rows"]


@pytest.fixture(scope="module")
def clip_store(tmp_path_factory):
    """Vectors of 16 clips of 18 videos, with coordinates."""
    path = tmp_path_factory.mktemp("clips") / "store"
    plan = stores.StorePlan(
        records={"x": stores.make_record((6,))},
        rows_per_video=(16,),
        num_videos=18,
        shard_rows=64,
    )
    stores.write_store(path, plan)
    return str(path)


def check_rows(rows, data):
    assert [row["name"] for row in rows] == [row["name"] for row in data["rows"]]
    for row in rows:
        for column in data["columns"]:
            assert row[column]["value"] is not None
            assert 0 <= row[column]["value"] <= (1e9 if column in ("parameters", "videos/s") else 100)


def test_a_table_of_probes_and_an_ablation_run_on_another_store(clip_store, tmp_path):
    for name in ("table4_ucf101", "table8_loss"):
        folder = tmp_path / name
        folder.mkdir()
        data = small(next(path for path in SWEEPS if path.stem == name), store=clip_store, rows=1)
        check_rows(run_small(data, folder), data)


@pytest.mark.slow
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_table_runs_on_another_store(path, clip_store, tmp_path):
    data = small(path, store=clip_store)
    rows = run_small(data, tmp_path)
    check_rows(rows, data)
    if path.stem == "table10_capacity":
        sizes = [row["parameters"]["value"] for row in rows]
        assert len(set(sizes)) == len(sizes)


@pytest.mark.slow
@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_every_pipeline_runs_after_its_extraction(path, clip_store, tmp_path):
    data = small(path, store=clip_store)
    first, *probes = data["steps"][1:]  # the extraction is another's
    steps = [{**step, "out": str(tmp_path / str(number))} for number, step in enumerate([first, *probes])]
    text = yaml.safe_dump({**data, "steps": steps}).replace("'@1'", "'@0'")
    (tmp_path / "small.yaml").write_text(text)
    result = CliRunner().invoke(app, ["run", str(tmp_path / "small.yaml")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    results = [json.loads((tmp_path / str(number) / "result.json").read_text()) for number in range(1, len(steps))]
    assert all(result["splits"]["test"]["num_videos"] == 6 for result in results)
