"""The shipped files of SVT: every step has the paper's setting, and every table runs on videos that are not theirs."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from featcache.backbones import BACKBONES as REGISTRY
from featcache.cli.main import app
from featcache.commands.cost import BackboneCostSettings, count_backbone
from featcache.commands.registry import load
from featcache.commands.steps import parse_steps
from featcache.commands.sweeps import row_steps
from featcache.config import read_mapping
from featcache.data.importers import DATASETS
from featcache.extract.settings import ExtractSettings
from featcache.methods.finetune.settings import FinetuneSettings
from featcache.methods.svt.settings import SvtSettings
from featcache.testing.videos import write_video

FOLDER = Path(__file__).parents[2] / "configs" / "svt"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
SWEEPS = [path for path in CONFIGS if read_mapping(path)["command"] == "sweep"]
ABLATIONS = ("table4", "table5", "table6", "table7", "table8", "ablation")
BACKBONES = set(REGISTRY.names())
FAST = {"precision": "bfloat16", "matmul": "high"}
"""Of trainings that take a GPU for days; the released script pre-trains in float16."""


def every_row(path):
    """Name and settings of all steps of each row."""
    settings = load(path)
    return {row.name: parse_steps(row_steps(settings, row, folder="runs/row")) for row in settings.rows}


def test_there_is_a_file_for_every_table():
    assert {path.stem.partition("_")[0] for path in SWEEPS} == {
        *(f"table{number}" for number in range(1, 9)), "ablation",
    }  # fmt: skip
    assert {path.stem for path in CONFIGS} - {path.stem for path in SWEEPS} == {"folder", "k400_vitb", "motion"}


def test_pre_training_is_the_default_of_the_command():
    settings = load(FOLDER / "k400_vitb.yaml")
    DATASETS.load(settings.dataset)
    default = SvtSettings(dataset=settings.dataset, root=settings.root, init=settings.init, out=settings.out)
    default = default.model_copy(update={"training": default.training.model_copy(update=FAST)})
    assert settings == default
    assert (settings.init.start, settings.init.weights) == ("image", "dino_vitbase16_pretrain.pth")


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_step_of_every_row_has_the_paper_s_setting(path):
    is_ablation = path.stem.startswith(ABLATIONS)
    for steps in every_row(path).values():
        for step in steps:
            if isinstance(step, SvtSettings):
                assert (step.selection.subset, step.size, step.init.start) == (60_000, "base", "image")
                assert step.training == SvtSettings.model_fields["training"].default.model_copy(update=FAST)
            if isinstance(step, ExtractSettings):
                DATASETS.load(step.dataset)
                has_alternate = is_ablation and step.dataset != "ssv2"
                assert step.selection.split_column == ("split2" if has_alternate else None)
                (feature,) = step.features
                assert feature.backbone in BACKBONES
                assert (feature.mean, feature.std) == ((0.45,) * 3, (0.225,) * 3)
                sampling = step.sampling
                assert sampling.num_frames == (64 if feature.backbone.endswith("slowfast") else 8)
                assert (sampling.temporal, sampling.test.temporal) == ("spread_random", "spread")
                assert sampling.flip_probability == (0.0 if step.dataset == "ssv2" else 0.5)
                assert (sampling.test.num_clips, sampling.test.num_crops) == (1, 3)
            if isinstance(step, FinetuneSettings):
                default = FinetuneSettings(source="x", backbone="svt-b").training
                nesterov = default.optimiser.model_copy(update={"nesterov": True})  # as TimeSformer
                is_large = step.dataset in ("kinetics400", "ssv2")
                fast = FAST if is_large else {}
                assert step.training == default.model_copy(update={"optimiser": nesterov, **fast})
                assert (step.mean, step.std) == ((0.45,) * 3, (0.225,) * 3)
                assert step.clips.flip_probability == (0.0 if step.dataset == "ssv2" else 0.5)
                assert (step.test.num_clips, step.test.num_crops) == (1, 3)
            if isinstance(step, BackboneCostSettings):
                assert (step.num_frames, step.input_size, step.num_views) == (None, None, 3)
            if step.command == "probe-linear":
                assert (step.linear.lrs, step.linear.optimizers, step.linear.epochs) == ((0.008, 0.001), ("sgd",), 5)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_row_reads_its_own_training_or_the_shared_one(path):
    default = None
    for name, steps in every_row(path).items():
        training = [step for step in steps if isinstance(step, SvtSettings)]
        extractions = [step for step in steps if isinstance(step, ExtractSettings)]
        stores = [step.store for step in steps if step.command == "probe-linear"]
        assert stores == [step.out for step in extractions]
        weights = {step.features[0].weights for step in extractions}
        weights |= {step.weights for step in steps if isinstance(step, FinetuneSettings)}
        if training:
            assert weights == {f"{training[0].out}/seed-0/teacher.safetensors"}
            if training[0].out == "runs/svt/ablations":
                default = training[0]
        else:
            own = f"{load(FOLDER / 'k400_vitb.yaml').out}/seed-0/teacher.safetensors"
            assert weights == {own if name == "own pre-training" else "default"}
    if path.stem.startswith(ABLATIONS):  # what the tables share is one and the same training
        given = read_mapping(FOLDER / "k400_vitb.yaml")["init"]
        assert default == SvtSettings(
            dataset="kinetics400", root="videos/kinetics400", selection=default.selection, out=default.out,
            init=given, training=SvtSettings.model_fields["training"].default.model_copy(update=FAST),
        )  # fmt: skip


def test_rows_of_an_ablation_differ():
    for path in SWEEPS:
        rows = every_row(path)
        told_apart = {json.dumps([step.model_dump(mode="json", exclude={"out"}) for step in steps[:2]])
                      for steps in rows.values()}  # fmt: skip
        assert len(told_apart) == len(rows)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_which_views_a_table_is_tested_on(path):
    for name, steps in every_row(path).items():
        slow_alone = path.stem.startswith(ABLATIONS) and name != "slow and fast"
        extractions = {step.features[0].backbone for step in steps if isinstance(step, ExtractSettings)}
        fine_tuned = {step.backbone for step in steps if isinstance(step, FinetuneSettings)}
        assert extractions | fine_tuned == {"svt-b" if slow_alone else "svt-b-slowfast"}


@pytest.mark.parametrize("table", ["table1", "table2", "table3"])
def test_columns_beside_the_accuracies(table):
    path = next(path for path in SWEEPS if path.stem.startswith(table))
    settings, rows = load(path), every_row(path)
    for column, backbone in (("TFLOPs", "svt-b"), ("TFLOPs with the fast view", "svt-b-slowfast")):
        number, _, value = settings.columns[column].partition(".")
        step = rows["released weights"][int(number)]
        assert isinstance(step, BackboneCostSettings)
        assert (step.backbone, value) == (backbone, "cost.teramacs")
    released, own = settings.rows
    assert (released.given, released.published["epochs"]) == ({}, 20)
    assert own.given == {"epochs": load(FOLDER / "k400_vitb.yaml").training.epochs}


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "teramacs"), [("svt-b", 0.5875), ("svt-b-slowfast", 1.4419)])
def test_the_tflops_of_the_tables(tmp_path, backbone, teramacs):
    cost = count_backbone(BackboneCostSettings(backbone=backbone, num_views=3, out=str(tmp_path))).cost
    assert cost["teramacs"] == pytest.approx(teramacs, abs=5e-5)
    if backbone == "svt-b":  # printed: 0.59
        assert round(cost["teramacs"], 2) == load(SWEEPS[0]).rows[0].published["TFLOPs"]


def test_rows_of_our_own_are_set_apart():
    for path in SWEEPS:
        rows = load(path).rows
        if path.stem.startswith(ABLATIONS) and path.stem != "ablation_motion":
            assert {row.name for row in rows if not row.published} == {
                row.name for row in rows if row.name.startswith("ours: ")
            }


def test_tables_share_the_stores_of_the_shared_training():
    stores = {}
    for path in SWEEPS:
        for steps in every_row(path).values():
            for step in steps:
                if isinstance(step, ExtractSettings) and step.out.startswith("stores/"):
                    stores.setdefault(step.out, []).append(step)
    assert {name: len(steps) for name, steps in stores.items()} == {
        "stores/svt-ablations-ucf101": 6,
        "stores/svt-ablations-hmdb51": 5,
        "stores/svt-ablations-ssv2": 1,
    }
    for steps in stores.values():
        assert all(step == steps[0] for step in steps)


@pytest.fixture(scope="module")
def listing(tmp_path_factory):
    """Twelve short videos of two classes, eight to train on."""
    folder = tmp_path_factory.mktemp("videos")
    lines = []
    for number in range(12):
        path = folder / f"{number}.mp4"
        write_video(path, num_frames=16 + number, width=64, height=48)
        split = "test" if number >= 8 else "train"
        lines.append({"path": path.name, "label": "ab"[number % 2], "split": split})
    (folder / "videos.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "videos.jsonl"


TRAINING = {"epochs": 1, "batch_size": 4, "tensorboard": False, "device": "cpu", "threads": 1}


def small(path, *, listing, folder):
    """A shipped sweep at sizes that run in seconds: its rows, columns and steps, small numbers."""
    data = read_mapping(path) | {"out": str(folder / "table")}
    for step in data["steps"]:
        for name in ("dataset", "root", "selection", "init"):
            step.pop(name, None)
        if step["command"] == "train-svt":
            views = {"global_frames": [2, 4], "local_frames": [2, 2], "global_size": 32, "local_size": 16}
            head = {"hidden": 16, "bottleneck": 8, "prototypes": 32}
            step |= {"source": str(listing), "size": "tiny", "workers": 0, "views": views, "head": head}
            step["training"] = TRAINING
        if step["command"] == "extract":
            step |= {"source": str(listing), "runtime": {"device": "cpu", "threads": 1}}
            step["sampling"] |= {"num_frames": 8, "num_clips": 2}
            step["features"][0] |= {"input_size": 32, "backbone": tiny(step["features"][0]["backbone"])}
            if step["features"][0]["weights"] == "default":
                step["features"][0]["weights"] = "random"
        if step["command"] == "cost-backbone":
            step |= {"backbone": tiny(step["backbone"]), "input_size": 32}
        if step["command"] == "probe-linear":
            step |= {"test_splits": ["test"], "intervals": {"num_resamples": 20}}
        if step["command"] == "train-finetune":
            step |= {"source": str(listing), "backbone": tiny(step["backbone"]), "weights": "random"}
            step |= {"input_size": 32, "workers": 0, "training": TRAINING}
            step.pop("test_splits", None)
            step["clips"] = step.get("clips", {}) | {"num_frames": 8}
    for row in data["rows"]:
        row["set"] = {key: value for key, value in row.get("set", {}).items() if "weights" not in key}
        row["set"] = {key: value for key, value in row["set"].items() if "sampling" not in key}
        for key, value in row["set"].items():
            if key.endswith("backbone"):
                row["set"][key] = tiny(value)
            if key.endswith(".out"):
                row["set"][key] = str(folder / ("shared" if key == "0.out" else value))
            if key.endswith("global_frames"):
                row["set"][key] = [4, 4]
    return data


def tiny(backbone):
    return backbone.replace("svt-b", "svt-tiny")


def check_it_runs(path, listing, folder):
    data = small(path, listing=listing, folder=folder)
    (folder / "small.yaml").write_text(yaml.safe_dump(data))
    result = CliRunner().invoke(app, ["run", str(folder / "small.yaml")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows = json.loads((folder / "table" / "table.json").read_text())["rows"]
    assert [row["name"] for row in rows] == [row["name"] for row in data["rows"]]
    for row, given in zip(rows, data["rows"], strict=True):
        for column, place in data["columns"].items():
            if place is None:
                assert row[column]["value"] == given.get("given", {}).get(column)
            else:
                assert 0 < row[column]["value"] <= 100 or "cost" not in place
                assert 0 <= row[column]["value"] <= 100
            assert row[column]["published"] == given.get("published", {}).get(column)


@pytest.mark.slow
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_table_runs_on_other_videos(path, listing, tmp_path):
    check_it_runs(path, listing, tmp_path)
    if path.stem.startswith(ABLATIONS):  # rows of the default setting left theirs where the other tables find it
        assert (tmp_path / "shared" / "seed-0" / "teacher.safetensors").exists()
        own = list(tmp_path.glob("table/*/0-train-svt"))
        assert len(own) == sum("0.out" not in row.get("set", {}) for row in read_mapping(path)["rows"])
