"""Grids of sweeps: rows and columns as a product of axes, what their cells share, and what they are compared with."""

import json
import shutil

import pytest
import yaml
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.commands.grids import folder_of, grid_points
from featcache.commands.steps import parse_steps
from featcache.commands.sweeps import SweepSettings, points_of, sweep_steps, table_columns
from featcache.config import parse, to_dict
from featcache.errors import ConfigError, UnknownNameError
from featcache.metrics.comparison import compare
from featcache.metrics.predictions import read_outcomes
from featcache.report.paired import paired_gain
from featcache.testing import stores

KEPT = "@0/seed-0/epoch-{:03d}.safetensors"
AXES = {
    "epochs": {f"{epoch} epochs": {"1.weights": KEPT.format(epoch)} for epoch in (50, 100)},
    "task": {
        "from scratch": {"1.weights": "random"},
        "supervised": {"0": {"command": "train-finetune", "source": "videos", "backbone": "r21d", "weights": "random"}},
        "rotnet": {"0.task": {"name": "rotnet", "complexity": "c3"}},
        "vcop": {"0.task": {"name": "vcop"}},
    },
    "network": {name: {f"{step}.backbone": name for step in (0, 1)} for name in ("r21d", "shufflenet3d")},
}
GRID = {
    "title": "A table",
    "out": "runs/table",
    "steps": [
        {"command": "train-pretext", "source": "videos", "training": {"epochs": 100, "keep_epochs": [50, 100]}},
        {"command": "train-finetune", "source": "labelled"},
        {"command": "cost-backbone", "backbone": "r21d"},
    ],
    "grid": {"axes": AXES, "across": ["network", "epochs"]},
    "against": "from scratch",
    "columns": {"GFLOPs": "2.cost.teramacs", "top-1": "1.splits.*.metrics.top1"},
}


def by_cell(settings):
    """The steps of each cell by its row and place across."""
    return {
        (point.row, *point.across): dict(zip(steps, parse_steps(steps), strict=True))
        for point, steps in zip(points_of(settings), sweep_steps(settings), strict=True)
    }


def test_axes_make_rows_and_columns():
    settings = parse(SweepSettings, GRID)
    assert [(point.row, *point.across) for point in points_of(settings)][:5] == [
        ("from scratch", "r21d", "50 epochs"),
        ("from scratch", "r21d", "100 epochs"),
        ("from scratch", "shufflenet3d", "50 epochs"),
        ("from scratch", "shufflenet3d", "100 epochs"),
        ("supervised", "r21d", "50 epochs"),
    ]
    assert table_columns(settings) == [  # the cost of one backbone stands once
        "GFLOPs",
        *(f"{network}, {epochs} epochs" for network in ("r21d", "shufflenet3d") for epochs in (50, 100)),
    ]
    two = parse(SweepSettings, GRID | {"columns": {**GRID["columns"], "top-5": "1.splits.*.metrics.top5"}})
    assert table_columns(two)[1:3] == ["r21d, 50 epochs, top-1", "r21d, 50 epochs, top-5"]
    down = parse(SweepSettings, GRID | {"grid": {"axes": AXES}})
    assert points_of(down)[-1].row == "100 epochs, vcop, shufflenet3d"
    assert table_columns(down) == ["GFLOPs", "top-1"]
    assert parse(SweepSettings, to_dict(settings)) == settings


def test_a_cell_has_the_settings_of_its_values_and_later_axes_win():
    cells = by_cell(parse(SweepSettings, GRID))
    steps = cells["rotnet", "shufflenet3d", "50 epochs"]
    assert (steps[0].task.name, steps[0].backbone, steps[1].backbone) == ("rotnet", "shufflenet3d", "shufflenet3d")
    assert steps[1].weights == f"{steps[0].out}/seed-0/epoch-050.safetensors"
    supervised = cells["supervised", "r21d", "100 epochs"]
    assert supervised[0].command == "train-finetune"
    assert supervised[1].weights == f"{supervised[0].out}/seed-0/epoch-100.safetensors"
    assert cells["from scratch", "r21d", "50 epochs"][1].weights == "random"


