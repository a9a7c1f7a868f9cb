"""The shipped files of SCALE: every step can be used as it stands, and they run on stores that are not theirs."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from featcache.backbones import BACKBONES as REGISTRY
from featcache.cli.main import app
from featcache.commands.registry import load
from featcache.commands.steps import PipelineSettings, parse_steps, pipeline_steps
from featcache.commands.sweeps import SweepSettings, row_steps
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
EXTRACTIONS = [path for path in CONFIGS if read_mapping(path)["command"] == "extract"]
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


def by_training(steps):
    """Each pre-training with the probes behind it."""
    groups = []
    for step in steps:
        if isinstance(step, ScaleSettings):
            groups.append((step, []))
        else:
            groups[-1][1].append(step)
    return groups


def test_there_is_a_file_for_every_table():
    assert {path.stem.partition("_")[0] for path in SWEEPS} == {f"table{number}" for number in range(1, 12)}


@pytest.mark.parametrize("path", SWEEPS + PIPELINES, ids=lambda path: path.stem)
def test_every_step_of_every_row_has_the_paper_s_setting(path):
    varied = {key.partition(".")[2] for row in read_mapping(path).get("rows", ()) for key in row.get("set", ())}
    epochs = {"table1": 20, **dict.fromkeys(ABLATIONS, 200)}.get(path.stem.partition("_")[0], 500)
    for step in every_step(path):
        if isinstance(step, ScaleSettings):
            default = ScaleSettings(sets=step.sets)
            assert step.training.optimiser == default.training.optimiser
            assert step.training.schedule == default.training.schedule
            assert step.training.epochs == epochs
            if not any(key.startswith("predictor") for key in varied):
                assert step.predictor == default.predictor
            if not any(key.startswith("loss") for key in varied):
                assert step.loss == default.loss
            if "training.batch_size" not in varied:
                assert (step.clips_per_set, step.training.batch_size) == (8, 512)
        own = own_settings(step)
        if hasattr(own, "training"):
            grid = own.training
            assert (grid.epochs, grid.num_clips, grid.batch_sizes) == (60, 8, (128, 512))
        elif hasattr(own, "lrs"):
            grid = own
            assert (grid.epochs, grid.batch_size) == (60, 512 * 8)
        else:
            grid = None
        if grid is not None:
            assert (grid.lrs, grid.weight_decays) == (PROPOSED_LRS, (0.0, 1e-4, 1e-2))
            assert (grid.optimizers, grid.batch_norms) == (("adamw", "sgd"), (False, True))
        if hasattr(own, "ks"):
            assert (own.ks, own.temperature, own.center) == ((20,), 0.07, True)


def check_feature(feature):
    assert feature.name == feature.backbone
    assert feature.backbone in BACKBONES
    fine_tuned = feature.backbone in ("videomae-b-k400", "videomae-b-ssv2")  # fc_norm of the mean, as the head reads it
    assert feature.output == ("cls" if fine_tuned or feature.backbone.startswith("svt") else "mean")
    assert feature.mean == (0.45, 0.45, 0.45)  # PySlowFast's, for every backbone
    assert feature.std == (0.225, 0.225, 0.225)


def sampling_of(dataset):
    """The preset's sampling; LVU's tasks have splits of their own, so that its videos have both kinds of views."""
    preset = with_preset("scale-ssv2" if dataset == "ssv2" else "scale", {"features": []})["sampling"]
    return preset | ({"both_views": True} if dataset == "lvu" else {})


def source_of(step):
    """Store and array that a step of a table reads."""
    return (step.sets.store, step.sets.feature) if isinstance(step, ScaleSettings) else (step.store, step.feature)


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_pipelines_extract_by_the_preset_into_one_store_a_data_set(path):
    extract, scale, *probes = every_step(path)
    assert isinstance(extract, ExtractSettings)
    assert isinstance(scale, ScaleSettings)
    DATASETS.load(extract.dataset)
    step = load(path).steps[0]
    assert step["sampling"] == sampling_of(extract.dataset)
    (feature,) = extract.features
    check_feature(feature)
    assert {extract.out} == {scale.sets.store, *(probe.store for probe in probes)}
    assert {feature.name} == {scale.sets.feature, *(probe.feature for probe in probes)}
    models = {own_settings(probe).model for probe in probes if getattr(own_settings(probe), "model", None)}
    assert models == {scale.out}
    outs = [scale.out, *(probe.out for probe in probes)]
    assert len(set(outs)) == len(outs)


@pytest.mark.parametrize("path", EXTRACTIONS, ids=lambda path: path.stem)
def test_one_extraction_a_data_set_gives_what_its_tables_read(path):
    extraction = load(path)
    DATASETS.load(extraction.dataset)
    assert read_mapping(path)["sampling"] == sampling_of(extraction.dataset)
    for feature in extraction.features:
        check_feature(feature)
    steps = [step for sweep in SWEEPS for step in every_step(sweep)]
    read = {feature for store, feature in map(source_of, steps) if store == extraction.out}
    assert read == {feature.name for feature in extraction.features}


def test_every_store_that_a_table_reads_is_extracted():
    stores = {load(path).out for path in EXTRACTIONS}
    assert {source_of(step)[0] for sweep in SWEEPS for step in every_step(sweep)} == stores


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_probe_reads_the_array_and_the_predictor_of_the_training_before_it(path):
    settings = load(path)
    for row in settings.rows:
        for scale, probes in by_training(parse_steps(row_steps(settings, row, folder="runs"))):
            assert {source_of(scale)} == {source_of(step) for step in (scale, *probes)}
            assert scale.sets.feature in BACKBONES
            models = {own_settings(probe).model for probe in probes if getattr(own_settings(probe), "model", None)}
            assert models <= {scale.out}
            assert models or path.stem == "table1_cost"


def test_rows_that_share_a_folder_share_its_settings():
    by_folder = {}
    for path in SWEEPS:
        settings = load(path)
        for row in settings.rows:
            for step in parse_steps(row_steps(settings, row, folder=f"{path.stem}/{row.name}")):
                if path.stem != "table2_lvu" or isinstance(step, ScaleSettings):
                    by_folder.setdefault(step.out, []).append(step)
    shared = {folder: steps for folder, steps in by_folder.items() if len(steps) > 1}
    assert len(shared) == 2 + 5 + 4 * 2  # LVU's backbones, Kinetics-400's, the ablations' default with its probe
    for steps in shared.values():
        assert all(step == steps[0] for step in steps)


PROBES = {
    "k-NN": ("probe-knn", False),
    "SCALE_k-NN": ("probe-knn", True),
    "Linear": ("probe-linear", False),
    "SCALE_linear": ("probe-scale-linear", True),
    "MLP": ("probe-mlp", False),
    "Transformer": ("probe-transformer", False),
    "SCALE_ft": ("probe-scale-ft", True),
}
"""Command of a column, and whether it uses a pre-trained predictor."""
STORES = {"UCF101": "stores/ucf101-scale", "HMDB51": "stores/hmdb51-scale"}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_cell_measures_what_its_row_and_column_name(path):
    settings = load(path)
    table = path.stem.partition("_")[0]
    for row in settings.rows:
        steps = parse_steps(row_steps(settings, row, folder="runs"))
        for column, place in settings.columns.items():
            if place is None:  # quoted
                assert column in ("SlowFast+NL", "ViS4mer", "fine-tuned")
                continue
            number, _, value = place.partition(".")
            step = steps[int(number)]
            if value != "splits.*.metrics.top1":
                assert isinstance(step, ScaleSettings)
                continue
            first, _, last = column.rpartition(", ")
            probe = "SCALE_ft" if table in ABLATIONS else last
            assert (step.command, bool(getattr(own_settings(step), "model", None))) == PROBES[probe]
            if table == "table2":
                assert (step.feature, step.label) == (first, row.name)
            elif table in ABLATIONS:
                assert (step.store, step.feature) == (STORES[first], last)
            else:
                assert (step.feature, step.label, first) == (row.name, "label", "")
            assert step.low_shot == (0.1 if table == "table7" else None)
        for scale, _ in by_training(steps):
            loss, predictor = scale.loss, scale.predictor
            named = {
                "table1": f"SCALE, batch {scale.training.batch_size}",
                "table8": " and ".join(name for name in ("MCM", "SET") if getattr(loss, f"{name.lower()}_weight")),
                "table9": str(loss.mask_ratio),
                "table10": f"{predictor.width}x{predictor.depth}",
                "table11": f"{scale.clips_per_set}x2, {scale.training.batch_size}",
            }
            assert row.name == named.get(table, row.name)


def small(path, *, store, rows=None):
    """A shipped file at sizes that run in seconds: its rows, columns and steps, small numbers."""
    data = read_mapping(path)
    data |= {"store": store, "feature": None}
    for step in data["steps"]:
        for name in ("store", "feature", "sets"):
            step.pop(name, None)
        if step["command"] == "train-scale":
            step |= {"clips_per_set": 2, "heads": {"target_hidden": 8, "hidden": 8}}
            step["predictor"] |= {"width": 32}
            step["training"] |= {"epochs": 1, "batch_size": 4, "tensorboard": False, "device": "cpu", "threads": 1}
            step["training"]["schedule"] = {"warmup_fraction": 0}
        for own in step.values():
            if isinstance(own, dict) and isinstance(own.get("training"), dict) and step["command"] != "train-scale":
                own["training"] |= {"epochs": 1, "seeds": [0], "lrs": [0.001], "weight_decays": [0.0]}
                own["training"] |= {"batch_sizes": [4], "optimizers": ["adamw"], "batch_norms": [False]}
        if "mlp" in step:
            step["mlp"]["hidden"] = [4]
        if "linear" in step:
            step["linear"] |= {"epochs": 1, "seeds": [0], "lrs": [0.001], "weight_decays": [0.0], "optimizers": ["sgd"]}
        if step["command"].startswith("probe-"):
            step["intervals"] = {"num_resamples": 20}
            step |= {"label": "label", "test_splits": None, "numbers": False}
    for row in data.get("rows", ()):
        sizes = {"predictor.width": 1 / 8, "clips_per_set": 1 / 4, "training.batch_size": 1 / 256}
        row["set"] = {
            key: max(2, int(value * sizes[name])) if (name := key.partition(".")[2]) in sizes else value
            for key, value in row.get("set", {}).items()
            if not key.endswith(("feature", "label"))
        }
        for key in [key for key in row["set"] if key.endswith("predictor.width")]:
            row["set"][key.replace("width", "heads")] = 4
    if rows is not None:
        data["rows"] = data["rows"][:rows]
    return data


def run_small(data, folder):
    """Run it; the table's rows."""
    data = {**data, "out": str(folder / "table")}
    for row in data["rows"]:
        shared = {key: str(folder / value) for key, value in row["set"].items() if key.endswith(".out")}
        row["set"] |= shared
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
            if data["columns"][column] is None:  # quoted, not run
                assert row[column]["value"] is None
                continue
            assert row[column]["value"] is not None
            is_share = data["columns"][column].endswith("top1")
            assert 0 <= row[column]["value"] <= (100 if is_share else 1e9)


def test_a_table_of_probes_and_one_of_costs_run_on_another_store(clip_store, tmp_path):
    for name in ("table4_ucf101", "table1_cost"):
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
        sizes = [row["parameters, svt-b"]["value"] for row in rows]
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
