"""``merge``, ``convert`` and ``diff`` at the command line."""

import json
import shlex

import pytest
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.errors import FeatcacheError
from featcache.store.reader import open_store
from featcache.testing.stores import StorePlan, make_record, write_store

RECORDS = {"a": make_record((4,))}


def invoke(line: str):
    return CliRunner().invoke(app, shlex.split(line))


@pytest.fixture(autouse=True)
def _stores(tmp_path, monkeypatch):
    plans = [StorePlan(records=RECORDS, num_videos=2, first_video=first) for first in (0, 2)]
    write_store(tmp_path / "s", *plans)
    write_store(tmp_path / "t", StorePlan(records=RECORDS, num_videos=3, first_video=4))
    monkeypatch.chdir(tmp_path)


def test_merge_convert_and_diff(tmp_path):
    said = json.loads(invoke("merge s t --out m --dry-run --json").stdout)
    assert (said["videos"], said["generations_before"], said["generations"]) == (7, 3, 1)
    assert not (tmp_path / "m").exists()
    result = invoke("merge s t --out m")
    assert result.exit_code == 0, result.output
    assert "1, 3 before" in result.output
    assert "next: featcache verify m" in result.output
    assert json.loads(invoke("merge s t --out m --json").stdout)["rows_written"] == 0
    assert invoke("merge s --out only -f a").exit_code == 0
    assert invoke("convert s --to hdf5 --out h").exit_code == 0
    assert open_store("h").file_format == "hdf5"
    result = invoke("diff s h")
    assert result.exit_code == 0, result.output
    assert "the stores hold the same" in result.output
    assert json.loads(invoke("diff only h --json").stdout)["is_equal"]
    result = invoke("diff s m")
    assert "only in the second store" in result.output
    assert str(result.exception) == "s and m differ in: videos"
    found = json.loads(invoke("diff s m --json").stdout)
    assert found["videos_only"] == [[], ["v0004", "v0005", "v0006"]]


def test_settings_are_kept_and_can_be_carried_out_again(tmp_path):
    invoke("merge s --out m")
    (kept,) = (tmp_path / "m" / "config").glob("merge-*.yaml")
    result = invoke(f"run {kept}")
    assert result.exit_code == 0, result.output
    assert invoke("merge s --out m --print-config").stdout == kept.read_text()
    (tmp_path / "diff.yaml").write_text("command: diff\nstore: s\nother_store: t\n")
    assert str(invoke("run diff.yaml").exception) == "s and t differ in: videos"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("merge nowhere --out m", "is not a featcache store"),
        ("merge s --out s/inside", "lie in each other"),
        ("merge s s --out m", "are the same store"),
        ("merge s --out t", "is a store already, and not a copy of what s holds now"),
        ("merge s --out m -f b", "unknown feature of s 'b'"),
        ("convert s --to zarr --out m", "holds zarr files already"),
        ("convert s --to parquet --out m", "to: Input should be 'zarr' or 'hdf5'"),
        ("convert s --to hdf5 --out t", "is a store already, and not a copy"),
        ("diff s nowhere", "is not a featcache store"),
        ("diff s t -f b", "unknown feature of s 'b'"),
    ],
)
def test_a_mistake_is_one_sentence(line, sentence):
    result = invoke(line)
    assert isinstance(result.exception, FeatcacheError), result.output
    assert sentence in str(result.exception)
    assert result.exit_code == 1


def test_what_is_missing_is_said():
    for line, name in (("merge s", "--out"), ("merge --out m", "STORES"), ("convert s --out m", "--to")):
        result = invoke(line)
        assert result.exit_code == 2
        assert name in result.output
