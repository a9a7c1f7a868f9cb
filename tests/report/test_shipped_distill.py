"""The shipped tables of distillation: control arms, teachers that other tables train too, and a run on videos."""

import json
import re
from collections import Counter

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.commands.registry import load
from featcache.commands.reproduction import needed
from featcache.commands.steps import parse_steps
from featcache.commands.sweeps import points_of, sweep_steps, table_columns
from featcache.config import read_mapping, to_dict
from featcache.methods.distill.settings import DistillSettings
from featcache.methods.finetune.settings import FinetuneSettings
from tests.report.test_shipped_pretext import DISTILLED, FILES, listing, runs_of, small_changes, small_step

__all__ = ["listing"]  # a fixture
ARMS = {"labels alone", "permuted teachers", "student", "student, mean", "student, aekd"}


ARCHITECTURES = ("fig4a", "fig5a", "fig5b")
"""Whose teachers are two networks."""


@pytest.mark.parametrize("stem", DISTILLED)
def test_every_table_has_both_control_arms(stem):
    settings = load(FILES[stem])
    assert settings.against == "labels alone"
    arms = {}
    for point, steps in zip(points_of(settings), sweep_steps(settings), strict=True):
        *before, last = parse_steps(steps)
        assert isinstance(last, DistillSettings)
        (arm,) = ARMS & set(point.values.values())
        arms.setdefault(arm, []).append(last)
        if arm == "labels alone":
            assert (last.kd_weight, last.teachers, before) == (0, (), [])
            continue
        assert (last.kd_weight, last.temperature, last.permute_teachers) == (1, 4, arm == "permuted teachers")
        stores = [step for step in before if step.command == "extract"]
        assert stem == "table7" or last.teachers == tuple(step.out for step in stores)
        assert last.students[0].weights == "random"
        for store in stores:
            (feature,) = store.features
            run = re.fullmatch(r"(.*)/seed-0/classifier.safetensors", feature.weights)[1]
            (teacher,) = (step for step in before if step.out == run)
            assert (feature.output, feature.backbone) == ("logits", teacher.backbone)
            assert stem in ARCHITECTURES or teacher.backbone == last.students[0].backbone
            assert isinstance(teacher, FinetuneSettings)
            own, theirs = to_dict(last.as_finetuning(last.students[0])), to_dict(teacher)
            assert own | {key: theirs[key] for key in ("backbone", "weights", "out")} == theirs
    assert {"labels alone", "permuted teachers", "student"} <= set(arms)


NINE = {"train-pretext": 8, "train-finetune": 8, "extract": 8, "train-distill": 9}


@pytest.mark.parametrize(
    ("stem", "other", "counts", "shared"),
    [
        ("table7", "table1", {"train-distill": 21}, {}),
        ("table13", "table3", {"train-pretext": 18, "train-finetune": 18, "extract": 18, "train-distill": 26}, 18),
        ("table14", "table14_distribution", NINE, 8),
        ("table15", "table1", {"train-pretext": 4, "train-finetune": 4, "extract": 4, "train-distill": 5}, 4),
    ],
)  # fmt: skip
def test_teachers_are_the_runs_of_other_tables(stem, other, counts, shared):
    mine, theirs = runs_of(stem), runs_of(other)
    assert Counter(step.command for step in mine.values()) == counts
    both = Counter(mine[out].command for out in mine.keys() & theirs.keys())
    assert both == ({"train-pretext": shared, "train-finetune": shared} if shared else {})
    assert all(mine[out] == theirs[out] for out in mine.keys() & theirs.keys())