def test_cells_share_what_is_alike_and_leave_out_what_only_others_need():
    cells = by_cell(parse(SweepSettings, GRID))
    outs = {command: {step.out for steps in cells.values() for step in steps.values() if step.command == command}
            for command in ("train-pretext", "train-finetune", "cost-backbone")}  # fmt: skip
    assert {command: len(found) for command, found in outs.items()} == {
        "train-pretext": 4,  # two tasks, two networks: epochs are of one run
        "train-finetune": 2 + 12 + 2,  # on the source, from three kinds of weights after two numbers of epochs, scratch
        "cost-backbone": 1,
    }
    assert all(set(steps) == ({1, 2} if row == "from scratch" else {0, 1, 2}) for (row, *_), steps in cells.items())
    by_out = {}
    for steps in cells.values():
        for step in steps.values():
            assert by_out.setdefault(step.out, step) == step  # one folder, one run
    assert all(out.startswith("runs/table/train-") for out in outs["train-pretext"])


def test_tables_share_runs_wherever_videos_and_weights_lie():
    step = {"command": "train-pretext", "dataset": "ucf101", "root": "videos", "task": {"name": "rotnet"}}
    table = {"title": "T", "steps": [step], "columns": {"videos": "0.num_videos"}, "runs": "runs/shared"}
    axes = {"network": {name: {"0.backbone": name} for name in ("r21d", "shufflenet3d")}}
    first, moved, other = (
        {steps[0]["out"] for steps in sweep_steps(parse(SweepSettings, table | {"grid": {"axes": axes}} | change))}
        for change in (
            {"out": "runs/one"},
            {"out": "runs/two", "roots": {"ucf101": "/elsewhere"}, "weights": {"r21d": "w.pth"}},
            {"out": "runs/one", "steps": [step | {"num_frames": 8}]},
        )
    )
    assert first == moved
    assert not first & other
    assert all(out.startswith("runs/shared/train-pretext-") for out in first)
    rows = {"rows": [{"name": "one", "set": {"0.backbone": "r21d"}}], "out": "runs/three"}
    assert {steps[0]["out"] for steps in sweep_steps(parse(SweepSettings, table | rows))} < first
    assert folder_of({"command": "a", "out": "x", "b": 1}) == folder_of({"b": 1, "command": "a"}) != folder_of({"b": 1})


def test_a_step_that_no_row_depends_on_is_always_taken():
    rows = [
        {"name": "own", "set": {"0.task": {"name": "rotnet"}}},
        {"name": "given", "set": {"0.task": {"name": "rotnet"}, "1.weights": "w.pth", "2.backbone": "c3d"}},
    ]
    first, second, third = (step | {"backbone": "r21d"} for step in GRID["steps"])
    plain = {key: value for key, value in GRID.items() if key != "grid"}
    plain |= {"steps": [first, second | {"weights": "@0/seed-0/w"}, third], "columns": {"top-1": "1.splits.*.top1"}}
    settings = parse(SweepSettings, plain | {"rows": rows, "against": "own"})
    assert [list(each) for each in sweep_steps(settings)] == [[0, 1, 2], [1, 2]]
    rows[1]["set"] |= {"0.out": "x", "1.weights": "x/seed-0/w"}  # read by its path
    settings = parse(SweepSettings, plain | {"rows": rows, "against": "own"})
    assert [list(each) for each in sweep_steps(settings)] == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize(
    ("grid", "change", "message"),
    [
        ({"across": ["netwrk"]}, {}, "unknown axis 'netwrk'; did you mean 'network'"),
        ({"across": list(AXES)}, {}, "none makes the rows"),
        ({"axes": {**AXES, "none": {}}}, {}, "the axis 'none' has no values"),
        ({"axes": {name: AXES[name] for name in ("epochs", "network", "task")}}, {}, "give 'network' after 'task'"),
        ({"axes": {"a": {"one": {"7.x": 1}}, **AXES}}, {}, "'7.x' names no step"),
        ({"published": {"rotnt": {}}}, {}, "unknown row of the grid 'rotnt'; did you mean 'rotnet'"),
        ({"published": {"rotnet": {"r21d": 1.0}}}, {}, "a published 'r21d', which is no column"),
        ({"notes": {"rotnt": "x"}}, {}, "unknown row of the grid 'rotnt'"),
        ({}, {"against": "scratch"}, "unknown row to compare with 'scratch'; did you mean 'from scratch'"),
        ({"axes": {**AXES, "more": {"rotnet": {}}}}, {"against": "rotnet"}, "several axes have a value 'rotnet'"),
        ({}, {"rows": [{"name": "a"}]}, "either rows or a grid"),
        ({}, {"grid": None}, "either rows or a grid"),
        ({}, {"quoted": [{"name": "vcop", "published": {"GFLOPs": 1}}]}, "two rows are named 'vcop'"),
    ],
)
def test_grids_at_odds_with_themselves_are_refused(grid, change, message):
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        parse(SweepSettings, GRID | {"grid": {**GRID["grid"], **grid}} | change)


