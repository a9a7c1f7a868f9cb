"""Sentences that say what is wrong, where, and what to do: each was once a riddle, or not there."""

import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from featcache.cli.main import app
from featcache.data.decoding import open_video
from featcache.errors import FeatcacheError
from featcache.exchange.exporting import export
from featcache.exchange.settings import ExportSettings
from featcache.store.reader import open_store
from featcache.testing.stores import StorePlan, make_record, write_store


def invoke(line: str):
    return CliRunner().invoke(app, shlex.split(line))


def sentence(line: str) -> str:
    """The sentence that a command ends with."""
    result = invoke(line)
    assert isinstance(result.exception, FeatcacheError), result.output
    return str(result.exception)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a store of two features, one of one feature, and one without splits or labels."""
    root = tmp_path_factory.mktemp("messages")
    write_store(root / "two", StorePlan(records={"clip": make_record((4,)), "i3d": make_record((4,))}, num_videos=4))
    write_store(root / "one", StorePlan(records={"clip": make_record((4,))}, num_videos=4))
    rows = [{"id": f"v{n}", "feature": [0.0, float(n)]} for n in range(3)]
    table = pa.Table.from_pylist(rows, pa.schema([("id", pa.string()), ("feature", pa.list_(pa.float32(), 2))]))
    pq.write_table(table, root / "in.parquet")
    return root


@pytest.fixture(autouse=True)
def _here(place, monkeypatch):
    monkeypatch.chdir(place)


@pytest.mark.parametrize(
    "line",
    [
        "probe knn two",
        "probe linear two",
        "search two --video q.mp4",
        "export two --format parquet --out exported",
        "export two --format npy --out exported",
    ],
)
def test_a_store_of_two_features_names_them(line):
    text = sentence(line)
    assert "two has several features (clip, i3d); name one" in text
    assert "--feature" in text
    assert "''" not in text


def test_a_store_without_features_says_so(tmp_path):
    write_store(tmp_path / "none", StorePlan(records={}, num_videos=2))
    with pytest.raises(FeatcacheError, match="has none yet"):
        open_store(tmp_path / "none").feature()


def test_search_says_what_is_lacking():
    assert sentence("search one") == "nothing says what to search for; give --video FILE or --text WORDS"
    assert "not both" in sentence("search one --video a.mp4 --text b")


def test_search_names_the_query_that_is_not_there(monkeypatch):
    def encoder(*arguments, **options):
        return lambda path, **more: open_video(Path(path), decoder="pyav").__enter__()

    monkeypatch.setattr("featcache.retrieval.run.encoder", encoder)
    assert "missing: the query 'nosuch.mp4' cannot be read: " in sentence("search one --video nosuch.mp4")


def test_a_listing_names_the_files_that_are_missing(tmp_path):
    (tmp_path / "list.csv").write_text("path,label\nnowhere/a.mp4,x\n")
    text = invoke(f"scan {tmp_path}/list.csv --out {tmp_path}/videos.parquet").output
    assert "1 video cannot be used" in text
    assert "nowhere/a.mp4" in text
    assert "missing.csv does not exist" in sentence("scan missing.csv")


def test_run_proposes_what_is_like_the_name():
    text = sentence("run nosuch.yaml")
    assert "there is no file 'nosuch.yaml'" in text
    assert "did you mean" not in text
    assert "configs/quickstart.yaml" in text
    assert "did you mean 'configs/quickstart.yaml'?" in sentence("run quikstart.yaml")


def test_export_knows_the_splits():
    assert "unknown split 'tst'; did you mean 'test'?" in sentence("export one --format npy --out x --split tst")
    invoke("import in.parquet --format hf --backbone b --out plain")
    assert sentence("export plain --format npy --out x --split tst") == "unknown split 'tst'; there is none"


def test_a_csv_with_semicolons_is_a_csv(tmp_path):
    (tmp_path / "list.csv").write_text("path;label\na.mp4;x, y\n")
    text = invoke(f"scan {tmp_path}/list.csv --out {tmp_path}/videos.parquet --json").stdout
    assert '"label": 1' in text


def test_import_takes_parquet_by_its_name(tmp_path):
    result = invoke(f"import in.parquet --format parquet --backbone b --out {tmp_path}/s")
    assert result.exit_code == 0, result.output
    assert open_store(tmp_path / "s").coverage().ok == 3


URL, OTHER = "s3://bucket/folder", "ftp://host/folder"  # what cannot lie in a bucket, or not there


@pytest.mark.parametrize(
    "line",
    [
        f"scan videos --out {URL}/videos.parquet",
        f"scan {OTHER}",
        f"scan --dataset ucf101 --root {OTHER}",
        f"extract {OTHER} -b i3d -w random --out s",
        "extract videos -b i3d -w https://host/i3d.pt --out s",
        f"probe knn one --model {URL}",
        f"probe knn one --out {URL}",
        "search one --video ftp://host/q.mp4",
        f"search one --video q.mp4 --sheet {URL}.png",
        f"import {URL} --format npy -b x --out s",
        f"import in.parquet --format parquet -b x --out s --listing {URL}.csv",
        f"import in.parquet --format parquet --recipe {URL}.yaml --out s",
        f"export one --format npy --out {URL}",
        f"train svt {OTHER}",
        f"run {URL}.yaml",
        f"quickstart --out {URL}",
    ],
)
def test_a_url_is_refused_and_no_folder_is_made_of_it(place, line):
    before = sorted(place.iterdir())
    assert "begins with a scheme, and only videos and stores can lie in a bucket" in sentence(line)
    assert sorted(place.iterdir()) == before


def test_a_url_is_refused_in_python_too(place):
    with pytest.raises(ValueError, match="begins with a scheme"):
        export(ExportSettings(store="one", format="npy", out=URL))
    with pytest.raises(FeatcacheError, match="begins with a scheme"):
        open_store(Path(OTHER))
    with pytest.raises(FeatcacheError, match="begins with a scheme"):
        write_store(Path(OTHER))
    assert not (place / "ftp:").exists()


@pytest.mark.parametrize(
    "line",
    [
        f"info {URL}",
        f"verify {URL}",
        f"gc {URL}",
        f"merge {URL} --out s",
        f"diff one {URL}",
        f"probe knn {URL}",
        f"search {URL} --text x",
        f"import in.parquet --format parquet -b x --out {URL}",
        f"export {URL} --format npy --out s",
        f"train scale {URL}",
    ],
)
def test_a_bucket_that_cannot_be_reached_is_told_and_no_folder_is_made(place, line, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")
    before = sorted(place.iterdir())
    assert f"{URL} cannot be reached; check the network, and AWS_ENDPOINT_URL if it is set" in sentence(line)
    assert sorted(place.iterdir()) == before


def test_a_text_may_look_like_a_url(place):
    assert "shares no space with text" in sentence("search one --text http://x")
