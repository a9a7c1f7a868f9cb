"""docs/adding-a-dataset.md, followed to the letter."""

import json
import sys

import pytest

from featcache.data.manifest import read_parquet
from featcache.testing.datasets import CHECKS, DatasetTests
from tests.docs import pages

PAGE = "adding-a-dataset.md"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = pages.install(PAGE, tmp_path_factory.mktemp("dataset"))
    sys.path.insert(0, str(site))
    yield site
    sys.path.remove(str(site))
    sys.modules.pop("labsets", None)


@pytest.fixture
def suite():
    source: dict[str, type[DatasetTests]] = {}
    exec(pages.files_of(PAGE)["test_labsets.py"], source)  # type: ignore[arg-type]
    return source["TestMine"]()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_suite_of_the_page_passes(site, suite, check, tmp_path):
    assert suite.names == ("jester",)
    suite.test_conforms("jester", check, tmp_path)


def test_from_the_command_line_and_from_yaml(site, suite, tmp_path):
    suite.make_sample("jester", tmp_path / "data" / "jester")
    (tmp_path / "scan.yaml").write_text(pages.files_of(PAGE)["scan.yaml"])
    (command,) = pages.commands_of(PAGE)
    done = pages.run(site, tmp_path, "featcache datasets --json", f"{command} --json", "featcache run scan.yaml")
    assert done.returncode == 0, done.stderr
    listed = {entry["name"]: entry for entry in json.JSONDecoder().raw_decode(done.stdout)[0]}
    assert (listed["jester"]["origin"], listed["jester"]["summary"]) == ("labsets 0.1", "27 gestures")
    first, second = (read_parquet(tmp_path / name).videos for name in ("jester.parquet", "again.parquet"))
    assert [(video.id, video.status, video.labels["label"]) for video in first] == [
        ("7", "ok", "Swiping Left"),
        ("8", "missing", "No gesture"),
    ]
    assert first == second
