"""``datasets`` and the options that replace a source by a data set."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.data.importers import base as registry
from featcache.data.importers import dataset_entries, register_dataset
from featcache.data.manifest import read_parquet
from featcache.errors import ConfigError
from featcache.testing.datasets import make_ucf101


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_every_data_set_is_listed_with_its_layout():
    entries = json.loads(invoke("datasets", "--json").stdout)
    assert [entry["name"] for entry in entries] == [entry.name for entry in dataset_entries()]
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
        assert (summary["splits"], summary["status"]["missing"]) == ({"test": 4, "train": 2}, 1)
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


def test_the_example_of_the_page_is_an_importer(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    page = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(block, {"__name__": "jester"})
    (tmp_path / "train.csv").write_text("7;Swiping Left\n8;No gesture\n")
    (tmp_path / "7.webm").touch()
    manifest = registry.list_dataset("jester", root=tmp_path)
    assert [(video.id, video.labels["label"], video.status) for video in manifest.videos] == [
        ("7", "Swiping Left", "ok"),
        ("8", "No gesture", "missing"),
    ]
    with pytest.raises(ValueError, match="registered already"):
        register_dataset("jester", summary="", layout="")(lambda files: ())
