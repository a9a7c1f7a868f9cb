"""``relabel`` and ``remove`` at the command line."""

import json
import shlex

import pytest
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.errors import FeatcacheError
from featcache.store.reader import open_store
from featcache.testing.stores import StorePlan, make_record, write_store


def invoke(line: str):
    return CliRunner().invoke(app, shlex.split(line))


@pytest.fixture(autouse=True)
def _store(tmp_path, monkeypatch):
    write_store(tmp_path / "s", StorePlan(records={"a": make_record((4,))}, num_videos=4))
    monkeypatch.chdir(tmp_path)


def test_relabel_and_remove(tmp_path):
    (tmp_path / "new.csv").write_text("id,label,split\nv0000,x,val\nv0001,b,train\nv0009,x,val\n")
    result = invoke("relabel s new.csv")
    assert result.exit_code == 0, result.output
    assert "1 videos, 1 were so already" in result.output
    assert "1 videos of the source are not in the store" in result.output
    assert open_store("s").labels() == {"v0000": "x", "v0001": "b", "v0002": "a", "v0003": "b"}
    assert json.loads(invoke("remove s v0000 v0002 --json").stdout)["changed"] == ["v0000", "v0002"]
    assert "1 videos, 0 were so already" in invoke("remove s v0002 --undo").output
    assert set(open_store("s").videos) == {"v0001", "v0002", "v0003"}
    assert json.loads(invoke("remove s --not-in new.csv --json").stdout)["changed"] == ["v0002", "v0003"]
    assert json.loads(invoke("info s --json").stdout)["num_removed"] == 3


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("relabel s", "no source is given"),
        ("relabel s nowhere.csv", "nowhere.csv does not exist"),
        ("relabel nowhere s.csv", "is not a featcache store"),
        ("relabel s empty.csv", "has no column 'path' or 'id'"),
        ("relabel s ftp://bucket/list.csv", "begins with a scheme"),
        ("relabel s --dataset ucf101 --root ftp://bucket", "begins with a scheme"),
        ("remove s", "name the videos to remove, or give --not-in SOURCE"),
        ("remove s v0000 --not-in .", "not both"),
        ("remove s --undo --not-in .", "give their ids"),
        ("remove s v000", "unknown video 'v000'; did you mean"),
        ("remove s --not-in other.csv", "the source has no video of s"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, line, sentence):
    (tmp_path / "empty.csv").write_text("label\nx\n")
    (tmp_path / "s.csv").write_text("id,label\nv0000,x\n")
    (tmp_path / "other.csv").write_text("id\nw0000\n")
    result = invoke(line)
    assert isinstance(result.exception, FeatcacheError), result.output
    assert sentence in str(result.exception)
    assert not open_store("s").overlays


def test_help_has_examples():
    for verb in ("relabel", "remove"):
        assert f"featcache {verb} stores/mine" in " ".join(invoke(f"{verb} --help").output.split())
