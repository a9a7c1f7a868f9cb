"""Folders of data sets and files of weights, put in wherever a file names them."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.commands.places import read_places, with_places
from featcache.commands.registry import load
from featcache.commands.steps import parse_steps, pipeline_steps
from featcache.commands.sweeps import sweep_steps
from featcache.errors import ConfigError, FeatcacheError, UnknownNameError, WeightsError
from featcache.machine import using_weights_folder, weights_folder
from featcache.shipped import find_config

EXTRACTION = {"command": "extract", "dataset": "ucf101", "root": "videos/ucf101", "out": "s"}


def test_every_name_gets_its_place():
    settings = {
        "dataset": "ucf101",
        "features": [
            {"backbone": "svt-b"},
            {"backbone": "i3d", "weights": "default"},
            {"backbone": "clip-l14+mae-l16"},
        ],
        "probe": {"dataset": "hmdb51", "root": "old"},
    }
    placed = with_places(settings, roots={"ucf101": "a", "hmdb51": "b"}, weights={"svt-b": "x.pth", "mae-l16": "m.pth"})
    assert placed == {
        "dataset": "ucf101",
        "root": "a",
        "features": [
            {"backbone": "svt-b", "weights": "x.pth"},
            {"backbone": "i3d", "weights": "default"},
            {"backbone": "clip-l14+mae-l16", "weights": "default+m.pth"},
        ],
        "probe": {"dataset": "hmdb51", "root": "b"},
    }
    assert "root" not in settings


@pytest.mark.parametrize("weights", ["random", "@0", "@0/seed-0", "mine.pth"])
def test_weights_that_are_meant_stay(weights):
    settings = {"backbone": "svt-b", "weights": weights}
    assert with_places(settings, roots={}, weights={"svt-b": "x.pth"}) == settings


@pytest.mark.parametrize(("word", "message"), [("ucf101", "write NAME=PATH"), ("=x", "NAME=PATH"), ("a=", "NAME=PATH")])
def test_a_word_that_is_no_place(word, message):
    with pytest.raises(ConfigError, match=message):
        read_places([word], flag="--root", example="a=b")
    with pytest.raises(ConfigError, match="gives 'a' twice"):
        read_places(["a=1", "a=2"], flag="--root", example="a=b")


def test_one_command(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump({**EXTRACTION, "features": [{"backbone": "i3d"}]}))
    settings = load(path, roots={"ucf101": "here"}, weights={"i3d": "x.pth"})
    assert (settings.root, settings.features[0].weights) == ("here", "x.pth")
    with pytest.raises(UnknownNameError, match="unknown data set of these settings 'ucf10'; did you mean 'ucf101'"):
        load(path, roots={"ucf10": "here"})
    with pytest.raises(UnknownNameError, match="unknown backbone of these settings 'svt-b'"):
        load(path, weights={"svt-b": "x"})
    path.write_text(yaml.safe_dump({**EXTRACTION, "features": [{"backbone": "i3d", "weights": "mine.pth"}]}))
    with pytest.raises(ConfigError, match=r"say themselves that the weights of i3d are 'mine\.pth'"):
        load(path, weights={"i3d": "x.pth"})


def test_every_step_of_a_shipped_pipeline_and_of_a_shipped_table():
    settings = load(find_config(Path("configs/scale/ucf101_svt-b.yaml")), roots={"ucf101": "a"}, weights={"svt-b": "w"})
    first = parse_steps(pipeline_steps(settings))[0]
    assert (first.root, first.features[0].weights) == ("a", "w")
    table = load(find_config(Path("configs/svt/table1_ucf101_hmdb51.yaml")), roots={"ucf101": "a", "hmdb51": "b"})
    roots = {
        (step.dataset, step.root) for row in sweep_steps(table) for step in parse_steps(row) if hasattr(step, "dataset")
    }
    assert roots == {("ucf101", "a"), ("hmdb51", "b")}


def invoke(*words):
    return CliRunner().invoke(app, [*map(str, words)])


def test_run_takes_both_words_and_says_what_it_does_not_know(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump({**EXTRACTION, "features": [{"backbone": "i3d"}]}))
    found = invoke("run", path, "--root", f"ucf101={tmp_path / 'nowhere'}")
    assert isinstance(found.exception, FeatcacheError)
    assert str(found.exception).startswith(f"{tmp_path / 'nowhere'} does not exist")
    found = invoke("run", path, "--root", "ucf=x")
    assert "did you mean 'ucf101'" in str(found.exception)
    found = invoke("run", path, "--weights", tmp_path / "none")
    assert "is no folder of weights" in str(found.exception)
    found = invoke("run", path, "--weights", "a", "--weights", "b")
    assert "two folders, 'a' and 'b'" in str(found.exception)


def test_a_table_refuses_a_name_that_none_of_its_steps_has(tmp_path):
    path = tmp_path / "table.yaml"
    steps = [{**EXTRACTION, "root": str(tmp_path), "features": [{"backbone": "i3d"}]}]
    table = {"command": "sweep", "title": "T", "steps": steps, "rows": [{"name": "a"}], "columns": {"x": "0.num_rows"}}
    path.write_text(json.dumps({**table, "out": str(tmp_path / "out")}))
    found = invoke("run", path, "--weights", "i3=x")
    assert "unknown backbone of these settings 'i3'; did you mean 'i3d'" in str(found.exception)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_weights_for_a_while(tmp_path):
    before = weights_folder()
    with using_weights_folder(tmp_path):
        assert weights_folder() == tmp_path
    assert weights_folder() == before


def test_lacking_weights_are_told_with_their_keys(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"")
    (tmp_path / "file.yaml").write_text(
        f"command: pipeline\nsteps: [{{command: extract, source: {tmp_path / 'videos'}, out: {tmp_path / 's'}, "
        "features: [{backbone: i3d, weights: random}, {backbone: svt-b}]}]"
    )
    words = ["run", str(tmp_path / "file.yaml"), "--weights", str(tmp_path / "weights")]
    (tmp_path / "weights").mkdir()
    with pytest.raises(WeightsError, match=r"here --weights svt-b=FILE, which sets steps\.0\.features\.1\.weights$"):
        CliRunner().invoke(app, words, catch_exceptions=False)
