"""``featcache train pretext`` as it is typed, and the shipped files of the tasks."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from featcache.backbones import BACKBONES
from featcache.cli.main import app
from featcache.commands.registry import load
from featcache.data.importers import DATASETS
from featcache.loaders.views import ClipShape
from featcache.methods.pretext.run import build_module
from featcache.methods.pretext.settings import PretextSettings
from featcache.methods.pretext.task import TASKS, Footage
from featcache.plugins import BUILT_IN
from featcache.training.optimisers import build_optimiser

FOLDER = Path(__file__).parents[3] / "configs" / "pretext"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
BUILT_INS = [place.name for place in TASKS.places() if place.origin == BUILT_IN]


def typed(*words):
    """The settings that a command line gives."""
    done = CliRunner().invoke(app, ["train", "pretext", *map(str, words), "--print-config"])
    assert done.exit_code == 0, done.output
    return yaml.safe_load(done.stdout)


def refused(*words):
    """The whole message of a command line that is refused, without its frame."""
    done = CliRunner().invoke(app, ["train", "pretext", *map(str, words)])
    assert done.exit_code != 0
    return " ".join((str(done.exception or "") + done.output).replace("│", " ").split())


def test_a_task_may_come_first_where_a_data_set_is_named(tmp_path):
    of_set = ("--network", "r21d", "--dataset", "kinetics400", "--root", tmp_path)
    first = typed("vcop", *of_set, "--subset", "50000", "--complexity", "c3")
    assert first == typed("--task", "vcop", *of_set, "--subset", "50000", "--set", "task.complexity=c3")
    assert (first["task"]["name"], first["task"]["complexity"], first["backbone"]) == ("vcop", "c3", "r21d")
    assert (first["source"], first["dataset"], first["selection"]["subset"]) == (None, "kinetics400", 50000)
    assert typed("vcop", *of_set, "--complexity", "c3", "--set", "task.complexity=c2")["task"]["complexity"] == "c2"


def test_without_a_data_set_what_comes_first_is_a_source(tmp_path):
    assert typed("rotnet", "--task", "prp", "-b", "r21d")["source"] == "rotnet"
    assert "it is required here" in refused(tmp_path, "--network", "r21d")


def test_what_cannot_be_meant_is_a_sentence(tmp_path):
    of_set = ("--network", "r21d", "--dataset", "kinetics400", "--root", tmp_path)
    assert "unknown pretext task 'rotne'; did you mean 'rotnet'" in refused("rotne", *of_set)
    assert "unknown key 'complexity'" in refused("cvrl", *of_set, "--complexity", "c2")
    assert "'c1', 'c2' or 'c3'" in refused("prp", *of_set, "--complexity", "c4")
    assert "are both given" in refused(tmp_path, "--task", "prp", *of_set)


def test_every_task_has_the_file_of_its_authors():
    assert {path.stem for path in CONFIGS} == {"bench", *(f"{name}_released" for name in BUILT_INS)}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_files_can_be_trained(path):
    settings = load(path)
    assert isinstance(settings, PretextSettings)
    assert settings.backbone in BACKBONES.names()
    assert settings.dataset in DATASETS.names()
    task = settings.task
    assert task.name == path.stem.removesuffix("_released") or path.stem == "bench"
    shape = ClipShape(settings.num_frames, settings.input_size)
    least = task.min_frames(shape)
    assert getattr(task, "place", "any") == "any" or path.stem == "bench", "as released"
    drawn = task.draw(Footage("v", least, 240, 320, least / 25), shape, np.random.default_rng(0))
    assert all(max(view.frames) < least for view in drawn.views)
    thin = settings.model_copy(update={"backbone": "r21d-tiny"})
    module = build_module(thin, seed=0)
    training = settings.training
    optimiser = build_optimiser(module, training.optimiser, lr=1.0, factors=training.lr_factors)
    factors = {group["lr_factor"] for group in optimiser.param_groups}
    assert factors == ({1.0, 10.0} if path.stem == "prp_released" else {1.0})


def test_the_bench_is_what_every_task_is_by_default():
    settings = load(FOLDER / "bench.yaml")
    assert settings.task == TASKS.load("rotnet")()
    fields = PretextSettings.model_fields["training"].default
    assert settings.training.model_copy(update={"keep_epochs": ()}) == fields
