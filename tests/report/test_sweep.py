"""Sweeps: steps of a row, values out of results, tables and plots."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.commands.sweeps import SweepSettings, row_steps
from featcache.config import parse
from featcache.errors import ConfigError, UnknownNameError
from featcache.recipes import SamplingRecipe
from featcache.report.plots import write_table
from featcache.report.tables import Cell, Table, cell_text, value_at
from featcache.testing import stores

SWEEP = {
    "title": "A table",
    "out": "runs/table",
    "steps": [
        {"command": "train-advise", "bank": {"store": "stores/a"}},
        {"command": "train-tmm", "bank": {"store": "stores/a"}, "init": "@0"},
    ],
    "rows": [
        {"name": "hidden 8", "x": 8, "set": {"0.tmm": {"hidden": 8}, "1.num_frames": 4}, "published": {"top-1": 50.0}},
        {"name": "hidden 16", "x": 16, "set": {"0.tmm.hidden": 16}},
    ],
    "columns": {"top-1": "1.metrics.pretrained.test.true.top1"},
}


def test_a_row_puts_its_settings_into_the_steps():
    settings = parse(SweepSettings, SWEEP)
    first, second = (row_steps(settings, row, folder=f"out/{row.x:.0f}") for row in settings.rows)
    assert first[0]["tmm"] == {"hidden": 8}
    assert first[1]["num_frames"] == 4
    assert first[1]["init"] == first[0]["out"] == "out/8/0-train-advise"
    assert second[0]["tmm"] == {"hidden": 16}
    assert second[1]["out"] == "out/16/1-train-tmm"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": {"top-1": "2.metrics"}}, "names no step"),
        ({"rows": [{"name": "a"}, {"name": "a"}]}, "two rows"),
        ({"rows": [{"name": "a", "published": {"loss": 1.0}}]}, "no column"),
        ({"rows": [{"name": "a", "set": {"tmm.hidden": 1}}]}, "names no step"),
        ({"quoted": [{"name": "hidden 8", "published": {"top-1": 1.0}}]}, "two rows"),
        ({"quoted": [{"name": "others", "published": {"loss": 1.0}}]}, "no column"),
        ({"rows": [{"name": "a", "given": {"top-1": 1.0}}]}, "write top-1: null under columns"),
    ],
)
def test_sweeps_at_odds_with_themselves_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        parse(SweepSettings, {**SWEEP, **change})


def test_values_and_metrics_by_path():
    result = {"metrics": {"test": {"top1": {"value": 0.5, "low": 0.4, "high": 0.6}}}, "num_parameters": 12}
    assert value_at(result, ["metrics", "test", "top1"], where="r") == Cell(value=50, low=40, high=60)
    assert value_at(result, ["num_parameters"], where="r") == Cell(value=12)
    with pytest.raises(UnknownNameError, match="did you mean 'test'"):
        value_at(result, ["metrics", "tes"], where="r")
    with pytest.raises(ConfigError, match="not a number"):
        value_at(result, ["metrics"], where="r")


@pytest.mark.parametrize(
    ("low", "high", "arrow"), [(0.1, 2, " ↑"), (-3, -0.1, " ↓"), (-1, 2, ""), (0, 2, ""), (-2, 0, "")]
)
def test_an_arrow_says_that_the_interval_of_a_gain_leaves_out_0(low, high, arrow):
    cell = Cell(value=50, low=40, high=60, gain=Cell(value=0.5, low=low, high=high))
    assert cell_text(cell).partition("}")[2] == arrow
    table = Table(title="T", columns=("top-1",), rows=(("a", None, "", {"top-1": cell}),), against="b")
    assert "↑ or ↓: its interval leaves out 0, so that ours is higher or lower" in table.to_markdown()


def test_a_table_as_text_and_picture(tmp_path):
    cells = [{"top-1": Cell(value=12.34, low=10, high=14, published=15.0)}, {"top-1": Cell(value=2)}]
    assert cell_text(cells[0]["top-1"]) == "12.3 [10.0, 14.0] (15.0, -2.7)"
    table = Table(title="T", columns=("top-1",), rows=(("a", 1.0, "note", cells[0]), ("b", 2.0, "", cells[1])))
    write_table(table, tmp_path)
    assert "| a | 12.3 [10.0, 14.0] (15.0, -2.7) | note |" in (tmp_path / "table.md").read_text()
    assert json.loads((tmp_path / "table.json").read_text())["rows"][0]["top-1"]["difference"]["low"] == -5.0
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def frame_bank(path):
    stores.write_store(
        path,
        stores.StorePlan(
            records={"map": stores.make_record((2, 2, 6))}, num_videos=12, rows_per_video=(20, 17), shard_rows=32
        ),
        sampling=SamplingRecipe(layout="frames", temporal="bank", num_clips=1, num_frames=1, frame_stride=1),
    )


def test_a_sweep_of_two_stages_from_one_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame_bank(tmp_path / "stores" / "a")
    quick = {"epochs": 1, "batch_size": 4, "tensorboard": False, "schedule": {"warmup_fraction": 0}}
    tmm = {"hidden": 4, "out": 8, "num_blocks": 1, "head_hidden": 8}
    sweep = {
        **SWEEP,
        "command": "sweep",
        "steps": [
            {**SWEEP["steps"][0], "tmm": tmm, "training": quick},
            {**SWEEP["steps"][1], "training": quick, "test_clips": 2},
        ],
        "rows": [
            {"name": "hidden 4", "x": 4, "published": {"top-1": 50.0}},
            {"name": "hidden 8", "x": 8, "set": {"0.tmm.hidden": 8}},
        ],
        "quoted": [
            {"name": "others, ResNet-50", "published": {"top-1": 60.0, "epochs": 200}, "note": "on more videos"},
        ],
        "columns": {**SWEEP["columns"], "parameters": "0.num_parameters", "epochs": None},
    }
    sweep["rows"][0]["given"] = {"epochs": 1}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False))
    for _ in range(2):  # the second finds everything done
        result = CliRunner().invoke(app, ["run", "sweep.yaml"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    table = json.loads((tmp_path / "runs/table/table.json").read_text())
    others = table["rows"].pop(0)
    assert (others["name"], others["note"]) == ("others, ResNet-50", "quoted, not run; on more videos")
    assert {others[column]["value"] for column in table["columns"]} == {None}
    assert {name: others[name]["published"] for name in table["columns"]} == {
        "top-1": 60, "parameters": None, "epochs": 200,
    }  # fmt: skip
    markdown = (tmp_path / "runs/table/table.md").read_text()
    assert "| others, ResNet-50 | - (60.0) | - | - (200.0) | quoted, not run; on more videos |" in markdown
    assert [row["epochs"]["value"] for row in table["rows"]] == [1, None]
    assert [row["name"] for row in table["rows"]] == ["hidden 4", "hidden 8"]
    assert table["rows"][0]["parameters"]["value"] < table["rows"][1]["parameters"]["value"]
    assert 0 <= table["rows"][0]["top-1"]["low"] <= table["rows"][0]["top-1"]["value"] <= 100


def test_a_pipeline_names_the_step_that_is_wrong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps = [{"command": "train-advise", "bank": {"store": "a"}}, {"command": "train-tmm", "bnak": {"store": "a"}}]
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"command": "pipeline", "steps": steps}))
    result = CliRunner().invoke(app, ["run", "p.yaml"])
    assert "step 1 (train-tmm)" in str(result.exception)
    assert "bank" in str(result.exception)


def test_files_of_a_step_and_a_folder_that_rows_share():
    steps = [
        {"command": "train-svt", "source": "videos"},
        {"command": "extract", "source": "videos", "features": [{"backbone": "svt-b", "weights": "@0/seed-0/t.pth"}]},
        {"command": "probe-knn", "store": "@1"},
    ]
    rows = [{"name": "own"}, {"name": "shared", "set": {"0.out": "runs/one"}}]
    settings = parse(SweepSettings, {**SWEEP, "steps": steps, "rows": rows, "columns": {"top-1": "2.splits.*.top1"}})
    own, shared = (row_steps(settings, row, folder=row.name) for row in settings.rows)
    assert own[1]["features"] == [{"backbone": "svt-b", "weights": "own/0-train-svt/seed-0/t.pth"}]
    assert own[2]["store"] == own[1]["out"] == "own/1-extract"
    assert shared[0]["out"] == "runs/one"
    assert shared[1]["features"][0]["weights"] == "runs/one/seed-0/t.pth"
    assert shared[2]["store"] == "shared/1-extract"
    beyond = [*steps[:2], {"command": "probe-knn", "store": "@3/x"}]
    with pytest.raises(ConfigError, match="'@3/x' is the folder of a step that is not there"):
        row_steps(settings.model_copy(update={"steps": tuple(beyond)}), settings.rows[0], folder="out")
