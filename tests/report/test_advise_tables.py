"""The shipped files of AdViSe run at small sizes, on stores that are not theirs."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.config import parse, read_mapping
from featcache.data.motion import MotionSettings, make_motion_set
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings
from featcache.recipes import SamplingRecipe
from featcache.testing import stores
from tests.report.advise_files import SWEEPS, named

SMALL_TMM = {"hidden": 4, "out": 8}
SMALL_VIT = "timm/test_vit"


def test_a_pipeline_runs_its_steps_on_one_store(tmp_path):
    records = {"map": stores.make_record((2, 2, 6))}
    bank = SamplingRecipe(layout="frames", temporal="bank", num_clips=1, num_frames=1, frame_stride=1)
    plan = stores.StorePlan(records=records, num_videos=12, rows_per_video=(20, 17), shard_rows=32)
    stores.write_store(tmp_path / "store", plan, sampling=bank)
    data = small(named("ucf101_clip-l14"), store=str(tmp_path / "store"))
    _, advise, tmm = data["steps"]
    steps = [{**advise, "out": str(tmp_path / "a")}, {**tmm, "init": "@0", "out": str(tmp_path / "b")}]
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**data, "steps": steps}))
    result = CliRunner().invoke(app, ["run", str(tmp_path / "small.yaml")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    scored = json.loads((tmp_path / "b" / "result.json").read_text())
    assert set(scored["metrics"]) == {"pretrained", "scratch"}
    assert scored["cost"]["megaparameters"] * 1e6 < 25_000
    measured = json.loads((tmp_path / "a" / "result.json").read_text())["cost"]
    assert measured["seconds_an_iteration"] > 0
    assert measured["peak_memory_gigabytes"] is None  # counted on a GPU alone


def small(path, *, store, label="label", videos=None):
    """A shipped file at sizes that run in seconds: its rows, columns and steps, small numbers."""
    data = read_mapping(path)
    data |= {"store": store, "feature": None}
    for step in data["steps"]:
        if step["command"] == "extract":
            continue
        if "tmm" in step:
            step["tmm"] = small_tmm(step["tmm"])
        if step["command"] == "cost-advise":
            step |= {"batch_size": 2, "num_steps": min(1, step.get("num_steps", 0)), "device": "cpu", "threads": 1}
            if step["num_steps"]:
                step |= {"size": 160 if "backbone" in step else 32}
                step["clips"] |= {"num_frames": 2, "num_clips": 1}
            if "backbone" in step:
                step |= {"backbone": SMALL_VIT}
            continue
        step["training"] |= {"epochs": 1, "batch_size": 4, "tensorboard": False, "device": "cpu", "threads": 1}
        step["training"]["schedule"] = {"warmup_fraction": 0, "kind": "constant", "step_fractions": []}
        if "bank" in step:
            step["bank"] = {key: value for key, value in step["bank"].items() if key == "grid"}
        if step["command"] == "train-tmm":
            step |= {"label": label, "num_clips": 1, "test_clips": 1, "stride": 2}
        if "dataset" in step:
            step |= {"dataset": None, "root": None, "source": videos}
        if step["command"] == "train-r3d50":
            step |= {"size": 32}
            step["clips"] |= {"num_clips": 1, "num_frames": 2}
        if step["command"] == "train-finetune":
            step |= {"input_size": 32, "label": label, "workers": 0}
            step["clips"] |= {"num_frames": 2, "frame_stride": 2}
            step["test"] |= {"num_clips": 1}
    for row in data.get("rows", ()):
        row["set"] = {
            key: value
            for key, value in row.get("set", {}).items()
            if not key.endswith(("bank.feature", "bank.store", ".out"))
        }
        for key, value in row["set"].items():
            if key.endswith("hidden"):
                row["set"][key] = max(2, value // 256)
            if key.endswith(".tmm"):
                row["set"][key] = small_tmm(value)
            if key.endswith("backbone") and value is not None:
                row["set"][key] = SMALL_VIT
    return data


def small_tmm(given):
    """A module of the same kind and head."""
    one = {"num_blocks": 1} if given["kind"] == "swin" else {}
    heads = {"heads": 2, "mlp_hidden": 8} if "heads" in given else {}
    return {**given, **SMALL_TMM, **one, **heads, **({"head_hidden": 8} if given["head_hidden"] else {})}


def shrunk(data, *, grid, channels):
    """The sizes of a row's maps, as far as the store has them."""
    for row in data["rows"]:
        for key, value in row["set"].items():
            if key.endswith("bank.grid"):
                row["set"][key] = min(value, grid)
            if key.endswith("bank.channels"):
                row["set"][key] = next(size for size in range(min(value, channels), 0, -1) if channels % size == 0)
    return data