def test_settings_of_axes_are_not_changed_by_cells():
    axes = {
        "task": {"rotnet": {"0.task": {"name": "rotnet"}}},
        "level": {name: {"0.task.complexity": name} for name in ("c1", "c2")},
    }
    settings = parse(SweepSettings, GRID | {"grid": {"axes": axes | {"network": AXES["network"]}}, "against": None})
    assert {steps[0]["task"]["complexity"] for steps in sweep_steps(settings)} == {"c1", "c2"}
    assert settings.grid.axes["task"]["rotnet"] == {"0.task": {"name": "rotnet"}}
    assert len(grid_points(settings.grid)) == 4


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small grid of probes that was carried out twice, with what the second call said."""
    folder = tmp_path_factory.mktemp("grid")
    records = {"one": stores.make_record((6,)), "two": stores.make_record((6,))}
    stores.write_store(folder / "store", stores.StorePlan(records=records, num_videos=40, rows_per_video=(2, 3)))
    probe = {"command": "probe-knn", "store": str(folder / "store"), "intervals": {"num_resamples": 50}}
    table = {
        "command": "sweep",
        "title": "Small",
        "steps": [{**probe, "knn": {"ks": [3]}}, {**probe, "feature": "one", "knn": {"ks": [2]}}],
        "grid": {
            "axes": {
                "neighbours": {"nearest": {"0.knn.ks": [1]}, "five": {"0.knn.ks": [5]}},
                "array": {name: {"0.feature": name} for name in records},
            },
            "across": ["array"],
            "published": {"five": {"two": 50.0}},
            "notes": {"five": "of forty"},
        },
        "quoted": [{"name": "others", "published": {"one": 40.0}}],
        "against": "nearest",
        "note": "Forty videos are few.",
        "columns": {"fixed": "1.num_classes", "top-1": "0.splits.*.metrics.top1"},
        "out": str(folder / "table"),
    }
    (folder / "table.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    said = [CliRunner().invoke(app, ["run", str(folder / "table.yaml")], catch_exceptions=False) for _ in range(2)]
    assert [each.exit_code for each in said] == [0, 0], said[0].output
    return folder, said[1].output


def test_a_grid_becomes_a_table_with_paired_gains(finished):
    folder, said = finished
    table = json.loads((folder / "table" / "table.json").read_text())
    assert table["columns"] == ["fixed", "one", "two"]
    assert (table["against"], table["note"]) == ("nearest", "Forty videos are few.")
    others, nearest, five = table["rows"]
    assert (others["name"], others["one"]["published"], others["fixed"]["run"]) == ("others", 40.0, None)
    assert (five["name"], five["note"], five["two"]["published"]) == ("five", "of forty", 50.0)
    assert nearest["fixed"] == five["fixed"]
    assert nearest["one"]["gain"] is None
    for column in ("one", "two"):
        cell = five[column]
        assert cell["gain"]["value"] == pytest.approx(cell["value"] - nearest[column]["value"])
        (split,) = compare([nearest[column]["run"], cell["run"]]).splits.values()
        assert cell["gain"]["low"] == pytest.approx(100 * split.differences[0].low)
        assert cell["gain"]["high"] == pytest.approx(100 * split.differences[0].high)
    assert len(list((folder / "table").glob("probe-knn-*"))) == 5
    markdown = (folder / "table" / "table.md").read_text()
    assert "{ours - ours of 'nearest', video by video}" in markdown
    assert markdown.rstrip().endswith("Forty videos are few.")
    assert f"(50.0, {five['two']['difference']['value']:+.1f}) {{{five['two']['gain']['value']:+.1f} [" in markdown
    assert "Forty videos are few." in said
    assert "computed before and kept" in said


def test_rows_are_compared_too_and_share_runs_of_another_table(finished):
    folder, _ = finished
    grid = yaml.safe_load((folder / "table.yaml").read_text())
    axes = grid["grid"]["axes"]
    rows = [{"name": name, "set": {**changes, "0.feature": "two"}} for name, changes in axes["neighbours"].items()]
    plain = {key: value for key, value in grid.items() if key not in ("grid", "quoted")}
    plain |= {"rows": rows, "out": str(folder / "rows"), "runs": str(folder / "table")}
    (folder / "rows.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    said = CliRunner().invoke(app, ["run", str(folder / "rows.yaml")], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    assert said.output.count("computed before and kept") == 3
    (_, *expected), found = (
        json.loads((folder / name / "table.json").read_text())["rows"] for name in ("table", "rows")
    )
    for key in ("value", "low", "high", "gain", "run"):
        assert [row["top-1"][key] for row in found] == [row["two"][key] for row in expected]
    assert found[1]["top-1"]["gain"] is not None


def test_accuracies_under_noise_are_compared_under_the_same_noise(finished, tmp_path):
    runs = sorted((finished[0] / "table").glob("probe-knn-*"))
    for number, name in enumerate(("baseline", "run")):
        for cell, source in (("clean", runs[number]), ("shot-3", runs[number + 2])):
            shutil.copytree(source, tmp_path / name / f"network-{number}" / cell)
    for cell, place, one, other in (
        ("clean", "runs.*.splits.*.clean.top1", 1, 0),
        ("shot-3", "runs.*.splits.*.noisy.shot-3.metrics.top1", 3, 2),
    ):
        gain = paired_gain(str(tmp_path / "run"), str(tmp_path / "baseline"), place.split("."))
        expected = paired_gain(str(runs[one]), str(runs[other]), ("splits", "*", "metrics", "top1"))
        assert gain == expected, cell
        assert gain.value is not None
    drop = ["runs", "*", "splits", "*", "mean", "robustness", "drop"]
    (tmp_path / "run" / "network-1" / "shot-3").rename(tmp_path / "run" / "network-1" / "gaussian-3")
    shutil.copytree(runs[0], tmp_path / "run" / "network-1" / "shot-3")
    gain = paired_gain(str(tmp_path / "run"), str(tmp_path / "baseline"), drop)
    right = [float(read_outcomes(run).values.mean()) for run in runs]
    of_run, of_baseline = (right[1] - (right[3] + right[0]) / 2) / right[1], (right[0] - right[2]) / right[0]
    assert gain.value == pytest.approx(100 * (of_run - of_baseline))
    assert gain.low <= gain.value <= gain.high
    assert paired_gain(str(tmp_path / "run"), str(tmp_path / "run"), drop) is None


def test_gains_are_of_accuracies_alone(finished):
    folder, _ = finished
    runs = [str(path) for path in sorted((folder / "table").glob("probe-knn-*"))]
    one, *others = runs
    assert paired_gain(one, one, ("splits", "*", "metrics", "top1")) is None
    assert paired_gain(one, others[0], ("num_classes",)) is None
    assert paired_gain(one, others[0], ("splits", "*", "metrics", "mean_class")) is None
    with pytest.raises(ConfigError, match="holds no predictions"):
        paired_gain(one, str(folder), ("splits", "*", "metrics", "top1"))