@pytest.mark.parametrize(
    ("stem", "counts", "others", "own"),
    [
        (
            "fig4a",
            {"train-pretext": 12, "train-finetune": 12, "extract": 12, "train-distill": 26},
            ["table1", "table4"],
            0,
        ),
        ("fig5a", {"train-pretext": 8, "train-finetune": 8, "extract": 8, "train-distill": 9}, ["table11"], 0),
        (
            "fig5b",
            {"train-pretext": 8, "train-finetune": 8, "extract": 8, "train-distill": 9},
            ["table11", "table8"],
            5,
        ),
    ],
)
def test_two_architectures_teach_with_the_same_task_and_videos(stem, counts, others, own):
    mine = runs_of(stem)
    assert Counter(step.command for step in mine.values()) == counts
    theirs = {out: step for other in others for out, step in runs_of(other).items()}
    taught = {out: step for out, step in mine.items() if step.command in ("train-pretext", "train-finetune")}
    assert all(theirs[out] == step for out, step in taught.items() if out in theirs)
    new = [step for out, step in taught.items() if out not in theirs]
    assert ([step.command for step in new], len(new)) == (["train-finetune"] * own, own)
    for steps in sweep_steps(load(FILES[stem])):
        parsed = parse_steps(steps)
        trained = [step for step in parsed if step.command == "train-pretext"]
        assert {step.backbone for step in trained} in (set(), {"shufflenet3d", "r21d"})
        assert len({(step.task, step.selection.subset) for step in trained}) <= 1


def test_files_of_teachers_that_nothing_makes_are_named():
    wanted = needed("pretext", ["table7", "table15"], roots={}, weights={})
    names = ("vifi_clip.pth", "ez_clip.npz", "viclip.npz", "languagebind.npz")
    assert sorted(wanted.teacher_files) == sorted(f"vifm/{name}" for name in names)
    assert needed("pretext", ["table15"], roots={}, weights={}).teacher_files == ()


def small_distillation(step, listing, folder):
    """A step at sizes that run in seconds; teachers that are files or foundation models are files of random logits."""
    if step["command"] != "train-distill":
        return small_step(step, listing)
    step = {key: value for key, value in step.items() if key not in ("dataset", "root")}
    (student,) = step["students"]
    return step | {
        "source": str(listing),
        "workers": 0,
        "students": [{"backbone": f"{student['backbone']}-tiny", "input_size": 48}],
        "teachers": [
            teacher if teacher.startswith("@") else said(teacher, listing, folder) for teacher in step["teachers"]
        ],
        "clips": step["clips"] | {"num_frames": 8},
        "test": step["test"] | {"num_clips": 1},
        "training": {"batch_size": 4, "tensorboard": False, "device": "cpu", "threads": 1, "epochs": 1},
    }


def said(teacher, listing, folder):
    """A file of random logits in the place of a teacher."""
    ids = [json.loads(line)["path"] for line in listing.read_text().splitlines()]
    logits = np.random.default_rng(len(teacher)).normal(size=(len(ids), 2))
    path = folder / f"{len(teacher)}.npz"
    np.savez(path, ids=np.array(ids), logits=logits, classes=np.array(["a", "b"]))
    return str(path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stem", DISTILLED)
def test_every_table_runs_on_other_videos(stem, listing, tmp_path):
    data = read_mapping(FILES[stem]) | {"out": str(tmp_path / stem), "runs": str(tmp_path / "runs")}
    data["steps"] = [small_distillation(step, listing, tmp_path) for step in data["steps"]]
    for axis, values in data["grid"]["axes"].items():
        for value, changes in values.items():
            own = small_changes(changes, listing)
            if own.get("0.teachers"):
                own["0.teachers"] = [said(each, listing, tmp_path) for each in own["0.teachers"]]
            data["grid"]["axes"][axis][value] = own
    file = tmp_path / f"{stem}.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    result = CliRunner().invoke(app, ["run", str(file)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    table = json.loads((tmp_path / stem / "table.json").read_text())
    settings = load(FILES[stem])
    assert table["columns"] == table_columns(settings)
    rows = {row["name"]: row for row in table["rows"]}
    for point in points_of(settings):
        column = ", ".join(point.across)
        cell = rows[point.row][column]
        assert 0 <= cell["low"] <= cell["value"] <= cell["high"] <= 100
        assert (cell["gain"] is not None) == ("labels alone" not in point.values.values())
        assert cell["published"] == settings.published_of_grid.get(point.row, {}).get(column)