def run_small(data, folder):
    """Run it; the table's rows."""
    data = {**data, "out": str(folder / "table")}
    (folder / "small.yaml").write_text(yaml.safe_dump(data))
    result = CliRunner().invoke(app, ["run", str(folder / "small.yaml")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads((folder / "table" / "table.json").read_text())["rows"]


def check_table(path, data, rows):
    """Every cell has a value where one can be measured on a CPU, and the published number stands beside it."""
    quoted = data.get("quoted", [])
    assert [row["name"] for row in rows] == [row["name"] for row in [*quoted, *data["rows"]]]
    for row, given in zip(rows[: len(quoted)], quoted, strict=True):
        assert row["note"].startswith("quoted, not run")
        printed = {column: row[column]["published"] for column in given["published"]}
        assert (printed, {row[column]["value"] for column in data["columns"]}) == (given["published"], {None})
    for row in rows[len(quoted) :]:
        for column, place in data["columns"].items():
            value = row[column]["value"]
            if place.endswith("peak_memory_gigabytes"):
                assert value is None  # measured on a GPU alone
            elif "cost." in place:
                assert value >= 0
            else:
                assert -100 * ("delta" in place) <= value <= 100
        assert all(row[name]["published"] == value for name, value in published(path, row["name"]).items())


def test_a_cost_table_runs_without_a_store(tmp_path):
    path = named("table2_sfu_cost")
    data = read_mapping(path)
    rows = run_small(data, tmp_path)
    check_table(path, data, rows)
    for row in rows:
        assert row["MACs (G)"]["value"] == pytest.approx(row["MACs (G)"]["published"], rel=0.002, abs=0.0101)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_table_runs_on_the_motion_set(path, motion_videos, motion_store, tmp_path):
    data = shrunk(small(path, store=motion_store, label="motion", videos=motion_videos), grid=14, channels=112)
    check_table(path, data, run_small(data, tmp_path))


@pytest.mark.shared
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_table_runs_on_real_videos(path, real_store, tmp_path):
    if path.stem == "fig1_r3d50":
        pytest.skip("trains on the videos themselves, which no split divides here")
    data = shrunk(small(path, store=real_store, label="scene"), grid=14, channels=112)
    check_table(path, data, run_small(data, tmp_path))


def published(path, name):
    """What the shipped file says of a row."""
    return next(row for row in read_mapping(path)["rows"] if row["name"] == name).get("published", {})


def extract_bank(listing, out, **sampling):
    """Maps of 14 x 14 x 112, real ImageNet weights."""
    feature = {"backbone": "timm/tf_efficientnet_lite0", "layer": "blocks.4", "output": "map", "input_size": 224}
    extract(
        parse(
            ExtractSettings,
            {
                "source": str(listing),
                "out": str(out),
                "features": [feature],
                "sampling": {"layout": "frames", "crop_fraction": 1.0, **sampling},
                "runtime": {"device": "cpu", "threads": 1},
            },
        )
    )
    return str(out)


@pytest.fixture(scope="module")
def motion_videos(tmp_path_factory):
    one_split = {"num_unseen_pictures": 20, "train_per_picture_motion": 1, "test_unseen_per_picture_motion": 0}
    return str(make_motion_set(tmp_path_factory.mktemp("motion"), MotionSettings(size=64, **one_split)))


@pytest.fixture(scope="module")
def motion_store(motion_videos, tmp_path_factory):
    return extract_bank(motion_videos, tmp_path_factory.mktemp("bank") / "store")


@pytest.fixture(scope="module")
def real_store(shared, tmp_path_factory):
    """Eight real clips of two scenes, without splits."""
    folder = tmp_path_factory.mktemp("real")
    videos = shared / "data" / "videos"
    found = sorted(path for name in ("ucf101", "hmdb51") for path in (videos / name).rglob("*.avi"))
    lines = [{"path": str(path), "label.scene": path.relative_to(videos).parts[0]} for path in found]
    (folder / "videos.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return extract_bank(folder / "videos.jsonl", folder / "store", end_seconds=1.0)
