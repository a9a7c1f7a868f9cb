"""docs/adding-a-probe.md, followed to the letter."""

import json
import sys

import pytest

from featcache.testing import stores
from featcache.testing.probes import Check, ProbeTests, checks_of
from tests.docs import pages

PAGE = "adding-a-probe.md"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = pages.install(PAGE, tmp_path_factory.mktemp("probe"))
    sys.path.insert(0, str(site))
    yield site
    sys.path.remove(str(site))
    del sys.modules["labprobes"]


def test_it_is_short():
    assert len(pages.files_of(PAGE)["labprobes.py"].splitlines()) <= 40


def test_the_suite_of_the_page_passes(site):
    source: dict[str, type[ProbeTests]] = {}
    exec(pages.files_of(PAGE)["test_labprobes.py"], source)  # type: ignore[arg-type]
    suite = source["TestMine"]()
    checks: tuple[Check, ...] = checks_of("centroid")
    assert len(checks) > 10
    for check in checks:
        suite.test_conforms("centroid", check)


def test_from_the_command_line_and_from_yaml(site, tmp_path):
    plan = stores.StorePlan(records={"clips": stores.make_record((6,))}, num_videos=24, rows_per_video=(4, 6))
    stores.write_store(tmp_path / "stores" / "mine", plan)
    (tmp_path / "probe.yaml").write_text(pages.files_of(PAGE)["probe.yaml"])
    (command,) = (command for command in pages.commands_of(PAGE) if command.startswith("featcache probe"))
    done = pages.run(
        site, tmp_path, "featcache probe --help", f"{command} --json --out one", "featcache run probe.yaml"
    )
    assert done.returncode == 0, done.stderr
    assert "centroid" in done.stdout
    assert "Nearest class centroid (labprobes 0.1)." in done.stdout
    results = [json.loads(path.read_text()) for path in tmp_path.glob("**/result.json")]
    assert len(results) == 2
    assert all(result["probe"] == "centroid" and result["settings"] == {"power": 2.0} for result in results)
    assert results[0]["splits"] == results[1]["splits"]
