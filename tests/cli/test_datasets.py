"""``datasets`` and the options that replace a source by a data set."""

import json

import pytest
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.data.importers import DATASETS
from featcache.data.manifest import read_parquet
from featcache.errors import ConfigError
from featcache.testing.datasets import make_ucf101
from featcache.testing.plugins import put_package


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_every_data_set_is_listed_with_its_layout():
    entries = json.loads(invoke("datasets", "--json").stdout)
    assert [entry["name"] for entry in entries] == DATASETS.names()
    assert all(entry["summary"] and entry["layout"] for entry in entries)
    table = invoke("datasets").output
    assert all(entry["name"] in table for entry in entries)


def test_help_has_an_example():
    assert "featcache datasets --json" in " ".join(invoke("datasets", "--help").output.split())


@pytest.mark.parametrize("verb", ["extract", "plan", "scan"])
def test_flags_are_settings(verb, tmp_path):
    made = make_ucf101(tmp_path / "ucf")
    if verb == "scan":
        result = invoke(
            "scan", "--dataset", "ucf101", "--root", made.root, "--split-column", "split3", "--low-shot", "0.3",
            "--out", tmp_path / "videos.parquet", "--json",
        )  # fmt: skip
        summary = json.loads(result.stdout)
        assert (summary["splits"], summary["status"]["missing"]) == ({"test": 4, "train": 4}, 1)
        videos = read_parquet(tmp_path / "videos.parquet").videos
        assert all(video.split == video.labels["split3"] for video in videos)
    else:
        result = invoke(
            verb, "--dataset", "ucf101", "--root", made.root, "--test-fraction", "0.3", "-b", "timm/test_resnet",
            "-w", "random", "--out", tmp_path / "store",
        )  # fmt: skip
        assert isinstance(result.exception, ConfigError)
        assert "a random split would leak" in str(result.exception)
    assert result.exit_code == (0 if verb == "scan" else 1)


def test_a_source_or_a_data_set():
    assert "no source is given" in str(invoke("scan").exception)
    assert "are both given" in str(invoke("scan", "videos", "--dataset", "ucf101", "--root", "x").exception)


def test_a_broken_package_is_told_in_its_row_and_the_others_are_listed(tmp_path, monkeypatch):
    entries = {"featcache.datasets": {"jester": "labsets:JESTER"}}
    put_package(tmp_path, "labsets", version="0.2", files={"labsets.py": "import nothing_there"}, entries=entries)
    monkeypatch.syspath_prepend(tmp_path)
    listed = {entry["name"]: entry for entry in json.loads(invoke("datasets", "--json").stdout)}
    assert listed["jester"]["origin"] == "labsets 0.2"
    assert "cannot be loaded from labsets:JESTER" in listed["jester"]["layout"]
    assert listed["ucf101"]["origin"] == "built in"
    assert listed["ucf101"]["layout"].startswith("UCF-101/")
