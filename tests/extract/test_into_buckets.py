"""Extraction into a bucket: the store is that of a disk to the bit, also after kills, refusals and in company."""

import pytest
from typer.testing import CliRunner

import featcache
from featcache.cli.main import app
from featcache.config import to_yaml
from featcache.errors import FeatcacheError
from featcache.extract.estimate import estimate
from featcache.extract.run import extract
from featcache.files.base import open_files
from featcache.store.verify import verify
from featcache.testing.s3_server import s3_server


@pytest.fixture(scope="module")
def server():
    with s3_server() as running:
        running.make_bucket("lab")
        yield running


@pytest.fixture
def url(server, request, tmp_path, monkeypatch):
    monkeypatch.setenv("FEATCACHE_CACHE", str(tmp_path / "cache"))
    server.fault = lambda _: None
    yield f"s3://lab/{request.node.name.replace('[', '-').strip(']')}/store"
    server.fault = lambda _: None


def contents(place):
    """All files of a store but its locks and the settings that name its place."""
    files = open_files(place)
    names = [name for name, _ in files.walk() if not name.startswith(("locks/", "config/"))]
    return {name: files.read(name, what="file") for name in names}


def command(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, FeatcacheError):
        return str(result.exception)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_a_store_in_a_bucket_is_that_of_a_disk_and_serves_the_same_commands(make, extracted, url, tmp_path):
    done = extract(make(out=url))
    assert (done.videos_ok, done.store) == (16, url)
    assert contents(url) == contents(extracted)
    assert extract(make(out=url)).rows_written == 0
    assert verify(url).ok
    here, there = (featcache.open(place).feature("pooled") for place in (extracted, url))
    assert here[:].tobytes() == there[:].tobytes()
    assert url in command("info", url)
    assert "0 problems" in command("verify", url)
    assert "0 problems" in command("verify", url, "--quick", "--quiet")
    assert "knn" in command("probe", "knn", url, "--out", tmp_path / "probe", "--label", "motion")
    command("export", url, "--format", "npy", "--out", tmp_path / "npy")
    planned = estimate(make(out=url + "-planned"))
    assert planned.summary().facts["disk"].endswith("in a bucket")
    command("convert", url, "--to", "hdf5", "--out", url + "-hdf5")
    assert not (tmp_path / "s3:").exists()


def write(folder, settings):
    path = folder / "extract.yaml"
    path.write_text(to_yaml(settings))
    return path
