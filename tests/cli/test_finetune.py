"""``train finetune`` as a user meets it: flags as settings, a plan, a run, and one sentence where it cannot."""

import json
import shlex

import pytest
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.commands.registry import load
from featcache.errors import ConfigError
from tests.cli.helpers import settings_of
from tests.methods.finetune.helpers import write_classes

QUICK = shlex.split(
    "--backbone svt-tiny --weights random --workers 0 --device cpu --batch-size 2 --epochs 1 --crops 1 "
    "--set input_size=32 --set clips.num_frames=2 --set training.threads=1 --set training.tensorboard=false"
)


def invoke(*words):
    return CliRunner().invoke(app, ["train", "finetune", *map(str, words)], catch_exceptions=False)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_classes(tmp_path_factory.mktemp("classes"), {"train": 2, "test": 1})


def test_flags_are_settings():
    plain = settings_of("train", "finetune", "videos", "-b", "svt-b")
    words = (
        "--dataset ucf101 --root data -b svt-b-slowfast --weights t.safetensors --linear --no-flip --clips 2 --crops 1 "
        "--seed 1 --seed 2 --set training.optimiser.lr=1e-3"
    )
    told = settings_of("train", "finetune", *words.split())
    short = settings_of("train", "finetune", "videos", "-b", "svt-b", "--epochs", 3, "--test-fraction", 0.3)
    assert (plain.frozen, plain.head_dropout, plain.clips.flip_probability, plain.test.num_crops) == (
        False,
        0.5,
        0.5,
        3,
    )
    assert (plain.training.epochs, plain.training.optimiser.lr, plain.weights) == (15, 5e-3, "default")
    assert (told.dataset, told.root, told.backbone, told.weights) == (
        "ucf101",
        "data",
        "svt-b-slowfast",
        "t.safetensors",
    )
    assert (told.frozen, told.head_dropout, told.clips.flip_probability) == (True, 0.0, 0.0)
    assert (told.test.num_clips, told.test.num_crops, told.training.seeds) == (2, 1, (1, 2))
    training = told.training
    assert (training.epochs, training.optimiser.lr, training.optimiser.weight_decay) == (20, 1e-3, 0.0)
    assert training.schedule.kind == "cosine"
    assert short.training.schedule.step_fractions == (11 / 15, 14 / 15)
    assert short.selection.test_fraction == 0.3


def test_a_plan_and_a_run(manifest, tmp_path):
    out = tmp_path / "run"
    plan = invoke(manifest, *QUICK, "--out", out, "--dry-run", "--json")
    planned = json.loads(plan.stdout)
    assert (planned["num_steps"], planned["forecast"]["missing"]) == (2, [])
    assert planned["forecast"]["decoding"]["num_videos"] == 4
    assert planned["forecast"]["operations_a_video"] > 0
    assert not out.exists()
    table = invoke(manifest, *QUICK, "--out", out, "--dry-run").stdout
    assert "4 videos of 2 classes" in table
    assert "2 in test, 1 views" in table
    done = invoke(manifest, *QUICK, "--out", out)
    assert done.exit_code == 0
    assert "next: featcache extract" in done.stdout
    assert "2/3" in done.stdout
    result = json.loads(invoke(manifest, *QUICK, "--out", out, "--json").stdout)
    assert result["splits"]["test"]["num_videos"] == 2
    assert load(out / "config.yaml").command == "train-finetune"


def test_a_plan_names_weights_that_are_not_there(manifest, tmp_path):
    words = [word if word != "random" else str(tmp_path / "none.pth") for word in QUICK]
    found = json.loads(invoke(manifest, *words, "--out", tmp_path / "run", "--dry-run", "--json").stdout)["forecast"]
    (missing,) = found["missing"]
    assert "none.pth' of svt-tiny are no file" in missing
    assert found["gpus"][0]["hours"]["1"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_backbone_must_be_named():
    with pytest.raises(ConfigError, match="no backbone is given; name one with --backbone"):
        invoke("videos")


def test_help_has_an_example():
    assert "Example: featcache train finetune --backbone svt-b-slowfast" in " ".join(invoke("--help").output.split())
