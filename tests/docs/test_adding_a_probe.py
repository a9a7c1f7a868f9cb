"""docs/adding-a-probe.md, followed to the letter."""

import sys

import pytest

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
